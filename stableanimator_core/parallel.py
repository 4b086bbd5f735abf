"""One job in several processes, each with the networks on a device of its own; without a launcher, in this one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from .errors import GRACE, InputError, one_line

PATIENCE = timedelta(hours=12)  # of the others while the first process finds poses

T = TypeVar("T")


class LostProcess(RuntimeError):
    """Another process cannot be reached; it has probably said why."""


@dataclass(frozen=True)
class Processes:
    """How many processes share the job and which of them this is.

    All must come to `gather`, `told` and `from_first` equally often. What fails must end its process, and the launcher,
    which sees that, the others; they would wait.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that answers."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items; none where there are fewer items than processes."""
        return items[self.rank :: self.count]

    def gather(self, table: Tensor) -> Tensor:
        """A table with the entries of all processes. table: 0 in the entries of the others; it is changed.

        Exact, however many processes there are: a sum of one number and zeros is that number.
        """
        if self.count > 1:
            import torch.distributed as dist

            with _talking():
                dist.all_reduce(table)
        return table

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; the others make nothing. It has to be picklable."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        made = [make() if self.first else None]
        with _talking():
            dist.broadcast_object_list(made, device=torch.device("cpu"))
        return made[0]

    def told(self, number: float) -> list[float]:
        """The number that every process says, in all of them."""
        if self.count == 1:
            return [number]
        table = torch.zeros(self.count)
        table[self.rank] = number
        return self.gather(table).tolist()


ALONE = Processes()


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # Gloo raises no class of its own
        raise LostProcess(f"another process has gone ({one_line(error)})") from error


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that `accelerate launch` or torchrun has started, and the device of this one.

    device: what the user asked for, in all processes alike. Within the block only the first process is heard. What
    fails raises at once in the first process and after GRACE in the others: the launcher ends them before that when the
    first one has failed alike. It also ends those that lost another process, which wait the longest.
    Raises InputError when a process has no device of its own.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if count == 1:
        yield ALONE, device
        return
    import torch.distributed as dist

    try:
        own = own_device(device, int(os.environ.get("LOCAL_RANK", rank)))
        if own.startswith("cuda"):
            torch.cuda.set_device(own)
        dist.init_process_group("cpu:gloo,cuda:nccl" if own.startswith("cuda") else "gloo", timeout=PATIENCE)
        if rank == 0:
            yield Processes(rank, count), own
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield Processes(rank, count), own
        dist.destroy_process_group()
    except KeyboardInterrupt as cancelled:
        if rank:
            raise SystemExit(130) from cancelled
        raise
    except Exception as error:
        time.sleep(GRACE * ((rank > 0) + isinstance(error, LostProcess)))
        raise


def own_device(device: str, number: int) -> str:
    """The device of this host's process with that number, from 0. Raises InputError where there is none."""
    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    if device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise InputError(f"device '{device}' for several processes: give auto, cuda (each its own GPU) or cpu")
    gpus = torch.cuda.device_count()
    if number >= gpus:
        raise InputError(f"process {number} of this host finds {gpus} GPUs: launch --num_processes {max(gpus, 1)}")
    return f"cuda:{number}"
