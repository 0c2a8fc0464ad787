"""Memory of predicting with the kept mask predictor, compared with that of the model in training.

    python -m benchmarks.learning.jepa_memory                                   # the options of configs/pretrain.yaml
    python -m benchmarks.learning.jepa_memory encoder.width=768 encoder.depth=12 encoder.heads=12

Every row runs in a process of its own. Its memory is the peak of the resident memory minus what the process had before
it made the model. `weights` are those that the process holds. The clips are noise, which needs as much as images do.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn

from benchmarks.machine import CPU
from worldmodel.cli.command import Config, as_plain, composed, fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.inference import JepaInference
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.training.trainer import TrainerConfig

_ROWS = {
    "train": "a training step, with the optimiser",
    "with target": "the loss without gradients",
    "predict": "JepaInference.predict",
}
_MIB = 2**20


def _peak() -> int:
    """Largest resident memory of this process so far [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _weights(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def measure(row: str, config: Config, batch_size: int) -> tuple[int, int]:
    """Bytes of the weights of a row, and the bytes by which its run raises the peak of the resident memory."""
    encoder = from_config(EncoderConfig, config["encoder"], "encoder")
    jepa = from_config(JepaConfig, config["jepa"], "jepa")
    size = int(config["env"]["image_size"])
    clips = torch.randint(0, 256, (batch_size, int(config["clips"]["frames"]), size, size, 3), dtype=torch.uint8)
    before = _peak()
    if row == "predict":
        model = JepaInference(encoder, jepa).eval().requires_grad_(False)
        tokens = clips.shape[1] // encoder.tubelet_frames * encoder.grid(size, size).tokens
        model.predict(clips, torch.arange(tokens // 2, tokens))
        return _weights(model), _peak() - before
    module = Jepa(encoder, jepa)
    options = from_config(PretrainConfig, config["pretrain"], "pretrain")
    task = PretrainTask(module, options, lambda _: clips.numpy(), {}, 0, CPU)
    if row == "with target":
        with torch.no_grad():
            task.loss(0)
    else:
        optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
        loss: Tensor = task.loss(0)["loss"]
        loss.backward()
        optimiser.step()
    return _weights(module), _peak() - before


def _send(connection: Connection, row: str, config: Config, batch_size: int) -> None:
    torch.set_num_threads(1)
    connection.send(measure(row, config, batch_size))


def main(overrides: list[str]) -> None:
    """Print the table."""
    config = as_plain(composed("pretrain", overrides))
    given = from_config(TrainerConfig, config["trainer"], "trainer")
    batch_size = given.batch_size // given.accumulate
    console.print(
        f"batches of {batch_size} clips of {config['clips']['frames']} frames at {config['env']['image_size']}²"
    )
    context = multiprocessing.get_context("spawn")
    results = {}
    for row in _ROWS:
        ours, theirs = context.Pipe()
        process = context.Process(target=_send, args=(theirs, row, config, batch_size))
        process.start()
        theirs.close()
        results[row] = ours.recv()
        process.join()
    for row, meaning in _ROWS.items():
        weights, peak = results[row]
        shares = " ".join(f"{part / whole:4.0%}" for part, whole in zip((weights, peak), results["train"], strict=True))
        console.print(f"{meaning:36} weights {weights / _MIB:7.1f} MiB  in all {peak / _MIB:8.1f} MiB  ({shares})")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, ValueError) as error:
        fail(str(error))
