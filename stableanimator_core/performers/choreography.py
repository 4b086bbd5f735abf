"""Motion written in code: sixteen families of arm and leg movements that can be mixed.

Joints come out in the layout of the motion files: [F, 18, 3] metres, OpenPose-18 order, y up, facing +z, so that
the character's left is +x. Angles are degrees until they become directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError

FPS = 15
HELD_OUT = ("disco", "star_jump")

_HIP, _SHOULDER = 0.09, 0.17
_TORSO, _UPPER_ARM, _FOREARM, _THIGH, _SHANK, _ANKLE = 0.47, 0.28, 0.25, 0.40, 0.40, 0.085
# Head points from the middle between the ear openings: nose, right eye, left eye, right ear, left ear.
_HEAD_POINTS = np.array(
    [[0, -0.012, 0.122], [-0.032, 0.025, 0.078], [0.032, 0.025, 0.078], [-0.072, 0, 0], [0.072, 0, 0]]
)


@dataclass
class _Moves:
    """Every degree of freedom over time; each array is [F] unless it says otherwise."""

    phase: np.ndarray
    time: np.ndarray
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    z: np.ndarray = field(init=False)
    yaw: np.ndarray = field(init=False)
    lean: np.ndarray = field(init=False)
    tilt: np.ndarray = field(init=False)
    twist: np.ndarray = field(init=False)
    nod: np.ndarray = field(init=False)
    look: np.ndarray = field(init=False)
    roll: np.ndarray = field(init=False)
    arms: np.ndarray = field(init=False)  # [F, 2 (right, left), 4]: upper out, upper forward, fore out, fore forward
    feet: np.ndarray = field(init=False)  # [F, 2, 3] metres, ankle away from its place below the hip, x outwards

    def __post_init__(self) -> None:
        frames = len(self.phase)
        for name in ("x", "y", "z", "yaw", "lean", "tilt", "twist", "nod", "look", "roll"):
            setattr(self, name, np.zeros(frames))
        self.arms = np.tile(np.array([13.0, 0.0, 8.0, 14.0]), (frames, 2, 1))
        self.feet = np.zeros((frames, 2, 3))
        self.feet[..., 0] = 0.03


Part = Callable[[_Moves, np.ndarray, float, np.random.Generator], None]


def _wave01(phase: np.ndarray) -> np.ndarray:
    """0..1, starting and ending at rest."""
    return 0.5 - 0.5 * np.cos(phase)


def _soft_square(phase: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    """-1..1 with pauses at both ends."""
    return np.tanh(sharpness * np.sin(phase)) / np.tanh(sharpness)


# ---------------------------------------------------------------- arms


def _arms_relaxed(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    swing = 8 * amp * np.sin(p)
    m.arms[:, 0, 1] += swing
    m.arms[:, 1, 1] -= swing
    m.arms[..., 2] += rng.uniform(-4, 10)
    m.arms[..., 3] += rng.uniform(0, 20)


def _arms_wave(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    side = int(rng.integers(2))
    m.arms[:, side, 0] = rng.uniform(88, 112) + 5 * np.sin(p)
    m.arms[:, side, 2] = rng.uniform(135, 150) + 24 * amp * np.sin(p)
    m.arms[:, side, 1] = m.arms[:, side, 3] = 0
    if rng.random() < 0.35:
        m.arms[:, 1 - side] = [48, -8, -38, 12]
    m.roll += rng.uniform(-6, 6)


def _arms_swing(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    bend = rng.uniform(10, 35)
    for side, sign in ((0, 1), (1, -1)):
        m.arms[:, side, 1] = sign * 32 * amp * np.sin(p)
        m.arms[:, side, 3] = m.arms[:, side, 1] + bend


def _arms_march(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, sign in ((0, 1), (1, -1)):
        m.arms[:, side, 0] = 16
        m.arms[:, side, 1] = sign * 42 * amp * np.sin(p)
        m.arms[:, side, 2] = 4
        m.arms[:, side, 3] = m.arms[:, side, 1] + 65


def _arms_boxing(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, shift in ((0, 0.0), (1, np.pi)):
        punch = np.clip(np.sin(p + shift), 0, 1) ** 1.5 * amp
        m.arms[:, side, 0] = 30 - 6 * punch
        m.arms[:, side, 1] = 5 + 50 * punch
        m.arms[:, side, 2] = 4 + 12 * punch
        m.arms[:, side, 3] = 98 - 22 * punch
    m.twist += 12 * amp * np.sin(p)


def _arms_circles(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    turn = rng.choice([-1, 1])
    out, forward = 88 + 32 * amp * np.cos(p), 24 * amp * turn * np.sin(p)
    for column in (0, 2):
        m.arms[..., column] = out[:, None]
        m.arms[..., column + 1] = forward[:, None]


def _arms_clap(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    closed = _wave01(p)
    m.arms[..., 0] = (48 - 18 * closed)[:, None]
    m.arms[..., 1] = 28
    m.arms[..., 2] = (42 * amp - (42 * amp + 36) * closed)[:, None]
    m.arms[..., 3] = 78


def _arms_disco(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    side = int(rng.integers(2))
    up = (0.5 + 0.5 * _soft_square(p, 1.4))[:, None]
    high, low = np.array([132.0, 0, 140, 0]), np.array([14.0, 30, -42, 42])
    m.arms[:, side] = low + up * (high - low)
    m.arms[:, 1 - side] = [50, -8, -40, 12]
    m.roll += (8 * (up[:, 0] - 0.5)) * (1 if side else -1)


def _arms_star(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.arms[..., 0] = m.arms[..., 2] = (16 + 124 * min(amp, 1.05) * _wave01(p))[:, None]
    m.arms[..., 1] = m.arms[..., 3] = 0


def _arms_flap(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.arms[..., 0] = (74 + 32 * amp * np.sin(p))[:, None]
    m.arms[..., 2] = (74 + 42 * amp * np.sin(p - 0.7))[:, None]
    m.arms[..., 1] = m.arms[..., 3] = 0


def _arms_cheer(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, shift in ((0, 0.0), (1, rng.choice([0.0, np.pi]))):
        m.arms[:, side, 0] = 116 + 14 * amp * np.sin(p + shift)
        m.arms[:, side, 2] = 146 + 16 * amp * np.sin(p + shift - 0.4)
        m.arms[:, side, 1] = m.arms[:, side, 3] = 0


def _arms_robot(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    state = _soft_square(p)
    for side, sign in ((0, 1), (1, -1)):
        m.arms[:, side, 0] = 82
        m.arms[:, side, 2] = 88 + 72 * sign * state
        m.arms[:, side, 1] = m.arms[:, side, 3] = 0


def _arms_hips(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.arms[:] = np.array([50.0, -8, -40, 12])
    m.arms[..., 0] += (4 * amp * np.sin(p))[:, None]


def _arms_conduct(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, shift in ((0, 0.0), (1, rng.choice([0.0, np.pi / 2, np.pi]))):
        m.arms[:, side, 0] = 34 + 10 * amp * np.sin(p + shift)
        m.arms[:, side, 1] = 16
        m.arms[:, side, 2] = 38 + 36 * amp * np.sin(p + shift - 0.5)
        m.arms[:, side, 3] = 66 + 18 * amp * np.cos(p + shift)


def _arms_flex(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.arms[..., 0] = (84 + 6 * np.sin(p))[:, None]
    m.arms[..., 2] = (140 + 22 * amp * np.sin(p))[:, None]
    m.arms[..., 1] = m.arms[..., 3] = 0


# ---------------------------------------------------------------- legs, trunk and head


def _legs_sway(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.x += 0.03 * amp * np.sin(p)
    m.tilt += 3 * amp * np.sin(p)
    m.y -= 0.01 * _wave01(2 * p)
    m.look += 10 * np.sin(p / 2 + rng.uniform(0, 6))


def _legs_walk(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, sign in ((0, -1), (1, 1)):
        m.feet[:, side, 2] = sign * 0.16 * amp * np.sin(p)
        m.feet[:, side, 1] = 0.11 * amp * np.clip(sign * np.cos(p), 0, 1)
    m.x += 0.02 * np.cos(p)
    m.y -= 0.02 + 0.015 * np.cos(2 * p)
    m.tilt += 2 * np.cos(p)
    m.z += rng.uniform(-0.2, 0.2) * m.time


def _legs_march(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, sign in ((0, -1), (1, 1)):
        lift = np.clip(sign * np.sin(p), 0, 1)
        m.feet[:, side, 1] = 0.24 * amp * lift
        m.feet[:, side, 2] = 0.08 * lift
    m.x += 0.025 * np.sin(p)
    m.y -= 0.015


def _legs_squat(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    down = _wave01(p) * amp
    m.y -= 0.24 * down
    m.z -= 0.06 * down
    m.lean += 20 * down
    m.nod += 10 * down
    m.feet[..., 0] += 0.09


def _legs_side_step(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.x += 0.16 * amp * np.sin(p)
    for side, sign in ((0, -1), (1, 1)):
        away = np.clip(sign * np.sin(p + 0.5), 0, 1)
        m.feet[:, side, 0] += 0.26 * amp * away
        m.feet[:, 1 - side, 0] -= 0.14 * amp * away
        m.feet[:, side, 1] = 0.07 * np.clip(np.sin(2 * p + 0.4), 0, 1) * (away > 0)
    m.y -= 0.03 + 0.02 * np.cos(2 * p)
    m.tilt += 5 * amp * np.sin(p)
    m.roll -= 4 * np.sin(p)


def _legs_bow(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    bend = _wave01(p) ** 1.4 * amp
    m.lean += 46 * bend
    m.nod += 14 * bend
    m.z -= 0.1 * bend
    m.arms[..., 1] += (16 * bend)[:, None]
    m.arms[..., 3] += (22 * bend)[:, None]


def _legs_twist(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.yaw += 22 * amp * np.sin(p)
    m.twist -= 34 * amp * np.sin(p)
    m.y -= 0.07 + 0.03 * np.cos(2 * p)
    m.feet[..., 0] += 0.05
    m.look += 12 * amp * np.sin(p)


def _legs_kick(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, sign in ((0, -1), (1, 1)):
        lift = np.clip(sign * np.sin(p), 0, 1) ** 1.3 * amp
        m.feet[:, side, 0] += 0.4 * lift
        m.feet[:, side, 1] = 0.26 * lift
        m.feet[:, side, 2] = 0.12 * lift
    m.x -= 0.06 * np.sin(p)
    m.tilt -= 7 * amp * np.sin(p)


def _legs_star(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    hop = np.abs(np.sin(p)) * 0.1 * amp
    m.y += hop - 0.03
    m.feet[..., 0] += (0.24 * amp * _wave01(p))[:, None]
    m.feet[..., 1] = hop[:, None]


def _legs_bounce(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.y -= 0.08 * amp * _wave01(2 * p)
    m.roll += 7 * np.sin(p)
    m.feet[..., 0] += 0.05


def _legs_jump(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    arc = np.sin(p)
    hop = np.clip(arc, 0, 1) * 0.17 * amp
    m.y += hop - 0.12 * np.clip(-arc, 0, 1)
    m.feet[..., 1] = 1.15 * hop[:, None]
    m.lean += 10 * np.clip(-arc, 0, 1)


def _legs_lunge(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    m.feet[..., 0] += 0.2
    m.x += 0.15 * amp * _soft_square(p, 1.2)
    m.y -= 0.11
    m.tilt += 4 * np.sin(p)


def _legs_jog(m: _Moves, p: np.ndarray, amp: float, rng: np.random.Generator) -> None:
    for side, sign in ((0, -1), (1, 1)):
        lift = np.clip(sign * np.sin(p), 0, 1)
        m.feet[:, side, 1] = 0.2 * amp * lift
        m.feet[:, side, 2] = -0.14 * amp * lift
    m.y += 0.03 * np.abs(np.sin(p)) - 0.03
    m.lean += 6


_PARTS: dict[str, tuple[Part, Part, tuple[float, float]]] = {
    # name: arms, legs, range of the tempo in cycles per second
    "idle": (_arms_relaxed, _legs_sway, (0.3, 0.7)),
    "wave": (_arms_wave, _legs_sway, (0.9, 1.7)),
    "walk": (_arms_swing, _legs_walk, (0.7, 1.2)),
    "march": (_arms_march, _legs_march, (0.7, 1.2)),
    "squat": (_arms_clap, _legs_squat, (0.4, 0.8)),
    "boxing": (_arms_boxing, _legs_bounce, (0.7, 1.3)),
    "arm_circles": (_arms_circles, _legs_sway, (0.5, 1.1)),
    "clap": (_arms_clap, _legs_side_step, (0.7, 1.4)),
    "disco": (_arms_disco, _legs_lunge, (0.5, 0.85)),
    "side_step": (_arms_conduct, _legs_side_step, (0.5, 0.9)),
    "bow": (_arms_relaxed, _legs_bow, (0.3, 0.6)),
    "twist": (_arms_conduct, _legs_twist, (0.6, 1.1)),
    "kick": (_arms_hips, _legs_kick, (0.5, 0.9)),
    "star_jump": (_arms_star, _legs_star, (0.6, 1.0)),
    "flap": (_arms_flap, _legs_bounce, (0.6, 1.2)),
    "cheer": (_arms_cheer, _legs_jump, (0.7, 1.2)),
    "robot": (_arms_robot, _legs_bounce, (0.4, 0.8)),
    "jog": (_arms_march, _legs_jog, (1.0, 1.5)),
    "flex": (_arms_flex, _legs_lunge, (0.4, 0.9)),
}
FAMILIES = tuple(_PARTS)
TRAINING = tuple(name for name in FAMILIES if name not in HELD_OUT)


def random_family(rng: np.random.Generator, families: tuple[str, ...] = TRAINING, mix: float = 0.4) -> str:
    """A family's name, or with probability `mix` "arms+legs" of two of them."""
    first = str(rng.choice(families))
    return f"{first}+{rng.choice(families)}" if rng.random() < mix else first


def choreograph(name: str, frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Joints [frames, 18, 3] metres of one dance: a family's name, or "arms+legs" of two families.

    Tempo, amplitude, phase and small biases are drawn from `rng`.
    Raises InputError for an unknown name, fewer than one frame or a frame rate that is not positive.
    """
    arms_name, _, legs_name = name.partition("+")
    unknown = [part for part in (arms_name, legs_name) if part and part not in _PARTS]
    if unknown or not arms_name:
        raise InputError(
            f"motion {name!r} is unknown; choose from {', '.join(FAMILIES)}, or two of them as 'wave+squat'"
        )
    if frames < 1 or not fps > 0:
        raise InputError(f"motion {name!r}: {frames} frames at {fps} fps asked for, need at least 1 frame and fps > 0")
    arms, legs, tempo = _PARTS[arms_name]
    if legs_name:
        legs = _PARTS[legs_name][1]
    time = np.arange(frames) / fps
    phase = 2 * np.pi * (rng.uniform(*tempo) * time + rng.random())
    moves = _Moves(phase, time)
    moves.look += rng.uniform(-14, 14) + 4 * np.sin(0.7 * phase + 6 * rng.random())
    moves.nod += rng.uniform(-6, 5)
    moves.tilt += rng.uniform(-2, 2)
    moves.feet[..., 0] += rng.uniform(-0.02, 0.05)
    arms(moves, phase, rng.uniform(0.8, 1.12), rng)
    legs(moves, phase, rng.uniform(0.75, 1.12), rng)
    return _forward_kinematics(moves)


def rotation(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] about x (0), y (1) or z (2)."""
    angle = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    cos, sin = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((*angle.shape, 3, 3))
    out[..., axis, axis] = 1
    out[..., i, i] = out[..., j, j] = cos
    out[..., i, j], out[..., j, i] = -sin, sin
    return out


def _limb_direction(out: np.ndarray, forward: np.ndarray, side: int) -> np.ndarray:
    """Unit vectors [F, 3]: 0, 0 hangs down; `out` lifts sideways, `forward` lifts to the front."""
    out, forward = np.deg2rad(out), np.deg2rad(forward)
    return np.stack([side * np.sin(out), -np.cos(out) * np.cos(forward), np.cos(out) * np.sin(forward)], axis=-1)


def _forward_kinematics(m: _Moves) -> np.ndarray:
    frames = len(m.phase)
    joints = np.zeros((frames, 18, 3))
    pelvis = rotation(1, m.yaw)
    trunk = pelvis @ rotation(1, m.twist) @ rotation(2, -m.tilt) @ rotation(0, m.lean)
    head = trunk @ rotation(1, m.look) @ rotation(0, -m.nod) @ rotation(2, m.roll)
    root = np.stack([m.x, m.y + _ANKLE + 0.985 * (_THIGH + _SHANK), m.z], axis=-1)
    joints[:, 1] = root + trunk @ np.array([0, _TORSO, 0])
    for index, side in enumerate((-1, 1)):
        shoulder, hip = (2, 8) if side < 0 else (5, 11)
        joints[:, shoulder] = joints[:, 1] + trunk @ np.array([side * _SHOULDER, 0, 0])
        upper = _limb_direction(m.arms[:, index, 0], m.arms[:, index, 1], side)
        fore = _limb_direction(m.arms[:, index, 2], m.arms[:, index, 3], side)
        joints[:, shoulder + 1] = joints[:, shoulder] + _UPPER_ARM * np.einsum("fij,fj->fi", trunk, upper)
        joints[:, shoulder + 2] = joints[:, shoulder + 1] + _FOREARM * np.einsum("fij,fj->fi", trunk, fore)
        joints[:, hip] = root + pelvis @ np.array([side * _HIP, 0, 0])
        foot = m.feet[:, index] * [side, 1, 1] + [side * _HIP, _ANKLE, 0] + np.stack([0 * m.z, 0 * m.z, m.z], -1)
        joints[:, hip + 1], joints[:, hip + 2] = _bend_knee(
            joints[:, hip], foot, pelvis @ np.array([0.25 * side, 0, 1])
        )
    ears = joints[:, 1] + trunk @ np.array([0, 0.09, 0]) + head @ np.array([0, 0.08, 0.01])
    joints[:, [0, 14, 15, 16, 17]] = ears[:, None] + np.einsum("fij,kj->fki", head, _HEAD_POINTS)
    return joints


def _bend_knee(hip: np.ndarray, ankle: np.ndarray, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knee and reachable ankle [F, 3] of the two-bone chain; the knee bends in the direction `towards`."""
    leg = ankle - hip
    length = np.linalg.norm(leg, axis=-1, keepdims=True)
    reach = np.clip(length, 0.3, 0.999 * (_THIGH + _SHANK))
    along = leg / np.maximum(length, 1e-6)
    cosine = (reach**2 + _THIGH**2 - _SHANK**2) / (2 * reach * _THIGH)
    across = towards - (towards * along).sum(-1, keepdims=True) * along
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
    knee = hip + _THIGH * (cosine * along + np.sqrt(np.clip(1 - cosine**2, 0, 1)) * across)
    return knee, hip + reach * along
