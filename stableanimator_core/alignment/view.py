"""Every method's result on the same clip, as plain numbers that a page can draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..keypoints import Poses
from ..pose.overlay import LEGEND, WORST
from ..skeleton import LIMBS
from ..video import spread
from . import METHODS, WITH_ALIGNER, Alignment, AlignmentNet, align
from .nudge import nudge_unit, pivot_of

MOST_FRAMES = 60  # of a view; of longer clips so many are shown, evenly spread, and the worst one


def view_alignment(
    aligned: Alignment, driving: Poses, reference: Poses, *, fit: str, aligner: AlignmentNet, proportions: bool = False,
    min_score: float = 0.3,
) -> dict[str, Any]:  # fmt: skip
    """What the page shows, ready for JSON: person 0's joints in px of the reference's canvas, None where not seen.

    aligned: what one method made, before any nudge; all others are made here with the same fit and proportions.
    width, height: of the canvas. unit: px that a nudge's 100 % are. frames: the numbers of those shown, of `total`.
    limbs, colours: how to draw. reference: x, y of 18 joints, one list. driver: such a list per shown frame, as filmed.
    methods: of each its joints per shown frame, pivot (of a nudge), residual (px, mean over the clip) or, where it
    can't be had, an error.
    """
    frames = shown_frames(aligned.residual)
    body = reference.slice(first := reference.first_shown(min_score), first + 1)
    methods = {}
    for name in METHODS:
        try:
            network = aligner if name in WITH_ALIGNER else None
            made = aligned
            if name != aligned.method:
                made = align(
                    driving, reference, name, fit=fit, min_score=min_score, aligner=network, proportions=proportions
                )
        except InputError as error:
            methods[name] = {"error": str(error)}
        else:
            known = made.residual[np.isfinite(made.residual)]
            methods[name] = {
                "joints": _joints(made.poses, frames, min_score),
                "pivot": pivot_of(made.poses, min_score).round(1).tolist(),
                "residual": round(float(known.mean()), 1) if len(known) else None,
            }
    return {
        "width": reference.width,
        "height": reference.height,
        "unit": round(nudge_unit(reference, min_score), 1),
        "total": driving.frames,
        "frames": frames,
        "limbs": [list(limb) for limb in LIMBS],
        "colours": {name.split()[0]: list(colour) for name, colour in (*LEGEND, ("worst", WORST))},
        "reference": _joints(body, [0], min_score)[0],
        "driver": _joints(driving.fitted(reference.width, reference.height), frames, min_score),
        "method": aligned.method,
        "methods": methods,
    }


def shown_frames(residual: np.ndarray) -> list[int]:
    """At most MOST_FRAMES of a clip, and its worst one. residual: [F] px, NaN where unknown."""
    frames = set(spread(len(residual), MOST_FRAMES))
    if np.isfinite(residual).any():
        frames.add(int(np.nanargmax(residual)))
    return sorted(frames)


def _joints(poses: Poses, frames: list[int], min_score: float) -> list[list[float | None]]:
    """x0, y0, x1, y1 ... of person 0's joints in each of these frames, to a tenth of a pixel; None: not seen."""
    if not poses.people:
        return [[None] * 2 * poses.body.shape[2]] * len(frames)
    body, seen = poses.body[frames, 0].round(1), poses.visible(min_score)[frames, 0]
    return [
        [value if shown else None for point, shown in zip(points.tolist(), row) for value in point]
        for points, row in zip(body, seen)
    ]
