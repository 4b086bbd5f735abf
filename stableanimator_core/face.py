"""Faces: where they are in each frame, how they are cropped, embedded and compared (CSIM)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import FaceError
from .keypoints import Poses
from .skeleton import HEAD

MIN_SCORE = 0.3
MIN_FACE_POINTS = 34  # half of the 68: fewer are a profile or a guess
MIN_INSIDE = 0.6  # of the box's area: less of a face is not the face
HEAD_TO_FACE = 1.15  # widest spread of nose, eyes and ears -> extent of the 68 face points


class FaceBoxes(NamedTuple):
    """A square face box per frame: x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""

    boxes: Tensor  # [F, 4] px, float; meaningless where not found
    found: Tensor  # [F] bool

    def scaled(self, sx: float, sy: float) -> FaceBoxes:
        """The same boxes in a picture that is sx times as wide and sy times as high."""
        return FaceBoxes(self.boxes * self.boxes.new_tensor([sx, sy, sx, sy]), self.found)


class ReferenceFace(NamedTuple):
    """The identity to keep."""

    embedding: Tensor  # [D], as the embedder gives it (not normalised)
    box: Tensor  # [4] px in the reference picture


def face_boxes(poses: Poses, *, scale: float, person: int = 0) -> FaceBoxes:
    """Face box of one person in every frame, from the 68 face points or, without them, from nose, eyes and ears.

    scale: side of the box over the extent of the 68 points. A frame has no face when the nose or most points are
    missing (turned away, profile) or when less than 60 % of the box lies inside the picture.
    """
    boxes = torch.zeros(poses.frames, 4)
    found = torch.zeros(poses.frames, dtype=torch.bool)
    if poses.people <= person:
        return FaceBoxes(boxes, found)
    for f in range(poses.frames):
        extent = _face_extent(poses, f, person)
        if extent is None:
            continue
        (cx, cy), side = extent[:2], extent[2] * scale
        box = (cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2)
        inside_w = min(box[2], poses.width) - max(box[0], 0)
        inside_h = min(box[3], poses.height) - max(box[1], 0)
        if side >= 2 and min(inside_w, inside_h) > 0 and inside_w * inside_h >= MIN_INSIDE * side * side:
            boxes[f] = torch.tensor(box)
            found[f] = True
    return FaceBoxes(boxes, found)


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


def crop_faces(frames: Tensor, boxes: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """Cut each frame's box (rounded to whole pixels, clamped to the frame) and resize it to size x size, bilinear.

    frames: [F, C, H, W]. boxes: [F, 4] px. Returns [F, C, size, size]; differentiable in frames.
    """
    height, width = frames.shape[-2:]
    crops = []
    for frame, box in zip(frames, boxes.round().long().tolist()):
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        if x1 <= x0 or y1 <= y0:
            raise FaceError(f"face box {box} lies outside the {width}x{height} frame; check the aligned poses")
        crop = frame[None, :, y0:y1, x0:x1]
        crops.append(F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias))
    return torch.cat(crops)


def csim(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of face embeddings over the last axis: [..., D], [..., D] -> [...]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def embed_faces(embedder: torch.nn.Module, frames: Tensor, faces: FaceBoxes) -> Tensor:
    """Embedding of each frame's face. frames: [F, 3, H, W] in -1..1 RGB -> [F, D], NaN where there is no face."""
    weight = next(embedder.parameters())
    found = faces.found.nonzero().flatten().tolist()
    if not found:
        return torch.full((len(frames), embedder.embedding_dim), float("nan"), device=weight.device)
    pixels = frames[found].to(weight.device, torch.float32)  # antialiasing knows no half precision on the CPU
    crops = crop_faces(pixels, faces.boxes[found], embedder.input_size, antialias=True)
    embedded = embedder(crops.to(weight)).float()
    result = embedded.new_full((len(frames), embedded.shape[-1]), float("nan"))
    result[found] = embedded
    return result


def score_identity(embedder: torch.nn.Module, frames: Tensor, faces: FaceBoxes, target: Tensor) -> Tensor:
    """CSIM of every frame's face with the reference embedding, [F], NaN where there is no face."""
    embedded = embed_faces(embedder, frames, faces)
    return csim(embedded, target.to(embedded.device))


def encode_reference_face(embedder: torch.nn.Module, image: Tensor, pose: Poses, *, scale: float) -> ReferenceFace:
    """Find the face of a reference picture through its keypoints and embed it.

    image: [3, H, W] in -1..1 RGB. pose: first frame is used, any canvas size. Raises FaceError without a face.
    """
    height, width = image.shape[-2:]
    faces = face_boxes(pose, scale=scale).scaled(width / pose.width, height / pose.height)
    if not faces.found[0]:
        raise FaceError(
            "reference: no face in its keypoints (the nose and most face points must be inside the picture); "
            "use a picture that shows the face, or switch the identity path off"
        )
    embedding = embed_faces(embedder, image[None], FaceBoxes(faces.boxes[:1], faces.found[:1]))[0]
    return ReferenceFace(embedding, faces.boxes[0])
