"""Forward and backward as CUDA graphs: a small network is bound by its kernel launches, not by its arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class Graphed:
    """Calls a network through one CUDA graph for each shape of its first argument; on the CPU, plainly.

    dtype: of the autocast on CUDA; float32 is none, and matrix products in TF32. The network must return one tensor and
    take tensors alone. A graph whose first output differs from the network's own is not used.
    graphs=False: none at all, for networks that recompute parts of themselves in the backward pass, and for gradients
    of several calls that add up: a graph's backward writes over those of the call before.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, *, dtype: torch.dtype = torch.bfloat16, graphs: bool = True
    ):
        self.network, self.device, self.dtype = network, device, dtype
        self.graphs = graphs and device.type == "cuda"
        self._calls: dict[torch.Size, nn.Module] = {}
        if device.type == "cuda":
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)

    def __call__(self, *batch: Tensor) -> Tensor:
        cuda = self.device.type == "cuda"
        half = cuda and self.dtype != torch.float32
        with _tensor_cores(), torch.autocast(self.device.type, self.dtype, enabled=half, cache_enabled=False):
            shape = batch[0].shape
            if shape not in self._calls:
                self._calls[shape] = self._capture(batch) if self.graphs else self.network
            return self._calls[shape](*batch)

    def _capture(self, batch: tuple[Tensor, ...]) -> nn.Module:
        with torch.no_grad():
            expected = self.network(*batch).float()
        graph = torch.cuda.make_graphed_callables(_Fixed(self.network), batch, allow_unused_input=True)
        error = (graph(*batch).float() - expected).norm() / expected.norm()
        if error < 0.05:  # a NaN is not
            return graph
        log.warning("the CUDA graph for %s is off by %.3g; going on without it", list(batch[0].shape), float(error))
        return self.network


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """TF32 in matrix products of float32; what was set before returns."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class _Fixed(nn.Module):
    """A module of its own around the shared network, since a graph takes over its module's forward."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *batch: Tensor) -> Tensor:
        return self.network(*batch)
