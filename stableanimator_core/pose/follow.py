"""Who is who: joins the people that a detector found frame by frame into tracks, the main person first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .detector import Person

# Below this share of body size, the mean distance of shared joints means: one person, detected twice.
DUPLICATE = 0.04
# Two boxes without joints to compare are one person when they overlap this much.
SAME_BOX = 0.8
# Fewer shared joints than this say too little about where a body is.
ENOUGH_JOINTS = 3

# How far a body may be from where it was expected, in body sizes: the next frame, per frame of absence, at most.
REACH, REACH_PER_FRAME, MOST_REACH = 0.5, 0.1, 1.5
# What different boxes and different sizes add to that distance.
BOX_WEIGHT, SIZE_WEIGHT = 0.25, 0.25
# A lost body coasts: it is expected to keep this share of its speed from frame to frame.
COAST = 0.9
# Share of the newest step in what is known of a body's velocity: single steps are mostly swinging limbs and noise.
NEWEST = 0.3
# Frames after which a lost person is no longer expected.
MEMORY = 90

# Tracks shorter than this share of the clip, and than that many frames, are flicker of the detector.
BRIEF_SHARE, BRIEF = 0.1, 3
# A track of less than this share of the main track's weight does not count as somebody else.
SIGNIFICANT = 0.1


class Track(NamedTuple):
    """One person over the clip."""

    frames: tuple[int, ...]  # where the person was seen, ascending
    people: tuple[Person, ...]  # what was seen there


def follow(frames: Sequence[Sequence[Person]], width: int, height: int, *, min_score: float = 0.3) -> list[Track]:
    """Tracks of everybody in the clip, the main person first: large, seen for long and near the middle.

    frames: the people found in each frame of width x height px, in any order. From frame to frame people are matched
    by where their joints above min_score and their boxes are expected at constant velocity, which keeps them apart
    when they cross; somebody who was out of sight for up to MEMORY frames is recognised near the place. If no two
    people are ever seen together, everything is one person, also across cuts. Second boxes of one person, people
    without a joint above min_score and flicker are left out. Slots depend on nothing but the input.
    """
    tracks: list[_Track] = []
    for index, found in enumerate(frames):
        people = _clearest_first([person for person in found if _shown(person, min_score).any()])
        expected = [track for track in tracks if index - track.frames[-1] <= MEMORY]
        costs = np.array([[track.cost(index, person, min_score) for person in people] for track in expected])
        matches = dict(_cheapest_pairs(costs.reshape(len(expected), len(people))))  # person -> track
        absent = {number: index - expected[track].frames[-1] for number, track in matches.items()}
        placed: list[Person] = []
        for number in sorted(range(len(people)), key=lambda number: absent.get(number, MEMORY + 1)):
            person = people[number]
            if absent.get(number) != 1 and any(_same(person, other, min_score) for other in placed):
                continue
            placed.append(person)
            if number in matches:
                expected[matches[number]].extend(index, person, min_score)
            else:
                tracks.append(_Track([index], [person]))
    brief = min(BRIEF, math.ceil(BRIEF_SHARE * len(frames)))
    tracks = [track for track in tracks if len(track.frames) >= brief] or tracks
    weights = [_weight(track, width, height, min_score) for track in tracks]
    order = sorted(range(len(tracks)), key=lambda i: (-round(weights[i], 6), tracks[i].frames[0], i))
    rivals = sum(weight >= SIGNIFICANT * max(weights) for weight in weights)
    return [track.done() for track in _joined([tracks[i] for i in order], rivals)]


def _joined(tracks: list[_Track], rivals: int) -> list[_Track]:
    """A lone dancer's tracks as one, over absences and cuts: none of the first `rivals` tracks are seen together."""
    seen: dict[int, Person] = {}  # by frame
    others = []
    for index, track in enumerate(tracks):
        if not seen.keys().isdisjoint(track.frames):
            if index < rivals:
                return tracks
            others.append(track)
        else:
            seen.update(zip(track.frames, track.people))
    frames = sorted(seen)
    return [_Track(frames, [seen[frame] for frame in frames]), *others] if seen else []


@dataclass
class _Track:
    """A track that is being built."""

    frames: list[int]
    people: list[Person]
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # px a frame

    def extend(self, frame: int, person: Person, min_score: float) -> None:
        """The person was seen again."""
        moved = _displacement(self.people[-1], person, min_score) / (frame - self.frames[-1])
        self.velocity = moved if len(self.frames) == 1 else (1 - NEWEST) * self.velocity + NEWEST * moved
        self.frames.append(frame)
        self.people.append(person)

    def cost(self, frame: int, person: Person, min_score: float) -> float:
        """How unlike the expected body this one is, 1 at the edge of what is believed."""
        last, absent = self.people[-1], frame - self.frames[-1]
        shift = self.velocity * (1 - COAST**absent) / (1 - COAST)
        size = math.sqrt(_size(last) * _size(person))
        joints = _shown(last, min_score) & _shown(person, min_score)
        if joints.sum() >= ENOUGH_JOINTS:
            apart = np.linalg.norm(last.body[joints, :2] + shift - person.body[joints, :2], axis=1)
            off = np.median(apart) / size  # the median joint is of the trunk: swinging limbs say little about the place
        else:
            off = np.linalg.norm(_centre(last) + shift - _centre(person)) / size
        off += BOX_WEIGHT * (1 - _overlap(last.box + np.tile(shift, 2), person.box))
        off += SIZE_WEIGHT * abs(math.log(_size(last) / _size(person)))
        return off / min(REACH + BOX_WEIGHT + REACH_PER_FRAME * (absent - 1), MOST_REACH)

    def done(self) -> Track:
        return Track(tuple(self.frames), tuple(self.people))


def _clearest_first(people: list[Person]) -> list[Person]:
    """In the order in which they are believed: of several detections of one body the first one counts."""
    return sorted(people, key=lambda person: (-person.score * person.body[:, 2].clip(0).sum(), *person.box))


def _same(one: Person, other: Person, min_score: float) -> bool:
    """Whether two detections are of one body."""
    joints = _shown(one, min_score) & _shown(other, min_score)
    if joints.sum() < ENOUGH_JOINTS:
        return _overlap(one.box, other.box) > SAME_BOX
    apart = np.linalg.norm(one.body[joints, :2] - other.body[joints, :2], axis=1).mean()
    return apart < DUPLICATE * max(_size(one), _size(other))


def _shown(person: Person, min_score: float) -> np.ndarray:
    return person.body[:, 2] > min_score  # [18]


def _centre(person: Person) -> np.ndarray:
    return (person.box[:2] + person.box[2:]) / 2


def _size(person: Person) -> float:
    """The longer side of the box in px."""
    return max(float((person.box[2:] - person.box[:2]).max()), 1.0)


def _displacement(before: Person, after: Person, min_score: float) -> np.ndarray:
    """How far a body moved, [2] px: by its joints, since a raised arm moves the box and not the body."""
    joints = _shown(before, min_score) & _shown(after, min_score)
    if joints.sum() < ENOUGH_JOINTS:
        return _centre(after) - _centre(before)
    return np.median(after.body[joints, :2] - before.body[joints, :2], axis=0)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    sides = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0)
    both = float(sides.prod())
    union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - both
    return both / union if union > 0 else 0.0


def _weight(track: _Track, width: int, height: int, min_score: float) -> float:
    """Large x present x central: the sum over the frames of the share of the picture that the person takes."""
    frame = np.array([width, height], dtype=float)
    total = 0.0
    for person in track.people:
        sides = (np.minimum(person.box[2:], frame) - person.box[:2].clip(0)).clip(0)
        off_centre = np.linalg.norm(_centre(person) - frame / 2) / np.linalg.norm(frame / 2)
        clear = _shown(person, min_score).mean()
        total += float(sides.prod() / frame.prod() * (1 - min(off_centre, 1) / 2) * clear)
    return total


def _cheapest_pairs(costs: np.ndarray) -> list[tuple[int, int]]:
    """(column, row) pairs of the assignment with the least total cost, those of cost 1 and more left apart.

    costs: [rows, columns]. The Hungarian method with potentials and shortest augmenting paths, O(n^3).
    """
    costs = np.minimum(costs, 1.0)
    if costs.shape[0] > costs.shape[1]:
        return [(column, row) for row, column in _cheapest_pairs(costs.T)]
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)  # of each column; the last column is where a new row begins
    for row in range(rows):
        owner[columns], column = row, columns
        slack, came_from = np.full(columns, np.inf), np.full(columns, columns)
        used = np.zeros(columns + 1, dtype=bool)
        while owner[column] >= 0:
            used[column] = True
            reduced = costs[owner[column]] - row_price[owner[column]] - column_price[:columns]
            better = ~used[:columns] & (reduced < slack)
            slack[better], came_from[better] = reduced[better], column
            free = np.where(used[:columns], np.inf, slack)
            column = int(free.argmin())
            step = free[column]
            row_price[owner[used]] += step
            column_price[used] -= step
            slack[~used[:columns]] -= step
        while column != columns:
            owner[column] = owner[came_from[column]]
            column = came_from[column]
    return [(column, int(row)) for column, row in enumerate(owner[:columns]) if row >= 0 and costs[row, column] < 1]
