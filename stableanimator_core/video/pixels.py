"""Pictures of 8 bits to tensors in -1..1 and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def from_uint8(picture: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 127.5 - 1


def to_uint8(video: Tensor) -> np.ndarray:
    """[F, 3, H, W] in -1..1 -> [F, H, W, 3] uint8."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
