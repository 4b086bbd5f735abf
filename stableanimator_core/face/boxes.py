"""Where a face is in each frame: upright boxes, or squares turned as ArcFace's template lies on the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..keypoints import Poses
from ..skeleton import HEAD
from .template import MIN_SCORE, TEMPLATE_SIDE, fit_templates, five_points

MIN_FACE_POINTS = 34  # half of the 68: fewer are a profile or a guess
MIN_INSIDE = 0.6  # of the box's area: less of a face is not the face
MIN_BOX = 2.0  # px
HEAD_TO_FACE = 1.15  # widest spread of nose, eyes and ears -> extent of the 68 face points


class FaceBoxes(NamedTuple):
    """Where the face is in each frame: a square box, or a template and the upright box around it.

    Boxes are x0, y0, x1, y1 in pixels from the frame's corner, x1 and y1 exclusive. Templates count from pixel centres,
    as cv2.warpAffine does.
    """

    boxes: Tensor  # [F, 4] px, float; meaningless where not found
    found: Tensor  # [F] bool
    templates: Tensor | None = None  # [F, 2, 3] px of ArcFace's crop, 112 px a side -> px of the frame; None: upright

    @classmethod
    def of_templates(cls, templates: Tensor, found: Tensor) -> FaceBoxes:
        """Faces of these templates, [F, 2, 3], with the boxes around their squares."""
        low, high = -0.5, TEMPLATE_SIDE - 0.5
        corners = templates.new_tensor([(low, low, 1), (high, low, 1), (low, high, 1), (high, high, 1)])
        corners = corners @ templates.mT + 0.5  # [F, 4, 2] px from the frame's corner
        return cls(torch.cat([corners.amin(1), corners.amax(1)], dim=-1), found, templates)

    def scaled(self, sx: float, sy: float) -> FaceBoxes:
        """The same faces in a picture that is sx times as wide and sy times as high."""
        factor = self.boxes.new_tensor([sx, sy])
        if self.templates is None:
            return FaceBoxes(self.boxes * factor.repeat(2), self.found)
        templates = self.templates * factor[:, None]
        templates[..., 2] += (factor - 1) / 2  # pixel centres lie half a pixel from the corner, which stays in place
        return FaceBoxes.of_templates(templates, self.found)

    def shifted(self, x: float, y: float) -> FaceBoxes:
        """The same faces, x px further right and y px further down."""
        offset = self.boxes.new_tensor([x, y])
        templates = self.templates
        if templates is not None:
            templates = torch.cat([templates[..., :2], templates[..., 2:] + offset[:, None]], dim=-1)
        return FaceBoxes(self.boxes + offset.repeat(2), self.found, templates)

    def picked(self, frames: Sequence[int]) -> FaceBoxes:
        """The faces of these frames alone."""
        index = list(frames)
        return FaceBoxes(*(None if part is None else part[index] for part in self))

    def pixels(self) -> Tensor:
        """Whole pixels that a crop is made from, as boxes, also where they leave the frame: int [F, 4]."""
        if self.templates is None:
            return self.boxes.round().long()
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        # Half a pixel more: a place between two pixel centres is interpolated from both.
        return torch.cat([(low - 0.5).floor(), (high + 0.5).ceil()], dim=1).long()


def face_boxes(
    poses: Poses, *, scale: float, crop: Literal["box", "arcface"] = "box", person: int = 0
) -> FaceBoxes:  # fmt: skip
    """Where one person's face is in every frame, for an embedder that was trained on such crops.

    crop "box": an upright square around the 68 face points or, without them, around nose, eyes and ears; scale is its
    side over the extent of the 68 points. A frame has no face when the nose or most points are missing (turned away,
    profile). crop "arcface": the template, laid on eyes, nose and mouth or, without face points, on the body's eyes and
    nose; it has its own scale. A frame has no face when these are missing.
    With either crop there is none when less than 60 % of the box lies inside the picture.
    """
    if poses.people <= person:
        nobody = Poses.empty(poses.frames, poses.width, poses.height, people=person + 1)
        return face_boxes(nobody, scale=scale, crop=crop, person=person)
    return _aligned_boxes(poses, person) if crop == "arcface" else _upright_boxes(poses, scale, person)


def _upright_boxes(poses: Poses, scale: float, person: int) -> FaceBoxes:
    boxes = torch.zeros(poses.frames, 4)
    for f in range(poses.frames):
        extent = _face_extent(poses, f, person)
        if extent is not None:
            (cx, cy), side = extent[:2], extent[2] * scale
            boxes[f] = torch.tensor((cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2))
    return FaceBoxes(boxes, lies_inside(boxes, poses.width, poses.height))


def _aligned_boxes(poses: Poses, person: int) -> FaceBoxes:
    faces = FaceBoxes.of_templates(*fit_templates(*five_points(poses, person)))
    return faces._replace(found=faces.found & lies_inside(faces.boxes, poses.width, poses.height))


def lies_inside(boxes: Tensor, width: int, height: int) -> Tensor:
    """Which boxes, [F, 4] px, are no speck and lie in a picture of this size for the most part: bool [F]."""
    boxes = boxes.double()
    edge = boxes.new_tensor([width, height])
    size = boxes[:, 2:] - boxes[:, :2]  # [F, 2]
    inside = (boxes[:, 2:].minimum(edge) - boxes[:, :2].clamp(min=0)).clamp(min=0)
    return (size >= MIN_BOX).all(1) & (inside.prod(1) >= MIN_INSIDE * size.prod(1))


def _face_extent(poses: Poses, f: int, p: int) -> tuple[float, float, float] | None:
    """Centre x, centre y and extent (px) of the 68 face points, measured or estimated from the head joints."""
    seen = poses.face_score[f, p] > MIN_SCORE
    if seen.sum() >= MIN_FACE_POINTS:
        points = poses.face[f, p][seen]
        low, high = points.min(0), points.max(0)
        extent = float((high - low).max())
        return float((low[0] + high[0]) / 2), float((low[1] + high[1]) / 2) - 0.1 * extent, extent
    head = np.array(HEAD)
    seen = poses.body_score[f, p, head] > MIN_SCORE
    if not seen[0] or seen.sum() < 3:  # HEAD starts with the nose
        return None
    points = poses.body[f, p, head][seen]
    extent = HEAD_TO_FACE * float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())
    return float(points[:, 0].mean()), float(points[0, 1]) - 0.1 * extent, extent
