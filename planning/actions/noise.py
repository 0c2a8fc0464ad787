"""Noise for sampling planners."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured_noise(samples: int, steps: int, size: int, colour: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise `[S, H, A]` of unit variance whose power falls as `1 / frequency ** colour` along `H`.

    `colour` 0 is white noise. Larger values make sequences that keep their direction (iCEM, Pinneri et al. 2020,
    arXiv 2008.06389). The method is that of Timmer and Koenig (1995). The zero frequency has the power of the lowest
    other frequency.
    """
    if colour == 0 or steps == 1:
        return torch.randn(samples, steps, size, generator=generator, device=generator.device)
    frequencies = torch.fft.rfftfreq(steps, device=generator.device)
    frequencies[0] = frequencies[1]
    std = frequencies ** (-colour / 2)
    real, imaginary = torch.randn((2, samples, size, len(std)), generator=generator, device=generator.device) * std
    # The coefficients of frequency zero and, for an even length, of the Nyquist frequency are real.
    real_only = [0, -1] if steps % 2 == 0 else [0]
    real[..., real_only] *= 2**0.5
    imaginary[..., real_only] = 0
    variance = 4 * std**2
    variance[real_only] /= 2
    noise: Tensor = torch.fft.irfft(torch.complex(real, imaginary), n=steps) * steps / variance.sum().sqrt()
    return noise.mT
