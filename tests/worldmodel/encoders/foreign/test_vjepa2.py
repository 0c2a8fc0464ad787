"""Official weights of V-JEPA 2 give the features of the official code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodel.encoders.foreign.vjepa2 import Vjepa2

transformers = pytest.importorskip("transformers", reason="the reference implementation; extra dev has it")


def hugging_face(folder: Path, **changes: Any) -> Any:
    """A small random `VJEPA2Model`, which is saved to `folder` as the official ones are."""
    shape = {
        "hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 2, "crop_size": 64, "patch_size": 16,
        "frames_per_clip": 4, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1,
        "initializer_range": 0.2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**shape, **changes})).eval()
        for name, value in model.named_parameters():  # biases and norms are constant at first
            if value.ndim == 1:
                value.data += 0.1 * torch.randn_like(value)
    model.save_pretrained(folder)
    return model


def reference_features(model: Any, clips: Tensor) -> Tensor:
    """Tokens `[B, N, D]` of clips, uint8 `[B, T, H, W, 3]`, normalised as the official processor does."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((clips / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        return model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state


def test_x(tmp_path: Path) -> None:
    model = hugging_face(tmp_path)
    encoder = Vjepa2.read(str(tmp_path), None)
    clips = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8)
    a, b = encoder.encode_clips(clips), reference_features(model, clips)
    print((a - b).abs().max(), a.std())
    still = clips[:, 0]
    c, d = encoder.encode_frames(still), reference_features(model, still[:, None].expand(-1, 2, -1, -1, -1))
    print((c - d).abs().max())
