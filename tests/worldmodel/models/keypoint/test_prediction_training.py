"""The predictor's loss against its equation, and its report against models whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.worldmodel.toy import MODEL, SPEC, make_trainer_config
from worldmodel.data import ClipSampler, TrajectoryStore
from worldmodel.models.keypoint.keypoints import StateConfig
from worldmodel.models.keypoint.model import DistanceConfig, KeypointModel
from worldmodel.models.keypoint.prediction_training import PredictionConfig, PredictionTask, Recording
from worldmodel.models.keypoint.predictor import Belief
from worldmodel.training.trainer import Trainer

CPU = torch.device("cpu")
AHEAD = 3
CONFIG = PredictionConfig(rollout_steps=AHEAD, proprio_weight=0.3, motion_noise=0.0)


@pytest.fixture(scope="module")
def recording(toy_store: TrajectoryStore) -> Recording:
    """States that change with the position, and two numbers of noise."""
    columns = {name: toy_store.read(name, 0, toy_store.num_rows) for name in ("proprio", "action")}
    position = torch.from_numpy(columns["proprio"]) / 13 - 1
    noise = torch.randn(len(position), 2, generator=torch.Generator().manual_seed(0))
    states = torch.cat([torch.sin(position), torch.cos(position), position, noise], 1)
    return Recording(states, columns["proprio"], columns["action"])


def sampler(store: TrajectoryStore, episodes: range) -> ClipSampler:
    return ClipSampler(store.episode_ends, 2 + AHEAD, (1,), 0, np.array(episodes))


def make_task(
    store: TrajectoryStore,
    recording: Recording,
    seed: int = 0,
    held_out: int = 100,
    config: PredictionConfig = CONFIG,
) -> PredictionTask:
    torch.manual_seed(seed)
    model = KeypointModel(SPEC, MODEL)
    norm = model.normaliser
    for name, column in (("proprio", recording.proprio), ("action", recording.actions)):
        getattr(norm, f"{name}_mean").copy_(torch.from_numpy(column.mean(0)))
        getattr(norm, f"{name}_std").copy_(torch.from_numpy(column.std(0)))
    train, rest = sampler(store, range(18)), sampler(store, range(18, 24))
    rows = rest.sample(0, held_out).rows
    return PredictionTask(model, config, recording, lambda step: train.sample(step, 16).rows, rows, seed, CPU)


@pytest.fixture
def task(toy_store: TrajectoryStore, recording: Recording) -> PredictionTask:
    return make_task(toy_store, recording)


def test_a_batch_is_standardised_and_drops_the_last_action(task: PredictionTask, recording: Recording) -> None:
    rows = np.array([[0, 1, 2], [20, 21, 22]])
    batch, norm = task.batch(rows), task.module.normaliser
    assert batch.states.shape == (2, 3, MODEL.state.size)
    assert batch.actions.shape == (2, 2, 2)
    torch.testing.assert_close(
        norm.action_std * batch.actions[1, 1] + norm.action_mean, torch.from_numpy(recording.actions[21])
    )
    assert torch.equal(batch.states[0, 2], recording.states[2])


def test_the_future_begins_at_the_second_frame(task: PredictionTask) -> None:
    batch = task.batch(np.arange(10, 16)[None])
    start = batch.start()
    assert torch.equal(start.state, batch.states[:, 1])
    assert torch.equal(start.motion, batch.states[:, 1] - batch.states[:, 0])
    assert torch.equal(start.proprio, batch.proprio[:, 1])


def test_the_loss_is_its_equation_with_and_without_history(toy_store: TrajectoryStore, task: PredictionTask) -> None:
    seen = []
    for step in range(12):
        batch = task.batch(sampler(toy_store, range(18)).sample(step, 16).rows)
        belief = batch.start()
        seen.append(np.random.default_rng([0, step]).random() >= 0.25)
        if not seen[-1]:
            belief = dataclasses.replace(belief, motion=torch.zeros_like(belief.motion))
        ahead = task.module.predictor.rollout(belief, batch.actions[:, 1:])
        state = F.smooth_l1_loss(ahead.state, batch.states[:, 2:], beta=0.1)
        proprio = F.smooth_l1_loss(ahead.proprio, batch.proprio[:, 2:], beta=0.1)
        values = task.loss(step)
        torch.testing.assert_close(values["state"], state)
        torch.testing.assert_close(values["proprio"], proprio)
        torch.testing.assert_close(values["loss"], state + 0.3 * proprio)
    assert set(seen) == {True, False}


def test_noise_on_the_motion_is_at_most_what_it_says_and_reaches_nothing_else(
    toy_store: TrajectoryStore, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(toy_store, recording, config=dataclasses.replace(CONFIG, motion_noise=0.5))
    starts: list[Belief] = []
    rollout = task.module.predictor.rollout_heads
    monkeypatch.setattr(
        task.module.predictor,
        "rollout_heads",
        lambda start, actions: (starts.append(start), rollout(start, actions))[1],
    )
    steps = [step for step in range(12) if np.random.default_rng([0, step]).random() >= 0.25]
    noise = []
    for step in steps:
        task.loss(step)
        clean = task.batch(sampler(toy_store, range(18)).sample(step, 16).rows).start()
        assert torch.equal(starts[-1].state, clean.state) and torch.equal(starts[-1].proprio, clean.proprio)
        noise.append(starts[-1].motion - clean.motion)
    level = torch.cat(noise).std(1)
    assert 0.15 < float(level.mean()) < 0.35  # half of the largest on average
    assert float(level.max()) < 0.5 * 1.8


def test_seed_and_step_alone_decide_the_loss(toy_store: TrajectoryStore, recording: Recording) -> None:
    first, again = (make_task(toy_store, recording) for _ in range(2))
    values = [first.loss(step)["loss"].item() for step in (3, 4)]
    assert again.loss(4)["loss"].item() == values[1]
    assert values[0] != values[1]


def test_the_frozen_encoder_gets_no_gradient(task: PredictionTask) -> None:
    task.loss(0)["loss"].backward()
    for frozen in (task.module.encoder, task.module.views):
        assert all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in task.module.predictor.parameters())


# --- the report --------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Knows that keypoints and robot are at one position, and that actions add to it."""

    sign = 1.0

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        moved = self.sign * actions.cumsum(-2)
        change = torch.cat([moved, torch.zeros_like(moved[..., :1])], dim=-1)
        proprio = belief.proprio[..., None, :] + moved
        return Belief(belief.state[..., None, :] + change, change, proprio)


class Liar(Oracle):
    """Believes that actions work the other way round."""

    sign = -1.0


class Sceptic(Oracle):
    """Believes that actions do nothing: copies the last frame."""

    sign = 0.0


def report(model: nn.Module, num_sequences: int = 96) -> dict[str, float]:
    """What `evaluate` says of `model` in a world of points that actions move."""
    rng = np.random.default_rng(0)
    length = 2 + AHEAD
    actions = rng.integers(-3, 4, (num_sequences, length, 2)).astype(np.float32)
    position = np.cumsum(np.concatenate([np.zeros((num_sequences, 1, 2), np.float32), actions[:, :-1]], 1), axis=1)
    points = position.reshape(-1, 2)
    states = torch.from_numpy(np.concatenate([points, np.zeros((len(points), 1), np.float32)], axis=1))
    rows: NDArray[np.int64] = np.arange(num_sequences * length).reshape(num_sequences, length)
    state = StateConfig(keypoints=1, features=1, embedding=1, hidden=4, embedding_width=4, robot_keypoints=1)
    world = KeypointModel(SPEC, dataclasses.replace(MODEL, state=state, distance=DistanceConfig(robot_weight=1.0)))
    recording = Recording(states, points, actions.reshape(-1, 2))
    world.predictor = model  # type: ignore[assignment]
    return PredictionTask(world, CONFIG, recording, lambda _: rows, rows, 0, CPU).evaluate(0)


def test_a_perfect_model_has_no_error_and_always_knows_the_true_actions() -> None:
    measured = report(Oracle())
    assert measured["held_out_error"] < 1e-5
    assert [measured[f"error_over_copy_{h:02d}"] for h in (1, 2, 3)] == pytest.approx([0, 0, 0], abs=1e-5)
    assert measured["action_ranking"] > 0.99  # two sequences may by chance end in the same place


def test_copying_the_last_frame_scores_one_and_ranks_by_chance() -> None:
    measured = report(Sceptic())
    assert [measured[f"error_over_copy_{h:02d}"] for h in (1, 2, 3)] == pytest.approx([1, 1, 1])
    assert measured["action_ranking"] == pytest.approx(0.5)


def test_a_model_that_has_it_backwards_does_worse_than_copying() -> None:
    measured = report(Liar())
    assert measured["error_over_copy_01"] == pytest.approx(2.0)
    assert measured["action_ranking"] < 0.4


def test_one_sequence_has_no_rival_and_says_chance() -> None:
    assert report(Oracle(), num_sequences=1)["action_ranking"] == 0.5


def test_training_beats_copying_and_recognises_actions(
    tmp_path: Path, toy_store: TrajectoryStore, task: PredictionTask
) -> None:
    before = task.evaluate(0)
    assert 0.3 < before["action_ranking"] < 0.7
    config = make_trainer_config(120, 16, 5e-3)
    Trainer(task, config, tmp_path, CPU).run("train")
    after = task.evaluate(120)
    assert after["held_out_error"] < 0.8 * before["held_out_error"]
    assert after["error_over_copy_03"] < 0.9
    assert after["action_ranking"] > 0.7


def test_a_rollout_needs_a_step() -> None:
    with pytest.raises(ValueError, match="rollout_steps"):
        PredictionConfig(rollout_steps=0)
    with pytest.raises(ValueError, match=r"motion_noise -0\.1: expected a finite number"):
        PredictionConfig(motion_noise=-0.1)
