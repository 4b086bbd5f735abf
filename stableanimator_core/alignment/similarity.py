"""Least-squares and robust similarity transforms between keypoint sets, batched over frames."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import PoseError

# Joints within this share of their coordinates' size count as one place.
DISTINCT = 1e-6

ROBUST_STEPS = 12
# Where Geman-McClure's weight has fallen to a quarter at the end, in units of the target's spread.
ROBUST_SCALE = 0.4


class Similarity(NamedTuple):
    """points -> scale · rotation · points + translation, one transform per frame."""

    scale: Tensor  # [F]
    rotation: Tensor  # [F, 2, 2], det = 1
    translation: Tensor  # [F, 2] px

    def apply(self, points: Tensor) -> Tensor:
        """Moves points, [F, N, 2] px -> [F, N, 2] px."""
        return self.scale[:, None, None] * (points @ self.rotation.mT) + self.translation[:, None]

    @property
    def angle(self) -> Tensor:
        """Rotation in radians, -pi..pi, [F]; positive turns x towards y: clockwise on a picture."""
        return torch.atan2(self.rotation[:, 1, 0], self.rotation[:, 0, 0])

    @classmethod
    def through(cls, scale: Tensor, angle: Tensor, src: Tensor, dst: Tensor) -> Similarity:
        """The transform of given scale and angle (radians), [F], that takes the point src to dst, [F, 2] px."""
        cos, sin = torch.cos(angle), torch.sin(angle)
        rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [F, 2, 2]
        return cls(scale, rotation, dst - scale[:, None] * (rotation @ src[..., None]).squeeze(-1))


def fit_similarity(src: Tensor, dst: Tensor, weight: Tensor) -> Similarity:
    """Least-squares similarity: dst ≈ scale · rotation · src + translation, a proper rotation.

    src, dst: [F, K, 2] px. weight: [F, K] >= 0, 0 drops a joint.
    Raises PoseError when a frame has fewer than two distinct weighted joints.
    Umeyama, PAMI 1991. In the plane the proper rotation of its SVD is one angle, whose tangent is the summed cross
    products over the summed dot products: exact, quick and differentiable without a decomposition.
    """
    _require_fittable(src, dst, weight)
    src_mean, dst_mean = weighted_mean(src, weight), weighted_mean(dst, weight)  # [F, 2]
    a, b = src - src_mean[:, None], dst - dst_mean[:, None]  # [F, K, 2]
    dot = (weight * (a * b).sum(-1)).sum(-1)  # [F]
    cross = (weight * (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])).sum(-1)
    scale = torch.hypot(dot, cross) / (weight * a.square().sum(-1)).sum(-1)
    return Similarity.through(scale, torch.atan2(cross, dot), src_mean, dst_mean)


def fit_similarity_robust(src: Tensor, dst: Tensor, weight: Tensor) -> tuple[Similarity, Tensor]:
    """fit_similarity that stops listening to joints which disagree with the rest.

    Geman-McClure by iteratively reweighted least squares: weight · (1 + (r / c)²)⁻², where c comes down from the
    target's spread to ROBUST_SCALE of it, so that the first guess does not decide the outcome. The scale is the ratio
    of both spreads: least squares would shrink the person where the two postures differ.
    Returns the transform and the weights that were listened to, [F, K]. Shapes, units and errors as in fit_similarity.
    """
    fit, listened = fit_similarity(src, dst, weight), weight
    spread = weighted_spread(dst, weight)[:, None]  # [F, 1]
    for c in torch.logspace(0, math.log10(ROBUST_SCALE), ROBUST_STEPS).tolist():
        residual = (fit.apply(src) - dst).norm(dim=-1)  # [F, K] px
        listened = weight * (1 + (residual / (c * spread)).square()) ** -2
        fit = fit_similarity(src, dst, listened)
    scale = weighted_spread(dst, listened) / weighted_spread(src, listened)
    fit = Similarity.through(scale, fit.angle, weighted_mean(src, listened), weighted_mean(dst, listened))
    return fit, listened


def weighted_mean(points: Tensor, weight: Tensor) -> Tensor:
    """points: [F, K, 2], weight: [F, K] -> [F, 2]."""
    return (weight[..., None] * points).sum(1) / weight.sum(1, keepdim=True)


def weighted_spread(points: Tensor, weight: Tensor) -> Tensor:
    """Root mean square distance from the weighted mean. points: [F, K, 2], weight: [F, K] -> [F]."""
    distance2 = (points - weighted_mean(points, weight)[:, None]).square().sum(-1)  # [F, K]
    return ((weight * distance2).sum(1) / weight.sum(1)).sqrt()


def fittable(src: Tensor, dst: Tensor, weight: Tensor) -> Tensor:
    """Frames with at least two weighted joints at distinct places in both poses. Returns bool [F]."""
    used = weight > 0
    enough = used.sum(1) >= 2
    for points in (src, dst):
        high = points.masked_fill(~used[..., None], -math.inf).amax(1)  # [F, 2]
        low = points.masked_fill(~used[..., None], math.inf).amin(1)
        size = torch.maximum(high.abs(), low.abs()).amax(-1)
        enough &= (high - low).amax(-1) > DISTINCT * size
    return enough


def _require_fittable(src: Tensor, dst: Tensor, weight: Tensor) -> None:
    if src.shape != dst.shape or src.ndim != 3 or src.shape[-1] != 2 or weight.shape != src.shape[:2]:
        raise PoseError(
            f"similarity fit: src {list(src.shape)}, dst {list(dst.shape)}, weight {list(weight.shape)}; "
            "expected [F, K, 2], [F, K, 2], [F, K]"
        )
    enough = fittable(src, dst, weight)
    if not enough.all():
        frame = int((~enough).nonzero()[0])
        raise PoseError(
            f"frame {frame}: {int((weight[frame] > 0).sum())} of {src.shape[1]} joints shared by both poses, "
            "need 2 at distinct places; lower min_score or trim the clip"
        )
