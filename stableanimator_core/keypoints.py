"""Poses: body, face and hand keypoints of a clip in pixels, and POSE_KEYPOINT in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PoseError
from .skeleton import BODY_POINTS, FACE_POINTS, FROM_BODY_25, HAND_POINTS, LEFT_EYE, RIGHT_EYE

# POSE_KEYPOINT's name of each part and the point counts that are read (the first one is written).
PART_POINTS = {
    "pose_keypoints_2d": (18, 25),
    "face_keypoints_2d": (70, 68),
    "hand_left_keypoints_2d": (21,),
    "hand_right_keypoints_2d": (21,),
}
BODY, FACE, LEFT_HAND, RIGHT_HAND = PART_POINTS

# An array is in fractions of the canvas when all of its visible coordinates are this close to 0..1 ...
FRACTION_RANGE = (-0.5, 1.5)
# ... on a canvas whose sides are both at least this long: on a smaller one 0..1 may well be pixels.
FRACTION_MIN_CANVAS = 16

MOST_CANVAS = 65_536  # px, the longest side of a canvas
LARGEST_WHOLE = 2**63  # of a number in a list; floats hold it
FARTHEST = 1e6  # px from the canvas's corner; a seen point beyond it is no measurement


@dataclass(frozen=True, eq=False)
class Poses:
    """Keypoints of a clip in pixels of a width x height canvas.

    A point is missing when its score is 0; its coordinates are then kept at 0. Frames with fewer people than
    others are padded with people whose scores are all 0. Hand 0 is the person's left one.
    Raises PoseError when the arrays disagree in shape or a visible point is not finite.
    """

    body: np.ndarray  # [F, P, 18, 2] px
    body_score: np.ndarray  # [F, P, 18] 0..1
    face: np.ndarray  # [F, P, 68, 2] px
    face_score: np.ndarray  # [F, P, 68] 0..1
    hands: np.ndarray  # [F, P, 2, 21, 2] px
    hands_score: np.ndarray  # [F, P, 2, 21] 0..1
    width: int
    height: int

    def __post_init__(self) -> None:
        lead = np.shape(self.body_score)[:2]
        if len(lead) != 2:
            raise PoseError(f"body_score has shape {np.shape(self.body_score)}, expected [frames, people, 18]")
        points = {"body": (BODY_POINTS,), "face": (FACE_POINTS,), "hands": (2, HAND_POINTS)}
        for name, tail in points.items():
            score = _shaped(f"{name}_score", getattr(self, f"{name}_score"), (*lead, *tail))
            xy = _shaped(name, getattr(self, name), (*lead, *tail, 2))
            score = np.where(score > 0, score, 0.0)
            xy = np.where(score[..., None] > 0, xy, 0.0)
            if not (np.isfinite(xy).all() and np.isfinite(score).all()):
                frame, person = np.argwhere(~np.isfinite(xy).all(-1) | ~np.isfinite(score))[0][:2]
                raise PoseError(f"frame {frame}, person {person}, {name}: a visible point is not finite")
            object.__setattr__(self, name, xy)
            object.__setattr__(self, f"{name}_score", score)
        if self.width < 1 or self.height < 1:
            raise PoseError(f"a canvas of {self.width} x {self.height} px holds no pose; both sides must be at least 1")

    @classmethod
    def empty(cls, frames: int, width: int, height: int, *, people: int = 0) -> Poses:
        """Poses in which nothing is seen: `people` x zero scores in every frame."""
        lead = (frames, people)
        return cls(
            body=np.zeros((*lead, BODY_POINTS, 2)),
            body_score=np.zeros((*lead, BODY_POINTS)),
            face=np.zeros((*lead, FACE_POINTS, 2)),
            face_score=np.zeros((*lead, FACE_POINTS)),
            hands=np.zeros((*lead, 2, HAND_POINTS, 2)),
            hands_score=np.zeros((*lead, 2, HAND_POINTS)),
            width=width,
            height=height,
        )

    @property
    def frames(self) -> int:
        """Number of frames, F."""
        return self.body.shape[0]

    @property
    def people(self) -> int:
        """Number of people, P: the most that any frame holds."""
        return self.body.shape[1]

    def visible(self, min_score: float = 0.3) -> np.ndarray:
        """Body joints scored above min_score. Returns bool [F, P, 18]."""
        return self.body_score > min_score

    def first_shown(self, min_score: float = 0.3) -> int:
        """The first frame that shows two joints of person 0, or else one, or else the first: a picture's pose."""
        if not self.people:
            return 0
        return int(self.visible(min_score)[:, 0].sum(1).clip(max=2).argmax())

    def person(self, index: int) -> Poses:
        """One person alone, P = 1. Raises PoseError when there is no such person."""
        if not 0 <= index < self.people:
            raise PoseError(f"person {index} asked for, the poses hold {self.people}; count from 0")
        return self._indexed((slice(None), slice(index, index + 1)))

    def slice(self, start: int | None, stop: int | None) -> Poses:
        """Frames start..stop - 1, with Python's slice rules."""
        return self._indexed((slice(start, stop),))

    def picked(self, frames: Sequence[int]) -> Poses:
        """These frames alone, in this order."""
        return self._indexed((list(frames),))

    def transformed(
        self, fn: Callable[[np.ndarray], np.ndarray], *, width: int | None = None, height: int | None = None
    ) -> Poses:
        """Moves every point of all parts by fn, [F, N, 2] px -> the same, on this canvas or another one."""
        f = self.frames
        parts = (self.body, self.face, self.hands)
        flat = [part.reshape(f, int(np.prod(part.shape[1:-1])), 2) for part in parts]
        moved = np.asarray(fn(np.concatenate(flat, axis=1)), dtype=np.float64)  # [F, N, 2]
        pieces = np.split(moved, np.cumsum([part.shape[1] for part in flat])[:-1], axis=1)
        body, face, hands = (piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True))
        return replace(
            self, body=body, face=face, hands=hands,
            width=self.width if width is None else width, height=self.height if height is None else height,
        )  # fmt: skip

    def resized(self, width: int, height: int) -> Poses:
        """The same picture stretched to another canvas: anisotropic when the aspect ratio differs (see fitted)."""
        factor = np.array([width / self.width, height / self.height])
        return self.transformed(lambda points: points * factor, width=width, height=height)

    def fitted(self, width: int, height: int) -> Poses:
        """The same picture inside another canvas by one scale for x and y, centred: proportions are kept."""
        scale = min(width / self.width, height / self.height)
        shift = (np.array([width, height]) - scale * np.array([self.width, self.height])) / 2
        return self.transformed(lambda points: points * scale + shift, width=width, height=height)

    def _indexed(self, index: tuple[slice | list[int], ...]) -> Poses:
        names = ("body", "body_score", "face", "face_score", "hands", "hands_score")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    @classmethod
    def from_openpose(cls, frames: Sequence[dict[str, Any]] | dict[str, Any]) -> Poses:
        """Reads POSE_KEYPOINT: a list of frames, a list of such lists, one frame, or {"frames": [...]}.

        Parts may be None, empty or absent (missing), flat [x, y, c, ...] or nested [[x, y, c], ...], in pixels or in
        fractions of the canvas. Fractions are recognised per array: all of its points with c > 0 lie in
        FRACTION_RANGE and the canvas is at least FRACTION_MIN_CANVAS px on both sides. Any c > 0 counts as seen and
        is clipped to 1. Bodies of 25 points (BODY_25) and faces of 68 or 70 are read; feet and animals are left out.
        Frames on another canvas than the first one are fitted into the first by one scale, centred.
        Raises PoseError that names frame, person and part.
        """
        frames = list(_frames(frames))
        if not frames:
            raise PoseError("the pose list holds no frame; expected at least one POSE_KEYPOINT frame")
        width, height = _canvas(frames[0], 0)
        people = [_people(frame, number) for number, frame in enumerate(frames)]
        most = max(len(found) for found in people)
        parts = {
            BODY: np.zeros((len(frames), most, BODY_POINTS, 3)),
            FACE: np.zeros((len(frames), most, FACE_POINTS, 3)),
            LEFT_HAND: np.zeros((len(frames), most, HAND_POINTS, 3)),
            RIGHT_HAND: np.zeros((len(frames), most, HAND_POINTS, 3)),
        }
        for number, (frame, found) in enumerate(zip(frames, people, strict=True)):
            canvas = _canvas(frame, number)
            for index, person in enumerate(found):
                for name, points in parts.items():
                    points[number, index] = _read_part(person.get(name), name, canvas, number, index)
            if canvas != (width, height):
                scale = min(width / canvas[0], height / canvas[1])
                shift = (np.array([width, height]) - scale * np.array(canvas)) / 2
                for points in parts.values():
                    points[number, ..., :2] = points[number, ..., :2] * scale + shift
        hands = np.stack([parts[LEFT_HAND], parts[RIGHT_HAND]], axis=2)  # [F, P, 2, 21, 3]
        return cls(
            body=parts[BODY][..., :2], body_score=parts[BODY][..., 2],
            face=parts[FACE][..., :2], face_score=parts[FACE][..., 2],
            hands=hands[..., :2], hands_score=hands[..., 2],
            width=width, height=height,
        )  # fmt: skip

    def to_openpose(self) -> list[dict[str, Any]]:
        """Strict POSE_KEYPOINT: flat lists of floats in pixels, missing points and parts as zeros, never None.

        Face points 68 and 69 repeat the body's right and left eye where a face is seen. People of whom nothing is
        seen are left out at the end of a frame's list; before a visible person they keep their place.
        """
        return [
            {
                "people": [self._strict_person(frame, index) for index in range(self._present(frame))],
                "canvas_width": self.width,
                "canvas_height": self.height,
            }
            for frame in range(self.frames)
        ]

    def _present(self, frame: int) -> int:
        """How many people to list: up to the last one with any point."""
        scores = (self.body_score[frame], self.face_score[frame], self.hands_score[frame].max(axis=1))
        seen = np.concatenate(scores, axis=1).any(axis=1)  # [P]
        return int(np.flatnonzero(seen)[-1]) + 1 if seen.any() else 0

    def _strict_person(self, frame: int, index: int) -> dict[str, list[float]]:
        body = np.column_stack([self.body[frame, index], self.body_score[frame, index]])
        face = np.column_stack([self.face[frame, index], self.face_score[frame, index]])
        eyes = body[[RIGHT_EYE, LEFT_EYE]] * face[:, 2].any()
        hands = np.concatenate([self.hands[frame, index], self.hands_score[frame, index][..., None]], axis=-1)
        parts = {BODY: body, FACE: np.concatenate([face, eyes]), LEFT_HAND: hands[0], RIGHT_HAND: hands[1]}
        return {name: part.ravel().tolist() for name, part in parts.items()}

    @classmethod
    def load(cls, path: str | Path) -> Poses:
        """Reads a JSON file of what from_openpose takes. Raises PoseError when it cannot be read."""
        try:
            frames = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PoseError(f"{path}: cannot read the poses: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            fix = "poses extract finds the poses of a picture or a video"
            raise PoseError(f"{path}: not a JSON file of poses ({error}); {fix}") from error
        try:
            return cls.from_openpose(frames)
        except PoseError as error:
            raise PoseError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the strict form as JSON, a list of frames. Raises PoseError when it cannot be written."""
        try:
            Path(path).write_text(json.dumps(self.to_openpose()), encoding="utf-8")
        except OSError as error:
            raise PoseError(f"{path}: cannot write the poses: {error.strerror}") from error


def _shaped(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if array.shape != shape:
        raise PoseError(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
    return array


def _frames(poses: Any) -> Iterator[dict[str, Any]]:
    """Frames of every wrapping: one frame, {"frames": ...}, a list of frames, a list of batches."""
    if isinstance(poses, dict) and "frames" in poses:
        poses = poses["frames"]
    if isinstance(poses, dict):
        poses = [poses]
    if not isinstance(poses, (list, tuple)):
        raise PoseError(f"the poses are {_kind(poses)}, expected a list of POSE_KEYPOINT frames")
    for item in poses:
        if isinstance(item, (list, tuple)):
            yield from item
        else:
            yield item


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _canvas(frame: dict[str, Any], number: int) -> tuple[int, int]:
    """(width, height) of a frame's canvas in px."""
    if not isinstance(frame, dict):
        raise PoseError(f"frame {number} is {_kind(frame)}, expected a POSE_KEYPOINT dict")
    size = []
    for key in ("canvas_width", "canvas_height"):
        side = frame.get(key)
        if not isinstance(side, Real) or not 1 <= side <= MOST_CANVAS:
            raise PoseError(
                f"frame {number}: {key} is {_short(side)}, expected the width or height in pixels, 1 to {MOST_CANVAS}"
            )
        size.append(round(float(side)))
    return size[0], size[1]


def _people(frame: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """The people of a frame; a frame of animals has none."""
    _canvas(frame, number)
    if "people" not in frame and "animals" not in frame:
        raise PoseError(f"frame {number}: no 'people' list, found {', '.join(map(str, frame)) or 'nothing'}")
    people = frame.get("people") or []
    if not isinstance(people, (list, tuple)):
        raise PoseError(f"frame {number}: 'people' is {_kind(people)}, expected a list")
    for index, person in enumerate(people):
        if not isinstance(person, dict):
            raise PoseError(f"frame {number}, person {index} is {_kind(person)}, expected a dict of keypoint lists")
    return list(people)


def _read_part(part: Any, name: str, canvas: tuple[int, int], number: int, index: int) -> np.ndarray:
    """One keypoint array in whatever dialect -> [K, 3] of x, y in px and score, K as in Poses."""
    where = f"frame {number}, person {index}, {name}"
    counts = PART_POINTS[name]
    values = _flat_numbers(part, where)
    if not values:
        return np.zeros((1, 3))
    if len(values) not in [3 * count for count in counts]:
        expected = " or ".join(f"{count} x 3" for count in sorted(counts))
        raise PoseError(f"{where}: {len(values)} numbers, expected {expected} (x, y and confidence of each point)")
    points = np.array(values, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        bad = int(np.argwhere(~np.isfinite(points))[0][0])
        raise PoseError(f"{where}: point {bad} is {tuple(points[bad].tolist())}, expected finite numbers")
    far = (points[:, 2] > 0) & (np.abs(points[:, :2]) > FARTHEST).any(axis=1)
    if far.any():
        bad = int(far.argmax())
        raise PoseError(f"{where}: point {bad} at {tuple(points[bad, :2].tolist())} is far outside of any picture")
    points[:, 2] = points[:, 2].clip(0, 1)
    if name == BODY and len(points) == 25:
        points = points[list(FROM_BODY_25)]
    points = points[:FACE_POINTS]
    seen = points[:, 2] > 0
    points[~seen, :2] = 0
    low, high = FRACTION_RANGE
    near_unit = (points[seen, :2] >= low).all() and (points[seen, :2] <= high).all()
    if seen.any() and near_unit and min(canvas) >= FRACTION_MIN_CANVAS:
        points[:, :2] *= canvas
    return points


def _flat_numbers(part: Any, where: str) -> list[float]:
    """A part as a flat list of numbers; None is an absent part or, inside a nested list, an absent point."""
    if part is None:
        return []
    if isinstance(part, np.ndarray):
        part = part.tolist()
    if not isinstance(part, (list, tuple)):
        raise PoseError(f"{where} is {_kind(part)}, expected a list of numbers")
    nested = any(isinstance(point, (list, tuple)) for point in part)
    values: list[Any] = []
    for position, point in enumerate(part):
        if not nested:
            values.append(point)
        elif point is None:
            values.extend((0.0, 0.0, 0.0))
        elif isinstance(point, (list, tuple)) and len(point) == 3:
            values.extend(point)
        else:
            raise PoseError(f"{where}: point {position} is {point!r}, expected [x, y, confidence]")
    for position, value in enumerate(values):
        if not isinstance(value, Real):
            raise PoseError(f"{where}: number {position} is {_short(value)}, expected a number")
        if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
            raise PoseError(f"{where}: number {position} is {_short(value)}, expected a coordinate or a confidence")
    return values


def _short(value: Any) -> str:
    """A value as Python writes it, cut where it gets long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        text = "a very long number"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
