"""Repair of detected poses: weak points go, spikes and swaps are undone, short gaps filled, jitter smoothed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..errors import PoseError
from ..keypoints import Poses
from ..skeleton import MIRROR

# A jump of one or two frames is an error of the detector when it is larger than this share of the part's extent ...
BODY_SPIKE, FACE_SPIKE, HAND_SPIKE = 0.06, 0.25, 0.4
# ... and so much longer than the steps around it: fast motion has a run-up.
SUDDEN = 2.5
# Frames that a spike or a swap may last, and the most without a sighting beside a spike.
BRIEF = (1, 2)
SPIKE_REACH = 4

# Left and right were mixed up when exchanging them brings them so much nearer to where they were and will be.
SWAP_GAIN = 0.5

# A body that moves by more than this share of its extent between two sightings, or that changes its size by more
# than that factor, is in another shot: nothing is joined across. So many shared joints can tell.
CUT_DISTANCE, CUT_GROWTH, CUT_JOINTS = 0.6, 1.6, 4

# Filled points keep this share of what the ends' score has above min_score.
FILLED = 0.9

# Half widths in frames, less one, of the two smoothing windows at smooth = 1. These and the next number were chosen on
# captured motion at 15 frames a second with known noise added.
NARROW, WIDE = 3.0, 16.0
# The narrow window counts where both differ by more than this many standard deviations of the noise.
TRUSTED_DIFFERENCE = 1.5


def repair_poses(poses: Poses, *, min_score: float = 0.3, fill_gap: int = 8, smooth: float = 0.5) -> Poses:
    """Poses without what a detector gets wrong; every person by itself, in this order:

    points scored min_score or less are dropped; left and right that change sides for one or two frames are changed
    back; points that jump away and come back within two frames are dropped; gaps of at most fill_gap frames between
    two sightings are interpolated, while longer ones and both ends of the clip stay as they are; points are smoothed
    without delay by local quadratic fits (smooth 0 is off, 1 the most). Nothing is joined across a cut.
    Raises PoseError when a setting is out of range.
    """
    if not 0 <= min_score <= 1:
        raise PoseError(f"min_score is {min_score:g}, need a number from 0 to 1")
    if fill_gap < 0:
        raise PoseError(f"fill_gap is {fill_gap} frames, need 0 or more")
    if not 0 <= smooth <= 1:
        raise PoseError(f"smooth is {smooth:g}, need a number from 0 (off) to 1")
    points = {name: getattr(poses, name).copy() for name in ("body", "face", "hands")}
    scores = {name: getattr(poses, f"{name}_score") for name in points}
    scores = {name: np.where(score > min_score, score, 0) for name, score in scores.items()}
    for person in range(poses.people):
        body, face, hands = (_Part(points[name][:, person], scores[name][:, person]) for name in points)
        left, right = (_Part(hands.points[:, side], hands.score[:, side]) for side in (0, 1))
        parts = ((body, BODY_SPIKE), (face, FACE_SPIKE), (left, HAND_SPIKE), (right, HAND_SPIKE))
        _unswap_sides(body, left, right)
        for part, spike in parts:
            _drop_spikes(part, spike * _extent(part))
        for shot in _shots(body, fill_gap):
            for part, _ in parts:
                _fill_gaps(part.points[shot], part.score[shot], fill_gap, min_score)
                if smooth > 0:
                    part.points[shot] = _smoothed(part.points[shot], part.score[shot], smooth)
    scores = {f"{name}_score": score for name, score in scores.items()}
    return Poses(**points, **scores, width=poses.width, height=poses.height)


class _Part(NamedTuple):
    """Points of one kind of one person: views of the clip's arrays, which repair changes in place."""

    points: np.ndarray  # [F, K, 2] px
    score: np.ndarray  # [F, K], 0: missing


def _extent(part: _Part) -> float:
    """The longer side in px of the box around the points in a typical frame; 0 when there is none."""
    seen = part.score > 0  # [F, K]
    frames = seen.sum(1) > 1
    if not frames.any():
        return 0.0
    points, seen = part.points[frames], seen[frames][..., None]
    sides = np.where(seen, points, -np.inf).max(1) - np.where(seen, points, np.inf).min(1)  # [F, 2]
    return float(np.median(sides.max(1)))


def _unswap_sides(body: _Part, left: _Part, right: _Part) -> None:
    """Gives left and right joints, and the hands, back to their sides."""
    limit = BODY_SPIKE * _extent(body)
    sides = [(_Part(*(array[:, j : j + 1] for array in body)), _Part(*(array[:, k : k + 1] for array in body)))
             for j, k in enumerate(MIRROR) if j < k]  # fmt: skip
    for one, other in (*sides, (left, right)):
        both = (one.score > 0).any(1) & (other.score > 0).any(1)  # [F]
        for length in BRIEF:
            frames = _swapped(_middle(one), _middle(other), both, length, limit)
            for mine, theirs in zip(one, other):
                mine[frames], theirs[frames] = theirs[frames], mine[frames].copy()


def _middle(part: _Part) -> np.ndarray:
    """The mean of the seen points of every frame, [F, 2] px."""
    seen = (part.score > 0)[..., None]
    return np.where(seen, part.points, 0).sum(1) / seen.sum(1).clip(1)


def _swapped(one: np.ndarray, other: np.ndarray, both: np.ndarray, length: int, limit: float) -> np.ndarray:
    """Frames of runs of `length` in which two points [F, 2] are exchanged. both: [F] where both are seen."""
    starts = np.arange(1, len(one) - length)
    if not len(starts):
        return starts
    sure = np.all([both[starts + k] for k in range(-1, length + 1)], axis=0)
    for k in range(length):
        share = (k + 1) / (length + 1)
        ours, theirs = ((1 - share) * p[starts - 1] + share * p[starts + length] for p in (one, other))
        here, there = one[starts + k], other[starts + k]
        kept = np.linalg.norm(here - ours, axis=1) + np.linalg.norm(there - theirs, axis=1)
        exchanged = np.linalg.norm(here - theirs, axis=1) + np.linalg.norm(there - ours, axis=1)
        sure &= (kept > limit) & (exchanged < SWAP_GAIN * kept)
    return np.unique(starts[sure][:, None] + np.arange(length))


def _drop_spikes(part: _Part, limit: float) -> None:
    """Takes out points that are off their way by more than limit px for a frame or two; nothing at limit 0."""
    if limit <= 0:
        return
    for k in range(part.score.shape[1]):
        for length in BRIEF:
            seen = np.flatnonzero(part.score[:, k])
            part.score[seen[_spikes(part.points[seen, k], seen, length, limit)], k] = 0


def _spikes(points: np.ndarray, frames: np.ndarray, length: int, limit: float) -> np.ndarray:
    """Indices of the sightings [n, 2] at `frames` that lie in sudden jumps away and back of `length` sightings."""
    first = np.arange(1, len(points) - length)  # of a run; the sightings around it are at first - 1 and after
    if not len(first):
        return first
    after = first + length
    start, end = points[first - 1], points[after]
    span = frames[after] - frames[first - 1]
    off = np.full(len(first), np.inf)
    for k in range(length):
        share = ((frames[first + k] - frames[first - 1]) / span)[:, None]
        off = np.minimum(off, np.linalg.norm(points[first + k] - (1 - share) * start - share * end, axis=1))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)  # [n - 1]
    jump = np.minimum(steps[first - 1], steps[after - 1])
    # Of the two steps on each side the longer one: where frames are doubled, every other step is 0.
    padded = np.concatenate([[0, 0], steps, [0, 0]])  # padded[i + 1] leads to sighting i
    before, behind = (np.maximum(padded[at], padded[at + 1]) for at in (first - 1, after + 2))
    run_up = np.where(first < 2, behind, np.where(after > len(steps) - 1, before, np.minimum(before, behind)))
    away = off > limit + np.linalg.norm(end - start, axis=1) / 2
    sudden = (jump > SUDDEN * run_up) & (span <= length + 1 + SPIKE_REACH)
    return np.unique(first[away & sudden][:, None] + np.arange(length))


def _shots(body: _Part, fill_gap: int) -> list[slice]:
    """The frames between cuts: a body that is suddenly elsewhere, or of another size, is filmed anew."""
    frames = np.flatnonzero((body.score > 0).sum(1) >= CUT_JOINTS)
    cuts = [0]
    for before, now in zip(frames[:-1], frames[1:]):
        joints = (body.score[before] > 0) & (body.score[now] > 0)
        if now - before > fill_gap + 1 or joints.sum() < CUT_JOINTS:
            continue
        one, other = body.points[before, joints], body.points[now, joints]
        sizes = [max(np.ptp(points, axis=0).max(), 1.0) for points in (one, other)]
        moved = np.median(np.linalg.norm(other - one, axis=1))
        if moved > CUT_DISTANCE * max(sizes) or max(sizes) > CUT_GROWTH * min(sizes):
            cuts.append(int(now))
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(body.score)])]


def _fill_gaps(points: np.ndarray, score: np.ndarray, fill_gap: int, min_score: float) -> None:
    """Interpolates in place between sightings that are at most fill_gap missing frames apart."""
    for k in range(score.shape[1]):
        seen = np.flatnonzero(score[:, k])
        gaps = np.diff(seen) - 1
        for index in np.flatnonzero((gaps > 0) & (gaps <= fill_gap)):
            start, end = seen[index], seen[index + 1]
            inside = np.arange(start + 1, end)
            share = ((inside - start) / (end - start))[:, None]
            points[inside, k] = (1 - share) * points[start, k] + share * points[end, k]
            score[inside, k] = min_score + FILLED * (min(score[start, k], score[end, k]) - min_score)


def _smoothed(points: np.ndarray, score: np.ndarray, smooth: float) -> np.ndarray:
    """Points [F, K, 2] with less jitter: a wide window where it says the same as a narrow one, else the narrow one.

    What "the same" is follows from the noise of each point, so that slow motion is steadied and fast motion kept.
    """
    seen = score > 0
    run = np.cumsum(~seen, axis=0)  # equal for two sightings when nothing is missing between them
    narrow = _local_quadratic(points, score, run, 1 + NARROW * smooth)
    wide = _local_quadratic(points, score, run, 1 + WIDE * smooth)
    noise = _noise(points, seen)  # [K] px
    difference = np.linalg.norm(wide - narrow, axis=-1)  # [F, K]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        trust = 1 / (1 + (difference / (TRUSTED_DIFFERENCE * noise)) ** 4)
    trust = np.nan_to_num(trust)[..., None]
    return np.where(seen[..., None], trust * wide + (1 - trust) * narrow, points)


def _noise(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Standard deviation of every point's jitter, [K] px, from third differences: smooth motion hardly has any."""
    if len(points) < 4:
        return np.zeros(points.shape[1])
    third = np.abs(np.diff(points, n=3, axis=0))  # [F - 3, K, 2]
    whole = seen[:-3] & seen[1:-2] & seen[2:-1] & seen[3:]
    spread = [np.median(third[whole[:, k], k]) if whole[:, k].any() else 0.0 for k in range(points.shape[1])]
    return np.array(spread) / (0.6745 * math.sqrt(1 + 9 + 9 + 1))  # median of |normal|; sum of the squared (1 3 3 1)


def _local_quadratic(points: np.ndarray, score: np.ndarray, run: np.ndarray, half_width: float) -> np.ndarray:
    """The middle of a parabola fitted around every sighting, weighted by score and a tricube window.

    points: [F, K, 2]. Sightings of another run do not count; with three or fewer a point stays as it is.
    """
    frames = len(points)
    moments = np.zeros((5, *score.shape))
    sums = np.zeros((3, *points.shape))
    reach = math.ceil(half_width) - 1
    counted = np.zeros(score.shape, dtype=int)
    for offset in range(-min(reach, frames - 1), min(reach, frames - 1) + 1):
        here = slice(max(0, -offset), frames - max(0, offset))
        there = slice(max(0, offset), frames - max(0, -offset))
        window = (1 - abs(offset / half_width) ** 3) ** 3
        weight = window * score[there] * (run[there] == run[here])
        counted[here] += weight > 0
        place = offset / half_width
        for power in range(5):
            moments[power][here] += weight * place**power
        for power in range(3):
            sums[power][here] += (weight * place**power)[..., None] * points[there]
    fitted = (counted > 3) & (score > 0)
    s0, s1, s2, s3, s4 = moments[:, fitted]
    first, second, third = s2 * s4 - s3 * s3, s2 * s3 - s1 * s4, s1 * s3 - s2 * s2  # cofactors of the normal equations
    scale = s0 * first + s1 * second + s2 * third
    result = points.copy()
    t0, t1, t2 = sums[:, fitted]
    result[fitted] = (first[:, None] * t0 + second[:, None] * t1 + third[:, None] * t2) / scale[:, None]
    return result
