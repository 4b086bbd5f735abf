"""Frames to latents and back, with diffusers' AutoencoderKLTemporalDecoder."""

from __future__ import annotations

import math
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
    overlap: int = 2,
    keep_on: torch.device | str | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Scaled latents to frames: decode(latents / scaling_factor).

    latents: [F, 4, h, w] -> [F, 3, H, W] RGB float32, about -1..1 and not clamped. Gradients flow where enabled.
    chunk, overlap: as in decode_chunks; the decoder's temporal layers see one chunk at a time, and frames of two chunks
    are crossfaded. The decoder computes in its own dtype.
    keep_on: where decoded frames are collected, by default where they are made; "cpu" saves a card's memory.
    on_chunk(frames done, F) is called after each chunk; what it raises stops the decoding.
    """
    latents = latents / vae.config.scaling_factor
    chunks = decode_chunks(len(latents), chunk, overlap)
    total = sum(_fade(part, overlap, len(latents)) for part in chunks)  # [F]
    video = None
    for part in chunks:
        some = latents[part.start : part.stop].to(vae.decoder.conv_in.weight)
        decoded = vae.decode(some, num_frames=len(part)).sample
        decoded = decoded.to(decoded.device if keep_on is None else keep_on, torch.float32)
        if len(chunks) == 1:
            video = decoded
        else:
            if video is None:
                video = decoded.new_zeros(len(latents), *decoded.shape[1:])
            share = (_fade(part, overlap, len(latents)) / total)[part.start : part.stop]
            video[part.start : part.stop] += decoded * share[:, None, None, None].to(decoded)
        if on_chunk is not None:
            on_chunk(part.stop, len(latents))
    return video


def decode_chunks(frames: int, chunk: int, overlap: int) -> list[range]:
    """Runs of at most `chunk` frames that are decoded together: of one length, neighbours share `overlap` or more.

    overlap: 0 cuts after every `chunk` frames, as the published pipeline does, which leaves seams and short ends; it is
    lowered where the chunk is too small for it.
    """
    overlap = min(overlap, chunk - 1)
    if overlap < 1 or frames <= chunk:
        return [range(start, min(start + chunk, frames)) for start in range(0, frames, chunk)]
    count = math.ceil((frames - overlap) / (chunk - overlap))
    size = math.ceil((frames + (count - 1) * overlap) / count)
    starts = [round(i * (frames - size) / (count - 1)) for i in range(count)]
    return [range(start, start + size) for start in starts]


def _fade(part: range, overlap: int, frames: int) -> Tensor:
    """Weight of a chunk in each frame of the clip: 0 outside, falling towards its ends over `overlap` frames, [F]."""
    inside = torch.minimum(torch.arange(frames) - part.start, part.stop - 1 - torch.arange(frames)) + 1
    return inside.clamp(0, overlap + 1).float()
