"""Experiment 1: what the alignment of a misaligned driver is worth, from joints to the video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...alignment import Similarity, align, fit_similarity
from ...alignment.fits import repeated
from ...errors import PoseError
from ...keypoints import Poses
from ...pipeline import to_uint8
from ...video import contact_sheet
from ...video.curves import Curve, plot_curves
from ...weights import load_aligner
from ..metrics import mean
from .paper import beside
from .studio import Studio, Take, pose_distance
from .tables import CSIM, CSIM_ERROR, DIS, FACE_L1, L1, PAPER_CSIM, SETTING, Column, Result, Table, mean_row

METHODS = ("none", "v1", "svd", "learned")
PROPORTIONS = "learned, proportions"
BEST, TRUTH = "best similarity", "the truth's own poses"
SHOWN = 3  # pairs on the sheet

DIS_MEDIAN = Column("dis_median", "median", 3)
CSIM_IN_PLACE = Column("csim_in_place", "CSIM in place", 3)
FAILED = Column("failed", "failed", 0)

SETUP = (
    "{pairs} pairs of {frames} frames. Another performer does the same motion, nearer or farther (0.72 to 1.35 times "
    "the size) and up to 7 % off centre; the truth is the reference's own person doing it. Dis: mean distance of the "
    "aligned joints from the truth, in body heights. CSIM: the face where the aligned poses put it, as a face detector "
    "would find it; in place: where the truth has it. L1 is of the whole picture, face L1 at the truth's place. "
    "Proportions: the motion also gets the picture's bone lengths and shape of the face. A pair on which a method "
    "fails counts with the poses of none. HJB is off: what is compared is the alignment. "
    "The paper's figure is of its whole method, with HJB, on its own set of 100 misaligned pairs of real people."
)


def run(studio: Studio) -> Result:
    """Every method on every pair."""
    pairs, aligner = studio.pairs(studio.extent.pairs), load_aligner()
    scores: dict[str, list[dict[str, float]]] = {}
    sheet = []
    for number, take in enumerate(studio.told(pairs, "pairs aligned")):
        for name in (*METHODS, PROPORTIONS, BEST, TRUTH):
            try:
                poses, failed = aligned(take, name, aligner), 0.0
            except PoseError:
                poses, failed = aligned(take, "none", aligner), 1.0
            video = studio.animate(take, poses).video
            in_place = studio.scores(take, video)
            scores.setdefault(name, []).append(
                studio.scores(take, video, studio.faces(poses))
                | {"dis": pose_distance(take, poses), "csim_in_place": in_place["csim"], "failed": failed}
            )
            if number < SHOWN:
                sheet.append((f"{number + 1}: {name}", to_uint8(video)))
        if number < SHOWN:
            sheet.append((f"{number + 1}: the truth", take.clip.frames))
    rows = [
        mean_row(name, values, dis_median=float(np.nanmedian([value["dis"] for value in values])))
        | {"failed": int(sum(value["failed"] for value in values))}
        for name, values in scores.items()
    ]
    columns = (
        SETTING, DIS, DIS_MEDIAN, CSIM, CSIM_ERROR, PAPER_CSIM, CSIM_IN_PLACE, L1, FACE_L1, FAILED,
    )  # fmt: skip
    table = Table("methods", "Methods", columns, (*beside("alignment", rows), *studio.places(pairs)))
    curves = [
        Curve(f"{name}: {mean([value['dis'] for value in values]):.3f}", *_shares([value["dis"] for value in values]))
        for name, values in scores.items()
        if name != TRUTH
    ]
    plot = plot_curves(curves, "Dis in body heights; means in the legend", "share of the pairs within it", log_x=True)
    return Result(
        "alignment", "Alignment of misaligned drivers", SETUP.format(pairs=len(pairs), frames=studio.extent.frames),
        (table,), {"alignment": plot}, {"alignment": contact_sheet(sheet, 6)},
    )  # fmt: skip


def aligned(take: Take, name: str, aligner: torch.nn.Module) -> Poses:
    """The driver's poses by one of METHODS, PROPORTIONS, BEST or TRUTH. Raises PoseError without a fit."""
    if name == TRUTH:
        return take.clip.poses
    if name == BEST:
        return best_similarity(take)
    if name == PROPORTIONS:
        return align(take.driver, take.clip.reference_pose, "learned", aligner=aligner, proportions=True).poses
    return align(take.driver, take.clip.reference_pose, name, aligner=network(name, aligner)).poses


def network(method: str, aligner: torch.nn.Module) -> torch.nn.Module | None:
    """The aligner for the method that needs it."""
    return aligner if method == "learned" else None


def best_similarity(take: Take) -> Poses:
    """The driver moved by the similarity that brings its joints nearest to the truth, by least squares."""
    driver, truth = take.driver, take.clip.poses
    shown = (driver.visible() & truth.visible())[:, 0].reshape(1, -1)
    src, dst = (torch.from_numpy(poses.body[:, 0].reshape(1, -1, 2)) for poses in (driver, truth))
    return moved(driver, repeated(fit_similarity(src, dst, torch.from_numpy(shown).double()), driver.frames), truth)


def moved(poses: Poses, transform: Similarity, onto: Poses) -> Poses:
    """Poses moved by one transform per frame onto another canvas."""
    there = poses.transformed(lambda points: transform.apply(torch.from_numpy(points)).numpy())
    return replace(there, width=onto.width, height=onto.height)


def _shares(distances: list[float]) -> tuple[list[float], list[float]]:
    ordered = sorted(max(value, 1e-4) for value in distances)
    return ordered, [(i + 1) / len(ordered) for i in range(len(ordered))]
