"""The inverse-dynamics head: what it learns, what it is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.models.conformance import observe_rows
from tests.worldmodel.toy import make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.models.decoder.decoder import code_size
from worldmodel.models.inverse.inverse import Inverse, load_inverse, save_inverse
from worldmodel.models.inverse.network import InverseConfig, InverseNetwork
from worldmodel.models.inverse.training import Batch, Episodes, InverseTask

CONFIG = InverseConfig(chunk=4, width=32, depth=1)


def straight_episodes(count: int, seed: int, length: int = 9) -> Episodes:
    """A point that moves by a constant velocity in every episode: the action is the way divided by the steps."""
    rng = np.random.default_rng(seed)
    speed = torch.from_numpy(rng.uniform(-1, 1, (count, 1, 2)).astype(np.float32)).expand(-1, length, -1)
    places = (speed.cumsum(1) - speed).reshape(-1, 2)
    ends = np.arange(1, count + 1) * length
    return Episodes(places, places, speed.reshape(-1, 2), ends)


def make_task(module: InverseNetwork) -> InverseTask:
    train, held_out = straight_episodes(64, 0), straight_episodes(16, 1)
    return InverseTask(module, train, held_out, 8, 128, 0, torch.device("cpu"))


def test_it_learns_the_way_divided_by_the_steps() -> None:
    torch.manual_seed(0)
    network = InverseNetwork(CONFIG, 2, 2)
    task = make_task(network)
    before = task.evaluate(0)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(300):
        optimiser.zero_grad()
        task.loss(step)["loss"].backward()
        optimiser.step()
    after = task.evaluate(300)
    assert before["explained_near"] < 0.3 and min(after.values()) > 0.9
    codes, goals = torch.zeros(2, 2), torch.tensor([[2.0, -1.0], [2.0, -1.0]])
    actions = network.actions(codes, goals, torch.tensor([4, 8]))
    torch.testing.assert_close(actions[:, 0], torch.tensor([[0.5, -0.25], [0.25, -0.125]]), atol=0.12, rtol=0)


def test_behaviour_cloning_is_not_told_the_steps() -> None:
    torch.manual_seed(0)
    network = InverseNetwork(InverseConfig(chunk=1, width=32, depth=1, told_steps=False), 2, 2)
    codes, goals = torch.randn(2, 1, 2)
    near, far = (network.actions(codes, goals, torch.tensor([steps])) for steps in (1, 9))
    assert torch.equal(near, far) and near.shape == (1, 1, 2)


def test_actions_after_the_goal_do_not_count() -> None:
    episodes = straight_episodes(3, 0)
    batch = Batch.of(episodes, np.array([0, 9, 24]), np.array([1, 8, 2]), 4)
    assert batch.counts.tolist() == [[True, False, False, False], [True] * 4, [True, True, False, False]]
    assert torch.equal(batch.goals, episodes.goals[[1, 17, 26]])
    assert torch.equal(batch.actions[1], episodes.actions[9:13])


def test_goals_lie_in_the_same_episode() -> None:
    episodes = straight_episodes(3, 0)
    assert 8 not in episodes.able and 17 not in episodes.able and 7 in episodes.able
    assert episodes.last_of(np.array([0, 8, 9, 26])).tolist() == [8, 8, 17, 26]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    torch.manual_seed(0)
    network = InverseNetwork(CONFIG, 2, 2)
    first, again = make_task(network), make_task(network)
    losses = [task.loss(step)["loss"].item() for task, step in ((first, 3), (again, 0), (again, 3))]
    assert losses[0] == losses[2] != losses[1]


def test_episodes_of_one_frame_are_refused() -> None:
    lonely = Episodes(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2), np.arange(1, 4))
    with pytest.raises(UserError, match="has one frame: expected some with actions"):
        InverseTask(InverseNetwork(CONFIG, 2, 2), lonely, lonely, 4, 8, 0, torch.device("cpu"))


def test_a_head_is_the_same_after_it_was_written_and_knows_its_model(tmp_path: Path) -> None:
    model = make_model()
    network = InverseNetwork(CONFIG, code_size(model), 2)
    with torch.no_grad():  # what half precision keeps, so that nothing is rounded
        for value in network.parameters():
            value.copy_(value.half().float())
    save_inverse(network, tmp_path, weights_hash(model), {"made_by": "a test"})
    seen = observe_rows(model.spec, 2, 0)
    latent = model.observe(None, seen, None)
    goal = model.goal(ImageGoal({name: image[0] for name, image in seen.images.items()}))
    goals = goal.map(lambda part: part.expand(2, *part.shape[1:]))
    steps = torch.tensor([3, 9])
    loaded = load_inverse(tmp_path, model)
    actions = loaded.predict(latent, goals, steps)
    assert actions.shape == (2, 4, 2) and loaded.chunk == 4 and loaded.identity
    torch.testing.assert_close(actions, Inverse(model, network).predict(latent, goals, steps))
    with pytest.raises(UserError, match="was trained for another world model"):
        load_inverse(tmp_path, make_model(seed=1))
    with pytest.raises(UserError, match=r"no inverse-dynamics head at nowhere: train one with"):
        load_inverse(Path("nowhere"), model)
