"""Fits beyond a similarity, for drivers filmed from above, from below or close up, on top of where a similarity stands.

Two bodies seldom stand alike, and a stretch that is fitted to two postures is wrong more often than none. So the
reference is heeded only in frames whose posture is its own, and what perspective does is read off the driver alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .fits import fittable_frames, shared_trust
from .guidance import WINDOW, place_of
from .projective import KINDS, Affine, Homography, affine_matrix
from .similarity import Similarity, fit_similarity_robust, weighted_mean, weighted_spread

# Bones and other lengths: the logarithm that adults' have before ordinary cameras, to an unknown unit, and its standard
# deviation. Of each clip the REACH quantile counts: a bone seldom lies in the picture's plane for long.
LENGTHS = {
    (2, 5): (0.06, 0.24), (8, 11): (-0.54, 0.23), (1, 8): (0.60, 0.11), (1, 11): (0.60, 0.11), (2, 8): (0.61, 0.12),
    (5, 11): (0.61, 0.12), (2, 3): (0.06, 0.15), (5, 6): (0.06, 0.15), (3, 4): (-0.12, 0.19), (6, 7): (-0.12, 0.19),
    (8, 9): (0.35, 0.15), (11, 12): (0.35, 0.15), (9, 10): (0.33, 0.20), (12, 13): (0.33, 0.20), (0, 1): (-0.03, 0.23),
    (16, 17): (-0.51, 0.26), (14, 15): (-1.19, 0.29), (0, 16): (-0.71, 0.42), (0, 17): (-0.72, 0.42),
}  # fmt: skip
REACH = 0.8

# How much larger than expected bones are per spread upwards: its deviation that is expected before looking, how much
# perspective is made of it (of what is found a part is the body's own proportions), and the most change of size that
# this may be anywhere in the clip: who walks about does so in depth, which no homography of a picture follows.
GROWTH_PRIOR = 0.1
TILT_OF_GROWTH = 0.5
MOST_CHANGE = 0.25

# Postures are alike below this distance of both poses, in spreads; frames that much worse than the best hardly count.
ALIKE, NEARLY = 0.16, 0.03


def fit_upright(body: Tensor, seen: Tensor) -> Homography:
    """The transform (F = 1) that takes perspective along the vertical out of a clip: it shows heads large from above,
    feet from below. From the driver's bones alone, against adults'; the identity when fewer than two are seen.

    body: [F, 18, 2] px, seen: bool [F, 18]. A body's middle stays where it is, in its size.
    """
    place = place_of(body[None], seen[None])
    length, spread = _reaches(body, seen)
    start, end = torch.tensor(list(LENGTHS)).T
    points = place.normalised(body[None])[0].masked_fill(~seen[..., None], math.nan)
    from_middle = points - points.nanmean(1, keepdim=True)
    height = -(from_middle[:, start, 1] + from_middle[:, end, 1]).nanmean(0) / 2  # [M] spreads upwards
    known = length.isfinite() & height.isfinite()
    matrix = torch.eye(3, dtype=body.dtype)
    if known.sum() >= 2:
        weight, height, length = spread[known] ** -2, height[known], length[known]
        height, length = (part - (weight * part).sum() / weight.sum() for part in (height, length))
        growth = (weight * height * length).sum() / ((weight * height.square()).sum() + GROWTH_PRIOR**-2)
        farthest = points[seen][:, 1].abs().amax()
        matrix[2, 1] = (-TILT_OF_GROWTH * growth).clamp(-MOST_CHANGE / farthest, MOST_CHANGE / farthest)
    into = torch.eye(3, dtype=body.dtype)
    into[:2, :2] /= place.spread
    into[:2, 2] = -place.centre[0] / place.spread
    kind = int(matrix[2, 1] != 0) * KINDS.index("homography")
    return Homography((into.inverse() @ matrix @ into)[None], torch.tensor([kind]))


def fit_alike(
    body: Tensor, seen: Tensor, target: Tensor, shown: Tensor, fit: Callable[..., Affine | Homography]
) -> Affine | Homography | None:
    """What `fit` (of projective) adds, F = 1, to a similarity, from the frames in the reference's posture; None when
    there are none. body: [F, 18, 2] px where the similarity has put it, target: [18, 2] px.
    """
    trust = shared_trust(seen, shown)
    good = fittable_frames(body, target, trust)
    if not good.any():
        return None
    weight, there = trust[good], target.expand(int(good.sum()), -1, -1)
    own, _ = fit_similarity_robust(body[good], there, weight)
    here = own.apply(body[good])
    apart = ((weight * (here - there).square().sum(-1)).sum(1) / weight.sum(1)).sqrt() / weighted_spread(there, weight)
    if apart.min() > ALIKE:
        return None
    vote = torch.exp(-0.5 * ((apart - apart.min()) / NEARLY).square())
    weight = weight * (vote / vote.sum())[:, None]
    # Where the clip begins, the similarity has put the body elsewhere than over the reference if it sits, say.
    away = _first_middle(body, trust) - _first_middle(there, trust[good])
    return fit(*(part.flatten(0, 1)[None] for part in (here + away, there + away, weight)))


def chained_affine(place: Similarity, warp: Affine | None) -> Affine:
    """The warp, of one frame, after the similarity, of F frames; None is no warp."""
    matrix, kind = _chained([place, warp])
    return Affine(matrix[:, :2, :2], matrix[:, :2, 2], kind)


def chained_homography(view: Homography, place: Similarity, warp: Homography | None, middle: Tensor) -> Homography:
    """View, place and warp one after the other; middle: [2] px of the driver, where the divisor is 1."""
    matrix, kind = _chained([view, place, warp])
    divisor = matrix[:, 2:, :2] @ middle[:, None] + matrix[:, 2:, 2:]  # [F, 1, 1]
    return Homography(matrix / divisor, kind)


def _chained(transforms: list[Similarity | Affine | Homography | None]) -> tuple[Tensor, Tensor]:
    """Matrices [F, 3, 3] of transforms of one or F frames, the first one first, and the richest of their KINDS [F]."""
    matrix, kind = torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, dtype=torch.long)
    for transform in filter(None, transforms):
        if isinstance(transform, Similarity):
            step = affine_matrix(transform.scale[:, None, None] * transform.rotation, transform.translation)
        else:
            kind = torch.maximum(kind, transform.kind)
            affine = isinstance(transform, Affine)
            step = affine_matrix(transform.matrix, transform.translation) if affine else transform.matrix
        matrix = step @ matrix
    return matrix, kind.expand(len(matrix))


def _reaches(body: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """How much longer LENGTHS are in a clip than expected, as logarithms [M], NaN where unseen; and their spread."""
    start, end = torch.tensor(list(LENGTHS)).T
    expected, spread = torch.tensor(list(LENGTHS.values()), dtype=body.dtype).T
    length = (body[:, start] - body[:, end]).norm(dim=-1).masked_fill(~(seen[:, start] & seen[:, end]), math.nan)
    reach = length.nanquantile(REACH, dim=0)
    return reach.masked_fill(reach <= 0, math.nan).log() - expected, spread


def _first_middle(body: Tensor, trust: Tensor) -> Tensor:
    """Middle of the joints of the first WINDOW frames that show any, [2]. body: [F, 18, 2], trust: [F, 18]."""
    first = (trust.sum(1) > 0).nonzero().squeeze(1)[:WINDOW]
    return weighted_mean(body[first].flatten(0, 1)[None], trust[first].flatten()[None])[0]
