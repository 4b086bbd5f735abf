"""Performers: cartoon people who move, rendered with their exact keypoints, for training and judging a small model."""

from .choreography import FAMILIES, HELD_OUT, choreograph
from .dataset import SPLITS, Clip, Pair, make_clip, make_pair, make_views, random_person
from .mocap import MotionClip, load_mocap
from .person import Person
from .store import (
    FACE_SCALE,
    StoredClips,
    clip_keypoints,
    crop_face,
    open_clips,
    render_dataset,
    render_views,
    rendered,
)

__all__ = [
    "FACE_SCALE", "FAMILIES", "HELD_OUT", "SPLITS", "Clip", "MotionClip", "Pair", "Person", "StoredClips",
    "choreograph", "clip_keypoints", "crop_face", "load_mocap", "make_clip", "make_pair", "make_views", "open_clips",
    "random_person", "render_dataset", "render_views", "rendered",
]  # fmt: skip
