"""Faces of a video to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..video.pixels import to_uint8
from .boxes import FaceBoxes
from .crops import crop_faces

SIDE = 96  # px
GREY = 128  # where there is no face


def face_pictures(video: Tensor, boxes: FaceBoxes, frames: Sequence[int], *, side: int = SIDE) -> np.ndarray:
    """The faces of some frames of a video, [F, 3, H, W] in -1..1: uint8 [n, side, side, 3], grey without one."""
    made = np.full((len(frames), side, side, 3), GREY, np.uint8)
    for place, frame in enumerate(frames):
        if boxes.found[frame]:
            made[place] = to_uint8(crop_faces(video[[frame]].float().cpu(), boxes.picked([frame]), side))[0]
    return made
