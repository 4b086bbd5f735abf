"""Cameras for misaligned pairs: perspective, aimed at a person, who is framed as photographers do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..draws import Draws
from ..skeleton import HEAD
from .bodies import COLUMN, MID_EAR, crown_height, unit

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

    def of_frames(self, frames: int) -> Camera:
        """Each camera for every one of so many frames, B · frames."""
        return Camera(*(part.repeat_interleave(frames, 0) for part in self))

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points [B, ..., 3] -> px [B, ..., 2] and depth in metres [B, ...]."""
        shape = (len(points), *[1] * (points.ndim - 2))
        from_eye = points - self.eye.view(*shape, 3)
        # Sums instead of a matrix product: TF32 would cost a pixel.
        right, down, depth = ((from_eye * row.reshape(*shape, 3)).sum(-1) for row in self.axes.unbind(1))
        flat = torch.stack([right, down], -1) / depth.clamp_min(NEAREST)[..., None]
        return flat * self.focal.view(*shape, 1) + self.centre.view(*shape, 2), depth


@dataclass(frozen=True)
class Steep:
    """A camera that looks down or up at somebody from close by. Ranges are (low, high)."""

    pitch: tuple[float, float] = (25.0, 50.0)  # degrees, down or up alike
    focal: tuple[float, float] = (0.6, 1.2)  # picture heights
    closest: float = 0.5  # as in draw_cameras


@dataclass(frozen=True)
class Handheld:
    """How far a camera that moves during a clip strays, at most, to either side. Every clip draws its own share."""

    pan: float = 0.3  # heights of the body in the picture, across and up
    zoom: float = 0.25  # of ln(focal length)
    walk: float = 0.15  # of the distance, in all directions
    roll: float = 4.0  # degrees
    period: tuple[float, float] = (30.0, 120.0)  # frames of a course there and back


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
    steep: Steep | None = None,
) -> Camera:  # fmt: skip
    """Cameras that frame people.

    people: [B, F, 21, 3] outlines; held: bool [B, F], frames that the framing has to hold; near: [B], z in metres of
    whatever comes nearest to the camera. framing: [B]; size: [B, 2] px.
    focal: range in picture heights; where somebody would come closer than the share `closest` of the distance, the
    camera stands farther off with a longer lens. height: range of half of the cameras, metres; pitch, roll: limits in
    degrees; offset: 0 centres the person, 1 uses all free room of the framing. steep: instead of focal, height, pitch
    and closest.
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
    focal, closest = (focal, closest) if steep is None else (steep.focal, steep.closest)
    lens = draws.log_uniform((count,), *focal)
    across = torch.maximum(extent[:, 1], extent[:, 0] * size[:, 1] / size[:, 0])
    away = torch.maximum(lens * across / fill, (near - middle[:, 2]) / (1 - closest))
    if steep is None:
        tilt = _tilt(middle[:, 1], away, draws, height=height, pitch=pitch)
    else:
        side = torch.where(draws.chance((count,), 0.5), 1.0, -1.0)
        tilt = (side * draws.uniform((count,), *steep.pitch)).deg2rad()
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


def handheld(camera: Camera, frames: int, tall: Tensor, moves: Handheld, draws: Draws) -> Camera:
    """The cameras of B clips as they move: B · frames cameras that begin where they are. tall: [B] px, of the body."""
    count = len(tall)
    shape = (count, 1, 7)
    time = torch.arange(frames, device=draws.device).view(1, frames, 1)
    start = draws.uniform(shape, 0.0, 2 * torch.pi)
    phase = start + 2 * torch.pi * time / draws.log_uniform(shape, *moves.period)
    share = draws.uniform(shape, -1.0, 1.0) * (phase.sin() - start.sin()) / 2  # [B, F, 7] -1..1, 0 in the first frame
    pan, zoom, walk, roll = share.split((2, 1, 3, 1), -1)
    turn = (moves.pan * pan * (tall / camera.focal)[:, None, None]).atan()
    roll = math.radians(moves.roll) * roll
    away = (camera.eye[:, 2].abs() * moves.walk)[:, None, None]  # people stand about the origin
    moved = camera.of_frames(frames)
    return moved._replace(
        eye=moved.eye + (away * walk).flatten(0, 1),
        axes=_rotation(*torch.cat([turn, roll], -1).flatten(0, 1).unbind(-1)) @ moved.axes,
        focal=moved.focal * (moves.zoom * zoom).exp().flatten(),
    )


def _rotation(right: Tensor, down: Tensor, roll: Tensor) -> Tensor:
    """Rotations [N, 3, 3] of a camera's own axes: to the right, down and about the axis ahead, radians [N]."""
    zero, one = torch.zeros_like(roll), torch.ones_like(roll)

    def rows(*parts: Tensor) -> Tensor:
        return torch.stack(parts, -1).unflatten(-1, (3, 3))

    across = rows(right.cos(), zero, -right.sin(), zero, one, zero, right.sin(), zero, right.cos())
    upright = rows(one, zero, zero, zero, down.cos(), -down.sin(), zero, down.sin(), down.cos())
    lean = rows(roll.cos(), roll.sin(), zero, -roll.sin(), roll.cos(), zero, zero, zero, one)
    return lean @ upright @ across


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
