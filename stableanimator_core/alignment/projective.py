"""Robust affine and projective fits between keypoint sets, for drivers filmed from above, from below or close up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .similarity import (
    ROBUST_SCALE,
    ROBUST_STEPS,
    fit_similarity,
    fit_similarity_robust,
    weighted_mean,
    weighted_spread,
)

# What a frame was fitted by: each kind holds the ones before it.
KINDS = ("similarity", "affine", "homography")
_SIMILARITY, _AFFINE, _HOMOGRAPHY = range(3)

# A kind needs so many weighted joints, two more than its unknowns; with fewer the next simpler kind is fitted ...
FEWEST = (2, 5, 6)
# ... and a body whose width is at least this share of its length, as standard deviations along its axes.
THINNEST = (0.0, 0.08, 0.12)

# How far people's postures and cameras make a fit differ from a similarity: the spread of each deviation that is
# expected before looking, against which the joints' disagreement is weighed.
STRETCH_PRIOR = 0.15  # share of the size
TILT_PRIOR = 0.08  # change of scale over a body's spread

# A circle becomes an ellipse of at most this ratio of its axes, and sizes change by at most this factor from a body's
# middle to the corner of its box.
MOST_STRETCH = 2.0
MOST_TILT = 1.6

_UNKNOWNS = 8  # scale and turn, two stretches, two shifts, two tilts
_FREE = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0], [1] * 8], dtype=torch.bool)  # [kind, 8]


class Affine(NamedTuple):
    """points -> matrix · points + translation, one transform per frame."""

    matrix: Tensor  # [F, 2, 2], det > 0
    translation: Tensor  # [F, 2] px
    kind: Tensor  # int64 [F], index into KINDS: what the joints allowed

    def apply(self, points: Tensor) -> Tensor:
        """Moves points, [F, N, 2] px -> [F, N, 2] px; one transform (F = 1) moves any number of frames."""
        return points @ self.matrix.mT + self.translation[:, None]


class Homography(NamedTuple):
    """points -> (matrix · (points, 1)), divided by its third coordinate; one transform per frame.

    The divisor is bounded within the body's box that was fitted (see MOST_TILT). Beyond it, it is held where it would
    double or halve the size at the body's middle, so that no point anywhere goes through infinity.
    """

    matrix: Tensor  # [F, 3, 3], det > 0; its third coordinate is 1 at the middle of the fitted joints
    kind: Tensor  # int64 [F], index into KINDS: what the joints allowed

    def apply(self, points: Tensor) -> Tensor:
        """Moves points, [F, N, 2] px -> [F, N, 2] px; one transform (F = 1) moves any number of frames."""
        moved = points @ self.matrix[:, :, :2].mT + self.matrix[:, None, :, 2]
        return moved[..., :2] / moved[..., 2:].clamp(0.5, 2.0)


def fit_affine(src: Tensor, dst: Tensor, weight: Tensor) -> Affine:
    """Robust affine fit dst ≈ matrix · src + translation that stays near the similarity where joints disagree.

    src, dst: [F, K, 2] px. weight: [F, K], 0 drops a joint; 1 is one joint's worth against the expected deviations.
    One transform for a clip: stack its frames as [1, F · K, 2] and divide the weights by F.
    A frame with too few joints, or with all near one line, gets a similarity; `kind` says which frame got what.
    Stretches are bounded by MOST_STRETCH, and a picture is never mirrored.
    Raises PoseError when a frame has fewer than two distinct weighted joints.
    """
    matrix, kind = _fit(src, dst, weight, _AFFINE)
    return Affine(matrix[:, :2, :2], matrix[:, :2, 2], kind)


def fit_homography(src: Tensor, dst: Tensor, weight: Tensor) -> Homography:
    """Robust projective fit that stays near the similarity where joints disagree; arguments and errors of fit_affine.

    Too few joints, or a body too thin, give an affine transform and then a similarity; `kind` says which frame got
    what. The perspective is bounded by MOST_TILT within the box of the joints.
    """
    return Homography(*_fit(src, dst, weight, _HOMOGRAPHY))


def _fit(src: Tensor, dst: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Matrices [F, 3, 3] and kinds [F] up to `most`.

    Both sets are normalised by the similarity, so that what is left to find lies near the identity. Its equations,
    A a + t = b (1 + p · a), are linear (the normalised DLT) and are solved over and over: divided by the last
    divisor, which makes their error a distance, weighed by Geman-McClure's weight as in fit_similarity_robust, and
    with a ridge on stretches p and tilts that is as strong as the joints' scatter says: exact joints are met exactly.
    """
    similarity, _ = fit_similarity_robust(src, dst, weight)
    centre, spread = weighted_mean(dst, weight), weighted_spread(dst, weight)  # [F, 2], [F]
    a = (similarity.apply(src) - centre[:, None]) / spread[:, None, None]  # [F, K, 2]
    b = (dst - centre[:, None]) / spread[:, None, None]
    kind = _kind(a, weight, most)  # [F]
    free = _FREE.to(kind.device)[kind]  # [F, 8]
    tau = a.new_tensor([math.inf] * 2 + [STRETCH_PRIOR] * 2 + [math.inf] * 2 + [TILT_PRIOR] * 2)
    solution = a.new_zeros(len(a), _UNKNOWNS)
    for c in torch.logspace(0, math.log10(ROBUST_SCALE), ROBUST_STEPS).tolist():
        squared = (_warp(a, solution) - b).square().sum(-1)  # [F, K]
        listened = weight * (1 + squared / c**2) ** -2
        scatter = (listened * squared).sum(1) / (2 * listened.sum(1) - free.sum(1)).clamp_min(1)  # [F], per coordinate
        solution = _bounded(_solve(a, b, listened, solution, scatter[:, None] / tau.square(), free), a, weight)
    # Bounds may have left place, turn and size off. As in fit_similarity_robust, the size is the ratio of both spreads.
    warped = _warp(a, solution)
    rest = fit_similarity(warped, b, listened)
    size = weighted_spread(b, listened) / weighted_spread(warped, listened)
    rest = rest.through(size, rest.angle, weighted_mean(warped, listened), weighted_mean(b, listened))
    out = affine_matrix(rest.scale[:, None, None] * rest.rotation, rest.translation)
    eye = torch.eye(2, dtype=a.dtype, device=a.device).expand(len(a), 2, 2)
    back = affine_matrix(spread[:, None, None] * eye, centre)
    into = affine_matrix(
        (similarity.scale / spread)[:, None, None] * similarity.rotation,
        (similarity.translation - centre) / spread[:, None],
    )
    matrix = back @ out @ _homography(solution) @ into
    middle = weighted_mean(src, weight)[:, :, None]  # [F, 2, 1]
    divisor = matrix[:, 2:, :2] @ middle + matrix[:, 2:, 2:]  # [F, 1, 1]
    return matrix / divisor, kind


def _kind(a: Tensor, weight: Tensor, most: int) -> Tensor:
    """The richest kind that each frame's joints allow, int64 [F]."""
    used = (weight > 0).sum(1)
    centred = a - weighted_mean(a, weight)[:, None]
    share = weight / weight.sum(1, keepdim=True)
    axes = torch.linalg.eigvalsh((share[..., None] * centred).mT @ centred).clamp_min(0).sqrt()  # [F, 2], ascending
    thickness = axes[:, 0] / axes[:, 1]
    kind = torch.zeros_like(used)
    for candidate in range(_AFFINE, most + 1):
        kind[(used >= FEWEST[candidate]) & (thickness >= THINNEST[candidate])] = candidate
    return kind


def _linear(solution: Tensor) -> Tensor:
    """The linear part [F, 2, 2] of unknowns [F, 8]: 1 + scale, turn, stretch along the axes and along the diagonals."""
    scale, turn, straight, slant = (1 + solution[:, 0], *solution[:, 1:4].unbind(1))
    rows = [torch.stack([scale + straight, slant - turn], -1), torch.stack([slant + turn, scale - straight], -1)]
    return torch.stack(rows, -2)


def _homography(solution: Tensor) -> Tensor:
    matrix = affine_matrix(_linear(solution), solution[:, 4:6])
    matrix[:, 2, :2] = solution[:, 6:]
    return matrix


def affine_matrix(linear: Tensor, shift: Tensor) -> Tensor:
    """linear [F, 2, 2] and shift [F, 2] as one matrix [F, 3, 3]."""
    matrix = torch.eye(3, dtype=linear.dtype, device=linear.device).repeat(len(linear), 1, 1)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = shift
    return matrix


def _divisor(a: Tensor, solution: Tensor) -> Tensor:
    return 1 + (a * solution[:, None, 6:]).sum(-1)  # [F, K]


def _warp(a: Tensor, solution: Tensor) -> Tensor:
    flat = a @ _linear(solution).mT + solution[:, None, 4:6]
    return flat / _divisor(a, solution).clamp_min(0.1)[..., None]  # joints without weight may lie anywhere


def _solve(a: Tensor, b: Tensor, weight: Tensor, last: Tensor, ridge: Tensor, free: Tensor) -> Tensor:
    """Ridge least squares of the linear equations. weight: [F, K], ridge and free: [F, 8]. Returns [F, 8]."""
    x, y = a.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    across = torch.stack([x, -y, x, y, one, zero, -b[..., 0] * x, -b[..., 0] * y], -1)  # [F, K, 8]
    down = torch.stack([y, x, -y, x, zero, one, -b[..., 1] * x, -b[..., 1] * y], -1)
    rows = torch.cat([across, down], 1) * free[:, None]  # [F, 2 K, 8]
    known = torch.cat([b[..., 0] - x, b[..., 1] - y], 1)  # [F, 2 K]
    share = (weight / _divisor(a, last).clamp_min(0.1).square()).repeat(1, 2)
    normal = rows.mT @ (share[..., None] * rows) + torch.diag_embed(ridge + (~free).to(ridge))
    return torch.linalg.solve(normal, (rows.mT @ (share * known)[..., None])).squeeze(-1)


def _bounded(solution: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """The unknowns with stretch and tilt drawn back to what MOST_STRETCH and MOST_TILT allow."""
    size = torch.hypot(1 + solution[:, 0], solution[:, 1])
    stretch = torch.hypot(solution[:, 2], solution[:, 3])
    most = size * (MOST_STRETCH - 1) / (MOST_STRETCH + 1)
    stretched = solution[:, 2:4] * (most / stretch.clamp_min(1e-12)).clamp_max(1)[:, None]
    box = a.abs().masked_fill(weight[..., None] <= 0, 0).amax(1)  # [F, 2] from the middle
    tilt = (solution[:, 6:].abs() * box).sum(1)  # [F]
    tilted = solution[:, 6:] * ((1 - 1 / MOST_TILT) / tilt.clamp_min(1e-12)).clamp_max(1)[:, None]
    return torch.cat([solution[:, :2], stretched, solution[:, 4:6], tilted], 1)
