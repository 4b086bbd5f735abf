"""Context windows: the UNet sees a few frames at once; overlapping windows cover a clip of any length."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError


def context_windows(frames: int, size: int, overlap: int) -> list[list[int]]:
    """Frame indices of each window; every frame is in at least one.

    The published model was run with windows that all begin with frame 0, as an anchor for the looks:
    [0, i+1, …, i+size-1] for i = 0, size-overlap, …, and one more that ends with the last frame.
    A clip that fits one window gets one, of its own length.
    Raises InputError unless 2 <= size and 0 <= overlap < size.
    """
    if size < 2 or not 0 <= overlap < size:
        raise InputError(f"context window {size} with overlap {overlap}: need 2 <= window and 0 <= overlap < window")
    if frames <= size:
        return [list(range(frames))]
    stride = size - max(overlap, 1)  # frame 0 takes the first place, so two windows share overlap - 1 frames
    starts = list(range(0, frames - size + 1, stride))
    if starts[-1] + size < frames:
        starts.append(frames - size)
    return [[0, *range(start + 1, start + size)] for start in starts]


def window_weights(size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Triangular blending weights of a window's frames, [size], all positive."""
    weight = (torch.arange(size, device=device) + 0.5) * 2 / size
    return torch.minimum(weight, 2 - weight)
