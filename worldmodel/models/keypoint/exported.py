"""Rollouts of a predictor in ONNX Runtime, which take half to two thirds of torch's time on a CPU, in float32.

Shapes: `R` rows, `H` control steps ahead, `Z` numbers of a state, `P` proprioceptive readings, `A` action dimensions.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.onnx import OPSET, quiet_export, require_onnx
from worldmodel.models.keypoint.predictor import Belief, Predictor

_INPUTS: Final = ("state", "motion", "proprio", "actions")
_OUTPUTS: Final = ("ahead_state", "ahead_motion", "ahead_proprio")
_MOST_ROWS: Final = 2**24
_CHECKED: Final = (1, 7)  # rows with which a graph is compared with torch, other than those it was traced with
_TRACED: Final = 4
_TOLERANCE: Final = 1e-3  # of an imagined number, in standard deviations of the recording


class _Graph(nn.Module):
    """A rollout from and to tensors."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, state: Tensor, motion: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        ahead = self.predictor.rollout(Belief(state, motion, proprio), actions)
        return ahead.state, ahead.motion, ahead.proprio


class ExportedRollout:
    """`Predictor.rollout` on the CPU, by a graph of its own for every horizon, which is made when it is first needed.

    The weights are those of the moment in which it is made. Where a gradient is asked for, torch computes.

    Args:
        predictor: the predictor, on the CPU.

    Raises:
        UserError: when a library is missing, or the predictor is on another device.
    """

    def __init__(self, predictor: Predictor) -> None:
        require_onnx()
        device = next(predictor.parameters()).device
        if device.type != "cpu":
            raise UserError(f"compile=onnx with device {device}: expected cpu, or another value of compile")
        self._plain = predictor.rollout
        # With one head, the mean of all, which is then computed once.
        self._graph = _Graph(predictor.cast()).eval()
        self._exported, self._sessions = dict[int, bytes](), dict[tuple[int, int], Any]()

    def __call__(self, belief: Belief, actions: Tensor) -> Belief:
        """Beliefs `[..., H, ·]` after each of `actions [..., H, A]`, from `belief [..., ·]`."""
        parts = (belief.state, belief.motion, belief.proprio, actions)
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
            return self._plain(belief, actions)
        leading, horizon = actions.shape[:-2], actions.shape[-2]
        flat = [part.flatten(0, -2) for part in parts[:3]] + [actions.flatten(0, -3)]
        return Belief(*(torch.from_numpy(part).unflatten(0, leading) for part in self._run(horizon, flat)))

    def _run(self, horizon: int, flat: list[Tensor]) -> list[Any]:
        threads = torch.get_num_threads()  # a planner may have changed it
        if horizon not in self._exported:
            self._exported[horizon] = self._export(horizon, [part.shape[-1] for part in flat])
        if (horizon, threads) not in self._sessions:
            self._sessions[horizon, threads] = _session(self._exported[horizon], threads)
        return _computed(self._sessions[horizon, threads], [part.detach().float() for part in flat])

    @torch.no_grad()
    def _export(self, horizon: int, sizes: list[int]) -> bytes:
        """The graph of rollouts of a horizon. Raises RunStopped if it computes others than torch."""
        generator = torch.Generator().manual_seed(0)

        def draw(rows: int) -> list[Tensor]:
            beliefs = [torch.randn(rows, size, generator=generator) for size in sizes[:3]]
            return [*beliefs, torch.randn(rows, horizon, sizes[3], generator=generator)]

        rows = torch.export.Dim("rows", min=1, max=_MOST_ROWS)
        with quiet_export():
            program = torch.onnx.export(
                self._graph,
                tuple(draw(_TRACED)),
                input_names=list(_INPUTS),
                output_names=list(_OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: rows},) * len(_INPUTS),
                verbose=False,
            )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        session = _session(content, threads=1)
        for count in _CHECKED:
            drawn = draw(count)
            for part, wanted in zip(_computed(session, drawn), self._graph(*drawn), strict=True):
                difference = float((torch.from_numpy(part) - wanted).abs().max())
                if not difference <= _TOLERANCE:
                    raise RunStopped(
                        f"compile=onnx imagines other futures than torch (they differ by {difference:.1e} standard "
                        "deviations): expected another value of compile"
                    )
        return content


def _session(content: bytes, threads: int) -> Any:
    """What runs a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin while they wait take the processors from everything else on the robot's computer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _computed(session: Any, inputs: list[Tensor]) -> list[Any]:
    """The outputs, as arrays."""
    feed = {name: part.contiguous().numpy() for name, part in zip(_INPUTS, inputs, strict=True)}
    found: list[Any] = session.run(list(_OUTPUTS), feed)
    return found
