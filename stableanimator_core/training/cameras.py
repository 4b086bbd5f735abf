"""Cameras for misaligned pairs: perspective, aimed at a person, who is framed as photographers do."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..skeleton import HEAD
from .bodies import COLUMN, MID_EAR, crown_height, unit
from .draws import Draws

FRAMINGS = ("full body", "half body", "head and shoulders")
CROWN, SOLES = 18, (19, 20)  # outline points that are added to the 18 joints
_FRAMED = (
    (*range(18), CROWN, *SOLES),
    (*HEAD, CROWN, 1, 2, 5, 8, 11),
    (*HEAD, CROWN, 1, 2, 5),
)  # outline points that a framing holds
# Share of the picture's height or width that they fill, and how their free room above is split: 1 is all above.
_FILLS = ((0.45, 0.92), (0.6, 0.92), (0.45, 0.85))
_ABOVE = ((0.15, 0.9), (0.4, 1.0), (0.3, 1.0))
NEAREST = 0.05  # metres: points closer to the camera's plane, or behind it, are projected from here and not seen


class Camera(NamedTuple):
    """Pinhole cameras; azimuth 0 looks along -z, so that a heading of 0 faces the camera."""

    eye: Tensor  # [B, 3] metres
    axes: Tensor  # [B, 3, 3], rows are right, down and ahead
    focal: Tensor  # [B] px
    centre: Tensor  # [B, 2] px, where the axis meets the picture

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points [B, ..., 3] -> px [B, ..., 2] and depth in metres [B, ...]."""
        shape = (len(points), *[1] * (points.ndim - 2))
        from_eye = points - self.eye.view(*shape, 3)
        # Sums instead of a matrix product: TF32 would cost a pixel.
        right, down, depth = ((from_eye * row.reshape(*shape, 3)).sum(-1) for row in self.axes.unbind(1))
        flat = torch.stack([right, down], -1) / depth.clamp_min(NEAREST)[..., None]
        return flat * self.focal.view(*shape, 1) + self.centre.view(*shape, 2), depth


def outline(nodes: Tensor, rows: Tensor) -> Tensor:
    """Joints, crown and soles [B, F, 21, 3] of nodes [B, F, 20, 3]: what a framing has to hold."""
    neck, ears = nodes[..., 1, :], nodes[..., MID_EAR, :]
    crown = ears + unit(ears - neck) * crown_height(rows)[:, None, None]
    soles = nodes[..., [10, 13], :].clone()
    soles[..., 1] -= rows[:, COLUMN["ankle_height"]][:, None, None]
    return torch.cat([nodes[..., :18, :], crown[..., None, :], soles], dim=-2)


def draw_sizes(count: int, draws: Draws, *, aspect: tuple[float, float], side: tuple[float, float]) -> Tensor:
    """Picture sizes [count, 2] in whole px: width / height within aspect, the longer side within side."""
    ratio, longer = draws.log_uniform((count,), *aspect), draws.log_uniform((count,), *side)
    wide = torch.stack([longer * ratio.clamp_max(1), longer / ratio.clamp_min(1)], -1)
    return wide.round()


def draw_cameras(
    people: Tensor, held: Tensor, near: Tensor, framing: Tensor, size: Tensor, draws: Draws, *,
    focal: tuple[float, float], height: tuple[float, float], pitch: float, roll: float, closest: float, offset: float,
) -> Camera:  # fmt: skip
    """Cameras that frame people.

    people: [B, F, 21, 3] outlines; held: bool [B, F], frames that the framing has to hold; near: [B], z in metres of
    whatever comes nearest to the camera. framing: [B]; size: [B, 2] px.
    focal: range in picture heights; where somebody would come closer than the share `closest` of the distance, the
    camera stands farther off with a longer lens. height: range of half of the cameras, metres; pitch, roll: limits in
    degrees; offset: 0 centres the person, 1 uses all free room of the framing.
    """
    count = len(people)
    inside = torch.zeros((len(FRAMINGS), people.shape[2]), dtype=torch.bool, device=people.device)
    for number, points in enumerate(_FRAMED):
        inside[number, list(points)] = True
    shown = inside[framing][:, None] & held[..., None]  # [B, F, 21]
    fills, above = (torch.tensor(table, device=people.device)[framing].unbind(-1) for table in (_FILLS, _ABOVE))
    fill = draws.uniform((count,), *fills)

    low, high = _bounds(people, shown)  # [B, 3] metres
    middle, extent = (low + high) / 2, high - low
    lens = draws.log_uniform((count,), *focal)
    across = torch.maximum(extent[:, 1], extent[:, 0] * size[:, 1] / size[:, 0])
    away = torch.maximum(lens * across / fill, (near - middle[:, 2]) / (1 - closest))
    tilt = _tilt(middle[:, 1], away, draws, height=height, pitch=pitch)
    lean = (draws.normal((count,)) * roll / 3).clamp(-roll, roll).deg2rad()
    axes = _axes(tilt, lean)
    one, none = torch.ones_like(away), torch.zeros_like(size)
    unplaced = Camera(middle - away[:, None] * axes[:, 2], axes, one, none)

    low, high = _bounds(unplaced.project(people)[0], shown)  # [B, 2], of focal length 1
    zoom = (fill[:, None] * size / (high - low)).amin(1)
    room = size - zoom[:, None] * (high - low)
    # Sideways most people stand near the middle.
    sideways = draws.uniform((2, count)).mean(0)
    share = torch.stack([sideways, draws.uniform((count,), *above)], -1)
    share = 0.5 + offset * (share - 0.5)
    return unplaced._replace(focal=zoom, centre=room * share - zoom[:, None] * low)


def _tilt(aim: Tensor, away: Tensor, draws: Draws, *, height: tuple[float, float], pitch: float) -> Tensor:
    """Radians [B] by which cameras look down: half of them from a height in metres, half by a small angle."""
    from_height = torch.atan2(draws.uniform(aim.shape, *height) - aim, away)
    small = draws.normal(aim.shape) * math.radians(pitch / 3)
    tilt = torch.where(draws.chance(aim.shape, 0.5), from_height, small)
    return tilt.clamp(-math.radians(pitch), math.radians(pitch))


def _axes(tilt: Tensor, lean: Tensor) -> Tensor:
    """Rows right, down, ahead [B, 3, 3] of cameras that look down by tilt and are rolled by lean, radians."""
    zero = torch.zeros_like(tilt)
    right = torch.stack([zero + 1, zero, zero], -1)
    down = torch.stack([zero, -tilt.cos(), tilt.sin()], -1)
    ahead = torch.stack([zero, -tilt.sin(), -tilt.cos()], -1)
    sin, cos = lean.sin()[:, None], lean.cos()[:, None]
    return torch.stack([cos * right + sin * down, cos * down - sin * right, ahead], 1)


def _bounds(points: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest coordinates [B, D] of the shown ones of points [B, F, N, D]."""
    low = points.masked_fill(~shown[..., None], math.inf).amin((1, 2))
    high = points.masked_fill(~shown[..., None], -math.inf).amax((1, 2))
    return low, high
