"""Reference picture, face and poses become what the UNet is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .face import ReferenceFace, face_boxes
from .keypoints import Poses
from .models.pose_net import PoseNet
from .vae import encode_bytes, encode_image
from .weights import ModelConfig, Models

HUGE = 1536  # px, longest side of a picture that the image encoder's own shrinking is left to
FACE_ROOM = 1.8  # what a crop keeps of a face: its box over the extent of the 68 points


@dataclass(frozen=True)
class Conditioning:
    """All that steers the denoising of one clip; one entry for the whole clip, except the pose."""

    context: Tensor  # [1, 1 + 4, D] image token, then face tokens (zeros when the identity path is off)
    id_scale: float  # 0 switches the identity path off
    image_latents: Tensor  # [1, 4, h, w] of the reference, not scaled
    time_ids: Tensor  # [1, 3]
    pose_features: Tensor  # [F, C, h, w]


def build_conditioning(
    models: Models, reference: Tensor, pose_images: np.ndarray | Tensor, *, face: ReferenceFace | None,
    size: tuple[int, int], generator: torch.Generator,
) -> Conditioning:  # fmt: skip
    """Encode reference, face and poses once for the clip.

    reference: [3, H, W] in -1..1, any size with the output's aspect. pose_images: [F, H, W, 3] uint8 at the output's
    size. size: width, height of the output. generator: CPU; draws the noise augmentation.
    """
    width, height = size
    resized = resize_picture(reference[None], width, height)
    noise = torch.randn(resized.shape, generator=generator)
    noisy = resized.cpu() + models.config.noise_augmentation * noise
    vae = next(models.vae.parameters())
    with models.on_device("image_encoder", room=encode_bytes(models.vae, width * height)):
        image_latents = encode_image(models.vae, noisy.to(vae))
        encoder = next(models.image_encoder.parameters())
        token = image_token(models.image_encoder, clip_picture(models.image_encoder, reference[None]).to(encoder))
        if face is None:
            tokens = token.new_zeros(1, models.face_encoder.num_tokens, token.shape[-1])
        else:
            tokens = models.face_encoder(face.embedding[None].to(encoder), token)
        poses = pose_features(models.pose_net, pose_images)
    unet = {"device": models.device, "dtype": models.dtype}
    return Conditioning(
        context=torch.cat([token, tokens], dim=1).to(**unet),
        id_scale=0.0 if face is None else 1.0,
        image_latents=image_latents.to(**unet),
        time_ids=time_ids(models.config).to(**unet),
        pose_features=poses.to(**unet),
    )


def pose_features(pose_net: PoseNet, pose_images: np.ndarray | Tensor, *, chunk: int = 16) -> Tensor:
    """PoseNet over a clip, in chunks. pose_images: [F, H, W, 3] uint8 -> [F, C, H/8, W/8]."""
    weight = next(pose_net.parameters())
    images = torch.as_tensor(pose_images).permute(0, 3, 1, 2)  # [F, 3, H, W]
    return torch.cat([pose_net(part.to(weight) / 127.5 - 1) for part in images.split(chunk)])


def clip_picture(encoder: CLIPVisionModelWithProjection, picture: Tensor) -> Tensor:
    """Squeeze pictures to the image encoder's square, antialiased. [B, 3, H, W] in -1..1 -> [B, 3, S, S] in -1..1."""
    size = encoder.config.image_size
    height, width = picture.shape[-2:]
    if max(height, width) > HUGE:  # the blur of a photograph of 12 megapixels takes half a minute on a CPU
        shrink = HUGE / max(height, width)
        picture = resize_picture(picture, max(1, round(width * shrink)), max(1, round(height * shrink)))
    return _resize_with_antialiasing(picture.float(), (size, size))


def image_token(encoder: CLIPVisionModelWithProjection, squeezed: Tensor) -> Tensor:
    """The image embedding as one token. squeezed: [B, 3, S, S] of clip_picture -> [B, 1, D]."""
    channels = ((squeezed + 1) / 2).unbind(1)
    normed = [(c - mean) / std for c, mean, std in zip(channels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)]
    return encoder(torch.stack(normed, dim=1)).image_embeds[:, None]


def time_ids(config: ModelConfig) -> Tensor:
    """Stable Video Diffusion's micro-conditioning: fps - 1, motion bucket, noise augmentation. [1, 3]."""
    return torch.tensor([[config.fps - 1, config.motion_bucket, config.noise_augmentation]], dtype=torch.float32)


def resize_picture(picture: Tensor, width: int, height: int) -> Tensor:
    """Lanczos on 8 bits, as the published pipeline resizes what it encodes. [B, 3, H, W] in -1..1 -> the same, resized.

    picture: of whole colour levels, as pictures are; between them it is rounded.
    """
    if picture.shape[-2:] == (height, width):
        return picture
    levels = ((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()  # [B, H, W, 3]
    resized = np.stack([Image.fromarray(each).resize((width, height), Image.Resampling.LANCZOS) for each in levels])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(picture) / 127.5 - 1


class Cover(NamedTuple):
    """The part of a canvas that fills the output, as fractions of the canvas: the longer side is cropped."""

    x: float
    y: float
    width: float
    height: float


def cover(poses: Poses, width: int, height: int) -> Cover:
    """Crop a canvas to the output's aspect: evenly, but shifted so far that the first person's face stays in."""
    scale = max(width / poses.width, height / poses.height)
    part = np.array([width / (scale * poses.width), height / (scale * poses.height)])
    corner = (1 - part) / 2
    faces = face_boxes(poses, scale=FACE_ROOM)
    if faces.found.any():
        box = faces.boxes[faces.found].median(dim=0).values.numpy() / np.array([poses.width, poses.height] * 2)
        corner = np.minimum(corner, np.maximum(box[:2], 0))
        corner = np.maximum(corner, np.minimum(box[2:], 1) - part)
    return Cover(*np.clip(corner, 0, 1 - part), *part)


def cover_picture(picture: np.ndarray, part: Cover) -> Tensor:
    """Crop a picture to whole pixels. [H, W, 3] uint8 -> [3, H', W'] in -1..1, not resized."""
    full_height, full_width = picture.shape[:2]
    w, h = max(1, round(part.width * full_width)), max(1, round(part.height * full_height))
    x, y = min(round(part.x * full_width), full_width - w), min(round(part.y * full_height), full_height - h)
    return torch.from_numpy(np.ascontiguousarray(picture[y : y + h, x : x + w])).permute(2, 0, 1).float() / 127.5 - 1


def cover_poses(poses: Poses, part: Cover, width: int, height: int) -> Poses:
    """The same crop for keypoints, resized to the output."""
    corner = np.array([part.x * poses.width, part.y * poses.height])
    scale = np.array([width / (part.width * poses.width), height / (part.height * poses.height)])
    return poses.transformed(lambda points: (points - corner) * scale, width=width, height=height)
