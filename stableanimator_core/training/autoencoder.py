"""Train the small temporal VAE: whole frames and close-ups of faces, clips of 1 to 16 frames."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from ..face import crop_faces
from ..models.iresnet import IResNet
from .data import ClipStore, prefetch
from .loop import Budget, MovingAverage, Progress, optimizer_step

CLIP_LENGTHS = (1, 4, 16)
CELL = 8  # pixels of a latent cell


def train_autoencoder(
    vae: AutoencoderKLTemporalDecoder, store: ClipStore, embedder: IResNet, budget: Budget, *, device: torch.device,
    pixels: int = 96 * 160 * 160, crop: int = 96, rate: float = 5e-4, kl_weight: float = 1e-4,
    feature_weight: float = 0.3, seed: int = 0,
) -> None:  # fmt: skip
    """Train in place and measure `scaling_factor`. pixels: in one batch, whatever the clip length and crop.

    Loss: L1 + L2 + gradients, faces x 4, + the embedder's features of the faces, + KL.
    """
    rng = np.random.default_rng(seed)
    vae.to(device).train()
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=device.type == "cuda")
    average = MovingAverage(vae)
    progress = Progress("vae", budget)
    sample = prefetch(lambda: _draw(store, rng, pixels, crop), device=device)
    for _ in progress:
        frames, boxes, length = next(sample)
        x = frames.permute(0, 3, 1, 2).float() / 127.5 - 1  # [N, 3, H, W]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(x).latent_dist
            z = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            spread = z.detach().std() * 0.08 * torch.rand(len(z), 1, 1, 1, device=device)
            y = vae.decode(z + spread * torch.randn_like(z), num_frames=length).sample
        y = y.float()
        weight = _face_weight(boxes, x)
        pixel = _pixel_loss(y, x, weight)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        feature = _feature_loss(embedder, y, x, boxes)
        loss = pixel + kl_weight * kl + feature_weight * feature
        optimizer_step(loss, optimizer, parameters, progress.learning_rate(rate))
        average.update()
        progress.report(pixel=pixel, l1=(y - x).abs().mean(), feature=feature, kl=kl)
    average.swap()
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=round(1 / float(_latent_spread(vae, store, device)), 5))


def _draw(store: ClipStore, rng: np.random.Generator, pixels: int, crop: int) -> tuple[Tensor, Tensor, int]:
    """A batch of clips, whole or cropped round the face: uint8 [N, H, W, 3], face boxes [N, 4] (NaN: none), length."""
    length = int(rng.choice([n for n in CLIP_LENGTHS if n <= store.frames]))
    close_up = rng.random() < 0.6 and crop < min(store.width, store.height)
    width, height = (crop, crop) if close_up else (store.width, store.height)
    clips = max(1, pixels // (width * height * length))
    frames, boxes = [], []
    for clip in store.draw(rng, clips):
        start = int(rng.integers(store.frames + 2 - length))  # the reference picture may be the first frame
        box = store.face_boxes[clip, start : start + length]
        x0, y0 = _corner(rng, box, store, crop) if close_up else (0, 0)
        frames.append(store.clips[clip, start : start + length, y0 : y0 + height, x0 : x0 + width])
        boxes.append(box - np.array([x0, y0, x0, y0], dtype=np.float32))
    return torch.from_numpy(np.concatenate(frames)), torch.from_numpy(np.concatenate(boxes)), length


def _corner(rng: np.random.Generator, box: np.ndarray, store: ClipStore, crop: int) -> tuple[int, int]:
    """Top-left corner of a close-up: round the first face three times out of four, else anywhere."""
    limit = np.array([store.width - crop, store.height - crop])
    if np.isfinite(box[0]).all() and rng.random() < 0.75:
        centre = (box[0, :2] + box[0, 2:]) / 2 + rng.normal(0, 8, 2)
        return tuple(int(v) for v in np.clip(centre - crop / 2, 0, limit))
    return tuple(int(v) for v in rng.integers(limit + 1))


def _face_weight(boxes: Tensor, x: Tensor, gain: float = 3.0) -> Tensor:
    """1 + gain inside each face box. [N, 1, H, W]."""
    return 1 + gain * face_mask(boxes, x.shape[-2:])


def face_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """1 inside each box, 0 elsewhere and for NaN boxes. boxes: [N, 4] in cells of the mask -> [N, 1, H, W]."""
    height, width = size
    ys = torch.arange(height, device=boxes.device) + 0.5
    xs = torch.arange(width, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.unbind(-1)
    inside_y = (ys >= y0[:, None]) & (ys < y1[:, None])
    inside_x = (xs >= x0[:, None]) & (xs < x1[:, None])
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None].float()


def _pixel_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """L1 + L2 + L1 of the horizontal and vertical differences, weighted."""
    error = y - x
    dx = (error[..., :, 1:] - error[..., :, :-1]).abs() * weight[..., :, 1:]
    dy = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    flat = (error.abs() + error**2) * weight
    return (flat.mean() + dx.mean() + dy.mean()) / weight.mean()


def _feature_loss(embedder: IResNet, y: Tensor, x: Tensor, boxes: Tensor, most: int = 32) -> Tensor:
    """1 - cosine between the embeddings of the decoded and the true face, over at most `most` faces inside the crop."""
    height, width = x.shape[-2:]
    inside = (boxes[:, :2] > -2).all(1) & (boxes[:, 2] < width + 2) & (boxes[:, 3] < height + 2)  # NaN compares false
    chosen = inside.nonzero().flatten()[:most]
    if not len(chosen):
        return y.new_zeros(())
    size = embedder.input_size
    made = embedder(crop_faces(y[chosen], boxes[chosen], size))
    true = embedder(crop_faces(x[chosen], boxes[chosen], size))
    return (1 - F.cosine_similarity(made.float(), true.float())).mean()


@torch.no_grad()
def _latent_spread(vae: AutoencoderKLTemporalDecoder, store: ClipStore, device: torch.device, clips: int = 256) -> Tensor:
    frames = torch.from_numpy(np.ascontiguousarray(store.clips[:clips, 1])).to(device)
    x = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(32)]).std()
