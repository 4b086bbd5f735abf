"""Sampling: the Karras schedule, the noise to start from and the Euler loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import InputError

Denoise = Callable[[Tensor, Tensor], Tensor]
Refine = Callable[[Tensor, int], Tensor]
Callback = Callable[[int, Tensor, Tensor, int], None]


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Tensor:
    """Noise levels (σ_max^(1/ρ) + i/(S−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ for i = 0..S−1, then 0: [S + 1] float32.

    Raises InputError for steps below 1. Karras et al. 2022 (arXiv 2206.00364), equation 5.
    """
    if steps < 1:
        raise InputError(f"steps {steps}: sampling needs at least 1 step")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def init_noise(
    shape: Sequence[int], sigma_max: float, *, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Noise to start from, of standard deviation √(σ_max² + 1), float32.

    It is drawn on the generator's device, so that a CPU generator gives the same noise everywhere.
    """
    noise = torch.randn(*shape, generator=generator, device=generator.device)
    return noise.to(device) * math.sqrt(sigma_max**2 + 1)


@torch.no_grad()
def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, first: int = 0, refine: Refine | None = None,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Euler steps of Karras et al. 2022 (arXiv 2206.00364).

    x: [F, 4, h, w] at noise level sigmas[first]; sigmas: [S + 1], descending to 0. Returns latents like x.
    first: the step to go on from, all by default.
    denoise(x, sigma) -> x0. refine(x0, i) -> x0 may improve the prediction of step i.
    callback(i, x0, x, S) is called before the step is taken; what it raises stops the sampling.
    """
    for i, (sigma, sigma_next) in enumerate(zip(sigmas[first:-1], sigmas[first + 1 :]), first):
        x0 = denoise(x, sigma)
        if refine is not None:
            x0 = refine(x0, i)
        if callback is not None:
            callback(i, x0, x, len(sigmas) - 1)
        x = x + (x - x0) / sigma * (sigma_next - sigma)
    return x
