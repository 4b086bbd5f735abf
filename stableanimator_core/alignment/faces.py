"""The reference's face in the driver's motion: who a face is shows in its 68 points, and these are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..skeleton import FACE_MIRROR, FACE_POINTS
from .similarity import DISTINCT

# Points by which a face is told, at least.
SHARED = FACE_POINTS // 2
# A clip's face is compared with the reference's when its points, laid over that one's, are off by less, in spreads. Of
# drawn faces that are turned by up to 45 degrees, half of those beyond came out worse than before.
ALIKE = 0.3


class _Upright(NamedTuple):
    shape: np.ndarray  # [68, 2] centred, of spread 1, upright, the mean with its mirror image
    turn: np.ndarray  # [2, 2] shape @ turn lies as the face does
    lean: float  # radians by which it was turned to be upright


def reshaped(faces: np.ndarray, seen: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Faces of a clip with the model's shape; size, place, angle, view and play of features stay the driver's.

    faces: [F, 68, 2] px, seen: bool [F, 68], model: [68, 2] px, all of it seen.
    What differs between the model and the frame that is most like it is added to all frames, as they see it. Both are
    compared as means with their mirror images, which leaves out that a head is turned. Frames with less than SHARED
    points seen stay as they are; so does a clip in which no face is ALIKE.
    """
    whole = np.flatnonzero(seen.all(1))
    whole = whole[[spread(faces[frame]) > DISTINCT * np.abs(faces[frame]).max() for frame in whole]]
    if not len(whole) or not spread(model) > DISTINCT * np.abs(model).max():
        return faces
    apart = [_apart(faces[frame], model) for frame in whole]
    if min(apart) > ALIKE:
        return faces
    like = faces[whole[int(np.argmin(apart))]]
    ours = _upright(model)
    theirs = _upright(like, ours.lean + _angle(_normal(like), _normal(model)))
    change = (ours.shape - theirs.shape) @ theirs.turn  # [68, 2]
    like = np.concatenate([_normal(like), np.ones((FACE_POINTS, 1))], 1)  # [68, 3]
    out = faces.copy()
    for face, shown in zip(out, seen, strict=True):
        if shown.sum() >= SHARED:
            view = np.linalg.lstsq(like[shown], face[shown], rcond=None)[0][:2]  # [2, 2]
            face += change @ view
    return out


def size_ratio(faces: np.ndarray, seen: np.ndarray, model: np.ndarray) -> float | None:
    """The model's size over that of the faces by what both show, the clip's median; None of less than SHARED points.

    faces: [F, 68, 2] px, seen: bool [F, 68] in both, model: [68, 2] px.
    """
    ratios = []
    for face, shared in zip(faces, seen, strict=True):
        if shared.sum() >= SHARED:
            theirs, ours = spread(face[shared]), spread(model[shared])
            if theirs > DISTINCT * np.abs(face[shared]).max() and ours > DISTINCT * np.abs(model[shared]).max():
                ratios.append(ours / theirs)
    return float(np.median(ratios)) if ratios else None


def spread(points: np.ndarray) -> np.ndarray:
    """Root mean square distance of points [..., N, 2] from their mean, [...]."""
    return np.sqrt(np.square(points - points.mean(-2, keepdims=True)).sum(-1).mean(-1))


def _normal(face: np.ndarray) -> np.ndarray:
    """A face [68, 2] centred and of spread 1."""
    return (face - face.mean(0)) / spread(face)


def _turn(angle: float) -> np.ndarray:
    """points @ _turn(angle) are turned by radians from x towards y."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _angle(src: np.ndarray, dst: np.ndarray) -> float:
    """By how much centred points [N, 2] have to be turned to lie over others, radians."""
    return float(np.arctan2((src[:, 0] * dst[:, 1] - src[:, 1] * dst[:, 0]).sum(), (src * dst).sum()))


def _apart(face: np.ndarray, model: np.ndarray) -> float:
    """Root mean square distance of two faces [68, 2] that lie over one another, in spreads."""
    face, model = _normal(face), _normal(model)
    return float(np.sqrt(np.square(face @ _turn(_angle(face, model)) - model).sum(-1).mean()))


def _mirrored(face: np.ndarray) -> np.ndarray:
    return face[list(FACE_MIRROR)] * (-1, 1)


def _upright(face: np.ndarray, about: float = 0.0) -> _Upright:
    """about: radians by which the face should be turned, within a right angle: its mirror image tells an upright face
    from one that leans, not from one that stands on its head."""
    face = _normal(face)
    lean = _angle(face, _mirrored(face)) / 2  # a face that leans to one side has a mirror image that leans to the other
    if np.cos(lean - about) < 0:
        lean += np.pi
    straight = face @ _turn(lean)
    return _Upright(_normal((straight + _mirrored(straight)) / 2), _turn(-lean), lean)
