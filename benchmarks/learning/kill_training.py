"""Kill both trainings with SIGKILL at random times. Each result must be bit for bit that of a run without kills.

    python benchmarks/learning/kill_training.py                  # 20 kills of each training, in a temporary folder

Every kill hits the real command at a random time. One in four is anywhere in the duration of the unbroken run, most of
which is importing. The others are within a second of the attempt's first checkpoint. For each training, the stages that
the kills hit are printed, and whether the result is the same. The exit code is 1 if it is not.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENCODER = ["encoder.width=32", "encoder.depth=1", "encoder.heads=2"]
COMMON = ["env=push", "env.image_size=32", "device=cpu", "trainer.batch_size=8", "trainer.checkpoint_every_s=0.2"]
SMALL = {
    "worldmodel.pretrain": [*ENCODER, "clips.frames=4", "jepa.predictor_width=16", "jepa.predictor_depth=1"],
    "worldmodel.train": [*ENCODER, "encoder_from=random", "state.hidden=16", "state_trainer.batch_size=8",
                         "state_trainer.steps=${trainer.steps}", "appearance_trainer.steps=${trainer.steps}",
                         "appearance_trainer.batch_size=64", "state.embedding_width=16",
                         "predictor.width=32", "predictor.hidden_width=32"],
}  # fmt: skip
# The checkpoint files of the stages, the last stage first.
CHECKPOINTS = {
    "training": "training.pt",
    "training the appearance embedding": "cameras/camera/appearance/training.pt",
    "training the keypoints": "cameras/camera/keypoints/training.pt",
}


def command(module: str, steps: int, data: Path) -> list[str]:
    """The command line, the same for every attempt."""
    options = [*COMMON, *SMALL[module], f"trainer.steps={steps}", f"data={data}", "cache=frames.npy", "out=run"]
    return [sys.executable, "-m", module, *options]


def start(line: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start the command with `folder` as working directory."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(line, cwd=folder, env=environment, stdout=output, stderr=output)


def stage(folder: Path) -> str:
    """The stage of the killed run, from the files that it left."""
    for name, path in CHECKPOINTS.items():
        if (folder / "run" / path).exists():
            return name
    return "preparing" if (folder / "run" / "run.json").exists() else "starting"


def await_training(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until this attempt has written a checkpoint, or has ended."""
    before = last_checkpoint(folder)
    while process.poll() is None and last_checkpoint(folder) == before:
        time.sleep(0.005)


def last_checkpoint(folder: Path) -> int:
    """Time of the run's last checkpoint [ns], 0 before the first one."""
    paths = [folder / "run" / path for path in CHECKPOINTS.values()]
    return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)


def await_moment(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for that time, or until the process ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def require_success(line: list[str], folder: Path) -> None:
    """Run the command to its end. Exits with its output if it fails."""
    if start(line, folder).wait() != 0:
        raise SystemExit(f"{' '.join(line[2:])} failed:\n{(folder / 'output.txt').read_text()[-2000:]}")


def measure(module: str, kills: int, steps: int, data: Path, work: Path, rng: random.Random) -> bool:
    """Make one unbroken run, and then runs that are killed `kills` times in all. Returns whether all results agree."""
    line = command(module, steps, data)
    began = time.monotonic()
    require_success(line, work / "unbroken")
    seconds = time.monotonic() - began
    stages: collections.Counter[str] = collections.Counter()
    finished, equal = 0, 0
    expected = (work / "unbroken" / "run" / "model.safetensors").read_bytes()
    while stages.total() < kills:
        folder = work / f"killed_{finished}"
        while stages.total() < kills:
            process = start(line, folder)
            if rng.random() < 0.25:
                await_moment(process, rng.uniform(0, seconds))
            else:
                await_training(process, folder)
                await_moment(process, rng.uniform(0, 1))
            if process.poll() is not None:
                break  # the run ended by itself, so the next kills hit a new run
            process.kill()
            process.wait()
            stages[stage(folder)] += 1
            print(f"{module}: kill {stages.total()} of {kills} while {stage(folder)}", flush=True)
        require_success(line, folder)
        finished += 1
        equal += (folder / "run" / "model.safetensors").read_bytes() == expected
    where = ", ".join(f"{count} while {name}" for name, count in sorted(stages.items()))
    print(
        f"{module}: {stages.total()} kills ({where}); {equal} of {finished} runs end bit for bit like the unbroken one"
    )
    return equal == finished


def main() -> None:
    """Record a few episodes, then measure both trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each training (default: 20)")
    parser.add_argument("--steps", type=int, default=150, help="of each training (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = work / "data.zarr"
        record = [sys.executable, "-m", "envs.collect", *COMMON[:2], "episodes=20", "episode_steps=30", f"out={data}"]
        require_success(record, work / "collect")
        rng = random.Random(arguments.seed)
        results = [measure(m, arguments.kills, arguments.steps, data, work / m, rng) for m in SMALL]
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
