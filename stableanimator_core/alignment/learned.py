"""The learned alignment of one clip: asks the network and checks its answer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .fits import MOST_DEGREES, MOST_GROWTH, fittable_frames, follow_frames, idle_note, repeated, shared_trust
from .network import AlignmentNet
from .similarity import Similarity

# Rotation beyond which the user is told.
NOTED_DEGREES = 5.0


class LearnedFit(NamedTuple):
    transform: Similarity  # of F frames
    error: float | None  # what the network expects to be off by, in body heights; None where it was not believed
    notes: tuple[str, ...]  # what the user should know, one sentence each


@torch.no_grad()
def fit_learned(
    aligner: AlignmentNet, body: Tensor, seen: Tensor, target: Tensor, shown: Tensor, fit: str
) -> LearnedFit:
    """The network's transform of one clip, or the SVD's where the network's is implausible, which a note says.

    body: [F, 18, 2] px, seen: bool [F, 18], target: [18, 2] px, shown: bool [18]; at least one joint is seen in each.
    fit: one of FITS; all but "clip" let frames depart from the clip's transform as their SVD fits do from the clip's.
    """
    device = next(aligner.parameters()).device
    clip = body[None], seen[None], target[None], shown[None]
    placed = [part.to(device) for part in clip]
    read = aligner.guide(*placed)
    answer = aligner(*placed, guidance=read)
    found, base = (
        Similarity(*(part.to(body) for part in transform)) for transform in (answer.transform, read.pixels(read.base))
    )
    error = float(answer.error)
    notes = []
    if doubt := _doubt(found, base, bool(read.fitted.any())):
        notes.append(f"the network's answer is not plausible ({doubt}): the SVD's fit is used")
        found, error = base, None
    degrees = math.degrees(float(found.angle))
    if abs(degrees) > NOTED_DEGREES:
        notes.append(f"the clip is turned by {degrees:.0f} degrees")
    trust = shared_trust(seen, shown)
    good = fittable_frames(body, target, trust)  # [F]
    frames = len(body)
    if fit == "clip":
        return LearnedFit(repeated(found, frames), error, tuple(notes))
    if not good.any():
        notes.append(f"fit {fit} has no effect: no frame shares two joints with the reference")
        return LearnedFit(repeated(found, frames), error, tuple(notes))
    followed, doubtful = follow_frames(found, base, body, target, trust, good, fit)
    return LearnedFit(followed, error, (*notes, *doubt_note(doubtful, frames), *idle_note(frames, fit)))


def doubt_note(doubtful: int, frames: int) -> tuple[str, ...]:
    """What to say of frames whose own fits were not plausible."""
    return (f"{doubtful} of {frames} frames have no plausible fit of their own: left out",) if doubtful else ()


def _doubt(found: Similarity, base: Similarity, fitted: bool) -> str | None:
    """Why a transform is not to be believed, given the SVD's and whether that one fits shared joints."""
    if not all(bool(part.isfinite().all()) for part in found) or not float(found.scale) > 0:
        return "it is not finite"
    if not fitted:
        return None
    growth = float(found.scale / base.scale)
    turn = found.angle - base.angle
    degrees = math.degrees(float(torch.atan2(turn.sin(), turn.cos())))
    if not 1 / MOST_GROWTH <= growth <= MOST_GROWTH:
        return f"{growth:.2g} times the SVD's size"
    if abs(degrees) > MOST_DEGREES:
        return f"{degrees:.0f} degrees from the SVD's"
    return None
