"""Reference picture, face and poses become what the UNet is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .face import ReferenceFace
from .keypoints import Poses
from .models.pose_net import PoseNet
from .vae import encode_image
from .weights import ModelConfig, Models


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
    unet = next(models.unet.parameters())
    width, height = size
    resized = resize_picture(reference[None], width, height)
    noise = torch.randn(resized.shape, generator=generator)
    noisy = resized.cpu() + models.config.noise_augmentation * noise
    vae = next(models.vae.parameters())
    image_latents = encode_image(models.vae, noisy.to(vae))
    encoder = next(models.image_encoder.parameters())
    token = image_token(models.image_encoder, clip_picture(models.image_encoder, reference[None]).to(encoder))
    if face is None:
        tokens = token.new_zeros(1, models.face_encoder.num_tokens, token.shape[-1])
    else:
        tokens = models.face_encoder(face.embedding[None].to(encoder), token)
    return Conditioning(
        context=torch.cat([token, tokens], dim=1).to(unet),
        id_scale=0.0 if face is None else 1.0,
        image_latents=image_latents.to(unet),
        time_ids=time_ids(models.config).to(unet),
        pose_features=pose_features(models.pose_net, pose_images).to(unet),
    )


def pose_features(pose_net: PoseNet, pose_images: np.ndarray | Tensor, *, chunk: int = 16) -> Tensor:
    """PoseNet over a clip, in chunks. pose_images: [F, H, W, 3] uint8 -> [F, C, H/8, W/8]."""
    weight = next(pose_net.parameters())
    images = torch.as_tensor(pose_images).permute(0, 3, 1, 2)  # [F, 3, H, W]
    return torch.cat([pose_net(part.to(weight) / 127.5 - 1) for part in images.split(chunk)])


def clip_picture(encoder: CLIPVisionModelWithProjection, picture: Tensor) -> Tensor:
    """Squeeze pictures to the image encoder's square, antialiased. [B, 3, H, W] in -1..1 -> [B, 3, S, S] in -1..1."""
    size = encoder.config.image_size
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
    """Bilinear, antialiased. [B, 3, H, W] -> [B, 3, height, width]."""
    if picture.shape[-2:] == (height, width):
        return picture
    return F.interpolate(picture, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def cover(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float]:
    """Uniform scale and shift (px) that fill the target (width, height) with the source, cropping evenly."""
    scale = max(target[0] / source[0], target[1] / source[1])
    return scale, (target[0] - scale * source[0]) / 2, (target[1] - scale * source[1]) / 2


def cover_picture(picture: np.ndarray, width: int, height: int) -> Tensor:
    """Crop a picture's longer side evenly to the output's aspect.

    [H, W, 3] uint8 -> [3, H', W'] in -1..1, not resized.
    """
    scale, dx, dy = cover((picture.shape[1], picture.shape[0]), (width, height))
    x, y = round(-dx / scale), round(-dy / scale)
    cropped = picture[y : picture.shape[0] - y, x : picture.shape[1] - x]
    return torch.from_numpy(np.ascontiguousarray(cropped)).permute(2, 0, 1).float() / 127.5 - 1


def cover_poses(poses: Poses, width: int, height: int) -> Poses:
    """The same crop and resize for keypoints on the picture's canvas."""
    scale, dx, dy = cover((poses.width, poses.height), (width, height))
    return poses.transformed(lambda points: points * scale + np.array([dx, dy]), width=width, height=height)
