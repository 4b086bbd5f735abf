"""What the animator learns from: clips as the frozen networks see them, drawn in runs of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..conditioning import clip_picture
from ..face import FaceBoxes, crop_faces, embed_faces, face_boxes
from ..performers import make_clip
from ..pose.draw import draw_poses
from ..vae import encode_image
from ..weights import Models
from .data import ClipStore, prefetch

HELD_OUT_SEED = 7_000_000  # of the clip that is looked at during training


class Sample(NamedTuple):
    """Runs of frames with what the animator is conditioned on."""

    latents: Tensor  # [B, F, 4, h, w] scaled
    image_latents: Tensor  # [B, 4, h, w] of the reference with noise augmentation, not scaled
    reference: Tensor  # [B, 3, S, S] in -1..1 for an image encoder that trains, else its token [B, 1, D]
    embedding: Tensor  # [B, D] of the reference's face
    has_face: Tensor  # [B] bool
    pose_images: Tensor  # [B, F, H, W, 3] uint8
    boxes: Tensor  # [B, F, 4] px, NaN without a face


class HeldOut(NamedTuple):
    """One clip that is not trained on, to look at and to score."""

    sample: Sample  # B = 1
    truth: np.ndarray  # uint8 [F, H, W, 3]
    faces: FaceBoxes
    target: Tensor  # [D], the judge's embedding of the reference


class Material(Protocol):
    """Where batches come from. `draw` works in a thread on the CPU, `gather` on the device."""

    frames: int  # most that a run can have

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Any, ...]:
        """What `gather` needs for `count` random runs of `length` frames."""
        ...

    def gather(self, *drawn: Any) -> Sample:
        """The runs that were drawn."""
        ...

    def held_out(self) -> HeldOut | None:
        """A clip to validate on, if there is one."""
        ...


@dataclass
class EncodedClips:
    """What the animator sees of rendered clips, made once."""

    latents: Tensor  # [N, F, 4, h, w] scaled, float16
    image_latents: Tensor  # [N, 4, h, w] of the reference with noise augmentation, not scaled
    reference: Tensor  # [N, 3, S, S] uint8, at the image encoder's size
    embedding: Tensor  # [N, D] of the reference's face
    has_face: Tensor  # [N] bool


class RenderedMaterial:
    """Clips of performers, all of this process's share in memory; the reference is their frame 0."""

    def __init__(self, models: Models, store: ClipStore, *, device: torch.device):
        self.models, self.store, self.device = models, store, device
        self.frames = store.frames
        self.encoded = encode_clips(models, store, device=device)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Tensor, ...]:
        """Places in the store's share, first frames, pose images and face boxes."""
        store = self.store
        chosen = rng.integers(len(store.own), size=count)
        start = rng.integers(0, store.frames - length + 1, count)
        runs = [(store.own[c], slice(s + 1, s + 1 + length)) for c, s in zip(chosen, start)]
        poses = np.stack([store.pose_images[run] for run in runs])
        boxes = np.stack([store.face_boxes[run] for run in runs])
        return torch.from_numpy(chosen), torch.from_numpy(start), torch.from_numpy(poses), torch.from_numpy(boxes)

    def gather(self, clips: Tensor, start: Tensor, pose_images: Tensor, boxes: Tensor) -> Sample:
        frames = start[:, None] + torch.arange(pose_images.shape[1], device=clips.device)
        encoded = self.encoded
        return Sample(
            encoded.latents[clips[:, None], frames].float(), encoded.image_latents[clips],
            encoded.reference[clips].float() / 127.5 - 1, encoded.embedding[clips], encoded.has_face[clips],
            pose_images, boxes,
        )  # fmt: skip

    @torch.no_grad()
    def held_out(self) -> HeldOut | None:
        """A performer in a motion that training never sees."""
        store, config, device = self.store, self.models.config, self.device
        size = store.width, store.height
        clip = make_clip(HELD_OUT_SEED, size=size, frames=self.frames, split="held_out")
        how = dict(scale=config.face_scale, crop=config.face_crop)
        place, faces = face_boxes(clip.reference_pose, **how), face_boxes(clip.poses, **how)
        frames = torch.from_numpy(np.concatenate([clip.reference[None], clip.frames]))[None].to(device)
        boxes = torch.where(place.found[:, None], place.boxes, torch.nan)
        generator = torch.Generator(device).manual_seed(HELD_OUT_SEED)
        encoded = _encode(self.models, frames, boxes.to(device), generator)
        if not encoded.has_face[0]:
            return None
        poses = torch.from_numpy(draw_poses(clip.poses, *size, canvas_short_side=config.pose_canvas))[None]
        sample = Sample(
            encoded.latents.float(), encoded.image_latents, encoded.reference.float() / 127.5 - 1, encoded.embedding,
            encoded.has_face, poses.to(device), faces.boxes[None].to(device),
        )  # fmt: skip
        judge = self.models.face_judge or self.models.face_embedder
        target = embed_faces(judge, frames[0, :1].permute(0, 3, 1, 2).float() / 127.5 - 1, place)[0]
        return HeldOut(sample, clip.frames, faces, target)


@torch.no_grad()
def encode_clips(models: Models, store: ClipStore, *, device: torch.device, chunk: int = 16) -> EncodedClips:
    """Run the frozen networks over all clips of this process."""
    parts = []
    generator = torch.Generator(device).manual_seed(1)
    batches = np.array_split(store.own, -(-len(store.own) // chunk))
    remaining = iter(batches)

    def draw() -> tuple[Tensor, Tensor]:
        chosen = next(remaining)
        return torch.from_numpy(store.clips[chosen]), torch.from_numpy(store.face_boxes[chosen, 0])

    loader = prefetch(draw, device=device)
    for _ in batches:
        parts.append(_encode(models, *next(loader), generator))
    return EncodedClips(*(torch.cat([getattr(part, name) for part in parts]) for name in EncodedClips.__annotations__))


def _encode(models: Models, frames: Tensor, boxes: Tensor, generator: torch.Generator) -> EncodedClips:
    """frames: uint8 [n, F + 1, H, W, 3]. boxes: [n, 4] px of the reference's face, NaN without one."""
    device, (height, width) = frames.device, frames.shape[2:4]
    x = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # [n, F + 1, 3, H, W]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        latents = encode_image(models.vae, x[:, 1:].flatten(0, 1)) * models.vae.config.scaling_factor
        noise = torch.randn(x[:, 0].shape, generator=generator, device=device)
        still = encode_image(models.vae, x[:, 0] + models.config.noise_augmentation * noise)
        found = torch.isfinite(boxes).all(1)
        safe = torch.where(found[:, None], boxes, boxes.new_tensor([0, 0, width, height]))
        faces = FaceBoxes(safe, torch.ones_like(found))
        embedding = models.face_embedder(crop_faces(x[:, 0], faces, models.face_embedder.input_size))
    small = clip_picture(models.image_encoder, x[:, 0])
    return EncodedClips(
        latents.unflatten(0, (len(x), -1)).half(), still.float(), ((small + 1) * 127.5).clamp(0, 255).byte(),
        embedding.float(), found,
    )  # fmt: skip
