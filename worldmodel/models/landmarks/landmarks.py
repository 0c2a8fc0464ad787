"""Sub-goals from the recording: landmarks, and the ways between them that the recording shows.

The recording's states are a graph. Its nodes are landmarks, which are recorded states that cover the recording in the
model's distance. Its edges are ways from one landmark to another that the recording shows within some control steps.
The next landmark on the shortest way to a goal is a sub-goal. Such graphs are used by semi-parametric topological
memory (arXiv 1803.00653) and by search on the replay buffer (arXiv 1906.05253).

Landmarks are made after everything else is frozen (`worldmodel.landmarks`). They have their own checkpoint (`kind:
landmarks`), which holds the hash of its world model, because the latents of another model have another meaning.

Shapes: `L` landmarks, `E` edges. Latents of landmarks are `[L, ...]`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from worldmodel.core import checkpoint
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.models.contract import Latent, WorldModel
from worldmodel.models.landmarks.graph import GOAL, Edges, steps_to_go

KIND: Final = "landmarks"
PICTURES: Final = "pictures.npy"  # images of the landmarks by the first camera, uint8 [L, H, W, 3], for people only


@dataclasses.dataclass(frozen=True)
class LandmarkConfig:
    """Options of the graph.

    Attributes:
        count: number of landmarks.
        every: one of so many frames of an episode is considered [control steps].
        within: longest recorded way that becomes an edge [control steps].
        neighbours: number of its nearest landmarks to which every landmark, start and goal has an edge, too.
        detour: length of a way that the recording does not show, as a multiple of the time that the recording's fast
            motions take for the same distance.
    """

    count: int = 3000
    every: int = 5
    within: int = 15
    neighbours: int = 8
    detour: float = 2.0

    def __post_init__(self) -> None:
        if min(self.count, self.every, self.neighbours) < 1:
            raise ValueError(f"count, every and neighbours must be at least 1, got {self}")
        if self.within < self.every:
            raise ValueError(f"within {self.within} must be at least every {self.every}")
        if not self.detour > 0:
            raise ValueError(f"detour {self.detour} must be above 0")


@dataclasses.dataclass(frozen=True)
class SubGoal:
    """A sub-goal on the way to a goal.

    Attributes:
        latent: its latent `[1, ...]`.
        landmark: its number, None for the goal itself.
        steps: estimate of the whole way to the goal, from the present state [control steps]. Infinite if no way is
            known.
        beyond: estimate of the way from the sub-goal on to the goal [control steps].
    """

    latent: Any
    landmark: int | None
    steps: float
    beyond: float


class Landmarks:
    """Proposes sub-goals (`planning.types.Subgoals`).

    Args:
        model: the world model of the latents.
        config: options of the graph.
        latents: latents of the landmarks `[L, ...]`.
        edges: the graph.
        pace: control steps that the recording's fast motions take for a unit of the model's distance.
    """

    def __init__(self, model: WorldModel, config: LandmarkConfig, latents: Latent, edges: Edges, pace: float) -> None:
        self.model, self.config, self.latents, self.edges, self.pace = model, config, latents, edges, pace

    @torch.no_grad()
    def toward(self, goal: Latent) -> Guide:
        """The ways to `goal [1, ...]` from everywhere."""
        return Guide(self, goal)

    def straight(self, latent: Latent) -> Tensor:
        """Length `[L]` of the straight way between `latent [1, ...]` and its nearest landmarks, infinite for others."""
        distance = distances(self.model, self.latents, latent)
        near = distance.topk(min(self.config.neighbours, len(distance)), largest=False).indices
        steps = torch.full_like(distance, torch.inf)
        steps[near] = self.per_unit * distance[near]
        return steps

    @property
    def per_unit(self) -> float:
        """Length of a straight way of distance 1 [control steps]."""
        return self.config.detour * self.pace


class Guide:
    """The ways to one goal.

    Args:
        landmarks: the graph.
        goal: latent of the goal `[1, ...]`.
    """

    def __init__(self, landmarks: Landmarks, goal: Latent) -> None:
        self._landmarks, self._goal = landmarks, goal
        self._steps, self._successor = steps_to_go(landmarks.edges, landmarks.straight(goal))

    @torch.no_grad()
    def propose(self, latent: Latent, ahead: float, avoided: frozenset[int | None] = frozenset()) -> SubGoal:
        """The sub-goal for `latent [1, ...]`: the first landmark on its way that is `ahead` control steps or more away.

        It is the goal itself if that is nearer, or if no way is known. It is none of those in `avoided`, where None
        stands for the goal, if a way that begins at another of the nearest landmarks has another sub-goal.
        """
        landmarks = self._landmarks
        entry = landmarks.straight(latent)
        whole = entry + self._steps
        steps = float(whole.min())
        # The straight way counts only where it is short. A long one may lead through a wall.
        straight = landmarks.per_unit * float(landmarks.model.distance(latent, self._goal))
        if (straight <= min(ahead, steps) and None not in avoided) or not math.isfinite(steps):
            return SubGoal(self._goal, None, min(straight, steps), 0.0)
        ways = [begin for begin in whole.argsort().tolist() if math.isfinite(float(whole[begin]))]
        ends = [self._walk(begin, ahead - float(entry[begin])) for begin in ways]
        node = next((end for end in ends if end not in avoided), ends[0])
        if node is None:
            return SubGoal(self._goal, None, steps, 0.0)
        return SubGoal(landmarks.latents.rows(slice(node, node + 1)), node, steps, float(self._steps[node]))

    def _walk(self, node: int, ahead: float) -> int | None:
        """The first landmark that is `ahead` control steps or more after `node` on its way, None for the goal."""
        so_far = 0.0
        while so_far < ahead:
            following = int(self._successor[node])
            if following == GOAL:
                return None
            so_far += float(self._steps[node] - self._steps[following])
            node = following
        return node


@torch.no_grad()
def distances(model: WorldModel, latents: Latent, goal: Latent) -> Tensor:
    """Distance `[L]` of each of `latents [L, ...]` to one `goal [1, ...]`, on the CPU."""
    # As the steps of one imagined future, so that the goal need not be repeated.
    return model.distance(latents.map(lambda part: part[None, None]), goal)[0, 0].float().cpu()


# --- the checkpoint --------------------------------------------------------------------------------------------------


class LandmarkFile(nn.Module):
    """What a checkpoint holds: latents, the graph and the pace.

    Args:
        shapes: shape of every tensor of the latents, by name.
        edges: number of edges, E.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], edges: int) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(f"latent_{name}", torch.zeros(shape))
        for name in ("start", "end", "steps"):
            self.register_buffer(f"edge_{name}", torch.zeros(edges))
        self.register_buffer("pace", torch.ones(1))


def save_landmarks(landmarks: Landmarks, folder: Path, world_model: str, provenance: Mapping[str, Any]) -> None:
    """Write the checkpoint.

    Args:
        landmarks: what is written.
        folder: folder of the checkpoint, which is made if needed.
        world_model: hash of the world model (`worldmodel.core.checkpoint.weights_hash`).
        provenance: description of how they were made, in plain values.
    """
    tensors, edges = landmarks.latents.tensors(), landmarks.edges
    file = LandmarkFile({name: tuple(value.shape) for name, value in tensors.items()}, len(edges.steps))
    values = {f"latent_{name}": value.float() for name, value in tensors.items()}
    # Numbers of landmarks are exact in float32 up to 16 million.
    values |= {f"edge_{name}": getattr(edges, name).float() for name in ("start", "end", "steps")}
    file.load_state_dict({**values, "pace": torch.tensor([landmarks.pace])})
    content = {
        "world_model": world_model,
        "landmarks": dataclasses.asdict(landmarks.config),
        "edges": len(edges.steps),
        "provenance": dict(provenance),
    }
    checkpoint.save(folder, KIND, content, file, half=True)


def load_landmarks(folder: Path, model: WorldModel) -> Landmarks:
    """The landmarks in `folder`, for `model` and on its device.

    Raises:
        UserError: for landmarks that are missing, damaged, made by a newer program, or made for another world model.
    """
    stored = checkpoint.read_companion(
        folder,
        KIND,
        model,
        f"no landmarks at {folder}: make some with `python -m worldmodel.landmarks`",
        f"the landmarks {folder} were made for another world model: make some for this model with "
        "`python -m worldmodel.landmarks`",
    )
    template = model.blank_latent()

    def build() -> LandmarkFile:
        config, edges = from_config(LandmarkConfig, stored.config["landmarks"], KIND), stored.config["edges"]
        shapes = {name: (config.count, *value.shape[1:]) for name, value in template.tensors().items()}
        return LandmarkFile(shapes, int(edges))

    file = dict(stored.build(build).named_buffers())
    config = from_config(LandmarkConfig, stored.config["landmarks"], KIND)
    start, end = (file[f"edge_{name}"].long() for name in ("start", "end"))
    if len(start) and not (min(start.min(), end.min()) >= 0 and max(start.max(), end.max()) < config.count):
        raise UserError(f"{folder} has edges to landmarks that it does not have: expected numbers below {config.count}")
    latents = template.with_tensors(
        {name: file[f"latent_{name}"].to(blank.device, blank.dtype) for name, blank in template.tensors().items()}
    )
    return Landmarks(model, config, latents, Edges(start, end, file["edge_steps"]), float(file["pace"]))
