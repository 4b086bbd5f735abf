"""What HJB does and when: its settings, and what they come to in one sampling step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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
OFF = {
    "settings": "off",
    "face": "off, there is no face to work on",
    "strength": "off, its strength is 0 in its steps",
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

    @property
    def rounds(self) -> str:
        """How many iterations, in words."""
        count = "1 iteration" if self.iterations == 1 else f"{self.iterations} iterations"
        return f"up to {count}" if self.stop == "adaptive" else count


def resolve(hjb: HJBConfig, steps: int, *, face: bool = True) -> dict[str, Any]:
    """What HJB comes to in so many sampling steps, ready for JSON: {"off": a key of OFF}, or the settings that work.

    face: whether there is one to work on. steps: the first and the last that it works in. strength: a name of CURVES,
    None for other points. sharpest is there where frames stop by it, decode and scope where they are not "face".
    """
    worked = [step for step in range(steps) if hjb.rate(step, steps) > 0]
    if not (hjb.iterations and face and worked):
        return {"off": "settings" if not hjb.iterations else "strength" if face else "face"}
    told = {
        "iterations": hjb.iterations,
        "steps": [worked[0], worked[-1]],
        "lr": float(f"{hjb.lr:g}"),
        "strength": next((name for name, points in CURVES.items() if points == hjb.strength), None),
        "stop": hjb.stop,
    }
    if hjb.stop == "adaptive":
        told["sharpest"] = hjb.sharpest
    unusual = {"decode": hjb.decode, "scope": hjb.scope}
    return told | {name: value for name, value in unusual.items() if value != "face"}


def describe(hjb: HJBConfig, steps: int, *, face: bool = True) -> str:
    """What `resolve` says, in words: whoever left settings to the model reads here what they were."""
    told = resolve(hjb, steps, face=face)
    if "off" in told:
        return f"HJB: {OFF[told['off']]}"
    first, last = told["steps"]
    parts = [
        hjb.rounds,
        f"step {first}" if first == last else f"steps {first} to {last}",
        f"rate {told['lr']:g}",
        told["strength"] or "a curve of its own",
    ]
    if "sharpest" in told:
        parts.append(f"sharpest {told['sharpest']:g}")
    if "decode" in told:
        parts.append("whole frames decoded")
    if "scope" in told:
        parts.append("all latents move")
    return f"HJB: {', '.join(parts)}"


def _straight(points: Points, share: float) -> float:
    """The height at `share` of straight lines between points."""
    if share <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in zip(points[:-1], points[1:]):
        if share <= right:
            return low + (high - low) * ((share - left) / (right - left))
    return points[-1][1]
