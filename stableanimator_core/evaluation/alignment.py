"""How far alignments are from the truth, on misaligned pairs made of captured motion; all distances in body heights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..alignment import FITS, Similarity, align, fit_similarity
from ..alignment.guidance import guide
from ..errors import InputError, PoseError
from ..keypoints import Poses
from ..training.misaligned import (
    FRAMINGS,
    KINDS,
    Handheld,
    Motions,
    Pairs,
    PairSettings,
    Shapes,
    Steep,
    make_pairs,
)
from ..video.charts import Chart

# Methods of `align` that are measured; the oracle comes on top.
ALIGNED = ("none", "v1", "svd", "affine", "homography", "learned")
FEWER = 4  # times fewer pairs in each special set
MISSING = (0.3, 0.5, 0.7)  # shares of the joints that are lost in the harder rows
ORACLE_STEPS = 30
# Ordinary adults, all of them in the picture and turned to it, before level cameras with long lenses. Postures are as
# mixed as ever.
PLAIN = dict(
    p_child=0.0, p_heavy=0.0, p_stylised=0.0, yaw=45.0, p_any_yaw=0.0, p_turn=0.0, driver_framing=(1.0, 0.0, 0.0),
    reference_framing=(1.0, 0.0, 0.0), p_whole_clip=1.0, focal=(4.0, 5.0), pitch=5.0, roll=0.0,
)  # fmt: skip
CARTOON = dict(p_child=0.0, p_heavy=0.0, p_stylised=0.0, p_cartoon=1.0)  # as the built-in performers are drawn
TRAVELS = 0.05  # body heights, root mean square: a pelvis that moves more has a path to speak of


class Outcome(NamedTuple):
    """What one method made of all pairs."""

    distance: np.ndarray  # [B] body heights
    moved: Tensor  # [B, F, 18, 2] px, the clean driving joints in the reference's picture
    failed: np.ndarray  # [B] bool: it raised; the pair then counts with the distance of "none"
    seconds: float  # in `align`


def evaluate_alignment(
    motions: Motions, shapes: Shapes, *, pairs: int = 400, seed: int = 0, frames: int = 32,
    aligner: nn.Module | None = None, fit: str = "clip", on_pairs: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    """Scores of every method on pairs of this seed, and each method's distances [pairs] to draw.

    dis of a pair: mean Euclidean distance of the clean driving joints, aligned, from the truth, over the joints that
    the driver shows, in units of the reference body's height in its picture. `align` sees the noisy joints only.
    oracle: the similarity with the least possible dis of the pair. missing: the same pairs with that share of the
    joints lost as detectors lose them (of the reference's at most half), dis still over all joints that were there.
    A pair on which a method raises counts as failed, and with the dis of "none", which is what a user is left with.
    travel: the aligned pelvis's path against the truth's where it moves at least TRAVELS: correlation and ratio of
    lengths, medians over those pairs; 1 and 1 is perfect.
    Sets of their own, each of fewer pairs: plain, as PLAIN says; cartoon, all bodies with a head broader than the trunk
    is long; perspective, whose drivers are filmed steeply from close by; moving_camera, whose drivers' camera pans,
    zooms and walks, with svd and learned in all FITS, whatever `fit` says.
    learned is None throughout without an aligner, which affine and homography use, too. fit: one of FITS.
    on_pairs(done, all) reports progress.
    Raises InputError for pairs or frames below 1.
    """
    if pairs < 1 or frames < 1:
        raise InputError(f"evaluation of {pairs} pairs of {frames} frames: give at least 1 of each")
    made = misaligned_pairs(motions, shapes, pairs, frames=frames, seed=seed)
    methods = [name for name in ALIGNED if name != "learned" or aligner is not None]
    tried = [name for name in ("svd", "learned") if name in methods]
    few = -(-pairs // FEWER)
    special_fits = 3 * len(methods) + 1 + len(tried) * len(FITS)
    total, done = pairs * (len(methods) + len(MISSING) * len(tried)) + few * special_fits, 0

    def measured(
        method: str, given: Pairs, fallback: Outcome | None, truth: Pairs | None = None, fit: str = fit
    ) -> Outcome:
        nonlocal done
        outcome = _outcome(method, given, given if truth is None else truth, fallback, aligner, fit)
        done += len(given.clean)
        if on_pairs is not None:
            on_pairs(done, total)
        return outcome

    none = measured("none", made, None)
    outcomes = {"none": none} | {name: measured(name, made, none) for name in methods[1:]}
    outcomes["oracle"] = _oracle_outcome(made)
    missing: dict[str, Any] = {}
    for share in MISSING:
        poorer = misaligned_pairs(motions, shapes, pairs, frames=frames, seed=seed, missing=(share, share))
        rows = {name: measured(name, poorer, none, made) for name in tried}
        missing[f"{share:g}"] = {name: _summary(rows.get(name), none) for name in ("svd", "learned")}
    plain = misaligned_pairs(motions, shapes, few, frames=frames, seed=seed, **PLAIN)
    cartoon = misaligned_pairs(motions, shapes, few, frames=frames, seed=seed, **CARTOON)
    steep = misaligned_pairs(motions, shapes, few, frames=frames, seed=seed, steep=Steep())
    moving = misaligned_pairs(motions, shapes, few, frames=frames, seed=seed, handheld=Handheld())
    distances = {name: outcome.distance for name, outcome in outcomes.items()}
    timed = outcomes["learned" if aligner is not None else "svd"]
    scores = {
        "methods": {name: _summary(outcomes.get(name), none) for name in (*ALIGNED, "oracle")},
        "missing": missing,
        "kinds": _rows(distances, made.kind, KINDS),
        "framings": _rows(distances, made.framing @ torch.tensor([len(FRAMINGS), 1]), FRAMING_PAIRS),
        "views": _rows(distances, is_side_view(made).long(), ("front or back", "side")),
        "travel": {name: travel(outcome.moved, made) for name, outcome in outcomes.items()},
        "plain": _special(measured, plain, {name: (name, fit) for name in methods[1:]}),
        "cartoon": _special(measured, cartoon, {name: (name, fit) for name in methods[1:]}),
        "perspective": _special(measured, steep, {name: (name, fit) for name in methods[1:]}),
        "moving_camera": _special(measured, moving, {f"{name}, {way}": (name, way) for name in tried for way in FITS}),
        "worse_than_none": None if aligner is None else int((distances["learned"] > distances["none"]).sum()),
        "pairs": pairs,
        "frames": frames,
        "seed": seed,
        "fit": fit,
        "seconds_per_1000_frames": 1000 * timed.seconds / (pairs * frames),
    }
    return scores, distances


FRAMING_PAIRS = tuple(f"driver {driver}, reference {reference}" for driver in FRAMINGS for reference in FRAMINGS)


def misaligned_pairs(
    motions: Motions, shapes: Shapes, pairs: int, *, frames: int, seed: int, missing: tuple[float, float] = (0.0, 0.0),
    **settings: Any,
) -> Pairs:  # fmt: skip
    """Pairs on the CPU, given by the seed. Another share of missing joints leaves them the same otherwise.

    settings: what else PairSettings has.
    """
    settings = PairSettings(frames=frames, missing=missing, **settings)
    return make_pairs(motions, shapes, settings, pairs, generator=torch.Generator().manual_seed(seed), device="cpu")


def pair_distance(moved: Tensor, pairs: Pairs) -> Tensor:
    """Mean distance of joints [B, F, 18, 2] px from the truth over those that the driver shows, [B] body heights."""
    distance = (moved - pairs.truth).norm(dim=-1)  # [B, F, 18] px
    shown = pairs.driving_seen
    return (distance * shown).sum((1, 2)) / shown.sum((1, 2)).clamp_min(1) / pairs.height


def moved_by(transform: Similarity, pairs: Pairs) -> Tensor:
    """The clean driving joints moved by one similarity per pair, [B, F, 18, 2] px."""
    right, down = transform.rotation[:, None, None].unbind(-1)  # [B, 1, 1, 2] each
    # Sums instead of a matrix product: TF32 would cost a pixel.
    turned = pairs.clean[..., :1] * right + pairs.clean[..., 1:] * down
    return transform.scale[:, None, None, None] * turned + transform.translation[:, None, None]


def best_similarity(pairs: Pairs) -> Similarity:
    """The similarity of each pair with the least mean distance over the joints that the driver shows.

    The mean of distances is convex in the transform's four numbers, so least squares, reweighted by the inverse
    distance (Weiszfeld), ends at its minimum.
    """
    src, dst = pairs.clean.flatten(1, 2).double(), pairs.truth.flatten(1, 2).double()  # [B, F * 18, 2]
    shown = pairs.driving_seen.flatten(1).double()
    fit = fit_similarity(src, dst, shown)
    least = 1e-4 * pairs.height[:, None].double()  # a joint that fits exactly must not weigh without end
    for _ in range(ORACLE_STEPS):
        fit = fit_similarity(src, dst, shown / (fit.apply(src) - dst).norm(dim=-1).clamp_min(least))
    return Similarity(*(part.to(pairs.clean.dtype) for part in fit))


@torch.no_grad()
def evaluate_batched(net: nn.Module, pairs: Pairs) -> dict[str, Tensor]:
    """dis [B] of the network, of the fit that guides it, and of the oracle: all pairs at once, for use in training."""
    given = (pairs.driving, pairs.driving_seen, pairs.reference, pairs.reference_seen)
    guidance = guide(*given)
    transforms = {
        "learned": net(*given).transform,
        "svd": guidance.pixels(guidance.base),
        "oracle": best_similarity(pairs),
    }
    return {name: pair_distance(moved_by(transform, pairs), pairs) for name, transform in transforms.items()}


def summary(distance: np.ndarray) -> dict[str, float]:
    """Mean, median and 95th percentile over the pairs."""
    return {
        "dis": float(distance.mean()),
        "dis_median": float(np.median(distance)),
        "dis_p95": float(np.quantile(distance, 0.95)),
    }


def is_side_view(pairs: Pairs) -> Tensor:
    """Whether the driver begins turned to a side rather than to or from the camera, bool [B]."""
    return pairs.yaw.sin().abs() > pairs.yaw.cos().abs()


def travel(moved: Tensor, pairs: Pairs) -> dict[str, float | int | None]:
    """How well the pelvis's path [F, 2] about its middle survives: correlation with the truth's, ratio of sizes."""

    def path(joints: Tensor) -> Tensor:
        pelvis = joints[..., (8, 11), :].mean(-2)  # [B, F, 2]
        return (pelvis - pelvis.mean(1, keepdim=True)).flatten(1) / pairs.height[:, None]

    truth, result = path(pairs.truth), path(moved)  # [B, F * 2]
    goes = truth.square().mean(1).mul(2).sqrt() >= TRAVELS  # [B]
    truth, result = truth[goes], result[goes]
    if not len(truth):
        return {"correlation": None, "ratio": None, "pairs": 0}
    ratio = result.norm(dim=1) / truth.norm(dim=1)
    correlation = (truth * result).sum(1) / (truth.norm(dim=1) * result.norm(dim=1)).clamp_min(1e-9)
    return {"correlation": float(correlation.median()), "ratio": float(ratio.median()), "pairs": len(truth)}


def draw_curves(distances: Mapping[str, np.ndarray], *, width: int = 960, height: int = 600) -> np.ndarray:
    """Share of the pairs (y) that are within a distance (x, logarithmic): one curve per method, uint8 RGB picture."""
    colours = {
        "none": (150, 150, 150), "v1": (200, 120, 0), "svd": (30, 100, 200), "affine": (120, 170, 220),
        "homography": (130, 60, 170), "learned": (200, 30, 60), "oracle": (30, 140, 60),
    }  # fmt: skip
    low, high = -3.0, 1.0  # of log10
    chart = Chart(width, height, (low, high), (0, 1))
    for tick in np.arange(low, high + 1):
        chart.tick_x(tick, f"{10**tick:g}")
    for share in (0, 0.25, 0.5, 0.75, 1):
        chart.tick_y(share, f"{100 * share:.0f} %")
    chart.names("distance from the truth in body heights", "share of the pairs within it")
    for row, (name, distance) in enumerate(distances.items()):
        x = np.log10(np.sort(distance).clip(1e-9)).clip(low, high)
        chart.curve(x, np.arange(1, len(distance) + 1) / len(distance), colours[name])
        label = f"{name}: median {np.median(distance):.3f}"
        chart.text(label, chart.left + 15, chart.top + 25 + 22 * row, colour=colours[name])
    return chart.picture


def _outcome(
    method: str, given: Pairs, truth: Pairs, fallback: Outcome | None, aligner: nn.Module | None, fit: str
) -> Outcome:
    """Run one method on every pair. truth: the same pairs with all joints that count; fallback: that of "none"."""
    moved, failed, seconds = [], [], 0.0
    for index in range(len(given.clean)):
        driving, reference = _driving(given, index), _reference(given, index)
        start = time.perf_counter()
        try:
            aligned = align(driving, reference, method, fit=fit, aligner=aligner)
        except PoseError:
            if fallback is None:
                raise
            moved.append(fallback.moved[index])
            failed.append(True)
        else:
            moved.append(torch.from_numpy(aligned.poses.face[:, 0, : given.clean.shape[2]]).to(given.clean))
            failed.append(False)
        seconds += time.perf_counter() - start
    joints = torch.stack(moved)
    return Outcome(pair_distance(joints, truth).numpy(), joints, np.array(failed), seconds)


def _oracle_outcome(pairs: Pairs) -> Outcome:
    start = time.perf_counter()
    joints = moved_by(best_similarity(pairs), pairs)
    seconds = time.perf_counter() - start
    return Outcome(pair_distance(joints, pairs).numpy(), joints, np.zeros(len(joints), dtype=bool), seconds)


def _driving(pairs: Pairs, index: int) -> Poses:
    """The driving clip as a user would have it. The clean joints ride along as face points: all parts move alike."""
    poses = _poses(pairs.driving[index], pairs.driving_seen[index], pairs.driving_size[index])
    joints = pairs.clean.shape[2]
    poses.face[:, 0, :joints] = pairs.clean[index].double().numpy()
    poses.face_score[:, 0, :joints] = 1
    return poses


def _reference(pairs: Pairs, index: int) -> Poses:
    return _poses(pairs.reference[index, None], pairs.reference_seen[index, None], pairs.reference_size[index])


def _poses(points: Tensor, seen: Tensor, size: Tensor) -> Poses:
    """Poses of one person of joints [F, 18, 2] px, on a canvas of this size (width, height)."""
    width, height = (max(1, round(side)) for side in size.tolist())
    empty = Poses.empty(len(points), width, height, people=1)
    empty.body_score[:, 0] = seen.numpy()
    empty.body[:, 0] = torch.where(seen[..., None], points, 0).numpy()
    return empty


def _summary(outcome: Outcome | None, none: Outcome) -> dict[str, float] | None:
    if outcome is None:
        return None
    return summary(outcome.distance) | {
        "worse_than_none": int((outcome.distance > none.distance).sum()),
        "failed": int(outcome.failed.sum()),
    }


def _special(measured: Callable[..., Outcome], pairs: Pairs, rows: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """A set of pairs of its own: distances, and how the pelvis's path survives. rows: method and fit by their title."""
    none = measured("none", pairs, None)
    outcomes = {"none": none}
    for title, (method, fit) in rows.items():
        outcomes[title] = measured(method, pairs, none, fit=fit)
    outcomes["oracle"] = _oracle_outcome(pairs)
    return {
        "pairs": len(pairs.clean),
        "methods": {
            title: summary(outcome.distance) | {"travel": travel(outcome.moved, pairs)}
            for title, outcome in outcomes.items()
        },
    }


def _rows(distances: dict[str, np.ndarray], label: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Mean distance of every method over the pairs of each label that occurs."""
    rows = {}
    for index, name in enumerate(names):
        own = (label == index).numpy()
        if own.any():
            mean = {method: float(distance[own].mean()) for method, distance in distances.items()}
            rows[name] = {"pairs": int(own.sum())} | mean
    return rows
