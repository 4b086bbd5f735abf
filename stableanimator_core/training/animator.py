"""Train PoseNet, image encoder, Face Encoder and UNet together: EDM v-prediction, loss weighted by 1 + face mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..conditioning import clip_picture, image_token, time_ids
from ..denoiser import scale_input, timestep_of
from ..face import FaceBoxes, crop_faces
from ..vae import encode_image
from ..weights import Models
from .autoencoder import CELL, face_mask
from .data import ClipStore, prefetch
from .graphs import Graphed
from .loop import Budget, MovingAverage, OptimizerSteps, Progress


@dataclass(frozen=True)
class AnimatorRecipe:
    """How the animator is trained."""

    clips: int = 64  # in a batch
    frames: int = 8  # of each clip, until `long_after`
    long_after: float = 0.7  # of the budget: from then on whole clips, half as many
    rate: float = 5e-4
    sigma_mean: float = 0.5  # of ln σ
    sigma_std: float = 1.6
    average: float = 0.9995  # memory of the moving average
    drop_all: float = 0.1  # the unconditional half of guidance: no context, no image latents, no pose
    drop_face: float = 0.1  # the identity path off
    seed: int = 0


class Animator(nn.Module):
    """The trainable networks as one module: conditioning and UNet."""

    def __init__(self, models: Models):
        super().__init__()
        self.unet, self.pose_net = models.unet, models.pose_net
        self.face_encoder, self.image_encoder = models.face_encoder, models.image_encoder

    def forward(
        self, noisy: Tensor, timestep: Tensor, keep: Tensor, id_scale: Tensor, reference: Tensor, embedding: Tensor,
        image_latents: Tensor, pose_images: Tensor, micro: Tensor,
    ) -> Tensor:  # fmt: skip
        """v-prediction [B, F, 4, h, w] for what `_noisy_batch` makes."""
        frames = noisy.shape[1]
        token = image_token(self.image_encoder, reference)  # [B, 1, D]
        faces = self.face_encoder(embedding, token)  # [B, 4, D]
        context = torch.cat([token, faces], dim=1) * keep[:, None, None]
        pose = self.pose_net(pose_images.flatten(0, 1))  # [B * F, C, h, w]
        pose = pose * keep.repeat_interleave(frames)[:, None, None, None]
        still = (image_latents * keep[:, None, None, None])[:, None].expand(-1, frames, -1, -1, -1)
        return self.unet(torch.cat([noisy, still], dim=2), timestep, context, micro, pose, id_scale)


@dataclass
class EncodedClips:
    """What the animator sees of the clips, made once."""

    latents: Tensor  # [N, F, 4, h, w] scaled, float16
    image_latents: Tensor  # [N, 4, h, w] of the reference with noise augmentation, not scaled
    reference: Tensor  # [N, 3, S, S] uint8, at the image encoder's size
    embedding: Tensor  # [N, D] of the reference's face
    has_face: Tensor  # [N] bool


@torch.no_grad()
def encode_clips(models: Models, store: ClipStore, *, device: torch.device, chunk: int = 16) -> EncodedClips:
    """Run the frozen networks over all clips of this process."""
    config, parts = models.config, []
    generator = torch.Generator(device).manual_seed(1)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    batches = np.array_split(store.own, -(-len(store.own) // chunk))
    remaining = iter(batches)

    def draw() -> tuple[Tensor, Tensor]:
        chosen = next(remaining)
        return torch.from_numpy(store.clips[chosen]), torch.from_numpy(store.face_boxes[chosen, 0])

    loader = prefetch(draw, device=device)
    for _ in batches:
        frames, boxes = next(loader)
        x = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # [n, F + 1, 3, H, W]
        with autocast:
            latents = encode_image(models.vae, x[:, 1:].flatten(0, 1)) * models.vae.config.scaling_factor
            noisy = x[:, 0] + config.noise_augmentation * torch.randn(x[:, 0].shape, generator=generator, device=device)
            still = encode_image(models.vae, noisy)
            found = torch.isfinite(boxes).all(1)
            safe = torch.where(found[:, None], boxes, boxes.new_tensor([0, 0, store.width, store.height]))
            faces = FaceBoxes(safe, torch.ones_like(found))
            embedding = models.face_embedder(crop_faces(x[:, 0], faces, models.face_embedder.input_size))
        small = clip_picture(models.image_encoder, x[:, 0])
        parts.append((
            latents.unflatten(0, (len(x), -1)).half(), still.float(), ((small + 1) * 127.5).clamp(0, 255).byte(),
            embedding.float(), found,
        ))  # fmt: skip
    return EncodedClips(*(torch.cat(column) for column in zip(*parts)))


def train_animator(
    models: Models, store: ClipStore, budget: Budget, recipe: AnimatorRecipe, *, device: torch.device, process: int = 0,
    on_checkpoint: Callable[[], None] | None = None, checkpoint_minutes: float = 4.0,
) -> None:  # fmt: skip
    """Train in place; the networks end with their averaged weights. on_checkpoint: called now and then with them."""
    encoded = encode_clips(models, store, device=device)
    animator = Animator(models).to(device).train().requires_grad_(True)
    network = Graphed(animator, device)
    average = MovingAverage(animator, recipe.average)
    step = OptimizerSteps(torch.optim.AdamW(
        animator.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=device.type == "cuda"
    ))  # fmt: skip
    rng = np.random.default_rng([recipe.seed, process])
    progress = Progress("animator", budget)
    sample = prefetch(lambda: _draw(store, rng, recipe, progress), device=device)
    saved = 0.0
    for _ in progress:
        clips, start, pose_images, boxes = next(sample)
        batch, target = _noisy_batch(encoded, clips, start, pose_images, models, recipe)
        v = network(*batch)
        height, width = v.shape[-2:]
        weight = 1 + face_mask(boxes.flatten(0, 1) / CELL, (height, width)).unflatten(0, v.shape[:2])
        loss = ((v.float() - target) ** 2 * weight).mean()
        step(loss, progress.learning_rate(recipe.rate))
        average.update()
        progress.report(loss=loss)
        if on_checkpoint and budget.minutes and progress.done * budget.minutes - saved > checkpoint_minutes:
            saved = progress.done * budget.minutes
            average.swap()
            on_checkpoint()
            average.swap()
    average.swap()
    animator.eval().requires_grad_(False)


def _draw(store: ClipStore, rng: np.random.Generator, recipe: AnimatorRecipe, progress: Progress) -> tuple:
    """Runs of frames in random clips of this process: places in `own`, first frames, pose images, face boxes."""
    length = store.frames if progress.done >= recipe.long_after else min(recipe.frames, store.frames)
    count = max(1, recipe.clips * recipe.frames // length)
    chosen = rng.integers(len(store.own), size=count)
    start = rng.integers(0, store.frames - length + 1, count)
    runs = [(store.own[c], slice(s + 1, s + 1 + length)) for c, s in zip(chosen, start)]  # frame 0 is the reference
    poses = np.stack([store.pose_images[run] for run in runs])
    boxes = np.stack([store.face_boxes[run] for run in runs])
    return torch.from_numpy(chosen), torch.from_numpy(start), torch.from_numpy(poses), torch.from_numpy(boxes)


def _noisy_batch(
    encoded: EncodedClips, clips: Tensor, start: Tensor, pose_images: Tensor, models: Models, recipe: AnimatorRecipe
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs of `Animator` and its v-target. pose_images: uint8 [B, F, H, W, 3]."""
    count, length = pose_images.shape[:2]
    device = clips.device
    frames = start[:, None] + torch.arange(length, device=device)
    x0 = encoded.latents[clips[:, None], frames].float()  # [B, F, 4, h, w]
    sigma = (recipe.sigma_mean + recipe.sigma_std * torch.randn(count, device=device)).exp()
    wide = sigma[:, None, None, None, None]
    x = x0 + wide * torch.randn_like(x0)
    target = (x / (wide**2 + 1) - x0) * (wide**2 + 1).sqrt() / wide
    keep = (torch.rand(count, device=device) >= recipe.drop_all).float()
    with_face = (torch.rand(count, device=device) >= recipe.drop_face) & encoded.has_face[clips]
    batch = (
        scale_input(x, wide),
        timestep_of(sigma),
        keep,
        with_face.float(),
        encoded.reference[clips].float() / 127.5 - 1,
        encoded.embedding[clips],
        encoded.image_latents[clips],
        pose_images.permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        time_ids(models.config).to(device).repeat(count, 1),
    )
    return batch, target

