"""The predictor of V-JEPA 2-AC, written down plainly from its equations, and random weights in its official layout.

Nothing here is shared with the implementation: attention is over explicit pairs of tokens, and every angle is computed
for its token by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6


def official_tensors(
    width: int, depth: int, token_width: int, actions: int = 7, hidden: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights under the official names, without the prefixes of wrappers."""
    hidden = 4 * width if hidden is None else hidden
    shapes = {
        "predictor_embed": (width, token_width),
        "action_encoder": (width, actions),
        "state_encoder": (width, actions),
        "extrinsics_encoder": (width, actions - 1),
        "predictor_proj": (token_width, width),
        **{f"predictor_blocks.{i}.attn.qkv": (3 * width, width) for i in range(depth)},
        **{f"predictor_blocks.{i}.attn.proj": (width, width) for i in range(depth)},
        **{f"predictor_blocks.{i}.mlp.fc1": (hidden, width) for i in range(depth)},
        **{f"predictor_blocks.{i}.mlp.fc2": (width, hidden) for i in range(depth)},
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outward, inward) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(outward, inward, generator=generator) / math.sqrt(inward)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(outward, generator=generator)
    for name in ("predictor_norm", *(f"predictor_blocks.{i}.norm{n}" for i in range(depth) for n in (1, 2))):
        tensors[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)
    return tensors


def write_ac(path: Path, tensors: Mapping[str, Tensor], **others: Any) -> None:
    """A `.pt` as Meta publishes it, with the prefixes of its wrappers."""
    torch.save({"predictor": {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3, **others}, path)


def reference(
    weights: Mapping[str, Tensor],
    frames: Tensor,
    actions: Tensor,
    states: Tensor,
    heads: int,
    grid: tuple[int, int],
    extrinsics: Tensor | None = None,
) -> Tensor:
    """The next frames `[T, N, C]` after `frames [T, N, C]` of one sequence, under `actions` and `states [T, A]`."""
    sequence, when, where = [], [], []
    for t in range(len(frames)):
        conditions = [("action_encoder", actions[t]), ("state_encoder", states[t])]
        if extrinsics is not None:
            conditions.append(("extrinsics_encoder", extrinsics[t]))
        for name, value in conditions:
            sequence.append(linear(weights, name, value))
            where.append((float(t), 0.0, 0.0))
            when.append(t)
        for n, patch in enumerate(frames[t]):
            row, column = divmod(n, grid[1])
            sequence.append(linear(weights, "predictor_embed", patch))
            where.append((float(t), float(row), column * grid[0] / grid[1]))
            when.append(t)
    x = torch.stack(sequence)
    depth = len({name.split(".")[1] for name in weights if name.startswith("predictor_blocks.")})
    for i in range(depth):
        block = f"predictor_blocks.{i}"
        x = x + attention(weights, block, norm(weights, f"{block}.norm1", x), heads, when, where)
        inner = torch.nn.functional.gelu(linear(weights, f"{block}.mlp.fc1", norm(weights, f"{block}.norm2", x)))
        x = x + linear(weights, f"{block}.mlp.fc2", inner)
    x = linear(weights, "predictor_proj", norm(weights, "predictor_norm", x))
    skipped = 2 if extrinsics is None else 3
    return x.reshape(len(frames), -1, x.shape[-1])[:, skipped:]


def linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(
    weights: Mapping[str, Tensor],
    block: str,
    x: Tensor,
    heads: int,
    when: list[int],
    where: list[tuple[float, float, float]],
) -> Tensor:
    """Softmax over the tokens of the same and of earlier frames, head by head and token by token."""
    query, key, value = linear(weights, f"{block}.attn.qkv", x).chunk(3, dim=-1)
    size, outputs = x.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        turned_q = [turned(query[n, part], where[n]) for n in range(len(x))]
        turned_k = [turned(key[n, part], where[n]) for n in range(len(x))]
        rows = []
        for n in range(len(x)):
            seen = [m for m in range(len(x)) if when[m] <= when[n]]
            scores = torch.stack([turned_q[n] @ turned_k[m] for m in seen]) / math.sqrt(size)
            rows.append(scores.softmax(0) @ torch.stack([value[m, part] for m in seen]))
        outputs.append(torch.stack(rows))
    return linear(weights, f"{block}.attn.proj", torch.cat(outputs, dim=-1))


def turned(x: Tensor, place: tuple[float, float, float]) -> Tensor:
    """One head of one token, turned by its place in (t, y, x). Number k of a third has frequency k modulo its half."""
    third = 2 * ((len(x) // 3) // 2)
    out = x.clone()
    for axis, position in enumerate(place):
        for pair in range(third // 2):
            first, second = axis * third + 2 * pair, axis * third + 2 * pair + 1
            a, b = (position / 10_000 ** ((k % (third // 2)) / (third / 2)) for k in (2 * pair, 2 * pair + 1))
            out[first] = x[first] * math.cos(a) - x[second] * math.sin(a)
            out[second] = x[second] * math.cos(b) + x[first] * math.sin(b)
    return out
