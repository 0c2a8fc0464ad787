"""The environments that docs/environments.md shows, made of its very lines, where their packages are installed.

pip install gymnasium-robotics==1.4.2 gym-pusht==0.1.8
"""

from __future__ import annotations

from typing import Any

import pytest

from envs.protocol import Floats, GoalEnv
from envs.registry import make_env
from tests.documentation import DOCS, code_of
from tests.envs.conformance import GoalEnvConformance
from worldmodel.core import registry

for package in ("imageio", "gymnasium_robotics", "gym_pusht"):
    pytest.importorskip(package)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


class Documented(GoalEnvConformance):
    """Registers what the page shows for as long as a test takes."""

    name: str

    @pytest.fixture(autouse=True)
    def registered(self, tmp_path, monkeypatch):
        for file, text in code_of(DOCS / "environments.md", self.name).items():
            (tmp_path / file).write_text(text)
        source = tmp_path / f"{self.name}.py"
        found: dict[str, Any] = {"__file__": str(source)}
        exec(compile(source.read_text(), source.name, "exec"), found)
        monkeypatch.setitem(registry._registered, "env", {})
        found["add"]()

    def make(self) -> GoalEnv:
        return make_env({"name": self.name})


class TestFetchPush(Documented):
    name = "fetch_push"

    def diverging_state(self, env: GoalEnv) -> Floats:
        state, model = env.get_state(), env.world.model
        state[model.nq : model.nq + model.nv] = 1e12
        return state


class TestPushT(Documented):
    name = "pusht"

    def diverging_state(self, env: GoalEnv) -> Floats:
        state = env.get_state()
        state[6:8] = 1e300  # the block's velocity
        return state
