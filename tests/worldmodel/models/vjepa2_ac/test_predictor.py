"""The predictor of V-JEPA 2-AC computes what its official equations say, and sees no future."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worldmodel.models.vjepa2_ac.official import official_tensors, reference, write_ac
from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.models.vjepa2_ac.files import OfficialConfig, read_predictor, read_shape
from worldmodel.models.vjepa2_ac.predictor import AcConfig, AcPredictor

WIDTH, DEPTH, HEADS, TOKENS = 56, 2, 2, 10  # heads of 28 numbers: three parts of 8, and 4 numbers that are not turned
GRID = Grid(2, 3)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "ac.pt"
    write_ac(path, official_tensors(WIDTH, DEPTH, TOKENS))
    return path


def predictor_of(file: Path, extrinsics: bool = False) -> AcPredictor:
    return read_predictor(OfficialConfig(str(file), HEADS, extrinsics), GRID)


def draw(frames: int, rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames, actions, poses and poses of the camera: noise."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (frames, GRID.tokens, TOKENS), (frames, 7), (frames, 7), (frames, 6)
    tokens, actions, poses, cameras = (torch.randn(rows, *size, generator=generator) for size in sizes)
    return tokens, actions, poses, cameras


@pytest.mark.parametrize("extrinsics", [False, True])
@torch.no_grad()
def test_it_computes_the_official_equations(file: Path, extrinsics: bool) -> None:
    tokens, actions, poses, cameras = draw(3)
    weights = official_tensors(WIDTH, DEPTH, TOKENS)
    known = cameras if extrinsics else None
    found, _ = predictor_of(file, extrinsics)(tokens, actions, poses, cameras=known)
    for row in range(2):
        of_row = None if known is None else known[row]
        wanted = reference(weights, tokens[row], actions[row], poses[row], HEADS, GRID, of_row)
        torch.testing.assert_close(found[row], wanted, **CLOSE)


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from(["tokens", "actions", "poses"]), st.integers(0, 99))
@torch.no_grad()
def test_frames_know_their_past_and_their_own_action_and_not_the_future(
    frames: int, changed: int, what: str, seed: int
) -> None:
    torch.manual_seed(seed)
    predictor = AcPredictor(AcConfig(WIDTH, DEPTH, HEADS, 2 * WIDTH, TOKENS), GRID).eval()
    given_, changed = dict(zip(("tokens", "actions", "poses"), draw(frames, seed=seed), strict=False)), changed % frames
    before, _ = predictor(**given_)
    given_[what] = given_[what].clone()
    given_[what][:, changed] += 1
    after, _ = predictor(**given_)
    torch.testing.assert_close(after[:, :changed], before[:, :changed], **CLOSE)
    difference = (after - before).abs().amax((0, 2, 3))
    assert bool((difference[changed:] > 1e-4).all()), "an action changes its own frame's successor, and all after it"


@pytest.mark.parametrize("cut", [1, 2, 3])
@torch.no_grad()
def test_a_cache_changes_nothing(file: Path, cut: int) -> None:
    predictor = predictor_of(file)
    given_ = draw(4)[:3]
    whole, _ = predictor(*given_)
    first, cache = predictor(*(part[:, :cut] for part in given_))
    second, cache = predictor(*(part[:, cut:] for part in given_), cache)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **CLOSE)
    assert cache.steps == 4


def test_the_file_tells_the_shape(file: Path) -> None:
    assert read_shape(OfficialConfig(str(file), HEADS)) == AcConfig(WIDTH, DEPTH, HEADS, 4 * WIDTH, TOKENS, 7)
    # The published predictor: 24 blocks of width 1024, 305 million parameters.
    with torch.device("meta"):
        official = AcPredictor(AcConfig(), Grid(16, 16))
    assert 300e6 < sum(p.numel() for p in official.parameters()) < 310e6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OfficialConfig(), "predictor.weights is null: expected the path of an official .pt file"),
        (OfficialConfig("nowhere.pt"), "no encoder at nowhere.pt"),
        (OfficialConfig("encoder.pt"), "encoder.pt has none of predictor: it has encoder"),
        (OfficialConfig("masks.pt"), "masks.pt has a predictor without actions"),
        (OfficialConfig("ac.pt", heads=3), "width 56 is not a multiple of twice the heads"),
        (OfficialConfig("less.pt", heads=2), "tensor 'norm.bias' is missing"),
        (OfficialConfig("."), "predictor.weights . is a folder"),
    ],
)
def test_files_without_such_a_predictor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: OfficialConfig, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = official_tensors(WIDTH, DEPTH, TOKENS)
    write_ac(tmp_path / "ac.pt", tensors)
    write_ac(tmp_path / "less.pt", {name: value for name, value in tensors.items() if name != "predictor_norm.bias"})
    write_ac(tmp_path / "masks.pt", {"predictor_embed.weight": torch.zeros(4, 4)})
    torch.save({"encoder": {"a": torch.zeros(1)}}, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_predictor(config, GRID)
