"""Draws a performer's clip and writes down where its keypoints are."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..keypoints import Poses
from .body import BodyShapes, hand_points
from .hair import draw_hair_back, draw_hair_front, draw_hair_shade, draw_hat
from .head import HeadView, draw_features, draw_glasses, draw_skull, head_joints, landmarks
from .ink import SUPERSAMPLE, Ink, paint
from .mocap import Motion
from .person import Person
from .scene import Camera


class Performance(NamedTuple):
    """A motion with the head's place and the face's small movements."""

    motion: Motion
    head_centre: np.ndarray  # [F, 3] metres
    openness: np.ndarray  # [F] eyes, 0 shut..1 open
    mouth: np.ndarray  # [F] opening beyond the resting mouth, 0..0.15


def perform(person: Person, motion: Motion, rng: np.random.Generator) -> Performance:
    """Puts the head on the neck and draws the few blinks and mouth movements from `rng`."""
    joints = motion.joints
    frames = len(joints)
    spine = joints[:, 1] - (joints[:, 8] + joints[:, 11]) / 2
    spine /= np.linalg.norm(spine, axis=-1, keepdims=True)
    up = 0.6 * motion.head[..., 1] + 0.4 * spine
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    centre = joints[:, 1] + up * (person.body.neck + 0.93 * person.head.half_height)
    openness, mouth = np.ones(frames), np.zeros(frames)
    if rng.random() < 0.15 and frames > 4:
        start = int(rng.integers(1, frames - 2))
        openness[start : start + 2] = (0.25, 0.1)
    if rng.random() < 0.2:
        talk = 2 * np.pi * (np.arange(frames) * rng.uniform(0.08, 0.2) + rng.random())
        mouth = rng.uniform(0.06, 0.13) * np.clip(np.sin(talk), 0, 1)
    return Performance(motion, centre, openness, mouth)


def extent_points(person: Person, performance: Performance) -> tuple[np.ndarray, np.ndarray]:
    """World points for framing: of the body with hands and shoes [N, 3], and round the head with its hair [M, 3]."""
    joints, bones = performance.motion.joints, person.body.bones
    hands = [
        joints[:, w] + (joints[:, w] - joints[:, w - 1]) * (1.15 * person.body.hand / bones.forearm) for w in (4, 7)
    ]
    soles = [joints[:, ankle] + [aside, -bones.ankle, 0.1] for ankle in (10, 13) for aside in (-0.09, 0.09)]
    head = person.head
    top = 1.6 if head.hair in ("afro", "mohawk", "bun", "spiky") or head.hat in ("cat_ears", "beanie") else 1.25
    wide = 1.7 if head.hair in ("pigtails", "ponytail", "afro") else 1.3
    up, left = performance.motion.head[..., 1] * head.half_height, performance.motion.head[..., 0] * head.half_width
    around = [performance.head_centre + step for step in (top * up, -1.05 * up, wide * left, -wide * left)]
    return np.concatenate([joints[:, 1:14].reshape(-1, 3), *hands, *soles]), np.concatenate(around)


def render(person: Person, performance: Performance, camera: Camera, background: np.ndarray) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] RGB. background: uint8 [H * S, W * S, 3] as drawn by `draw_background`."""
    motion = performance.motion
    view = HeadView(person.head, performance.head_centre, motion.head, camera)
    body = BodyShapes(person, motion, performance.head_centre, camera)
    back, face = Ink(body.unit), Ink(body.unit)
    draw_hair_back(back, view)
    draw_skull(face, view)
    draw_hair_shade(face, view)
    draw_features(face, view, performance.openness, performance.mouth)
    draw_hair_front(face, view)
    draw_glasses(face, view)
    draw_hat(face, view)
    shadow = _shadow(motion, camera)
    dark = cv2.convertScaleAbs(background, alpha=0.78)
    frames = np.empty((len(motion.joints), camera.height, camera.width, 3), np.uint8)
    canvas = np.empty_like(background)
    for f in range(len(frames)):
        np.copyto(canvas, background)
        _drop_shadow(canvas, dark, shadow[f])
        before, after = body.layers(f)
        for ink in (back, *before, face, *after):
            paint(canvas, ink.shapes, f)
        cv2.resize(canvas, (camera.width, camera.height), dst=frames[f], interpolation=cv2.INTER_AREA)
    return frames


def _shadow(motion: Motion, camera: Camera) -> np.ndarray:
    """The ground shadow's centre and half axes [F, 4] in supersampled px."""
    feet = motion.joints[:, [10, 13]]
    centre = feet.mean(1) * [1, 0, 1]
    spread = np.abs(feet[:, 0] - feet[:, 1])
    corners = np.stack([
        centre, centre + [1, 0, 0] * (0.19 + 0.5 * spread[:, :1]), centre + [0, 0, 1] * (0.16 + 0.3 * spread[:, 2:]),
    ], axis=1)  # fmt: skip
    px = camera.project(corners) * SUPERSAMPLE
    return np.concatenate([px[:, 0], np.abs(px[:, 1, :1] - px[:, 0, :1]), np.abs(px[:, 2, 1:] - px[:, 0, 1:])], axis=1)


def _drop_shadow(canvas: np.ndarray, dark: np.ndarray, shadow: np.ndarray) -> None:
    """Darkens an ellipse of the canvas in place."""
    x, y, rx, ry = (int(round(v)) for v in shadow)
    rx, ry = max(rx, 2), max(ry, 2)
    x0, x1 = max(x - rx, 0), min(x + rx + 1, canvas.shape[1])
    y0, y1 = max(y - ry, 0), min(y + ry + 1, canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.ellipse(mask, (x - x0, y - y0), (rx, ry), 0, 0, 360, 255, -1)
    cv2.copyTo(dark[y0:y1, x0:x1], mask, canvas[y0:y1, x0:x1])


def keypoints(person: Person, performance: Performance, camera: Camera) -> Poses:
    """Where the drawn body, face and hands are: P = 1, score 1 inside the picture and 0 outside."""
    motion = performance.motion
    view = HeadView(person.head, performance.head_centre, motion.head, camera)
    joints = motion.joints.copy()
    joints[:, [0, 14, 15, 16, 17]] = head_joints(view)
    body = camera.project(joints)[:, None]
    face = landmarks(view, performance.openness, performance.mouth)[:, None]
    hands = camera.project(hand_points(motion, person.body))[:, None]

    def seen(points: np.ndarray) -> np.ndarray:
        inside = (points >= 0) & (points < [camera.width, camera.height])
        return inside.all(-1).astype(np.float64)

    return Poses(body, seen(body), face, seen(face), hands, seen(hands), camera.width, camera.height)
