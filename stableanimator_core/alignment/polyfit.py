"""The published v1 code's alignment: one straight line through all heights, in fractions of both canvases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import PoseError

# All but elbows and wrists.
JOINTS = (0, 1, 2, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)


class Line(NamedTuple):
    """points -> scale · points + shift, points in fractions of width and height."""

    scale: float  # the same for x and y: a canvas of another aspect distorts the body
    shift: np.ndarray  # [2]


def fit_line(driving: np.ndarray, reference: np.ndarray, used: np.ndarray) -> Line:
    """y: the least-squares line through all joints of all frames; x: its slope, and the mean distance that is left.

    driving: [F, 18, 2], reference: [18, 2], fractions of their canvases. used: bool [F, 18].
    Raises PoseError when no two used joints differ in height.
    """
    frame, joint = np.nonzero(used)
    src, dst = driving[frame, joint], reference[joint]  # [N, 2]
    if len(src) < 2 or np.ptp(src[:, 1]) == 0:
        raise PoseError(
            f"v1 alignment: {len(src)} joints at {len(np.unique(src[:, 1]))} heights are shared with the reference in "
            "frames of one person, need 2 at different heights; lower min_score or use method svd"
        )
    scale, shift_y = np.polyfit(src[:, 1], dst[:, 1], 1)
    shift_x = (dst[:, 0] - scale * src[:, 0]).mean()
    return Line(float(scale), np.array([shift_x, shift_y]))
