"""V-JEPA 2-AC keeps the contract of world models, comes from its official file, and can be planned with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from planning import Planner
from tests.commands import assert_refused, type_in
from tests.worldmodel.encoders.foreign.official import meta_names, randomise
from tests.worldmodel.models.conformance import WorldModelConformance, draw_actions, observe_rows, picture_of
from tests.worldmodel.models.vjepa2_ac.official import official_tensors, write_ac
from tests.worldmodel.toy import ENCODER, SPEC, TWO_CAMERAS, draw
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, EnvironmentSpec
from worldmodel.data import Episode, EpisodeWriter
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer
from worldmodel.models.registry import load_model
from worldmodel.models.vjepa2_ac.model import AcModel, AcModelConfig
from worldmodel.models.vjepa2_ac.pose import moved
from worldmodel.models.vjepa2_ac.predictor import AcConfig

LIMITS = (0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 0.5)
ARM = dataclasses.replace(
    SPEC,
    action=ActionSpec(tuple(-limit for limit in LIMITS), LIMITS, ("m", "m", "m", "rad", "rad", "rad", "")),
    proprio_size=7,
)
PREDICTOR = AcConfig(width=24, depth=2, heads=2, hidden_width=48, token_width=32)


def make_model(spec: EnvironmentSpec = ARM) -> AcModel:
    torch.manual_seed(0)
    model = AcModel(spec, AcModelConfig(ENCODER, PREDICTOR)).eval().requires_grad_(False)
    for parameter in model.predictor.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    for parameter in model.predictor.actions_in.parameters():
        parameter.mul_(20)  # actions of centimetres have to show
    return model


class TestAc(WorldModelConformance):
    def make(self) -> AcModel:
        return make_model()


@torch.no_grad()
def test_a_rollout_feeds_frames_and_poses_back() -> None:
    model = make_model()
    latent = model.observe(None, observe_rows(ARM, 1, 0), None)
    actions = draw_actions(ARM, 1, 1, 3)
    ahead = model.imagine(latent, actions)
    tokens, poses, taken = [latent.tokens], [latent.pose], actions[0]
    for step in range(3):
        predicted, _ = model.predictor(torch.stack(tokens, 1), taken[:, : step + 1], torch.stack(poses, 1))
        tokens.append(torch.nn.functional.layer_norm(predicted[:, -1], (32,)))
        poses.append(moved(poses[-1], taken[:, step]))
        torch.testing.assert_close(ahead.tokens[0, :, step], tokens[-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ahead.pose[0, :, step], poses[-1])
    torch.testing.assert_close(tokens[-1].mean(-1), torch.zeros(1, 16), atol=1e-5, rtol=0)


@torch.no_grad()
def test_samples_that_do_not_fit_into_memory_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    latent, actions = model.observe(None, observe_rows(ARM, 2, 0), None), draw_actions(ARM, 2, 5, 3)
    together = model.imagine(latent, actions)
    monkeypatch.setattr("worldmodel.models.vjepa2_ac.model._MOST_CACHED", 2 * model.predictor.cached_bytes(3))
    torch.testing.assert_close(model.imagine(latent, actions).tokens, together.tokens, atol=1e-5, rtol=1e-5)


def test_a_planner_finds_actions_toward_what_the_model_imagines() -> None:
    model = make_model()
    seen = observe_rows(ARM, 1, 0)
    planner = Planner(model, {"horizon": 3, "options.samples": 48, "options.iterations": 4, "options.elites": 8})
    latent = planner.observe({name: image[0] for name, image in seen.images.items()}, seen.proprio[0])
    goal = model.goal(picture_of(observe_rows(ARM, 1, 1)))
    plan = planner.plan(latent, picture_of(observe_rows(ARM, 1, 1)))
    assert plan.actions.shape[1] == 7 and (np.abs(plan.actions) <= np.array(LIMITS) + 1e-6).all()
    with torch.no_grad():
        wanted = torch.from_numpy(plan.actions)[None, None]
        others = torch.cat([torch.zeros_like(wanted), draw_actions(ARM, 1, 12, wanted.shape[2], seed=5)], dim=1)
        known = model.observe(None, seen, None)
        best, rest = (model.distance(model.imagine(known, a), goal).mean(-1) for a in (wanted, others))
    assert float(best.min()) < float(rest.min())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPEC, "moves an end effector by 7 numbers and reads its pose of 7: toy has actions of 2"),
        (dataclasses.replace(ARM, cameras=TWO_CAMERAS.cameras), "sees one camera: toy has top, side"),
    ],
)
def test_robots_that_do_not_fit(spec: EnvironmentSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_model(spec)


def test_a_predictor_of_another_encoder() -> None:
    with pytest.raises(UserError, match="reads tokens of 40 numbers, the encoder's have 32"):
        AcModel(ARM, AcModelConfig(ENCODER, dataclasses.replace(PREDICTOR, token_width=40)))


# --- from the official file to a checkpoint --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording of the arm, and a `.pt` with encoder and predictor as Meta publishes them."""
    folder = tmp_path_factory.mktemp("ac")
    torch.manual_seed(0)
    network = VisionTransformer(EncoderConfig(16, 2, 192, 1, 3, positions="rotary_vjepa2", norm_epsilon=1e-6))
    randomise(network)
    write_ac(folder / "ac.pt", official_tensors(24, 1, 192), encoder=meta_names(network))
    with EpisodeWriter(folder / "data.zarr", ARM, {"seed": 0}) as writer:
        for seed in range(6):
            rng = np.random.default_rng(seed)
            places = rng.uniform(0, 26, (5, 2))
            actions = rng.uniform(-0.05, 0.05, (5, 7)).astype(np.float32)
            actions[-1] = 0
            images = {"camera": np.stack([draw(place) for place in places])}
            proprio = rng.normal(size=(5, 7)).astype(np.float32)
            writer.append(Episode(images, actions, proprio, np.zeros((5, 3)), seed))
    return folder


OPTIONS = (
    "env=robot", "env.name=toy", "family=vjepa2_ac", "data=data.zarr", "cache=c.npy", "device=cpu", "encoder=vjepa2",
    "encoder.resolution=32", "held_out_fraction=0.3", "predictor.heads=2", "out=model",
)  # fmt: skip


def test_the_official_file_becomes_a_world_model(given: Path) -> None:
    ended = type_in(given, "worldmodel.train", *OPTIONS, "encoder_from=vjepa2:ac.pt", "predictor.weights=ac.pt")
    assert (ended.code, ended.err) == (0, ""), ended
    assert "one control step ahead: error " in ended.out
    measured = json.loads((given / "model" / "measured.json").read_text())
    model = load_model(str(given / "model"), torch.device("cpu"))
    assert isinstance(model, AcModel)
    assert model.reached_distance == pytest.approx(measured["change"]) and measured["change"] > 0
    official = official_tensors(24, 1, 192)
    rounded = official["predictor_embed.weight"].half().float()
    torch.testing.assert_close(model.predictor.tokens_in.weight, rounded)
    torch.testing.assert_close(model.predictor.norm.bias, official["predictor_norm.bias"])
    latent = model.observe(None, observe_rows(ARM, 2, 0), None)
    assert model.imagine(latent, draw_actions(ARM, 2, 3, 2)).tokens.shape == (2, 3, 2, 4, 192)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("encoder_from=vjepa2:ac.pt",), "predictor.weights is null"),
        (("encoder_from=pixels", "predictor.weights=ac.pt", "encoder=vit_mini"), "expected encoder_from=vjepa2:ac.pt"),
    ],
)
def test_what_is_refused_before_anything_is_written(given: Path, options: tuple[str, ...], message: str) -> None:
    changed = {option.partition("=")[0] for option in (*options, "out")}
    kept = [option for option in OPTIONS if option.partition("=")[0] not in changed]
    if "encoder=vit_mini" in options:
        kept.remove("encoder.resolution=32")
    assert_refused(type_in(given, "worldmodel.train", *kept, *options, "out=refused"), message)
    assert not (given / "refused").exists()
