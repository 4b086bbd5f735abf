"""The card's memory: how much of it is free, and what to do when it runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

GIB = 1 << 30
CUDA_GIB = 0.6  # of a card, for CUDA itself
Made = TypeVar("Made")


def free_bytes(device: torch.device) -> int | None:
    """What tensors can still take on a CUDA device, with what torch holds and does not use; None elsewhere.

    Where this process was given a share of the card (`limit_card`, torch's set_per_process_memory_fraction), of that.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    return min(free, int(total * _share(device))) - torch.cuda.memory_allocated(device)


def limit_card(device: torch.device, gib: float) -> None:
    """Leave this process as much of a CUDA device as a card of so many GiB would, without what CUDA itself takes."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min((gib - CUDA_GIB) * GIB / total, 1.0), _number(device))


def card_gib(device: torch.device) -> float | None:
    """How large a CUDA device is, or passes for by `limit_card`; None elsewhere."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    share = _share(device)
    return total / GIB if share == 1 else total * share / GIB + CUDA_GIB


def _share(device: torch.device) -> float:
    """Of a CUDA device that is left to this process."""
    if hasattr(torch.cuda, "get_per_process_memory_fraction"):  # torch 2.6 can't tell
        return torch.cuda.get_per_process_memory_fraction(_number(device))
    return 1.0


def _number(device: torch.device) -> int:
    """Of a CUDA device, which those two functions of torch's ask for; "cuda" alone is the present one."""
    return torch.cuda.current_device() if device.index is None else device.index


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
