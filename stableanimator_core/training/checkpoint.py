"""A stage of training that may be killed: what it needs to go on, in one file that is whole at any moment."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .loop import MovingAverage, OptimizerSteps, Progress, trained_state

log = logging.getLogger(__name__)

# A run may go on with others.
FREE = {"budget", "checkpoint_seconds", "log_every", "validate_every", "validate_steps", "graphs"}
DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError)


class Checkpoint:
    """Weights, average, optimizer and step of a stage, written every so many seconds by one of the processes.

    What else a step depends on must follow from seed, process and step. path None, or endless seconds: nothing is
    written.
    """

    def __init__(
        self, path: Path | None, *, recipe: Any, network: nn.Module, average: MovingAverage, steps: OptimizerSteps,
        progress: Progress, seconds: float, writes: bool = True,
    ):  # fmt: skip
        self.path, self.seconds = path, seconds
        self.writes = writes and path is not None and math.isfinite(seconds)
        self.network, self.average, self.steps, self.progress = network, average, steps, progress
        self._recipe = recipe_text(recipe)
        self._saved = time.monotonic()

    @torch.no_grad()
    def restore(self) -> None:
        """Go on from the file, if it is there; every process reads it.

        Raises InputError when it is of another recipe or cannot be read.
        """
        if self.path is None or not self.path.is_file():
            return
        live = trained_state(self.network)
        cuda = any(tensor.is_cuda for tensor in live.values())  # elsewhere the optimizer would keep the file's memory
        state = read_state(self.path, mmap=cuda)
        if state.get("recipe") != self._recipe:
            raise InputError(f"{self.path}: was trained with other settings; give the same ones, or another --out")
        try:
            if state["network"].keys() != live.keys():
                raise KeyError("other networks")
            for key, tensor in live.items():
                tensor.copy_(state["network"][key])
            self.average.restore(state["average"])
            self.steps.restore(state["optimizer"])
            self.progress.resume(state["step"], state["seconds"])
        except DAMAGED as error:
            raise InputError(f"{self.path}: is of another model; give the same one, or another --out") from error
        log.info("%s goes on from step %d after %.0f s", self.progress.name, state["step"], state["seconds"])

    def due(self) -> bool:
        """Whether it is time to save, in the process that does."""
        return self.writes and time.monotonic() - self._saved >= self.seconds

    def save(self, step: int) -> None:
        """Write the file after so many steps, in the process that does."""
        if not self.writes:
            return
        state = {
            "recipe": self._recipe, "network": trained_state(self.network), "average": self.average.state(),
            "optimizer": self.steps.state(), "step": step, "seconds": self.progress.seconds,
        }  # fmt: skip
        write_state(self.path, state)
        self._saved = time.monotonic()


def recipe_text(recipe: Any) -> str:
    """What a run that goes on must share with the first one: a recipe without its length and how often it writes."""
    fixed = {name: value for name, value in asdict(recipe).items() if name not in FREE}
    return json.dumps(fixed, sort_keys=True, default=str)


def check_fresh(paths: list[Path], *, resume: bool) -> None:
    """Raises InputError when a run that has left one of these files would be overwritten."""
    if left := [path for path in paths if path.exists()]:
        if not resume:
            raise InputError(f"{left[0]}: is of an earlier run; go on with --resume, or give another --out")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """torch.save in one go: whoever reads meanwhile, or after a kill, finds a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_state(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """What write_state wrote, on the CPU. Raises InputError when it cannot be read."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
    except DAMAGED as error:
        raise InputError(f"{path}: is no checkpoint of this training; give another --out") from error
