"""Where networks run: named, found, or refused with the choices."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
import torch

from worldmodel.core.device import DTYPES, _computes_in_bf16, autocast, pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError


def test_devices_are_named_or_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"device 'tpu' is not on this machine: choose from auto, cpu"):
        pick_device("tpu")


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(0, False, "cpu"), (2, True, "cuda"), (0, True, "mps")])
def test_auto_takes_the_fastest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(expected)
    if cuda:
        assert pick_device("cuda:1") == torch.device("cuda:1")
    else:
        with pytest.raises(UserError, match="cuda:0"):
            pick_device("cuda:0")


def test_imagination_is_compiled_on_a_gpu_or_as_told() -> None:
    assert [pick_compile("auto", torch.device(name)) for name in ("cuda:0", "cpu", "mps")] == [True, False, False]
    assert [pick_compile(choice, torch.device("cpu")) for choice in (True, False, "onnx")] == [True, False, "onnx"]
    with pytest.raises(UserError, match="compile 'always' is unknown: choose from auto, true, false, onnx"):
        pick_compile("always", torch.device("cpu"))


CPU = torch.device("cpu")


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What a device can do is asked again, here and after the test."""
    _computes_in_bf16.cache_clear()
    yield
    _computes_in_bf16.cache_clear()


def test_precision_is_as_told() -> None:
    assert [pick_precision(name, CPU) for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    with pytest.raises(UserError, match=r"precision .bf15.: choose from auto, bf16, fp32 \(did you mean bf16\?"):
        pick_precision("bf15", CPU)


@pytest.mark.parametrize(
    ("machine", "instructions", "arm", "expected"),
    [
        ("x86_64", (False, False), True, "fp32"),  # torch emulates it there
        ("AMD64", (True, False), False, "bf16"),
        ("x86_64", (False, True), False, "bf16"),
        ("aarch64", (False, False), True, "bf16"),
        ("arm64", (False, False), False, "fp32"),
    ],
)
def test_auto_is_bf16_where_a_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
    forgetful: None,
    machine: str,
    instructions: tuple[bool, bool],
    arm: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: instructions[1])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: arm)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm)
    assert pick_precision("auto", CPU) == expected
    with autocast("auto", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == DTYPES[expected]


def test_auto_is_bf16_where_a_gpu_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == "fp32"
    assert pick_precision("auto", torch.device("mps")) == "bf16"
