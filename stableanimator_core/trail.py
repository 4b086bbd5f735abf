"""The way a clip was sampled, kept so that a change of the face optimisation goes on from where it begins to matter."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .hjb_settings import StepSettings
from .sampling import Callback, Denoise, Refine, sample_euler
from .weights import Models

PROBES = 16  # of every weight's numbers, to tell models apart
NOT_ASKED = "face_judge"  # the part of a model that sampling doesn't use


class Course(NamedTuple):
    """What decides how a clip is sampled."""

    key: str  # differs when anything but the face optimisation does
    steps: tuple[StepSettings | None, ...]  # the face optimisation of every sampling step


class StepSeconds(NamedTuple):
    """How long a sampling step took."""

    denoise: float
    refine: float  # the face optimisation, and measuring the face where that is asked for
    iterations: int  # of the face optimisation that were taken


class Plan(NamedTuple):
    """What a run would do."""

    first: int  # sampling step that it would start with: those before are kept
    steps: int
    seconds: float | None  # about; None: nothing like it was measured yet

    def text(self) -> str:
        """In words."""
        if self.first == self.steps:
            return f"all {self.steps} steps are kept, nothing is run"
        text = f"steps {self.first} to {self.steps - 1} will be run"
        if self.first:
            text = f"steps 0 to {self.first - 1} are kept, {self.first} to {self.steps - 1} will be run"
        return text if self.seconds is None else f"{text}, about {max(self.seconds, 1):.0f} s"


class Trail:
    """Latents before the steps of one run, on the CPU, as many as fit into a limit, evenly spread.

    Give the same trail to `sample` again: it starts at the last latents kept before the first step whose face
    optimisation differs, and comes out as if all had been run. It holds one run, and what a cancelled run came to.
    """

    def __init__(self, limit_bytes: int = 512 << 20):
        self.limit_bytes = limit_bytes
        self.seconds: list[StepSeconds] = []  # of the steps of the run that it holds
        self._key: str | None = None
        self._steps: list[StepSettings | None] = []  # that were run to their end
        self._kept: dict[int, Tensor] = {}  # sampling step -> x [F, 4, h, w] before it
        self._measured: list[tuple[StepSettings | None, StepSeconds]] = []  # of all runs with this key
        self._taken = 0  # iterations, in the step that runs
        self._smaller: int | None = None  # chunk that the face optimisation went down to in this run
        self._mixed = False  # whether it did so in the step that runs

    def clear(self) -> None:
        """Forget the run."""
        self.__init__(self.limit_bytes)

    def forget_from(self, step: int) -> None:
        """Forget what this step and those after it came to: they will be run again."""
        del self._steps[step:], self.seconds[step:]
        self._kept = {kept: x for kept, x in self._kept.items() if kept <= step}

    @property
    def denoise_seconds(self) -> float:
        """How long the denoising of one step takes, without the face; 0 where none was run."""
        return statistics.median([took.denoise for _, took in self._measured] or [0.0])

    def note_iterations(self, taken: int) -> None:
        """For the face optimisation to say how many it took in the step that runs."""
        self._taken = taken

    def note_chunk(self, chunk: int) -> None:
        """For the face optimisation to say that memory ran out and it goes on with so many frames at once."""
        self._smaller, self._mixed = chunk, True

    def plan(self, course: Course) -> Plan:
        """What a run of this course would do."""
        first = 0
        if course.key == self._key:
            same = _shared(self._steps, course.steps)
            first = max((step for step in self._kept if step <= same), default=0)
        return Plan(first, len(course.steps), self._estimate(course, first))

    def sample(
        self, course: Course, denoise: Denoise, noise: Tensor, sigmas: Tensor, *, refine: Refine | None = None,
        callback: Callback | None = None,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """`sample_euler` of what is not kept yet; returns the latents and the first step that was run.

        noise: what step 0 needs. denoise, refine: what the course says; refine calls `note_iterations`.
        """
        first = self.plan(course).first
        if course.key != self._key:
            self.clear()
            self._key = course.key
        self.forget_from(first)
        self._smaller = None
        began = ended = 0.0

        def kept_denoise(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal began, ended
            self._keep(x, course)
            began = time.perf_counter()
            x0 = denoise(x, sigma)
            synchronize(x.device)
            ended = time.perf_counter()
            return x0

        def timed_refine(x0: Tensor, i: int) -> Tensor:
            self._taken, self._mixed = 0, False
            x0 = x0 if refine is None else refine(x0, i)
            synchronize(x0.device)
            took = StepSeconds(ended - began, time.perf_counter() - ended, self._taken)
            self._steps.append(self._done(course.steps[i]))
            self.seconds.append(took)
            self._measured.append((course.steps[i], took))
            return x0

        x = self._kept[first].to(noise, copy=True) if first else noise
        x = sample_euler(kept_denoise, x, sigmas, first=first, refine=timed_refine, callback=callback)
        self._keep(x, course)
        return x, first

    def _done(self, planned: StepSettings | None) -> StepSettings | None:
        """What a step did: its plan with the chunk that was used; None, which no plan has, where that changed in it."""
        if planned is None or self._smaller is None:
            return planned
        return planned._replace(chunk=None if self._mixed else self._smaller)

    def _keep(self, x: Tensor, course: Course) -> None:
        """Keep x before the next step if there is room; noise, before step 0, can be drawn again."""
        step, bytes_of_all = len(self._steps), len(course.steps) * x.nbytes
        if step and self.limit_bytes and step % math.ceil(bytes_of_all / self.limit_bytes) == 0:
            self._kept[step] = x.detach().to("cpu", copy=True)

    def _estimate(self, course: Course, first: int) -> float | None:
        rest = course.steps[first:]
        refined = [took.refine / took.iterations for _, took in self._measured if took.iterations]
        plain = [took.refine for _, took in self._measured if not took.iterations]  # measuring the face
        iterations = sum(self._expected(settings) for settings in rest if settings)
        if course.key != self._key or not self._measured or (iterations and not refined):
            return None
        left_alone = sum(settings is None for settings in rest)
        return (
            self.denoise_seconds * len(rest)
            + statistics.median(plain or [0.0]) * left_alone
            + statistics.median(refined or [0.0]) * iterations
        )

    def _expected(self, settings: StepSettings) -> float:
        """Iterations of a step: where frames stop by themselves, as many as such steps took."""
        if settings.sharpest is None:
            return settings.iterations
        taken = [took.iterations for given, took in self._measured if given and given.sharpest is not None]
        return min(settings.iterations, statistics.median(taken or [settings.iterations]))


def _shared(one: Sequence, other: Sequence) -> int:
    """How many elements two sequences begin alike with."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def key_of(models: Models, *things: Any) -> str:
    """A line that differs when the model or any of these does: arrays, tensors, dataclasses, tuples, plain values."""
    found = hashlib.blake2b(digest_size=16)
    _digest(found, (models.config, str(models.device)))
    for name, part in models.parts().items():
        if name != NOT_ASKED:
            for weight in part.state_dict().values():  # with what BatchNorm counted
                flat = weight.flatten()
                _digest(found, (tuple(weight.shape), flat[:: max(len(flat) // PROBES, 1)]))
    _digest(found, things)
    return found.hexdigest()


def _digest(found, thing: Any) -> None:
    if isinstance(thing, Tensor):
        found.update(str(thing.dtype).encode())
        thing = thing.detach().cpu()
        thing = (thing.double() if thing.is_floating_point() else thing).numpy()  # NumPy has no bfloat16
    if isinstance(thing, np.ndarray):
        found.update(f"{thing.dtype}{thing.shape}".encode())
        found.update(np.ascontiguousarray(thing).data)
    elif is_dataclass(thing):
        _digest(found, tuple(getattr(thing, field.name) for field in fields(thing)))
    elif isinstance(thing, tuple):
        found.update(b"(")
        for each in thing:
            _digest(found, each)
        found.update(b")")
    else:
        found.update(f"{type(thing).__name__} {thing!r};".encode())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it; CPUs always have."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
