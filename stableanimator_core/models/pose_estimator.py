"""The built-in pose estimator: two small networks with DWPose's inputs and outputs, for people as performers are drawn.

What surrounds them (letterbox, boxes, crops, peaks) is DWPose's own: pose/dwpose.py. Their raw readings are what they
are trained on, their forwards what their ONNX files compute.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DETECTOR_SIZE = (256, 256)  # height, width in px
KEYPOINT_SIZE = (192, 144)
STRIDES = (8, 16, 32)  # px of the detector's input per cell, as YOLOX's
KEYPOINTS = 133  # of COCO-WholeBody
BINS = 8  # SimCC cells in a cell of the heat map: two in a pixel, four pixels in a cell
REACH = 2  # cells of the heat map to each side that a peak's place is read from


class Conv(nn.Sequential):
    """Convolution, normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class Residual(nn.Module):
    """Two convolutions, added to what they see."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = Conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Surroundings(nn.Module):
    """Adds what the whole picture shows to every place."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.mean((2, 3)))[..., None, None]


class PersonDetector(nn.Module):
    """Where people are, as YOLOX says it.

    forward: BGR pictures 0..255 [B, 3, H, W] -> [B, A, 6]: a box's centre in cells from its own cell's corner, the
    logarithm of its size in cells, objectness 0..1, and the class "person", which is 1: nothing else is known.
    H and W are multiples of 32; A cells of three grids, fine to coarse, row by row.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 24, 48, 80, 96), neck: int = 48):
        super().__init__()
        half, quarter, *grids = widths
        self.stem = nn.Sequential(Conv(3, half, stride=2), Conv(half, quarter, stride=2))
        self.fine = nn.Sequential(Conv(quarter, grids[0], stride=2), Residual(grids[0]))
        self.middle = nn.Sequential(Conv(grids[0], grids[1], stride=2), Residual(grids[1]))
        self.coarse = nn.Sequential(Conv(grids[1], grids[2], stride=2), Residual(grids[2]), Surroundings(grids[2]))
        self.necks = nn.ModuleList(Conv(width, neck, kernel=1) for width in grids)
        self.heads = nn.ModuleList(nn.Sequential(Conv(neck, neck), nn.Conv2d(neck, 5, 1)) for _ in grids)
        for head in self.heads:
            nn.init.constant_(head[-1].bias[4], -4.0)  # nearly all cells see nobody

    def read(self, pictures_bgr: Tensor) -> Tensor:
        """[B, A, 5]: as forward's, without the class, with the objectness' logit."""
        grids = [self.fine(self.stem(pictures_bgr / 127.5 - 1))]
        grids += [self.middle(grids[0])]
        grids += [self.coarse(grids[1])]
        above, raw = None, []
        for grid, neck, head in reversed(list(zip(grids, self.necks, self.heads))):
            here = neck(grid)
            above = here if above is None else here + F.interpolate(above, scale_factor=2.0, mode="nearest")
            raw.insert(0, head(above).flatten(2).transpose(1, 2))  # [B, h w, 5]
        return torch.cat(raw, dim=1)

    def forward(self, pictures_bgr: Tensor) -> Tensor:
        raw = self.read(pictures_bgr)
        objectness = raw[..., 4:].sigmoid()
        return torch.cat([raw[..., :4], objectness, torch.ones_like(objectness)], dim=-1)


class Reading(NamedTuple):
    """What the keypoint network believes of K points; probabilities are logarithms that need not be normalised."""

    x: Tensor  # [B, K, 2 W]
    y: Tensor  # [B, K, 2 H]
    seen: Tensor  # [B, K] logit of the point being in the crop


class KeypointNet(nn.Module):
    """Where the 133 points of COCO-WholeBody are in a person's crop, as SimCC says it.

    forward: RGB crops with ImageNet's mean and deviation taken out [B, 3, H, W] -> x [B, 133, 2 W], y [B, 133, 2 H]:
    one curve per point and axis, two cells a pixel, whose peak is where the point is and as high (0..1) as the network
    is sure that it is seen. H and W are multiples of 16.
    A heat map of quarter size is summed over either axis; a curve between two cells follows from those around it.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), neck: int = 48, points: int = KEYPOINTS):
        super().__init__()
        half, quarter, eighth, sixteenth = widths
        self.stem = nn.Sequential(Conv(3, half, stride=2), Conv(half, quarter, stride=2), Residual(quarter))
        self.eighth = nn.Sequential(Conv(quarter, eighth, stride=2), Residual(eighth), Residual(eighth))
        self.sixteenth = nn.Sequential(
            Conv(eighth, sixteenth, stride=2), Residual(sixteenth), Surroundings(sixteenth), Residual(sixteenth)
        )
        self.from_sixteenth = Conv(sixteenth, eighth, kernel=1)
        self.up_eighth = Residual(eighth)
        self.from_eighth = Conv(eighth, neck, kernel=1)
        self.from_quarter = Conv(quarter, neck, kernel=1)
        self.up_quarter = Conv(neck, neck)
        self.heat = nn.Conv2d(neck, points, 1)
        self.between = nn.Conv1d(1, BINS, 2 * REACH + 1)
        self.seen = nn.Parameter(torch.zeros(points, neck))
        self.seen_bias = nn.Parameter(torch.zeros(points))
        _interpolate(self.between)

    def read(self, crops: Tensor) -> Reading:
        quarter = self.stem(crops)
        eighth = self.eighth(quarter)
        up = self.from_sixteenth(self.sixteenth(eighth))
        up = self.up_eighth(eighth + F.interpolate(up, scale_factor=2.0, mode="nearest"))
        up = self.from_quarter(quarter) + F.interpolate(self.from_eighth(up), scale_factor=2.0, mode="nearest")
        features = self.up_quarter(up)  # [B, D, h, w]
        heat = self.heat(features)  # [B, K, h, w]
        there = heat.flatten(2).softmax(-1) @ features.flatten(2).transpose(1, 2)  # [B, K, D] where each point is
        seen = (there * self.seen).sum(-1) + self.seen_bias
        return Reading(self._curve(heat.logsumexp(2)), self._curve(heat.logsumexp(3)), seen)

    def _curve(self, cells: Tensor) -> Tensor:
        """[B, K, n] -> [B, K, BINS n]."""
        padded = F.pad(cells.flatten(0, 1)[:, None], (REACH, REACH), mode="replicate")
        curves = self.between(padded).transpose(1, 2).flatten(1)  # [B K, n BINS]
        return curves.reshape(-1, cells.shape[1], curves.shape[1])

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        reading = self.read(crops)
        sure = reading.seen.sigmoid()[..., None]
        x, y = ((curve - curve.amax(-1, keepdim=True)).exp() * sure for curve in reading[:2])
        return x, y


class PoseEstimator(nn.Module):
    """Both networks, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = PersonDetector()
        self.keypoints = KeypointNet()


def _interpolate(between: nn.Conv1d) -> None:
    """Start as straight lines from cell to cell, with the middle of a cell at its value."""
    middle = between.kernel_size[0] // 2
    offset = (torch.arange(BINS) + 0.5) / BINS - 0.5  # in cells
    with torch.no_grad():
        between.weight.zero_()
        between.bias.zero_()
        between.weight[:, 0, middle] = 1 - offset.abs()
        between.weight[:, 0, middle - 1] = (-offset).clamp_min(0)
        between.weight[:, 0, middle + 1] = offset.clamp_min(0)
