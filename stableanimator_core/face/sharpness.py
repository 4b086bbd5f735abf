"""How sharp faces are: what the face optimisation overdoes when it goes on for too long."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .boxes import FaceBoxes
from .reference import ReferenceFace

LUMA = (0.299, 0.587, 0.114)
LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))


def detail(faces: Tensor) -> Tensor:
    """Variance of the Laplacian of the brightness. faces: [N, 3, S, S], of one size to be compared -> [N]."""
    brightness = (faces.float() * faces.new_tensor(LUMA).float()[:, None, None]).sum(1, keepdim=True)
    kernel = brightness.new_tensor(LAPLACIAN)[None, None]
    return F.conv2d(brightness, kernel).var(dim=(1, 2, 3))


def sharpness(faces: Tensor, reference: Tensor) -> Tensor:
    """Detail of faces over that of the reference's face, [N]: above 1 is sharper.

    faces: [N, 3, S, S] of crop_faces with antialias, NaN where there is none. reference: as of `reference_among`.
    """
    own = detail(faces)
    return own / detail(reference[None]).to(own)


def reference_among(face: ReferenceFace, boxes: FaceBoxes) -> Tensor | None:
    """The reference's face with no more pixels than the faces of a video have, [3, S, S]; None where it isn't kept.

    Faces smaller than the embedder's crops were enlarged for it, which blurs them; beside a close-up they would never
    be sharp. boxes: of the video's faces, some of which are found.
    """
    own, side = (
        float((each[:, 2:] - each[:, :2]).amin(-1).median()) for each in (face.box[None], boxes.boxes[boxes.found])
    )
    if face.crop is None or min(own, face.crop.shape[-1]) <= side:
        return face.crop
    small = F.interpolate(face.crop[None], (max(round(side), 1),) * 2, mode="bilinear", antialias=True)
    return F.interpolate(small, face.crop.shape[-2:], mode="bilinear")[0]
