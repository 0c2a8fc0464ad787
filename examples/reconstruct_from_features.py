"""Reconstruct images from frozen features: python examples/reconstruct_from_features.py FEATURES RECORDING

FEATURES come from `wm features data=RECORDING encoder_from=... rows.pool=none out=FEATURES`. The decoder is the one
that shows what a world model imagines. Here it is conditioned on the features instead, as any generator could be.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldmodel.data import TrajectoryStore
from worldmodel.encoders.export.shards import FeatureFolder
from worldmodel.models.decoder.network import DecoderConfig, ImageDecoder
from worldmodel.models.decoder.training import DecodingConfig, draw_squares

HELD_OUT = 10  # one of so many episodes is held out
SHOWN = 8  # images in the picture that is written


def load(features, recording, most):
    """Codes `[M, D]`, images `[M, 3, H, W]` from 0 to 1, and which rows are held out `[M]`, of at most `most` rows."""
    folder, store = FeatureFolder.open(features), TrajectoryStore.open(recording)
    columns = folder.read()
    kept = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(folder))[:most]))
    codes = columns["features"][kept].flatten(1).float()
    item, row = columns["item"][kept], columns["row"][kept]
    camera = store.spec.only_camera
    images = torch.empty(len(kept), 3, camera.height, camera.width)
    for episode in item.unique().tolist():
        here, start = item == episode, store.episode_rows(episode).start
        frames = store.episode(episode).images[camera.name][(row[here] - start).numpy()]
        images[here] = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    held_out = item % HELD_OUT == HELD_OUT - 1
    codes = (codes - codes[~held_out].mean(0)) / codes[~held_out].std(0).clamp_min(1e-6)
    return codes, images, held_out, camera


def reconstruct(features, recording, out, steps=1000, batch=64, most=5000):
    """PSNR [dB] of held-out images as the decoder reconstructs them, and that of the mean image."""
    codes, images, held_out, camera = load(features, recording, most)
    torch.manual_seed(0)
    decoder = ImageDecoder(camera, DecoderConfig(), codes.shape[1])
    decoder.mean.copy_(images[~held_out].mean(0))
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=2e-3, weight_decay=0.01)
    generator, training = torch.Generator().manual_seed(0), torch.nonzero(~held_out).flatten()
    options = DecodingConfig(squares=min(32, decoder.grid.tokens))
    for step in range(steps):
        rows = training[torch.randint(len(training), (batch,), generator=generator)]
        squares = decoder.cut(images[rows])
        which, weight = draw_squares(squares, options, generator)  # most squares of an image never change
        wanted = squares.gather(1, which[..., None].expand(-1, -1, squares.shape[2]))
        loss = (weight * (decoder.squares(codes[rows], which) - wanted).pow(2).mean(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.5f}")

    real = images[held_out]
    with torch.no_grad():
        drawn = torch.cat([decoder(part) for part in codes[held_out].split(64)]).clamp(0, 1)
    psnr, of_mean = (-10 * (x - real).pow(2).mean((1, 2, 3)).mean().log10() for x in (drawn, decoder.mean))
    print(f"held-out images: PSNR {psnr:.1f} dB, and the mean image {of_mean:.1f} dB")
    rows = torch.cat([torch.cat(list(x[:SHOWN]), dim=2) for x in (real, drawn)], dim=1)
    Image.fromarray((rows * 255).round().byte().movedim(0, -1).numpy()).save(out)
    print(f"{out}: {min(SHOWN, len(real))} of them above their reconstructions")
    return float(psnr), float(of_mean)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("recording")
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"))
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    reconstruct(given.features, given.recording, given.out, given.steps)
