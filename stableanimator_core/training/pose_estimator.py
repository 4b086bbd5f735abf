"""Train the built-in pose estimator (person detector, keypoint network) on rendered performers: `train poses`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor

from ..errors import InputError
from ..keypoints import Poses
from ..models.pose_estimator import DETECTOR_SIZE, KEYPOINT_SIZE, STRIDES, PoseEstimator, Reading
from ..performers import Clip, make_clip, open_clips, render_dataset, rendered
from ..pose import dwpose
from ..pose.detector import PoseDetector
from ..pose.extract import extract_poses
from ..skeleton import BODY_POINTS, FACE_POINTS
from ..weights.pose_estimator import require_onnx, save_estimator
from .aligner import MOCAP_NAME, MOCAP_TERMS, describe_source
from .checkpoint import Checkpoint, check_fresh
from .data import prefetch
from .faces import degrade
from .loop import Budget, MovingAverage, OptimizerSteps, Progress, start_processes, take_from_first_process

log = logging.getLogger(__name__)

STEPS = 16_000  # of a full training
CHECKPOINT = "checkpoint.pt"
CARD = "README.md"
FACE, HANDS = slice(BODY_POINTS, BODY_POINTS + FACE_POINTS), slice(BODY_POINTS + FACE_POINTS, None)  # of stored points
FEET = 6  # COCO-WholeBody's points between body and face; performers have none

# What a box has beyond its keypoints, in shares of the face's height and width and of the box's longer side.
HAIR, CHEEKS, MARGIN = 0.9, 0.15, 0.04
SMALLEST_BOX = 12.0  # px of the detector's input; nobody is to be found in less
SHOWN = 0.3  # share of a person that must be in the picture to be found
# A grid finds people whose longer side is so many of its cells; grids overlap.
CELLS_PER_PERSON = ((0.0, 10.0), (3.0, 10.0), (3.0, float("inf")))
NEAR = 1.5  # cells from a person's centre in which it is found
CUT = 0.3  # share of the people whom the picture's edge cuts off, beside those that are rendered so
CUT_SIDES = (0.15, 0.1, 0.15, 0.6)  # how often at the left, top, right, bottom
CUT_LEAVES = 0.45  # of a person's width or height, at least


@dataclass(frozen=True)
class EstimatorRecipe:
    """The data and how the networks learn from them."""

    batch: int = 128  # pictures a step, in each process; each network sees every one
    clips: int = 8_000  # to render, each a new person
    frames: int = 3  # of a clip, and its reference
    size: int = 256  # px
    rate: float = 2e-3
    weight_decay: float = 1e-2
    average: float = 0.999  # memory of the moving average
    clip: float = 5.0  # most of the gradient's norm
    spread: float = 4.0  # of the curves around the truth, in SimCC cells
    body_weight: float = 3.0  # of a body's point against one of face or hands
    box_weight: float = 3.0
    validate_every: int = 2_000
    checkpoint_seconds: float = 60.0
    validation_clips: int = 32
    seed: int = 1


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


def train_estimator(
    out: Path, budget: Budget, recipe: EstimatorRecipe, *, data: Path | None = None, mocap: Path | None = None,
    workers: int | None = None, resume: bool = False, device: torch.device | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train both networks, write their ONNX files to `out` and return the scores on performers they never saw.

    data: rendered clips with keypoints; by default they are rendered to `out`/data by so many workers (one a core),
    where a share of the motions comes from mocap if that is given. `out` gets person_detector.onnx,
    keypoint_detector.onnx, a checkpoint and a model card. On several GPUs under `accelerate launch`.
    Every step follows from seed, process and step alone: a run that was killed goes on (resume) to the same weights.
    Raises InputError when `out` is a file or holds a run and resume is False, when its checkpoint is of another recipe,
    when the data are not there or have no keypoints, and when the package onnx is missing.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the networks")
    check_fresh([out / CHECKPOINT], resume=resume)
    require_onnx()
    state = start_processes()
    device = state.device if device is None else torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    if state.is_main_process and data is None:
        _render(out / "data", recipe, mocap, workers)
    state.wait_for_everyone()
    sources = () if mocap is None else (describe_source(mocap),)
    return _train(out, budget, recipe, state, load_material(data or out / "data"), device, sources)


def _render(folder: Path, recipe: EstimatorRecipe, mocap: Path | None, workers: int | None) -> None:
    """The clips of the recipe, unless they are there."""
    if rendered(folder) == recipe.clips:
        return

    def show(done: int, total: int) -> None:
        if done == total or done % 1000 == 0:
            log.info("%d of %d clips rendered", done, total)

    render_dataset(
        folder, recipe.clips, seed=recipe.seed, size=recipe.size, frames=recipe.frames, mocap_path=mocap,
        workers=workers, on_progress=show,
    )  # fmt: skip


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


def draw_steps(material: Material, recipe: EstimatorRecipe, first: int, process: int) -> Iterator[Draw]:
    """The random choices of one process's steps from the first one on, without end."""
    for step in count(first):
        yield draw_step(material, recipe, np.random.default_rng([recipe.seed, step, process]))


def draw_step(material: Material, recipe: EstimatorRecipe, rng: np.random.Generator) -> Draw:
    """Frames, and how each network sees them."""
    rows = rng.integers(len(material.frames), size=recipe.batch)
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


def keypoint_loss(reading: Reading, batch: Batch, recipe: EstimatorRecipe) -> tuple[Tensor, Tensor]:
    """Cross-entropy of both axes' curves with a Gaussian around the truth over the seen points, and of who is seen."""
    weight = batch.seen.clone()  # [B, 133]
    weight[:, : dwpose.COCO_BODY] *= recipe.body_weight
    total = 0.0
    for axis, curve in enumerate((reading.x, reading.y)):
        cells = torch.arange(curve.shape[-1], device=curve.device)
        away = cells - dwpose.SIMCC_SPLIT * batch.points[..., axis, None]  # [B, 133, 2 W or 2 H]
        wanted = (-0.5 * (away / recipe.spread).square()).exp()
        wanted = wanted / wanted.sum(-1, keepdim=True).clamp_min(1e-6)
        total = total - (wanted * curve.log_softmax(-1)).sum(-1)
    places = (weight * total).sum() / weight.sum().clamp_min(1)
    return places, F.binary_cross_entropy_with_logits(reading.seen, batch.seen)


def box_loss(raw: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """One less the overlap (generalised IoU) of found boxes, and cross-entropy of the objectness, per cell that finds.

    raw: [B, A, 5] as PersonDetector.read gives it. boxes: [B, M, 4] px, nan: nobody. Whoever is nearest to a cell is
    found by it, if the centre is within NEAR cells and the grid is for people of that size.
    """
    cells, strides = (torch.from_numpy(part).to(raw.device) for part in dwpose.cell_grid(*DETECTOR_SIZE))
    owner = assign_cells(cells, strides[:, 0], boxes)  # [B, A], -1: nobody
    found = owner >= 0
    number = found.sum().clamp_min(1)
    objectness = F.binary_cross_entropy_with_logits(raw[..., 4], found.float(), reduction="sum") / number
    centre = (raw[..., :2] + cells) * strides
    half = raw[..., 2:4].clamp(-8, 8).exp() * strides / 2
    guessed = torch.cat([centre - half, centre + half], dim=-1)[found]
    truth = boxes.gather(1, owner.clamp_min(0)[..., None].expand(-1, -1, 4))[found]
    return (1 - _generalised_iou(guessed, truth)).sum() / number, objectness


def assign_cells(cells: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Which box [B, A] each cell should find; -1: none. cells: [A, 2]; strides: [A]; boxes: [B, M, 4] px, nan: none."""
    centres, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).amax(-1)
    place = (cells + 0.5) * strides[:, None]
    away = (place - centres[:, :, None]).abs().amax(-1) / strides  # [B, M, A] cells
    grid = (strides / STRIDES[0]).log2().round().long()
    few, many = torch.tensor(CELLS_PER_PERSON, device=boxes.device)[grid].T  # [A]
    long = sides[..., None] / strides  # [B, M, A] cells
    good = (away < NEAR) & (long >= few) & (long < many)  # nan compares as False
    nearest, owner = away.masked_fill(~good, float("inf")).min(1)
    return owner.masked_fill(nearest.isinf(), -1)


def _generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """Of boxes [N, 4] pair by pair (arXiv 1902.09630)."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp_min(0).prod(-1)

    common = area(torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:]))
    both = area(one[:, :2], one[:, 2:]) + area(other[:, :2], other[:, 2:]) - common
    around = area(torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:]))
    return common / both.clamp_min(1e-6) - (around - both) / around.clamp_min(1e-6)


def estimator_loss(net: PoseEstimator, batch: Batch, recipe: EstimatorRecipe) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of both networks' losses, and its parts."""
    device = batch.crops.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        raw = net.detector.read(batch.canvases)
        reading = net.keypoints.read(batch.crops)
    places, seen = keypoint_loss(Reading(*(part.float() for part in reading)), batch, recipe)
    boxes, objectness = box_loss(raw.float(), batch.boxes)
    loss = places + seen + recipe.box_weight * boxes + objectness
    return loss, {"places": places, "seen": seen, "boxes": boxes, "objectness": objectness}


def _train(
    out: Path, budget: Budget, recipe: EstimatorRecipe, state: PartialState, material: Material, device: torch.device,
    sources: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    torch.manual_seed(recipe.seed)
    net = PoseEstimator().to(device, memory_format=torch.channels_last).train()
    take_from_first_process(net)
    average = MovingAverage(net, recipe.average)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, fused=device.type == "cuda"
    )
    optimise = OptimizerSteps(optimizer, clip=recipe.clip)
    progress = Progress("poses", budget)
    main = state.is_main_process
    checkpoint = Checkpoint(
        out / CHECKPOINT, recipe=recipe, network=net, average=average, steps=optimise, progress=progress,
        seconds=recipe.checkpoint_seconds, writes=main,
    )  # fmt: skip
    checkpoint.restore()
    log.info(
        "training %.2f M parameters on %s x %d: %d frames, batch %d",
        sum(p.numel() for p in net.parameters()) / 1e6, device, state.num_processes, len(material.frames), recipe.batch,
    )  # fmt: skip
    unseen = validation_clips(recipe) if main else []
    scores: dict[str, Any] = {}

    def validate(step: int) -> None:
        average.swap()
        _write(net, out)
        average.swap()
        scores.update(step=step, **measure(PoseDetector.built_in(out), unseen))
        log.info("validation at step %d: %s", step, "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    steps = draw_steps(material, recipe, progress.step, state.process_index)
    draws = prefetch(lambda: tuple(next(steps)), device=device)
    for step, draw in zip(progress, draws, strict=False):  # counted before it is drawn
        loss, parts = estimator_loss(net, make_batch(Draw(*draw)), recipe)
        optimise(loss, progress.learning_rate(recipe.rate))
        average.update()
        progress.report(loss=loss, **parts)
        if main and (step + 1) % recipe.validate_every == 0:
            validate(step + 1)
        if checkpoint.due():
            checkpoint.save(step + 1)
    checkpoint.save(progress.step)
    if main:
        if scores.get("step") != progress.step:
            validate(progress.step)
        write_card(out, recipe, scores, steps=progress.step, minutes=progress.seconds / 60, sources=sources)
        log.info("done after %d steps, %.1f minutes: %s", progress.step, progress.seconds / 60, out)
    return scores


def _write(net: PoseEstimator, folder: Path) -> None:
    """The files of a network that is on any device and in training."""
    copy = PoseEstimator().eval()
    copy.load_state_dict({key: tensor.cpu() for key, tensor in net.state_dict().items()})
    save_estimator(copy, folder)


def validation_clips(recipe: EstimatorRecipe) -> list[Clip]:
    """Clips of performers and motions that no training step draws, small and large, square and not."""
    sizes = ((160, 160), (256, 256), (512, 512), (288, 512), (384, 256))
    return [
        make_clip(recipe.seed + i, size=sizes[i % len(sizes)], frames=4, split="held_out")
        for i in range(recipe.validation_clips)
    ]


def measure(detector: PoseDetector, clips: Sequence[Clip]) -> dict[str, float]:
    """How well poses are extracted from clips, as ExtractPoses does it, without smoothing.

    detected: share of the frames in which the person is found. body, face, hands: mean distance of found points from
    the truth, in % of the person's seen height (the longer side of the box round the seen joints); body_p95: its 95th
    percentile. recall: share of the points in the picture that are found; false: of those outside of it.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("body", "face", "hands", "recall", "false", "detected")}
    for clip in clips:
        try:
            found = extract_poses(detector, clip.frames, fill_gap=0, smooth=0).poses
        except InputError:  # nobody in any frame
            found = Poses.empty(len(clip.frames), clip.poses.width, clip.poses.height, people=1)
        truth = clip.poses
        joints = np.where(truth.body_score[:, 0, :, None] > 0, truth.body[:, 0], np.nan)
        height = (np.nanmax(joints, axis=1) - np.nanmin(joints, axis=1)).max(-1)  # [F] px
        parts["detected"].append((found.body_score[:, 0] > 0).any(-1))
        for name in ("body", "face", "hands"):
            frames = len(height)
            where, wanted = (getattr(poses, name)[:, 0].reshape(frames, -1, 2) for poses in (found, truth))
            score, seen = (getattr(poses, f"{name}_score")[:, 0].reshape(frames, -1) > 0 for poses in (found, truth))
            off = 100 * np.linalg.norm(where - wanted, axis=-1) / height[:, None]
            parts[name].append(off[score & seen])
            parts["recall"].append(score[seen])
            parts["false"].append(score[~seen])
    values = {name: np.concatenate(rows) if rows else np.zeros(0) for name, rows in parts.items()}
    result = {name: float(value.mean()) if len(value) else float("nan") for name, value in values.items()}
    result["body_p95"] = float(np.percentile(values["body"], 95)) if len(values["body"]) else float("nan")
    return result


def write_card(
    out: Path, recipe: EstimatorRecipe, scores: dict[str, Any], *, steps: int, minutes: float, sources: tuple[str, ...]
) -> Path:
    """The model card: what the networks are, what they were trained on, how good they are. Returns its path."""
    lines = [
        "# Built-in pose estimator of StableAnimator++",
        "",
        "Two small networks with DWPose's inputs and outputs: `person_detector.onnx` (as `yolox_l.onnx`) and",
        "`keypoint_detector.onnx` (as `dw-ll_ucoco_384.onnx`). They find people as this project's performers are",
        "drawn, and nobody else; for people in photographs there is DWPose (`weights download poses`).",
        "Trained on pictures that this project draws, without any others. Weights: Apache-2.0, like the code.",
        "",
        *(line for source in sources for line in (f"A share of the drawn motions is motion capture: {source}", "")),
        *([*MOCAP_TERMS, ""] if any(MOCAP_NAME in source for source in sources) else []),
        f"## Scores on {recipe.validation_clips} clips of performers and motions held out from training",
        "",
        "Through the whole of Extract Poses, without smoothing.",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| frames in which the person is found | {100 * scores['detected']:.1f} % |",
        *(
            f"| mean distance of {name} points from the truth, of the person's height | {scores[name]:.2f} % |"
            for name in ("body", "face", "hands")
        ),
        f"| the same of body points, 95th percentile | {scores['body_p95']:.2f} % |",
        f"| points in the picture that are found | {100 * scores['recall']:.1f} % |",
        f"| points outside of it that are found | {100 * scores['false']:.1f} % |",
        "",
        "## Recipe",
        "",
        f"`python -m stableanimator_core train poses`, {steps} steps, {minutes:.1f} minutes:",
        "",
        "```json",
        json.dumps(asdict(recipe), indent=1),
        "```",
        "",
    ]
    path = out / CARD
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def quick_recipe() -> EstimatorRecipe:
    """A few pictures of everything: shows that the whole recipe runs, not that it learns."""
    return EstimatorRecipe(batch=4, clips=2, frames=1, size=96, validate_every=2, validation_clips=1)
