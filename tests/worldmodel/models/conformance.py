"""What every world model owes its users, as tests to inherit: say how yours is made.

Example:
    class TestMine(WorldModelConformance):
        def make(self):
            return MyModel(SPEC, ...)     # with random weights; the same ones every time
"""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal, TextGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord
from worldmodel.models.contract import Decodable, Latent, WorldModel
from worldmodel.models.registry import load_model

ROBOTS, SAMPLES, HORIZON = 3, 4, 5
CPU = torch.device("cpu")


def observe_rows(spec: EnvironmentSpec, rows: int, seed: int) -> Observation:
    """What `rows` robots see: noise, each its own."""
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 256, (rows, *c.shape), dtype=np.uint8) for c in spec.cameras}
    return Observation(images, rng.normal(size=(rows, spec.proprio_size)).astype(np.float32))


def draw_actions(spec: EnvironmentSpec, *shape: int, seed: int = 0) -> Tensor:
    """Within bounds, `[*shape, A]`."""
    low, high = (torch.from_numpy(bound) for bound in spec.action.bounds)
    return low + (high - low) * torch.rand(*shape, spec.action.size, generator=torch.Generator().manual_seed(seed))


def picture_of(observation: Observation, row: int = 0) -> ImageGoal:
    return ImageGoal({name: image[row] for name, image in observation.images.items()})


def tensors_of(record: TensorRecord) -> list[Tensor]:
    """All of them, in their order."""
    found: list[Tensor] = []
    record.map(lambda part: found.append(part) or part)  # type: ignore[func-returns-value]
    return found


class WorldModelConformance(abc.ABC):
    """Inherit and say how the model is made."""

    @abc.abstractmethod
    def make(self) -> WorldModel:
        """One with random weights, every time the same, in evaluation mode."""

    @pytest.fixture
    def model(self) -> WorldModel:
        return self.make()

    def history(self, model: WorldModel, steps: int = 3, rows: int = ROBOTS) -> Latent:
        """What is known of `rows` robots after `steps` control steps."""
        latent = model.observe(None, observe_rows(model.spec, rows, 0), None)
        for step in range(1, steps):
            seen = observe_rows(model.spec, rows, step)
            latent = model.observe(latent, seen, draw_actions(model.spec, rows, seed=step))
        return latent

    def ahead(self, model: WorldModel, latent: Latent, rows: int = ROBOTS) -> Tensor:
        """Distances `[B, S, H]` of imagined moments to one goal."""
        goal = model.goal(picture_of(observe_rows(model.spec, 1, 99)))
        actions = draw_actions(model.spec, ROBOTS, SAMPLES, HORIZON)[:rows]
        with torch.no_grad():
            return model.distance(model.imagine(latent, actions), type(goal).cat([goal] * rows))

    # --- shapes ----------------------------------------------------------------------------------------------------

    def test_latents_have_a_row_for_each_robot(self, model: WorldModel) -> None:
        for steps in (1, 2, 6):
            assert {len(part) for part in tensors_of(self.history(model, steps))} == {ROBOTS}
        goal = model.goal(picture_of(observe_rows(model.spec, 1, 0)))
        assert {len(part) for part in tensors_of(goal)} == {1}

    def test_what_is_imagined_leads_with_rows_samples_and_steps(self, model: WorldModel) -> None:
        latent = self.history(model)
        for horizon in (1, HORIZON, 12):
            ahead = model.imagine(latent, draw_actions(model.spec, ROBOTS, SAMPLES, horizon))
            assert {part.shape[:3] for part in tensors_of(ahead)} == {(ROBOTS, SAMPLES, horizon)}

    def test_what_can_be_seen_is_the_same_of_what_was_observed_and_of_what_is_imagined(self, model: WorldModel) -> None:
        if not isinstance(model, Decodable):
            pytest.skip("this family does not say what can be seen of its latents")
        latent = self.history(model)
        goal = model.goal(picture_of(observe_rows(model.spec, 1, 0)))
        seen = model.decodable(latent)
        ahead = model.decodable(model.imagine(latent, draw_actions(model.spec, ROBOTS, SAMPLES, HORIZON)))
        assert seen.ndim == 2 and len(seen) == ROBOTS
        assert model.decodable(goal).shape == (1, seen.shape[1])
        assert ahead.shape == (ROBOTS, SAMPLES, HORIZON, seen.shape[1])
        assert not torch.allclose(ahead[:, 0], ahead[:, 1])

    def test_distances_have_the_leading_shape_and_are_finite_and_not_negative(self, model: WorldModel) -> None:
        latent = self.history(model)
        goal = model.goal(picture_of(observe_rows(model.spec, 1, 99)))
        goals = type(goal).cat([goal] * ROBOTS)
        now, ahead = model.distance(latent, goals), self.ahead(model, latent)
        assert now.shape == (ROBOTS,)
        assert ahead.shape == (ROBOTS, SAMPLES, HORIZON)
        assert all(bool((d.isfinite() & (d >= 0)).all()) for d in (now, ahead))
        assert now.dtype == ahead.dtype == torch.float32

    def test_every_robot_has_a_goal_of_its_own(self, model: WorldModel) -> None:
        seen = observe_rows(model.spec, ROBOTS, 5)
        goals = [model.goal(picture_of(seen, row)) for row in range(ROBOTS)]
        latent = model.observe(None, seen, None)
        together = model.distance(latent, type(goals[0]).cat(goals))
        alone = [model.distance(latent.rows([row]), goals[row]) for row in range(ROBOTS)]
        torch.testing.assert_close(together, torch.cat(alone))
        assert not torch.allclose(together, model.distance(latent, type(goals[0]).cat(goals[::-1])))

    # --- meaning ---------------------------------------------------------------------------------------------------

    def test_what_was_seen_is_the_goal_of_the_same_images(self, model: WorldModel) -> None:
        seen = observe_rows(model.spec, ROBOTS, 7)
        together = model.seen_as_goals(seen, model.observe(None, seen, None))
        for row in range(ROBOTS):
            alone, ours = tensors_of(model.goal(picture_of(seen, row))), tensors_of(together.rows(slice(row, row + 1)))
            assert len(alone) == len(ours)
            for expected, part in zip(alone, ours, strict=True):
                torch.testing.assert_close(part, expected, atol=2e-3, rtol=2e-3)

    def test_a_goal_is_no_distance_from_itself(self, model: WorldModel) -> None:
        seen = observe_rows(model.spec, 1, 3)
        goal = model.goal(picture_of(seen))
        other = model.goal(picture_of(observe_rows(model.spec, 1, 4)))
        assert float(model.distance(goal, goal)) == pytest.approx(0, abs=1e-5)
        assert float(model.distance(goal, other)) > 1e-3

    def test_pictures_and_actions_matter(self, model: WorldModel) -> None:
        latent = self.history(model)
        ahead = self.ahead(model, latent)
        other = self.ahead(model, model.observe(None, observe_rows(model.spec, ROBOTS, 77), None))
        assert not torch.allclose(ahead, other)
        assert not torch.allclose(ahead[:, 0], ahead[:, 1])

    def test_the_future_does_not_reach_back(self, model: WorldModel) -> None:
        latent = self.history(model)
        actions = draw_actions(model.spec, ROBOTS, SAMPLES, HORIZON)
        changed = actions.clone()
        changed[..., -1, :] = draw_actions(model.spec, ROBOTS, SAMPLES, seed=9)
        with torch.no_grad():
            first, second = (tensors_of(model.imagine(latent, a)) for a in (actions, changed))
        for one, other in zip(first, second, strict=True):
            # What is predicted for a block of steps at once may know all of the block's actions.
            torch.testing.assert_close(one[:, :, : self.steps_apart(model)], other[:, :, : self.steps_apart(model)])

    def steps_apart(self, model: WorldModel) -> int:
        """Imagined steps that the last of HORIZON actions cannot have changed."""
        return HORIZON - 1

    def test_gradients_flow_to_actions(self, model: WorldModel) -> None:
        latent = self.history(model)
        goal = model.goal(picture_of(observe_rows(model.spec, 1, 99)))
        actions = draw_actions(model.spec, ROBOTS, SAMPLES, HORIZON).requires_grad_(True)
        ahead = model.imagine(latent, actions)
        model.distance(ahead, type(goal).cat([goal] * ROBOTS))[..., -1].sum().backward()
        assert actions.grad is not None
        assert bool((actions.grad.abs().sum((1, 2, 3)) > 0).all())

    # --- who shares a batch, and when ------------------------------------------------------------------------------

    @pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("steps", [1, 3, 6])
    def test_who_shares_a_batch_makes_no_difference(
        self, model: WorldModel, steps: int, precision: torch.dtype
    ) -> None:
        model.precision = precision
        latent = self.history(model, steps)
        together = self.ahead(model, latent)
        alone = self.ahead(model, latent.rows(slice(0, 1)), 1)
        assert torch.equal(alone, together[:1])

    def test_robots_whose_episodes_began_at_different_times_share_a_batch(self, model: WorldModel) -> None:
        early, late = self.history(model, 6), self.history(model, 1)
        mixed = type(late).cat([early.rows([0]), late.rows([1]), early.rows([2])])
        together, old, new = (self.ahead(model, latent) for latent in (mixed, early, late))
        assert torch.equal(together, torch.stack([old[0], new[1], old[2]]))

    def test_the_same_comes_of_the_same(self, model: WorldModel) -> None:
        again = self.make()
        assert torch.equal(self.ahead(model, self.history(model)), self.ahead(again, self.history(again)))

    def test_observing_changes_nothing_of_what_was_known(self, model: WorldModel) -> None:
        latent = self.history(model)
        before = [part.clone() for part in tensors_of(latent)]
        actions = draw_actions(model.spec, ROBOTS)
        model.observe(latent, observe_rows(model.spec, ROBOTS, 50), actions)
        model.imagine(latent, actions[:, None, None])
        assert all(torch.equal(*pair) for pair in zip(before, tensors_of(latent), strict=True))

    def test_a_driver_may_write_into_its_buffers_again(self, model: WorldModel) -> None:
        seen = observe_rows(model.spec, ROBOTS, 0)
        latent = model.observe(None, seen, None)
        before = [part.clone() for part in tensors_of(latent)]
        for image in seen.images.values():
            image[:] = 0
        seen.proprio[:] = 0
        assert all(torch.equal(*pair) for pair in zip(before, tensors_of(latent), strict=True))

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def test_a_checkpoint_brings_the_same_model_back(self, model: WorldModel, tmp_path: Path) -> None:
        with torch.no_grad():  # what half precision keeps, so that nothing is rounded
            for value in (*model.parameters(), *model.buffers()):
                if value.is_floating_point() and value.ndim >= 2:
                    value.copy_(value.half().float())
        model.save(tmp_path, {"made_by": "a test"})
        again = load_model(str(tmp_path), CPU)
        assert type(again) is type(model)
        assert again.spec == model.spec and again.describe() == model.describe()
        assert torch.equal(self.ahead(again, self.history(again)), self.ahead(model, self.history(model)))

    # --- what is refused -------------------------------------------------------------------------------------------

    def test_what_it_cannot_read_is_told_in_words(self, model: WorldModel) -> None:
        seen = observe_rows(model.spec, ROBOTS, 0)
        name, image = next(iter(seen.images.items()))

        def with_image(changed: NDArray[np.uint8]) -> Observation:
            return Observation({**seen.images, name: changed}, seen.proprio)

        with pytest.raises(UserError, match=name):
            model.observe(None, with_image(image[:, :-1]), None)
        with pytest.raises(UserError, match=name):
            model.observe(None, with_image(image.astype(np.float32)), None)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="proprio"):
            model.observe(None, Observation(seen.images, seen.proprio[:, :0]), None)
        with pytest.raises(UserError, match="proprio"):
            model.observe(None, Observation(seen.images, seen.proprio[:1]), None)
        with pytest.raises(UserError, match=name):
            model.observe(None, Observation({"elsewhere": image}, seen.proprio), None)
        with pytest.raises(UserError, match="TextGoal"):
            model.goal(TextGoal("the block in the corner"))
        with pytest.raises(UserError, match=name):
            model.goal(ImageGoal({name: image[0, :-1]}))
