"""The loss against its equation, resuming, and the report against models whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.worldmodel.models.tokens.small import ACTION, GRIDS, PROPRIO, TRANSFORMER, make_trainer_config
from worldmodel.data.clips import ClipSampler
from worldmodel.models.tokens.frames import channel_scale, fold, join_cameras, token_distance
from worldmodel.models.tokens.predictor import Moments, TokenPredictor, TransformerConfig
from worldmodel.models.tokens.training import PredictionConfig, Recording, TokenTask, sequence_frames
from worldmodel.training.trainer import Trainer

CPU = torch.device("cpu")
CONFIG = PredictionConfig(rollout_steps=6, rollout_weight=0.7, proprio_weight=0.3)
FRAMES = sequence_frames(TRANSFORMER.window, TRANSFORMER.prediction_steps, CONFIG.rollout_steps)
EPISODES, LENGTH, TOKENS, TOKEN_SIZE = 60, 16, 6, 8
PATCHES = [(2 * rows, 2 * columns) for rows, columns in GRIDS]


def record(seed: int = 0) -> Recording:
    """Frames that add up actions; two cameras, two channels; proprioception is where the actions led, and noise."""
    rng = np.random.default_rng(seed)
    actions = (0.5 * rng.normal(size=(EPISODES, LENGTH, ACTION))).astype(np.float32)
    place = np.cumsum(np.concatenate([rng.normal(size=(EPISODES, 1, ACTION)), actions[:, :-1]], 1), 1)
    flat = place.reshape(-1, ACTION)
    patches = [np.repeat(flat[:, None], rows * columns, 1).astype(np.float16) for rows, columns in PATCHES]
    proprio = np.concatenate([flat, rng.normal(size=(len(flat), PROPRIO - ACTION))], 1).astype(np.float32)
    scales = [torch.ones(2), torch.ones(2)]
    return Recording(
        patches, scales, PATCHES, 2, torch.from_numpy(proprio), torch.from_numpy(actions.reshape(-1, ACTION))
    )


def sampler(episodes: range) -> ClipSampler:
    ends = np.arange(1, EPISODES + 1) * LENGTH
    return ClipSampler(ends, FRAMES, (1,), 0, np.array(episodes))


def make_task(predictor: nn.Module | None = None, seed: int = 0, config: PredictionConfig = CONFIG) -> TokenTask:
    torch.manual_seed(seed)
    module = predictor or TokenPredictor(TRANSFORMER, GRIDS, TOKEN_SIZE, PROPRIO, ACTION)
    rows, held_out = sampler(range(40)), sampler(range(40, 60)).sample(0, 100).rows
    return TokenTask(
        module,  # type: ignore[arg-type]
        config,
        record(),
        lambda step: rows.sample(step, 8).rows,
        held_out,
        torch.ones(TOKENS),
        seed,
        CPU,
    )


# --- frames ------------------------------------------------------------------------------------------------------


def test_folding_keeps_neighbours_together_and_loses_nothing() -> None:
    rows, columns = 4, 6
    patches = torch.arange(rows * columns)[:, None].float()  # [24, 1]: each patch knows its number
    tokens = fold(patches, rows, columns, 2)
    assert tokens.shape == (6, 4)
    assert tokens[0].tolist() == [0, 1, 6, 7]
    assert tokens[4].tolist() == [14, 15, 20, 21]
    assert torch.equal(fold(patches, rows, columns, 1), patches)


def test_cameras_are_joined_in_their_order() -> None:
    first, second = torch.zeros(3, 16, 2), torch.ones(3, 8, 2)
    joined = join_cameras([first, second], [torch.ones(2), torch.tensor([1.0, 3.0])], [(4, 4), (2, 4)], 2)
    assert joined.shape == (3, 6, 8)
    assert joined[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert joined[0, 4].tolist() == [1, 3] * 4


def test_channels_are_of_one_spread_or_of_their_own() -> None:
    std = torch.tensor([2.0, 1.0, 0.5])
    assert channel_scale(std, whiten=False).tolist() == [1.0, 0.5, 0.25]
    assert channel_scale(std, whiten=True).tolist() == [1.0, 1.0, 1.0]


def test_the_distance_weighs_tokens() -> None:
    tokens, goal = torch.zeros(2, 3, 4), torch.zeros(3, 4)
    tokens[0, 1] = torch.tensor([1.0, -1.0, 2.0, 0.0])
    assert token_distance(tokens, goal, torch.tensor([0.0, 3.0, 0.0])).tolist() == [1.0, 0.0]


# --- the loss ----------------------------------------------------------------------------------------------------


def test_a_batch_has_whole_blocks_of_actions() -> None:
    task, recording = make_task(), record()
    rows = np.stack([np.arange(FRAMES), 20 + np.arange(FRAMES)])
    moments, actions = task.batch(rows)
    assert moments.tokens.shape == (2, 9, TOKENS, TOKEN_SIZE)
    assert actions.shape == (2, 4, 2, ACTION)
    assert torch.equal(actions[1, 2, 1], recording.actions[25])
    assert torch.equal(moments.proprio[1], recording.proprio[20:29])


def huber(error: torch.Tensor, smooth: float) -> torch.Tensor:
    """`e^2 / 2 s` below s, `e - s / 2` above, on average."""
    size = error.abs()
    return torch.where(size < smooth, size**2 / (2 * max(smooth, 1e-12)), size - smooth / 2).mean()


@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_the_loss_is_its_equation_for_every_context(smooth: float) -> None:
    task = make_task(config=dataclasses.replace(CONFIG, smooth=smooth))
    contexts = set()
    for step in range(8):
        moments, actions = task.batch(sampler(range(40)).sample(step, 8).rows)
        ahead, _ = task.module(moments.at((slice(None), slice(0, 8, 2))), actions)
        forced = [
            huber(getattr(ahead, name)[:, i, j] - getattr(moments, name)[:, 2 * i + j + 1], smooth)
            for name in ("tokens", "proprio")
            for i in range(4)
            for j in range(2)
        ]
        context = int(np.random.default_rng([0, step]).integers(2))
        contexts.add(context)
        now, cache = moments.at((slice(None), slice(0, 1))), None
        for i in range(context):
            _, cache = task.module(now, actions[:, i : i + 1], cache)
            now = moments.at((slice(None), slice(2 * i + 2, 2 * i + 3)))
        open_loop = []
        for i in range(context, context + 3):
            imagined, cache = task.module(now, actions[:, i : i + 1], cache)
            open_loop += [
                huber(getattr(imagined, name)[:, 0, j] - getattr(moments, name)[:, 2 * i + j + 1], smooth)
                for name in ("tokens", "proprio")
                for j in range(2)
            ]
            now = imagined.at((slice(None), slice(None), -1))

        def mean(errors: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(errors).mean()

        rollout = mean(open_loop[0::4] + open_loop[1::4]), mean(open_loop[2::4] + open_loop[3::4])
        values = task.loss(step)
        torch.testing.assert_close(values["forced"], mean(forced[:8]))
        torch.testing.assert_close(values["rollout"], rollout[0])
        torch.testing.assert_close(values["proprio"], rollout[1])
        expected = mean(forced[:8]) + 0.3 * mean(forced[8:]) + 0.7 * (rollout[0] + 0.3 * rollout[1])
        torch.testing.assert_close(values["loss"], expected)
    assert contexts == {0, 1}


def test_a_recording_without_proprioception_has_a_loss() -> None:
    torch.manual_seed(0)
    task = make_task(TokenPredictor(TRANSFORMER, GRIDS, TOKEN_SIZE, 0, ACTION))
    task._recording = dataclasses.replace(task._recording, proprio=torch.zeros(EPISODES * LENGTH, 0))
    values = task.loss(0)
    assert values["proprio"] == 0 and bool(values["loss"].isfinite())


def test_the_rollout_teaches_through_its_own_frames() -> None:
    """Its gradient reaches the first block's actions from the last block's error."""
    task = make_task()
    moments, actions = task.batch(sampler(range(40)).sample(0, 8).rows)
    actions.requires_grad_(True)
    task._imagine(moments, actions, 0).tokens[:, -1].sum().backward()
    assert actions.grad is not None and bool((actions.grad[:, 0] != 0).any())


def test_seed_and_step_alone_decide_the_loss() -> None:
    first, again = make_task(), make_task()
    values = [first.loss(step)["loss"].item() for step in (3, 4)]
    assert again.loss(4)["loss"].item() == values[1]
    assert values[0] != values[1]


@pytest.mark.parametrize("conditioning", ["tokens", pytest.param("adaln", marks=pytest.mark.slow)])
def test_it_learns(conditioning: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TRANSFORMER, conditioning=conditioning)
    task = make_task(TokenPredictor(config, GRIDS, TOKEN_SIZE, PROPRIO, ACTION))
    Trainer(task, make_trainer_config(250), tmp_path, CPU).run("tokens")
    report = task.evaluate(250)
    assert report["error_over_copy_02"] < 0.85 and report["error_over_copy_06"] < 0.85
    assert report["action_ranking"] > 0.7


def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = make_trainer_config(6)

    def train(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        trainer = Trainer(make_task(), config, folder, CPU)
        if stop_at is not None:
            while trainer.step < stop_at:
                trainer._optimise()
                trainer.step += 1
            trainer.save()
        else:
            trainer.run("tokens")
        return trainer.task.module.state_dict()

    unbroken = train(tmp_path / "unbroken")
    train(tmp_path / "stopped", stop_at=3)
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


# --- the report --------------------------------------------------------------------------------------------------


class Knows(nn.Module):
    """A predictor that adds up actions, `sign` times."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.config: TransformerConfig = TRANSFORMER
        self.sign = sign

    def forward(self, moments: Moments, actions: torch.Tensor) -> tuple[Moments, None]:
        return moments, None

    def rollout(self, start: Moments, actions: torch.Tensor, cache: object = None) -> Moments:
        moved = self.sign * actions.cumsum(1)
        tokens = start.tokens[:, None] + moved.repeat(1, 1, TOKEN_SIZE // ACTION)[:, :, None]
        return Moments(tokens, start.proprio[:, None].expand(-1, actions.shape[1], -1))


@pytest.mark.parametrize(("sign", "ranking", "error"), [(1.0, 1.0, 0.0), (0.0, 0.5, 1.0)])
def test_the_report_of_what_is_known(sign: float, ranking: float, error: float) -> None:
    report = make_task(Knows(sign)).evaluate(0)
    assert report["action_ranking"] == pytest.approx(ranking, abs=0.02)
    assert [report[f"error_over_copy_{h:02d}"] for h in range(1, 7)] == pytest.approx([error] * 6, abs=0.02)
    assert "error_over_copy_07" not in report


@pytest.mark.parametrize(
    "changes", [{"rollout_steps": 0}, {"rollout_weight": -1.0}, {"proprio_weight": float("nan")}, {"smooth": -0.1}]
)
def test_what_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        PredictionConfig(**changes)  # type: ignore[arg-type]
