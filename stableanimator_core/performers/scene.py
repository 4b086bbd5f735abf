"""Where a performer stands: the camera and the background of one clip."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from .ink import SUPERSAMPLE
from .person import Colour, distance, shade

FRAMINGS = ("full", "knees", "upper")
FRAMING_SHARES = (0.7, 0.2, 0.1)
BACKGROUNDS = ("room", "window", "hills", "stage", "blocks", "studio", "stripes", "pictures")


@dataclass(frozen=True)
class Camera:
    """A perspective camera. Picture x goes right, y goes down, (0, 0) is the upper left corner."""

    position: np.ndarray  # [3] metres
    axes: np.ndarray  # [3, 3], rows are the camera's right, up and backward in the world
    focal: float  # px
    centre: np.ndarray  # [2] px
    width: int
    height: int

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Metres [...] in front of the camera of points [..., 3]."""
        return np.maximum((self.position - points) @ self.axes[2], 0.05)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of points [..., 3] metres."""
        local = (points - self.position) @ self.axes.T
        depth = np.maximum(-local[..., 2:], 0.05)
        return self.centre + self.focal * local[..., :2] * [1, -1] / depth

    def scale(self, points: np.ndarray) -> np.ndarray:
        """Pixels per metre [...] at points [..., 3]."""
        return self.focal / self.depth(points)


def look_at(position: np.ndarray, target: np.ndarray, width: int, height: int) -> Camera:
    """A camera of focal length 1 px, centred on (0, 0): `fitted` makes it a picture."""
    back = position - target
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    return Camera(position, np.stack([right, np.cross(back, right), back]), 1.0, np.zeros(2), width, height)


def frame_camera(
    extent: np.ndarray, head: np.ndarray, framing: str, cut: float, width: int, height: int, rng: np.random.Generator
) -> Camera:
    """A steady camera that frames a performer for a whole clip.

    extent: [N, 3] points of the body in all frames; head: [M, 3] points round the head in all frames.
    framing: "full" shows everything; "knees" and "upper" show down to the height `cut` in metres.
    """
    distance_m = rng.uniform(3.4, 6.0)
    bearing = np.deg2rad(rng.uniform(-8, 8))
    middle = extent.mean(0)
    height_m = rng.uniform(0.55, 1.35)
    position = np.array([middle[0] + distance_m * np.sin(bearing), height_m, middle[2] + distance_m * np.cos(bearing)])
    camera = look_at(position, np.array([middle[0], rng.uniform(0.7, 0.95), middle[2]]), width, height)
    if framing == "full":
        points = camera.project(np.concatenate([extent, head]))
        low, high = points.min(0), points.max(0)
        fill = rng.uniform(0.88, 0.97)
    else:
        points = camera.project(head)
        low, high = points.min(0), points.max(0)
        lowest = camera.project(np.array([middle[0], cut, middle[2]]))
        high[1] = max(lowest[1], high[1])
        fill = rng.uniform(0.9, 0.97)
    size = np.maximum(high - low, 1e-6)
    focal = fill * min(width / size[0], height / size[1])
    spare = np.array([width, height]) - focal * size
    place = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.7)])
    if framing != "full":
        place[1] = 1.0  # the body goes on below the picture
    return Camera(camera.position, camera.axes, focal, spare * place - focal * low, width, height)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _vertical(canvas: np.ndarray, top: int, bottom: int, first: Colour, last: Colour) -> None:
    top, bottom = int(np.clip(top, 0, len(canvas))), int(np.clip(bottom, 0, len(canvas)))
    if bottom > top:
        ramp = np.linspace(0, 1, bottom - top)[:, None]
        rows = np.rint(np.asarray(first) * (1 - ramp) + np.asarray(last) * ramp).astype(np.uint8)
        canvas[top:bottom] = rows[:, None]


def draw_background(camera: Camera, avoid: tuple[Colour, ...], rng: np.random.Generator) -> np.ndarray:
    """A calm background uint8 [H * S, W * S, 3] (S = SUPERSAMPLE) whose colours stand off from those in `avoid`."""
    width, height = camera.width * SUPERSAMPLE, camera.height * SUPERSAMPLE
    canvas = np.empty((height, width, 3), np.uint8)
    wall_foot = camera.project(np.array([camera.position[0], 0.0, camera.position[2] - rng.uniform(6.5, 9)]))
    horizon = int(round(float(wall_foot[1]) * SUPERSAMPLE))
    hue, saturation, value = max(
        ((rng.random(), rng.uniform(0.12, 0.5), rng.uniform(0.55, 0.97)) for _ in range(5)),
        key=lambda c: min(distance(_hsv(*c), other) for other in avoid),
    )
    floor_hue = hue + rng.choice([0.0, 0.08, 0.5, 0.92])
    floor = _hsv(floor_hue, rng.uniform(0.1, 0.4), np.clip(value + rng.uniform(-0.3, -0.08), 0.3, 0.9))
    kind = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    if kind == "hills":
        _draw_hills(canvas, horizon, rng)
        return canvas
    if kind == "stage":
        value, saturation = rng.uniform(0.25, 0.42), rng.uniform(0.3, 0.6)
        floor = _hsv(floor_hue, 0.4, 0.5)
    wall = _hsv(hue, saturation, value)
    if kind == "studio":
        _vertical(canvas, 0, height, shade(wall, 1.25), shade(wall, 0.85))
        _vertical(canvas, max(horizon, 0), height, shade(wall, 0.88), shade(wall, 0.72))
        return canvas
    _vertical(canvas, 0, max(horizon, 0), shade(wall, 1.12), shade(wall, 0.93))
    _vertical(canvas, max(horizon, 0), height, shade(floor, 0.95), shade(floor, 1.12))
    unit = height / 10
    decor = {"window": _draw_window, "stage": _draw_spotlights, "blocks": _draw_blocks, "stripes": _draw_stripes,
             "pictures": _draw_pictures}.get(kind)  # fmt: skip
    if decor is not None:
        decor(canvas[: max(horizon, 0)], wall, unit, rng)
    if horizon > 0 and kind in ("room", "window", "pictures", "stripes"):
        cv2.rectangle(canvas, (0, horizon - int(0.35 * unit)), (width, horizon), shade(wall, 0.75), -1)
    return canvas


def _draw_hills(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    sky = _hsv(rng.choice([0.55, 0.58, 0.62, 0.05, 0.9]), rng.uniform(0.2, 0.5), 0.95)
    _vertical(canvas, 0, max(horizon, 1), sky, shade(sky, 1.6))
    x, y, radius = int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.08, 0.3) * height), int(0.07 * height)
    cv2.circle(canvas, (x, y), radius, _hsv(0.13, 0.35, 1.0), -1, cv2.LINE_AA)
    green = rng.choice([0.25, 0.33, 0.42, 0.12])
    for depth in range(2):
        colour = _hsv(green + 0.03 * depth, 0.35 + 0.1 * depth, 0.8 - 0.12 * depth)
        for _ in range(2):
            centre = (int(rng.uniform(0, 1) * width), horizon + int(0.05 * height))
            axes = (int(rng.uniform(0.3, 0.6) * width), int(rng.uniform(0.12, 0.3) * height / (1 + depth)))
            cv2.ellipse(canvas, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    ground = _hsv(green, 0.4, 0.66)
    _vertical(canvas, max(horizon, 0), height, ground, shade(ground, 1.2))


def _draw_window(wall: np.ndarray, colour: Colour, unit: float, rng: np.random.Generator) -> None:
    width = wall.shape[1]
    x, y = int(rng.choice([0.04, 0.62]) * width + rng.uniform(0, 0.1) * width), int(unit * rng.uniform(0.6, 1.6))
    w, h = int(unit * rng.uniform(2.4, 3.2)), int(unit * rng.uniform(2.6, 3.6))
    frame = shade(colour, 1.7)
    cv2.rectangle(wall, (x, y), (x + w, y + h), _hsv(0.56, 0.35, 0.95), -1)
    cv2.rectangle(wall, (x, y), (x + w, y + h), frame, max(2, int(unit * 0.35)))
    cv2.line(wall, (x + w // 2, y), (x + w // 2, y + h), frame, max(2, int(unit * 0.25)))


def _draw_spotlights(wall: np.ndarray, colour: Colour, unit: float, rng: np.random.Generator) -> None:
    height, width = wall.shape[:2]
    for x in (rng.uniform(0.1, 0.35), rng.uniform(0.65, 0.9)):
        foot = (0.5 + (x - 0.5) * rng.uniform(0.2, 1.4)) * width
        beam = np.array([[x * width - unit * 0.4, 0], [x * width + unit * 0.4, 0], [foot + 2 * unit, height],
                         [foot - 2 * unit, height]])  # fmt: skip
        cv2.fillConvexPoly(wall, np.rint(beam).astype(np.int32), shade(colour, 1.18), cv2.LINE_AA)


def _draw_blocks(wall: np.ndarray, colour: Colour, unit: float, rng: np.random.Generator) -> None:
    height, width = wall.shape[:2]
    x = -rng.uniform(0, 1.5) * unit
    while x < width:
        w, top = rng.uniform(1.3, 2.6) * unit, height - rng.uniform(1.5, 5.0) * unit
        tone = shade(colour, rng.uniform(0.74, 0.9))
        cv2.rectangle(wall, (int(x), int(top)), (int(x + w), height), tone, -1)
        x += w + rng.choice([0.0, 0.4]) * unit


def _draw_stripes(wall: np.ndarray, colour: Colour, unit: float, rng: np.random.Generator) -> None:
    step = rng.uniform(1.4, 2.4) * unit
    for x in np.arange(-rng.random() * step, wall.shape[1], 2 * step):
        cv2.rectangle(wall, (int(x), 0), (int(x + step), wall.shape[0]), shade(colour, 0.92), -1)


def _draw_pictures(wall: np.ndarray, colour: Colour, unit: float, rng: np.random.Generator) -> None:
    width = wall.shape[1]
    for left in (0.03, 0.7):
        if rng.random() < 0.75:
            x, y = int(left * width + rng.uniform(0, 0.08) * width), int(rng.uniform(0.5, 2.5) * unit)
            w, h = int(rng.uniform(1.4, 2.2) * unit), int(rng.uniform(1.4, 2.4) * unit)
            cv2.rectangle(wall, (x, y), (x + w, y + h), _hsv(rng.random(), 0.35, 0.85), -1)
            cv2.rectangle(wall, (x, y), (x + w, y + h), shade(colour, 0.65), max(2, int(0.25 * unit)))
