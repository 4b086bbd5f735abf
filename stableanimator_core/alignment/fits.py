"""Closed-form fits of one clip's person 0 onto the reference: one for all frames, one for each, and what lies between.

Shapes throughout: body [F, 18, 2] px, target [18, 2] px of the reference, trust [F, 18] (see shared_trust),
good bool [F], the frames to fit.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .guidance import COVERAGE, JOINT_TRUST, WINDOW, compose, inverse
from .similarity import Similarity, fit_similarity_robust, fittable, weighted_mean

# One transform for the clip, every frame's own, or the frames' own ones smoothed.
FITS = ("clip", "smooth", "frames")

# A transform farther than this from the one that it should resemble is not believed.
MOST_GROWTH = 3.0
MOST_DEGREES = 35.0

# Standard deviation in frames of the Gaussian that smooths: about a second of video counts.
SMOOTH = 8.0
# So much of a body's slow course through the picture is taken for the camera's: from the body alone it can't be told
# who moved. On pairs whose cameras pan, zoom and walk, half was best, however far the cameras went.
CAMERA_SHARE = 0.5
# What a frame without a fit of its own weighs against one with: it holds long gaps together.
GAP = 1e-3


def shared_trust(seen: Tensor, shown: Tensor) -> Tensor:
    """How far each joint counts, [F, 18]; 0 where it is not seen in both. seen: bool [F, 18], shown: bool [18]."""
    return (seen & shown) * torch.tensor(JOINT_TRUST, dtype=torch.float64)


def fittable_frames(body: Tensor, target: Tensor, trust: Tensor) -> Tensor:
    """Frames that share enough with the reference, in joints and against the clip's best frame: bool [F]."""
    coverage = trust.sum(1)
    return fittable(body, target.expand_as(body), trust) & (coverage >= COVERAGE * coverage.max())


def fit_clip(body: Tensor, target: Tensor, trust: Tensor, good: Tensor) -> Similarity:
    """One transform (F = 1) for all frames: place and size from the first window, rotation from those most alike.

    A lean in the first pose would tilt the whole clip, so every window of the clip fits a rotation, and their median
    counts, in which a window weighs the more the closer its posture comes to the reference's.
    """
    src, weight = _median_windows(body[good], trust[good])  # [W, 18, 2], [W, 18]
    dst = target.expand_as(src)
    usable = fittable(src, dst, weight)
    if not usable.any():  # e.g. two joints that change places; single frames are known to fit
        src, weight = body[good], trust[good]
        dst, usable = target.expand_as(src), fittable(src, target.expand_as(src), weight)
    src, dst, weight = src[usable], dst[usable], weight[usable]
    fits, listened = fit_similarity_robust(src, dst, weight)
    angle = _median_angle(fits.angle, _votes(weight, listened))
    first = slice(0, 1)
    anchor = [weighted_mean(points[first], listened[first]) for points in (src, dst)]
    return Similarity.through(fits.scale[first], angle[None], *anchor)


def follow_frames(
    found: Similarity, base: Similarity, body: Tensor, target: Tensor, trust: Tensor, good: Tensor, fit: str
) -> tuple[Similarity, int]:
    """`found` (F = 1), which departs in each frame as the frame's own fit departs from `base`, the clip's.

    fit: "frames" or "smooth" of FITS. Own fits that are not plausible beside the base do not take part.
    "frames": a frame without a fit of its own takes the nearest one's.
    "smooth": how size and place depart since the clip's beginning is smoothed over about a second, frames weighing by
    how alike the postures are, and CAMERA_SHARE of it is followed; not the angle, as bodies lean more often than
    cameras do. A clip of fewer than WINDOW frames is too short for that and keeps `found`; idle_note says so.
    Returns the transforms of F frames and how many fits were not plausible. good holds one frame at least.
    """
    where = good.nonzero().squeeze(1)  # [G]
    weight = trust[good]
    own, listened = fit_similarity_robust(body[good], target.expand_as(body[good]), weight)
    growth, turn = (own.scale / base.scale).log(), _wrapped(own.angle - base.angle)
    plausible = (growth.abs() <= math.log(MOST_GROWTH)) & (turn.abs() <= math.radians(MOST_DEGREES))
    doubtful = int((~plausible).sum())
    if not plausible.any() or (fit == "smooth" and len(body) < WINDOW):
        return repeated(found, len(body)), doubtful
    where, weight, listened = where[plausible], weight[plausible], listened[plausible]
    own = Similarity(*(part[plausible] for part in own))
    if fit == "frames":
        nearest = (torch.arange(len(body))[:, None] - where).abs().argmin(1)  # [F]
        followed = Similarity(*(part[nearest] for part in own))
    else:
        centre = weighted_mean(body[where], weight)
        followed = _smooth(own, base, centre, where, _votes(weight, listened), len(body))
    return compose(compose(found, inverse(base)), followed), doubtful


def idle_note(frames: int, fit: str) -> tuple[str, ...]:
    """What to say of a fit that a clip is too short for."""
    return (f"fit smooth has no effect on fewer than {WINDOW} frames",) if fit == "smooth" and frames < WINDOW else ()


def repeated(transform: Similarity, frames: int) -> Similarity:
    """One transform (F = 1) for every frame."""
    return Similarity(*(part.expand(frames, *part.shape[1:]) for part in transform))


def _smooth(own: Similarity, base: Similarity, centre: Tensor, where: Tensor, vote: Tensor, frames: int) -> Similarity:
    """Smooth transforms of all frames from those of the frames `where` [G]. centre: [G, 2] px, the body in them."""
    at = smoothed(base.apply(centre[None])[0], where, vote, frames)  # [F, 2], a slow path near the body
    departure = compose(own, inverse(repeated(base, len(where))))
    shift = departure.apply(at[where][:, None]).squeeze(1) - at[where]
    course = smoothed(torch.cat([departure.scale.log()[:, None], shift], 1), where, vote, frames)  # [F, 3]
    course = CAMERA_SHARE * (course - course[where[:WINDOW]].mean(0))
    growth, shift = course[:, 0], course[:, 1:]
    return compose(Similarity.through(growth.exp(), torch.zeros_like(growth), at, at + shift), repeated(base, frames))


def smoothed(values: Tensor, where: Tensor, weight: Tensor, frames: int) -> Tensor:
    """Values [G, D] of the frames `where` [G], ascending, as a smooth course over all frames: [F, D].

    A straight line is fitted about every frame, which leaves a steady course as it is up to both ends; frames near in
    time count by a Gaussian of SMOOTH frames and by weight [G]. In between frames that are known, lines bridge gaps.
    """
    known = torch.full((frames,), GAP * float(weight.mean()), dtype=values.dtype)
    known[where] = weight
    time = np.arange(frames)
    columns = [np.interp(time, where.numpy(), column.numpy()) for column in values.unbind(1)]
    filled = torch.from_numpy(np.stack(columns))  # [D, F]
    reach = min(frames - 1, round(4 * SMOOTH))
    offset = torch.arange(-reach, reach + 1, dtype=values.dtype)
    bell = torch.exp(-0.5 * (offset / SMOOTH).square())

    def moment(series: Tensor, power: int) -> Tensor:
        return F.conv1d(series[:, None], (bell * offset**power)[None, None], padding=reach)[:, 0]

    s0, s1, s2 = (moment(known[None], power) for power in range(3))  # [1, F] each
    t0, t1 = (moment(known * filled, power) for power in range(2))  # [D, F] each
    s2 = s2 + 1e-6 * s0
    return ((s2 * t0 - s1 * t1) / (s0 * s2 - s1.square())).T


def _votes(weight: Tensor, listened: Tensor) -> Tensor:
    """How far fits may be believed, [N]: by the joints that they had, [N, 18], and how many of these they heeded."""
    unlike = 1 - listened.sum(1) / weight.sum(1)  # 0..1
    return weight.sum(1) / (0.02 + unlike).square()


def _median_windows(body: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Median pose of each WINDOW frames, over the frames that show the joint. Returns [W, 18, 2] and trust [W, 18]."""
    poses, weights = [], []
    for points, weight in zip(body.split(WINDOW), trust.split(WINDOW), strict=True):
        seen = points.masked_fill(weight[..., None] == 0, math.nan)
        poses.append(seen.nanmedian(dim=0).values.nan_to_num(0.0))
        weights.append(weight.mean(dim=0))
    return torch.stack(poses), torch.stack(weights)


def _median_angle(angle: Tensor, weight: Tensor) -> Tensor:
    """Weighted median of angles [W] in radians, taken around their weighted mean direction."""
    mean = torch.atan2((weight * angle.sin()).sum(), (weight * angle.cos()).sum())
    offset, order = _wrapped(angle - mean).sort()
    below = weight[order].cumsum(0)
    return mean + offset[int((below < below[-1] / 2).sum())]


def _wrapped(angle: Tensor) -> Tensor:
    """Angles in radians within -pi..pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
