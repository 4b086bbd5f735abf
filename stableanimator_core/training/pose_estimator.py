"""Train the built-in pose estimator (person detector, keypoint network) on rendered performers: `train poses`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor

from ..errors import InputError
from ..keypoints import Poses
from ..models.pose_estimator import DETECTOR_SIZE, STRIDES, PoseEstimator, Reading
from ..performers import Clip, make_clip, render_dataset, rendered
from ..pose import dwpose
from ..pose.detector import PoseDetector
from ..pose.extract import extract_poses
from ..weights.pose_estimator import require_onnx, save_estimator
from .aligner import MOCAP_NAME, MOCAP_TERMS, describe_source
from .checkpoint import Checkpoint, check_fresh
from .data import prefetch
from .loop import Budget, MovingAverage, OptimizerSteps, Progress, start_processes, take_from_first_process
from .pose_pictures import Batch, Draw, Material, draw_steps, load_material, make_batch

log = logging.getLogger(__name__)

STEPS = 16_000  # of a full training
CHECKPOINT = "checkpoint.pt"
CARD = "README.md"

# A grid finds people whose longer side is so many of its cells; grids overlap.
CELLS_PER_PERSON = ((0.0, 10.0), (3.0, 10.0), (3.0, float("inf")))
NEAR = 1.5  # cells from a person's centre in which it is found


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

    steps = draw_steps(material, recipe.batch, progress.step, seed=recipe.seed, process=state.process_index)
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
