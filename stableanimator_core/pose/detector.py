"""People in frames: a person detector (YOLOX) and a whole-body keypoint network (RTMPose), as DWPose joins them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Person(NamedTuple):
    """One detected person in one frame. Points are x y px and a score of 0..1; weak ones keep their place."""

    box: np.ndarray  # [4] x0 y0 x1 y1 px, may reach beyond the frame
    score: float  # of the detector
    body: np.ndarray  # [18, 3] OpenPose order
    face: np.ndarray  # [68, 3]
    hands: np.ndarray  # [2, 21, 3] left, right
