"""Draws poses as the coloured skeletons that StableAnimator's pose network was trained on (DWPose style)."""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np

from ..errors import PoseError
from ..keypoints import Poses
from ..skeleton import COLOURS, HAND_EDGES, LIMBS

# Half width of a limb and radii of the dots, in pixels of the canvas: they do not scale with it.
LIMB_HALF_WIDTH = 4
JOINT_RADIUS = 4
HAND_RADIUS = 4
FACE_RADIUS = 3
HAND_LINE_WIDTH = 2

# A body joint counts as seen above this score. Hands and faces have no such threshold: weak points are only dim.
MIN_BODY_SCORE = 0.3

# Limbs are darker than joints.
LIMB_BRIGHTNESS = 0.6

# OpenCV's fixed-point drawing overflows on points farther out than this many pixels; they are drawn from here.
FARTHEST = 30_000

# Full-saturation RGB in 0..1 of each hand bone, around the hue circle.
HAND_HUES = tuple(colorsys.hsv_to_rgb(edge / len(HAND_EDGES), 1.0, 1.0) for edge in range(len(HAND_EDGES)))


def draw_poses(poses: Poses, width: int, height: int, *, canvas_short_side: int = 2160) -> np.ndarray:
    """Draws everybody in every frame. Returns uint8 RGB [F, height, width, 3], black where nothing is drawn.

    Marks have a fixed size on a canvas whose short side is canvas_short_side px, which is then resized to
    width x height: a smaller canvas gives thicker marks. 2160 is what the published weights were trained on.
    The poses' canvas is stretched to width x height; fit or align the poses first when the aspect ratios differ.
    Raises PoseError when a side is not positive.
    """
    if min(width, height, canvas_short_side) < 1:
        raise PoseError(
            f"cannot draw {width} x {height} px on a canvas of short side {canvas_short_side}; all must be at least 1"
        )
    ratio = canvas_short_side / min(width, height)
    canvas = np.zeros((int(height * ratio), int(width * ratio), 3), dtype=np.uint8)
    drawn = np.empty((poses.frames, height, width, 3), dtype=np.uint8)
    for frame in range(poses.frames):
        canvas.fill(0)
        _draw_frame(canvas, poses, frame)
        cv2.resize(canvas, (width, height), dst=drawn[frame])
    return drawn


def _draw_frame(canvas: np.ndarray, poses: Poses, frame: int) -> None:
    """Draws one frame's people onto a black RGB canvas, part by part as training did: limbs under joints, and so on."""
    size = np.array([canvas.shape[1], canvas.shape[0]], dtype=np.float64)
    source = np.array([poses.width, poses.height], dtype=np.float64)

    def on_canvas(points: np.ndarray) -> np.ndarray:
        return (points / source * size).clip(-FARTHEST, FARTHEST)

    body = on_canvas(poses.body[frame])  # [P, 18, 2]
    hands = on_canvas(poses.hands[frame])  # [P, 2, 21, 2]
    face = on_canvas(poses.face[frame])  # [P, 68, 2]
    body_score = poses.body_score[frame].clip(0, 1)
    hands_score = poses.hands_score[frame].clip(0, 1)
    face_score = poses.face_score[frame].clip(0, 1)

    _draw_limbs(canvas, body, body_score)
    _draw_joints(canvas, body, body_score)
    for hand in range(hands.shape[1]):
        for person in range(hands.shape[0]):
            _draw_hand(canvas, hands[person, hand], hands_score[person, hand])
    for person in range(face.shape[0]):
        _draw_face(canvas, face[person], face_score[person])


def _draw_limbs(canvas: np.ndarray, body: np.ndarray, score: np.ndarray) -> None:
    """Ellipses between joints, the table's colour x both scores x LIMB_BRIGHTNESS. body: [P, 18, 2] canvas px."""
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
        for person in range(body.shape[0]):
            score_a, score_b = score[person, a], score[person, b]
            if score_a <= MIN_BODY_SCORE or score_b <= MIN_BODY_SCORE:
                continue
            (xa, ya), (xb, yb) = body[person, a].tolist(), body[person, b].tolist()
            centre = (int((xa + xb) / 2), int((ya + yb) / 2))
            half_length = int(math.hypot(xa - xb, ya - yb) / 2)
            angle = int(math.degrees(math.atan2(ya - yb, xa - xb)))
            polygon = cv2.ellipse2Poly(centre, (half_length, LIMB_HALF_WIDTH), angle, 0, 360, 1)
            # Limbs cover one another and are never mixed, so darkening each equals darkening the whole canvas.
            bright = [int(channel * score_a * score_b) for channel in colour]
            cv2.fillConvexPoly(canvas, polygon, [int(channel * LIMB_BRIGHTNESS) for channel in bright])


def _draw_joints(canvas: np.ndarray, body: np.ndarray, score: np.ndarray) -> None:
    """Filled circles in the table's colours x score. body: [P, 18, 2] canvas px."""
    for joint, colour in enumerate(COLOURS):
        for person in range(body.shape[0]):
            if score[person, joint] <= MIN_BODY_SCORE:
                continue
            x, y = body[person, joint].tolist()
            shade = [int(channel * score[person, joint]) for channel in colour]
            cv2.circle(canvas, (int(x), int(y)), JOINT_RADIUS, shade, thickness=-1)


def _drawable(points: np.ndarray) -> list[tuple[int, int] | None]:
    """Whole canvas pixels of the points to draw; None on the first row or column, where the missing ones lie, too."""
    whole = points.astype(np.int64)
    return [tuple(xy) if ok else None for xy, ok in zip(whole.tolist(), (whole > 0).all(axis=-1).tolist(), strict=True)]


def _draw_hand(canvas: np.ndarray, points: np.ndarray, score: np.ndarray) -> None:
    """Bones around the hue circle, then blue dots. points: [21, 2] canvas px, score: [21]."""
    pixels = _drawable(points)
    for (a, b), hue in zip(HAND_EDGES, HAND_HUES, strict=True):
        if pixels[a] is None or pixels[b] is None:
            continue
        value = int(score[a] * score[b] * 255)
        cv2.line(canvas, pixels[a], pixels[b], [channel * value for channel in hue], thickness=HAND_LINE_WIDTH)
    for pixel, value in zip(pixels, score, strict=True):
        if pixel is not None:
            cv2.circle(canvas, pixel, HAND_RADIUS, (0, 0, int(value * 255)), thickness=-1)


def _draw_face(canvas: np.ndarray, points: np.ndarray, score: np.ndarray) -> None:
    """Grey dots, as bright as they are sure. points: [68, 2] canvas px, score: [68]."""
    for pixel, value in zip(_drawable(points), score, strict=True):
        if pixel is not None:
            cv2.circle(canvas, pixel, FACE_RADIUS, (int(value * 255),) * 3, thickness=-1)
