"""Poses from frames: detect, follow, choose, repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import PoseError
from ..keypoints import Poses
from .detector import Person
from .follow import Track, follow
from .repair import repair_poses

# So many stretches without anybody are named one by one.
NAMED_STRETCHES = 4


class Detector(Protocol):
    """What finds people in a batch of uint8 RGB frames [H, W, 3]: PoseDetector, or another backend."""

    notes: tuple[str, ...]

    def detect(self, frames: Sequence[np.ndarray], *, min_person_score: float) -> list[list[Person]]: ...


class Extraction(NamedTuple):
    """Poses and what the user should know about them."""

    poses: Poses
    notes: tuple[str, ...]


def extract_poses(
    detector: Detector, frames: Iterable[np.ndarray], *, person: int = 0, everyone: bool = False,
    min_person_score: float = 0.3, min_score: float = 0.3, fill_gap: int = 8, smooth: float = 0.5, batch: int = 8,
    on_frames: Callable[[int], None] | None = None,
) -> Extraction:  # fmt: skip
    """The poses of a clip, or of a picture (a clip of one frame), on the canvas of its first frame.

    frames: uint8 RGB [H, W, 3], read batch by batch and not kept; those of another size are fitted into the first
    one's canvas by one scale, centred. Slot p holds the same person in every frame. person: 0 is the main person of
    the clip (large, seen for long, near the middle), 1 the next one, ... who alone is kept, or comes first with
    everyone=True. min_person_score: of the person detector. min_score, fill_gap, smooth: see repair_poses.
    on_frames(frames done so far) is called after each batch; what it raises stops the work.
    Raises PoseError when there is no frame, nobody in any frame, or no such person.
    """
    if batch < 1 or person < 0:
        raise PoseError(f"batch {batch}, person {person}: need 1 or more frames a batch and a person counted from 0")
    found: list[list[Person]] = []
    width = height = 0
    for some in _batches(frames, batch):
        if not found:
            height, width = some[0].shape[:2]
        people = detector.detect(some, min_person_score=min_person_score)
        found += [[_fitted(one, frame, width, height) for one in seen] for seen, frame in zip(people, some)]
        if on_frames is not None:
            on_frames(len(found))
    if not found:
        raise PoseError("no frames to look for people in; give at least one")
    tracks = follow(found, width, height, min_score=min_score)
    if not tracks:
        raise PoseError(
            f"nobody found in {_frames(len(found))}; lower the thresholds (person {min_person_score:g}, points "
            f"{min_score:g}; `poses extract` and Extract Poses have them) or use another with a larger, sharper person"
            + "".join(f"; {note}" for note in detector.notes)
        )
    if person >= len(tracks):
        raise PoseError(f"person {person} asked for, {len(tracks)} found; they are counted from 0")
    chosen = [tracks[person], *([] if not everyone else tracks[:person] + tracks[person + 1 :])]
    poses = repair_poses(
        _as_poses(chosen, len(found), width, height), min_score=min_score, fill_gap=fill_gap, smooth=smooth
    )
    return Extraction(poses, (*detector.notes, *_notes(poses, len(tracks), person, everyone)))


def _batches(frames: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    remaining = iter(frames)
    while some := list(islice(remaining, size)):
        yield some


def _fitted(person: Person, frame: np.ndarray, width: int, height: int) -> Person:
    """Somebody in a frame of another size, moved to the first frame's canvas."""
    own_height, own_width = frame.shape[:2]
    if (own_width, own_height) == (width, height):
        return person
    scale = min(width / own_width, height / own_height)
    shift = (np.array([width, height]) - scale * np.array([own_width, own_height])) / 2

    def moved(points: np.ndarray) -> np.ndarray:
        return np.concatenate([points[..., :2] * scale + shift, points[..., 2:]], axis=-1)

    box = person.box * scale + np.tile(shift, 2)
    return Person(box, person.score, moved(person.body), moved(person.face), moved(person.hands))


def _as_poses(tracks: Sequence[Track], frames: int, width: int, height: int) -> Poses:
    """Slot p is track p; frames in which somebody was not seen stay empty."""
    empty = Poses.empty(frames, width, height, people=len(tracks))
    names = ("body", "face", "hands")
    points = {name: getattr(empty, name).copy() for name in names}
    scores = {name: getattr(empty, f"{name}_score").copy() for name in names}
    for slot, track in enumerate(tracks):
        for frame, person in zip(track.frames, track.people):
            for name in names:
                part = getattr(person, name)
                points[name][frame, slot], scores[name][frame, slot] = part[..., :2], part[..., 2].clip(0, 1)
    scores = {f"{name}_score": score for name, score in scores.items()}
    return Poses(**points, **scores, width=width, height=height)


def _notes(poses: Poses, people: int, person: int, everyone: bool) -> list[str]:
    """Who was chosen, and where nobody is to be seen."""
    notes = []
    if people > 1 and everyone:
        notes.append(f"{people} people found; person {person} comes first and leads the alignment and the face")
    elif people > 1:
        who = "the main one is followed" if person == 0 else f"person {person} is followed"
        other = f"person {1 if person == 0 else 0} is {'the next' if person == 0 else 'the main one'}"
        notes.append(f"{people} people found; {who}, {other}")
    empty = ~(poses.body_score > 0).any(axis=(1, 2))  # [F]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], empty, [False]])))
    stretches = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in edges.reshape(-1, 2).tolist()]
    if stretches:
        named = ", ".join(stretches[:NAMED_STRETCHES])
        more = len(stretches) - NAMED_STRETCHES
        which = f"frame {named} shows" if empty.sum() == 1 else f"frames {named} show"
        who = "nobody" if people == 1 or everyone else f"nothing of person {person}"
        notes.append(f"{which} {who}" + (f"; so do {more} more stretches" if more > 0 else ""))
    return notes


def _frames(count: int) -> str:
    return "the picture" if count == 1 else f"any of {count} frames"
