"""Flat shapes over time: geometry for all frames at once in numpy, then one OpenCV call per shape and frame."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .person import Colour

SUPERSAMPLE = 2
_SHIFT = 4  # OpenCV's fixed point: coordinates in sixteenths of a pixel
_ARC = np.linspace(0, 1, 7)


class Shape(NamedTuple):
    """One filled polygon or line in every frame."""

    points: np.ndarray  # int32 [F, K, 2], sixteenths of a supersampled pixel
    colour: Colour
    edge: Colour | None  # colour of the outline
    width: int  # of the outline, or of the line
    kind: int  # _CONVEX, _POLYGON, _OPEN or _CLOSED
    show: np.ndarray | None  # bool [F]


_CONVEX, _POLYGON, _OPEN, _CLOSED = range(4)


class Ink:
    """A list of shapes, drawn in the order in which they were added. Points are [F, K, 2] px of the picture."""

    def __init__(self, px_per_metre: float) -> None:
        self.px_per_metre = px_per_metre
        self.shapes: list[Shape] = []

    def thickness(self, metres: float) -> int:
        """Line width in supersampled pixels, at least 1."""
        return max(1, round(metres * self.px_per_metre * SUPERSAMPLE))

    def fill(
        self,
        points: np.ndarray,
        colour: Colour,
        *,
        edge: Colour | None = None,
        width: float = 0.013,
        convex: bool = False,
        show: np.ndarray | None = None,
    ) -> None:
        """A polygon, outlined if `edge` is given; width in metres."""
        kind = _CONVEX if convex else _POLYGON
        self.shapes.append(Shape(_fixed(points), colour, edge, self.thickness(width), kind, show))

    def line(
        self,
        points: np.ndarray,
        colour: Colour,
        width: float,
        *,
        closed: bool = False,
        show: np.ndarray | None = None,
    ) -> None:
        """A line with round ends; width in metres."""
        kind = _CLOSED if closed else _OPEN
        self.shapes.append(Shape(_fixed(points), colour, None, self.thickness(width), kind, show))


def paint(canvas: np.ndarray, shapes: list[Shape], frame: int) -> None:
    """Draws one frame of the shapes onto a supersampled canvas, in place."""
    for points, colour, edge, width, kind, show in shapes:
        if show is not None and not show[frame]:
            continue
        polygon = points[frame]
        if kind == _CONVEX:
            cv2.fillConvexPoly(canvas, polygon, colour, cv2.LINE_AA, _SHIFT)
        elif kind == _POLYGON:
            cv2.fillPoly(canvas, [polygon], colour, cv2.LINE_AA, _SHIFT)
        else:
            cv2.polylines(canvas, [polygon], kind == _CLOSED, colour, width, cv2.LINE_AA, _SHIFT)
        if edge is not None:
            cv2.polylines(canvas, [polygon], True, edge, width, cv2.LINE_AA, _SHIFT)


def _fixed(points: np.ndarray) -> np.ndarray:
    scale = SUPERSAMPLE * 2**_SHIFT
    # A pixel's centre is at its index + 0.5 in the picture but at its index for OpenCV.
    return np.ascontiguousarray(np.rint(np.clip(points, -4096, 4096) * scale - 2 ** (_SHIFT - 1)).astype(np.int32))


def capsule(start: np.ndarray, end: np.ndarray, start_radius: np.ndarray, end_radius: np.ndarray) -> np.ndarray:
    """Convex hulls [F, 14, 2] of two discs each. start, end: [F, 2] px; radii: [F] px."""
    across = end - start
    length = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    heading = np.arctan2(across[:, 1], across[:, 0])
    opening = np.arccos(np.clip((start_radius - end_radius) / length, -1, 1))
    back = heading[:, None] + opening[:, None] + (2 * np.pi - 2 * opening[:, None]) * _ARC
    front = heading[:, None] - opening[:, None] + 2 * opening[:, None] * _ARC
    return np.concatenate(
        [_arc(start, start_radius, back), _arc(end, end_radius, front)],
        axis=1,
    )


def _arc(centre: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return centre[:, None] + radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def ellipse(points: int = 16) -> np.ndarray:
    """A unit circle [points, 2] that starts at the left and goes over the top (y up)."""
    angle = np.pi - 2 * np.pi * np.arange(points) / points
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Chaikin's corner cutting of closed polygons [..., K, 2] -> [..., K * 2**rounds, 2]."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=-2)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=-2)
        points = cut.reshape(*points.shape[:-2], -1, points.shape[-1])
    return points


def smooth_open(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Corner cutting of open lines [..., K, 2]; both ends stay."""
    for _ in range(rounds):
        first, second = points[..., :-1, :], points[..., 1:, :]
        cut = np.stack([0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], axis=-2)
        cut = cut.reshape(*points.shape[:-2], -1, points.shape[-1])
        points = np.concatenate([points[..., :1, :], cut, points[..., -1:, :]], axis=-2)
    return points
