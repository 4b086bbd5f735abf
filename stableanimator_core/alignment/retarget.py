"""Retargeting in the picture: the driver's motion with the lengths of the reference's bones."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ..errors import PoseError
from ..keypoints import Poses
from ..skeleton import BODY_POINTS, HEAD
from .faces import reshaped, size_ratio, spread
from .similarity import Similarity

NOSE, NECK, MID_HIP = 0, 1, 18  # the middle of the hips is added to the 18 joints
WRISTS = (7, 4)  # left and right, in the order of the hands
ANKLES = (10, 13)
HIPS = (8, 11)

# Everybody's bones hang on the neck, which even a half body shows: (joint, parent, part), parents first.
TREE = (
    (2, 1, "shoulders"), (3, 2, "upper arms"), (4, 3, "forearms"),
    (5, 1, "shoulders"), (6, 5, "upper arms"), (7, 6, "forearms"),
    (18, 1, "trunk"),
    (8, 18, "hips"), (9, 8, "thighs"), (10, 9, "shanks"),
    (11, 18, "hips"), (12, 11, "thighs"), (13, 12, "shanks"),
    (0, 1, "neck"), (14, 0, "head"), (15, 0, "head"), (16, 0, "head"), (17, 0, "head"),
)  # fmt: skip

# Where a part's length is seen; widths are whole.
BONES = {
    "trunk": ((1, 18),), "neck": ((1, 0),), "shoulders": ((2, 5),), "hips": ((8, 11),),
    "upper arms": ((2, 3), (5, 6)), "forearms": ((3, 4), (6, 7)),
    "thighs": ((8, 9), (11, 12)), "shanks": ((9, 10), (12, 13)),
}  # fmt: skip
WIDTHS = ("shoulders", "hips")
LIMBS = {"arms": ("upper arms", "forearms"), "legs": ("thighs", "shanks")}
ENDS = {"arms": ((2, 4), (5, 7)), "legs": ((8, 10), (11, 13))}

# Means of 4,854 adults (ANSUR II): upper bone to lower one, and limb and width to trunk.
UPPER_TO_LOWER = {"arms": 1.13, "legs": 0.97}
TO_TRUNK = {"arms": 1.15, "legs": 1.69, "shoulders": 0.69, "hips": 0.35}

# A bone points towards the camera, or away, when it is this much shorter than the limb's other one lets expect ...
UNEQUAL = 0.72
# ... a limb is bent below this ratio of the distance of its ends to its length; bent ones may be foreshortened ...
STRAIGHT = 0.95
# ... a body is turned when its shoulders or hips are narrower than this share of what its trunk lets expect ...
TURNED = 0.8
# ... and it bows when its trunk is shorter than this share of what its straight limbs let expect.
BOWED = 0.65

# In the driver's clip bones are as long as this quantile of what is seen: rarely foreshortened, and no stray frame.
QUANTILE = 0.8
# Postures are alike while their bones' directions, as unit vectors, differ by less than this.
ALIKE = 0.2

# How far a ratio of lengths in two different postures is believed: the exponent that brings it near to what the same
# bones' ratio is in the truth. From misaligned pairs of captured motion, where the slopes hardly depend on the bodies.
BELIEVED = {
    "trunk": 0.65, "neck": 0.4, "head": 0.65, "shoulders": 0.35, "hips": 0.35,
    "upper arms": 1.0, "forearms": 1.0, "arms": 1.0, "thighs": 0.65, "shanks": 0.65, "legs": 0.65,
}  # fmt: skip

# Ratios are held within these bounds around the common one.
BOUNDS = (0.6, 1.6)

# Whose legs are seen in so many frames stands on them.
STANDS = 0.5
# A foot stands while it is slower than this share of the leg's length a frame and so near to its lowest place.
STILL, LOW = 0.012, 0.06


class Retargeted(NamedTuple):
    """Poses on the reference's canvas, what was changed, and what the user should know."""

    poses: Poses
    ratios: dict[str, float]  # of each part of person 0: reference's length over driver's, both on the canvas
    notes: tuple[str, ...]


def retarget(driving: Poses, reference: Poses, transform: Similarity, *, min_score: float = 0.3) -> Retargeted:
    """The driving poses on the reference's canvas, person 0 with the reference's proportions.

    transform: the alignment's similarity, of one or F frames: it gives place, size and rotation, and the result is
    laid so that it still does. Each bone's vector is scaled by the ratio of both bodies' true lengths, so that
    foreshortening survives. The driver's lengths are
    quantiles of the clip; the reference's come from its one pose, where bent limbs, a turned body and bones towards
    the camera are recognised by a body's usual proportions and take the ratio of the parts that are seen well.
    How large the head is the face's points tell, where both show them, and the face gets the reference's shape.
    Feet that stand keep standing; the path of the hips is scaled by the legs. Where legs are not seen, the neck keeps
    its path. Face and hands move rigidly with nose and wrists in the size of head and forearms. Missing points stay
    missing, and everybody else gets the similarity alone.
    Raises PoseError when person 0 is not seen in either, or the transform has another number of frames.
    """
    frames = len(transform.scale)
    if frames not in (1, driving.frames):
        raise PoseError(f"retarget: the transform holds {frames} frames, need 1 or the clip's {driving.frames}")
    for poses, whose in ((reference, "reference"), (driving, "driving")):
        if not poses.people or not poses.visible(min_score)[:, 0].any():
            raise PoseError(
                f"{whose} poses: no body joint of person 0 above min_score {min_score:g} in {poses.frames} frames; "
                "lower min_score or use a picture or clip that shows a person"
            )
    transform = Similarity(*(part.detach().to("cpu", torch.float64) for part in transform))
    placed = driving.transformed(
        lambda points: transform.apply(torch.from_numpy(points)).numpy(),
        width=reference.width,
        height=reference.height,
    )
    seen = placed.visible(min_score)[:, 0]  # [F, 18]
    shown = reference.visible(min_score)[:, 0]
    best = reference.first_shown(min_score)
    driver = _Body(placed.body[:, 0], seen)
    model = _Body(reference.body[best : best + 1, 0], shown[best : best + 1])
    faces, face = placed.face[:, 0], reference.face[best, 0]  # [F, 68, 2], [68, 2]
    drawn, there = placed.face_score[:, 0] > min_score, reference.face_score[best, 0] > min_score  # [F, 68], [68]
    ratios, notes = _ratios(driver, model, size_ratio(faces, drawn & there, face))
    if there.all():
        faces = reshaped(faces, drawn, face)
    filled = _filled(driver)  # [F, 19, 2]
    moved = _rebuilt(filled, filled, ratios)
    shift = _standing(filled, moved, driver, ratios)
    body = _rebuilt(filled, _with_middle(placed.body[:, 0]), ratios, moved) + shift[:, None]
    moved = moved + shift[:, None]
    scale, settle = _settled(body[:, :BODY_POINTS], placed.body[:, 0], seen)
    body, moved = scale * body + settle, scale * moved + settle
    ratios = {part: scale * ratio for part, ratio in ratios.items()}
    return Retargeted(_with_person(placed, body[:, :BODY_POINTS], faces, filled, moved, ratios), ratios, notes)


class _Body(NamedTuple):
    points: np.ndarray  # [F, 18, 2] px of the reference's canvas
    seen: np.ndarray  # bool [F, 18]


def _with_middle(points: np.ndarray) -> np.ndarray:
    """Adds the middle of the hips: [F, 18, 2] -> [F, 19, 2]."""
    return np.concatenate([points, points[:, HIPS].mean(1, keepdims=True)], 1)


def _with_middle_seen(seen: np.ndarray) -> np.ndarray:
    return np.concatenate([seen, seen[:, HIPS].all(1, keepdims=True)], 1)  # [F, 19]


# --- lengths --------------------------------------------------------------------------------------------------------


class _Lengths(NamedTuple):
    """True lengths of one body as far as they can be told, px."""

    length: dict[str, float]  # of parts and limbs that are seen
    sure: dict[str, bool]  # whether the length may be believed, or is only the least that it can be


def _measured(body: _Body, like: np.ndarray) -> _Lengths:
    """like: how much each frame's posture is that of the other body, 0..1 [F].

    Bones of like postures point alike, towards the camera, too: their lengths compare as they are seen. The less
    alike a clip's postures are, the more its quantiles decide.
    """
    points = _with_middle(body.points)
    seen = _with_middle_seen(body.seen)

    def longest(pairs: tuple[tuple[int, int], ...]) -> float | None:
        lengths = []
        for a, b in pairs:
            both = seen[:, a] & seen[:, b]
            values, alike = np.linalg.norm(points[:, a] - points[:, b], axis=-1)[both], like[both] + 1e-9
            if len(values) and values.max() > 0:
                close = np.exp((alike * np.log(values.clip(1e-6))).sum() / alike.sum())
                lengths.append(close ** alike.max() * np.quantile(values, QUANTILE) ** (1 - alike.max()))
        return float(max(lengths)) if lengths else None

    length = {part: value for part, pairs in BONES.items() if (value := longest(pairs))}
    sure = {part: True for part in length}
    for limb, (upper, lower) in LIMBS.items():
        if upper not in length or lower not in length:
            continue
        typical = UPPER_TO_LOWER[limb]
        even = length[upper] / length[lower] / typical
        if even < UNEQUAL:
            length[upper] = typical * length[lower]
        elif even > 1 / UNEQUAL:
            length[lower] = length[upper] / typical
        foreshortened = not UNEQUAL <= even <= 1 / UNEQUAL
        length[limb] = length[upper] + length[lower]
        reach = longest(ENDS[limb])
        straight = reach is not None and reach >= STRAIGHT * length[limb]
        sure[limb] = foreshortened or straight
        sure[upper] = sure[lower] = straight
    limbs = [length[limb] / TO_TRUNK[limb] for limb in LIMBS if sure.get(limb)]
    if "trunk" in length and limbs:
        sure["trunk"] = length["trunk"] >= BOWED * float(np.mean(limbs))
    for width in WIDTHS:
        if width in length and "trunk" in length:
            sure[width] = length[width] >= TURNED * TO_TRUNK[width] * length["trunk"]
    return _Lengths(length, sure)


def _likeness(driver: _Body, model: _Body) -> np.ndarray:
    """How much each frame's bones point as the model's do, 0..1 [F]; widths count with their sizes: they tell turns."""
    theirs, ours = _with_middle(driver.points), _with_middle(model.points)
    seen, shown = _with_middle_seen(driver.seen), _with_middle_seen(model.seen)
    total, count = np.zeros(len(theirs)), np.zeros(len(theirs))
    trunk = seen[:, NECK] & seen[:, MID_HIP]
    sizes = [
        np.median(np.linalg.norm(points[there, NECK] - points[there, MID_HIP], axis=-1)) if there.any() else 0.0
        for points, there in ((theirs, trunk), (ours, shown[:, NECK] & shown[:, MID_HIP]))
    ]
    for part, pairs in BONES.items():
        if part in WIDTHS and not min(sizes) > 0:
            continue
        for a, b in pairs:
            both = seen[:, a] & seen[:, b] & shown[:, a] & shown[:, b]
            bones = [points[:, b] - points[:, a] for points in (theirs, ours)]
            if part in WIDTHS:
                one, other = (bone / size for bone, size in zip(bones, sizes, strict=True))
            else:
                one, other = (bone / np.linalg.norm(bone, axis=-1, keepdims=True).clip(1e-9) for bone in bones)
            total += both * np.square(one - other).sum(-1)
            count += both
    return np.where(count > 0, np.exp(-total / count.clip(1) / (2 * ALIKE**2)), 0.0)


def _ratios(driver: _Body, model: _Body, face: float | None) -> tuple[dict[str, float], tuple[str, ...]]:
    """Reference's length over driver's of every part, and notes. face: the ratio of the faces, where they are seen."""
    like = _likeness(driver, model)
    theirs, ours = _measured(driver, like), _measured(model, np.ones(1))
    plain = {part: ours.length[part] / theirs.length[part] for part in ours.length if part in theirs.length}
    good = {part for part in plain if ours.sure[part] and theirs.sure[part]}
    notes: list[str] = []

    def believed(part: str, other: float, source: str) -> float:
        """A part's ratio: a length that may be foreshortened bounds it from one side."""
        if part not in plain or (not ours.sure[part] and not theirs.sure[part]):
            return other
        if part in good:
            return plain[part]
        ratio = max(plain[part], other) if theirs.sure[part] else min(plain[part], other)
        if ratio == other:
            whose = "reference" if theirs.sure[part] else "driver"
            notes.append(f"the {whose}'s {_HOW[part]} taken from {source}")
        return ratio

    ratios: dict[str, float] = {}
    firm = {part: plain[part] for part in ("trunk", *LIMBS) if part in good}
    for part in ("trunk", *LIMBS):
        others = [value for key, value in firm.items() if key != part]
        ratios[part] = believed(part, _mean(others), _names([key for key in firm if key != part]))
    for limb, bones in LIMBS.items():
        for bone in bones:
            ratios[bone] = plain[bone] if bone in good and limb in good else ratios[limb]
    for width in WIDTHS:
        ratios[width] = believed(width, ratios["trunk"], "the trunk")
    ratios["head"] = face or _head_ratio(driver, model) or _mean([ratios["trunk"], ratios["shoulders"]])
    ratios["neck"] = plain.get("neck", _mean([ratios["head"], ratios["trunk"]]))
    large = [part for part in ("trunk", *LIMBS) if part in plain]
    small = [part for part in ("shoulders", "neck") if part in plain]
    common = _mean([ratios[part] for part in large or small])
    for part, ratio in ratios.items():
        trust = 1.0 if part == "head" and face else BELIEVED[part] + (1 - BELIEVED[part]) * like.max()
        found = (ratio / common) ** trust
        ratios[part] = float(np.clip(found, *BOUNDS))
        if ratios[part] != found and part not in LIMBS:
            notes.append(f"the reference's {part} would be {found:.2f} times the driver's: held at {ratios[part]:g}")
    return ratios, tuple(notes)


_HOW = {
    "trunk": "trunk is bowed: its length was",
    "arms": "arms are bent: their length was",
    "legs": "legs are bent: their length was",
    "shoulders": "shoulders are turned: their width was",
    "hips": "hips are turned: their width was",
}


def _mean(ratios: list[float]) -> float:
    """Geometric mean; 1, the similarity's own size, of nothing."""
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0


def _names(parts: list[str]) -> str:
    return "the " + " and ".join(parts or ["similarity"])


def _head_ratio(driver: _Body, model: _Body) -> float | None:
    """Ratio of the heads' sizes: the spread of the points that both show, which hardly changes as a head turns."""
    head = [joint for joint in HEAD if model.seen[0, joint]]
    frames = driver.seen[:, head].all(1)
    while len(head) > 3 and not frames.any():
        head.remove(min(head, key=lambda joint: driver.seen[:, joint].sum()))
        frames = driver.seen[:, head].all(1)
    if len(head) < 3 or not frames.any():
        return None
    heads = [points[:, head] for points in (driver.points[frames], model.points)]
    theirs, ours = (spread(part) for part in heads)
    return float(ours[0] / np.median(theirs)) if np.median(theirs) > 0 and ours[0] > 0 else None


# --- motion ---------------------------------------------------------------------------------------------------------


def _filled(body: _Body) -> np.ndarray:
    """All joints in all frames, [F, 19, 2]: missing ones keep their place beside their parent, in between its two
    neighbours in time; what is never seen lies on its parent."""
    points = _with_middle(body.points)
    seen = _with_middle_seen(body.seen)
    out = np.zeros_like(points)
    out[:, NECK] = _necks(body)
    for joint, parent, _ in TREE:
        offset = _interpolated(points[:, joint] - out[:, parent], seen[:, joint])
        out[:, joint] = out[:, parent] + offset
    return out


def _necks(body: _Body) -> np.ndarray:
    """The neck in all frames, [F, 2]: seen, or where it must be beside the joints that are seen."""
    neck, seen = body.points[:, NECK], body.seen[:, NECK]
    if not seen.any():
        shoulders = body.seen[:, (2, 5)].all(1)
        if shoulders.any():
            neck, seen = body.points[:, (2, 5)].mean(1), shoulders
        else:
            count = body.seen.sum(1)
            middle = (body.points * body.seen[..., None]).sum(1) / count.clip(1)[:, None]
            return _interpolated(middle, count > 0)
    near = (0, 2, 5, 8, 11)
    total, weight = np.zeros_like(neck), np.zeros(len(neck))
    for joint in near:
        both = seen & body.seen[:, joint]
        if both.any():
            offset = _interpolated(neck - body.points[:, joint], both)
            total += np.where(body.seen[:, joint, None], body.points[:, joint] + offset, 0)
            weight += body.seen[:, joint]
    guess = np.where(seen[:, None], neck, total / weight.clip(1)[:, None])
    return _interpolated(guess, seen | (weight > 0))


def _interpolated(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """values [F, 2] at the known frames, straight lines in between, held at both ends; zeros when none is known."""
    if not known.any():
        return np.zeros_like(values)
    time, at = np.arange(len(values)), np.flatnonzero(known)
    return np.stack([np.interp(time, at, values[at, axis]) for axis in (0, 1)], -1)


def _rebuilt(
    filled: np.ndarray, points: np.ndarray, ratios: dict[str, float], parents: np.ndarray | None = None
) -> np.ndarray:
    """points [F, 19, 2] on bones scaled by the ratios, with the neck in its place.

    A bone runs from the parent's filled place, so that a parent that is missing does not lose its children.
    parents: the rebuilt filled places [F, 19, 2], None while they are being built.
    """
    out = points.copy()
    parents = out if parents is None else parents
    for joint, parent, part in TREE:
        out[:, joint] = parents[:, parent] + ratios[part] * (points[:, joint] - filled[:, parent])
    return out


def _standing(filled: np.ndarray, moved: np.ndarray, driver: _Body, ratios: dict[str, float]) -> np.ndarray:
    """What to add to the rebuilt body in each frame, [F, 2] px, so that it travels on its own legs and feet stand.

    The hips' path is scaled by the legs, and so is that of the feet, but for thighs and shanks of different ratios:
    the feet that stand decide on the rest, each about its own mean, as the legs may be bent differently.
    """
    frames = len(filled)
    legs = driver.seen[:, ANKLES].any(1) & driver.seen[:, HIPS].any(1)
    if legs.mean() < STANDS:
        return np.zeros((frames, 2))
    ratio = ratios["legs"]
    target = ratio * (filled - filled[:1, MID_HIP : MID_HIP + 1]) + filled[:1, MID_HIP : MID_HIP + 1]  # [F, 19, 2]
    hips = target[:, MID_HIP] - moved[:, MID_HIP]
    feet = (target - moved)[:, ANKLES] - (target - moved)[:, HIPS]  # [F, 2, 2], nothing where the ratios are one
    length = np.median(np.linalg.norm(filled[:, ANKLES] - filled[:, HIPS], axis=-1))
    weight = _contact(filled[:, ANKLES], driver.seen[:, ANKLES], max(float(length), 1e-6))  # [F, 2]
    feet = feet - (weight[..., None] * feet).sum(0) / np.maximum(weight.sum(0), 1e-9)[:, None]
    total = weight.sum(1)
    rest = (weight[..., None] * feet).sum(1) / np.maximum(total, 1e-9)[:, None]
    return hips + _interpolated(rest, total > 1e-3)


def _contact(ankles: np.ndarray, seen: np.ndarray, length: float) -> np.ndarray:
    """How surely each foot stands, 0..1 [F, 2]; soft, so that nothing jumps. ankles: [F, 2, 2] px."""
    speed = np.zeros(ankles.shape[:2])
    if len(ankles) > 1:
        speed = np.linalg.norm(np.gradient(ankles, axis=0), axis=-1) / length
    lowest = ankles[..., 1].max(1, keepdims=True)  # y points down
    above = (lowest - ankles[..., 1]) / length
    return seen * np.exp(-np.square(speed / STILL)) * np.exp(-np.square(above / LOW))


def _settled(body: np.ndarray, placed: np.ndarray, seen: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and shift [2] after which the similarity that best takes the placed clip to the body is none at all.

    The alignment decides on size and place, the bones on proportions. body, placed: [F, 18, 2] px, seen: [F, 18].
    """
    old, new = placed[seen], body[seen]  # [N, 2]
    before, after = old.mean(0), new.mean(0)
    common = float(((old - before) * (new - after)).sum())
    scale = float(np.square(old - before).sum()) / common if common > 0 else 1.0
    return scale, before - scale * after


def _with_person(
    placed: Poses, body: np.ndarray, face: np.ndarray, filled: np.ndarray, moved: np.ndarray, ratios: dict[str, float]
) -> Poses:
    """placed with person 0's points replaced; face and hands go with nose and wrists."""
    bodies, faces, hands = placed.body.copy(), placed.face.copy(), placed.hands.copy()
    bodies[:, 0] = body
    faces[:, 0] = moved[:, None, NOSE] + ratios["head"] * (face - filled[:, None, NOSE])
    for side, wrist in enumerate(WRISTS):
        hands[:, 0, side] = moved[:, None, wrist] + ratios["forearms"] * (hands[:, 0, side] - filled[:, None, wrist])
    return replace(placed, body=bodies, face=faces, hands=hands)
