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
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learning.large_step import MASKS, PREDICTOR
from benchmarks.machine import matrix_product_gflops, median_ms
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.configs import read_choice
from worldmodel.core.device import DTYPES
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.masks import LONG_RANGE, SHORT_RANGE, Mask, MaskFn
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer, gather_tokens, to_unit_range

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
    "small": Size("vit_small", 16, 112, 4, PREDICTOR, MASKS),
}
OPTIONS: Final = {"code": "", "sizes": ",".join(SIZES), "precisions": "fp32,bf16", "repeats": "5", "batch": ""}


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
            terms.append((predicted - gather_tokens(features, mask.hidden)).abs().mean())
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


def whole(loss: Callable[[], Tensor], update: Callable[[], None], dtype: torch.dtype) -> Callable[[], None]:
    """One step: the loss under autocast, its gradient, and the update."""

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = loss()
        value.backward()
        update()

    return step


def measured(
    modules: tuple[ModuleType, ModuleType], size: Size, dtype: torch.dtype, repeats: int
) -> tuple[float, float, float, float]:
    """Times of Meta's step and of ours [ms], our share of a matrix product's rate, and the encoders' ratio."""
    config = from_config(EncoderConfig, read_choice("encoder", size.encoder), "encoder")
    rng, layers = np.random.default_rng(0), size.frames // config.tubelet_frames
    clips = torch.from_numpy(rng.integers(0, 256, (size.batch, size.frames, size.side, size.side, 3), np.uint8))
    masks = [mask(size.batch, layers, config.grid(size.side, size.side), rng) for mask in size.masks]
    own = own_step(config, size, clips, masks)
    with FlopCounterMode(display=False) as counter:
        own[0]().backward()
    before = matrix_product_gflops(dtype)
    steps = [whole(*meta_step(modules, config, size, clips, masks), dtype), whole(*own, dtype)]
    theirs, ours = median_ms(steps, repeats, warm_up=1)
    peak = (before + matrix_product_gflops(dtype)) / 2
    alone = [whole(encoder, lambda: None, dtype) for encoder in encoders(config, size, clips)]
    own_encoder, their_encoder = median_ms(alone, repeats, warm_up=1)
    return theirs, ours, counter.get_total_flops() / 1e6 / ours / peak, their_encoder / own_encoder


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """The options that were typed, and the others' defaults. Raises UserError for one that there is not."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for option in given:
        if option not in OPTIONS:
            raise UserError(choices_message("option", option, OPTIONS))
    if not given.get("code"):
        raise UserError("code is missing: expected a clone of github.com/facebookresearch/vjepa2")
    return {**OPTIONS, **given}


def chosen(what: str, names: str, accepted: Iterable[str]) -> list[str]:
    """What `names` lists, separated by commas. Raises UserError for what is not in `accepted`."""
    for name in names.split(","):
        if name not in accepted:
            raise UserError(choices_message(what, name, accepted))
    return names.split(",")


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    given = read_options(arguments)
    sizes, precisions = chosen("size", given["sizes"], SIZES), chosen("precision", given["precisions"], DTYPES)
    repeats, batch = int(given["repeats"]), int(given["batch"] or 0)
    warnings.filterwarnings("ignore", category=FutureWarning)  # Meta's code chooses its attention in an old way
    modules = meta(Path(given["code"]))
    shown = table(
        f"one step of V-JEPA on {torch.get_num_threads()} threads, medians of {repeats}",
        "size", "clips", "precision", "Meta [ms]", "ours [ms]", "Meta / ours", "of peak", "encoder: HF / ours",
    )  # fmt: skip
    for name in sizes:
        size = dataclasses.replace(SIZES[name], batch=batch or SIZES[name].batch)
        for precision in precisions:
            theirs, ours, share, encoder = measured(modules, size, DTYPES[precision], repeats)
            shown.add_row(
                name, str(size.batch), precision, f"{theirs:.0f}", f"{ours:.0f}", f"{theirs / ours:.2f}",
                f"{share:.0%}", f"{encoder:.2f}",
            )  # fmt: skip
    console.print(shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, ValueError) as error:
        fail(str(error))
