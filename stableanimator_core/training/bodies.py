"""Bodies for misaligned pairs: real and invented proportions, motions put on them, and postures they take."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws
from ..errors import InputError
from ..skeleton import HEAD, MIRROR

# Columns of a row of body measures, metres.
COLUMNS = (
    "sex_male", "stature", "shoulder_width", "hip_width", "torso", "thigh", "shank", "ankle_height", "upper_arm",
    "forearm", "shoulder_to_tragion", "ear_width", "interpupil", "head_length",
)  # fmt: skip
COLUMN = {name: index for index, name in enumerate(COLUMNS)}
UPRIGHT = ("torso", "thigh", "shank", "ankle_height", "shoulder_to_tragion")  # with the crown they make the stature
CROWN = 0.131 / 1.756  # of the stature lies above the ear openings

# Built-in adults: means and standard deviations in metres of men's and women's COLUMNS from the stature on, and each
# measure's correlation with the stature.
_MEN = (1.757, 0.345, 0.171, 0.500, 0.410, 0.419, 0.073, 0.300, 0.268, 0.224, 0.1435, 0.064, 0.1995)
_MEN_SPREAD = (0.068, 0.016, 0.011, 0.032, 0.028, 0.025, 0.006, 0.016, 0.015, 0.018, 0.005, 0.0034, 0.007)
_WOMEN = (1.630, 0.303, 0.169, 0.453, 0.380, 0.404, 0.063, 0.279, 0.242, 0.204, 0.1375, 0.062, 0.190)
_WOMEN_SPREAD = (0.065, 0.015, 0.014, 0.029, 0.024, 0.026, 0.005, 0.016, 0.015, 0.016, 0.005, 0.0036, 0.0074)
_WITH_STATURE = (1.0, 0.54, 0.50, 0.55, 0.67, 0.82, 0.47, 0.76, 0.71, 0.43, 0.07, 0.18, 0.37)
_BUILT_IN = 4096  # adults

# Tree of 20 nodes: the 18 joints, the middle of the hips (root) and the middle of the ears (root of the head).
MID_HIP, MID_EAR = 18, 19
PARENTS = (MID_EAR, MID_HIP, 1, 2, 3, 1, 5, 6, MID_HIP, 8, 9, MID_HIP, 11, 12, *[MID_EAR] * 4, -1, 1)
_LEVELS = ((1, 8, 11), (2, 5, 9, 12, MID_EAR), (3, 6, 10, 13, *HEAD), (4, 7))
NODE_MIRROR = (*MIRROR, MID_HIP, MID_EAR)
UPPER = (*range(8), *HEAD[1:], MID_EAR)  # nodes that a leaning trunk takes along

KNEE_CLEARANCE, SEAT_CLEARANCE = 0.03, 0.055  # of the stature: a knee's and the hips' height when they touch the floor

# Postures: ranges in degrees of thighs and shanks (0 hangs down, 90 points forward), the knees' turn outwards and the
# trunk's lean forward. The first leg is the right one, sides are then changed at random.
POSTURES = {
    # posture: thigh, other thigh, shank, other shank, outwards, lean
    "on a chair": ((72, 98), (72, 98), (-15, 25), (-15, 25), (-3, 28), (-15, 25)),
    "on the floor": ((92, 122), (92, 122), (20, 65), (20, 65), (-3, 40), (-20, 20)),
    "half a squat": ((45, 85), (45, 85), (-45, -25), (-45, -25), (0, 35), (15, 45)),
    "a squat": ((85, 128), (85, 128), (-45, -25), (-45, -25), (0, 45), (10, 40)),
    "on both knees": ((-5, 20), (-5, 20), (-105, -91), (-105, -91), (0, 15), (-5, 15)),
    "on the heels": ((70, 88), (70, 88), (-102, -90), (-102, -90), (0, 25), (-5, 15)),
    "on one knee": ((75, 100), (-15, 15), (-15, 10), (-105, -91), (0, 20), (-5, 20)),
}
SITS, CROUCHES, KNEELS = (0.7, 0.3, 0, 0, 0, 0, 0), (0, 0, 0.5, 0.5, 0, 0, 0), (0, 0, 0, 0, 0.3, 0.3, 0.4)


class Shapes(NamedTuple):
    """Bodies to draw from."""

    rows: Tensor  # [S, 14] metres, COLUMNS

    @classmethod
    def load(cls, path: str | Path, split: str = "train", device: torch.device | str = "cpu") -> Shapes:
        """Array `split` [S, 14] of an npz file whose `columns` are COLUMNS. Raises InputError in one line."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"body shapes {path}: not found; give an .npz with {split} and columns")
        try:
            with np.load(path, allow_pickle=False) as data:
                missing = [key for key in (split, "columns") if key not in getattr(data, "files", ())]
                if missing:
                    raise InputError(f"body shapes {path}: has no {', '.join(missing)}; need {split} and columns")
                rows, columns = np.asarray(data[split]), [str(name) for name in data["columns"]]
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            if isinstance(error, InputError):
                raise
            kind = type(error).__name__
            raise InputError(f"body shapes {path}: is no readable .npz of plain arrays ({kind})") from error
        if tuple(columns) != COLUMNS:
            raise InputError(f"body shapes {path}: columns are {', '.join(columns)}; need {', '.join(COLUMNS)}")
        if rows.ndim != 2 or rows.shape[1] != len(COLUMNS) or not len(rows):
            raise InputError(f"body shapes {path}: {split} has shape {list(rows.shape)}, need [S, {len(COLUMNS)}]")
        if not (np.isfinite(rows).all() and (rows[:, 1:] > 0).all()):
            raise InputError(f"body shapes {path}: {split} holds lengths that are not positive numbers")
        return cls(torch.from_numpy(rows.astype(np.float32)).to(device))

    @classmethod
    def adults(cls, device: torch.device | str = "cpu") -> Shapes:
        """Built-in adults, always the same ones, for when no file is given: lengths vary with the stature."""
        rng = np.random.default_rng(0)
        male = rng.random(_BUILT_IN) < 0.5
        mean, spread = (np.where(male[:, None], m, w) for m, w in ((_MEN, _WOMEN), (_MEN_SPREAD, _WOMEN_SPREAD)))
        with_stature = np.array(_WITH_STATURE)
        tall, own = rng.standard_normal((_BUILT_IN, 1)), rng.standard_normal(mean.shape)
        vary = (with_stature * tall + np.sqrt(1 - with_stature**2) * own).clip(-2.5, 2.5)
        rows = np.concatenate([male[:, None], mean + spread * vary], axis=1)
        rows[:, COLUMN["stature"]] = rows[:, [COLUMN[name] for name in UPRIGHT]].sum(1) / (1 - CROWN)
        return cls(torch.from_numpy(rows.astype(np.float32)).to(device))


def draw_bodies(
    shapes: Shapes, count: int, draws: Draws, *, child: float, heavy: float, stylised: float, cartoon: float = 0.0,
    jitter: float,
) -> Tensor:  # fmt: skip
    """Rows [count, 14] of real people, some turned into children, heavy people, stylised people or cartoon figures.

    child, heavy, stylised, cartoon: probabilities. jitter: standard deviation of every length, left and right alike.
    """
    size = torch.full((count,), len(shapes.rows), device=draws.device)
    rows = shapes.rows[draws.below(size)]
    kinds = (child, heavy, stylised, cartoon)
    kind = draws.one_of(count, (max(0.0, 1 - sum(kinds)), *kinds))
    makers = [_child, _heavy, _stylised]
    if cartoon:  # otherwise nothing is drawn for it: pairs of earlier settings stay what they were
        makers.append(_cartoon)
    factor = torch.ones_like(rows)
    for number, make in enumerate(makers, start=1):
        factor = torch.where((kind == number)[:, None], make(rows, draws), factor)
    vary = 1 + jitter * draws.normal(rows.shape).clamp(-3, 3)
    head = [COLUMN[name] for name in ("ear_width", "interpupil", "head_length")]
    vary[:, head] = vary[:, head[:1]]  # a head is scaled as one
    return resized(rows, factor * vary)


def resized(rows: Tensor, factor: Tensor) -> Tensor:
    """Rows [B, 14] with every length times its factor [B, 14]; the stature is the sum of its parts and the crown."""
    parts = [COLUMN[name] for name in UPRIGHT]
    stature, head = COLUMN["stature"], COLUMN["head_length"]
    crown = crown_height(rows) * factor[:, head]
    out = rows * factor
    out[:, 0] = rows[:, 0]
    out[:, stature] = out[:, parts].sum(1) + crown
    return out


def crown_height(rows: Tensor) -> Tensor:
    """Height in metres of the crown above the ear openings, [B]."""
    return rows[:, COLUMN["stature"]] - rows[:, [COLUMN[name] for name in UPRIGHT]].sum(1)


def _factors(rows: Tensor, **columns: Tensor | float) -> Tensor:
    factor = torch.ones_like(rows)
    for name, value in columns.items():
        factor[:, COLUMN[name]] = value
    return factor


def _head(size: Tensor) -> dict[str, Tensor]:
    """Factors of a head of another size; somewhat more than half of neck to ear opening is head."""
    return {
        "ear_width": size, "interpupil": size, "head_length": size, "shoulder_to_tragion": 0.45 + 0.55 * size,
    }  # fmt: skip


def _child(rows: Tensor, draws: Draws) -> Tensor:
    """Stature 0.95 to 1.45 m: the younger, the larger the head and the shorter the legs for the rest."""
    stature = draws.uniform(rows.shape[:1], 0.95, 1.45)
    small = stature / rows[:, COLUMN["stature"]]
    young = (1.75 - stature) / 0.8  # 0.4 to 1
    legs, head = small * (1 - 0.1 * young), 1 - 0.12 * young
    factors = dict.fromkeys(("shoulder_width", "hip_width", "upper_arm", "forearm"), small)
    factors |= dict.fromkeys(("thigh", "shank", "ankle_height"), legs)
    factors |= _head(head) | {"torso": small * (1 + 0.04 * young)}
    factors["shoulder_to_tragion"] = 0.45 * small * 0.8 + 0.55 * head
    factor = _factors(rows, **factors)
    return factor * (stature / resized(rows, factor)[:, COLUMN["stature"]])[:, None]


def _heavy(rows: Tensor, draws: Draws) -> Tensor:
    one = rows.shape[:1]
    return _factors(
        rows, shoulder_width=draws.uniform(one, 1.1, 1.45), hip_width=draws.uniform(one, 1.1, 1.45),
        torso=draws.uniform(one, 0.95, 1.05),
    )  # fmt: skip


def _stylised(rows: Tensor, draws: Draws) -> Tensor:
    one = rows.shape[:1]
    arms, legs = draws.uniform(one, 0.6, 1.15), draws.uniform(one, 0.6, 1.15)
    factors = dict.fromkeys(("upper_arm", "forearm"), arms) | dict.fromkeys(("thigh", "shank", "ankle_height"), legs)
    return _factors(
        rows, **factors, **_head(draws.uniform(one, 1.4, 2.6)), torso=draws.uniform(one, 0.65, 1.1),
        shoulder_width=draws.uniform(one, 0.65, 1.25), hip_width=draws.uniform(one, 0.8, 1.3),
    )  # fmt: skip


def _cartoon(rows: Tensor, draws: Draws) -> Tensor:
    """A head broader than the trunk is long, on a short neck; legs that shorten downwards; small on the whole."""
    one = rows.shape[:1]
    size, head = draws.uniform(one, 0.6, 1.0), draws.uniform(one, 3.2, 6.0)
    factor = _factors(
        rows, torso=1.0, shoulder_width=draws.uniform(one, 0.9, 1.6), hip_width=draws.uniform(one, 0.9, 1.6),
        thigh=draws.uniform(one, 0.6, 1.1), shank=draws.uniform(one, 0.5, 0.95), ankle_height=1.0,
        upper_arm=draws.uniform(one, 0.7, 1.25), forearm=draws.uniform(one, 0.8, 1.25),
        shoulder_to_tragion=draws.uniform(one, 1.1, 1.9), ear_width=head, interpupil=head, head_length=0.5 * head,
    )  # fmt: skip
    factor[:, 1:] *= size[:, None]
    return factor


def with_middles(joints: Tensor) -> Tensor:
    """Joints [..., 18, 3] -> the tree's nodes [..., 20, 3]."""
    hips, ears = joints[..., [8, 11], :].mean(-2, keepdim=True), joints[..., [16, 17], :].mean(-2, keepdim=True)
    return torch.cat([joints, hips, ears], dim=-2)


def bone_vectors(nodes: Tensor) -> Tensor:
    """Node minus parent, [..., 20, 3]; the root's is its place."""
    bones = nodes - nodes[..., PARENTS, :]
    bones[..., MID_HIP, :] = nodes[..., MID_HIP, :]
    return bones


def accumulated(bones: Tensor) -> Tensor:
    """Bone vectors -> nodes, [..., 20, 3]."""
    nodes = bones.clone()
    for level in _LEVELS:
        nodes[..., level, :] += nodes[..., [PARENTS[node] for node in level], :]
    return nodes


def on_body(joints: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
    """Motions on other bodies: directions stay, every bone gets one factor for the clip, the path that of the legs.

    joints: [B, F, 18, 3] metres, y up. lengths: [B, 20], median length of each bone in the clip. rows: [B, 14].
    The lowest ankle of the window stands at the body's ankle height. Returns nodes [B, F, 20, 3].
    """
    half = {name: rows[:, COLUMN[name]] / 2 for name in ("shoulder_width", "hip_width", "ear_width")}
    whole = {name: rows[:, COLUMN[name]] for name in COLUMNS}
    target = lengths.clone()
    for nodes, length in (
        ((1,), whole["torso"]), ((2, 5), half["shoulder_width"]), ((3, 6), whole["upper_arm"]),
        ((4, 7), whole["forearm"]), ((8, 11), half["hip_width"]), ((9, 12), whole["thigh"]),
        ((10, 13), whole["shank"]), ((MID_EAR,), whole["shoulder_to_tragion"]),
    ):  # fmt: skip
        target[:, nodes] = length[:, None]
    factor = target / lengths.clamp_min(1e-4)  # [B, 20]
    factor[:, HEAD] = (half["ear_width"] / lengths[:, [16, 17]].mean(1).clamp_min(1e-4))[:, None]
    factor[:, MID_HIP] = target[:, [9, 10, 12, 13]].sum(1) / lengths[:, [9, 10, 12, 13]].sum(1).clamp_min(1e-4)
    nodes = accumulated(bone_vectors(with_middles(joints)) * factor[:, None, :, None])
    lowest = nodes[:, :, [10, 13], 1].amin((1, 2))  # [B]
    nodes[..., 1] += (whole["ankle_height"] - lowest)[:, None, None]
    return nodes


def heading(nodes: Tensor) -> Tensor:
    """Where the trunk faces, radians [...] of nodes or joints [..., K, 3]: 0 is +z, positive turns to its own left."""
    left = unit(nodes[..., 11, :] - nodes[..., 8, :]) + unit(nodes[..., 5, :] - nodes[..., 2, :])
    up = nodes[..., 1, :] - (nodes[..., 8, :] + nodes[..., 11, :]) / 2
    facing = torch.linalg.cross(left, up)
    return torch.atan2(facing[..., 0], facing[..., 2])


def turned(points: Tensor, angle: Tensor) -> Tensor:
    """Points [B, ..., 3] turned about the vertical by angle [B] radians, as heading counts."""
    shape = (-1, *[1] * (points.ndim - 2))
    sin, cos = angle.sin().view(shape), angle.cos().view(shape)
    x, y, z = points.unbind(-1)
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)


def in_posture(nodes: Tensor, posture: Tensor, draws: Draws) -> Tensor:
    """People [B, 20, 3] of any upright pose made to sit, crouch or kneel; arms and head keep their pose.

    posture: [B] indices into POSTURES. Thighs and shanks get new directions, the pelvis is levelled, the trunk leans.
    The feet are left hanging: see on_floor.
    """
    ranges = torch.tensor(list(POSTURES.values()), device=nodes.device).deg2rad()[posture]  # [B, 6, 2]
    low, high = ranges.unbind(-1)
    count = len(nodes)
    angles = draws.uniform(low.shape, low, high)
    thigh, shank, lean = angles[:, :2], angles[:, 2:4], angles[:, 5]
    # Legs of one range differ little from each other: the second one starts from the first one's draw.
    alike = (low[:, [0, 2]] == low[:, [1, 3]]).all(1, keepdim=True)
    differ = 0.15 * draws.normal((count, 2)).clamp(-1.5, 1.5)
    thigh = torch.where(alike, torch.stack([thigh[:, 0], thigh[:, 0] + differ[:, 0]], 1), thigh)
    shank = torch.where(alike, torch.stack([shank[:, 0], shank[:, 0] + differ[:, 1]], 1), shank)
    outwards = draws.uniform((count, 2), low[:, 4:5], high[:, 4:5])
    change = draws.chance((count, 1), 0.5)
    thigh, shank = (torch.where(change, side.flip(1), side) for side in (thigh, shank))

    yaw = heading(nodes)
    zero = torch.zeros_like(yaw)
    up = torch.stack([zero, zero + 1, zero], -1)  # [B, 3]
    forward = torch.stack([yaw.sin(), zero, yaw.cos()], -1)
    left = torch.stack([yaw.cos(), zero, -yaw.sin()], -1)
    bones = bone_vectors(nodes)
    size = bones.norm(dim=-1, keepdim=True)  # [B, 20, 1]
    for side, (hip, knee, ankle) in enumerate(((8, 9, 10), (11, 12, 13))):
        sign = 2 * side - 1  # the right leg turns away from the left
        turn = outwards[:, side, None]
        ahead = turn.cos() * forward + sign * turn.sin() * left
        bones[:, hip] = sign * left * size[:, hip]
        for node, angle in ((knee, thigh), (ankle, shank)):
            bend = angle[:, side, None]
            bones[:, node] = (bend.sin() * ahead - bend.cos() * up) * size[:, node]
    bones[:, UPPER] = _rotated(bones[:, UPPER], left[:, None], lean[:, None, None])
    return accumulated(bones)


def on_floor(nodes: Tensor, rows: Tensor) -> Tensor:
    """People [B, 20, 3] put down until ankles, knees or hips touch the floor at y = 0."""
    stature = rows[:, COLUMN["stature"]]
    ankles = nodes[:, [10, 13], 1].amin(1) - rows[:, COLUMN["ankle_height"]]
    knees = nodes[:, [9, 12], 1].amin(1) - KNEE_CLEARANCE * stature
    hips = nodes[:, MID_HIP, 1] - SEAT_CLEARANCE * stature
    lowest = torch.minimum(torch.minimum(ankles, knees), hips)
    out = nodes.clone()
    out[..., 1] -= lowest[:, None]
    return out


def _rotated(vectors: Tensor, axis: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues' rotation about unit axes; all broadcast over [..., 3]."""
    along = (vectors * axis).sum(-1, keepdim=True) * axis
    across = torch.linalg.cross(axis.expand_as(vectors), vectors)
    return along + (vectors - along) * angle.cos() + across * angle.sin()


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-6)
