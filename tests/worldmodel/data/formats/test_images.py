"""Pictures become square without being stretched, and whatever is no picture is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from worldmodel.core.errors import UserError
from worldmodel.data.formats import images
from worldmodel.data.formats.images import Fit, Layout, decode_picture, encode_png, holds_pictures, kept_size, white_of
from worldmodel.data.formats.source import FormatError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stripes(height: int, width: int) -> np.ndarray:
    """Red, green and blue from left to right in parts of 1:2:1."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 4], picture[:, width // 4 : -width // 4], picture[:, -width // 4 :] = RED, GREEN, BLUE
    return picture


def test_a_square_of_the_right_size_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for fit in images.FITS:
        np.testing.assert_array_equal(Fit(16, 16, fit)(picture, "here"), picture)
    assert Fit(16, 16).describe(16, 16) == "16 x 16 as they are"


def test_cropping_keeps_the_middle() -> None:
    np.testing.assert_array_equal(Fit(20, 20)(stripes(20, 40), "here"), np.broadcast_to(GREEN, (20, 20, 3)))
    np.testing.assert_array_equal(Fit(5, 5)(stripes(20, 40), "here"), np.broadcast_to(GREEN, (5, 5, 3)))
    assert Fit(5, 5).describe(20, 40) == "40 x 20, cut to 20 x 20, resized to 5 x 5"


def test_a_letterbox_keeps_everything() -> None:
    boxed = Fit(40, 40, "letterbox")(stripes(20, 40), "here")
    assert not boxed[:10].any()
    assert not boxed[30:].any()
    np.testing.assert_array_equal(boxed[10:30], stripes(20, 40))
    upright = Fit(20, 20, "letterbox")(stripes(20, 40).transpose(1, 0, 2), "here")
    assert not upright[:, [0, 4, 15, 19]].any()
    assert (upright[10, 5:15] == GREEN).all()
    assert Fit(20, 20, "letterbox").describe(20, 40) == "40 x 20, with black borders to 40 x 40, resized to 20 x 20"


def test_other_aspect_ratios() -> None:
    picture = stripes(20, 40)
    np.testing.assert_array_equal(Fit(20, 40)(picture, "here"), picture)
    np.testing.assert_array_equal(Fit(20, 30)(picture, "here"), picture[:, 5:35])
    np.testing.assert_array_equal(Fit(4, 40)(picture, "here"), picture[8:12])
    assert Fit(20, 30).describe(20, 40) == "40 x 20, cut to 30 x 20"
    assert Fit(10, 20).describe(20, 40) == "40 x 20, resized to 20 x 10"
    boxed = Fit(40, 48, "letterbox")(picture, "here")
    assert boxed.shape == (40, 48, 3) and not boxed[:8].any() and not boxed[32:].any() and boxed[8:32].any(axis=2).all()


@pytest.mark.parametrize(
    ("picture", "shorter", "wanted"),
    [
        ((480, 640), 96, (96, 128)),
        ((640, 480), 96, (128, 96)),
        ((480, 640), 64, (64, 80)),  # 85 is cut to 80
        ((720, 1280), 72, (72, 128)),
        ((480, 480), 60, (56, 56)),
        ((10, 300), 8, (8, 240)),
    ],
)
def test_keeping_the_aspect_ratio(picture: tuple[int, int], shorter: int, wanted: tuple[int, int]) -> None:
    size = kept_size(*picture, shorter)
    assert size == wanted
    kept = Fit(*size, "keep")(np.full((*picture, 3), 9, np.uint8), "here")
    assert kept.shape == (*wanted, 3) and (kept == 9).all()  # no border


def test_shrinking_averages_rather_than_picks() -> None:
    checkers = np.indices((32, 32)).sum(0) % 2 * np.uint8(255)
    grey = Fit(8, 8)(np.repeat(checkers[:, :, None], 3, 2).astype(np.uint8), "here")
    assert np.abs(grey[1:-1, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("shape", [(3, 12, 12), (12, 12), (12, 12, 1), (1, 12, 12)])
def test_channels_first_and_grey(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = Fit(12, 12)(picture, "here")
    wanted = np.moveaxis(picture, 0, 2) if shape[0] in (1, 3) else picture.reshape(12, 12, -1)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (12, 12, 3)))


def test_floating_point_pictures_count_to_1_or_to_255() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture[0, 0] = 255
    for values in (picture.astype(np.float32), (picture / 255).astype(np.float32)):
        white = white_of(values)
        np.testing.assert_array_equal(Fit(12, 12, white=white)(values, "here"), picture)
    with pytest.raises(FormatError, match=r"row 3 has float32 numbers from 0 to 255: expected 0 to 1"):
        Fit(12, 12, white=1.0)(
            np.full((12, 12, 3), 255, np.float32) * (np.arange(12) > 0)[:, None, None].astype("f4"), "row 3"
        )
    with pytest.raises(FormatError, match="nan"):
        Fit(12, 12)(np.full((12, 12, 3), np.nan, np.float32), "row 3")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((48, 64, 3), np.uint8, True),
        ((3, 48, 64), np.float32, True),
        ((48, 64), np.uint8, True),
        ((48, 64), np.float32, False),  # depth, or a matrix
        ((48, 64, 4), np.uint8, False),
        ((9, 2), np.float32, False),
        ((7,), np.uint8, False),
        ((4, 4, 3), np.uint8, False),
    ],
)
def test_what_is_taken_for_pictures(shape: tuple[int, ...], dtype: type, expected: bool) -> None:
    assert holds_pictures(shape, np.dtype(dtype)) is expected


def test_layout() -> None:
    assert Layout.of((48, 64, 3)) == Layout(48, 64, 3, False)
    assert Layout.of((3, 48, 64)) == Layout(48, 64, 3, True)
    assert Layout.of((48, 64, 2)) is None


def test_png_loses_nothing() -> None:
    picture = stripes(13, 17)
    np.testing.assert_array_equal(decode_picture(encode_png(picture), "here"), picture)


def coded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coded(Image.new("RGB", (20, 20)), "GIF"), "not a PNG or JPEG"),
        (coded(Image.new("RGBA", (20, 20), (1, 2, 3, 4)), "PNG"), "transparent"),
        (coded(Image.new("I;16", (20, 20)), "PNG"), "mode I;16"),
        (coded(Image.new("CMYK", (20, 20)), "JPEG"), "mode CMYK"),
        (encode_png(stripes(40, 40))[:-40], "not a PNG or JPEG"),
        (b"", "not a PNG or JPEG"),
    ],
)
def test_other_pictures_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"frame 7 .*{message}|frame 7 is a picture of {message}"):
        decode_picture(content, "frame 7")


def test_a_picture_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    with pytest.raises(FormatError, match="20 x 20 pixels: at most 100"):
        decode_picture(encode_png(stripes(20, 20)), "frame 7")
    monkeypatch.setattr(images, "MOST_IMAGE_BYTES", 10)
    with pytest.raises(FormatError, match="at most 10 accepted"):
        decode_picture(encode_png(stripes(20, 20)), "frame 7")


def test_unknown_fits_are_refused() -> None:
    with pytest.raises(UserError, match="unknown fit 'stretch': choose from crop, keep, letterbox"):
        Fit(8, 8, "stretch")
