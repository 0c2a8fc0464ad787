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


def test_one_pixel_off_square_is_accepted(tmp_path: Path) -> None:
    assert read_goal(save(tmp_path / "a.png", picture(64, 65)), square(32)).pixels.shape == (32, 32, 3)


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
    save(tmp_path / "wide.png", picture(64, 66))
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
        "wide.png": "66 x 64 pixels",
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
    goal = read_goal(save(tmp_path / "a.png", picture(), pnginfo=text), square(64))
    assert goal.goal_state is not None and goal.goal_state.tolist() == [0.1, 1 / 3]
    assert goal.start_state is not None and goal.start_state.tolist() == [1, 2]


@pytest.mark.parametrize("value", ["", "[" * 100_000, "[]", "[NaN]", "[[1]]", '["a"]', "{}", "3", "null"])
def test_text_chunks_that_hold_no_state_are_left_aside(tmp_path: Path, value: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("goal_state", value)
    assert read_goal(save(tmp_path / "a.png", picture(), pnginfo=text), square(64)).goal_state is None
