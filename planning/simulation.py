"""Opens environments for planning's commands. This is the only module of `planning` that imports them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from envs.protocol import GoalEnv
from envs.registry import describe, make_env
from worldmodel.core.spec import EnvironmentSpec


def open_env(config: Mapping[str, Any]) -> tuple[GoalEnv, EnvironmentSpec]:
    """An environment of the configuration group `env`, with its description."""
    env = make_env(config)
    return env, describe(env, config)


def open_more(config: Mapping[str, Any], count: int, opened: contextlib.ExitStack) -> list[GoalEnv]:
    """`count` further environments like one that is open, which are closed with `opened`."""
    more = [make_env(config) for _ in range(count)]
    for env in more:
        opened.callback(env.close)
    return more
