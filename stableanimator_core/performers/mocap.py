"""Recorded motion, and putting any motion onto a performer's own bones."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .choreography import rotation

_KEYS = ("joints", "clip_start", "fps")
# Weights that make the forward axis exact from (eyes - ears) and (nose - ears), given the layout's head offsets.
_EYES_SHARE, _NOSE_SHARE = 0.012, 0.025
_YAW_LIMIT, _DOWN_LIMIT, _ROLL_LIMIT = 30.0, 17.0, 20.0  # degrees the performer's head stays within


class MotionClip(NamedTuple):
    """One recorded motion."""

    joints: np.ndarray  # [F, 18, 3] metres, y up
    fps: float


class Bones(NamedTuple):
    """Lengths of a performer's bones in metres; shoulder and hip are half widths."""

    shoulder: float
    hip: float
    torso: float
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    ankle: float


class Motion(NamedTuple):
    """A motion on a performer's bones. The head is rigid and comes as an orientation; its joints are unset."""

    joints: np.ndarray  # [F, 18, 3] metres, y up, floor at y = 0; joints 0 and 14..17 are zeros
    head: np.ndarray  # [F, 3, 3], columns are the head's left, up and forward
    trunk_yaw: np.ndarray  # [F] degrees, 0 faces +z


def load_mocap(path: str | Path) -> list[MotionClip]:
    """Clips of an npz file with `joints` [N, 18, 3] metres, `clip_start` [C + 1] and `fps`.

    Raises InputError in one line when the file is missing, is no npz, lacks an array or holds wrong shapes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"motion file {path}: not found; give an .npz with {', '.join(_KEYS)}")
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = [key for key in _KEYS if key not in getattr(data, "files", ())]
            if missing:
                raise InputError(f"motion file {path}: has no {', '.join(missing)}; need {', '.join(_KEYS)}")
            joints, starts, fps = (np.asarray(data[key]) for key in _KEYS)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"motion file {path}: is no readable .npz of plain arrays ({type(error).__name__})") from error
    if joints.ndim != 3 or joints.shape[1:] != (18, 3):
        raise InputError(f"motion file {path}: joints has shape {list(joints.shape)}, need [N, 18, 3]")
    if not np.isfinite(joints).all():
        raise InputError(f"motion file {path}: joints holds values that are not finite")
    if fps.size != 1 or not float(fps.reshape(-1)[0]) > 0:
        raise InputError(f"motion file {path}: fps must be one positive number, got {fps.tolist()}")
    bounds = starts.astype(np.int64).reshape(-1)
    if len(bounds) < 2 or bounds[0] < 0 or bounds[-1] > len(joints) or (np.diff(bounds) < 1).any():
        raise InputError(f"motion file {path}: clip_start must rise from 0 to at most {len(joints)} (joints' frames)")
    rate = float(fps.reshape(-1)[0])
    pairs = zip(bounds[:-1], bounds[1:], strict=True)
    return [MotionClip(joints[start:stop].astype(np.float64), rate) for start, stop in pairs]


def random_window(clips: Sequence[MotionClip], frames: int, fps: float, rng: np.random.Generator) -> np.ndarray | None:
    """`frames` consecutive samples [frames, 18, 3] at about `fps` from a random place; None if no clip is long enough.

    Clips are drawn by their length, so that every recorded second is equally likely.
    """
    steps = [max(1, round(clip.fps / fps)) for clip in clips]
    room = np.array([max(0, len(c.joints) - (frames - 1) * s) for c, s in zip(clips, steps, strict=True)], dtype=float)
    if not room.sum():
        return None
    chosen = int(rng.choice(len(clips), p=room / room.sum()))
    start = int(rng.integers(int(room[chosen])))
    return clips[chosen].joints[start : start + (frames - 1) * steps[chosen] + 1 : steps[chosen]]


def trunk_yaw(joints: np.ndarray) -> np.ndarray:
    """Heading [F] in degrees of the trunk of joints [F, 18, 3]; 0 faces +z, positive turns to the character's left."""
    left = _unit(joints[:, 11] - joints[:, 8]) + _unit(joints[:, 5] - joints[:, 2])
    up = joints[:, 1] - (joints[:, 8] + joints[:, 11]) / 2
    facing = np.cross(left, up)
    return np.rad2deg(np.arctan2(facing[:, 0], facing[:, 2]))


def turned_to_camera(joints: np.ndarray, yaw: float, travel: float = 0.35) -> np.ndarray:
    """Joints [F, 18, 3] turned so that the trunk's mean heading is `yaw` degrees, near the origin.

    Horizontal travel is compressed so that the hips stay within `travel` metres of the middle.
    """
    heading = np.deg2rad(trunk_yaw(joints))
    mean = np.rad2deg(np.arctan2(np.sin(heading).mean(), np.cos(heading).mean()))
    turned = joints @ rotation(1, np.asarray(yaw - mean)).T
    hips = (turned[:, 8] + turned[:, 11]) / 2
    path = hips[:, [0, 2]] - hips[:, [0, 2]].mean(0)
    reach = np.abs(path).max()
    wanted = path * min(1.0, travel / max(reach, 1e-6))
    moved = turned.copy()
    moved[..., [0, 2]] += (wanted - hips[:, [0, 2]])[:, None]
    return moved


def retarget(joints: np.ndarray, bones: Bones) -> Motion:
    """The motion of joints [F, 18, 3] metres on other bones: directions stay, lengths change.

    The root's path is scaled by the ratio of the legs, and the lower ankle's lowest place is put at ankle height.
    The head's orientation is read from its points and drawn gently towards +z, so that a face remains a face.
    """
    middle = (joints[:, 8] + joints[:, 11]) / 2
    trunk = joints[:, 1] - middle
    leg = np.median(_length(joints[:, 9] - joints[:, 8]) + _length(joints[:, 10] - joints[:, 9]))
    out = np.zeros_like(joints)
    root = middle * ((bones.thigh + bones.shank) / max(leg, 1e-6))
    out[:, 1] = root + trunk * (bones.torso / max(np.median(_length(trunk)), 1e-6))
    across = _unit(joints[:, 11] - joints[:, 8])
    for sign, shoulder, hip in ((-1, 2, 8), (1, 5, 11)):
        out[:, shoulder] = out[:, 1] + bones.shoulder * _unit(joints[:, shoulder] - joints[:, 1])
        out[:, hip] = root + sign * bones.hip * across
        for joint, length in (
            (shoulder + 1, bones.upper_arm),
            (shoulder + 2, bones.forearm),
            (hip + 1, bones.thigh),
            (hip + 2, bones.shank),
        ):
            out[:, joint] = out[:, joint - 1] + length * _unit(joints[:, joint] - joints[:, joint - 1])
    out[..., 1] += bones.ankle - out[:, [10, 13], 1].min()
    out[:, [0, 14, 15, 16, 17]] = 0
    return Motion(out, _calm_head(_head_axes(joints)), trunk_yaw(joints))


def _head_axes(joints: np.ndarray) -> np.ndarray:
    ears = (joints[:, 16] + joints[:, 17]) / 2
    eyes = (joints[:, 14] + joints[:, 15]) / 2
    left = _unit(joints[:, 17] - joints[:, 16])
    forward = _unit(_EYES_SHARE * (eyes - ears) + _NOSE_SHARE * (joints[:, 0] - ears))
    up = _unit(np.cross(forward, left))
    return np.stack([np.cross(up, forward), up, forward], axis=-1)


def _calm_head(axes: np.ndarray) -> np.ndarray:
    """Orientation with yaw, pitch and roll softly limited."""
    forward = axes[..., 2]
    yaw = np.rad2deg(np.arctan2(forward[:, 0], forward[:, 2]))
    pitch = np.rad2deg(np.arcsin(np.clip(-forward[:, 1], -1, 1)))
    level = (rotation(1, yaw) @ rotation(0, pitch)).swapaxes(-1, -2) @ axes
    roll = np.rad2deg(np.arctan2(level[:, 1, 0], level[:, 0, 0]))
    yaw, pitch, roll = (
        limit * np.tanh(0.8 * angle / limit)
        for angle, limit in ((yaw, _YAW_LIMIT), (pitch, _DOWN_LIMIT), (roll, _ROLL_LIMIT))
    )
    return rotation(1, yaw) @ rotation(0, pitch) @ rotation(2, roll)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
