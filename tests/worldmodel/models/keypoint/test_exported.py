"""Rollouts in ONNX Runtime: those of torch, and what is refused."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from tests.worldmodel.models.keypoint.test_model import after, some_actions
from tests.worldmodel.models.tokens.small import make_model as make_tokens_model
from tests.worldmodel.toy import make_model
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.models.keypoint.exported import ExportedRollout
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.predictor import Belief, Predictor

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def plain() -> KeypointModel:
    return make_model()


@pytest.fixture(scope="module")
def exported() -> KeypointModel:
    model = make_model()
    model.export_imagination()
    return model


def tensors(belief: Belief) -> tuple[Tensor, Tensor, Tensor]:
    return belief.state, belief.motion, belief.proprio


@pytest.mark.parametrize(("batch", "samples", "horizon"), [(2, 5, 4), (1, 1, 4), (2, 30, 4), (1, 3, 6)])
def test_it_imagines_what_torch_imagines(
    plain: KeypointModel, exported: KeypointModel, batch: int, samples: int, horizon: int
) -> None:
    latent, actions = after(plain, batch=batch), some_actions(batch, samples, horizon)
    with torch.no_grad():
        wanted, found = (tensors(model.imagine(latent, actions)) for model in (plain, exported))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_robot_alone_imagines_what_it_imagines_in_a_batch(exported: KeypointModel) -> None:
    latent, actions = after(exported), some_actions()
    with torch.no_grad():
        together = exported.imagine(latent, actions).state
        for row in range(2):
            alone = exported.imagine(latent.rows(slice(row, row + 1)), actions[row : row + 1]).state
            torch.testing.assert_close(alone, together[row : row + 1], atol=1e-6, rtol=1e-6)


def test_gradients_are_those_of_torch(plain: KeypointModel, exported: KeypointModel) -> None:
    slopes = []
    for model in (plain, exported):
        actions = some_actions().requires_grad_()
        model.imagine(after(model), actions).state.square().sum().backward()
        slopes.append(actions.grad)
    assert slopes[0] is not None and slopes[0].any()
    torch.testing.assert_close(slopes[1], slopes[0])


def test_a_graph_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    rollout = ExportedRollout(model.predictor)
    whole, calls = Predictor.rollout, []

    def different_later(predictor: Predictor, belief: Belief, actions: Tensor, doubting: bool = False) -> Belief:
        calls.append(1)
        ahead = whole(predictor, belief, actions, doubting)
        return ahead.map(lambda part: part + 0.01) if len(calls) > 1 else ahead

    monkeypatch.setattr(Predictor, "rollout", different_later)
    latent = after(model).imagined().repeat(3)
    with pytest.raises(RunStopped, match="compile=onnx imagines other futures than torch"), torch.no_grad():
        rollout(latent, some_actions(2, 3))


def test_what_cannot_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="compile=onnx with a world model of family tokens: expected auto, true or"):
        make_tokens_model().export_imagination()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ONNX files need onnx, which is not installed: pip install .*\[onnx\]"):
        make_model().export_imagination()
