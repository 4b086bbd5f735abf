"""How good the animations of a model are, on performers that it was not trained on, where the truth is known.

Identity (CSIM) is judged by an embedder that HJB never sees. Beside it stand L1, PSNR and SSIM against the truth, and
rows that put the numbers in place: the truth itself (ceiling), the truth through the VAE (reconstruction), the
reference picture copied into every frame (copy), and somebody else (floor).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..face import FaceBoxes, crop_faces, encode_reference_face, face_boxes, score_identity
from ..hjb import HJBConfig
from ..performers import Clip, make_clip
from ..pipeline import StableAnimator, from_uint8, model_hjb
from ..vae import decode_latents, encode_image

FIRST_SEED = 10_000  # of evaluation clips, per seed: far from the demo's


@dataclass(frozen=True)
class _Take:
    """A clip with what all rows share."""

    clip: Clip
    truth: Tensor  # [F, 3, H, W] in -1..1
    boxes: FaceBoxes
    target: Tensor  # [D], the judge's embedding of the reference


def evaluate_animation(
    animator: StableAnimator, *, clips: int, seed: int, frames: int = 16, hjb: HJBConfig | None = None,
    on_clip: Callable[[int, int], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Means over clips of held-out people in held-out motions; every clip is a new person.

    hjb: None takes the model's own settings. on_clip(clips done, clips) is called after each clip.
    Raises InputError for a model without a judge, less than two clips (the floor compares two people)
    or without torchmetrics.
    """
    if clips < 2:
        raise InputError(f"clips {clips}: give at least 2, the floor compares each person with the next")
    models = animator.models
    if models.face_judge is None:
        raise InputError(f"model '{models.config.name}' has no judge of its own to score identity with")
    _picture_measures()
    takes = [_take(animator, seed * FIRST_SEED + i, frames) for i in range(clips)]
    hjb = model_hjb(models.config, models.config.steps) if hjb is None else hjb
    rows = []
    for i, take in enumerate(takes):
        rows.append(_evaluate_clip(animator, take, takes[(i + 1) % clips], hjb))
        if on_clip is not None:
            on_clip(i + 1, clips)
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]} | {"clips": clips, "frames": frames}


def _take(animator: StableAnimator, seed: int, frames: int) -> _Take:
    config, models = animator.models.config, animator.models
    clip = make_clip(seed, size=(config.width, config.height), frames=frames, split="held_out")
    truth = torch.stack([from_uint8(frame) for frame in clip.frames]).to(models.device)
    reference = from_uint8(clip.reference).to(models.device)
    how = {"scale": config.face_scale, "crop": config.face_crop}
    face = encode_reference_face(models.face_judge, reference, clip.reference_pose, **how)
    return _Take(clip, truth, face_boxes(clip.poses, **how), face.embedding)


@torch.no_grad()
def _evaluate_clip(animator: StableAnimator, take: _Take, other: _Take, hjb: HJBConfig) -> dict[str, float]:
    clip, models = take.clip, animator.models

    def judged(video: Tensor, boxes: FaceBoxes = take.boxes) -> float:
        return float(score_identity(models.face_judge, video, boxes, take.target).nanmean())

    start = time.monotonic()
    made = _animate(animator, clip, hjb)
    seconds = time.monotonic() - start
    plain = _animate(animator, clip, HJBConfig(iterations=0))
    copy = from_uint8(clip.reference).to(take.truth).expand_as(take.truth)
    through_vae = decode_latents(models.vae, encode_image(models.vae, take.truth) * models.vae.config.scaling_factor)
    through_vae = through_vae.clamp(-1, 1)
    psnr, ssim = _psnr_ssim(made, take.truth)
    return {
        "csim": judged(made),
        "csim_without_hjb": judged(plain),
        "csim_reconstruction": judged(through_vae),
        "csim_ceiling": judged(take.truth),
        "csim_copy": judged(copy),
        "csim_floor": judged(other.truth, other.boxes),
        "l1": _l1(made, take.truth),
        "l1_without_hjb": _l1(plain, take.truth),
        "l1_reconstruction": _l1(through_vae, take.truth),
        "l1_copy": _l1(copy, take.truth),
        "face_l1": _face_l1(made, take),
        "face_l1_without_hjb": _face_l1(plain, take),
        "face_l1_reconstruction": _face_l1(through_vae, take),
        "face_l1_copy": _face_l1(copy, take),
        "psnr": psnr,
        "ssim": ssim,
        "seconds_per_clip": seconds,
    }


def _animate(animator: StableAnimator, clip: Clip, hjb: HJBConfig) -> Tensor:
    """The clip's own poses drive its reference. [F, 3, H, W] in -1..1."""
    made = animator.animate(
        clip.reference, clip.poses, clip.reference_pose, align_method="none", hjb=hjb, seed=clip.seed
    )
    return torch.stack([from_uint8(frame) for frame in made.frames]).to(animator.models.device)


def _l1(video: Tensor, truth: Tensor) -> float:
    """Mean absolute error on a scale of 0..1."""
    return float((video - truth).abs().mean() / 2)


def _face_l1(video: Tensor, take: _Take) -> float:
    """L1 inside the face boxes, on a scale of 0..1."""
    found = take.boxes.found.nonzero().flatten().tolist()
    if not found:
        return float("nan")
    faces = take.boxes.picked(found)
    return _l1(crop_faces(video[found], faces, 64), crop_faces(take.truth[found], faces, 64))


def _psnr_ssim(video: Tensor, truth: Tensor) -> tuple[float, float]:
    a, b = (video + 1) / 2, (truth + 1) / 2
    psnr, ssim = (float(measure(a, b, data_range=1.0)) for measure in _picture_measures())
    return psnr, ssim


def _picture_measures() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """PSNR and SSIM. Raises InputError when torchmetrics, which nothing else needs, is missing."""
    try:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    except ImportError as error:
        raise InputError("evaluation needs torchmetrics: pip install torchmetrics") from error
    return peak_signal_noise_ratio, structural_similarity_index_measure
