"""The flight recorder: the last seconds before a fault, as a trajectory store, with latents and plans beside it.

    runs/arm/flight/data.zarr          one episode per fault: observations and commands
    runs/arm/flight/flight-0000.npz    its control steps: latents, plans, distances, faults

Shapes: `T` control steps, `H` control steps ahead, `A` action dimensions, `P` proprioceptive readings.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from planning.faults import Fault
from planning.recording import BackgroundWriter, Lived
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_folder, replacing
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FlightConfig:
    """Options of `FlightRecorder`.

    Attributes:
        folder: where it writes; made if there is none.
        seconds: how far back it remembers [s]. Memory holds that many seconds of images.
    """

    folder: str | Path
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not 0 < self.seconds <= 3600:
            raise UserError(f"seconds of the flight recorder is {self.seconds!r}: expected more than 0, at most 3600")


@dataclasses.dataclass(frozen=True)
class FlightStep:
    """One control step.

    Attributes:
        step: number of the control step, from 0 on.
        lived: the observation and the command. The observation is black and zero where `seen` is false.
        seen: whether the observation could be read.
        latent: numpy arrays by name, of the latent state; empty without one.
        plan: float32 `[H, A]`, the plan in execution; None without one.
        readings: numbers by name, for example the distance to the goal.
        fault: what went wrong, or None.
    """

    step: int
    lived: Lived
    seen: bool
    latent: Mapping[str, NDArray[Any]]
    plan: NDArray[np.float32] | None
    readings: Mapping[str, float]
    fault: Fault | None


class FlightRecorder:
    """Remembers the last control steps, and writes them when asked to. Its memory is bounded.

    Args:
        config: where, and how much.
        spec: specification of the robot.

    Raises:
        UserError: for a folder that cannot be written to or that another process writes.
    """

    def __init__(self, config: FlightConfig, spec: EnvironmentSpec) -> None:
        self.folder = output_folder(config.folder, "flight")
        most = max(2, round(config.seconds / spec.control_step_s))
        self._steps: collections.deque[FlightStep] = collections.deque(maxlen=most)
        self._log = BackgroundWriter(self.folder / "data.zarr", spec, "planning.flight", most_waiting=2 * most)
        self._number = 1 + max((_number(path) for path in self.folder.glob("flight-*.npz")), default=-1)

    def __len__(self) -> int:
        """Control steps in memory."""
        return len(self._steps)

    def add(self, step: FlightStep) -> None:
        """One control step more. It is not copied."""
        self._steps.append(step)

    def dump(self) -> Path | None:
        """Begin to write what is in memory, in a thread. The file of latents and plans is returned; None for nothing.

        An episode of the store needs two observations. With one, only the file is written.
        """
        steps = list(self._steps)
        path = self.folder / f"flight-{self._number:04d}.npz"
        if not steps or not self._log.add([s.lived for s in steps], then=lambda n: _write(path, steps, n)):
            return None
        self._number += 1
        return path

    def wait(self) -> None:
        """Wait until all is written. Raises what kept it from being written."""
        self._log.wait()

    def close(self) -> None:
        """Wait as `wait` does, and give the store back. Doing it twice is safe."""
        self._log.close()


def latent_arrays(latent: Any) -> dict[str, NDArray[Any]]:
    """The tensors of a latent state of one robot, `[1, ...]`, by their names in it, as `[...]` in single precision.

    A latent state that is no record of tensors has none.
    """
    found: dict[str, NDArray[Any]] = {}
    if isinstance(latent, TensorRecord):
        for field in dataclasses.fields(latent):
            value = getattr(latent, field.name)
            if isinstance(value, torch.Tensor) and value.ndim and len(value):
                whole = value.detach()[0].cpu()
                found[field.name] = (whole.float() if whole.is_floating_point() else whole).numpy().copy()
            else:
                found |= {f"{field.name}.{name}": part for name, part in latent_arrays(value).items()}
    return found


def _write(path: Path, steps: Sequence[FlightStep], episode: int) -> None:
    """One array per quantity, with T in front. What a control step lacks is NaN, or 0 in whole numbers."""
    latents = [step.latent for step in steps]
    readings = sorted({name for step in steps for name in step.readings})
    arrays: dict[str, NDArray[Any]] = {
        "episode": np.array(episode),
        "step": np.array([step.step for step in steps]),
        "seen": np.array([step.seen for step in steps]),
        "action": np.stack([step.lived.action for step in steps]),
        "fault": np.array([step.fault.kind if step.fault else "" for step in steps]),
        "fault_since": np.array([step.fault.since_step if step.fault else -1 for step in steps]),
        "fault_detail": np.array([step.fault.detail if step.fault else "" for step in steps]),
        "plan": _stacked([step.plan for step in steps]),
        **{name: np.array([step.readings.get(name, np.nan) for step in steps]) for name in readings},
        **{f"latent.{name}": _stacked([each.get(name) for each in latents]) for name in _names(latents)},
    }
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    _LOG.warning("flight recorder: the last %d control steps are in %s", len(steps), path)


def _names(latents: Sequence[Mapping[str, NDArray[Any]]]) -> list[str]:
    return sorted({name for latent in latents for name in latent})


def _stacked(values: Sequence[NDArray[Any] | None]) -> NDArray[Any]:
    """`[T, ...]`; the shape is that of the last value, and what has another one is missing."""
    known = next((value for value in reversed(values) if value is not None), None)
    if known is None:
        return np.zeros((len(values), 0), np.float32)
    missing = np.full_like(known, np.nan if known.dtype.kind == "f" else 0)
    return np.stack([missing if value is None or value.shape != known.shape else value for value in values])


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1
