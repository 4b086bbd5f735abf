"""ComfyUI's tensors and lists to the core's and back."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..stableanimator_core.errors import InputError, PoseError
from ..stableanimator_core.keypoints import Poses

LONGEST = 2  # sides of a size that follows from a picture, the longer over the shorter


def image_to_pixels(image: Tensor) -> np.ndarray:
    """IMAGE [F, H, W, 3 or 4] in 0..1 -> uint8 [F, H, W, 3] RGB."""
    return (image[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def pixels_to_image(pixels: np.ndarray) -> Tensor:
    """uint8 [F, H, W, 3] RGB -> IMAGE."""
    return torch.from_numpy(pixels).float().div_(255)  # in place: clips are large


def frames_to_image(frames: Tensor) -> Tensor:
    """[F, 3, H, W] in -1..1, not clamped -> IMAGE [F, H, W, 3] in 0..1 on the CPU."""
    return rearrange(frames.float().cpu() / 2 + 0.5, "f c h w -> f h w c").clamp(0, 1)


def to_poses(keypoints: list[dict], name: str) -> Poses:
    """POSE_KEYPOINT -> Poses; `name` is the input that an error mentions."""
    try:
        return Poses.from_openpose(keypoints)
    except PoseError as error:
        raise PoseError(f"{name}: {error}") from error


def latents_to_samples(latents: Tensor, scaling_factor: float) -> dict[str, Tensor]:
    """The core's scaled latents [F, 4, h, w] -> LATENT as core's VAE nodes expect it."""
    return {"samples": latents.float().cpu() / scaling_factor}


def samples_to_latents(latent: dict[str, Tensor], scaling_factor: float) -> Tensor:
    """LATENT -> the core's scaled latents. Raises InputError when they are another kind of model's."""
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != 4:
        raise InputError(
            f"samples: latents of shape {list(samples.shape)}, expected [frames, 4, height / 8, width / 8]; "
            "connect the LATENT of StableAnimator++ Sample"
        )
    return samples * scaling_factor


def fill_size(width: int, height: int, like: tuple[int, int], multiple: int) -> tuple[int, int, list[str]]:
    """A video's size where one side is 0, and a note that says so; two sides, or none, stay as they are.

    like: (width, height) of the picture, whose aspect the missing side follows: a multiple of what the model needs,
    between half and twice the other side.
    """
    if bool(width) == bool(height):
        return width, height, []
    own = like[0] / like[1]
    aspect = min(max(own, 1 / LONGEST), LONGEST)
    made = max(round((width / aspect if width else height * aspect) / multiple), 1) * multiple
    text = f"the {'height' if width else 'width'} follows from the picture's shape"
    if aspect != own:
        text += f", {LONGEST} to 1 at most: the rest is cut off"
    width, height = width or made, height or made
    return width, height, [f"size {width}x{height}: {text}"]


def or_default(value: float) -> float | None:
    """Widgets cannot be empty: 0 stands for the model's own value, which the core calls None."""
    return value or None
