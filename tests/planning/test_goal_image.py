from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from planning import goal_image
from planning.goal_image import read_goal
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec


def square(size: int) -> CameraSpec:
    return CameraSpec("camera", size, size)


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def test_png_of_the_right_size_comes_back_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_goal(save(tmp_path / "a.png", picture()), square(64)).pixels, picture())


def test_larger_pictures_are_averaged_over_areas(tmp_path: Path) -> None:
    small = picture(16, 16)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(read_goal(save(tmp_path / "a.png", large), square(16)).pixels, small)


def test_jpeg_and_opaque_alpha_are_accepted(tmp_path: Path) -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    assert np.abs(read_goal(save(tmp_path / "a.jpg", grey), square(16)).pixels.astype(int) - 100).max() <= 2
    np.testing.assert_array_equal(read_goal(save(tmp_path / "a.png", picture(), "RGBA"), square(64)).pixels, picture())


@pytest.mark.parametrize(("height", "width"), [(64, 65), (16, 128), (240, 320), (17, 16), (1, 400)])
@pytest.mark.parametrize("fit", ["crop", "letterbox"])
def test_a_picture_of_any_size_fits_a_camera_of_any_size(tmp_path: Path, height: int, width: int, fit: str) -> None:
    camera = CameraSpec("front", 4, 12)
    pixels = read_goal(save(tmp_path / "a.png", picture(height, width)), camera, fit).pixels
    assert pixels.dtype == np.uint8 and pixels.shape == camera.shape


def test_cropping_keeps_the_middle(tmp_path: Path) -> None:
    wide = picture(32, 48)
    path = save(tmp_path / "a.png", wide)
    np.testing.assert_array_equal(read_goal(path, square(32)).pixels, wide[:, 8:40])
    np.testing.assert_array_equal(read_goal(path, CameraSpec("front", 16, 48), "crop").pixels, wide[8:24])


def test_letterboxing_keeps_all_between_black_bars(tmp_path: Path) -> None:
    wide = picture(32, 64)
    pixels = read_goal(save(tmp_path / "a.png", wide), square(64), "letterbox").pixels
    np.testing.assert_array_equal(pixels[16:48], wide)
    assert not pixels[:16].any() and not pixels[48:].any()


def test_another_way_to_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown goal_fit 'crpo': choose from crop, letterbox \(did you mean crop"):
        read_goal(save(tmp_path / "a.png", picture()), square(64), "crpo")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"goal image aaa.*cannot be opened \(File name too long\)") as error:
        read_goal("a" * 5000, square(64))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("orientation", range(10))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", picture(), exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_goal(path, square(64)).pixels, np.asarray(ImageOps.exif_transpose(image)))
    if orientation == 6:  # shown rotated by 90 degrees clockwise
        np.testing.assert_array_equal(read_goal(path, square(64)).pixels, np.rot90(picture(), -1))


def test_damage_anywhere_is_a_user_error_or_harmless(tmp_path: Path) -> None:
    exif, text, rng = Image.Exif(), PngImagePlugin.PngInfo(), np.random.default_rng(0)
    exif[0x0112], exif[0x010E] = 6, "a title"
    text.add_text("goal_state", "[1, 2]", zip=True)
    files = [save(tmp_path / "a.png", picture(24, 24), exif=exif, pnginfo=text)]
    files.append(save(tmp_path / "a.jpg", picture(24, 24), exif=exif))
    refused = 0
    for _ in range(400):
        data = bytearray(files[rng.integers(2)].read_bytes())
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(min(len(data), rng.choice([100, 400, 5000])))] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(data)
        try:
            assert read_goal(tmp_path / "damaged", square(16)).pixels.shape == (16, 16, 3)
        except UserError:
            refused += 1
    assert 100 < refused < 400


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_rgb_loses_its_lower_byte(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", *(0x1234, 0x80FF, 0xFF00) * 2)
    (tmp_path / "a.png").write_bytes(png(2, 2, 16, 2, row * 2))
    np.testing.assert_array_equal(read_goal(tmp_path / "a.png", square(2)).pixels[0, 0], [0x12, 0x80, 0xFF])


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    for side in (7000, 30000):  # below and above Pillow's own limit
        (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, b""))
        with pytest.raises(UserError, match="40,000,000"):
            read_goal(tmp_path / "a.png", square(64))


def transparent() -> Image.Image:
    image = Image.fromarray(picture()).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 254))
    return image


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
def test_other_modes_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.zeros((64, 64), np.uint16)).save(path)
    else:
        save(path, picture(), mode)
    with pytest.raises(UserError, match=f"colour mode {mode}"):
        read_goal(path, square(64))


def test_bad_files_get_one_line_that_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save(tmp_path / "whole.png", picture()).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    save(tmp_path / "picture.gif", picture())
    save(tmp_path / "tiny.png", picture(15, 15))
    transparent().save(tmp_path / "alpha.png")
    Image.fromarray(picture()).save(tmp_path / "key.png", transparency=tuple(int(v) for v in picture()[5, 5]))
    expected = {
        "missing.png": "does not exist",
        "tiny.png": "is 15 x 15 pixels: expected at least 16 x 16",
        ".": "not a file",
        "cut.png": "corrupt",
        "text.png": "not a PNG or JPEG",
        "empty.png": "not a PNG or JPEG",
        "picture.gif": "not a PNG or JPEG",
        "alpha.png": "transparent",
        "key.png": "transparent",
    }
    for name, part in expected.items():
        with pytest.raises(UserError, match=part) as caught:
            read_goal(tmp_path / name, square(64))
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(goal_image, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="at most 1,000"):
        read_goal(tmp_path / "whole.png", square(64))


def test_states_in_the_text_chunks_are_read(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("goal_state", json.dumps([0.1, 1 / 3]))
    text.add_text("start_state", "[1, 2]")
    text.add_text("environment", "push")
    goal = read_goal(save(tmp_path / "a.png", picture(), pnginfo=text), square(64))
    assert goal.goal_state is not None and goal.goal_state.tolist() == [0.1, 1 / 3]
    assert goal.start_state is not None and goal.start_state.tolist() == [1, 2]
    assert goal.environment == "push"


HUGE = [f"[{'9' * 400}]", "[-1e300]"]


@pytest.mark.parametrize("value", ["", "[" * 100_000, "[]", "[NaN]", "[[1]]", '["a"]', "{}", "3", "null", *HUGE])
def test_text_chunks_that_hold_no_state_are_left_aside(tmp_path: Path, value: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("goal_state", value)
    assert read_goal(save(tmp_path / "a.png", picture(), pnginfo=text), square(64)).goal_state is None
