"""Pretraining on a folder of real videos: speed, memory, bit-for-bit resume after SIGKILL, and hostile files.

    python -m benchmarks.learning.videos                     # 220 files; some minutes on two cores
    python -m benchmarks.learning.videos --files 40 --steps 20 --kills 1

It renders and generates videos of several sizes, rates, codecs and containers, and damages one in ten. Then it runs the
real command unbroken, and again with SIGKILL at random moments and a Ctrl-C. It prints the survey, the share of a step
that the training waits for clips, the largest memory of the command and of its workers, and whether the results are the
same. The exit code is 1 if a result differs or the share is 5 % or more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from worldmodel.core.machine import num_processors

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((96, 128), (120, 160), (144, 176), (180, 320), (240, 320), (128, 96), (121, 163))
RATES = (8, 12, 15, 24, 25, 30)
# File name's suffix, encoder and pixel format. All of them accept sizes that are odd after the rounding in `write`.
KINDS = (
    (".mp4", "libx264", "yuv420p"), (".mp4", "libx265", "yuv420p"), (".mp4", "libx265", "yuv420p10le"),
    (".mp4", "mpeg4", "yuv420p"), (".webm", "libvpx", "yuv420p"), (".webm", "libvpx-vp9", "yuv420p"),
    (".avi", "mpeg4", "yuv420p"), (".mkv", "ffv1", "yuv444p"), (".mp4", "libsvtav1", "yuv420p"),
)  # fmt: skip
SOURCES = ("testsrc2", "mandelbrot", "life", "cellauto", "gradients", "smptebars")  # of FFmpeg's lavfi
DAMAGES = ("cut", "empty", "text", "bits")
MOST_WAITING = 0.05


# --- the folder ------------------------------------------------------------------------------------------------------


def moving_shapes(rng: np.random.Generator, height: int, width: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    """Coloured rectangles that move and bounce over a gradient."""
    count = int(rng.integers(2, 6))
    colours = rng.integers(0, 256, (count, 3))
    sizes = rng.integers(8, max(9, height // 3), (count, 2))
    place, speed = rng.uniform(0, 1, (count, 2)), rng.uniform(-0.03, 0.03, (count, 2))
    ground = np.linspace(0, 200, width)[None, :, None] * rng.uniform(0.2, 1, 3) + np.zeros((height, 1, 1))
    for _ in range(frames):
        picture = ground.astype(np.uint8)
        for colour, size, at in zip(colours, sizes, place, strict=True):
            top, left = (at * (height - size[0], width - size[1])).astype(int)
            picture[top : top + size[0], left : left + size[1]] = colour
        yield picture
        place = place + speed
        speed = np.where((place < 0) | (place > 1), -speed, speed)
        place = np.clip(place, 0, 1)


def pushing(rng: np.random.Generator, height: int, width: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    """Renderings of our pushing environment under random actions."""
    from envs.registry import make_named

    env = make_named("push", image_size=height // 8 * 8)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    for _ in range(frames):
        picture = observation["images"]["camera"]
        yield np.pad(picture, ((0, height - picture.shape[0]), (0, max(0, width - picture.shape[1])), (0, 0)))[
            :, :width
        ]
        observation, *_ = env.step(env.action_space.sample())


def generated(rng: np.random.Generator, height: int, width: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    """One of FFmpeg's own patterns."""
    source = f"{rng.choice(SOURCES)}=size={width}x{height}:rate=25"
    # Some of the patterns round odd sizes down.
    scale = f"scale={width}:{height},format=rgb24"
    line = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", source]
    line += ["-frames:v", str(frames), "-vf", scale]
    made = subprocess.run([*line, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    yield from np.frombuffer(made, np.uint8).reshape(-1, height, width, 3)


def write(path: Path, codec: str, pixels: str, rate: int, pictures: Iterator[NDArray[np.uint8]]) -> None:
    """Encode a video."""
    first = next(pictures)
    height, width = (size // 2 * 2 for size in first.shape[:2])
    options = {"libx265": {"x265-params": "log-level=none"}, "libx264": {"preset": "veryfast"}}.get(codec, {})
    if codec.startswith("libvpx"):
        options = {"deadline": "realtime", "cpu-used": "8"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for number, picture in enumerate([first, *pictures]):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def damage(path: Path, how: str, rng: np.random.Generator) -> None:
    """Damage a file in place."""
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "text":
        content = bytearray(b"this is no video\n" * 50)
    else:
        for place in rng.integers(0, len(content), 40):
            content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def make_folder(folder: Path, files: int, seed: int) -> None:
    """Write `files` videos, of which one in ten is damaged."""
    makers: tuple[Callable[..., Iterator[NDArray[np.uint8]]], ...] = (moving_shapes, pushing, generated)
    os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 prints a page for every file otherwise
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        suffix, codec, pixels = KINDS[number % len(KINDS)]
        height, width = SIZES[number % len(SIZES)]
        path = folder / f"part{number % 5}" / f"{number:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = int(rng.integers(24, 200))
        write(path, codec, pixels, RATES[number % len(RATES)], makers[number % 3](rng, height, width, frames))
        if number % 10 == 9:
            damage(path, DAMAGES[number // 10 % len(DAMAGES)], rng)


# --- the command -----------------------------------------------------------------------------------------------------


def start(folder: Path, data: Path, steps: int, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the real command in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "worldmodel.pretrain", f"data={data}", "out=run", "cache=frames.npy", "device=cpu"]
    line += [f"trainer.steps={steps}", "trainer.log_every=5", f"trainer.evaluate_every={steps}"]
    line += ["trainer.checkpoint_every_s=2", "pretrain.probe_frames=200", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(line, cwd=folder, env=environment, stdout=output, stderr=output)


def memory_mb(process: int) -> float:
    """Largest resident memory of a process so far [MB]; 0 if it has ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{process}/status").read_text()
        return float(text.partition("VmHWM:")[2].split()[0]) / 1000
    return 0.0


def children(process: int) -> list[int]:
    """Processes that `process` has started."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{process}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def measured(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Wait for the end. Returns the largest memory of the command and of one worker [MB]."""
    own, worker = 0.0, 0.0
    while process.poll() is None:
        own = max(own, memory_mb(process.pid))
        worker = max([worker, *map(memory_mb, children(process.pid))])
        time.sleep(0.2)
    return own, worker


def waiting(folder: Path) -> tuple[float, float]:
    """Share of the time spent waiting for clips after the first log line, and the number of skipped files."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "clips_waited" in line]
    return float(np.mean([line["clips_waited"] for line in logged[1:]])), logged[-1]["files_skipped"]


def broken(
    folder: Path, data: Path, steps: int, options: list[str], kills: int, seconds: float, seed: int
) -> list[str]:
    """Run with `kills` SIGKILLs, and one Ctrl-C, at random moments. Returns which of them hit a training."""
    rng, hits = random.Random(seed), []
    for number in range(kills + 1):
        process = start(folder, data, steps, options)
        timer = threading.Event()
        timer.wait(rng.uniform(0.15, 0.35) * seconds)  # the training is to be hit by all of them
        workers = children(process.pid)
        blow = signal.SIGINT if number == kills else signal.SIGKILL
        process.send_signal(blow)
        code = process.wait()
        hits += [blow.name] if code else []  # 0: the training was over before
        timer.wait(3)
        left = [worker for worker in workers if Path(f"/proc/{worker}/exe").exists()]
        print(f"  ended with {code}; {len(workers)} workers, {len(left)} of them still there after 3 s", flush=True)
    if start(folder, data, steps, options).wait():
        raise SystemExit((folder / "output.txt").read_text()[-2000:])
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=220)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the videos are kept for the next time")
    parser.add_argument("options", nargs="*", help="further options of the command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = arguments.folder or work / "videos"
        if not data.exists():
            began = time.monotonic()
            make_folder(data, arguments.files, arguments.seed)
            print(f"{arguments.files} files made in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        process = start(work / "unbroken", data, arguments.steps, arguments.options)
        own, worker = measured(process)
        if process.returncode:
            raise SystemExit((work / "unbroken" / "output.txt").read_text()[-2000:])
        seconds = time.monotonic() - began
        print(next(line for line in (work / "unbroken" / "output.txt").read_text().splitlines() if "videos of" in line))
        share, skipped = waiting(work / "unbroken")
        print(f"{arguments.steps} steps in {seconds:.0f} s on {num_processors()} cores: waits for clips {share:.1%}")
        print(f"{skipped:.0f} more files refused a clip; memory {own:.0f} MB, of a worker {worker:.0f} MB", flush=True)
        options = arguments.options
        hits = broken(work / "broken", data, arguments.steps, options, arguments.kills, seconds, arguments.seed)
        results = [(work / kind / "run" / "model.safetensors").read_bytes() for kind in ("unbroken", "broken")]
        same = results[0] == results[1]
        print(f"after {', '.join(hits)}, the encoder is {'the same' if same else 'ANOTHER'}")
    raise SystemExit(0 if same and share < MOST_WAITING else 1)


if __name__ == "__main__":
    main()
