from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.checkpoints import edit_config, edit_tensors
from tests.worldmodel.models.conformance import draw_actions, observe_rows
from tests.worldmodel.models.decoder.small import make_network, save_small
from tests.worldmodel.models.tokens import small
from tests.worldmodel.toy import MODEL, SPEC, TWO_CAMERAS, make_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.models.contract import SupportsDecoding, WorldModel
from worldmodel.models.decoder.decoder import Decoder, code_size, load_decoder, to_pixels
from worldmodel.models.keypoint.model import KeypointModel

MODELS: dict[str, Callable[[], WorldModel]] = {
    "keypoint": make_model,
    "keypoint of two cameras": lambda: make_model(spec=TWO_CAMERAS),
    "tokens of two cameras": lambda: small.make_model(small.TWO_CAMERAS),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return MODELS[request.param]()


def test_latents_of_every_kind_are_shown(model: WorldModel) -> None:
    decoder = Decoder(model, make_network(model))
    assert isinstance(decoder, SupportsDecoding)
    seen = observe_rows(model.spec, 3, 0)
    latent = model.observe(None, seen, None)
    goal = model.goal(ImageGoal({name: image[0] for name, image in seen.images.items()}))
    ahead = model.imagine(latent, draw_actions(model.spec, 3, 2, 4))
    for latents, leading in ((latent, (3,)), (goal, (1,)), (ahead, (3, 2, 4))):
        shown = decoder.decode(latents)
        assert list(shown) == list(model.spec.camera_names)
        for camera in model.spec.cameras:
            assert shown[camera.name].shape == (*leading, *camera.shape)
            assert shown[camera.name].dtype == torch.uint8
    assert decoder.code(ahead).shape == (3, 2, 4, code_size(model))
    for camera, images in decoder.reconstruct(seen).items():
        assert torch.equal(images, decoder.decode(latent)[camera])


def test_a_step_that_is_imagined_is_shown_as_it_would_be_by_itself(model: WorldModel) -> None:
    decoder = Decoder(model, make_network(model))
    latent = model.observe(None, observe_rows(model.spec, 1, 0), None)
    ahead = decoder.code(model.imagine(latent, draw_actions(model.spec, 1, 1, 4)))
    for camera, images in decoder.show(ahead).items():
        alone = decoder.show(ahead[:, :, 2])[camera]
        assert (images[:, :, 2].short() - alone.short()).abs().max() <= 1


def test_a_checkpoint_brings_the_same_images_back(model: WorldModel, tmp_path: Path) -> None:
    network = make_network(model)
    with torch.no_grad():  # what half precision keeps, so that nothing is rounded
        for name, value in network.state_dict().items():
            if value.ndim >= 2 and not name.endswith("mean"):
                value.copy_(value.half().float())
    save_small(tmp_path, model)
    latent = model.observe(None, observe_rows(model.spec, 2, 0), None)
    loaded, again = load_decoder(tmp_path, model).decode(latent), load_decoder(tmp_path, model).decode(latent)
    for camera, images in Decoder(model, network).decode(latent).items():
        assert torch.equal(loaded[camera], images) and torch.equal(again[camera], images)


def test_features_tell_images_apart(model: WorldModel) -> None:
    decoder = Decoder(model, make_network(model))
    seen, other = (observe_rows(model.spec, 2, seed).images for seed in (0, 1))
    features = decoder.features(seen)
    assert features.ndim == 2 and len(features) == 2
    assert torch.equal(decoder.feature_distance(features, features), torch.zeros(2))
    apart = decoder.feature_distance(features, decoder.features(other))
    assert apart.shape == (2,) and bool((apart > 0).all())
    by_hand = np.sqrt(np.square(features[0].numpy() - decoder.features(other)[0].numpy()).mean())
    assert float(apart[0]) == pytest.approx(by_hand, rel=1e-5)


def test_pixels_are_rounded_and_cut_off_and_what_is_no_number_is_black() -> None:
    images = torch.tensor([-0.5, 0.0, 0.5, 1.0, 7.0, torch.nan]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    pixels = to_pixels(images)
    assert pixels.shape == (1, 2, 3, 3) and pixels[0, ..., 0].flatten().tolist() == [0, 0, 128, 255, 255, 0]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_decoder_of_another_model_is_refused(tmp_path: Path) -> None:
    model, other = make_model(), make_model(seed=1)
    save_small(tmp_path, model)
    load_decoder(tmp_path, model)
    with pytest.raises(UserError, match="was trained for another world model") as refused:
        load_decoder(tmp_path, other)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


class Silent(KeypointModel):
    """One of a family that does not say what can be seen of its latents."""

    decodable = None  # type: ignore[assignment]


def test_a_family_that_says_nothing_of_its_latents_is_refused() -> None:
    model = Silent(SPEC, MODEL)
    network = make_network(make_model())
    for refused in (lambda: Decoder(model, network), lambda: code_size(model)):
        with pytest.raises(UserError, match="family keypoint cannot be decoded: expected a family with the method"):
            refused()


def test_there_is_no_decoder_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no decoder at .*nowhere: make one with `python -m worldmodel\.decode`"):
        load_decoder(tmp_path / "nowhere", make_model())


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path, {})
    with pytest.raises(UserError, match="kind 'world_model', expected 'decoder'"):
        load_decoder(tmp_path, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10**9}, "larger than its weights can be for"),
        ({"depth": 10**6}, "more than the|larger than"),
        ({"places": 5}, "has shape"),
        ({"width": 0}, "every size must be at least 1"),
        ({"width": "wide"}, "expected a whole number"),
        ({"class": "os.system"}, "unknown decoder option"),
    ],
)
def test_sizes_of_a_stranger_are_refused_before_they_take_memory(tmp_path: Path, change: dict, message: str) -> None:
    model = make_model()
    save_small(tmp_path, model)
    edit_config(tmp_path, lambda config: config["decoder"].update(change))
    with pytest.raises(UserError, match=message):
        load_decoder(tmp_path, model)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = make_model()
    save_small(tmp_path, model)
    edit_tensors(tmp_path, lambda tensors: tensors["of_cameras.camera_camera.out.bias"].fill_(torch.nan))
    with pytest.raises(UserError, match="numbers that are not finite"):
        load_decoder(tmp_path, model)


def test_images_of_another_size_have_no_features() -> None:
    model = make_model()
    decoder = Decoder(model, make_network(model))
    with pytest.raises(UserError, match="pictures of camera camera"):
        decoder.features({SPEC.camera_names[0]: np.zeros((1, 8, 8, 3), np.uint8)})
