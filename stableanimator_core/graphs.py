"""CUDA graphs of one run: work that is done again and again is recorded once and replayed without Python.

A step of the UNet and an iteration of HJB launch thousands of kernels; Python needs as long for that as the card for
the work. All graphs of a run share their memory, since they are replayed one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .errors import one_line

Work = Callable[..., tuple[Tensor, ...]]


class Graphs:
    """Runs work by a key: as it is at first, recorded at the second time, replayed from then on.

    Work that is recorded takes tensors of the same shapes whenever it has the same key, does nothing that waits for the
    card, and has no effects but its result. Networks must stay where they are as long as this lives.
    Without an NVIDIA GPU work is always run as it is.
    """

    def __init__(self, device: torch.device):
        self.works = device.type == "cuda" and torch.version.hip is None
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
            try:
                self._recorded[key] = _Recorded(work, inputs, self._pool)
            except RuntimeError as error:  # also where memory does not suffice for the pool
                self.close()
                logging.getLogger(__name__).warning("CUDA graphs are off in this run: %s", one_line(error))
                return work(*inputs)
        return self._recorded[key](*inputs)

    def close(self) -> None:
        """Give the memory back; from now on work is run as it is."""
        if self.works:
            self.works = False
            self._recorded.clear()
            torch.cuda.empty_cache()


class _Recorded:
    """One graph. Its inputs and outputs lie where they were when it was recorded."""

    def __init__(self, work: Work, inputs: Sequence[Tensor], pool):
        self.inputs = [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in inputs]
        torch.cuda.empty_cache()  # what the work took as it was run first, and takes once more now
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.outputs = work(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self.inputs, inputs):
            own.copy_(given)
        self.graph.replay()
        return tuple(tensor.clone() for tensor in self.outputs)
