"""CUDA graphs of one run: work that is done again and again is recorded once and replayed without Python.

A step of the UNet and an iteration of HJB launch thousands of kernels; Python needs as long for that as the card for
the work. All graphs of a run share their memory, since they are replayed one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from .errors import one_line

Work = Callable[..., tuple[Tensor, ...]]


class Graphs:
    """Runs work by a key: as it is at first, recorded at the second time, replayed from then on.

    Work of one key and inputs of the same shapes does the same to them. It reads nothing else that changes or is freed
    before `close`, does nothing that waits for the card, and has no effects but its result. Networks stay where they
    are. Replays take no more memory than the largest of all recordings, which is given back by `close`.
    Work is always run as it is without an NVIDIA GPU, on another than torch's current one, and with the allocator
    cudaMallocAsync, which has no memory that graphs could share (ComfyUI's own, but for --disable-cuda-malloc).
    """

    def __init__(self, device: torch.device | None = None):
        self.works = device is not None and _can_record(device)
        self._recorded: dict[Hashable, _Recorded | None] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.works else None

    def run(self, key: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """work(*inputs), tensors that are the caller's own. Raises what the work raises."""
        if not self.works:
            return work(*inputs)
        key = key, tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._recorded:
            self._recorded[key] = None
            return work(*inputs)
        if self._recorded[key] is None:
            why = self._record(key, work, inputs)
            if why:
                self.close()
                logging.getLogger(__name__).warning("CUDA graphs are off in this run: %s", why)
                return work(*inputs)
        return self._recorded[key](*inputs)

    def _record(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> str:
        """Why it failed. The error itself, which holds the work's tensors, is gone by then."""
        stream = torch.cuda.current_stream()
        try:
            self._recorded[key] = _Recorded(work, inputs, self._pool)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)
            self._stop_recording()
            return one_line(error)
        return ""

    def _stop_recording(self) -> None:
        """Tell torch that a recording is over, which it is not told where CUDA broke the recording off (`capture_end`
        raises before, in 2.11): nobody could draw random numbers again, and what the allocator keeps would stay kept.
        """
        device = torch.cuda.current_device()
        numbers = torch.cuda.default_generators[device]
        # It was told, or another torch has other words.
        with suppress(AttributeError, RuntimeError):
            numbers.graphsafe_set_state(numbers.clone_state())  # as it is, but not recorded
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)

    def close(self) -> bool:
        """Give the memory back; from now on work is run as it is. Returns whether there was something to give back."""
        if not self.works:
            return False
        self.works = False
        self._recorded.clear()
        torch.cuda.empty_cache()
        return True


OFF = Graphs()  # for callers without graphs


def _can_record(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return device.index in (None, torch.cuda.current_device()) and torch.cuda.get_allocator_backend() == "native"


class _Recorded:
    """One graph. Its inputs and outputs lie where they were when it was recorded."""

    def __init__(self, work: Work, inputs: Sequence[Tensor], pool):
        self.inputs = [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = work(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self.inputs, inputs):
            own.copy_(given)
        self.graph.replay()
        return tuple(tensor.clone() for tensor in self.outputs)
