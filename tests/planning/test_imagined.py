"""`python -m planning.run` with a decoder: what plans promised, and plans that are looked at first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch

from planning.robot import RobotController
from planning.verification import Verification
from tests.commands import Ended, assert_refused
from tests.planning.toy_model import make_model
from tests.worldmodel.models.decoder.small import save_small
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.models.registry import load_model

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]
FAR = ["reached_distance=1e-6", "budget=5", "out=here"]


@pytest.fixture(scope="module")
def decoder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("decoder"), load_model(str(checkpoint), torch.device("cpu")))


@pytest.fixture
def run(call: Command, checkpoint: Path, goal: Path) -> Command:
    return lambda *options: call("planning.run", f"goal={goal}", f"checkpoint={checkpoint}", *FAR, *SMALL, *options)


def result() -> dict[str, Any]:
    found = json.loads(Path("here/result.json").read_text())
    assert isinstance(found, dict)
    return found


def test_what_plans_promised_is_written_beside_what_happened(run: Command, decoder: Path) -> None:
    ended = run(f"decoder={decoder}")
    assert ended.code == 0 and "output: here/episode.mp4, imagined.mp4, plan.png, result.json" in ended.out
    frames, seconds = imageio_ffmpeg.count_frames_and_secs("here/imagined.mp4")
    assert frames == 5 + 1 and seconds == pytest.approx(0.6)
    imagined = result()["imagined"]
    assert imagined["pairs"] == [6, 5, 4, 3], "a plan was made at every step, each for three steps"
    for name in ("pixels", "features", "pixels_unchanged", "features_unchanged"):
        assert len(imagined[name]) == 4 and all(value >= 0 for value in imagined[name])
    assert imagined["pixels"][0] > 0 == imagined["pixels_unchanged"][0]


def test_a_damaged_decoder_that_nobody_asked_for_stops_no_run(run: Command, decoder: Path) -> None:
    own = Path("runs/push/decoder")
    shutil.copytree(decoder, own)
    (own / "model.safetensors").write_bytes(b"damaged")
    ended = run("budget=1")
    assert ended.code == 0 and "note: no decoder is used: runs/push/decoder/model.safetensors" in ended.out
    assert_refused(run(f"decoder={own}"), "runs/push/decoder/model.safetensors cannot be read")


def test_the_run_itself_is_the_same_with_a_decoder(run: Command, decoder: Path) -> None:
    assert run(f"decoder={decoder}").code == 0
    shown = result()
    shutil.rmtree("here")
    assert run("decoder=null").code == 0
    blind = result()
    assert blind["imagined"] is None and not Path("here/imagined.mp4").exists()
    assert {k: v for k, v in shown.items() if k not in ("imagined", "plan_ms", "plan_ms_median")} == {
        k: v for k, v in blind.items() if k not in ("imagined", "plan_ms", "plan_ms_median")
    }


@pytest.mark.slow
def test_the_decoder_of_the_users_own_model_is_found(run: Command, decoder: Path, spec: EnvironmentSpec) -> None:
    own = Path("runs/push/decoder")
    assert "imagined.mp4" not in run().out
    shutil.copytree(decoder, own)
    assert "imagined.mp4" in run().out
    shutil.rmtree(own)
    save_small(own, make_model(spec))  # not fitted to what the checkpoint is fitted to
    ended = run()
    assert ended.code == 0 and "imagined.mp4" not in ended.out
    told = " ".join(ended.out.split())
    assert "note: no decoder is used: the decoder runs/push/decoder was trained for another world model" in told
    assert_refused(run(f"decoder={own}"), "the decoder runs/push/decoder was trained for another world model")


def test_plans_that_are_seen_to_lead_nowhere_are_not_executed(
    run: Command, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Verification, "accepts", lambda *_: False)
    ended = run(f"decoder={decoder}", "verify=0.2")
    assert ended.code == 0
    assert "rested in 5 control steps, whose plans were not seen to lead nearer" in " ".join(ended.out.split())
    assert "(verify=0.2)" in ended.out
    found = result()
    assert found["steps_refused"] == found["steps_without_plan"] == 5
    assert found["imagined"]["pairs"] == [6], "there was no plan that promised anything"
    first, last = found["states"][0], found["states"][-1]
    assert first[:5] == pytest.approx(last[:5], abs=1e-3), "nothing was moved"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["verify=0.1"], "verify=0.1 needs a decoder of this world model, and there is none"),
        (["verify=1.5", "decoder=DECODER"], "verify is 1.5: expected a number of at least 0 and below 1"),
        (["verify=-1", "decoder=DECODER"], "verify is -1: expected a number of at least 0 and below 1"),
        (["verify=much"], "run option verify is 'much': expected a number or null"),
        (["decoder=nowhere"], "no decoder at nowhere: make one with `python -m worldmodel.decode`"),
        (["decoder=3"], "run option decoder is 3: expected text or null"),
        (["imagined_ahead=0"], "imagined_ahead=0: a whole number from 1 up is accepted"),
    ],
)
def test_bad_options_get_one_line(run: Command, decoder: Path, options: list[str], message: str) -> None:
    assert_refused(run(*(option.replace("DECODER", str(decoder)) for option in options)), message)
    assert not Path("here").exists()


def test_a_robot_rests_where_a_plan_is_not_seen_to_lead_nearer(
    checkpoint: Path, decoder: Path, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"options.samples": 8, "options.elites": 2, "options.iterations": 1, "horizon": 3}
    given: dict[str, Any] = {"options": options, "device": "cpu", "threads": 1, "reached_distance": 1e-6}
    with pytest.raises(UserError, match=r"verify=0\.1 needs a decoder"):
        RobotController(checkpoint, str(goal), **given, verify=0.1)
    robot = RobotController(checkpoint, str(goal), **given, decoder=decoder, verify=0.1)
    image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    monkeypatch.setattr(Verification, "accepts", lambda *_: False)
    decision = robot.act(image, [0.0, 0.0])
    assert decision.refused and decision.replaced and decision.action.tolist() == [0, 0]
    monkeypatch.setattr(Verification, "accepts", lambda *_: True)
    decision = robot.act(image, [0.0, 0.0])
    assert not decision.refused and not decision.replaced
