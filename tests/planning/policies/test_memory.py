"""A memory of recorded moments: what is nearest, what is kept on disk, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from planning.loading import Checkpoint, read_model, with_proposals
from planning.policies.memory import Bank, Remembered, compact_of, load_memory, save_memory
from planning.registry import make_strategy
from planning.remember import choose_moments, encode_moments
from planning.settings import read_settings
from tests.commands import assert_refused, type_in
from tests.planning.optimisers.conformance import LIMITS
from tests.planning.point_mass import PointLatent, PointModel
from tests.worldmodel.models.conformance import observe_rows
from tests.worldmodel.models.tokens import small
from tests.worldmodel.toy import MODEL, make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.models.contract import WorldModel
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.predictor import Belief

REMEMBER = "planning.remember"
SMALL = ("device=cpu", "env=robot", "env.name=toy", "cache=frames.npy", "moments=30", "chunk=3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save(folder, {})
    return folder


def latent_at(*places: list[float]) -> PointLatent:
    count = len(places)
    return PointLatent(torch.tensor(places), torch.ones(count), torch.zeros(count, 2))


def test_the_actions_of_the_nearest_moments_are_proposed() -> None:
    recorded = latent_at([0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.1])
    actions = torch.arange(4.0)[:, None, None].expand(-1, 5, 2) / 10
    memory = Remembered(PointModel(), Bank(actions, recorded.tensors()), latent_at([0.0, 0.0]), "one")
    assert memory.nearest(latent_at([0.9, 0.1]), 2).tolist() == [1, 3]
    assert memory.nearest(latent_at([0.0, 0.0]), 9).tolist()[:2] == [0, 3]
    here = [latent_at([0.9, 0.1]), latent_at([0.0, 1.1])]
    proposed = memory.toward(here, here, LIMITS, 4)(2, torch.Generator())
    assert proposed.shape == (2, 2, 4, 2)
    torch.testing.assert_close(proposed[:, :, 0, 0], torch.tensor([[0.1, 0.3], [0.2, 0.3]]))


def test_a_moment_whose_distance_is_no_number_is_the_farthest() -> None:
    recorded = latent_at([float("nan"), 0.0], [1.0, 0.0])
    memory = Remembered(PointModel(), Bank(torch.zeros(2, 1, 2), recorded.tensors()), latent_at([0.0, 0.0]), "one")
    assert memory.nearest(latent_at([0.0, 0.0]), 1).tolist() == [1]


@pytest.mark.parametrize("make", [make_model, lambda: small.make_model(small.TWO_CAMERAS)], ids=["keypoint", "tokens"])
def test_a_compact_latent_is_as_far_away_as_the_whole_one(make: type[WorldModel]) -> None:
    model = make()
    here, there = (model.observe(None, observe_rows(model.spec, 2, seed), None) for seed in (0, 1))
    whole, compact = model.distance(here, there), model.distance(model.compact(here), model.compact(there))
    assert torch.equal(whole, compact)
    assert len(model.compact(here).tensors()) < len(here.tensors())


def test_a_memory_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    model = make_model()
    latents = compact_of(model, model.observe(None, observe_rows(model.spec, 5, 0), None))
    bank = Bank(torch.randn(5, 3, 2).half().float(), latents.tensors())
    save_memory(tmp_path, bank, weights_hash(model), {"made_by": "a test"})
    loaded = load_memory(tmp_path, model, latents.rows(slice(1)), torch.device("cpu"))
    fresh = Remembered(model, bank, latents, "")
    for row in range(5):
        here = latents.rows(slice(row, row + 1))
        assert loaded.nearest(here, 1).tolist() == fresh.nearest(here, 1).tolist() == [row]
    assert torch.equal(loaded._actions, bank.actions) and isinstance(loaded._latents, Belief)
    other = make_model(seed=1)
    with pytest.raises(UserError, match="was made with another world model: make one for this model"):
        load_memory(tmp_path, other, latents.rows(slice(1)), torch.device("cpu"))
    with pytest.raises(UserError, match=r"no memory at nowhere: make one with `python -m planning\.remember`"):
        load_memory(Path("nowhere"), model, latents.rows(slice(1)), torch.device("cpu"))


def test_a_memory_that_says_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = KeypointModel(make_model().spec, MODEL)
    latents = compact_of(model, model.observe(None, observe_rows(model.spec, 2, 0), None))
    save_memory(tmp_path, Bank(torch.zeros(2, 3, 2), latents.tensors()), weights_hash(model), {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "moments": 10**12}, indent=2) + "\n")
    with pytest.raises(UserError, match="does not describe a memory: 1000000000000 moments"):
        load_memory(tmp_path, model, latents.rows(slice(1)), torch.device("cpu"))


# --- the command -----------------------------------------------------------------------------------------------------


def test_moments_have_all_of_their_actions() -> None:
    ends = np.array([5, 7, 20])
    rows = choose_moments(ends, 100, 4, 0)
    assert rows.tolist() == [0, *range(7, 16)]
    assert len(choose_moments(ends, 3, 4, 0)) == 3
    assert choose_moments(ends, 3, 4, 0).tolist() != choose_moments(ends, 3, 4, 2).tolist()
    with pytest.raises(UserError, match="chunk=13: no recorded episode has so many actions"):
        choose_moments(ends, 3, 13, 0)


def test_the_command_makes_a_memory_that_a_planner_can_use(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    ended = type_in(tmp_path, REMEMBER, f"data={toy_store.path}", f"checkpoint={model}", *SMALL)
    assert ended.code == 0, ended
    assert "30 moments of" in ended.out and "planner.proposals.memory=runs/toy/memory" in ended.out
    folder = tmp_path / "runs" / "toy" / "memory"
    known = read_model(Checkpoint(str(model), ""), torch.device("cpu"), "fp32")
    strategy = with_proposals(make_strategy(read_settings({"proposals.memory": str(folder)}), 0), known)
    assert strategy.proposer is not None
    rows = choose_moments(toy_store.episode_ends, 30, 3, 0)
    like = compact_of(known, known.observe(None, observe_rows(known.spec, 1, 0), None))
    memory = load_memory(folder, known, like, known.device)
    actions = np.asarray(toy_store.column("action"))[rows[:, None] + np.arange(3)]
    np.testing.assert_allclose(memory._actions.numpy(), actions, atol=0.01)


def test_latents_are_those_of_the_frames(toy_store: TrajectoryStore) -> None:
    model, rows = make_model(), np.array([0, 3, 70])
    frames = {"camera": np.concatenate([toy_store.episode(i).images["camera"] for i in range(6)])}
    proprio = np.asarray(toy_store.column("proprio"))
    told: list[tuple[int, int]] = []
    latents = encode_moments(model, frames, proprio, rows, lambda done, total: told.append((done, total)))
    assert isinstance(latents, Belief) and latents.tokens is None and latents.state.shape[0] == 3
    assert told == [(3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("data=nowhere.zarr",), "no recording at nowhere.zarr"),
        (("chunk=1000",), "chunk=1000: no recorded episode has so many actions"),
        (("moments=0",), "moments=0 chunk=3"),
        (("most_mib=0",), "most_mib=0"),
        (("seed=-1",), "seed=-1"),
    ],
)
def test_what_cannot_be_remembered(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    ended = type_in(tmp_path, REMEMBER, f"data={toy_store.path}", f"checkpoint={model}", *SMALL, *options)
    assert_refused(ended, message)
    assert not (tmp_path / "runs").exists()
