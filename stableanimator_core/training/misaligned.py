"""Misaligned pairs with known truth: one recorded motion, two bodies, two cameras, batched on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws
from ..errors import InputError
from ..performers.mocap import MotionClip, load_mocap
from ..pose.lost import lose_joints
from ..skeleton import MIRROR
from .bodies import (
    COLUMN,
    CROUCHES,
    KNEELS,
    MID_EAR,
    MID_HIP,
    NODE_MIRROR,
    SITS,
    Shapes,
    bone_vectors,
    draw_bodies,
    heading,
    in_posture,
    on_body,
    on_floor,
    turned,
    unit,
    with_middles,
)
from .cameras import FRAMINGS, NEAREST, Camera, Handheld, Steep, draw_cameras, draw_sizes, handheld, outline

__all__ = [
    "FRAMINGS", "KINDS", "Handheld", "Motions", "PairSettings", "Pairs", "Shapes", "Steep", "make_pairs",
]  # fmt: skip

KINDS = ("same pose", "other pose", "sits", "crouches", "kneels", "turned away")  # the reference's pose
SAME, OTHER, SIT, CROUCH, KNEEL, AWAY = range(len(KINDS))

FIRST_FRAMES = 5  # in one of them a fit must exist
KEPT = 4  # joints, there and in the reference
MOST_LOST = 0.5  # of the reference's joints
BEHIND, FAR_SIDE = -0.25, 0.6  # cosines of view and head beyond which a face, an ear is hidden
CLOSE = FRAMINGS.index("head and shoulders")  # the framing that never widens to hold a whole clip

_ARMS, _LEGS = range(2, 8), range(8, 14)


class Motions(NamedTuple):
    """Recorded motions: clips one after the other."""

    joints: Tensor  # [N, 18, 3] metres, y up
    starts: Tensor  # [C + 1] int64
    fps: float
    lengths: Tensor  # [C, 20] metres, each bone's median over its clip

    @classmethod
    def of(cls, clips: Sequence[MotionClip], device: torch.device | str = "cpu") -> Motions:
        """Motions of clips of one frame rate."""
        joints = [torch.from_numpy(np.asarray(clip.joints, dtype=np.float32)) for clip in clips]
        starts = torch.tensor([0, *np.cumsum([len(part) for part in joints])])
        lengths = [bone_vectors(with_middles(part)).norm(dim=-1).median(0).values for part in joints]
        parts = (torch.cat(joints), starts, torch.stack(lengths))
        joints, starts, lengths = (part.to(device) for part in parts)
        return cls(joints, starts, clips[0].fps, lengths)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Motions:
        """An npz file of recorded motion (performers.load_mocap). Raises InputError in one line."""
        return cls.of(load_mocap(path), device)


@dataclass(frozen=True)
class PairSettings:
    """What pairs are drawn from. Ranges are (low, high), angles in degrees, p_ a probability or a weight."""

    frames: int = 32
    rate: float = 15.0  # frames per second of a stride of 1
    most_stride: int = 2
    p_mirror: float = 0.5  # the motion, left for right

    # The reference's pose, weights of KINDS.
    p_same_pose: float = 0.30
    p_other_pose: float = 0.25
    p_sit: float = 0.13
    p_crouch: float = 0.09
    p_kneel: float = 0.08
    p_turn: float = 0.15
    drift: int = 4  # frames of the clip from which the same pose may come

    # Headings at the first frame relative to the camera, 0 faces it.
    yaw: float = 60.0  # driver and reference, to either side
    p_any_yaw: float = 0.15  # driver, the whole circle
    turn: tuple[float, float] = (60.0, 180.0)  # reference that is turned away, to either side

    # Bodies, both alike.
    p_child: float = 0.12
    p_heavy: float = 0.10
    p_stylised: float = 0.14
    p_cartoon: float = 0.0
    bone_jitter: float = 0.025

    # Cameras: weights of FRAMINGS, then as in draw_cameras.
    driver_framing: tuple[float, float, float] = (0.65, 0.25, 0.10)
    reference_framing: tuple[float, float, float] = (0.5, 0.3, 0.2)
    p_whole_clip: float = 0.6  # the driver's framing holds all frames, not just the first (not head and shoulders)
    aspect: tuple[float, float] = (9 / 16, 16 / 9)
    side: tuple[float, float] = (480.0, 1920.0)  # px, the longer one
    focal: tuple[float, float] = (1.0, 5.0)  # picture heights
    camera_height: tuple[float, float] = (0.5, 2.0)  # metres
    pitch: float = 20.0
    roll: float = 4.0
    closest: float = 0.7  # the nearest that any joint comes to the camera, in distances of where it is aimed
    offset: float = 1.0
    steep: Steep | None = None  # the driver's camera is such a one
    handheld: Handheld | None = None  # the driver's camera moves

    # What the detector sees.
    p_turned_face: float = 0.7  # clips in which faces are lost when they turn from the camera, and far ears
    noise: tuple[float, float] = (0.003, 0.02)  # standard deviation, in standing heights in px
    slow_noise: float = 0.01  # the slow error's, at most
    p_swap: float = 0.25  # clips in which left and right change places for a while
    missing: tuple[float, float] = (0.0, 0.7)  # share lost of the joints within the picture, driver and reference

    def __post_init__(self) -> None:
        if self.frames < 1 or self.most_stride < 1:
            raise InputError(
                f"pair settings: frames {self.frames}, most_stride {self.most_stride}; both must be 1 or more"
            )
        low, high = self.missing
        if not 0 <= low <= high <= 1:
            raise InputError(f"pair settings: missing is {low:g} to {high:g}; need a range within 0 to 1")
        invented = self.p_child + self.p_heavy + self.p_stylised + self.p_cartoon
        if invented > 1 + 1e-6:
            raise InputError(f"pair settings: the p_ of bodies add up to {invented:g}; need at most 1")
        if sum(self.kinds) <= 0:
            raise InputError("pair settings: the reference's poses all have the weight 0; give one of them more")

    @property
    def kinds(self) -> tuple[float, ...]:
        """Weights of KINDS."""
        return (self.p_same_pose, self.p_other_pose, self.p_sit, self.p_crouch, self.p_kneel, self.p_turn)


class Pairs(NamedTuple):
    """Misaligned pairs. What is not seen has the coordinates 0 in `driving` and `reference`."""

    driving: Tensor  # [B, F, 18, 2] px as detected
    driving_seen: Tensor  # [B, F, 18] bool
    reference: Tensor  # [B, 18, 2] px as detected
    reference_seen: Tensor  # [B, 18] bool
    clean: Tensor  # [B, F, 18, 2] px, driving without errors
    truth: Tensor  # [B, F, 18, 2] px of the reference picture: its body in the driver's motion
    height: Tensor  # [B] px, the reference's body standing upright where the reference is
    driving_size: Tensor  # [B, 2] px, width and height
    reference_size: Tensor  # [B, 2] px
    kind: Tensor  # [B] int64, index into KINDS
    framing: Tensor  # [B, 2] int64, indices into FRAMINGS, driver and reference
    yaw: Tensor  # [B] radians, the driver's heading at frame 0 relative to the camera, which 0 faces; to their left


@torch.no_grad()
def make_pairs(
    motions: Motions,
    shapes: Shapes,
    settings: PairSettings,
    batch: int,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Pairs:
    """Draws pairs. motions, shapes and generator are on `device`.

    The truth is the reference's body in the driver's motion, in the reference's picture: at the clip's first frame its
    pelvis is over the same spot of floor as the reference's, and its heading relative to the camera is the driver's.
    """
    draws = Draws(generator, device)
    kind = draws.one_of(batch, settings.kinds)
    bodies = [_draw_bodies(shapes, batch, settings, draws) for _ in range(2)]  # driver's, reference's: [B, 14]

    window, lengths = _windows(motions, batch, settings, draws)  # [B, F, 18, 3], [B, 20]
    yaw = _yaw(batch, settings, draws)
    driver, truth = (_placed(on_body(window, lengths, rows), yaw) for rows in bodies)  # [B, F, 20, 3]
    reference = _reference(motions, truth, bodies[1], kind, settings, draws)  # [B, 20, 3]

    framing = torch.stack(
        [draws.one_of(batch, table) for table in (settings.driver_framing, settings.reference_framing)], dim=1
    )
    sizes = [draw_sizes(batch, draws, aspect=settings.aspect, side=settings.side) for _ in range(2)]
    cameras = _cameras(driver, reference, truth, bodies, framing, sizes, settings, draws)
    heights = [
        standing_height(camera, person, rows)
        for camera, person, rows in zip(cameras, (driver[:, 0], reference), bodies, strict=True)
    ]

    filmed = cameras[0].of_frames(settings.frames)
    if settings.handheld is not None:
        filmed = handheld(cameras[0], settings.frames, heights[0], settings.handheld, draws)
    clean, driving, inside = _detected(driver, filmed, sizes[0], heights[0], settings, draws)
    _, found, found_inside = _detected(reference[:, None], cameras[1], sizes[1], heights[1], settings, draws)
    kept, kept_frame = _kept(inside, found_inside, draws)
    lost = draws.uniform((2, batch), *settings.missing)
    driving_seen = lose_joints(inside, lost[0], kept_frame[..., None] & kept[:, None], draws)
    reference_seen = lose_joints(found_inside, lost[1].clamp_max(MOST_LOST), kept[:, None], draws)
    pairs = Pairs(
        driving=driving * driving_seen[..., None],
        driving_seen=driving_seen,
        reference=(found * reference_seen[..., None])[:, 0],
        reference_seen=reference_seen[:, 0],
        clean=clean,
        truth=cameras[1].project(truth[..., :18, :])[0],
        height=heights[1],
        driving_size=sizes[0],
        reference_size=sizes[1],
        kind=kind,
        framing=framing,
        yaw=yaw,
    )
    return _only_good(pairs)


def standing_height(camera: Camera, person: Tensor, rows: Tensor) -> Tensor:
    """Height in px [B] of bodies standing upright at the pelvis of people [B, 20, 3]."""
    depth = camera.project(person[:, MID_HIP, None])[1][:, 0]
    return rows[:, COLUMN["stature"]] * camera.focal / depth.clamp_min(NEAREST)


def _draw_bodies(shapes: Shapes, batch: int, settings: PairSettings, draws: Draws) -> Tensor:
    return draw_bodies(
        shapes, batch, draws, child=settings.p_child, heavy=settings.p_heavy, stylised=settings.p_stylised,
        cartoon=settings.p_cartoon, jitter=settings.bone_jitter,
    )  # fmt: skip


def _windows(motions: Motions, batch: int, settings: PairSettings, draws: Draws) -> tuple[Tensor, Tensor]:
    """Stretches of clips, joints [B, F, 18, 3], and their bones' lengths [B, 20]. Every frame is equally likely.

    A clip too short for its stride is read with the smallest one; one still too short repeats its last frame.
    """
    clip = _random_clips(motions, batch, draws)
    first, last = motions.starts[clip], motions.starts[clip + 1] - 1  # [B]
    least = max(1, round(motions.fps / settings.rate))
    stride = least * (1 + draws.below(torch.full_like(clip, settings.most_stride)))
    needed = (settings.frames - 1) * stride
    stride = torch.where(needed > last - first, torch.full_like(stride, least), stride)
    room = (last - first - (settings.frames - 1) * stride).clamp_min(0)
    start = first + draws.below(room + 1)
    index = start[:, None] + stride[:, None] * torch.arange(settings.frames, device=clip.device)
    return _mirrored(
        motions.joints[torch.minimum(index, last[:, None])], motions.lengths[clip], settings.p_mirror, draws
    )


def _random_clips(motions: Motions, count: int, draws: Draws) -> Tensor:
    """Clips drawn by their length, [count]."""
    first, last = motions.starts[0], motions.starts[-1]
    frame = first + draws.below((last - first).expand(count))
    return torch.searchsorted(motions.starts, frame, right=True) - 1


def _mirrored(joints: Tensor, lengths: Tensor, probability: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Some of the clips [B, F, 18, 3] left for right, with their bones' lengths [B, 20]."""
    mirror = draws.chance(lengths.shape[:1], probability)
    flip = torch.tensor([-1.0, 1.0, 1.0], device=joints.device)
    joints = torch.where(mirror[:, None, None, None], joints[..., MIRROR, :] * flip, joints)
    return joints, torch.where(mirror[:, None], lengths[:, NODE_MIRROR], lengths)


def _yaw(batch: int, settings: PairSettings, draws: Draws) -> Tensor:
    """Headings of drivers, radians [B]."""
    some = draws.uniform((batch,), -settings.yaw, settings.yaw)
    anything = draws.uniform((batch,), -180.0, 180.0)
    return torch.where(draws.chance((batch,), settings.p_any_yaw), anything, some).deg2rad()


def _placed(nodes: Tensor, yaw: Tensor) -> Tensor:
    """Motions [B, F, 20, 3] that begin over the floor's origin with the heading yaw [B] in radians."""
    start = nodes[:, :1, MID_HIP : MID_HIP + 1].clone()
    start[..., 1] = 0
    return turned(nodes - start, yaw - heading(nodes[:, 0]))


def _reference(
    motions: Motions, truth: Tensor, rows: Tensor, kind: Tensor, settings: PairSettings, draws: Draws
) -> Tensor:
    """The reference's person [B, 20, 3] in a pose of each kind, the pelvis over the floor's origin."""
    batch = len(kind)
    drift = draws.below(torch.full_like(kind, min(settings.drift + 1, settings.frames)))
    same = truth[torch.arange(batch, device=kind.device), drift]

    clip = _random_clips(motions, batch, draws)
    frame = motions.starts[clip] + draws.below(motions.starts[clip + 1] - motions.starts[clip])
    joints, lengths = _mirrored(motions.joints[frame][:, None], motions.lengths[clip], settings.p_mirror, draws)
    other = on_body(joints, lengths, rows)[:, 0]
    turned_away = (kind == AWAY) & draws.chance((batch,), 0.5)  # half of them in the driver's pose
    other = torch.where(turned_away[:, None, None], same, other)

    posture = torch.stack([draws.one_of(batch, table) for table in (SITS, CROUCHES, KNEELS)], 1)  # [B, 3]
    low = (kind == SIT) | (kind == CROUCH) | (kind == KNEEL)
    posture = posture.gather(1, (kind[:, None] - SIT).clamp(0, 2))[:, 0]
    lowered = on_floor(in_posture(other, posture, draws), rows)
    other = torch.where(low[:, None, None], lowered, other)

    yaw = draws.uniform((batch,), -settings.yaw, settings.yaw)
    side = torch.where(draws.chance((batch,), 0.5), 1.0, -1.0)
    yaw = torch.where(kind == AWAY, side * draws.uniform((batch,), *settings.turn), yaw).deg2rad()
    yaw = torch.where(kind == SAME, heading(same), yaw)
    return _placed(torch.where((kind == SAME)[:, None, None], same, other)[:, None], yaw)[:, 0]


def _cameras(
    driver: Tensor, reference: Tensor, truth: Tensor, bodies: list[Tensor], framing: Tensor, sizes: list[Tensor],
    settings: PairSettings, draws: Draws,
) -> list[Camera]:  # fmt: skip
    """The driver's and the reference's camera."""
    batch, frames = driver.shape[:2]
    held = draws.chance((batch, 1), settings.p_whole_clip) & (framing[:, :1] != CLOSE)
    held = held.repeat(1, frames)
    held[:, 0] = True
    people = (outline(driver, bodies[0]), outline(reference[:, None], bodies[1]))
    shown = (held, torch.ones_like(held[:, :1]))
    near = (_nearest(driver), torch.maximum(_nearest(truth), _nearest(reference[:, None])))
    return [
        draw_cameras(
            people[one], shown[one], near[one], framing[:, one], sizes[one], draws, focal=settings.focal,
            height=settings.camera_height, pitch=settings.pitch, roll=settings.roll, closest=settings.closest,
            offset=settings.offset, steep=(settings.steep, None)[one],
        )
        for one in range(2)
    ]  # fmt: skip


def _nearest(nodes: Tensor) -> Tensor:
    """How near to the camera's side people come: highest z in metres, [B]."""
    return nodes[..., 2].amax((1, 2))


def _detected(
    nodes: Tensor, camera: Camera, size: Tensor, height: Tensor, settings: PairSettings, draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """Joints of people [B, F, 20, 3] in px [B, F, 18, 2], then as a detector finds them, and where it can: bool.

    camera: one for every frame, B · F. Every clip has its own strength of jitter and of a slow error, and maybe sides
    that change places for a while. What lies outside of the picture, or on a head that is turned away, is not found.
    """
    batch, frames = nodes.shape[:2]
    clean, depth = (part.unflatten(0, (batch, frames)) for part in camera.project(nodes[..., :18, :].flatten(0, 1)))
    tall = height[:, None, None, None]
    swap = _swaps(batch, frames, settings.p_swap, draws)
    found = torch.where(swap[..., None], clean[:, :, MIRROR], clean)
    jitter = draws.uniform((batch, 1, 1, 1), *settings.noise)
    slow = draws.uniform((batch, 1, 1, 1), 0.0, settings.slow_noise)
    found = found + tall * (jitter * draws.normal(clean.shape) + slow * _slow(clean.shape, draws))
    inside = ((found > 0) & (found < size[:, None, None])).all(-1) & (depth > NEAREST)
    hides = draws.chance((batch, 1, 1), settings.p_turned_face)
    return clean, found, inside & ~(hides & _turned_from(nodes, camera))


def _turned_from(nodes: Tensor, camera: Camera) -> Tensor:
    """Face joints that the head hides: nose and eyes from behind, an ear on the far side. bool [B, F, 18]."""
    ears = nodes[..., MID_EAR, :]
    sight = unit(camera.eye.view_as(ears) - ears)
    ahead = (unit(nodes[..., 0, :] - ears) * sight).sum(-1, keepdim=True)  # [B, F, 1]
    leftwards = (unit(nodes[..., 17, :] - nodes[..., 16, :]) * sight).sum(-1)
    hidden = torch.zeros((*ears.shape[:2], len(MIRROR)), dtype=torch.bool, device=nodes.device)
    hidden[..., [0, 14, 15]] = ahead < BEHIND
    hidden[..., 16], hidden[..., 17] = leftwards > FAR_SIDE, leftwards < -FAR_SIDE
    return hidden


def _slow(shape: Sequence[int], draws: Draws) -> Tensor:
    """Slow errors of about unit variance: an offset and a wave of one to a few periods in 64 frames, per joint."""
    batch, frames, joints, axes = shape
    one = (batch, 1, joints, axes)
    time = torch.arange(frames, device=draws.device).view(1, frames, 1, 1)
    phase = draws.uniform(one, 0.0, 2 * torch.pi) + time * draws.uniform(one, 0.1, 0.4)
    return 0.7 * draws.normal(one) + phase.sin()


def _swaps(batch: int, frames: int, probability: float, draws: Draws) -> Tensor:
    """Where left and right change places, bool [B, F, 18]: arms, legs or everything, in single frames or stretches."""
    group = torch.zeros((3, len(MIRROR)), dtype=torch.bool, device=draws.device)
    group[0, _ARMS], group[1, _LEGS], group[2] = True, True, True
    joints = group[draws.one_of(batch, (0.35, 0.35, 0.3))]  # [B, 18]
    length = torch.where(
        draws.chance((batch,), 0.5), torch.ones(batch, device=draws.device), draws.uniform((batch,), 1, frames / 2)
    )
    start = draws.uniform((batch,), 1, frames + 1) - length
    time = torch.arange(frames, device=draws.device)
    during = (time >= start[:, None].floor()) & (time < (start + length)[:, None].floor())
    during &= draws.chance((batch, 1), probability)
    return during[..., None] & joints[:, None]


def _kept(inside: Tensor, found: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """KEPT joints [B, 18] and an early frame [B, F] in which driver and reference show them, whatever else is lost."""
    shared = inside[:, :FIRST_FRAMES] & found  # [B, E, 18]
    enough = shared.sum(-1) >= KEPT
    frame = (enough * draws.uniform(enough.shape, 1, 2)).argmax(1)  # [B]
    at = torch.nn.functional.one_hot(frame, inside.shape[1]).bool()
    there = shared[torch.arange(len(frame), device=frame.device), frame]  # [B, 18]
    order = draws.uniform(there.shape).masked_fill(~there, -1).argsort(1, descending=True)
    joints = torch.zeros_like(there).scatter(1, order[:, :KEPT], True)
    return joints & there, at


def _only_good(pairs: Pairs) -> Pairs:
    """The pairs, with those that nothing could be fitted to replaced by others of the batch."""
    shared = (pairs.driving_seen[:, :FIRST_FRAMES] & pairs.reference_seen[:, None]).sum(-1).amax(1)
    good = (shared >= KEPT) & pairs.truth.isfinite().flatten(1).all(1) & pairs.clean.isfinite().flatten(1).all(1)
    order = good.long().argsort(descending=True, stable=True)  # good ones first
    number = torch.arange(len(good), device=good.device)
    spare = order[number % good.sum().clamp_min(1)]
    index = torch.where(good, number, spare)
    return Pairs(*(part[index] for part in pairs))
