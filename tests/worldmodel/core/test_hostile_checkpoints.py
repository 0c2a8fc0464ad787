"""A thousand damaged and hostile checkpoints: each is refused in one line, at once, without memory."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel.checkpoints import seal
from tests.worldmodel.models.tokens import small
from tests.worldmodel.toy import SPEC, make_encoder, make_model
from worldmodel.core.errors import UserError
from worldmodel.encoders.registry import load_encoder, save_encoder
from worldmodel.models.contract import WorldModel
from worldmodel.models.registry import load_model

CPU = torch.device("cpu")
FLIPS, EDITS, HEADERS = 100, 300, 100  # variants of each kind, for each family; more than a thousand in all
MAKERS: dict[str, Callable[[], WorldModel]] = {"keypoint": make_model, "tokens": small.make_model}
LONGEST_S = 10.0
# What a stranger may write in the place of any value.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 10**9, 10**18, 10**30, -(10**30), 0.0, -0.5, 1e-300, 1e300, "", "vit", "\ud800",
    "\x1b[31m", "a" * 10_000, [], [1], [[]], {}, {"kind": "vit"}, {"": 1}, list(range(2000)),
]  # fmt: skip


@pytest.fixture(scope="module", params=sorted(MAKERS))
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    MAKERS[request.param]().save(folder, {"trainer": {"learning_rate": 1e-05, "half": 0.30000000000000004}})
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def load(folder: Path) -> str | None:
    """The one line that a checkpoint is refused with; None where it loads."""
    began = time.monotonic()
    try:
        load_model(str(folder), CPU)
    except UserError as error:
        assert "\n" not in str(error)
        str(error).encode()  # can be printed
        return str(error)
    finally:
        assert time.monotonic() - began < LONGEST_S
    return None


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    """All of this module together takes less than a gibibyte more than what torch has taken already."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # [KiB]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_every_flipped_bit_is_refused(folder: Path, name: str) -> None:
    content, rng = (folder / name).read_bytes(), random.Random(0)
    # The beginning has what is read first: all of the header, or of the description, and then some of the rest.
    places = [*range(0, 8), *(rng.randrange(len(content)) for _ in range(FLIPS))]
    for place in places:
        bit = rng.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        (folder / name).write_bytes(damaged)
        assert load(folder) is not None, (name, place, bit)


def test_a_number_written_otherwise_is_refused(folder: Path) -> None:
    """The same values, and yet not the text that was written: bits have changed."""
    text = (folder / "config.json").read_text()
    for before, after in (("1e-05", "1E-05"), ("0.30000000000000004", "0.30000000000000003"), ("4.0,", "4.00,")):
        assert before in text
        (folder / "config.json").write_text(text.replace(before, after))
        assert "is damaged: its config.json is not as it was written" in str(load(folder))


def places_in(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where any value is in nested lists and dictionaries."""
    if place:
        yield place
    if isinstance(values, dict | list):
        for key in values if isinstance(values, dict) else range(len(values)):
            yield from places_in(values[key], (*place, key))


def test_any_value_may_be_anything_and_the_digest_right(folder: Path) -> None:
    """Some variants still describe a model, for example of another environment; all others end in one line."""
    config, rng, loaded = json.loads((folder / "config.json").read_text()), random.Random(1), 0
    model = [place for place in places_in(config) if place[0] in ("model", "environment")]
    every = list(places_in(config))
    for number in range(EDITS):
        changed = json.loads(json.dumps(config))
        for _ in range(1 + number % 2):
            *path, last = rng.choice(every if number % 4 == 0 else model)
            inner: Any = changed
            try:
                for key in path:
                    inner = inner[key]
                if rng.random() < 0.15:
                    del inner[last]
                else:
                    inner[last] = rng.choice(ODD)
            except (KeyError, IndexError, TypeError):
                continue  # the first change took it away
        (folder / "config.json").write_text(json.dumps(changed))
        seal(folder)
        loaded += load(folder) is None
    assert 0 < loaded < EDITS / 2


def test_any_header_may_say_anything(folder: Path) -> None:
    path, rng = folder / "model.safetensors", random.Random(2)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = list(header)
    kinds = ["F64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F16", "", None, 3, "f32"]
    for _ in range(HEADERS):
        changed = json.loads(json.dumps(header))
        name = rng.choice(names)
        entry = changed[name]
        key = rng.choice(["dtype", "shape", "data_offsets"])
        numbers = [rng.choice([0, 1, -1, 2**31, 2**62, 10**30, 1.5, None, "1"]) for _ in range(rng.randrange(5))]
        entry[key] = rng.choice(kinds) if key == "dtype" else numbers
        if entry == header[name]:
            continue
        written = json.dumps(changed).encode()
        claimed = len(written) if rng.random() < 0.9 else rng.choice([0, 1, len(written) + 1, 2**31, 2**63])
        path.write_bytes(claimed.to_bytes(8, "little") + written + rest)
        seal(folder)
        assert load(folder) is not None


def test_an_encoder_is_held_to_the_same(tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path, SPEC, {})
    content, rng = (tmp_path / "model.safetensors").read_bytes(), random.Random(3)
    for _ in range(20):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError):
            load_encoder(tmp_path, SPEC.cameras)
