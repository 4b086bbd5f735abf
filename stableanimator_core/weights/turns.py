"""Large networks take turns on a card that has no room for all of them; moving them changes no number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ..memory import GIB, attempt, free_bytes

HEAVY = ("unet", "image_encoder")  # nine tenths of the published model; the other networks always stay
SPARE_BYTES = GIB  # of what is free, for the other networks' work, workspaces and gaps
MAIN_MEMORY = torch.device("cpu")


class Turns:
    """Which of some networks are on a CUDA device; the others wait in main memory.

    A network that is wanted comes, and those that are not wanted leave only where there is no room for both.
    """

    def __init__(self, device: torch.device, networks: Sequence[nn.Module]):
        self.device, self.networks = device, networks
        self.moved = 0  # bytes so far, both ways
        self._wanted: list[nn.Module] = []  # by blocks that run

    @contextmanager
    def holding(self, wanted: Sequence[nn.Module], room: float) -> Iterator[None]:
        """Within the block `wanted` are on the device, beside about so many free bytes if those that nobody wants can
        make them.

        Raises torch.OutOfMemoryError for a network that does not fit.
        """
        self._wanted += wanted
        try:
            self.bring(wanted, room)
            yield
        finally:
            for network in wanted:
                self._wanted.remove(network)

    def bring(self, wanted: Sequence[nn.Module], room: float) -> None:
        """Move these to the device, as `holding` says."""
        missing = sum(bytes_of(network) for network in wanted if not self.holds(network))
        if missing + room + SPARE_BYTES > self.free():
            self.make_room()
        for network in wanted:
            self._bring(network)

    def make_room(self) -> bool:
        """Send those that nobody wants to main memory; whether there were any."""
        leaving = [network for network in self.networks if self.holds(network) and network not in self._wanted]
        for network in leaving:
            self.move(network, MAIN_MEMORY)
        if leaving:
            torch.cuda.empty_cache()
        return bool(leaving)

    def gain(self, wanted: Sequence[nn.Module]) -> int:
        """How many more bytes would be free if `wanted` were on the device and the others not; may be below 0."""
        leaving = sum(bytes_of(network) for network in self.networks if self.holds(network) and network not in wanted)
        return leaving - sum(bytes_of(network) for network in wanted if not self.holds(network))

    def free(self) -> float:
        """Bytes on the device."""
        return free_bytes(self.device)

    def holds(self, network: nn.Module) -> bool:
        """Whether all of a network is on the device."""
        return all(weight.device == self.device for weight in network.parameters())

    @torch.inference_mode(False)  # weights born in inference mode can't be differentiated through
    def move(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network in place and return it."""
        self.moved += bytes_of(network)
        return network.to(device)

    def _bring(self, network: nn.Module) -> None:
        while not self.holds(network) and attempt(self.move, network, self.device) is None:
            if not self.make_room():
                self.move(network, MAIN_MEMORY)  # what had come of it
                raise torch.OutOfMemoryError(
                    f"{type(network).__name__}: its {bytes_of(network) / GIB:.1f} GiB do not fit on {self.device}; "
                    "close what else uses the card, or take a smaller model"
                )


def has_room(device: str | torch.device, network: nn.Module) -> bool:
    """Whether a network fits on a device as it is now, with something to spare; told of CUDA devices alone."""
    free = free_bytes(torch.device(device))
    return free is None or bytes_of(network) + SPARE_BYTES <= free


def bytes_of(network: nn.Module) -> int:
    """What the weights take, wherever they are."""
    return sum(weight.nbytes for weight in network.parameters())
