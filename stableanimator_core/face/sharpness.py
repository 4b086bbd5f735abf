"""How sharp faces are: what HJB overdoes when it goes on for too long."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .boxes import FaceBoxes

LUMA = (0.299, 0.587, 0.114)
LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))
MIN_SIDE = 16  # px; below it a face has no detail to compare


def detail(faces: Tensor) -> Tensor:
    """Variance of the Laplacian of the brightness. faces: [N, 3, S, S], of one size to be compared -> [N]."""
    brightness = (faces * faces.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    kernel = faces.new_tensor(LAPLACIAN)[None, None]
    return F.conv2d(brightness, kernel).var(dim=(1, 2, 3))


def sharpness(faces: Tensor, reference: Tensor, side: int) -> Tensor:
    """Detail of faces over that of the reference's face, both shrunk to `side` px: [N], above 1 is sharper.

    faces: [N, 3, S, S], reference: [3, S, S], as the embedder saw them; NaN where a face is.
    """
    pair = (faces, reference[None])
    own, other = (detail(F.interpolate(each.float(), (side, side), mode="bilinear", antialias=True)) for each in pair)
    return own / other.to(own)


def comparable_side(boxes: FaceBoxes, most: int) -> int:
    """Side in px at which the faces are no larger than they were in their frames, at most `most`.

    A face that was enlarged is blurred; beside it a picture of the same face in more pixels would always be sharper.
    """
    sides = (boxes.boxes[:, 2:] - boxes.boxes[:, :2])[boxes.found].amin(-1)
    return most if not len(sides) else min(max(int(sides.median()), MIN_SIDE), most)
