"""Measures how fast random clips are read: `python -m benchmarks.store.clips [store] [seconds]`.

It compares, in one run, the compressed store, the decoded frame cache, and a plain memory map of the same bytes as a
reference. Without a store, it records 100 episodes of pushing, and prints the speed of recording.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import matrix_product_gflops
from worldmodel.data import ClipSampler, TrajectoryStore, load_frames

CLIP_LENGTH = 16
BATCH_SIZE = 32


def clips_per_second(read: Callable[[NDArray[np.int64]], object], sampler: ClipSampler, seconds: float) -> float:
    """Clips that `read(rows [L])` delivers per second, in the sampler's random order."""
    clips, step, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for rows in sampler.sample(step, BATCH_SIZE).rows:
            read(rows)
            clips += 1
        step += 1
    return clips / (time.perf_counter() - began)


def batched_clips_per_second(frames: NDArray[np.uint8], sampler: ClipSampler, seconds: float) -> float:
    """Clips per second with one indexing operation per batch, as in training."""
    clips, step, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        clips += len(frames[sampler.sample(step, BATCH_SIZE).rows])
        step += 1
    return clips / (time.perf_counter() - began)


def compare(store: TrajectoryStore, folder: Path, seconds: float) -> None:
    """Decode the frames of `store` into `folder`, and print the table."""
    began = time.perf_counter()
    frames = load_frames(store, folder / "frames.npy")
    decoding = time.perf_counter() - began
    plain_path = folder / "plain.bin"
    plain_path.write_bytes(frames.tobytes())
    plain = np.memmap(plain_path, np.uint8, "r", shape=frames.shape)
    sampler = ClipSampler(store.episode_ends, CLIP_LENGTH, strides=(1,), seed=0)

    def from_store(rows: NDArray[np.int64]) -> object:
        return store.read(store.layout.columns[0], int(rows[0]), int(rows[-1]) + 1)

    rates = {
        "plain memory map": clips_per_second(lambda rows: np.array(plain[rows[0] : rows[-1] + 1]), sampler, seconds),
        "store (zarr, zstd)": clips_per_second(from_store, sampler, seconds),
        "frame cache, clip by clip": clips_per_second(lambda rows: frames[rows], sampler, seconds),
        "frame cache, batches": batched_clips_per_second(frames, sampler, seconds),
    }
    size = store.spec.only_camera.height
    megabytes = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file()) / 1e6
    print(f"{store.path}: {store.num_rows} frames of {size}x{size}, {megabytes:.1f} MB compressed")
    print(f"decoded once: {frames.nbytes / 1e6:.0f} MB in {decoding:.2f} s, {store.num_rows / decoding:.0f} frames/s")
    gflops = matrix_product_gflops(torch.float32)
    print(f"random clips of {CLIP_LENGTH} frames, beside {gflops:.0f} GFLOP/s of a matrix product (float32):")
    for name, rate in rates.items():
        print(f"  {name:26s} {rate:8.0f} clips/s   {rate / rates['plain memory map']:5.2f} of the plain memory map")


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            from envs.collect import CollectConfig, collect
            from envs.registry import env_options

            path = folder / "data.zarr"
            collect(CollectConfig(100, 50, 0, None, str(path)), env_options("push"))
        compare(TrajectoryStore.open(path), folder, seconds)


if __name__ == "__main__":
    main()
