"""What an artist should know about two bodies and how one came to lie over the other, one sentence each."""

from __future__ import annotations

import math

from torch import Tensor

from ..skeleton import HEAD

# Shared joints below which the user is told.
FEW_JOINTS = 5

# A joint belongs to what a clip shows when at least this share of its frames shows it.
SHOWN = 0.25

# Legs, from hips down to ankles or knees, in lengths of the trunk: below LOW while the other body's are CONTRAST times
# as long, somebody sits or crouches. Adults who stand have about 1.4 to 2.1 to the ankles, 0.7 to 1.0 to the knees.
ANKLES_LOW, KNEES_LOW, CONTRAST = 1.0, 0.5, 1.4

# Widths of shoulders and hips from right to left, in lengths of the trunk, beyond which front and back are told apart.
FACING = 0.15

HEAD_ALONE = "the head is"

SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = (2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)

# Growth of the driver beyond which the errors of its keypoints show.
MUCH_LARGER = 4.0

# How much larger or smaller than the reference's the driver's head comes out when the user is told, and how many
# joints must be seen in both.
OTHER_HEAD, HEAD_JOINTS = 1.8, 3

# Errors that the network expects, in % of the reference body's height, up to which a fit is called good, and fair.
GOOD_FIT, FAIR_FIT = 5, 10


def body_notes(body: Tensor, seen: Tensor, target: Tensor, shown: Tensor) -> list[str]:
    """What stands in the way of any alignment, from what is visible and how the bodies are proportioned.

    body: [F, 18, 2] px, seen: bool [F, 18], target: [18, 2] px, shown: bool [18].
    """
    often = seen.double().mean(0) >= SHOWN  # [18]
    notes = []
    shared = int((seen & shown).any(0).sum())
    if not shared:
        notes.append("no joint is shared with the reference: check the result")
    elif shared < FEW_JOINTS:
        notes.append(
            f"only {shared} joint{'s are' * (shared > 1) or ' is'} shared with the reference: check the result"
        )
    framings = _framing(shown), _framing(often)
    if framings[0] != framings[1]:
        notes += [
            f"only {part} visible in the {whose}"
            for part, whose in zip(framings, ("reference", "driving clip"), strict=True)
            if part is not None
        ]
    if framings[0] == HEAD_ALONE:
        notes.append("the size is guessed from a head: a reference that shows the shoulders is safer")
    if nobody := int((~seen.any(1)).sum()):
        notes.append(f"the first person is not seen in {nobody} of {len(seen)} driving frames")
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


def result_notes(moved: Tensor, body: Tensor, seen: Tensor, size: tuple[int, int]) -> list[str]:
    """What is off about a result. moved: [F, 18, 2] px on the reference's canvas of size (width, height); the rest as
    in body_notes.
    """
    notes = []
    head = list(HEAD)
    outside = ((moved < 0) | (moved > moved.new_tensor(size))).any(-1)  # [F, 18]
    gone = seen[:, head].any(1) & (outside | ~seen)[:, head].all(1)
    if gone.any():
        frames = int(gone.sum())
        notes.append(f"the head lies outside of the picture in {frames} of {len(seen)} frames")
    growth = _size(moved, seen) / _size(body, seen)
    if growth > MUCH_LARGER:
        notes.append(f"the driver is enlarged {growth:.1f} times, and so are its keypoints' errors: film it larger")
    return notes


def head_note(moved: Tensor, seen: Tensor, target: Tensor, shown: Tensor) -> str | None:
    """What is off about the head's size, which decides about the face; None where it is right or can't be told.

    The spread of the joints that both show, which hardly changes as a head turns; the clip's median. Arguments as in
    result_notes.
    """
    head = [joint for joint in HEAD if shown[joint] and seen[:, joint].double().mean() >= SHOWN]
    frames = seen[:, head].all(1)
    if len(head) < HEAD_JOINTS or not frames.any():
        return None
    theirs, ours = (
        (part - part.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt().median()
        for part in (moved[frames][:, head], target[None, head])
    )
    larger = float(theirs / ours)
    if 1 / OTHER_HEAD <= larger <= OTHER_HEAD or not math.isfinite(larger):
        return None
    return f"the driver's head comes out {larger:.2g} times as large as the reference's"


def fit_note(error: float) -> str:
    """How good a fit should be, in words. error: what the network expects to be off by, in body heights."""
    told = f"off by about {_percent(error)} % of the body's height"
    if is_doubtful(error):
        return f"expected fit: doubtful, {told}; look whether heads, shoulders and hips lie over one another"
    return f"expected fit: {'good' if _percent(error) <= GOOD_FIT else 'fair'}, {told}"


def is_doubtful(error: float) -> bool:
    """Whether so much error is expected, in body heights, that somebody should look at the fit."""
    return _percent(error) > FAIR_FIT


def doubt_notes(error: float | None) -> list[str]:
    """For those who are not told how good every fit should be; None: nothing is expected."""
    return [] if error is None or not is_doubtful(error) else [fit_note(error)]


def _percent(error: float) -> int:
    """As it is told, so that words and number agree."""
    return round(100 * error)


def _size(points: Tensor, seen: Tensor) -> float:
    """Median over the frames of the larger side of the box around seen joints, px."""
    points = points.masked_fill(~seen[..., None], math.nan)[seen.sum(1) > 1]
    high = points.nan_to_num(-math.inf).amax(1) - points.nan_to_num(math.inf).amin(1)
    return float(high.amax(-1).nanmedian()) if len(points) else math.nan


def _framing(visible: Tensor) -> str | None:
    """What alone is visible of somebody who is cut off. visible: bool [18]."""
    if bool(visible[[*HIPS, *KNEES, *ANKLES]].any()):
        return None
    if bool(visible[[*ELBOWS, *WRISTS]].any()):
        return "the upper body is"
    if bool(visible[[*SHOULDERS]].any()):
        return "head and shoulders are" if bool(visible[list(HEAD)].any()) else "the shoulders are"
    return HEAD_ALONE if bool(visible[list(HEAD)].any()) else None


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
