"""What the pose estimator learns from: rendered performers, in every step shown anew as cameras show people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..models.pose_estimator import DETECTOR_SIZE, KEYPOINT_SIZE
from ..performers import open_clips, rendered
from ..pose import dwpose
from ..skeleton import BODY_POINTS, FACE_POINTS
from .faces import degrade

FACE, HANDS = slice(BODY_POINTS, BODY_POINTS + FACE_POINTS), slice(BODY_POINTS + FACE_POINTS, None)  # of stored points
FEET = 6  # COCO-WholeBody's points between body and face; performers have none

# What a box has beyond its keypoints, in shares of the face's height and width and of the box's longer side.
HAIR, CHEEKS, MARGIN = 0.9, 0.15, 0.04
SMALLEST_BOX = 12.0  # px of the detector's input; nobody is to be found in less
SHOWN = 0.3  # share of a person that must be in the picture to be found
CUT = 0.3  # share of the people whom the picture's edge cuts off, beside those that are rendered so
CUT_SIDES = (0.15, 0.1, 0.15, 0.6)  # how often at the left, top, right, bottom
CUT_LEAVES = 0.45  # of a person's width or height, at least


class Material(NamedTuple):
    """Rendered frames and what is known of them."""

    frames: np.ndarray  # uint8 [N, S, S, 3] RGB, a memory map
    points: np.ndarray  # float32 [N, 133, 2] px
    seen: np.ndarray  # float32 [N, 133] 0 or 1
    boxes: np.ndarray  # float32 [N, 4] x0 y0 x1 y1 px


class Draw(NamedTuple):
    """The random choices of one step. Matrices [B, 2, 3] lead from pixels of a network's input to the frame's."""

    frames: Tensor  # uint8 [B, S, S, 3]
    noise: int  # seed
    window: Tensor  # [B, 4] x0 y0 x1 y1 px of the frame that the keypoint network is shown; black beyond
    crop: Tensor  # matrices
    points: Tensor  # [B, 133, 2] px of the crop
    seen: Tensor  # [B, 133]
    canvas: Tensor  # matrices
    beside: Tensor  # matrices of the second person: the next one of the batch
    split: Tensor  # [B] x in px of the canvas from which on the second person is shown
    extent: Tensor  # [B, 2] width and height of the picture on the canvas; grey beyond
    boxes: Tensor  # [B, 2, 4] px of the canvas; nan where there is nobody to be found


class Batch(NamedTuple):
    """What both networks are shown, and what they should find."""

    canvases: Tensor  # [B, 3, H, W] BGR 0..255
    boxes: Tensor  # [B, 2, 4] px, nan: nobody
    crops: Tensor  # [B, 3, h, w] normalised RGB
    points: Tensor  # [B, 133, 2] px of the crop
    seen: Tensor  # [B, 133] 0 or 1


def load_material(folder: Path) -> Material:
    """The frames and keypoints of a folder of rendered clips. Raises InputError when they are not all there."""
    stored = open_clips(folder)
    if stored.keypoints is None:
        raise InputError(f"{folder}: its clips were rendered before keypoints were kept; render them again")
    if rendered(folder) < len(stored.frames):
        raise InputError(f"{folder}: {rendered(folder)} of {len(stored.frames)} clips are rendered; wait for the rest")
    height, width = stored.frames.shape[2:4]
    if height != width:
        raise InputError(f"{folder}: its clips are {width} x {height} px; square ones are needed, render others")
    keypoints = np.array(stored.keypoints).reshape(-1, *stored.keypoints.shape[2:])  # [N, 128, 3]
    frames = stored.frames.reshape(-1, *stored.frames.shape[2:])
    points, seen = to_wholebody(keypoints)
    boxes = person_boxes(keypoints, width, height)
    return Material(frames, points, seen, boxes)


def to_wholebody(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stored points [..., 128, 3] in the order of COCO-WholeBody [..., 133, 2] and which are seen [..., 133].

    The inverse of dwpose.to_openpose: the neck goes; the feet, which performers lack, are never seen.
    """
    order = sorted((source, joint) for joint, source in enumerate(dwpose.BODY_FROM_COCO) if source is not None)
    feet = np.zeros((*keypoints.shape[:-2], FEET, 3), keypoints.dtype)
    body = keypoints[..., [joint for _, joint in order], :]
    whole = np.concatenate([body, feet, keypoints[..., BODY_POINTS:, :]], axis=-2)
    return whole[..., :2], (whole[..., 2] > 0).astype(np.float32)


def person_boxes(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes [N, 4] px around people, with hair and shoes, inside the picture. keypoints: [N, 128, 3], some seen."""
    low, high = _extent(keypoints)
    face_low, face_high = _extent(keypoints[:, FACE])
    grow = (face_high - face_low) * [CHEEKS, HAIR]
    low, high = np.fmin(low, face_low - grow), np.fmax(high, face_high + grow * [1, 0])
    margin = MARGIN * (high - low).max(-1, keepdims=True)
    edge = np.array([width, height], dtype=np.float32)
    low, high = low - margin * [1, 0], high + margin
    return np.concatenate([low.clip(0, edge), high.clip(0, edge)], axis=-1).astype(np.float32)


def _extent(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest x y [N, 2] of the seen points; nan where there is none."""
    seen = keypoints[..., 2:] > 0
    low = np.where(seen, keypoints[..., :2], np.inf).min(-2)
    high = np.where(seen, keypoints[..., :2], -np.inf).max(-2)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def draw_steps(material: Material, batch: int, first: int, *, seed: int, process: int) -> Iterator[Draw]:
    """The random choices of one process's steps from the first one on, without end."""
    for step in count(first):
        yield draw_step(material, batch, np.random.default_rng([seed, step, process]))


def draw_step(material: Material, batch: int, rng: np.random.Generator) -> Draw:
    """Frames, and how each network sees them."""
    rows = rng.integers(len(material.frames), size=batch)
    boxes, points, side = material.boxes[rows], material.points[rows], material.frames.shape[1]
    window = _draw_windows(boxes, side, rng)
    seen = material.seen[rows] * _inside(points, window[:, None, :2], window[:, None, 2:])
    cut = np.concatenate([np.maximum(boxes[:, :2], window[:, :2]), np.minimum(boxes[:, 2:], window[:, 2:])], axis=1)
    crop, points = _draw_crops(cut, points, rng)
    seen = seen * _inside(points, 0, KEYPOINT_SIZE[::-1])
    canvas, extent, split, second, found = _draw_canvases(boxes, np.roll(boxes, -1, axis=0), side, rng)
    floats = (
        torch.from_numpy(np.asarray(part, dtype=np.float32))
        for part in (window, crop, points, seen, canvas, second, split, extent, found)
    )
    return Draw(torch.from_numpy(material.frames[rows]), int(rng.integers(2**62)), *floats)


def _inside(points: np.ndarray, low: np.ndarray | int, high: np.ndarray | tuple[int, int]) -> np.ndarray:
    return ((points >= low) & (points < high)).all(-1)


def _draw_windows(boxes: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """What is shown of frames, [B, 4] px: all, or with one edge through the person."""
    windows = np.tile(np.array([0.0, 0, side, side]), (len(boxes), 1))
    for window, box in zip(windows, boxes):
        edge = int(rng.choice(4, p=CUT_SIDES))
        kept = rng.uniform(CUT_LEAVES, 1) * (box[2:] - box[:2])[edge % 2]
        if rng.random() < CUT:
            window[edge] = box[edge - 2] - kept if edge < 2 else box[edge - 2] + kept
    return windows


def _draw_crops(boxes: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crops around roughly the right boxes, some of them turned: matrices, and points in px of the crop."""
    height, width = KEYPOINT_SIZE
    matrices = np.empty((len(boxes), 2, 3))
    for i, box in enumerate(boxes):
        centre, size = dwpose.crop_region(box, width, height)
        size = size * np.exp(rng.uniform(-0.22, 0.25))
        centre = centre + size * rng.uniform(-0.08, 0.08, 2)
        turn = np.deg2rad(rng.uniform(-20, 20)) if rng.random() < 0.4 else 0.0
        scale = size[0] / width  # px of the frame in one of the crop
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrices[i] = np.column_stack([linear, centre - linear @ [width / 2, height / 2]])
    forward = np.linalg.inv(matrices[:, :, :2])
    moved = (points - matrices[:, None, :, 2]) @ forward.transpose(0, 2, 1)  # [B, 133, 2]
    return matrices, moved


def _draw_canvases(
    boxes: np.ndarray, others: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """One person, or two side by side, somewhere on letterboxed pictures of any shape.

    Returns matrices, extents [B, 2], splits [B], the second people's matrices, and boxes [B, 2, 4] px of the canvas.
    """
    height, width = DETECTOR_SIZE
    longest, number = max(height, width), len(boxes)
    aspect = np.where(rng.random(number) < 0.4, 1.0, np.exp(rng.uniform(-0.8, 0.8, number)))
    extent = np.stack([np.minimum(1, aspect) * width, np.minimum(1, 1 / aspect) * height], axis=-1).round()
    two = rng.random(number) < 0.3
    split = np.where(two, extent[:, 0] * rng.uniform(0.35, 0.65, number), width)
    matrices, found = [], []
    for people, left, right in (
        (boxes, np.zeros(number), np.minimum(split, extent[:, 0])),
        (others, split, extent[:, 0]),
    ):
        scale = longest / side * np.exp(rng.uniform(np.log(0.3), np.log(1.3), number))  # px of the canvas in a frame's
        low, high = np.stack([left, np.zeros(number)], -1), np.stack([np.maximum(right, left), extent[:, 1]], -1)
        centre = low + (high - low) * rng.uniform(0.25, 0.75, (number, 2))
        shift = centre - scale[:, None] * (people[:, :2] + people[:, 2:]) / 2
        inverse = np.zeros((number, 2, 3))
        inverse[:, 0, 0] = inverse[:, 1, 1] = 1 / scale
        inverse[:, :, 2] = -shift / scale[:, None]
        matrices.append(inverse)
        whole = people.reshape(-1, 2, 2) * scale[:, None, None] + shift[:, None]  # [B, corner, 2]
        shown = np.stack([np.clip(whole[:, i], low, high) for i in (0, 1)], axis=1)
        sides, all_sides = shown[:, 1] - shown[:, 0], whole[:, 1] - whole[:, 0]
        good = (sides.prod(-1) > SHOWN * all_sides.prod(-1)) & (sides.max(-1) > SMALLEST_BOX)
        found.append(np.where(good[:, None], shown.reshape(-1, 4), np.nan))
    return matrices[0], extent, split, matrices[1], np.stack(found, axis=1)


def make_batch(draw: Draw) -> Batch:
    """What the networks are shown, on the draw's device: pictures softened, in other light, with noise, and moved."""
    device = draw.frames.device
    generator = torch.Generator(device).manual_seed(draw.noise)
    frames = degrade(draw.frames.permute(0, 3, 1, 2).float() / 127.5 - 1, generator)
    frames = ((frames + 1) * 127.5).round()  # as 8 bits keep it
    across = torch.arange(frames.shape[-1], device=device)
    low, high = draw.window[:, :2, None], draw.window[:, 2:, None]
    columns, rows = ((across >= low) & (across < high)).unbind(1)  # [B, S] each
    shown = frames * (rows[:, :, None] & columns[:, None, :])[:, None]
    crops = _warp(shown, draw.crop, KEYPOINT_SIZE, "zeros")  # black outside, as cv2.warpAffine
    mean, deviation = (torch.tensor(v, dtype=torch.float32, device=device) for v in (dwpose.MEAN_RGB, dwpose.STD_RGB))
    crops = (crops - mean[:, None, None]) / deviation[:, None, None]

    height, width = DETECTOR_SIZE
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)[:, None]
    first = _warp(frames, draw.canvas, DETECTOR_SIZE, "border")
    second = _warp(frames.roll(-1, 0), draw.beside, DETECTOR_SIZE, "border")
    canvases = torch.where((x >= draw.split[:, None, None])[:, None], second, first)
    picture = (x < draw.extent[:, :1, None]) & (y < draw.extent[:, 1:, None])  # [B, H, W]
    canvases = torch.where(picture[:, None], canvases, float(dwpose.PAD_GREY)).flip(1)  # RGB to BGR
    return Batch(canvases, draw.boxes, crops, draw.points, draw.seen)


def _warp(pictures: Tensor, matrices: Tensor, size: tuple[int, int], beyond: str) -> Tensor:
    """Pictures [B, C, h, w] seen from a canvas. matrices: [B, 2, 3] from px of the canvas to px of the picture."""
    h, w = pictures.shape[2:]
    y, x = torch.meshgrid(*(torch.arange(n, device=pictures.device, dtype=torch.float32) for n in size), indexing="ij")
    canvas = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # [H, W, 3]
    places = torch.einsum("yxj,bij->byxi", canvas, matrices)
    places = 2 * places / torch.tensor([w - 1, h - 1], device=pictures.device) - 1
    return F.grid_sample(pictures, places, mode="bilinear", padding_mode=beyond, align_corners=True)
