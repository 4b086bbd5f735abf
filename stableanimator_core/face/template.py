"""ArcFace's five-point template: eyes, nose and mouth corners of every crop lie in the same places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..alignment.similarity import fit_similarity, fittable
from ..keypoints import Poses
from ..skeleton import HEAD, LEFT_EYE, RIGHT_EYE

TEMPLATE_SIDE = 112  # px of the crop that TEMPLATE is for
# Deng et al., ArcFace (arXiv 1801.07698): the eyes, the nose, the mouth's corners, left and right as the picture shows
# them, counted from pixel centres.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))

# The same five among the 68 face points. A picture's left is the person's right.
FACE_PARTS = (range(36, 42), range(42, 48), (30,), (48,), (54,))
BODY_PARTS = (RIGHT_EYE, LEFT_EYE, HEAD[0])  # the first three among the body's joints
MIN_SCORE = 0.3


def five_points(poses: Poses, person: int) -> tuple[Tensor, Tensor]:
    """The template's points of one person, and which of them are seen: all five, or both eyes and the nose, or none.

    Returns float64 [F, 5, 2] in px from pixel centres and bool [F, 5]. Keypoints count from the picture's corner.
    """
    face, face_score = poses.face[:, person], poses.face_score[:, person]
    needed = [index for part in FACE_PARTS for index in part]
    five = (face_score[:, needed] > MIN_SCORE).all(1)  # [F]
    three = (poses.body_score[:, person, BODY_PARTS] > MIN_SCORE).all(1)
    from_face = np.stack([face[:, list(part)].mean(1) for part in FACE_PARTS], axis=1)  # [F, 5, 2]
    from_body = np.zeros_like(from_face)
    from_body[:, :3] = poses.body[:, person, BODY_PARTS]
    points = np.where(five[:, None, None], from_face, from_body) - 0.5
    seen = np.stack([five | three] * 3 + [five] * 2, axis=1)
    return torch.from_numpy(points), torch.from_numpy(seen)


def fit_templates(points: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares similarity from each frame's points to the template, turned round: crop px -> frame px.

    points: [F, 5, 2] px, seen: bool [F, 5]. Returns float32 [F, 2, 3], and in which frames there is one, bool [F].
    Both sides count from pixel centres, as cv2.warpAffine does. The fit minimises the error in the crop, as ArcFace's
    own alignment does.
    """
    template = torch.tensor(TEMPLATE, dtype=torch.float64).expand(len(points), -1, -1)
    points, weight = points.double(), seen.double()
    found = fittable(points, template, weight)
    templates = torch.zeros(len(points), 2, 3)
    if found.any():
        fit = fit_similarity(points[found], template[found], weight[found])
        back = fit.rotation.mT / fit.scale[:, None, None]  # [n, 2, 2]
        templates[found] = torch.cat([back, -back @ fit.translation[..., None]], dim=-1).float()
    return templates, found


def template_side(templates: Tensor) -> Tensor:
    """Side in frame px of the square that each crop shows: [F, 2, 3] -> [F]."""
    return TEMPLATE_SIDE * torch.linalg.det(templates[..., :2]).sqrt()
