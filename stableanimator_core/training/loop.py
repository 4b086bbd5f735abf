"""What every recipe shares: the budget, the learning rate, the moving average, the log line."""

from __future__ import annotations

import atexit
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _take_tensors, _unflatten_dense_tensors

log = logging.getLogger(__name__)
CLOCK_STEPS = 10  # between looks at the clock, which all processes must agree on
MOST_SKIPPED = 50  # steps without a finite gradient before giving up
PATIENCE = timedelta(hours=12)  # of the other processes while the first one prepares something
BUCKET = 1 << 28  # bytes of gradients that the processes talk about at once


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: a number of steps, cut short by minutes if those are given."""

    steps: int
    minutes: float | None = None


class Progress:
    """Counts steps against a budget; `done` runs from 0 to 1 and drives the learning rate.

    alone: only this process counts, the others do something else meanwhile.
    """

    def __init__(self, name: str, budget: Budget, *, every: int = 100, alone: bool = False):
        self.name, self.budget, self.every, self.alone = name, budget, every, alone
        self.on_report: Callable[[int, dict[str, float]], None] | None = None  # (steps done, means), as they are logged
        self.step = 0
        self.done = 0.0
        self._start, self._seconds = time.monotonic(), 0.0
        self._sums: dict[str, Tensor | float] = {}

    def __iter__(self) -> Iterator[int]:
        while self.done < 1:
            yield self.step
            self.step += 1
            if self.budget.minutes is not None and self.step % CLOCK_STEPS == 0:
                self._seconds = self.seconds if self.alone else _first_process_says(self.seconds)
            self._measure()

    @property
    def seconds(self) -> float:
        """Since the start, with those of the runs that this one goes on from."""
        return time.monotonic() - self._start

    def resume(self, step: int, seconds: float) -> None:
        """Go on where an earlier run was after so many steps and seconds."""
        self.step, self._seconds = step, seconds
        self._start = time.monotonic() - seconds
        self._measure()

    def done_at(self, step: int) -> float:
        """How much of the budget is used up before this step; without minutes a matter of the step alone."""
        done = step / self.budget.steps
        return done if self.budget.minutes is None else max(done, self._seconds / (60 * self.budget.minutes))

    def _measure(self) -> None:
        self.done = self.done_at(self.step)

    def learning_rate(self, peak: float, *, warmup: float = 0.02, floor: float = 0.02) -> float:
        """Linear warm-up over a share of the budget, then a cosine down to floor · peak."""
        if self.done < warmup:
            return peak * max(self.done / warmup, 0.01)
        cosine = 0.5 * (1 + math.cos(math.pi * min((self.done - warmup) / (1 - warmup), 1.0)))
        return peak * (floor + (1 - floor) * cosine)

    def report(self, **values: Tensor) -> None:
        """Add up the losses; every so many steps write their means to the log."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.detach()
        if (self.step + 1) % self.every == 0:
            means = {key: float(total) / self.every for key, total in self._sums.items()}
            told = "  ".join(f"{key} {mean:.4f}" for key, mean in means.items())
            log.info("%s step %d (%.0f %%, %.0f s)  %s", self.name, self.step + 1, 100 * self.done, self.seconds, told)
            if self.on_report is not None:
                self.on_report(self.step + 1, means)
            self._sums = {}


def start_processes() -> PartialState:
    """What `accelerate launch` has started, or this process alone, set up for training."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its attention over 65,535 short sequences gave NaN
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")  # graphs are recorded on one of their own
    atexit.unregister(_leave_processes)
    atexit.register(_leave_processes)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def _leave_processes() -> None:
    """Leave the others while the interpreter still stands: Gloo's threads hold tensors, and later that aborts."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def generator_of(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator that follows from these numbers alone: seed, process, step, ..."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> np.uint64(1)))


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without parameters that are frozen; it shares the module's storage."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {key: tensor for key, tensor in module.state_dict().items() if key not in frozen}


class MovingAverage:
    """Exponential moving average of a module's weights that train, with a short memory at the start."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.decay = decay
        self._live = trained_state(module)
        self._average = {key: tensor.clone() for key, tensor in self._live.items()}
        self._floats = [key for key, tensor in self._live.items() if tensor.is_floating_point()]
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module's present weights; counters are copied."""
        self._updates += 1
        keep = min(self.decay, (1 + self._updates) / (10 + self._updates))
        average, live = self._average, self._live
        torch._foreach_lerp_([average[k] for k in self._floats], [live[k] for k in self._floats], 1 - keep)
        for key in live.keys() - set(self._floats):
            average[key].copy_(live[key])

    def state(self) -> dict[str, Any]:
        """What `restore` takes: the average and how old it is."""
        return {"average": self._average, "updates": self._updates}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier run's `state`."""
        self._updates = state["updates"]
        for key, tensor in self._average.items():
            tensor.copy_(state["average"][key])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and their average; twice restores both."""
        for key, tensor in self._live.items():
            live = tensor.clone()
            tensor.copy_(self._average[key])
            self._average[key].copy_(live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the module has the average for its weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()


class OptimizerSteps:
    """Backward over all processes, or in this one alone, clipped; a gradient that is not finite is skipped.

    scaler: for autocast in float16, whose gradients would vanish.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, clip: float = 1.0, alone: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ):  # fmt: skip
        self.optimizer, self.clip, self.alone, self.skipped = optimizer, clip, alone, 0
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad(set_to_none=True)

    def __call__(self, loss: Tensor, rate: float) -> None:
        """One step at this learning rate. Raises RuntimeError after many steps in a row without a finite gradient."""
        self.add(loss)
        self.step(rate)

    def add(self, loss: Tensor) -> None:
        """Backward of a part of a step's loss; the parts add up."""
        self.scaler.scale(loss).backward()

    def step(self, rate: float) -> None:
        """Go along the gradient that has added up, at this learning rate. Raises RuntimeError as a call does."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if not self.alone:
            _average_over_processes([p.grad for p in self.parameters if p.grad is not None])
        self.scaler.unscale_(self.optimizer)
        finite = torch.isfinite(nn.utils.clip_grad_norm_(self.parameters, self.clip))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MOST_SKIPPED:
            raise RuntimeError(f"no finite gradient in {self.skipped} steps; lower the learning rate")

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier run's `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]


def _average_over_processes(gradients: list[Tensor]) -> None:
    if not dist.is_initialized():
        return
    for some in _take_tensors(gradients, BUCKET):
        flat = _flatten_dense_tensors(some)
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(some, _unflatten_dense_tensors(flat, some)):
            gradient.copy_(mean)


def take_from_first_process(*modules: nn.Module) -> None:
    """Weights and buffers of the first process's modules, in every process; nothing to do for a single process."""
    if not dist.is_initialized():
        return
    for module in modules:
        for tensor in module.state_dict().values():  # shares the module's storage
            dist.broadcast(tensor, 0)


def _first_process_says(number: float) -> float:
    """The first process's number, in every process."""
    if not dist.is_initialized():
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    said = torch.tensor([number], dtype=torch.float64, device=device)
    dist.broadcast(said, 0)
    return float(said)
