"""Hair and hats: what is behind the head, what covers its front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .head import HeadView, face_contour
from .ink import Ink, ellipse, smooth, smooth_open
from .person import Colour, Head, outline, shade

Line = list[tuple[float, float]]

# Hairlines from the picture's left to its right, on the head's surface.
_HIGH: Line = [(-0.97, -0.15), (-0.93, 0.25), (-0.66, 0.5), (0, 0.58), (0.66, 0.5), (0.93, 0.25), (0.97, -0.15)]
_PEAK: Line = [(-0.97, -0.15), (-0.9, 0.3), (-0.5, 0.66), (0, 0.5), (0.5, 0.66), (0.9, 0.3), (0.97, -0.15)]
_BANGS: Line = [(-0.99, -0.5), (-0.84, -0.1), (-0.76, 0.2), (-0.56, 0.32), (-0.38, 0.22), (-0.18, 0.33), (0, 0.22),
                (0.18, 0.33), (0.38, 0.22), (0.56, 0.32), (0.76, 0.2), (0.84, -0.1), (0.99, -0.5)]  # fmt: skip
_BOWL: Line = [(-0.99, -0.1), (-0.9, 0.12), (-0.5, 0.26), (0, 0.29), (0.5, 0.26), (0.9, 0.12), (0.99, -0.1)]
_CURTAIN: Line = [(-0.97, -0.75), (-0.88, -0.25), (-0.68, 0.22), (-0.3, 0.56), (0, 0.78), (0.3, 0.56), (0.68, 0.22),
                  (0.88, -0.25), (0.97, -0.75)]  # fmt: skip
_SWOOP: Line = [(-0.98, -0.2), (-0.9, 0.08), (-0.6, 0.2), (-0.2, 0.36), (0.2, 0.6), (0.42, 0.82), (0.62, 0.52),
                (0.9, 0.28), (0.98, -0.15)]  # fmt: skip
_LONG_SWOOP: Line = [(-0.97, -0.8), (-0.9, -0.3), (-0.78, 0.1), (-0.4, 0.34), (0.1, 0.56), (0.42, 0.8), (0.66, 0.36),
                     (0.88, -0.2), (0.97, -0.8)]  # fmt: skip
_SPIKES: Line = [(-0.97, -0.1), (-0.86, 0.3), (-0.66, 0.26), (-0.5, 0.56), (-0.3, 0.34), (-0.08, 0.6), (0.16, 0.36),
                 (0.36, 0.58), (0.6, 0.3), (0.86, 0.3), (0.97, -0.1)]  # fmt: skip

# style: hairline, how low the sides come (fraction of the half height), growth at the sides and at the crown
_CAPS: dict[str, tuple[Line, float, float, float]] = {
    "short": (_HIGH, -0.08, 1.06, 1.12),
    "bob": (_BANGS, -0.6, 1.13, 1.16),
    "long": (_CURTAIN, -0.8, 1.12, 1.15),
    "wavy": (_LONG_SWOOP, -0.8, 1.15, 1.2),
    "bun": (_HIGH, -0.12, 1.05, 1.1),
    "afro": (_BOWL, 0.0, 1.08, 1.1),
    "spiky": (_SPIKES, -0.08, 1.08, 1.12),
    "ponytail": (_LONG_SWOOP, -0.25, 1.05, 1.1),
    "fringe": (_BANGS, -0.42, 1.08, 1.14),
    "side_part": (_SWOOP, -0.15, 1.08, 1.18),
    "curly": (_BOWL, -0.3, 1.12, 1.16),
    "pigtails": (_CURTAIN, -0.15, 1.06, 1.1),
    "bowl": (_BOWL, -0.05, 1.15, 1.17),
    "slick": (_PEAK, -0.05, 1.05, 1.16),
}
_MIRRORED = ("side_part", "wavy", "ponytail")


def _arc(head: Head, low: float, sides: float, crown: float, points: int = 21) -> np.ndarray:
    """Outer edge [points, 2] from the picture's right, `low` at the side, over the crown to its left."""
    end = np.arcsin(np.clip(-low, -1, 1))
    angle = np.linspace(-end, np.pi + end, points)
    growth = np.stack([np.full(points, sides), np.where(np.sin(angle) > 0, crown, 1.0)], axis=-1)
    return face_contour(head, angle) * growth


def _hairline(head: Head) -> np.ndarray:
    line = np.array(_CAPS[head.hair][0])
    if head.hair in _MIRRORED and head.parting < 0:
        line = line[::-1] * [-1, 1]
    return smooth_open(line, 1)


def draw_hair_back(ink: Ink, view: HeadView) -> None:
    """What hangs or stands behind the head (and the trunk)."""
    head = view.head
    draw = _BACKS.get(head.hair)
    if draw is not None:
        draw(ink, view, shade(head.hair_colour, 0.86), outline(head.hair_colour))


def draw_hair_shade(ink: Ink, view: HeadView) -> None:
    """The soft shade that the hair or a hat casts on the forehead; drawn before the features."""
    head = view.head
    if head.hat in ("cap", "beanie"):
        t = np.linspace(-1, 1, 9)
        line = np.stack([0.96 * t, 0.16 - 0.02 * (1 - t**2)], axis=-1)
    elif head.hair in _CAPS:
        line = _hairline(head) * [0.97, 1.0] - [0, 0.1]
    else:
        return
    arc = _arc(head, max(line[0, 1], -0.6), 0.98, 0.98)
    ink.fill(np.concatenate([view.rim(arc), view.surface(line)], axis=1), shade(head.skin, 0.87))


def draw_hair_front(ink: Ink, view: HeadView) -> None:
    """What covers the skull, up to the hairline, and stands on top."""
    head = view.head
    colour, line = head.hair_colour, outline(head.hair_colour)
    if head.hair == "mohawk":
        _draw_mohawk(ink, view, colour, line)
    if head.hair not in _CAPS:
        return
    _, low, sides, crown = _CAPS[head.hair]
    grow = 0.06 * head.hair_volume
    arc = _arc(head, low, sides + grow, crown + grow)
    if head.hair == "spiky":
        arc = _arc(head, low, sides, crown, 25)
        arc[1::2] *= 1.22 + 0.12 * head.hair_volume
    elif head.hair in ("curly", "afro"):
        arc = _scalloped(arc, 0.1)
    if head.hair == "bun":
        _draw_bun(ink, view, colour, line)
    ink.fill(np.concatenate([view.rim(arc), view.surface(_hairline(head))], axis=1), colour, edge=line)
    _draw_shine(ink, view, shade(colour, 1.22))


def _scalloped(line: np.ndarray, depth: float) -> np.ndarray:
    """The same line with round bumps outwards."""
    fine = np.stack(
        [np.interp(np.linspace(0, len(line) - 1, 61), np.arange(len(line)), line[:, i]) for i in (0, 1)], -1
    )
    bump = np.abs(np.sin(np.linspace(0, 9 * np.pi, 61)))
    return fine * (1 + depth * bump)[:, None]


def _draw_shine(ink: Ink, view: HeadView, colour: Colour) -> None:
    if view.head.hat in ("cap", "beanie"):
        return
    t = np.linspace(-1, 1, 6)
    side = -view.head.parting
    band = np.stack([0.36 * side + 0.24 * t, 0.84 - 0.06 * t**2 - 0.06 * side * t], axis=-1)
    ink.line(view.rim(band), colour, 0.026)


def _draw_bun(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    if view.head.hair_volume < 0.5:
        ink.fill(view.rim(view.disc((0, 1.3), 0.4)), colour, edge=line, convex=True)
        return
    for side in (-1, 1):
        ink.fill(view.rim(view.disc((0.78 * side, 1.02), 0.36)), colour, edge=line, convex=True)


def _draw_mohawk(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    head = view.head
    shaved = tuple((2 * s + h) // 3 for s, h in zip(head.skin, head.hair_colour, strict=True))
    cap = np.concatenate([view.rim(_arc(head, -0.05, 1.0, 1.01)), view.surface(np.array(_HIGH))], axis=1)
    ink.fill(cap, shaved)
    crest = np.array([
        (-0.3, 0.5), (-0.36, 1.0), (-0.5, 1.3), (-0.24, 1.3), (-0.14, 1.58), (0.05, 1.36), (0.26, 1.54), (0.28, 1.28),
        (0.5, 1.24), (0.36, 1.0), (0.3, 0.5), (0.12, 0.44), (0, 0.5), (-0.12, 0.44),
    ])  # fmt: skip
    low = crest[:, 1] < 0.9
    points = view.rim(crest)
    points[:, low] = view.surface(crest[low])
    ink.fill(points, colour, edge=line)


def _back_bob(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    width = 1.2 + 0.1 * view.head.hair_volume
    shape = [(-width, 0.2), (-width - 0.05, -0.5), (-width + 0.08, -1.0), (-0.4, -1.05), (0.4, -1.05),
             (width - 0.08, -1.0), (width + 0.05, -0.5), (width, 0.2), (0.8, 0.95), (-0.8, 0.95)]  # fmt: skip
    ink.fill(view.rim(smooth(np.array(shape))), colour, edge=line)


def _back_long(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    width, low = 1.2 + 0.1 * view.head.hair_volume, -1.75 - 0.5 * view.head.hair_volume
    shape = [(-width, 0.3), (-width - 0.06, -0.7), (-width, low), (-0.5, low - 0.12), (0.5, low - 0.12), (width, low),
             (width + 0.06, -0.7), (width, 0.3), (0.8, 1.0), (-0.8, 1.0)]  # fmt: skip
    ink.fill(view.rim(smooth(np.array(shape))), colour, edge=line)


def _back_wavy(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    width = 1.24 + 0.12 * view.head.hair_volume
    side = [(width, 0.3), (width + 0.14, -0.1), (width - 0.04, -0.45), (width + 0.18, -0.8), (width, -1.15),
            (width + 0.14, -1.5), (0.6, -1.62)]  # fmt: skip
    shape = [(-x, y) for x, y in side] + side[::-1] + [(0.8, 1.0), (-0.8, 1.0)]
    ink.fill(view.rim(smooth(np.array(shape))), colour, edge=line)


def _back_afro(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    radius = 1.38 + 0.2 * view.head.hair_volume
    ring = ellipse(66)
    bumps = 1 + 0.05 * np.abs(np.sin(np.linspace(0, 11 * np.pi, 66)))
    ink.fill(view.rim(ring * bumps[:, None] * radius * [1, 0.98] + [0, 0.3]), view.head.hair_colour, edge=line)


def _back_curly(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    ring = ellipse(66)
    bumps = 1 + 0.1 * np.abs(np.sin(np.linspace(0, 7 * np.pi, 66)))
    size = [1.2 + 0.12 * view.head.hair_volume, 1.12 + 0.1 * view.head.hair_volume]
    ink.fill(view.rim(ring * bumps[:, None] * size + [0, -0.05]), colour, edge=line)


def _back_ponytail(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    side = view.head.parting
    long = 0.35 * view.head.hair_volume
    tail = np.array([(0.4, 0.75), (0.95, 1.1), (1.55, 0.75), (1.75, -0.1), (1.5, -0.9 - long), (1.25, -1.1 - long),
                     (1.3, -0.4), (1.15, 0.3)]) * [side, 1]  # fmt: skip
    ink.fill(view.rim(smooth(tail)), view.head.hair_colour, edge=line)
    ink.fill(view.rim(view.disc((0.86 * side, 0.82), 0.17, 10)), view.head.hat_colour, convex=True)


def _back_pigtails(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    long = 0.4 * view.head.hair_volume
    for side in (-1, 1):
        tail = np.array([(0.9, 0.35), (1.4, 0.5), (1.75, 0.0), (1.7, -0.7 - long), (1.4, -1.05 - long), (1.2, -0.6),
                         (1.15, -0.1)]) * [side, 1]  # fmt: skip
        ink.fill(view.rim(smooth(tail)), view.head.hair_colour, edge=line)
        ink.fill(view.rim(view.disc((1.12 * side, 0.3), 0.16, 10)), view.head.hat_colour, convex=True)


_BACKS: dict[str, Callable[[Ink, HeadView, Colour, Colour], None]] = {
    "bob": _back_bob,
    "long": _back_long,
    "wavy": _back_wavy,
    "afro": _back_afro,
    "curly": _back_curly,
    "ponytail": _back_ponytail,
    "pigtails": _back_pigtails,
}


def draw_hat(ink: Ink, view: HeadView) -> None:
    """Cap, beanie, headband, bow or cat ears; drawn last of the head."""
    draw = _HATS.get(view.head.hat)
    if draw is not None:
        draw(ink, view, view.head.hat_colour, outline(view.head.hat_colour))


def _dome(view: HeadView, low: float, grow: float, crown: float) -> np.ndarray:
    t = np.linspace(-1, 1, 9)
    band = np.stack([0.985 * t * np.sqrt(1 - low**2), low - 0.1 * (1 - t**2) + 0.04], axis=-1)
    return np.concatenate([view.rim(_arc(view.head, low, grow, crown)), view.surface(band, 1.04)], axis=1)


def _hat_cap(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    ink.fill(_dome(view, 0.34, 1.14, 1.22), colour, edge=line)
    t = np.linspace(0, np.pi, 11)
    brim = np.stack([-0.82 * np.cos(t), 0.36 - 0.2 * np.sin(t)], axis=-1)
    back = np.stack([0.82 * np.cos(t[1:-1]), 0.36 + 0.14 * np.sin(t[1:-1])], axis=-1)
    points = np.concatenate([view.surface(brim, 1.3), view.surface(back, 1.1)], axis=1)
    ink.fill(points, shade(colour, 0.72), edge=line)


def _hat_beanie(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    ink.fill(view.rim(view.disc((0, 1.34), 0.24, 12)), shade(colour, 1.6), edge=line, convex=True)
    ink.fill(_dome(view, 0.3, 1.14, 1.26), colour, edge=line)
    t = np.linspace(-1, 1, 9)
    lower = np.stack([1.0 * t, 0.27 - 0.07 * (1 - t**2)], axis=-1)
    upper = np.stack([0.97 * t[::-1], 0.54 - 0.05 * (1 - t**2)], axis=-1)
    band = np.concatenate([view.surface(lower, 1.05), view.surface(upper, 1.05)], axis=1)
    ends = view.rim(np.array([[-1.14, 0.28], [-1.08, 0.52], [1.08, 0.52], [1.14, 0.28]]))
    whole = np.concatenate([ends[:, :1], band[:, :9], ends[:, 3:], ends[:, 2:3], band[:, 9:], ends[:, 1:2]], axis=1)
    ink.fill(whole, shade(colour, 0.76), edge=line)


def _hat_headband(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    t = np.linspace(-1, 1, 9)
    lower = np.stack([0.94 * t, 0.4 - 0.02 * (1 - t**2)], axis=-1)
    upper = np.stack([0.85 * t[::-1], 0.62 - 0.02 * (1 - t**2)], axis=-1)
    left, right = view.rim(np.array([[-1.06, 0.36], [-0.98, 0.6]])), view.rim(np.array([[0.98, 0.6], [1.06, 0.36]]))
    points = [
        left[:, :1],
        view.surface(lower, 1.04),
        right[:, 1:],
        right[:, :1],
        view.surface(upper, 1.04),
        left[:, 1:],
    ]
    ink.fill(np.concatenate(points, axis=1), colour, edge=line, width=0.01)


def _hat_bow(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    x, y = 0.55 * view.head.parting, 0.98
    for side in (-1, 1):
        wing = np.array([(0.02, 0), (0.42, 0.3), (0.5, 0.0), (0.42, -0.26)]) * [side, 1] + [x, y]
        ink.fill(view.rim(smooth(wing)), colour, edge=line)
    ink.fill(view.rim(view.disc((x, y), 0.13, 10)), shade(colour, 0.78), edge=line, width=0.009, convex=True)


def _hat_cat_ears(ink: Ink, view: HeadView, colour: Colour, line: Colour) -> None:
    for side in (-1, 1):
        ear = np.array([(0.28, 1.02), (0.5, 1.1), (0.78, 1.56), (0.96, 1.05), (0.94, 0.68), (0.6, 0.86)]) * [side, 1]
        ink.fill(view.rim(ear), colour, edge=line)
        inner = np.array([(0.56, 1.06), (0.76, 1.36), (0.86, 0.92)]) * [side, 1]
        ink.fill(view.rim(inner), (250, 176, 186))


_HATS: dict[str, Callable[[Ink, HeadView, Colour, Colour], None]] = {
    "cap": _hat_cap,
    "beanie": _hat_beanie,
    "headband": _hat_headband,
    "bow": _hat_bow,
    "cat_ears": _hat_cat_ears,
}
