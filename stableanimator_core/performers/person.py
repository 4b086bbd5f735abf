"""Who a performer is: a head that is the identity, a body, and clothes that can be changed."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from .mocap import Bones

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (250, 208, 176), (241, 194, 155), (224, 172, 128), (204, 146, 100),
    (176, 118, 78), (146, 94, 62), (116, 74, 50), (92, 58, 42),
)  # fmt: skip
HAIR_COLOURS: tuple[Colour, ...] = (
    (44, 36, 40), (74, 50, 40), (112, 70, 44), (150, 98, 56), (196, 146, 80), (238, 200, 116), (178, 74, 38),
    (214, 104, 52), (150, 150, 158), (236, 234, 236), (228, 96, 150), (110, 84, 190), (52, 132, 206),
    (46, 160, 140), (198, 44, 60), (120, 186, 84),
)  # fmt: skip
IRIS_COLOURS: tuple[Colour, ...] = (
    (92, 54, 30), (54, 36, 30), (60, 128, 206), (56, 150, 88), (128, 108, 44), (110, 122, 140), (128, 76, 180),
    (28, 154, 170),
)  # fmt: skip
FACE_SHAPES = ("oval", "round", "square", "long", "heart")
HAIR_STYLES = (
    "bald", "short", "bob", "long", "bun", "afro", "spiky", "ponytail", "fringe", "side_part", "curly", "mohawk",
    "pigtails", "bowl", "wavy", "slick",
)  # fmt: skip
GLASSES = ("none", "round", "square", "shades", "half")
BEARDS = ("none", "full", "goatee", "moustache", "chinstrap")
HATS = ("none", "cap", "beanie", "headband", "bow", "cat_ears")
MOUTHS = ("smile", "grin", "small", "wide", "pout")
NOSES = ("button", "long", "wide")
TOPS = ("plain", "stripes", "logo", "collar", "jacket", "vest")
BOTTOMS = ("trousers", "shorts", "skirt", "dress")
LOGOS = ("circle", "square", "star", "heart", "bolt")

_HATLESS = {"afro", "spiky", "mohawk", "bun"}  # hair that no cap or beanie fits over
_BEARDED = {"bald", "short", "afro", "spiky", "side_part", "curly", "mohawk", "slick", "bowl", "long"}


@dataclass(frozen=True)
class Head:
    """Everything that makes the identity. Lengths in metres; fractions are of the head's half width or half height."""

    half_width: float
    half_height: float
    shape: str
    skin: Colour
    hair: str
    hair_colour: Colour
    hair_volume: float  # 0..1
    parting: int  # -1 right, 1 left of the character
    iris: Colour
    eye_width: float
    eye_height: float
    eye_gap: float
    eye_slant: float  # radians, outer corners up
    brow_thickness: float
    brow_slant: float
    brow_height: float
    brow_colour: Colour
    nose: str
    mouth: str
    mouth_width: float
    lips: Colour
    blush: bool
    ears: float  # size
    earrings: Colour | None
    glasses: str
    glasses_colour: Colour
    beard: str
    hat: str
    hat_colour: Colour

    @property
    def half_depth(self) -> float:
        return 0.9 * self.half_width


@dataclass(frozen=True)
class Body:
    """Build. Lengths in metres, radii of the limbs without clothes."""

    bones: Bones
    neck: float
    arm_radius: float
    leg_radius: float
    waist: float  # half width at the waist
    hand: float
    foot: float


@dataclass(frozen=True)
class Outfit:
    """Clothes."""

    top: str
    top_colour: Colour
    second_colour: Colour
    logo: str
    stripes: int
    sleeves: str  # none, short, long
    bottom: str
    bottom_colour: Colour
    shoe_colour: Colour
    belt: bool


@dataclass(frozen=True)
class Person:
    """One performer."""

    head: Head
    body: Body
    outfit: Outfit

    @staticmethod
    def random(rng: np.random.Generator) -> Person:
        """A new person; equal generators give equal people."""
        head = _random_head(rng)
        return Person(head, _random_body(rng), _random_outfit(rng, head.skin))

    def dressed(self, rng: np.random.Generator) -> Person:
        """The same person in other clothes."""
        return replace(self, outfit=_random_outfit(rng, self.head.skin))

    def built(self, rng: np.random.Generator) -> Person:
        """The same head and clothes on another body."""
        return replace(self, body=_random_body(rng))


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter (factor > 1, towards white) tone of a colour."""
    if factor <= 1:
        return tuple(int(round(c * factor)) for c in colour)
    return tuple(int(round(255 - (255 - c) * (2 - factor))) for c in colour)


def outline(colour: Colour) -> Colour:
    """The tone in which an area of this colour is outlined."""
    r, g, b = shade(colour, 0.58)
    return (r, g, min(255, b + 8))


def distance(a: Colour, b: Colour) -> float:
    """Euclidean distance of two colours."""
    return float(np.linalg.norm(np.subtract(a, b)))


def vivid(rng: np.random.Generator) -> Colour:
    """A random colour for clothes: vivid, pastel, dark or grey."""
    kind = rng.random()
    hue = rng.random()
    if kind < 0.55:
        saturation, value = rng.uniform(0.55, 0.85), rng.uniform(0.65, 0.95)
    elif kind < 0.75:
        saturation, value = rng.uniform(0.25, 0.4), rng.uniform(0.85, 1.0)
    elif kind < 0.9:
        saturation, value = rng.uniform(0.3, 0.7), rng.uniform(0.28, 0.45)
    else:
        saturation, value = 0.05, rng.choice([0.25, 0.55, 0.93])
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))


def unlike(rng: np.random.Generator, *others: Colour, least: float = 95.0) -> Colour:
    """A random colour that differs clearly from the others."""
    best = vivid(rng)
    for _ in range(8):
        if min(distance(best, other) for other in others) >= least:
            break
        candidate = vivid(rng)
        if min(distance(candidate, o) for o in others) > min(distance(best, o) for o in others):
            best = candidate
    return best


def _pick(rng: np.random.Generator, options: tuple, weights: tuple[float, ...] | None = None):
    if weights is None:
        return options[int(rng.integers(len(options)))]
    shares = np.asarray(weights, dtype=float)
    return options[int(rng.choice(len(options), p=shares / shares.sum()))]


def _jitter(rng: np.random.Generator, colour: Colour, amount: int = 9) -> Colour:
    return tuple(int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)


def _random_head(rng: np.random.Generator) -> Head:
    half_width = rng.uniform(0.245, 0.285)
    shape = _pick(rng, FACE_SHAPES)
    ratio = {"oval": 1.02, "round": 0.93, "square": 0.97, "long": 1.12, "heart": 1.0}[shape]
    skin = _jitter(rng, _pick(rng, SKINS), 5)
    hair = _pick(rng, HAIR_STYLES, tuple(0.7 if style == "bald" else 1.0 for style in HAIR_STYLES))
    hair_colour = _jitter(rng, _pick(rng, HAIR_COLOURS))
    while distance(hair_colour, skin) < 70:
        hair_colour = _jitter(rng, _pick(rng, HAIR_COLOURS))
    beard = _pick(rng, BEARDS, (6.5, 2.0, 1.2, 1.7, 1.1)) if hair in _BEARDED else "none"
    natural = max(hair_colour) - min(hair_colour) < 140
    hats = ("none", "headband", "bow", "cat_ears") if hair in _HATLESS else HATS
    if beard != "none":
        hats = tuple(hat for hat in hats if hat not in ("bow", "cat_ears"))
    weights = {"none": 5.4, "cap": 1.2, "beanie": 1.0, "headband": 0.7, "bow": 0.6, "cat_ears": 0.4}
    return Head(
        half_width=half_width,
        half_height=half_width * ratio * rng.uniform(0.97, 1.04),
        shape=shape,
        skin=skin,
        hair=hair,
        hair_colour=hair_colour,
        hair_volume=rng.random(),
        parting=int(rng.choice([-1, 1])),
        iris=_jitter(rng, _pick(rng, IRIS_COLOURS), 8),
        eye_width=rng.uniform(0.19, 0.25),
        eye_height=rng.uniform(0.17, 0.28),
        eye_gap=rng.uniform(0.38, 0.47),
        eye_slant=rng.uniform(-0.16, 0.22),
        brow_thickness=rng.uniform(0.09, 0.17),
        brow_slant=rng.uniform(-0.34, 0.12),
        brow_height=rng.uniform(0.17, 0.25),
        brow_colour=shade(hair_colour, 0.8) if natural or rng.random() < 0.5 else (70, 50, 44),
        nose=_pick(rng, NOSES),
        mouth=_pick(rng, MOUTHS, (1.3, 1.4, 0.8, 0.9, 0.8)),
        mouth_width=rng.uniform(0.22, 0.36),
        lips=_jitter(rng, _pick(rng, ((204, 84, 84), (176, 60, 70), (222, 92, 122), (150, 66, 60), (196, 40, 60)))),
        blush=bool(rng.random() < 0.5),
        ears=rng.uniform(0.17, 0.27),
        earrings=_pick(rng, ((250, 206, 70), (220, 240, 250), (230, 70, 110))) if rng.random() < 0.25 else None,
        glasses=_pick(rng, GLASSES, (5.2, 1.5, 1.5, 0.7, 0.8)),
        glasses_colour=_pick(rng, ((40, 36, 44), (190, 40, 50), (40, 70, 150), (110, 66, 36), (240, 240, 244))),
        beard=beard,
        hat=_pick(rng, hats, tuple(weights[h] for h in hats)),
        hat_colour=unlike(rng, hair_colour, skin, least=110),
    )


def _random_body(rng: np.random.Generator) -> Body:
    size = rng.uniform(0.94, 1.08)
    build = rng.uniform(0.0, 1.0)  # slim..stout
    leg, arm = rng.uniform(0.23, 0.29) * size, rng.uniform(0.215, 0.26) * size
    shoulder = rng.uniform(0.135, 0.18) * size + 0.015 * build
    bones = Bones(
        shoulder=shoulder,
        hip=rng.uniform(0.07, 0.09) * size + 0.012 * build,
        torso=rng.uniform(0.34, 0.42) * size,
        upper_arm=arm,
        forearm=arm * rng.uniform(0.88, 0.98),
        thigh=leg,
        shank=leg * rng.uniform(0.9, 1.0),
        ankle=0.065,
    )
    return Body(
        bones=bones,
        neck=rng.uniform(0.015, 0.05),
        arm_radius=rng.uniform(0.042, 0.05) + 0.012 * build,
        leg_radius=rng.uniform(0.056, 0.066) + 0.018 * build,
        waist=shoulder * rng.uniform(0.78, 0.95) + 0.06 * build**2,
        hand=rng.uniform(0.115, 0.14),
        foot=rng.uniform(0.125, 0.155),
    )


def _random_outfit(rng: np.random.Generator, skin: Colour) -> Outfit:
    top_colour = unlike(rng, skin, least=110)
    bottom = _pick(rng, BOTTOMS, (4.0, 2.2, 1.7, 1.7))
    bottom_colour = top_colour if bottom == "dress" else unlike(rng, top_colour, skin)
    return Outfit(
        top=_pick(rng, TOPS, (2, 2, 2.2, 1.2, 1.4, 1.0)),
        top_colour=top_colour,
        second_colour=unlike(rng, top_colour, skin, least=115),
        logo=_pick(rng, LOGOS),
        stripes=int(rng.integers(2, 4)),
        sleeves=_pick(rng, ("none", "short", "long"), (1, 3, 3)),
        bottom=bottom,
        bottom_colour=bottom_colour,
        shoe_colour=unlike(rng, bottom_colour, least=80),
        belt=bool(rng.random() < 0.35),
    )
