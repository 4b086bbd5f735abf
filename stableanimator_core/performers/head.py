"""A performer's head: a rigid 3D model whose drawn features and face keypoints are the same points."""

from __future__ import annotations

import numpy as np

from .ink import Ink, ellipse, smooth_open
from .person import Head, outline, shade
from .scene import Camera

EYE_Y, BROW_Y, NOSE_Y, MOUTH_Y = -0.1, 0.24, -0.38, -0.62  # fractions of the half height
# shape: exponent of the lower half's superellipse, taper towards the chin
_SHAPES = {"oval": (2.1, 0.10), "round": (2.2, 0.0), "square": (3.2, 0.03), "long": (2.6, 0.08), "heart": (1.95, 0.24)}
# mouth: width, corners' lift, upper lip, lower lip, inner opening
_MOUTHS = {
    "smile": (1.15, 0.11, 0.035, 0.055, 0.0),
    "grin": (1.25, 0.12, 0.03, 0.05, 0.17),
    "small": (0.7, 0.06, 0.05, 0.07, 0.0),
    "wide": (1.4, 0.07, 0.045, 0.06, 0.0),
    "pout": (0.75, 0.01, 0.085, 0.11, 0.0),
}
_ACROSS = np.linspace(-1, 1, 7)


class HeadView:
    """The head as one camera sees it in all frames of a clip.

    Two kinds of points, both [..., K, 2] in fractions of the half width (x, to the character's left) and the half
    height (y, up): `surface` points lie on the front of the head's ellipsoid and turn with it, `rim` points lie on
    the silhouette and face the camera.
    """

    def __init__(self, head: Head, centre: np.ndarray, axes: np.ndarray, camera: Camera) -> None:
        self.head, self.centre, self.axes, self.camera = head, centre, axes, camera
        self.size = np.array([head.half_width, head.half_height])
        towards = camera.position - centre
        towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
        up = axes[..., 1] - (axes[..., 1] * towards).sum(-1, keepdims=True) * towards
        up /= np.maximum(np.linalg.norm(up, axis=-1, keepdims=True), 1e-6)
        self.facing = (axes[..., 2] * towards).sum(-1)  # [F] cosine between the face and the camera
        self.sideways = (axes[..., 2] * np.cross(up, towards)).sum(-1)  # [F] sine, positive to the picture's right
        self._rim_axes = np.stack([np.cross(up, towards), up, axes[..., 2]], axis=-1)
        self.frames = len(centre)

    def surface_points(self, xy: np.ndarray, lift: float = 1.0) -> np.ndarray:
        """World points [F, K, 3]; `lift` stretches their distance from the head's middle plane."""
        xy = np.broadcast_to(xy, (self.frames, *np.shape(xy)[-2:]))
        z = self.head.half_depth * lift * np.sqrt(np.clip(1 - (xy**2).sum(-1), 0, 1))
        local = np.concatenate([xy * self.size, z[..., None]], axis=-1)
        return self.centre[:, None] + np.einsum("fij,fkj->fki", self.axes, local)

    def surface(self, xy: np.ndarray, lift: float = 1.0) -> np.ndarray:
        """Pixels [F, K, 2] of points on the front of the head."""
        return self.camera.project(self.surface_points(xy, lift))

    def rim(self, xy: np.ndarray) -> np.ndarray:
        """Pixels [F, K, 2] of points on the silhouette; the chin is a little ahead of the skull."""
        xy = np.broadcast_to(xy, (self.frames, *np.shape(xy)[-2:]))
        ahead = 0.16 * self.head.half_depth * np.clip(-xy[..., 1], 0, 1.2)
        local = np.concatenate([xy * self.size, ahead[..., None]], axis=-1)
        return self.camera.project(self.centre[:, None] + np.einsum("fij,fkj->fki", self._rim_axes, local))

    def disc(self, centre: tuple[float, float], radius: float, points: int = 16) -> np.ndarray:
        """A circle [points, 2] in the head's fractions; radius as a fraction of the half width."""
        return np.asarray(centre) + ellipse(points) * radius * [1, self.size[0] / self.size[1]]


def face_contour(head: Head, angle: np.ndarray, grow: float = 1.0) -> np.ndarray:
    """The face's outline [..., 2] at angles in radians (0: the character's left ear, pi / 2: the crown)."""
    exponent, taper = _SHAPES[head.shape]
    cos, sin = np.cos(angle), np.sin(angle)
    power = 2 / np.where(sin < 0, exponent, 2.25)
    x, y = np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power
    x = x * (1 - taper * np.clip(-y, 0, 1) ** 1.5)
    return grow * np.stack([x, y], axis=-1)


_OUTLINE = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_JAW = np.linspace(np.pi - 0.1, 2 * np.pi + 0.1, 17)


def eye_shape(head: Head, side: int, openness: np.ndarray, points: int = 12) -> np.ndarray:
    """One eye's outline [F, points, 2], starting at the picture's left and going over the top."""
    ring = ellipse(points)
    slant = head.eye_slant * side
    ratio = head.half_width / head.half_height
    x = head.eye_width * np.broadcast_to(ring[:, 0], (len(openness), points))
    y = head.eye_height * ring[:, 1] * openness[:, None]
    turned = np.stack([x * np.cos(slant) - y * np.sin(slant), (x * np.sin(slant) + y * np.cos(slant)) * ratio], -1)
    return turned + [side * head.eye_gap, EYE_Y]


def brow_shape(head: Head, side: int) -> np.ndarray:
    """One brow's middle line [5, 2], from the picture's left to its right."""
    t = np.linspace(-1, 1, 5)
    arch = 0.05 * (1 - t**2)
    y = EYE_Y + head.eye_height + head.brow_height + arch - head.brow_slant * 0.28 * t * -side
    return np.stack([side * head.eye_gap + 0.26 * t, y], axis=-1)


def mouth_shape(head: Head, opening: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outer lips [F, 12, 2] and the inside [F, 8, 2], both from the left corner over the upper lip; opening: [F]."""
    width, lift, upper, lower, inner = _MOUTHS[head.mouth]
    half = width * head.mouth_width
    gap = inner + opening
    outer_t, inner_t = _ACROSS, np.linspace(-0.82, 0.82, 5)

    def row(t: np.ndarray, height: np.ndarray | float) -> np.ndarray:
        height = np.broadcast_to(np.asarray(height, dtype=float), gap.shape)
        bow = np.sqrt(np.clip(1 - t**2, 0, 1))
        y = MOUTH_Y + lift * (t**2 - 0.4) + height[:, None] * bow
        return np.stack([np.broadcast_to(t * half, y.shape), y], axis=-1)

    outer = np.concatenate([row(outer_t, upper), row(outer_t[-2:0:-1], -(lower + gap))], axis=1)
    inside = np.concatenate([row(inner_t, 0.0), row(inner_t[-2:0:-1], -gap)], axis=1)
    return outer, inside


def nose_shape(head: Head) -> tuple[np.ndarray, np.ndarray]:
    """The bridge [4, 2] from the top down, and the base [5, 2] from the picture's left to its right."""
    half = {"button": 0.1, "long": 0.1, "wide": 0.17}[head.nose]
    bottom = NOSE_Y - (0.06 if head.nose == "long" else 0.0)
    bridge = np.stack([np.zeros(4), np.linspace(EYE_Y + 0.06, bottom + 0.05, 4)], axis=-1)
    t = np.linspace(-1, 1, 5)
    return bridge, np.stack([half * t, bottom - 0.05 * (1 - t**2)], axis=-1)


def landmarks(view: HeadView, openness: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """The 68 face points [F, 68, 2] px in iBUG order; openness of the eyes and mouth: [F]."""
    head = view.head
    bridge, base = nose_shape(head)
    fixed = np.concatenate([brow_shape(head, -1), brow_shape(head, 1), bridge, base])  # [19, 2]
    eyes = [eye_shape(head, side, openness, 6) for side in (-1, 1)]
    lips, inside = mouth_shape(head, mouth)
    moving = np.concatenate([*eyes, lips, inside], axis=1)  # [F, 32, 2]
    front = np.concatenate([np.broadcast_to(fixed, (view.frames, *fixed.shape)), moving], axis=1)
    return np.concatenate([view.rim(face_contour(head, _JAW)), view.surface(front)], axis=1)


def head_joints(view: HeadView) -> np.ndarray:
    """Nose, right eye, left eye, right ear, left ear as world points [F, 5, 3]."""
    head = view.head
    _, base = nose_shape(head)
    front = np.array([[0, base[2, 1] + 0.05], [-head.eye_gap, EYE_Y], [head.eye_gap, EYE_Y]])
    ears = np.array([[-1.0, EYE_Y - 0.02], [1.0, EYE_Y - 0.02]])
    return np.concatenate([view.surface_points(front), view.surface_points(ears)], axis=1)


def draw_skull(ink: Ink, view: HeadView) -> None:
    """Ears and the bare face."""
    _draw_ears(ink, view)
    skin = view.head.skin
    ink.fill(view.rim(face_contour(view.head, _OUTLINE)), skin, edge=outline(skin), width=0.014)


def draw_features(ink: Ink, view: HeadView, openness: np.ndarray, mouth: np.ndarray) -> None:
    """Cheeks, nose, beard, mouth, eyes and brows. openness, mouth: [F]."""
    head = view.head
    if head.blush:
        tint = tuple(int(0.72 * s + 0.28 * p) for s, p in zip(head.skin, (240, 80, 90), strict=True))
        for side in (-1, 1):
            ink.fill(view.surface(view.disc((side * 0.6, -0.42), 0.17)), tint, convex=True)
    _draw_nose(ink, view)
    if head.beard != "none":
        _draw_beard(ink, view)
    _draw_mouth(ink, view, mouth)
    if head.beard in ("full", "moustache"):
        _draw_moustache(ink, view)
    for side in (-1, 1):
        _draw_eye(ink, view, side, openness)
        ink.line(view.surface(brow_shape(head, side)), head.brow_colour, head.brow_thickness * head.half_width * 1.05)


def _draw_ears(ink: Ink, view: HeadView) -> None:
    head = view.head
    for side in (-1, 1):
        ear = view.rim(view.disc((side * 1.04, EYE_Y - 0.04), head.ears))
        ink.fill(ear, shade(head.skin, 0.93), edge=outline(head.skin), convex=True)
        if head.earrings is not None:
            drop = view.rim(view.disc((side * 1.1, EYE_Y - 0.1 - head.ears), 0.085, 10))
            ink.fill(drop, head.earrings, edge=shade(head.earrings, 0.7), width=0.008, convex=True)


def _draw_eye(ink: Ink, view: HeadView, side: int, openness: np.ndarray) -> None:
    head = view.head
    dark = (46, 34, 38)
    open_eye = openness > 0.3
    ring = view.surface(eye_shape(head, side, openness, 14))
    ink.fill(ring, (255, 255, 255), edge=shade(head.skin, 0.62), width=0.008, convex=True, show=open_eye)
    ratio = head.half_width / head.half_height
    radius = np.array([0.72 * head.eye_width, 0.9 * head.eye_height])
    radius[0] = min(radius[0], radius[1] * 1.05)
    centre = np.array([side * head.eye_gap * 0.97, EYE_Y])
    squash = openness[:, None]

    def disc(scale: float, dx: float, dy: float, points: int) -> np.ndarray:
        circle = ellipse(points) * scale + [dx, dy]
        xy = np.stack([radius[0] * np.broadcast_to(circle[:, 0], (view.frames, points)),
                       radius[1] * ratio * circle[:, 1] * squash], axis=-1)  # fmt: skip
        return view.surface(centre + xy)

    ink.fill(disc(1.0, 0, 0, 14), head.iris, convex=True, show=open_eye)
    ink.fill(disc(0.52, 0, 0, 10), (24, 18, 24), convex=True, show=open_eye)
    ink.fill(disc(0.36, -0.34, 0.38, 8), (255, 255, 255), convex=True, show=open_eye)
    lid = eye_shape(head, side, np.maximum(openness, 0.12), 14)[:, :8]
    ink.line(view.surface(lid), dark, 0.018)


def _draw_nose(ink: Ink, view: HeadView) -> None:
    head = view.head
    tone = shade(head.skin, 0.78)
    _, base = nose_shape(head)
    if head.nose == "long":
        line = np.array([[0.02, EYE_Y - 0.08], [0.09, base[2, 1] + 0.05], [-0.03, base[2, 1] + 0.01]])
        ink.line(view.surface(smooth_open(line, 2), 1.12), tone, 0.022)
        return
    half = 0.11 if head.nose == "button" else 0.19
    ink.fill(view.surface(np.array([0, base[2, 1] + 0.05]) + ellipse(10) * [half, 0.085], 1.06), tone, convex=True)


def _draw_mouth(ink: Ink, view: HeadView, opening: np.ndarray) -> None:
    head = view.head
    outer, inside = mouth_shape(head, opening)
    ink.fill(view.surface(outer), head.lips, edge=shade(head.lips, 0.85), width=0.009)
    opened = opening + _MOUTHS[head.mouth][4] > 0.03
    inner = view.surface(inside)
    ink.fill(inner, (112, 32, 44), show=opened)
    if head.mouth == "grin":
        teeth = np.concatenate([inside[:, :5], 0.5 * (inside[:, 5:] + inside[:, [3, 2, 1]])], axis=1)
        ink.fill(view.surface(teeth), (255, 255, 255))
    else:
        ink.line(view.surface(inside[:, :5]), shade(head.lips, 0.6), 0.012)


def _draw_beard(ink: Ink, view: HeadView) -> None:
    head = view.head
    colour = shade(head.hair_colour, 0.88)
    if head.beard == "goatee":
        chin = np.array([[-0.28, -0.84], [0, -0.8], [0.28, -0.84], [0.2, -1.04], [0, -1.12], [-0.2, -1.04]])
        ink.fill(view.rim(np.concatenate([smooth_open(chin, 1)])), colour, edge=outline(colour), width=0.01)
        return
    if head.beard == "moustache":
        return
    angle = np.linspace(np.pi + 0.12, 2 * np.pi - 0.12, 17)
    lower = face_contour(head, angle, 1.07 if head.beard == "full" else 1.03)  # [17, 2]
    if head.beard == "full":
        upper = [
            (0.86, -0.2),
            (0.72, -0.44),
            (0.44, -0.46),
            (0.0, -0.46),
            (-0.44, -0.46),
            (-0.72, -0.44),
            (-0.86, -0.2),
        ]
    else:
        upper = [(0.84, -0.2), (0.66, -0.6), (0.34, -0.84), (0.0, -0.88), (-0.34, -0.84), (-0.66, -0.6), (-0.84, -0.2)]
    points = np.concatenate([view.rim(lower), view.surface(smooth_open(np.array(upper), 1))], axis=1)
    ink.fill(points, colour, edge=outline(colour), width=0.01)


def _draw_moustache(ink: Ink, view: HeadView) -> None:
    head = view.head
    y = MOUTH_Y + 0.13
    shape = np.array([
        [-0.44, y - 0.13], [-0.36, y + 0.02], [-0.12, y + 0.09], [0, y + 0.05], [0.12, y + 0.09], [0.36, y + 0.02],
        [0.44, y - 0.13], [0.2, y - 0.07], [0, y - 0.03], [-0.2, y - 0.07],
    ])  # fmt: skip
    ink.fill(view.surface(shape, 1.04), shade(head.hair_colour, 0.8))


def draw_glasses(ink: Ink, view: HeadView) -> None:
    """Thick frames round the eyes, drawn above the hair's front."""
    head = view.head
    if head.glasses == "none":
        return
    colour, width = head.glasses_colour, 0.024
    reach = max(0.3, head.eye_width + 0.07)
    ratio = head.half_width / head.half_height
    tall = max(reach * (0.78 if head.glasses == "square" else 0.98), 0.9 * head.eye_height + 0.05) * ratio
    ring = ellipse(16)
    if head.glasses == "square":
        ring = np.sign(ring) * np.abs(ring) ** 0.45
    for side in (-1, 1):
        centre = np.array([side * head.eye_gap, EYE_Y])
        temple = np.array([[side * (head.eye_gap + reach), EYE_Y + 0.04], [side * 0.99, EYE_Y + 0.06]])
        ink.line(view.surface(temple), colour, width)
        lens = view.surface(centre + ring * [reach, tall], 1.05)
        if head.glasses == "shades":
            ink.fill(lens, shade(colour, 0.45) if min(colour) > 200 else shade(colour, 0.7), edge=colour, width=width)
            ink.line(view.surface(centre + np.array([[-0.12, 0.02], [-0.02, 0.12]]), 1.05), (255, 255, 255), 0.016)
        elif head.glasses == "half":
            ink.line(lens[:, :9], colour, 0.036)
        else:
            ink.line(lens, colour, width, closed=True)
    bridge = np.array([[-(head.eye_gap - reach) - 0.01, EYE_Y + 0.05], [0, EYE_Y + 0.08], [head.eye_gap - reach + 0.01,
                       EYE_Y + 0.05]])  # fmt: skip
    ink.line(view.surface(bridge, 1.05), colour, width)
