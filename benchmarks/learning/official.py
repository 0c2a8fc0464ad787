"""Time of a step of V-JEPA beside Meta's code, and of an encoder beside Hugging Face's, in one run.

git clone https://github.com/facebookresearch/vjepa2
python -m benchmarks.learning.official code=vjepa2
python -m benchmarks.learning.official code=vjepa2 sizes=mini,small precisions=fp32 repeats=7 batch=2

`mini` has the defaults of configs/pretrain.yaml, and `small` is ViT-S/16 on clips of 16 x 112 x 112 with V-JEPA's masks
and predictor. A step is forward and backward through all networks, AdamW, and the update of the target encoder. Both
get the same clips and the same masks. Meta's gets pixels that are scaled already, and its attention is torch's fused
one. Its code and ours alternate, and the table has medians.

Hugging Face's V-JEPA 2 encodes all tokens of a clip also in training, so that its steps are not comparable. The encoder
alone is compared with it, forward and backward on whole clips. Its attention is torch's fused one, too.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import CPU, matrix_product_gflops
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.configs import read_choice
from worldmodel.core.device import DTYPES
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.masks import LONG_RANGE, SHORT_RANGE, Mask, MaskFn, MultiBlock
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer, to_unit_range

MOMENTUM: Final = 0.999
CLIP_NORM: Final = 1.0  # the trainer clips gradients, which Meta's code does not


@dataclasses.dataclass(frozen=True)
class Size:
    """What is trained.

    Attributes:
        encoder: a file of configs/encoder.
        side: height and width of the images [pixels].
    """

    encoder: str
    frames: int
    side: int
    batch: int
    jepa: JepaConfig
    masks: tuple[MaskFn, ...]


SIZES: Final = {
    "mini": Size("vit_mini", 4, 64, 64, JepaConfig(targets="layer_norm"), (SHORT_RANGE, LONG_RANGE)),
    "small": Size(
        "vit_small", 16, 112, 4,
        JepaConfig(predictor_width=384, predictor_depth=12, predictor_heads=12, targets="layer_norm"),
        (MultiBlock(blocks=8, spatial_scale=0.15), MultiBlock(blocks=2, spatial_scale=0.7)),
    ),
}  # fmt: skip


def meta(code: Path) -> tuple[ModuleType, ModuleType]:
    """Meta's modules of the encoder and of the predictor. Raises UserError if they are not in the folder `code`."""
    if not (code / "src" / "models" / "vision_transformer.py").is_file():
        raise UserError(f"code '{code}': expected a clone of github.com/facebookresearch/vjepa2")
    if importlib.util.find_spec("timm") is None:
        # The one name that they import from timm leaves out branches at random, which no step here does.
        layers = ModuleType("timm.models.layers")
        layers.drop_path = None  # type: ignore[attr-defined]
        sys.modules |= {"timm": ModuleType("timm"), "timm.models": ModuleType("timm.models"), layers.__name__: layers}
    sys.path.insert(0, str(code))
    encoder, predictor = (importlib.import_module(f"src.models.{name}") for name in ("vision_transformer", "predictor"))
    return encoder, predictor


def meta_step(
    modules: tuple[ModuleType, ModuleType], config: EncoderConfig, size: Size, clips: Tensor, masks: Sequence[Mask]
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """Loss of Meta's networks, and what follows the backward pass."""
    shape: dict[str, Any] = {
        "img_size": size.side, "patch_size": config.patch_size, "num_frames": size.frames, "use_sdpa": True,
        "tubelet_size": config.tubelet_frames, "mlp_ratio": config.mlp_ratio, "qkv_bias": True,
    }  # fmt: skip
    encoder = modules[0].VisionTransformer(
        embed_dim=config.width, depth=config.depth, num_heads=config.heads, **shape
    ).train()  # fmt: skip
    del shape["mlp_ratio"], shape["qkv_bias"]  # `vit_predictor` sets them
    predictor = modules[1].vit_predictor(
        embed_dim=config.width, predictor_embed_dim=size.jepa.predictor_width, depth=size.jepa.predictor_depth,
        num_heads=size.jepa.predictor_heads, use_mask_tokens=True, **shape,
    ).train()  # fmt: skip
    target = copy.deepcopy(encoder).requires_grad_(False)
    optimiser = torch.optim.AdamW([p for m in (encoder, predictor) for p in m.parameters() if p.requires_grad])
    pixels = to_unit_range(clips).permute(0, 4, 1, 2, 3).contiguous()

    def loss() -> Tensor:
        with torch.no_grad():
            features = target(pixels)
            features = nn.functional.layer_norm(features, features.shape[-1:])
        terms = []
        for number, mask in enumerate(masks):
            context = encoder(pixels, masks=[mask.visible])
            predicted = predictor(context, mask.visible, mask.hidden, mask_index=number)
            wanted = features.gather(1, mask.hidden[..., None].expand(-1, -1, features.shape[-1]))
            terms.append((predicted - wanted).abs().mean())
        return torch.stack(terms).mean()

    def update() -> None:
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            own, slow = list(encoder.parameters()), list(target.parameters())
            torch._foreach_mul_(slow, MOMENTUM)
            torch._foreach_add_(slow, own, alpha=1 - MOMENTUM)

    return loss, update


def own_step(
    config: EncoderConfig, size: Size, clips: Tensor, masks: Sequence[Mask]
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """The same of ours."""
    jepa = Jepa(config, size.jepa).train()
    parameters = [p for p in jepa.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, fused=True)

    def update() -> None:
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimiser.step()
        optimiser.zero_grad()
        jepa.update_target(MOMENTUM)

    return lambda: jepa(clips, masks)["loss"], update


def encoders(config: EncoderConfig, size: Size, clips: Tensor) -> list[Callable[[], Tensor]]:
    """The encoder on whole clips, ours and Hugging Face's, as a sum of its features."""
    config = dataclasses.replace(config, positions="rotary_vjepa2")
    own = VisionTransformer(config).train()
    theirs = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            patch_size=config.patch_size, crop_size=size.side, frames_per_clip=size.frames, hidden_size=config.width,
            tubelet_size=config.tubelet_frames, num_attention_heads=config.heads, num_hidden_layers=config.depth,
            mlp_ratio=config.mlp_ratio, pred_hidden_size=48, pred_num_attention_heads=2, pred_num_hidden_layers=1,
            attn_implementation="sdpa",
        )
    ).train()  # fmt: skip
    pixels = to_unit_range(clips).permute(0, 1, 4, 2, 3).contiguous()
    return [lambda: own(clips).sum(), lambda: theirs(pixels, skip_predictor=True).last_hidden_state.sum()]


def seconds(steps: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of each step [s]. The steps alternate."""
    taken: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 1):
        for number, step in enumerate(steps):
            began = time.perf_counter()
            step()
            if repeat:  # the first call allocates memory and chooses kernels
                taken[number].append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def whole(loss: Callable[[], Tensor], update: Callable[[], None], dtype: torch.dtype) -> Callable[[], None]:
    """One step: the loss under autocast, its gradient, and the update."""

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = loss()
        value.backward()
        update()

    return step


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    given = dict(argument.split("=", 1) for argument in arguments)
    if "code" not in given:
        raise UserError("code is missing: expected a clone of github.com/facebookresearch/vjepa2")
    warnings.filterwarnings("ignore", category=FutureWarning)  # Meta's code chooses its attention in an old way
    modules, repeats = meta(Path(given["code"])), int(given.get("repeats", 5))
    shown = table(
        f"one step of V-JEPA on {torch.get_num_threads()} threads, medians of {repeats}",
        "size", "clips", "precision", "Meta [ms]", "ours [ms]", "Meta / ours", "of peak", "encoder: HF / ours",
    )  # fmt: skip
    for name in given.get("sizes", "mini,small").split(","):
        if name not in SIZES:
            raise UserError(choices_message("size", name, SIZES))
        size = SIZES[name]
        size = dataclasses.replace(size, batch=int(given.get("batch", size.batch)))
        config = from_config(EncoderConfig, read_choice("encoder", size.encoder), "encoder")
        rng, layers = np.random.default_rng(0), size.frames // config.tubelet_frames
        clips = torch.from_numpy(rng.integers(0, 256, (size.batch, size.frames, size.side, size.side, 3), np.uint8))
        masks = [mask(size.batch, layers, config.grid(size.side, size.side), rng) for mask in size.masks]
        for precision in given.get("precisions", "fp32,bf16").split(","):
            if precision not in DTYPES:
                raise UserError(choices_message("precision", precision, DTYPES))
            dtype, nothing = DTYPES[precision], lambda: None
            own = own_step(config, size, clips, masks)
            with FlopCounterMode(display=False) as counter:
                own[0]().backward()
            before = matrix_product_gflops(dtype, CPU)
            theirs, ours = seconds(
                [whole(*meta_step(modules, config, size, clips, masks), dtype), whole(*own, dtype)], repeats
            )
            peak = (before + matrix_product_gflops(dtype, CPU)) / 2
            alone = seconds([whole(step, nothing, dtype) for step in encoders(config, size, clips)], repeats)
            shown.add_row(
                name, str(size.batch), precision, f"{theirs * 1e3:.0f}", f"{ours * 1e3:.0f}",
                f"{theirs / ours:.2f}", f"{counter.get_total_flops() / 1e9 / ours / peak:.0%}",
                f"{alone[1] / alone[0]:.2f}",
            )  # fmt: skip
    console.print(shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, ValueError) as error:
        fail(str(error))
