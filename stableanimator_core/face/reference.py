"""Whose face it is: the reference picture's face is found, chosen, judged and embedded.

All functions here raise FaceError, in one line, where there is no face that an embedding could be taken from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceError
from ..keypoints import Poses
from ..skeleton import HEAD
from .boxes import FaceBoxes, face_boxes, lies_inside
from .crops import crop_faces
from .detect import DetectedFace
from .embed import embed_faces
from .template import MIN_SCORE, fit_templates, five_points, template_side

MIN_SIDE = 24  # px of an aligned face: what is smaller comes out of the warp as a blur
MIN_EYES = 0.4  # of the eyes' distance over the way from eyes to mouth, 0.87 in the template: less is a profile

Item = TypeVar("Item")


class ReferenceFace(NamedTuple):
    """The identity to keep."""

    embedding: Tensor  # [D], as the embedder gives it (not normalised)
    box: Tensor  # [4] px in the reference picture
    template: Tensor | None = None  # [2, 3] as in FaceBoxes, of an aligned face
    crop: Tensor | None = None  # [3, S, S] in -1..1 on the CPU, as the embedder saw it

    @property
    def place(self) -> FaceBoxes:
        """Where it is in the reference picture, as a clip of one frame."""
        templates = None if self.template is None else self.template[None]
        return FaceBoxes(self.box[None], torch.ones(1, dtype=torch.bool), templates)

    @torch.no_grad()
    def embedded_by(self, network: nn.Module) -> Tensor:
        """The same face as another network sees it, [D], from the crop: no picture, which could be another one."""
        crop = F.interpolate(self.crop[None], (network.input_size,) * 2, mode="bilinear", antialias=True)
        return network(crop.to(next(network.parameters())))[0].float()


def encode_reference_face(
    embedder: nn.Module, image: Tensor, pose: Poses, *, scale: float, crop: Literal["box", "arcface"] = "box"
) -> ReferenceFace:
    """Find the face of a reference picture through its keypoints and embed it.

    image: [3, H, W] in -1..1 RGB. pose: first frame is used, any canvas size. scale, crop: as in face_boxes.
    """
    height, width = image.shape[-2:]
    return embed_reference(embedder, image, locate_in_pose(pose, (width, height), scale=scale, crop=crop))


def embed_reference(embedder: nn.Module, image: Tensor, place: FaceBoxes) -> ReferenceFace:
    """Embed the face at a place, one frame long. image: [3, H, W] in -1..1 RGB."""
    template = None if place.templates is None else place.templates[0]
    crop = crop_faces(image[None].float(), place, embedder.input_size, antialias=True)[0].cpu()
    return ReferenceFace(embed_faces(embedder, image[None], place)[0], place.boxes[0], template, crop)


def locate_in_pose(
    pose: Poses, size: tuple[int, int], *, scale: float, crop: Literal["box", "arcface"] = "box",
    choose: int | None = None,
) -> FaceBoxes:  # fmt: skip
    """The face of the pose's first person, or the choose-th face from the left, in a picture of this width and height.

    pose: its first frame is used, on any canvas. scale, crop: as in face_boxes. Returns one frame.
    """
    pose = pose.slice(0, 1).resized(*size)
    faces = {person: face_boxes(pose, scale=scale, crop=crop, person=person) for person in range(pose.people)}
    faces = {person: place for person, place in faces.items() if place.found[0]}
    person = 0
    if choose is not None and faces:
        person = _from_left(list(faces), [float(place.boxes[0, 0]) for place in faces.values()], choose)
    if person not in faces:
        whose = "it shows nobody; " if not pose.people else f"none of {pose.people} people; " * (pose.people > 1)
        if faces:
            whose = f"person {', '.join(map(str, faces))} shows one, but person 0 of {pose.people} is followed; "
        raise FaceError(
            f"reference_pose: no face in its keypoints ({whose}the nose and most face points must be inside the "
            "picture); give the pose of a picture that shows the face"
        )
    place = faces[person]
    if place.templates is not None:
        points, seen = five_points(pose, person)
        _judge(points[0].numpy(), bool(seen[0].all()), place)
    return place


def locate_among(
    found: Sequence[DetectedFace], size: tuple[int, int], pose: Poses | None = None, *, choose: int | None = None
) -> FaceBoxes:
    """One of the faces that a detector found in a picture of this width and height, as a clip of one frame.

    Which one: the choose-th from the left, counted from 0; else the one of the pose's first person; else, without a
    pose, the largest. The template is laid on its landmarks.
    """
    pose = None if pose is None or not pose.frames or not pose.people else pose.slice(0, 1).resized(*size)
    if not found:
        people = "" if pose is None else f" (people in its pose: {pose.people})"
        raise FaceError(f"reference: no face found in the picture{people}; use one that shows the face")
    if choose is not None:
        face = _from_left(found, [float(face.box[0]) for face in found], choose)
    elif pose is not None:
        face = _face_of(pose, found)
    else:
        face = max(found, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    points = torch.from_numpy(np.asarray(face.landmarks, dtype=np.float64))[None]
    place = FaceBoxes.of_templates(*fit_templates(points, torch.ones(1, 5, dtype=torch.bool)))
    if not lies_inside(place.boxes, *size)[0]:
        raise FaceError("reference: the picture's edge cuts off the face; use one that shows all of it")
    _judge(points[0].numpy(), True, place)
    return place


def _from_left(items: Sequence[Item], x: Sequence[float], choose: int) -> Item:
    """The choose-th item by its x, counted from 0."""
    if not 0 <= choose < len(items):
        raise FaceError(f"reference: face {choose} asked for, the picture shows {len(items)}; count from 0 at the left")
    return items[int(np.argsort(x, kind="stable")[choose])]


def _face_of(pose: Poses, found: Sequence[DetectedFace]) -> DetectedFace:
    """The face nearest to the head of the pose's first person. Raises FaceError when it can't be theirs."""
    seen = pose.body_score[0, 0, HEAD] > MIN_SCORE
    points = pose.body[0, 0, HEAD][seen]
    if not seen.any():
        points = pose.face[0, 0][pose.face_score[0, 0] > MIN_SCORE]
    if not len(points):
        raise FaceError(
            f"reference_pose: its first person shows no head, so none of the faces in reference ({len(found)}) can be "
            "theirs; choose the face, or give the pose of this picture"
        )
    head = points.mean(0)
    away = [float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - head)) for face in found]
    nearest = int(np.argmin(away))
    face = found[nearest]
    if away[nearest] > (face.box[2:] - face.box[:2]).max():
        raise FaceError(
            f"reference_pose: pose and picture disagree: the pose has the head at ({head[0]:.0f}, {head[1]:.0f}), "
            f"the nearest face found is {away[nearest]:.0f} px away; give the pose of this picture, or choose the face"
        )
    return face


def _judge(points: np.ndarray, mouth: bool, place: FaceBoxes) -> None:
    """Raises FaceError for a face so small or so turned that its embedding says little about the person.

    points: [5, 2] px as in the template; mouth: whether its corners are known.
    """
    side = float(template_side(place.templates)[0])
    if side < MIN_SIDE:
        raise FaceError(
            f"reference: the face is too small, {side:.0f} px across where {MIN_SIDE} are needed; "
            "use a larger or closer picture"
        )
    left, right, nose = points[:3]
    across = right - left
    if mouth:  # the way from eyes to mouth stays as it is when the head turns
        down = points[3:].mean(0) - points[:2].mean(0)
        across = np.array([down[1], -down[0]])
    across = across / max(float(np.linalg.norm(across)), 1e-6)
    eyes, nose = float((right - left) @ across), float((nose - left) @ across)
    narrow = mouth and eyes < MIN_EYES * np.linalg.norm(down)
    if narrow or not 0 <= nose <= eyes:
        reason = "its eyes are close together for its height" if narrow else "the nose lies beyond an eye"
        raise FaceError(
            f"reference: the face is in profile ({reason}), which says too little about who it is; "
            "use a picture that looks at the camera"
        )
