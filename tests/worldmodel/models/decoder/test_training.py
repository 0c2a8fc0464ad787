from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.models.decoder.small import SMALL
from tests.worldmodel.toy import SIDE, TOP, TWO_CAMERAS, make_model, make_trainer_config, write_store
from worldmodel.core.errors import UserError
from worldmodel.data.clips import Split, rows_of, split_episodes
from worldmodel.data.frames import load_camera_frames
from worldmodel.models.decoder.decoder import DecoderNetwork, code_size
from worldmodel.models.decoder.training import Chosen, DecoderTask, DecodingConfig, draw_squares, encode_codes
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.training.trainer import Trainer

CPU = torch.device("cpu")
ENDS = np.array([5, 6, 16])


def silent(done: int, total: int) -> None:
    pass


def test_rows_are_those_of_their_episodes_and_the_same_every_time() -> None:
    split = Split(train=np.array([0, 1]), held_out=np.array([2]))
    chosen = Chosen.of(ENDS, split, DecodingConfig(frames=4, held_out_frames=100), seed=3)
    assert len(chosen.train) == 4 and set(chosen.train) <= set(range(6))
    assert chosen.held_out.tolist() == list(range(7, 16)), "the first frame of an episode has none before it"
    again = Chosen.of(ENDS, split, DecodingConfig(frames=4, held_out_frames=100), seed=3)
    assert np.array_equal(again.train, chosen.train) and np.array_equal(again.held_out, chosen.held_out)


@pytest.mark.parametrize("held_out", [[], [1]])
def test_figures_need_held_out_episodes_of_two_frames(held_out: list[int]) -> None:
    with pytest.raises(UserError, match="held_out_fraction leaves no held-out episode of at least 2 frames"):
        Chosen.of(ENDS, Split(np.array([0]), np.array(held_out, np.int64)), DecodingConfig(), seed=0)


@pytest.mark.parametrize("anywhere", [0.3, 1.0])
def test_squares_are_weighed_by_how_seldom_they_are_drawn(anywhere: float) -> None:
    """The estimate of a mean over all squares has no bias, whatever is drawn oftener."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.randn(2, 20, 12, generator=generator) * torch.linspace(0, 2, 20)[:, None]
    config = DecodingConfig(squares=20_000, anywhere=anywhere)
    which, weight = draw_squares(squares, config, generator)
    values = torch.linspace(1, 5, 20).expand(2, -1)
    estimate = (weight * values.gather(1, which)).mean(1)
    torch.testing.assert_close(estimate, values.mean(1), atol=0.1, rtol=0)
    often = (which == 19).float().mean() > 2 * (which == 0).float().mean()
    assert bool(often) == (anywhere < 1)


def test_a_image_that_is_the_mean_is_drawn_anywhere() -> None:
    which, weight = draw_squares(torch.zeros(1, 4, 3), DecodingConfig(squares=400), torch.Generator().manual_seed(0))
    assert torch.bincount(which[0], minlength=4).min() > 50
    torch.testing.assert_close(weight, torch.ones_like(weight))


@pytest.mark.parametrize("option", [{"frames": 0}, {"held_out_frames": 0}, {"squares": 0}, {"anywhere": 0.0}])
def test_options_that_make_no_sense_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        DecodingConfig(**option)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory):
    """A model of two cameras, the recording's images and proprioception, and rows of it."""
    folder = tmp_path_factory.mktemp("two")
    store = write_store(folder / "data.zarr", spec=TWO_CAMERAS)
    frames = load_camera_frames(store, folder / "frames.npy")
    split = split_episodes(store.num_episodes, 0.2, 0)
    chosen = Chosen.of(store.episode_ends, split, DecodingConfig(frames=200, held_out_frames=40), 0)
    assert not set(chosen.train) & set(rows_of(store.episode_ends, split.held_out))
    return make_model(spec=TWO_CAMERAS), frames, store.column("proprio"), chosen


def test_codes_are_kept_and_made_anew_only_where_they_do_not_fit(
    recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, frames, proprio, chosen = recorded
    path, calls, whole = tmp_path / "codes.npy", [], KeypointModel.observe
    monkeypatch.setattr(KeypointModel, "observe", lambda *given: calls.append(len(given[2].proprio)) or whole(*given))

    def encoded(identity: str) -> tuple[torch.Tensor, int]:
        calls.clear()
        codes = encode_codes(model, frames, proprio, chosen.train, identity, path, silent)
        return codes, sum(rows > 1 for rows in calls)  # a single row is seen for the size of its code

    codes, first = encoded("a")
    assert codes.shape == (200, 1, code_size(model)) and first == 2
    kept, second = encoded("a")
    assert second == 0 and torch.equal(kept, codes)
    assert encoded("of another model")[1] == 2
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    mended, again = encoded("of another model")
    assert again == 2 and torch.equal(mended, codes)


def test_a_training_ends_the_same_wherever_it_was_interrupted(recorded, tmp_path: Path) -> None:
    model, frames, proprio, chosen = recorded
    rows = np.concatenate([chosen.train, chosen.held_out])
    codes = encode_codes(model, frames, proprio, rows, "", tmp_path / "codes.npy", silent)[:, 0]

    def trainer(folder: Path, stop_at: int | None = None) -> Trainer:
        torch.manual_seed(0)
        network = DecoderNetwork(TWO_CAMERAS.cameras, SMALL, codes.shape[1])
        task = DecoderTask(network, DecodingConfig(squares=8), frames, chosen, codes, 16, 0, CPU)
        if stop_at is not None:
            whole = task.loss

            def loss(step: int):
                if step == stop_at:
                    raise KeyboardInterrupt
                return whole(step)

            task.loss = loss  # type: ignore[method-assign]
        config = make_trainer_config(80, 16, 1e-2)
        folder.mkdir(exist_ok=True)
        return Trainer(task, config, folder, CPU)

    unbroken = trainer(tmp_path / "unbroken")
    before = unbroken.task.evaluate(0)
    unbroken.run("decoder")
    stopped = trainer(tmp_path / "stopped", stop_at=23)
    with pytest.raises(KeyboardInterrupt):
        stopped.run("decoder")
    stopped.save()
    resumed = trainer(tmp_path / "stopped")
    assert resumed.step == 23
    resumed.run("decoder")
    for name, value in unbroken.task.module.state_dict().items():
        assert torch.equal(value, resumed.task.module.state_dict()[name]), name
    after = unbroken.task.evaluate(80)
    assert before["psnr"] == pytest.approx(before["psnr_mean_image"])
    assert after["psnr"] > before["psnr"] + 0.3, (before, after)
    assert set(unbroken.task.module.state_dict()) >= {f"of_cameras.camera_{c}.mean" for c in (TOP, SIDE)}
