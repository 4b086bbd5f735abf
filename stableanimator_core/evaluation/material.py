"""What animations are made from and measured against: rendered performers here, videos in `videos`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from ..keypoints import Poses
from ..performers import Clip, make_clip, make_pair

FIRST_SEED = 10_000  # of evaluation clips, per seed: far from the demo's


class Footage(NamedTuple):
    """Somebody's video at the size of the output."""

    frames: np.ndarray  # [F, H, W, 3] uint8 RGB
    poses: Poses  # person 0's are theirs, on a canvas of the frames' size


@dataclass(frozen=True, eq=False)
class Case:
    """One animation to be made, and what it is measured against."""

    name: str
    reference: np.ndarray  # [H, W, 3] uint8 RGB, of the output's aspect
    reference_pose: Poses
    driving: Poses
    own: Footage  # the reference's person: the ceiling of identity
    other: Footage  # somebody else: its floor
    seed: int
    known: bool = True  # whether `own` is the truth: the person doing what `driving` asks for


MakeCase = Callable[[], Case]  # cases are made when their turn comes: many videos don't fit in memory


def performer_cases(
    size: tuple[int, int], *, clips: int, seed: int, frames: int, misaligned: bool = False
) -> list[MakeCase]:
    """Performers and motions that no model was trained on; every clip is a new person. size: width, height in px.

    misaligned: the driver is another body nearer or farther, and off centre; the truth is known all the same.
    """
    how = {"size": size, "frames": frames, "split": "held_out"}
    first = seed * FIRST_SEED
    shoot = lru_cache(maxsize=2)(lambda index: make_clip(first + index, **how))

    def case(index: int) -> Case:
        clip, other = shoot(index), shoot((index + 1) % clips)
        driving = make_pair(clip.seed, **how).driver_poses if misaligned else clip.poses
        return Case(
            f"performer {clip.seed}", clip.reference, clip.reference_pose, driving, _footage(clip), _footage(other),
            clip.seed,
        )  # fmt: skip

    return [partial(case, index) for index in range(clips)]


def _footage(clip: Clip) -> Footage:
    return Footage(clip.frames, clip.poses)
