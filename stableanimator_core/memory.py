"""The card's memory: how much of it is free, and what to do when it runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")


def free_bytes(device: torch.device) -> int | None:
    """What tensors can still take on a CUDA device, with what torch holds and does not use; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def attempt(work: Callable[..., Made], *given) -> Made | None:
    """work(*given), which is never None; None when memory ran out, with all that the work had taken given back."""
    try:
        return work(*given)
    except RuntimeError as error:  # its traceback holds the work's tensors: they go at the end of this block
        if not ran_out(error):
            raise
    torch.cuda.empty_cache()
    return None


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out: torch's own error, or what CUDA, Triton and cuBLAS say when they find no room."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "ALLOC_FAILED" in said
