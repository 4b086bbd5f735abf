"""Train the alignment network on misaligned pairs made of captured motion: `train alignment`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..alignment.guidance import Guidance
from ..alignment.network import AlignmentNet, Placement, Reading
from ..alignment.similarity import weighted_spread
from ..errors import InputError
from ..evaluation.alignment import evaluate_batched, moved_by, summary
from ..weights.aligner import load_aligner, save_aligner
from .checkpoint import Checkpoint, check_fresh
from .graphs import Graphed
from .loop import (
    Budget,
    MovingAverage,
    OptimizerSteps,
    Progress,
    generator_of,
    start_processes,
    take_from_first_process,
)
from .misaligned import Motions, Pairs, PairSettings, Shapes, make_pairs

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
CARD = "README.md"
LOG = "log.txt"
VALIDATION_SEED = 7_000_000  # of pairs that no training step draws
VALIDATION_MISSING = (0.0, 0.5)  # shares of lost joints
VALIDATION_CHUNK = 256  # pairs at a time
MOCAP_NAME = "CMU mocap"  # the licence that files of this database state
MOCAP_TERMS = (
    "CMU Graphics Lab Motion Capture Database, http://mocap.cs.cmu.edu: free for use in research, may be part of",
    "products that are sold, may not be resold as such.",
    "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217.",
)


@dataclass(frozen=True)
class AlignerRecipe:
    """The network, its data and its budget."""

    budget: Budget = Budget(60_000)
    batch: int = 512  # pairs a step, in each process
    pool: int = 32  # batches that are drawn and fitted at once, which a GPU does hardly slower than one
    passes: int = 4  # over a pool's pairs, each in another order
    frames: tuple[int, ...] = (8, 16, 24, 32, 48)  # of a pool's pairs: one of these
    pairs: PairSettings = PairSettings(p_cartoon=0.12)
    network: dict[str, Any] = field(default_factory=dict)  # arguments of AlignmentNet
    start_from: str | None = None  # folder of weights to go on from, instead of a fresh network
    rate: float = 1e-3
    weight_decay: float = 1e-2
    average: float = 0.999  # memory of the moving average
    clip: float = 1.0  # most of the gradient's norm
    soft: float = 0.005  # body heights: closer to the truth than this, the loss is quadratic
    scale_weight: float = 0.05  # of the error of ln(scale)
    error_weight: float = 0.01  # of the error that the network expects
    focus: float = 0.5  # share of a pair's weight that goes with how sure the network is of it
    validate_every: int = 500
    validation_pairs: int = 512
    checkpoint_seconds: float = 30.0
    seed: int = 1


def train_aligner(
    out: Path, recipe: AlignerRecipe, *, motions: Motions, shapes: Shapes, validation: Motions,
    validation_shapes: Shapes | None = None, resume: bool = False, device: torch.device | str | None = None,
    sources: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train, write the averaged weights to `out` and return their scores on the validation motion.

    `out` gets config.json, aligner.safetensors, a checkpoint, a log and a model card that names the sources. On several
    GPUs under `accelerate launch`: every process draws its own pairs. They follow from seed, process and step alone, so
    that a run that was killed goes on from its checkpoint (resume) to the same weights; seconds of a minutes budget
    count over all runs. The validation chooses nothing.
    Raises InputError when `out` is a file, holds a run and resume is False, or holds a checkpoint of another recipe,
    and when there is no network of the recipe's settings; WeightsError when there is none to start from.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the weights")
    check_fresh([out / CHECKPOINT], resume=resume)
    state = start_processes()
    device = state.device if device is None else torch.device(device)
    out.mkdir(parents=True, exist_ok=True)
    with _log_to(out / LOG) if state.is_main_process else nullcontext():
        run = _Run(out, recipe, device, state.is_main_process)
        return _train(run, state, motions, shapes, validation, validation_shapes or shapes, resume, sources)


def _train(
    run: _Run, state: PartialState, motions: Motions, shapes: Shapes, validation: Motions, validation_shapes: Shapes,
    resume: bool, sources: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    out, recipe, device = run.out, run.recipe, run.device
    if resume:
        run.checkpoint.restore()
    motions, shapes = _on(motions, device), _on(shapes, device)
    unseen = None
    if state.is_main_process:
        unseen = _validation_pairs(_on(validation, device), _on(validation_shapes, device), recipe, device)
    log.info(
        "training %.2f M parameters on %s x %d: %d frames of motion, %d bodies; validation on %d frames",
        sum(p.numel() for p in run.net.parameters()) / 1e6, device, state.num_processes, len(motions.joints),
        len(shapes.rows), len(validation.joints),
    )  # fmt: skip
    batches = draw_batches(
        run.net, motions, shapes, recipe, run.progress.step, process=state.process_index, device=device
    )
    correct = _graphed(run.net, motions, shapes, recipe, device)
    for step, (pairs, guidance, reading) in zip(run.progress, batches, strict=False):  # counted before it is drawn
        loss, parts = aligner_loss(run.net.place(correct(*reading), guidance), pairs, recipe)
        run.optimise(loss, run.progress.learning_rate(recipe.rate))
        run.average.update()
        run.progress.report(loss=loss, **parts)
        if not state.is_main_process:
            continue
        if (step + 1) % recipe.validate_every == 0:
            run.validate(unseen, step + 1)
        if run.checkpoint.due():
            run.save(step + 1)
    if state.is_main_process:
        if run.scores.get("step") != run.progress.step:
            run.validate(unseen, run.progress.step)
        run.save(run.progress.step)
        minutes = run.progress.seconds / 60
        write_card(out, recipe, run.scores, sources=sources, minutes=minutes, processes=state.num_processes)
        log.info("done after %d steps, %.1f minutes: %s", run.progress.step, minutes, out)
    return run.scores


def draw_batches(
    net: AlignmentNet, motions: Motions, shapes: Shapes, recipe: AlignerRecipe, first: int, *, process: int,
    device: torch.device,
) -> Iterator[tuple[Pairs, Guidance, Reading]]:  # fmt: skip
    """The pairs of one process's steps from the first one on, without end, what guides the network, what it reads."""
    drawn = None
    for step in count(first):
        number, part = divmod(step, recipe.pool * recipe.passes)
        turn, part = divmod(part, recipe.pool)
        if drawn is None or turn == part == 0:
            drawn = draw_pool(motions, shapes, recipe, number, process=process, device=device)
            guidance = net.guide(drawn.driving, drawn.driving_seen, drawn.reference, drawn.reference_seen)
            reading = net.read(guidance, drawn.driving_seen, drawn.reference_seen)
        if part == 0 or step == first:
            order = generator_of(device, recipe.seed, number, process, turn)
            order = torch.randperm(recipe.pool * recipe.batch, generator=order, device=device)
        rows = order[part * recipe.batch : (part + 1) * recipe.batch]
        yield Pairs(*(tensor[rows] for tensor in drawn)), guidance.rows(rows), reading.rows(rows)


def draw_pool(
    motions: Motions, shapes: Shapes, recipe: AlignerRecipe, pool: int, *, process: int, device: torch.device
) -> Pairs:
    """The pairs of one pool of steps of one process; all processes draw the same number of frames."""
    frames = recipe.frames[int(np.random.default_rng([recipe.seed, pool]).integers(len(recipe.frames)))]
    generator = generator_of(device, recipe.seed, pool, process)
    settings = replace(recipe.pairs, frames=frames)
    return make_pairs(motions, shapes, settings, recipe.pool * recipe.batch, generator=generator, device=device)


def aligner_loss(placed: Placement, pairs: Pairs, recipe: AlignerRecipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean distance of the aligned joints from the truth in body heights, plus errors of the scale and of the error
    that the network expects; and these parts.

    All joints count, seen or not. Distances below `soft` are quadratic: at the truth a norm has no gradient. Pairs
    weigh the more the surer the network is of them: what nobody can tell makes the most noise and teaches nothing.
    """
    off = (moved_by(placed.transform, pairs) - pairs.truth) / pairs.height[:, None, None, None]  # [B, F, 18, 2]
    distance = ((off.square().sum(-1) + recipe.soft**2).sqrt() - recipe.soft).mean((1, 2))  # [B]
    clean, truth = pairs.clean.flatten(1, 2), pairs.truth.flatten(1, 2)
    even = torch.ones_like(clean[..., 0])
    wanted = weighted_spread(truth, even) / weighted_spread(clean, even)  # [B]
    scale = (placed.transform.scale / wanted).log().abs()
    sure = 1 / placed.error.detach().clamp_min(recipe.soft)
    weight = 1 - recipe.focus + recipe.focus * sure / sure.mean()  # [B]
    truly = off.detach().norm(dim=-1).mean((1, 2))
    expected = (truly / placed.error + placed.error.log()).mean()  # least where they are equal
    loss = (weight * (distance + recipe.scale_weight * scale)).mean() + recipe.error_weight * expected
    return loss, {"distance": distance.mean(), "scale": scale.mean(), "expected": placed.error.mean()}


def _graphed(
    net: AlignmentNet, motions: Motions, shapes: Shapes, recipe: AlignerRecipe, device: torch.device
) -> Graphed:
    """`net.correct`, its graphs made for all lengths of clips: later on, talk between processes would spoil them."""
    correct = Graphed(_Correct(net), device, dtype=torch.float32)
    for frames in recipe.frames if device.type == "cuda" else ():
        example = draw_pool(motions, shapes, replace(recipe, frames=(frames,), pool=1), 0, process=0, device=device)
        given = example.driving, example.driving_seen, example.reference, example.reference_seen
        correct(*net.read(net.guide(*given), example.driving_seen, example.reference_seen))
    return correct


class _Correct(nn.Module):
    """The part of the network that has weights, as a network of its own."""

    def __init__(self, net: AlignmentNet):
        super().__init__()
        self.net = net

    def forward(self, *reading: Tensor) -> Tensor:
        return self.net.correct(*reading)


def _network(recipe: AlignerRecipe) -> AlignmentNet:
    if recipe.start_from is not None:
        if recipe.network:
            raise InputError(f"alignment network: {recipe.start_from} has its own settings; leave out yours")
        return load_aligner(Path(recipe.start_from))
    try:
        return AlignmentNet(**recipe.network)
    except ValueError as error:
        raise InputError(f"alignment network: {error}") from error


class _Run:
    """What lives through a run and, in the checkpoint, between runs."""

    def __init__(self, out: Path, recipe: AlignerRecipe, device: torch.device, writes: bool):
        self.out, self.recipe, self.device = out, recipe, device
        torch.manual_seed(recipe.seed)
        self.net = _network(recipe).to(device).requires_grad_(True).train()
        take_from_first_process(self.net)
        self.average = MovingAverage(self.net, recipe.average)
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay,
            fused=device.type == "cuda",
        )  # fmt: skip
        self.optimise = OptimizerSteps(optimizer, clip=recipe.clip)
        self.progress = Progress("alignment", recipe.budget)
        self.checkpoint = Checkpoint(
            out / CHECKPOINT, recipe=recipe, network=self.net, average=self.average, steps=self.optimise,
            progress=self.progress, seconds=recipe.checkpoint_seconds, writes=writes,
        )  # fmt: skip
        self.scores: dict[str, Any] = {}  # of the last validation

    def validate(self, pairs: dict[float, Pairs], step: int) -> None:
        """Scores of the averaged weights after so many steps. Nothing is chosen by them."""
        self.average.swap()
        self.net.eval()
        self.scores = {"step": step} | {
            f"missing {share:g}": _scores(self.net, given) for share, given in pairs.items()
        }
        self.scores["dis"] = float(np.mean([self.scores[f"missing {share:g}"]["learned"]["dis"] for share in pairs]))
        self.net.train()
        self.average.swap()
        for share in pairs:
            rows = self.scores[f"missing {share:g}"]
            log.info(
                "validation at step %d, %.0f %% missing: mean/median/p95  %s", step, 100 * share,
                "  ".join(f"{name} {' '.join(f'{value:.4f}' for value in row.values())}" for name, row in rows.items()),
            )  # fmt: skip

    def save(self, step: int) -> None:
        """Write the averaged weights and the checkpoint after so many steps."""
        self.average.swap()
        _write_weights(self.net, self.out)
        self.average.swap()
        self.checkpoint.save(step)


def write_card(
    out: Path, recipe: AlignerRecipe, scores: dict[str, Any], *, sources: tuple[str, ...], minutes: float,
    processes: int,
) -> Path:  # fmt: skip
    """The model card: what the weights are, what they were trained on, how good they are. Returns its path."""
    lines = [
        "# Alignment network of StableAnimator++",
        "",
        "Places a driving clip's poses on a reference picture's person: one similarity transform per clip, as a",
        "correction of the closed-form fit. Reads 18 joints (OpenPose order) in pixels and which of them are seen.",
        "",
        "## Data",
        "",
        "Pairs of one motion on two bodies before two cameras, made during training from captured motion and body",
        "shapes. None of the data is in this folder.",
        "",
        *(f"- {source}" for source in sources),
        *(["", *MOCAP_TERMS] if any(MOCAP_NAME in source for source in sources) else []),
        "",
        "## Scores on validation motion",
        "",
        "Mean distance of the clean driving joints, aligned, from the truth over the joints that the driver shows, in",
        f"heights of the reference's body; {recipe.validation_pairs} pairs, step {scores.get('step', 0)}.",
        "",
        "| joints missing | method | mean | median | 95th percentile |",
        "| --- | --- | --- | --- | --- |",
    ]
    for share in VALIDATION_MISSING:
        for name, row in scores.get(f"missing {share:g}", {}).items():
            lines.append(f"| {100 * share:.0f} % | {name} | " + " | ".join(f"{v:.4f}" for v in row.values()) + " |")
    lines += [
        "",
        "## Recipe",
        "",
        f"`python -m stableanimator_core train alignment`, {minutes:.1f} minutes in {processes} process(es):",
        "",
        "```json",
        json.dumps(asdict(recipe), indent=1, default=str),
        "```",
        "",
    ]
    path = out / CARD
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def describe_source(path: Path) -> str:
    """A data file's name with the licences that its clips state, for the model card."""
    with np.load(path, allow_pickle=False) as data:
        try:
            clips = json.loads(str(data["meta_json"])) if "meta_json" in data.files else []
            stated = sorted({str(clip["licence"]) for clip in clips})
        except (ValueError, KeyError, TypeError):
            stated = []
    return f"{path.name}: {'; '.join(stated) or 'the file states no licence'}"


def quick_recipe() -> AlignerRecipe:
    """A few steps of everything: shows that the whole recipe runs, not that it learns."""
    return AlignerRecipe(
        budget=Budget(4), batch=4, pool=2, passes=2, frames=(4, 6), network=dict(width=32, layers=1, heads=2),
        validate_every=2, validation_pairs=8,
    )  # fmt: skip


def _write_weights(net: AlignmentNet, folder: Path) -> None:
    """save_aligner, file by file in one go: whoever reads meanwhile, or after a kill, finds whole files."""
    fresh = folder / "partial"
    save_aligner(net, fresh)
    for path in fresh.iterdir():
        os.replace(path, folder / path.name)
    fresh.rmdir()


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """The training's log lines go to this file, too, each at once."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def _on(data: Any, device: torch.device) -> Any:
    """A NamedTuple with its tensors on this device."""
    return data._replace(**{k: v.to(device) for k, v in data._asdict().items() if isinstance(v, Tensor)})


def _validation_pairs(
    motions: Motions, shapes: Shapes, recipe: AlignerRecipe, device: torch.device
) -> dict[float, Pairs]:
    """The same pairs for every run of a recipe's settings, by the share of joints that are missing."""
    pairs = {}
    for share in VALIDATION_MISSING:
        generator = torch.Generator(device).manual_seed(VALIDATION_SEED)
        settings = replace(recipe.pairs, frames=max(recipe.frames), missing=(share, share))
        pairs[share] = make_pairs(
            motions, shapes, settings, recipe.validation_pairs, generator=generator, device=device
        )  # fmt: skip
    return pairs


def _scores(net: AlignmentNet, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Mean, median and 95th percentile of the network, the fit that guides it, and the oracle."""
    parts: dict[str, list[Tensor]] = {}
    for chunk in zip(*(part.split(VALIDATION_CHUNK) for part in pairs), strict=True):
        for name, distance in evaluate_batched(net, Pairs(*chunk)).items():
            parts.setdefault(name, []).append(distance)
    return {name: summary(torch.cat(part).cpu().numpy()) for name, part in parts.items()}
