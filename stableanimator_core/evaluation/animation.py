"""How good the animations of a model are: identity, error, sharpness and steadiness, with rows that place the numbers.

Identity (CSIM) is judged by an embedder that HJB never sees, where the model has one. Beside every figure of what was
made, with and without HJB, stand those of the truth through the VAE (reconstruction), of the reference picture copied
into every frame (copy) and of somebody else (floor); identity has the truth itself as its ceiling.

Where the truth is known, faces are looked for at its place, so that csim falls with a misaligned driver's distance from
it, too. csim_placed looks where the aligned poses put them, as a face detector would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..conditioning import resize_picture
from ..errors import InputError
from ..face import FaceBoxes, FaceDetector, csim, embed_faces, embed_reference, face_boxes
from ..hjb_settings import HJBConfig
from ..keypoints import Poses
from ..pipeline import Animation, StableAnimator, from_uint8, locate_face, model_hjb
from ..trail import Trail
from ..vae import decode_latents, encode_image
from ..weights import Models
from .judge import Judge
from .material import FIRST_SEED, Case, MakeCase, performer_cases
from .metrics import (
    NAN,
    PICTURE_MEASURES,
    Measures,
    face_frechet,
    frechet_distance,
    fvd_note,
    identity_drift,
    mean,
)

__all__ = ["FIRST_SEED", "ROWS", "ClipResult", "evaluate_animation", "evaluate_cases"]

MADE, PLAIN, RECONSTRUCTION, COPY, FLOOR, CEILING = ROWS = (  # what keys end in
    "", "_without_hjb", "_reconstruction", "_copy", "_floor", "_ceiling",
)  # fmt: skip
PLACED = "csim_placed"  # of MADE and PLAIN
PER_CLIP = (
    "csim", "csim_without_hjb", PLACED, f"{PLACED}{PLAIN}", "csim_ceiling", "drift", "l1", "l1_without_hjb",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ClipResult:
    """What one case gave: pictures to look at and its numbers."""

    case: Case
    made: np.ndarray  # [F, H, W, 3] uint8 RGB
    plain: np.ndarray  # the same without HJB
    pose_images: np.ndarray  # what drove them
    csim: dict[str, np.ndarray]  # row -> [F], NaN where there is no face
    scores: dict[str, float]  # NaN where there is nothing to measure
    features: dict[str, Tensor | None]  # row -> [1, D] of FVD's network; the ceiling's are the truth's


def evaluate_animation(
    animator: StableAnimator, *, clips: int, seed: int, frames: int = 16, misaligned: bool = False, **options
) -> dict:
    """evaluate_cases on `clips` held-out performers in held-out motions; options: its own."""
    config = animator.models.config
    size = options.get("size") or (config.width, config.height)
    cases = performer_cases(size, clips=clips, seed=seed, frames=frames, misaligned=misaligned)
    align = options.pop("align", "learned" if misaligned else "none")
    return evaluate_cases(animator, cases, align=align, **options) | {"frames": frames}


def evaluate_cases(
    animator: StableAnimator, cases: Sequence[MakeCase], *, hjb: HJBConfig | None = None, align: str = "none",
    proportions: bool = False, size: tuple[int, int] | None = None, measures: Measures | None = None,
    face_detector: FaceDetector | None = None, on_clip: Callable[[int, int], None] | None = None,
    on_result: Callable[[ClipResult], None] | None = None,
) -> dict:  # fmt: skip
    """Means over the cases; None where a measure is missing or has nothing to compare with.

    hjb: None takes the model's own settings. align, proportions: how drivers are laid over the references. size: width,
    height of the output, None the model's. measures: None loads all that can be had. on_clip(clips done, clips) and
    on_result(result) are called after each clip.
    Returns `<measure><row>` of ROWS, beside `clips`, `judge`, `seconds_per_clip`, `per_clip` and `notes`.
    A case that can't be animated is left out, and a note says why.
    Raises InputError for less than two cases (the floor is somebody else), when none can be animated, or without
    torchmetrics.
    """
    if len(cases) < 2:
        raise InputError(f"clips {len(cases)}: give at least 2, the floor compares each person with the next")
    models = animator.models
    measures = Measures.load(models.device) if measures is None else measures
    hjb = model_hjb(models.config, models.config.steps) if hjb is None else hjb
    width, height = size or (None, None)
    judge = Judge.of(models)
    settings = {
        "align_method": align, "proportions": proportions, "face_detector": face_detector, "width": width,
        "height": height,
    }  # fmt: skip
    results, notes = [], [*measures.notes, *judge.notes]
    for number, make in enumerate(cases, 1):
        try:
            result = _evaluate(animator, make(), hjb, judge, measures, settings)
        except InputError as error:  # one bad video must not cost the hours of the others
            notes.append(f"clip {number} is left out: {error}")
        else:
            results.append((result.case.name, result.scores, result.features))
            if on_result is not None:
                on_result(result)
        if on_clip is not None:
            on_clip(number, len(cases))
    if not results:
        raise InputError(f"none of {len(cases)} clips could be evaluated; the last: {notes[-1]}")
    scores = {key: mean([row[key] for _, row, _ in results]) for key in results[0][1]}
    scores |= _video_distances([features for _, _, features in results])
    if scores["fvd"] == scores["fvd"]:
        notes.append(fvd_note(len(results)))
    return {key: _known(value) for key, value in scores.items()} | {
        "clips": len(results),
        "judge": judge.name,
        "per_clip": [{"name": name} | {key: _known(row[key]) for key in PER_CLIP} for name, row, _ in results],
        "notes": notes,
    }


@torch.no_grad()
def _evaluate(
    animator: StableAnimator, case: Case, hjb: HJBConfig, judge: Judge, measures: Measures, settings: dict
) -> ClipResult:
    trail = Trail()  # steps before the first with HJB are run once

    def animate(hjb: HJBConfig) -> Animation:
        return animator.animate(
            case.reference, case.driving, case.reference_pose, hjb=hjb, seed=case.seed, trail=trail, **settings
        )

    place = locate_face(animator.models.config, case.reference, case.reference_pose)
    reference = from_uint8(case.reference).to(animator.models.device)
    target = embed_reference(judge.network, reference, place).embedding
    plain = animate(HJBConfig(iterations=0))
    made = animate(hjb) if hjb.iterations else plain
    videos = _videos(animator.models, case, made, plain)
    embedded = {row: embed_faces(judge.network, *video) for row, video in videos.items()}
    similar = {row: csim(faces, target).cpu().numpy() for row, faces in embedded.items()}
    scores, features = {"seconds_per_clip": made.seconds}, {}
    placed = _face_boxes(animator.models, made.poses)
    for row in (MADE, PLAIN):
        found = csim(embed_faces(judge.network, videos[row][0], placed), target)
        scores[f"{PLACED}{row}"] = mean(found.cpu().numpy())
    truth, faces = videos[CEILING]
    for row, (video, _) in videos.items():
        drift = identity_drift(similar[row])
        scores |= {f"csim{row}": mean(similar[row]), f"drift{row}": drift.slope, f"drift_ends{row}": drift.ends}
        if row != CEILING:
            scores[f"face_frechet{row}"] = face_frechet(embedded[row], embedded[CEILING])
            measured = dict.fromkeys(PICTURE_MEASURES, NAN)
            if case.known:
                shared = min(len(video), len(truth))  # the floor's video may be shorter or longer
                measured = measures.pictures(video[:shared], truth[:shared], faces.picked(range(shared)))
            scores |= {f"{key}{row}": value for key, value in measured.items()}
        if case.known and row != FLOOR:
            features[row] = measures.video_features(video)
    return ClipResult(case, made.frames, plain.frames, made.pose_images, similar, scores, features)


def _videos(models: Models, case: Case, made: Animation, plain: Animation) -> dict[str, tuple[Tensor, FaceBoxes]]:
    """The video of every row, [F, 3, H, W] in -1..1, and where its faces are."""

    def tensor(frames: np.ndarray) -> Tensor:
        return torch.stack([from_uint8(frame) for frame in frames]).to(models.device)

    own, faces = tensor(case.own.frames), _face_boxes(models, case.own.poses)
    asked = faces if case.known else _face_boxes(models, made.poses)  # where the faces of what is made should be
    through_vae = decode_latents(models.vae, encode_image(models.vae, own) * models.vae.config.scaling_factor)
    height, width = made.frames.shape[1:3]
    copy = resize_picture(from_uint8(case.reference)[None], width, height).to(own)
    return {
        MADE: (tensor(made.frames), asked),
        PLAIN: (tensor(plain.frames), asked),
        RECONSTRUCTION: (through_vae.clamp(-1, 1), faces),
        COPY: (copy.expand(len(made.frames), -1, -1, -1), asked),
        FLOOR: (tensor(case.other.frames), _face_boxes(models, case.other.poses)),
        CEILING: (own, faces),
    }


def _face_boxes(models: Models, poses: Poses) -> FaceBoxes:
    return face_boxes(poses, scale=models.config.face_scale, crop=models.config.face_crop)


def _video_distances(features: Sequence[dict[str, Tensor | None]]) -> dict[str, float]:
    """FVD of every row but the floor's, whose clips are the others' truths: a distance between sets doesn't see that.

    features: of every case, row -> [1, D]; None where there are none.
    """
    distances = {}
    for row in (MADE, PLAIN, RECONSTRUCTION, COPY):
        pairs = [(clip[row], clip[CEILING]) for clip in features if clip.get(row) is not None]
        distances[f"fvd{row}"] = frechet_distance(*map(torch.cat, zip(*pairs))) if pairs else NAN
    return distances


def _known(value: float) -> float | None:
    """None for NaN."""
    return None if value != value else value
