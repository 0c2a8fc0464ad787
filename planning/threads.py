"""Chooses the number of CPU threads for planning by measuring which number makes one plan fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from planning.controller import Controller
from planning.strategy import Strategy
from planning.types import Model
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.threads import set_threads


def settle_threads(
    wanted: int | str, model: Model, strategy: Strategy, goals: Sequence[Goal], device: torch.device
) -> None:
    """Set torch to `wanted` threads, `auto` or a number. On a GPU nothing is changed.

    A plan of a shipped model takes 32 ms with two threads on two idle cores, and 49 ms with one. Beside a process that
    uses both cores, it takes 87 to 129 ms with two threads, and 75 to 78 ms with one.

    Raises:
        UserError: for another value of `wanted`.
    """
    if device.type == "cpu":
        set_threads(wanted, one_plan(model, strategy, goals, device))


def one_plan(model: Model, strategy: Strategy, goals: Sequence[Goal], device: torch.device) -> Callable[[], object]:
    """A function that makes one plan toward `goals`, from black images and proprioception of zero."""
    every_step = dataclasses.replace(strategy, controller=dataclasses.replace(strategy.controller, execute=1))
    controller = Controller(model, every_step, [goals], device)
    spec = model.spec
    images = {camera.name: np.zeros((1, *camera.shape), np.uint8) for camera in spec.cameras}
    nothing = Observation(images, np.zeros((1, spec.proprio_size), np.float32))
    low, high = spec.action.bounds
    command = np.clip(np.zeros_like(low), low, high)[None]
    return lambda: controller.act(nothing, command)
