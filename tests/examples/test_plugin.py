"""`examples/plugin`, installed as a user would install it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from envs.protocol import Floats, GoalEnv
from envs.registry import env_names, make_named
from tests.commands import assert_refused, type_in
from tests.envs.conformance import GoalEnvConformance
from tests.source_tree import ROOT
from worldmodel.core import registry


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The folder that it is installed in, which is on the path; nothing is fetched."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    site = folder / "site"
    line = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", site, source]
    subprocess.run([sys.executable, "-m", *map(str, line)], check=True, capture_output=True)
    with (
        mock.patch.object(sys, "path", [str(site), *sys.path]),
        mock.patch.dict(registry._registered, {kind: dict(names) for kind, names in registry._registered.items()}),
        mock.patch.object(registry, "_loaded", []),
    ):
        importlib.invalidate_caches()
        yield site
        # Only these: modules of torch cannot be imported a second time.
        for name in [name for name in sys.modules if name.partition(".")[0] == "worldmodel_example"]:
            del sys.modules[name]


class TestCart(GoalEnvConformance):
    def make(self) -> GoalEnv:
        return make_named("cart")

    def diverging_state(self, env: GoalEnv) -> Floats:
        return np.array([0.0, 1e12])


def test_the_names_are_known():
    assert "cart" in env_names()


def test_commands_take_its_options_and_another_name(tmp_path):
    done = type_in(tmp_path, "envs.goal", "env=cart", "env.name=other", "env.image_size=16", "out=img.png")
    assert done.code == 0, done
    assert "goal image: img.png (32 x 16 pixels)" in done.out and "env=cart env.name=other" in done.out
    assert_refused(type_in(tmp_path, "envs.goal", "env=cart", "env.image_sise=16"), "did you mean env.image_size?")


def test_they_are_known_in_another_process_and_folder(installed, tmp_path):
    code = (
        "from envs.registry import make_named; env = make_named('cart', image_size=16);"
        "assert env.reset(seed=0)[0]['images']['front'].shape == (16, 32, 3); env.close()"
    )
    path = os.pathsep.join([str(installed), str(ROOT)])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})


def test_the_planner_finds_what_is_known():
    """The minimum of a quadratic, in a batch whose rows differ."""
    torch = importlib.import_module("torch")
    from planning.actions.limits import ActionLimits
    from planning.registry import make_optimiser
    from planning.types import Problem
    from worldmodel.core.spec import ActionSpec

    limits = ActionLimits.of(ActionSpec((-1.0, -2.0), (1.0, 2.0), ("m/s", "m/s")), 0.1, torch.device("cpu"))
    best = torch.tensor([[0.5, -1.0], [-0.25, 1.5]])
    problem = Problem(
        lambda actions: (actions - best[:, None, None]).square().sum((2, 3)), limits, torch.zeros(2, 2), horizon=4
    )
    planner = make_optimiser("averaging", {"samples": 256, "iterations": 12, "action_repeat": 4, "temperature": 0.02})
    plan = planner.plan(problem, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plan.actions, best[:, None].expand(-1, 4, -1), atol=0.15, rtol=0)


def test_the_encoder_cuts_pictures_of_any_size():
    torch = importlib.import_module("torch")
    from worldmodel.encoders.registry import ready_encoder, ready_names
    from worldmodel.encoders.vit import EncoderConfig

    assert "colours" in ready_names()
    encoder = ready_encoder("colours", EncoderConfig(patch_size=8), seed=0)
    pictures = torch.zeros(2, 16, 32, 3, dtype=torch.uint8)
    pictures[1, :8, :8, 0] = 255
    tokens = encoder.encode_frames(pictures)
    assert tokens.shape == (2, 8, 6) and tokens[1, 0, 0] == 1 and tokens[1, 1:].abs().max() == 0


def test_it_is_short():
    """An example that is long teaches nothing."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in Path(ROOT, "examples").rglob("*.py")}
    assert max(lengths.values()) <= 80, lengths
