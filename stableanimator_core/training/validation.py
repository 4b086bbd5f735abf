"""Looks at a training while it goes on: a held-out clip, animated, as a picture and as a score."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditioning import Conditioning, pose_features, time_ids
from ..denoiser import frame_guidance, make_denoiser
from ..face import score_identity
from ..pipeline import to_uint8
from ..sampling import init_noise, karras_sigmas, sample_euler
from ..vae import decode_latents
from ..weights import Models
from ..windows import context_windows
from .material import HeldOut, Material, Sample

log = logging.getLogger(__name__)

COLUMNS = 8  # frames of a sheet
Token = Callable[[Tensor], Tensor]  # the image token [B, 1, D] of a sample's reference


@dataclass(frozen=True)
class Validation:
    """The clip, and what is needed to animate it."""

    models: Models
    token: Token
    clip: HeldOut
    folder: Path
    steps: int  # of the denoising
    dtype: torch.dtype  # of the autocast on a GPU

    @classmethod
    def of(
        cls, models: Models, token: Token, material: Material, out: Path, *, steps: int, dtype: torch.dtype
    ) -> Validation | None:
        """None, and a note, when the material has no clip for it."""
        clip = material.held_out()
        if clip is None:
            log.info("no validation: the material has no clip for it")
            return None
        return cls(models, token, clip, out / "validation", steps, dtype)

    @torch.no_grad()
    def look(self, step: int) -> dict[str, float]:
        """Animate the clip with the present weights: writes truth, poses and result as one picture, returns scores."""
        device = self.clip.sample.latents.device
        with torch.autocast(device.type, self.dtype, enabled=device.type == "cuda" and self.dtype != torch.float32):
            latents = animate_sample(self.models, self.token, self.clip.sample, steps=self.steps)
        video = decode_latents(self.models.vae, latents).clamp(-1, 1)
        judge = self.models.face_judge or self.models.face_embedder
        csim = float(score_identity(judge, video, self.clip.faces, self.clip.target).nanmean())
        made = to_uint8(video)
        l1 = float(np.abs(made.astype(np.float32) - self.clip.truth).mean() / 255)
        poses = self.clip.sample.pose_images[0].cpu().numpy()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:07d}.jpg"
        Image.fromarray(_sheet([self.clip.truth, poses, made])).save(path, quality=90)
        log.info("validation at step %d: CSIM %.3f, L1 %.4f: %s", step, csim, l1, path)
        return {"validation_csim": csim, "validation_l1": l1}


def animate_sample(models: Models, token_of: Token, sample: Sample, *, steps: int, seed: int = 0) -> Tensor:
    """Latents [F, 4, h, w] of a sample of one clip, sampled as the pipeline does, without HJB."""
    config, device = models.config, sample.latents.device
    frames = sample.latents.shape[1]
    token = token_of(sample.reference)
    has_face = bool(sample.has_face[0])
    faces = models.face_encoder(sample.embedding, token)
    cond = Conditioning(
        context=torch.cat([token, faces if has_face else torch.zeros_like(faces)], dim=1),
        id_scale=float(has_face),
        image_latents=sample.image_latents,
        time_ids=time_ids(config).to(device),
        pose_features=pose_features(models.pose_net, sample.pose_images[0]),
    )
    windows = context_windows(frames, config.context_window, config.context_overlap)
    denoise = make_denoiser(models.unet, cond, frame_guidance(*config.guidance, frames, device=device), windows)
    generator = torch.Generator().manual_seed(seed)
    noise = init_noise(tuple(sample.latents.shape[1:]), config.sigma_max, generator=generator, device=device)
    return sample_euler(denoise, noise, karras_sigmas(steps, config.sigma_min, config.sigma_max).to(device))


def _sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Videos below each other, a few frames of each: [F, H, W, 3] -> [rows * H, COLUMNS * W, 3]."""
    frames = np.unique(np.linspace(0, len(rows[0]) - 1, COLUMNS).round().astype(int))
    return np.concatenate([np.concatenate(list(row[frames]), axis=1) for row in rows])
