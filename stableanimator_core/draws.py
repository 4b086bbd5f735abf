"""Random numbers of one generator on one device, batched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Draws from a generator; every answer is a tensor on `device`, where the generator must be, too."""

    def __init__(self, generator: torch.Generator, device: torch.device | str):
        self.generator = generator
        self.device = torch.device(device)

    def uniform(self, shape: Sequence[int], low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        """Floats from low to high; bounds are numbers or tensors of that shape."""
        share = torch.rand(tuple(shape), generator=self.generator, device=self.device)
        return low + (high - low) * share

    def log_uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Floats from low to high > 0 whose logarithms are uniform."""
        return self.uniform(shape, math.log(low), math.log(high)).exp()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal floats."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.device)

    def chance(self, shape: Sequence[int], probability: float) -> Tensor:
        """Bools that are true with this probability."""
        return self.uniform(shape) < probability

    def below(self, limit: Tensor) -> Tensor:
        """Whole numbers from 0 to limit - 1; limit is an int64 tensor of numbers >= 1."""
        return torch.minimum((self.uniform(limit.shape) * limit).long(), limit - 1)

    def one_of(self, count: int, weights: Sequence[float]) -> Tensor:
        """`count` indices into weights, int64, in proportion to them."""
        table = torch.tensor(weights, dtype=torch.float32, device=self.device)
        return torch.multinomial(table, count, replacement=True, generator=self.generator)
