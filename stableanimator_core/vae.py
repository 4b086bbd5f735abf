"""Frames to latents and back, with diffusers' AutoencoderKLTemporalDecoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor


def cell_size(vae: AutoencoderKLTemporalDecoder) -> int:
    """Side of one latent cell in pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_image(vae: AutoencoderKLTemporalDecoder, images: Tensor) -> Tensor:
    """Mode of the posterior, not multiplied by the scaling factor.

    images: [N, 3, H, W] RGB in -1..1 -> [N, 4, h, w] float32. Computed in the encoder's own dtype and on its device.
    """
    return vae.encode(images.to(vae.quant_conv.weight)).latent_dist.mode().float()


def decode_latents(
    vae: AutoencoderKLTemporalDecoder,
    latents: Tensor,
    *,
    chunk: int = 8,
    keep_on: torch.device | str | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Scaled latents to frames: decode(latents / scaling_factor).

    latents: [F, 4, h, w] -> [F, 3, H, W] RGB float32, about -1..1 and not clamped. Gradients flow where enabled.
    chunk: frames decoded at once, in the decoder's own dtype; its temporal layers see one chunk at a time.
    keep_on: where decoded frames are collected, by default where they are made; "cpu" saves a card's memory.
    on_chunk(frames done, F) is called after each chunk; what it raises stops the decoding.
    """
    frames = []
    for part in (latents / vae.config.scaling_factor).split(chunk):
        decoded = vae.decode(part.to(vae.decoder.conv_in.weight), num_frames=len(part)).sample
        frames.append(decoded.float().to(keep_on or decoded.device))
        if on_chunk is not None:
            on_chunk(sum(map(len, frames)), len(latents))
    return torch.cat(frames)
