"""Where networks run: named, found, or refused with the choices."""

from __future__ import annotations

import pytest
import torch

from worldmodel.core.device import pick_compile, pick_device, pick_precision
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
    assert [pick_compile(choice, torch.device("cpu")) for choice in (True, False)] == [True, False]
    with pytest.raises(UserError, match="compile 'always' is unknown: choose from auto, true, false"):
        pick_compile("always", torch.device("cpu"))


def test_precision_is_one_of_two() -> None:
    assert [pick_precision(name) for name in ("bf16", "fp32")] == [torch.bfloat16, torch.float32]
    with pytest.raises(UserError, match=r"unknown precision 'bf15': choose from bf16, fp32 \(did you mean bf16\?\)"):
        pick_precision("bf15")
