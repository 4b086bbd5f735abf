"""Clips, views and misaligned pairs of performers: what the small model is trained and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..keypoints import Poses
from .body import hand_points
from .choreography import FPS, HELD_OUT, TRAINING, choreograph, random_family
from .mocap import Motion, MotionClip, random_window, retarget, trunk_yaw, turned_to_camera
from .person import Person
from .render import Performance, extent_points, keypoints, perform, render
from .scene import FRAMING_SHARES, FRAMINGS, Camera, draw_background, frame_camera

SPLITS = ("train", "held_out")
MOCAP_SHARE = 0.6
RATES = (FPS, FPS / 2)  # frames per second of a clip
MAX_TURN = 60.0  # degrees of the trunk away from the camera
_IDENTITY, _MOTION, _SCENE, _VIEWS, _DRIVER = range(5)  # independent random streams of one seed


@dataclass(frozen=True, eq=False)
class Clip:
    """One performer's video, its keypoints, and a reference picture from another moment of the same scene."""

    frames: np.ndarray  # uint8 [F, H, W, 3] RGB
    poses: Poses  # P = 1, F frames
    reference: np.ndarray  # uint8 [H, W, 3] RGB
    reference_pose: Poses  # P = 1, one frame
    person: Person
    seed: int
    motion: str  # "mocap" or the choreography's name


@dataclass(frozen=True, eq=False)
class Pair:
    """A clip and the same motion as another body does it before another camera."""

    clip: Clip
    driver_poses: Poses  # P = 1, F frames, same canvas


@dataclass(frozen=True)
class _Take:
    """Everything about a clip but its pixels."""

    person: Person
    joints: np.ndarray  # [F, 18, 3] before retargeting
    performance: Performance
    reference: Performance
    camera: Camera
    motion: str


def random_person(seed: int, split: str = "train") -> Person:
    """The identity of a seed. The splits draw from different random streams: nobody is in both.

    Raises InputError for an unknown split or a negative seed.
    """
    return Person.random(_stream(seed, split, _IDENTITY))


def make_clip(
    seed: int,
    *,
    size: int | tuple[int, int] = 160,
    frames: int = 16,
    mocap: Sequence[MotionClip] | None = None,
    split: str = "train",
    family: str | None = None,
    person: Person | None = None,
) -> Clip:
    """One clip; equal arguments give equal clips.

    size: px, or (width, height). mocap: recorded clips for 60 % of the motions (never with `family`).
    split: "train" draws from the families that are not held out; "held_out" has other people and, without mocap,
    only the held-out families. family: a choreography by name, see FAMILIES. person: instead of the seed's own.
    Raises InputError for a split, family, size or number of frames that cannot be.
    """
    take = _take(seed, size, frames, mocap, split, family, person)
    return _shoot(take, seed, split)


def make_pair(
    seed: int,
    *,
    size: int | tuple[int, int] = 160,
    frames: int = 16,
    mocap: Sequence[MotionClip] | None = None,
    split: str = "held_out",
    family: str | None = None,
    scale: tuple[float, float] = (0.72, 1.35),
    offset: float = 0.07,
) -> Pair:
    """A clip with a misaligned driver: another performer does the same motion, nearer or farther and off centre.

    scale: range of the driver's size against the clip's; offset: largest shift as a fraction of the picture.
    The clip's frames are the truth: the reference's person doing the motion.
    """
    take = _take(seed, size, frames, mocap, split, family, None)
    rng = _stream(seed, split, _DRIVER)
    other = Person.random(rng)
    performance = perform(other, retarget(take.joints, other.body.bones), rng)
    camera = take.camera
    zoom = float(np.exp(rng.uniform(*np.log(scale))))
    middle = np.array([camera.width, camera.height]) / 2
    shift = rng.uniform(-offset, offset, 2) * [camera.width, camera.height]
    moved = Camera(camera.position, camera.axes, camera.focal * zoom, middle + zoom * (camera.centre - middle) + shift,
                   camera.width, camera.height)  # fmt: skip
    return Pair(_shoot(take, seed, split), keypoints(other, performance, moved))


def make_views(
    seed: int, *, views: int = 12, size: int | tuple[int, int] = 160, split: str = "train"
) -> list[tuple[np.ndarray, Poses]]:
    """Pictures uint8 [H, W, 3] of the seed's head on other bodies, in other clothes, poses, framings and places.

    The person is `random_person(seed, split)`, so that what stays the same over the views is the head alone.
    """
    width, height = canvas_of(size)
    if views < 1:
        raise InputError(f"{views} views asked for, need at least 1")
    identity = random_person(seed, split)
    rng = _stream(seed, split, _VIEWS)
    pictures = []
    for _ in range(views):
        person = identity.dressed(rng).built(rng)
        joints = turned_to_camera(choreograph(random_family(rng), 1, FPS, rng), rng.uniform(-30, 30))
        performance = perform(person, retarget(joints, person.body.bones), rng)
        framing = FRAMINGS[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
        camera = _camera(person, [performance], framing, width, height, rng)
        background = draw_background(camera, _own_colours(person), rng)
        frame = render(person, performance, camera, background)[0]
        pictures.append((frame, keypoints(person, performance, camera)))
    return pictures


def _stream(seed: int, split: str, purpose: int) -> np.random.Generator:
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
    if seed < 0:
        raise InputError(f"seed {seed} is negative; choose 0 or more")
    return np.random.default_rng([SPLITS.index(split), purpose, seed])


def canvas_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height in px of a size. Raises InputError when a side is under 32."""
    width, height = (size, size) if isinstance(size, int | np.integer) else size
    if min(width, height) < 32:
        raise InputError(f"a picture of {width} x {height} px is too small for a performer; need at least 32 x 32")
    return int(width), int(height)


def _own_colours(person: Person) -> tuple[tuple[int, int, int], ...]:
    return person.outfit.top_colour, person.outfit.bottom_colour, person.head.hair_colour, person.head.skin


def _take(
    seed: int,
    size: int | tuple[int, int],
    frames: int,
    mocap: Sequence[MotionClip] | None,
    split: str,
    family: str | None,
    person: Person | None,
) -> _Take:
    width, height = canvas_of(size)
    if frames < 1:
        raise InputError(f"{frames} frames asked for, need at least 1")
    person = random_person(seed, split) if person is None else person
    rng = _stream(seed, split, _MOTION)
    framing = FRAMINGS[int(rng.choice(len(FRAMINGS), p=FRAMING_SHARES))]
    families = TRAINING if split == "train" else HELD_OUT
    joints, performance, name = _moving(person, frames, rng, mocap, families, family)
    reference = _posing(person, rng)
    camera = _camera(person, [performance, reference], framing, width, height, rng)
    return _Take(person, joints, performance, reference, camera, name)


def _shoot(take: _Take, seed: int, split: str) -> Clip:
    camera, person = take.camera, take.person
    background = draw_background(camera, _own_colours(person), _stream(seed, split, _SCENE))
    both = _joined(take.reference, take.performance)
    pictures, poses = render(person, both, camera, background), keypoints(person, both, camera)
    return Clip(pictures[1:], poses.slice(1, None), pictures[0], poses.slice(0, 1), person, seed, take.motion)


def _joined(first: Performance, second: Performance) -> Performance:
    """Two performances of one person one after the other."""
    motion = Motion(*(np.concatenate(parts) for parts in zip(first.motion, second.motion, strict=True)))
    rest = (np.concatenate(parts) for parts in zip(first[1:], second[1:], strict=True))
    return Performance(motion, *rest)


def _moving(
    person: Person,
    frames: int,
    rng: np.random.Generator,
    mocap: Sequence[MotionClip] | None,
    families: tuple[str, ...],
    family: str | None,
) -> tuple[np.ndarray, Performance, str]:
    """A motion that fits the picture: joints before retargeting, the performance, and the motion's name."""
    recorded = family is None and mocap is not None and rng.random() < MOCAP_SHARE
    allow_covered = rng.random() < 0.06
    for attempt in range(16):
        fps = RATES[int(rng.random() < 0.4)]
        joints = random_window(mocap, frames, fps, rng) if recorded and attempt < 12 else None
        name = "mocap"
        if joints is None:
            name = family or random_family(rng, families)
            joints = choreograph(name, frames, fps, rng)
        joints = turned_to_camera(joints, rng.uniform(-26, 26))
        performance = perform(person, retarget(joints, person.body.bones), rng)
        turned = np.abs(trunk_yaw(joints)).max() > MAX_TURN
        if not turned and _upright(joints) and (allow_covered or _face_covered(person, performance) <= 0.12):
            break
    return joints, performance, name


def _posing(person: Person, rng: np.random.Generator) -> Performance:
    """One frame, fairly frontal, eyes open, hands away from the face."""
    for _ in range(8):
        joints = choreograph(random_family(rng), 1, FPS, rng)
        joints = turned_to_camera(joints, rng.uniform(-14, 14))
        performance = perform(person, retarget(joints, person.body.bones), rng)
        forward = performance.motion.head[0, :, 2]
        if abs(np.rad2deg(np.arctan2(forward[0], forward[2]))) < 18 and not _face_covered(person, performance):
            break
    return performance._replace(openness=np.ones(1), mouth=np.zeros(1))


def _upright(joints: np.ndarray) -> bool:
    trunk = joints[:, 1] - (joints[:, 8] + joints[:, 11]) / 2
    return bool((trunk[:, 1] / np.linalg.norm(trunk, axis=-1) > 0.62).all())


def _face_covered(person: Person, performance: Performance) -> float:
    """Share of the frames in which a hand or forearm is ahead of the face, as seen from +z."""
    head = person.head
    joints = performance.motion.joints
    points = np.concatenate([
        hand_points(performance.motion, person.body)[:, :, [0, 9, 12]].reshape(len(joints), -1, 3),
        (joints[:, [3, 6]] + joints[:, [4, 7]]) / 2,
    ], axis=1)  # fmt: skip
    away = points - performance.head_centre[:, None]
    inside = (away[..., 0] / head.half_width) ** 2 + (away[..., 1] / head.half_height) ** 2 < 0.9
    return float((inside & (away[..., 2] > 0.2 * head.half_depth)).any(1).mean())


def _camera(
    person: Person, performances: list[Performance], framing: str, width: int, height: int, rng: np.random.Generator
) -> Camera:
    extents, heads = zip(*(extent_points(person, p) for p in performances), strict=True)
    joints = np.concatenate([p.motion.joints for p in performances])
    knees, hips = joints[:, [9, 12], 1].mean(), joints[:, [8, 11], 1].mean()
    cut = knees * rng.uniform(0.8, 1.15) if framing == "knees" else hips + rng.uniform(-0.06, 0.1)
    return frame_camera(np.concatenate(extents), np.concatenate(heads), framing, float(cut), width, height, rng)
