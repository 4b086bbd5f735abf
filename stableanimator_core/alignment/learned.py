"""The learned alignment of one clip: asks the network, checks its answer, and says what is off about the two bodies."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..skeleton import HEAD
from .fits import MOST_DEGREES, MOST_GROWTH, fittable_frames, follow_frames, repeated, shared_trust
from .network import AlignmentNet
from .similarity import Similarity

# Rotation beyond which, and shared joints below which, the user is told.
NOTED_DEGREES = 5.0
# Expected error, in body heights, beyond which the user is told. Pairs of which more was expected were off by 0.12 on
# average, and a tenth of them by more than 0.2.
NOTED_ERROR = 0.1
FEW_JOINTS = 5

# A joint belongs to what a clip shows when at least this share of its frames shows it.
SHOWN = 0.25

# Legs, from hips down to ankles or knees, in lengths of the trunk: below LOW while the other body's are CONTRAST times
# as long, somebody sits or crouches. Adults who stand have about 1.4 to 2.1 to the ankles, 0.7 to 1.0 to the knees.
ANKLES_LOW, KNEES_LOW, CONTRAST = 1.0, 0.5, 1.4

# Widths of shoulders and hips from right to left, in lengths of the trunk, beyond which front and back are told apart.
FACING = 0.15

SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = (2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)


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
    notes = list(_body_notes(body, seen, target, shown))
    if doubt := _doubt(found, base, bool(read.fitted.any())):
        notes.append(f"the network's answer is not plausible ({doubt}): the SVD's fit is used")
        found, error = base, None
    elif error > NOTED_ERROR:
        notes.append(f"the network expects to be off by {error:.0%} of the body's height: look how it fits")
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
    return LearnedFit(followed, error, (*notes, *doubt_note(doubtful, frames)))


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


def _body_notes(body: Tensor, seen: Tensor, target: Tensor, shown: Tensor) -> list[str]:
    """What stands in the way of any alignment, from what is visible and how the bodies are proportioned."""
    often = seen.double().mean(0) >= SHOWN  # [18]
    notes = []
    shared = int((seen & shown).any(0).sum())
    if not shared:
        notes.append("no joint is shared with the reference: placed by what each of them shows; check the result")
    elif shared < FEW_JOINTS:
        notes.append(
            f"only {shared} joint{'s are' * (shared > 1) or ' is'} shared with the reference: check the result"
        )
    for visible, whose in ((shown, "reference"), (often, "driving clip")):
        if part := _framing(visible):
            notes.append(f"only {part} visible in the {whose}")
    usable = body[seen.any(1)], seen[seen.any(1)]
    posture = _posture(target[None], shown[None]), _posture(*usable)
    for joints, low in (("ankles", ANKLES_LOW), ("knees", KNEES_LOW)):
        reference, driver = (part[joints] for part in posture)
        if math.isnan(reference) or math.isnan(driver):
            continue
        if reference < low and driver > CONTRAST * max(reference, 0):
            notes.append("the reference sits or crouches, the driver stands: check the size")
        elif driver < low and reference > CONTRAST * max(driver, 0):
            notes.append("the driver sits or crouches, the reference stands: check the size")
        break
    facing = posture[0]["facing"], posture[1]["facing"]
    if facing[0] < -FACING and facing[1] > FACING:
        notes.append("the reference is seen from behind, the driver from the front")
    elif facing[0] > FACING and facing[1] < -FACING:
        notes.append("the driver is seen from behind, the reference from the front")
    return notes


def _framing(visible: Tensor) -> str | None:
    """What alone is visible of somebody who is cut off. visible: bool [18]."""
    if bool(visible[[*HIPS, *KNEES, *ANKLES]].any()):
        return None
    if bool(visible[[*ELBOWS, *WRISTS]].any()):
        return "the upper body is"
    if bool(visible[[*SHOULDERS]].any()):
        return "head and shoulders are" if bool(visible[list(HEAD)].any()) else "the shoulders are"
    return "the head is" if bool(visible[list(HEAD)].any()) else None


def _posture(points: Tensor, seen: Tensor) -> dict[str, float]:
    """Medians over the frames, in lengths of the trunk: how far ankles and knees are below the hips, and how far the
    left side is to the right of the right one. NaN where it can't be told. points: [F, 18, 2] px, seen: bool [F, 18].
    """
    points = points.masked_fill(~seen[..., None], math.nan)
    shoulders, hips, knees, ankles = (points[:, pair].nanmean(1) for pair in (SHOULDERS, HIPS, KNEES, ANKLES))
    trunk = (hips - shoulders).norm(dim=-1)
    across = (points[:, [5, 11], 0] - points[:, [2, 8], 0]).nanmean(1)
    measured = {
        "ankles": (ankles - hips)[:, 1] / trunk,
        "knees": (knees - hips)[:, 1] / trunk,
        "facing": across / trunk,
    }
    return {name: float(values.nanmedian()) for name, values in measured.items()}
