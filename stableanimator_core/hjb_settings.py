"""What HJB does and when: its settings, and what they come to in one sampling step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .errors import InputError

# Adaptive: a frame stops when its CSIM has not risen by RISE in PATIENCE iterations.
RISE = 0.01
PATIENCE = 2
# Times as sharp as the reference's face: nine of ten faces of drawn performers are below it in their true videos.
SHARPEST = 1.2

Points = tuple[tuple[float, float], ...]  # (share of the sampling steps, factor of the learning rate)

FALLING: Points = ((0.0, 1.0), (1.0, 0.0))  # the paper's η (1 − i/n)
CURVES: Mapping[str, Points] = {
    "falling": FALLING,
    "even": ((0.0, 1.0),),
    "rising": ((0.0, 0.0), (1.0, 1.0)),
    "middle": ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0)),
}


class StepSettings(NamedTuple):
    """What HJB does in one sampling step: steps with equal settings do the same to the same latents."""

    iterations: int  # at most, where `sharpest` is given
    lr: float
    margin: int | None  # None: whole frames are decoded
    scope: str
    chunk: int | None  # None: not known yet, or not the same in all iterations
    sharpest: float | None  # None: no frame stops before the others


@dataclass(frozen=True)
class HJBConfig:
    """How the face is optimised. Raises InputError when a value makes no sense.

    iterations: Adam steps in each refined sampling step, 0 switches HJB off. first_step, last_step: sampling steps to
    refine, from 0, both inclusive. lr: η; sampling step i of n works at η times `strength` at i/n.
    decode: "face" decodes the latents of a chunk's faces and `margin` cells around them, "full" whole frames.
    scope: "face" moves the latents of the face box only, "all" every latent that was decoded (Adam moves each of them
    by about the learning rate, however small its gradient is).
    chunk: the most frames that are decoded at once; None is CHUNK, and fewer where a GPU's memory is short of that.
    When memory runs out all the same, half as many are. Another chunk gives slightly other numbers: the decoder's
    temporal layers see one chunk at a time, and its window holds the faces of other frames.
    stop: "count" takes all iterations; "adaptive" at most these: in each step a frame goes back to its best latents and
    rests as soon as its CSIM has not risen by RISE in PATIENCE iterations, or its face becomes more than `sharpest`
    times as sharp as the reference's and sharper than it was; frames that never rest end with their best latents, too.
    strength: points between which the learning rate's factor runs straight, level before the first and after the last.
    """

    iterations: int = 10
    first_step: int = 0
    last_step: int = 9
    lr: float = 0.1
    decode: Literal["face", "full"] = "face"
    scope: Literal["face", "all"] = "face"
    margin: int = 2
    chunk: int | None = None
    stop: Literal["count", "adaptive"] = "count"
    sharpest: float = SHARPEST
    strength: Points = FALLING

    def __post_init__(self):
        if self.iterations < 0:
            raise InputError(f"hjb-iterations {self.iterations}: give 0 (HJB off) or more")
        if self.first_step < 0:
            raise InputError(f"hjb-steps {self.first_step}:{self.last_step} starts before step 0")
        if self.last_step < self.first_step:
            raise InputError(f"hjb-steps {self.first_step}:{self.last_step} runs backwards, give FIRST:LAST")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"HJB learning rate {self.lr}: give a number above 0, 0.1 is usual")
        if self.decode not in ("face", "full"):
            raise InputError(f'HJB decode "{self.decode}": give "face" or "full"')
        if self.scope not in ("face", "all"):
            raise InputError(f'HJB scope "{self.scope}": give "face" or "all"')
        if self.margin < 0:
            raise InputError(f"HJB margin {self.margin}: give 0 or more latent cells")
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"HJB chunk {self.chunk}: at least 1 frame is decoded at once")
        if self.stop not in ("count", "adaptive"):
            raise InputError(f'HJB stop "{self.stop}": give "count" or "adaptive"')
        if not (self.sharpest > 0 and math.isfinite(self.sharpest)):
            raise InputError(f"HJB sharpest {self.sharpest}: give a number above 0; 1 is as sharp as the reference")
        points = tuple(tuple(map(float, point)) for point in self.strength)
        shares = [point[0] for point in points]
        if not points or shares != sorted(set(shares)) or not all(0 <= v < math.inf for p in points for v in p):
            raise InputError(f"HJB strength {points}: give (share, factor), shares rising, nothing below 0")
        object.__setattr__(self, "strength", points)  # of a model's file they come as lists

    def check(self, steps: int) -> None:
        """Raises InputError when it is on and begins after the last of this many sampling steps."""
        if self.iterations and self.first_step >= steps:
            raise InputError(
                f"hjb-steps {self.first_step}:{self.last_step} start after the last sampling step, {steps - 1}"
            )

    def rate(self, i: int, steps: int) -> float:
        """Learning rate of sampling step i of all, 0 where HJB leaves it alone."""
        if not (self.iterations and self.first_step <= i <= self.last_step):
            return 0.0
        return self.lr * _straight(self.strength, i / steps)

    def at(self, i: int, steps: int) -> StepSettings | None:
        """What is done in sampling step i of all, None for nothing."""
        lr = self.rate(i, steps)
        if not lr:
            return None
        sharpest = self.sharpest if self.stop == "adaptive" else None
        return StepSettings(self.iterations, lr, self.around, self.scope, self.chunk, sharpest)

    @property
    def around(self) -> int | None:
        """Cells decoded around a face, None for whole frames."""
        return self.margin if self.decode == "face" else None


def _straight(points: Points, share: float) -> float:
    """The height at `share` of straight lines between points."""
    if share <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in zip(points[:-1], points[1:]):
        if share <= right:
            return low + (high - low) * ((share - left) / (right - left))
    return points[-1][1]
