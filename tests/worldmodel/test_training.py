"""The predictor's loss against its equation, and its report against models whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.worldmodel.toy import COMPRESSION, ENCODER, GEODESIC, PREDICTOR, SPEC, make_encoder
from worldmodel.compression import Compression
from worldmodel.data import ClipSampler, TrajectoryStore
from worldmodel.features import encode_frames
from worldmodel.predictor import Belief, Observed
from worldmodel.trainer import Trainer, TrainerConfig
from worldmodel.training import PredictionConfig, PredictionTask, Recording
from worldmodel.world_model import WorldModel

CPU = torch.device("cpu")
HISTORY, AHEAD = PREDICTOR.history, 3
CONFIG = PredictionConfig(rollout_steps=AHEAD, proprio_weight=0.3, reconstruction_weight=0.7)


@pytest.fixture(scope="module")
def recording(toy_store: TrajectoryStore) -> Recording:
    columns = {name: toy_store.read(name, 0, toy_store.num_rows) for name in ("pixels", "proprio", "action")}
    tokens = encode_frames(make_encoder(), columns["pixels"], np.arange(toy_store.num_rows), CPU)
    compression = Compression(COMPRESSION, 16, 32)
    compression.fit(tokens)
    return Recording(compression(tokens).numpy().astype(np.float16), columns["proprio"], columns["action"])


def sampler(store: TrajectoryStore, episodes: range) -> ClipSampler:
    return ClipSampler(store.episode_ends, HISTORY + AHEAD, (1,), 0, np.array(episodes))


def make_task(store: TrajectoryStore, recording: Recording, seed: int = 0, held_out: int = 100) -> PredictionTask:
    torch.manual_seed(seed)
    model = WorldModel(SPEC, ENCODER, COMPRESSION, GEODESIC, PREDICTOR)
    norm = model.normaliser
    for name, column in (("proprio", recording.proprio), ("action", recording.actions)):
        getattr(norm, f"{name}_mean").copy_(torch.from_numpy(column.mean(0)))
        getattr(norm, f"{name}_std").copy_(torch.from_numpy(column.std(0)))
    train, rest = sampler(store, range(18)), sampler(store, range(18, 24))
    rows = rest.sample(0, held_out).rows
    return PredictionTask(model, CONFIG, recording, lambda step: train.sample(step, 16).rows, rows, seed, CPU)


@pytest.fixture
def task(toy_store: TrajectoryStore, recording: Recording) -> PredictionTask:
    return make_task(toy_store, recording)


def test_a_batch_is_standardised_and_drops_the_last_action(task: PredictionTask, recording: Recording) -> None:
    rows = np.array([[0, 1, 2], [20, 21, 22]])
    batch, norm = task.batch(rows), task.module.normaliser
    assert batch.features.shape == (2, 3, 24)
    assert batch.actions.shape == (2, 2, 2)
    torch.testing.assert_close(
        norm.action_std * batch.actions[1, 1] + norm.action_mean, torch.from_numpy(recording.actions[21])
    )
    assert torch.equal(batch.features[0, 2], torch.from_numpy(recording.features[2]).float())


def test_the_last_frames_keep_their_own_actions(task: PredictionTask) -> None:
    whole = task.batch(np.arange(10, 16)[None])
    part = whole.last(3)
    assert torch.equal(part.features, whole.features[:, 3:])
    assert torch.equal(part.proprio, whole.proprio[:, 3:])
    assert torch.equal(part.actions, whole.actions[:, 3:])


def test_the_loss_is_its_equation_for_every_length_of_context(toy_store: TrajectoryStore, task: PredictionTask) -> None:
    predictor, lengths = task.module.predictor, set()
    for step in range(16):
        context = int(np.random.default_rng([0, step]).integers(1, HISTORY + 1))
        lengths.add(context)
        batch = task.batch(sampler(toy_store, range(18)).sample(step, 16).rows).last(context + AHEAD)
        state, proprio, read = predictor.initial_state.expand(16, -1), batch.proprio[:, 0], predictor.read
        errors: dict[str, list[Tensor]] = {"features": [], "proprio": []}
        for t in range(context + AHEAD):
            if t > 0:
                belief = predictor.advance(Belief(state, proprio), batch.actions[:, t - 1])
                state, proprio = belief.state, belief.proprio
                errors["features"].append((read(state) - batch.features[:, t]).pow(2).mean())
                errors["proprio"].append((proprio - batch.proprio[:, t]).pow(2).mean())
            if t < context:  # teacher forcing; from here on the belief is on its own
                proprio = batch.proprio[:, t]
                state = predictor.correct(state, predictor.embed(batch.features[:, t], proprio))
                reconstruction = (read(state) - batch.features[:, t]).pow(2).mean()
        features, errors_of_proprio = (torch.stack(errors[name]).mean() for name in ("features", "proprio"))
        values = task.loss(step)
        torch.testing.assert_close(values["features"], features)
        torch.testing.assert_close(values["proprio"], errors_of_proprio)
        torch.testing.assert_close(values["reconstruction"], reconstruction)
        torch.testing.assert_close(values["loss"], features + 0.3 * errors_of_proprio + 0.7 * reconstruction)
    assert lengths == set(range(1, HISTORY + 1))


def test_seed_and_step_alone_decide_the_loss(toy_store: TrajectoryStore, recording: Recording) -> None:
    first, again = (make_task(toy_store, recording) for _ in range(2))
    values = [first.loss(step)["loss"].item() for step in (3, 4)]
    assert again.loss(4)["loss"].item() == values[1]
    assert values[0] != values[1]


def test_the_frozen_encoder_gets_no_gradient(task: PredictionTask) -> None:
    task.loss(0)["loss"].backward()
    assert all(p.grad is None for p in task.module.encoder.parameters())
    assert all(p.grad is not None for p in task.module.predictor.parameters())


# --- the report --------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Knows that features are the position, and that actions add to it."""

    sign = 1.0

    def observe(self, features: Tensor, proprio: Tensor, actions: Tensor) -> Observed:
        return Observed(Belief(features[:, -1], proprio[:, -1]), Belief(features[:, 1:], proprio[:, 1:]))

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        moved = self.sign * actions.cumsum(-2)
        return Belief(belief.state[..., None, :] + moved, belief.proprio[..., None, :] + moved)

    def read(self, state: Tensor) -> Tensor:
        return state


class Liar(Oracle):
    """Believes that actions work the other way round."""

    sign = -1.0


class Sceptic(Oracle):
    """Believes that actions do nothing: copies the last frame."""

    sign = 0.0


def report(model: nn.Module, num_sequences: int = 96) -> dict[str, float]:
    """What `evaluate` says of `model` in a world of points that actions move."""
    rng = np.random.default_rng(0)
    length = HISTORY + AHEAD
    actions = rng.integers(-3, 4, (num_sequences, length, 2)).astype(np.float32)
    position = np.cumsum(np.concatenate([np.zeros((num_sequences, 1, 2), np.float32), actions[:, :-1]], 1), axis=1)
    points = position.reshape(-1, 2)
    recording = Recording(points.astype(np.float16), points, actions.reshape(-1, 2))
    rows: NDArray[np.int64] = np.arange(num_sequences * length).reshape(num_sequences, length)
    shape = dataclasses.replace(ENCODER, image_size=8, patch_size=8, width=4, depth=1, heads=2)
    world = WorldModel(SPEC, shape, dataclasses.replace(COMPRESSION, size=2), GEODESIC, PREDICTOR)
    world.predictor = model  # type: ignore[assignment]
    return PredictionTask(world, CONFIG, recording, lambda _: rows, rows, 0, CPU).evaluate(0)


def test_a_perfect_model_has_no_error_and_always_knows_the_true_actions() -> None:
    measured = report(Oracle())
    assert measured["held_out_error"] == 0
    assert [measured[f"error_over_copy_{h:02d}"] for h in (1, 2, 3)] == [0, 0, 0]
    assert measured["action_ranking"] > 0.99  # two sequences may by chance end in the same place


def test_copying_the_last_frame_scores_one_and_ranks_by_chance() -> None:
    measured = report(Sceptic())
    assert [measured[f"error_over_copy_{h:02d}"] for h in (1, 2, 3)] == pytest.approx([1, 1, 1])
    assert measured["action_ranking"] == pytest.approx(0.5)


def test_a_model_that_has_it_backwards_does_worse_than_copying() -> None:
    measured = report(Liar())
    assert measured["error_over_copy_01"] == pytest.approx(4.0)
    assert measured["action_ranking"] < 0.4


def test_one_sequence_has_no_rival_and_says_chance() -> None:
    assert report(Oracle(), num_sequences=1)["action_ranking"] == 0.5


def test_training_beats_copying_and_recognises_actions(
    tmp_path: Path, toy_store: TrajectoryStore, task: PredictionTask
) -> None:
    before = task.evaluate(0)
    assert 0.3 < before["action_ranking"] < 0.7
    config = TrainerConfig(steps=120, batch_size=16, learning_rate=5e-3, precision="fp32", evaluate_every=10_000)
    Trainer(task, config, tmp_path, CPU).run("train")
    after = task.evaluate(120)
    assert after["held_out_error"] < 0.8 * before["held_out_error"]
    assert after["error_over_copy_03"] < 0.9
    assert after["action_ranking"] > 0.7


def test_a_rollout_needs_a_step() -> None:
    with pytest.raises(ValueError, match="rollout_steps"):
        PredictionConfig(rollout_steps=0)
