"""The two commands on the real pushing environment, with an untrained model of toy size."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from planning.evaluation.manifest import read_manifest
from planning.evaluation.media import write_video
from tests.commands import Ended, assert_refused, assert_stopped, refuse_to_write
from tests.planning.toy_model import save_model
from worldmodel.cli.command import refusal
from worldmodel.core.spec import ActionSpec, EnvironmentSpec, one_camera
from worldmodel.models.keypoint.model import KeypointModel

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]


ALONE = ["baselines=false", "oracle=false"]
LIMIT = float(np.float32(0.4))  # of push


def test_run_toward_a_photo(call: Command, checkpoint: Path, goal: Path) -> None:
    far = "reached_distance=1e-6"
    code, text, _ = call("planning.run", f"goal={goal}", f"checkpoint={checkpoint}", "budget=3", far, *SMALL)
    assert code == 0
    assert (
        "not reached after 3 steps, as the model judges: latent distance" in text
        and "reached_distance=1e-06 counts as reached" in text
        and "next: python -m planning.evaluate env=push" in text
    )
    (out,) = Path("runs/push/plan").iterdir()
    result = json.loads((out / "result.json").read_text())
    assert result["judged_by"] == "model" and len(result["latent_distance"]) == result["steps"] + 1 == 4
    with Image.open(out / "plan.png") as plan:
        assert plan.size[0] > 800
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out / "episode.mp4"))
    assert frames == 4 + 10 and seconds == pytest.approx(1.4)


def test_a_photo_is_reached_when_the_model_says_so(call: Command, checkpoint: Path, goal: Path) -> None:
    _, text, _ = call("planning.run", f"goal={goal}", f"checkpoint={checkpoint}", "reached_distance=1000", *SMALL)
    assert "reached after 0 steps, as the model judges: latent distance" in text and "not reached" not in text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("plan.png", marks=pytest.mark.slow),
        "episode.mp4",
        pytest.param("result.json", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_the_disk_has_no_room_for_says_so(
    call: Command, checkpoint: Path, goal: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = [f"goal={goal}", f"checkpoint={checkpoint}", "budget=2", "out=here", *SMALL]
    files = ["plan.png", "episode.mp4", "result.json"]  # in the order in which they are written
    with monkeypatch.context() as patch:
        refuse_to_write(patch, name)
        assert_stopped(call("planning.run", *arguments), f"here/{name}: No space left on device")
    found = sorted(path.name for path in Path("here").iterdir()) if Path("here").exists() else []
    assert found == sorted(files[: files.index(name)])
    assert call("planning.run", *arguments).code == 0
    assert sorted(path.name for path in Path("here").iterdir()) == sorted(files)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ffmpeg's pipe, see test_viewing
@pytest.mark.parametrize("more", [["-no_such_option", "1"], ["-frames:v", "3"]], ids=["dies", "stops early"])
def test_a_video_that_ffmpeg_cuts_short_is_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    whole = imageio_ffmpeg.write_frames

    def write_frames(*arguments: Any, output_params: list[str], **options: Any) -> Any:
        return whole(*arguments, output_params=[*more, *output_params], ffmpeg_log_level="quiet", **options)

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", write_frames)
    with pytest.raises(OSError, match="video") as error:
        write_video(tmp_path / "episode.mp4", [np.zeros((64, 64, 3), np.uint8)] * 500, 10)
    assert refusal(error.value) == f"{tmp_path / 'episode.mp4'}: {error.value.strerror}"
    assert list(tmp_path.iterdir()) == []
    del error
    gc.collect()


@pytest.mark.parametrize("out", ["somewhere/new", "here", None])
def test_an_interrupted_run_leaves_no_empty_folder(
    call: Command, checkpoint: Path, goal: Path, monkeypatch: pytest.MonkeyPatch, out: str | None
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    Path("here").mkdir()
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr("planning.run.attempt", interrupt)
    given = [] if out is None else [f"out={out}"]
    code, text, _ = call("planning.run", f"goal={goal}", f"checkpoint={checkpoint}", *given, *SMALL)
    assert code == 130
    assert text.endswith("interrupted: the same command begins anew\n")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("module", ["planning.manifest", "planning.compare", "envs.goal"])
def test_what_begins_anew_says_so(call: Command, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("planning.manifest.draw", "planning.compare.read_method", "envs.goal.explore_to_goal"):
        monkeypatch.setattr(name, interrupt)
    code, text, _ = call(module, "a=x", "b=x") if module == "planning.compare" else call(module, "out=new.png")
    assert (code, text) == (130, "interrupted: the same command begins anew\n")


def test_evaluate_writes_results_and_goes_on_from_its_logs(call: Command, checkpoint: Path) -> None:
    arguments = ["manifest.seed=0", "manifest.n=3", "budget=3", "batch=2", "videos=1", "reality=2", "out=here", *SMALL]
    arguments.append(f"checkpoint={checkpoint}")
    code, text, _ = call("planning.evaluate", *arguments)
    results = json.loads(Path("here/results.json").read_text())
    assert code == 0 and "results: here/results.json" in text
    assert results["task"] == "push" and results["n"] == 3 == len(results["episodes"])
    assert set(results["floors"]) == {"no_op", "random", "explorer"} and results["ceiling"]["n"] == 3
    low, high = results["success_any_interval"]
    assert 0 <= low <= results["success_any"] <= high <= 1 and results["plan_ms_median"] > 0
    assert results["manifest_hash"] and results["batched_plans_per_s"] > 0
    assert results["steps_without_plan"] == 0 and "no usable plan" not in text
    failed = sum(not e["success_any"] for e in results["episodes"])
    assert len(list(Path("here/failures").glob("*.mp4"))) == min(failed, 1)
    assert call("planning.evaluate", *arguments).code == 0
    again = json.loads(Path("here/results.json").read_text())
    assert again["batched_plans_per_s"] is None  # nothing had to be planned anew
    assert again["episodes"] == results["episodes"]


@pytest.mark.parametrize("name", ["model-", pytest.param("results.json", marks=pytest.mark.slow)])
def test_an_evaluation_that_the_disk_has_no_room_for_goes_on_later(
    call: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = [
        "manifest.seed=0",
        "manifest.n=2",
        "budget=2",
        "baselines=false",
        "oracle=false",
        "videos=0",
        "reality=0",
        "out=here",
    ]
    with monkeypatch.context() as patch:
        refuse_to_write(patch, name)
        ended = call("planning.evaluate", f"checkpoint={checkpoint}", *arguments, *SMALL)
    (log,) = Path("runs/push/evaluate/episodes").iterdir()
    assert_stopped(ended, f"{log if name == 'model-' else 'here/results.json'}: No space left on device")
    assert list(Path("here").iterdir()) == []
    assert call("planning.evaluate", f"checkpoint={checkpoint}", *arguments, *SMALL).code == 0
    assert len(json.loads(Path("here/results.json").read_text())["episodes"]) == 2


def test_evaluate_says_where_there_was_no_usable_plan(
    call: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: KeypointModel, latents: Any, goal: Any) -> torch.Tensor:
        return torch.full(latents.proprio.shape[:-1], torch.nan)

    monkeypatch.setattr(KeypointModel, "distance", broken)
    arguments = [
        "manifest.seed=0",
        "manifest.n=2",
        "budget=3",
        "baselines=false",
        "oracle=false",
        "videos=0",
        "reality=0",
        "out=here",
    ]
    ended = call("planning.evaluate", f"checkpoint={checkpoint}", *arguments, *SMALL)
    assert "note: world model had no usable plan in 6 control steps" in ended.out, ended
    results = json.loads(Path("here/results.json").read_text())
    assert results["steps_without_plan"] == 6
    assert [episode["steps_without_plan"] for episode in results["episodes"]] == [3, 3]


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("batch=0", "batch=0"),
        ("seed=-1", "seed=-1"),
        ("oracle=maybe", "evaluate option oracle is 'maybe': expected true or false"),
        ("manifest.n=x", "manifest option n is 'x': expected a whole number"),
        ("manifest.n=1000000000", "n 1000000000 and steps_ahead 25: at most"),
        ("batch=100000000", "batch=100000000 environments take some 3,515,625 GiB: at most 256 are accepted"),
        ("budget=100000000", "budget=100000000: at most 100,000 control steps are accepted"),
        ("planner.horizon=1000000", "horizon 1000000 must be at least 1 and at most 10,000"),
        ("planner.options.samples=1000000", "samples 1000000, iterations 4: at most 100,000"),
    ],
)
def test_bad_options_of_an_evaluation_get_one_line(call: Command, checkpoint: Path, argument: str, part: str) -> None:
    assert_refused(call("planning.evaluate", f"checkpoint={checkpoint}", argument), part)


def test_a_manifest_is_not_drawn_for_a_path_that_is_none(call: Command) -> None:
    assert_refused(call("planning.manifest", "out=3"), "manifest option out is 3: expected text or null")


def test_manifest_is_written_where_asked(call: Command) -> None:
    code, text, _ = call("planning.manifest", "n=2", "out=pairs.json")
    assert code == 0 and "next: python -m planning.evaluate env=push" in text
    assert len(read_manifest(Path("pairs.json")).pairs) == 2


@pytest.mark.parametrize("change", ["seed=1", "simulator"])
def test_a_frozen_manifest_is_not_overwritten_unless_it_is_named(
    call: Command, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = Path("frozen.json").resolve()
    monkeypatch.setattr("planning.manifest.frozen_path", lambda env, options: path)
    assert call("planning.manifest", "n=2").code == 0
    before = path.read_bytes()
    assert call("planning.manifest", "n=2").code == 0  # the same pairs again
    assert path.read_bytes() == before
    if change == "simulator":  # another version of it: what is drawn is known only afterwards
        dataclasses.replace(read_manifest(path), simulator="mujoco 1.0").write(path)
        before, change = path.read_bytes(), "n=2"
    refused = call("planning.manifest", "n=2", change)
    assert_refused(refused, f"{path} holds other pairs (seed=202 n=2 steps_ahead=25, mujoco")
    assert path.read_bytes() == before
    assert call("planning.manifest", "n=2", change, f"out={path}").code == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["goal=missing.png"], "goal image missing.png does not exist"),
        (["env=pussh"], "did you mean push?"),
        (["budgt=3"], "did you mean budget?"),
        (["planner=cam"], "choose from adam"),
        (["planner.options.elites=0"], "elites 0"),
        (["planner.objective.steps=sum"], "choose from confident, discounted"),
        (["planner.execute=13"], "execute 13"),
        (["budget=0"], "budget=0"),
        (["budget=100000000"], "budget=100000000"),
        (["reached_distance=nan"], "reached_distance is nan: expected a number"),
        (["reached_distance=inf"], "reached_distance=inf"),
        (["goal=[]"], "goal has 0 entries"),
        (["goal={front: a.png}"], "unknown camera of the goal 'front': choose from camera"),
        (["goal="], "goal is '': expected the path of a picture"),
        (["goal=3"], "goal is 3: expected the path of a picture"),
        (["goal_fit=stretch"], "unknown goal_fit 'stretch': choose from crop, letterbox"),
        (["budget=many"], "run option budget is 'many': expected a whole number"),
        (["stop_when_reached=3"], "run option stop_when_reached is 3: expected true or false"),
        (["out=/proc/nowhere"], "out '/proc/nowhere' cannot be written to"),
        (["out=3"], "run option out is 3: expected text or null"),
        (["planner.options.samples=few"], "planner cem option samples is 'few': expected a whole number"),
        (["planner.options.temperature=0"], "temperature 0 must be positive"),
        (["seed=-1"], "seed=-1"),
        (["device=cudda"], "device 'cudda' is not on this machine: choose from auto, cpu"),
        (["checkpoint=nowhere"], "unknown checkpoint 'nowhere'"),
        (["env.image_size=32"], "made for cameras camera 64 x 64, but env push has cameras camera 32 x 32"),
        (["env=reacher"], "made for env push, not for env reacher"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    call: Command, checkpoint: Path, goal: Path, arguments: list[str], part: str
) -> None:
    given = {"goal": f"goal={goal}", "checkpoint": f"checkpoint={checkpoint}"}
    given.update({argument.split("=")[0]: argument for argument in arguments})
    assert_refused(call("planning.run", *given.values()), part)


@pytest.mark.parametrize("module", ["planning.run", "planning.evaluate"])
@pytest.mark.parametrize(
    ("value", "changes"),
    [
        ("env pull", {"env": "pull"}),
        ("cameras camera 32 x 32", {"cameras": one_camera(32)}),
        ("control_step_s 0.05", {"control_step_s": 0.05}),
        ("action_high (1.0, 1.0)", {"action": ActionSpec((-LIMIT, -LIMIT), (1.0, 1.0), ("m/s", "m/s"))}),
        ("action_low (-0.4, -0.4, -0.4)", {"action": ActionSpec((-0.4,) * 3, (0.4,) * 3, ("m/s",) * 3)}),
        (
            "action rest ('hold', 'zero')",
            {"action": ActionSpec((-LIMIT,) * 2, (LIMIT,) * 2, ("m",) * 2, rest=("hold", "zero"))},
        ),
        ("proprio_size 3", {"proprio_size": 3}),
    ],
)
def test_a_checkpoint_made_for_something_else_is_refused(
    call: Command, spec: EnvironmentSpec, module: str, value: str, changes: dict[str, Any]
) -> None:
    save_model(Path("other"), dataclasses.replace(spec, **changes))
    ended = call(module, "checkpoint=other")
    assert_refused(ended, f"the checkpoint other was made for {value}, ")
    assert ("not for env push" if "env" in changes else "but env push has ") in ended.err


def test_a_non_finite_action_stops_the_run(
    call: Command, checkpoint: Path, goal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(actions: torch.Tensor, limits: object, last: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(actions, torch.nan), torch.zeros(len(actions), dtype=torch.bool)

    monkeypatch.setattr("planning.controller.safe_actions", broken)  # the gate that keeps them from the environment
    ended = call("planning.run", f"goal={goal}", f"checkpoint={checkpoint}", "reached_distance=1e-6", *SMALL)
    assert_refused(ended._replace(out=""), "action [nan, nan] cannot be taken: expected 2 finite numbers")
