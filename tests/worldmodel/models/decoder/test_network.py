from __future__ import annotations

import pytest
import torch

from worldmodel.core.spec import CameraSpec
from worldmodel.models.decoder.network import DecoderConfig, ImageDecoder

SMALL = DecoderConfig(patch_size=4, places=3, width=8, depth=1, hidden_width=8)


def make(height: int, width: int, config: DecoderConfig = SMALL) -> ImageDecoder:
    torch.manual_seed(0)
    network = ImageDecoder(CameraSpec("camera", height, width), config, code_size=5)
    with torch.no_grad():
        network.mean.uniform_()
        network.out.weight.normal_()
    return network.eval()


def test_the_first_image_is_the_mean_image() -> None:
    network = ImageDecoder(CameraSpec("camera", 8, 8), SMALL, code_size=5)
    network.mean.uniform_()
    torch.testing.assert_close(network(torch.randn(2, 5)), network.mean.expand(2, -1, -1, -1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48), (30, 21), (4, 4), (3, 50)])
def test_images_have_the_size_of_the_camera_whatever_it_is(height: int, width: int) -> None:
    network, codes = make(height, width), torch.randn(2, 5)
    images = network(codes)
    assert images.shape == (2, 3, height, width)
    assert not torch.allclose(images[0], images[1])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 21)])
def test_cutting_a_image_undoes_what_putting_its_squares_together_does(height: int, width: int) -> None:
    network, codes = make(height, width), torch.randn(2, 5)
    cut, drawn = network.cut(network(codes)), network.squares(codes)
    inside = network.cut(network.mean + torch.ones(1, 3, height, width)).bool()  # pixels beyond the edge are zero
    assert cut.shape == drawn.shape == (2, network.grid.tokens, 48)
    torch.testing.assert_close(cut, drawn * inside)


def test_squares_can_be_drawn_by_themselves() -> None:
    network, codes = make(32, 48), torch.randn(2, 5)
    which = torch.tensor([[0, 7, 95], [50, 3, 3]])
    every = network.squares(codes)
    torch.testing.assert_close(network.squares(codes, which), torch.stack([every[0, which[0]], every[1, which[1]]]))


@pytest.mark.parametrize("name", ["patch_size", "places", "width", "depth", "hidden_width"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="every size must be at least 1"):
        DecoderConfig(**{name: 0})
