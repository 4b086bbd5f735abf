"""Train the small temporal VAE: whole clips, single frames, and close-ups of faces."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from ..models.iresnet import IResNet
from .checkpoint import Checkpoint
from .data import ClipStore, prefetch
from .graphs import Graphed
from .loop import Budget, MovingAverage, OptimizerSteps, Progress, generator_of

CELL = 8  # pixels of a latent cell
FACE_GAIN = 3.0  # extra weight of faces in the pixel loss


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How the VAE is trained."""

    frames: int = 32  # in a batch of whole frames
    crop: int = 96  # px of a close-up
    close_ups: float = 0.5  # share of the batches
    rate: float = 8e-4
    kl_weight: float = 1e-4
    feature_weight: float = 0.3
    latent_noise: float = 0.05  # largest relative noise that the decoder learns to bear
    decoder_only: bool = False  # latents stay as they are, and so does an animator that was trained on them
    checkpoint_seconds: float = 60.0
    seed: int = 0


class Reconstruction(nn.Module):
    """VAE and its loss: L1 + L2 + gradients, faces weighted up, + the embedder's features of the faces, + KL."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder, embedder: IResNet, recipe: AutoencoderRecipe):
        super().__init__()
        self.vae, self.embedder, self.recipe = vae, embedder, recipe

    def forward(self, x: Tensor, boxes: Tensor, has_face: Tensor, noise: Tensor, blur: Tensor) -> Tensor:
        """Loss, and its parts for the log: [loss, l1, feature, kl].

        x: [B, L, 3, H, W] in -1..1, L frames of a clip. boxes: [B * L, 4] px. has_face: [B * L], 1 where the box is a
        face inside the picture. noise, blur: [B * L, 4, h, w], standard normal and the decoder's noise.
        """
        length, x = x.shape[1], x.flatten(0, 1)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise
        z = z + z.detach().std() * blur
        y = self.vae.decode(z, num_frames=length).sample.float()
        weight = 1 + FACE_GAIN * face_mask(boxes, x.shape[-2:]) * has_face[:, None, None, None]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        feature = self._features(y, x, boxes, has_face)
        loss = _pixel_loss(y, x, weight) + self.recipe.kl_weight * kl + self.recipe.feature_weight * feature
        return torch.stack([loss, (y - x).abs().mean().detach(), feature.detach(), kl.detach()])

    def _features(self, y: Tensor, x: Tensor, boxes: Tensor, has_face: Tensor) -> Tensor:
        """1 - cosine between the embeddings of the decoded and the true faces."""
        size = self.embedder.input_size
        made, true = (self.embedder(_sample_boxes(frames, boxes, size)).float() for frames in (y, x))
        distance = 1 - F.cosine_similarity(made, true.detach())
        return (distance * has_face).sum() / has_face.sum().clamp(min=1)


def train_autoencoder(
    vae: AutoencoderKLTemporalDecoder, store: ClipStore, embedder: IResNet, budget: Budget, recipe: AutoencoderRecipe,
    *, device: torch.device, process: int = 0, out: Path | None = None,
) -> None:  # fmt: skip
    """Train in place and measure `scaling_factor`, which stays with a decoder that is trained alone.

    out: folder for the checkpoint, from which a run goes on if it is there. Batches follow from seed, process and step
    alone once all clips are rendered: before, only those that are there can be drawn.
    """
    trained = vae.decoder if recipe.decoder_only else vae
    vae.to(device).train().requires_grad_(False)
    trained.requires_grad_(True)
    network = Graphed(Reconstruction(vae, embedder, recipe), device)  # first: it may move the weights
    steps = OptimizerSteps(torch.optim.AdamW(
        trained.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=device.type == "cuda"
    ))  # fmt: skip
    average = MovingAverage(vae)
    progress = Progress("vae", budget)
    checkpoint = Checkpoint(
        out and out / "vae.pt", recipe=recipe, network=vae, average=average, steps=steps, progress=progress,
        seconds=recipe.checkpoint_seconds, writes=process == 0,
    )  # fmt: skip
    checkpoint.restore()
    numbers = count(progress.step)
    sample = prefetch(lambda: draw_frames(store, recipe, next(numbers), process), device=device)
    for step in progress:
        frames, boxes, has_face = next(sample)
        x = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # [B, L, 3, H, W]
        shape = (len(boxes), 4, x.shape[-2] // CELL, x.shape[-1] // CELL)
        random = dict(generator=generator_of(device, recipe.seed, process, step), device=device)
        noise = torch.randn(shape, **random)
        blur = torch.randn(shape, **random) * recipe.latent_noise * torch.rand((len(boxes), 1, 1, 1), **random)
        parts = network(x, boxes, has_face, noise, blur)
        steps(parts[0], progress.learning_rate(recipe.rate))
        average.update()
        progress.report(**dict(zip(("loss", "l1", "feature", "kl"), parts.detach().unbind())))
        if checkpoint.due():
            checkpoint.save(step + 1)
    checkpoint.save(progress.step)
    average.swap()
    vae.eval().requires_grad_(False)
    if not recipe.decoder_only:
        vae.register_to_config(scaling_factor=round(1 / float(_latent_spread(vae, store, device)), 5))


def draw_frames(
    store: ClipStore, recipe: AutoencoderRecipe, step: int, process: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A step's batch: uint8 [B, L, H, W, 3], face boxes [B * L, 4] and which of them hold a face in the picture."""
    rng = np.random.default_rng([recipe.seed, process, step])
    close_up = rng.random() < recipe.close_ups and recipe.crop < min(store.width, store.height)
    length = 4 if close_up else int(rng.choice([1, store.frames], p=[0.3, 0.7]))
    width, height = (recipe.crop, recipe.crop) if close_up else (store.width, store.height)
    share = store.width * store.height / (width * height)
    frames, boxes = [], []
    for clip in store.draw(rng, max(1, round(recipe.frames * share / length))):
        start = int(rng.integers(store.frames + 2 - length))  # the reference picture may be the first frame
        box = store.face_boxes[clip, start : start + length]
        x0, y0 = _corner(rng, box, store, recipe.crop) if close_up else (0, 0)
        frames.append(store.clips[clip, start : start + length, y0 : y0 + height, x0 : x0 + width])
        boxes.append(box - np.array([x0, y0, x0, y0], dtype=np.float32))
    box = np.concatenate(boxes)
    inside = (box[:, :2] > -2).all(1) & (box[:, 2] < width + 2) & (box[:, 3] < height + 2)  # NaN compares false
    box = np.where(inside[:, None], box, np.array([0, 0, width, height], dtype=np.float32))
    return torch.from_numpy(np.stack(frames)), torch.from_numpy(box), torch.from_numpy(inside.astype(np.float32))


def _corner(rng: np.random.Generator, box: np.ndarray, store: ClipStore, crop: int) -> tuple[int, int]:
    """Top-left corner of a close-up: round the first face three times out of four, else anywhere."""
    limit = np.array([store.width - crop, store.height - crop])
    if np.isfinite(box[0]).all() and rng.random() < 0.75:
        centre = (box[0, :2] + box[0, 2:]) / 2 + rng.normal(0, 8, 2)
        return tuple(int(v) for v in np.clip(centre - crop / 2, 0, limit))
    return tuple(int(v) for v in rng.integers(limit + 1))


def face_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """1 inside each box, 0 elsewhere and for NaN boxes. boxes: [N, 4] in cells of the mask -> [N, 1, H, W]."""
    height, width = size
    ys = torch.arange(height, device=boxes.device) + 0.5
    xs = torch.arange(width, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.unbind(-1)
    inside_y = (ys >= y0[:, None]) & (ys < y1[:, None])
    inside_x = (xs >= x0[:, None]) & (xs < x1[:, None])
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None].float()


def _sample_boxes(frames: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Every frame's box as [N, 3, size, size], bilinear, in one kernel; edges are repeated outside."""
    height, width = frames.shape[-2:]
    x0, y0, x1, y1 = (side * 2 / extent - 1 for side, extent in zip(boxes.unbind(-1), (width, height) * 2))
    zero = torch.zeros_like(x0)
    theta = torch.stack([(x1 - x0) / 2, zero, (x1 + x0) / 2, zero, (y1 - y0) / 2, (y1 + y0) / 2], dim=-1)
    grid = F.affine_grid(theta.view(-1, 2, 3), [len(frames), 3, size, size], align_corners=False)
    return F.grid_sample(frames.float(), grid.float(), mode="bilinear", padding_mode="border", align_corners=False)


def _pixel_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """L1 + L2 + L1 of the horizontal and vertical differences, weighted."""
    error = y - x
    dx = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
    dy = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    flat = (error.abs() + error**2) * weight
    return (flat.mean() + dx.mean() + dy.mean()) / weight.mean()


@torch.no_grad()
def _latent_spread(vae: AutoencoderKLTemporalDecoder, store: ClipStore, device: torch.device) -> Tensor:
    """Standard deviation of the latents of a few hundred frames."""
    frames = torch.from_numpy(np.ascontiguousarray(store.clips[:256, 1])).to(device)
    x = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(32)]).std()
