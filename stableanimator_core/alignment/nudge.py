"""A correction by hand, on top of an alignment: moved, scaled and turned about the body's middle."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..keypoints import Poses
from ..pose.overlay import body_height
from . import Alignment, distance_from_reference

TRUNK = (1, 8, 11)  # neck and hips


class Nudge(NamedTuple):
    """p' = pivot + scale · rotation · (p − pivot) + (x, y)."""

    x: float = 0.0  # % of the reference body's height, to the right
    y: float = 0.0  # %, downwards
    scale: float = 1.0
    rotate: float = 0.0  # degrees, clockwise as one sees it

    def apply(self, points: np.ndarray, pivot: np.ndarray, height: float) -> np.ndarray:
        """points: [..., 2] px, pivot: [2] px, height: of the reference's body, px."""
        cos, sin = np.cos(np.radians(self.rotate)), np.sin(np.radians(self.rotate))
        turned = (points - pivot) @ np.array([[cos, sin], [-sin, cos]])  # y points down
        return pivot + self.scale * turned + np.array([self.x, self.y]) / 100 * height


def nudged(aligned: Alignment, reference: Poses, nudge: Nudge, min_score: float = 0.3) -> Alignment:
    """The alignment with everybody nudged by one transform for the clip; itself where there is nothing to nudge.

    reference: what it was aligned to. Points are moved about the pivot of the aligned poses. The residual is measured
    anew; `transform` stays that of the fit. Raises InputError for a scale of 0 or less.
    """
    if nudge == Nudge():
        return aligned
    if nudge.scale <= 0:
        raise InputError(f"nudge_scale {nudge.scale:g}: nothing would be left; take more than 0, 1 changes nothing")
    pivot, height = pivot_of(aligned.poses, min_score), nudge_unit(reference, min_score)
    poses = aligned.poses.transformed(lambda points: nudge.apply(points, pivot, height))
    note = (
        f"nudged by hand: {nudge.x:+g} % to the right, {nudge.y:+g} % down, {nudge.scale:g} times as large, "
        f"turned by {nudge.rotate:g} degrees"
    )
    residual = distance_from_reference(poses, reference, min_score)
    return replace(aligned, poses=poses, residual=residual, expected_error=None, notes=(*aligned.notes, note))


def nudge_unit(reference: Poses, min_score: float = 0.3) -> float:
    """What a nudge's percents are of, px: the reference's body as it is seen, or its canvas where nobody is."""
    return body_height(reference, min_score) or float(reference.height)


def pivot_of(poses: Poses, min_score: float = 0.3) -> np.ndarray:
    """What poses are turned and scaled about, [2] px: the mean of person 0's neck and hips where they are first seen.

    Where a frame that shows person 0 shows none of these, the mean of its joints; the canvas's middle without any.
    """
    frame = poses.first_shown(min_score)
    shown = poses.visible(min_score)[frame, :1].reshape(-1)  # [18], or [0] where there is nobody
    trunk = [joint for joint in TRUNK if shown.size and shown[joint]]
    if trunk:
        return poses.body[frame, 0, trunk].mean(0)
    if shown.any():
        return poses.body[frame, 0, shown].mean(0)
    return np.array([poses.width, poses.height]) / 2
