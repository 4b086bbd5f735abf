"""Frames to latents and back, with diffusers' AutoencoderKLTemporalDecoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from .memory import attempt
from .models import kernels
from .models.unet import AnimatorUNet
from .weights import Models

CHUNK, OVERLAP = 8, 2  # frames
LEAST_TILE = 8  # cells
# What Stable Video Diffusion's VAE takes for every pixel of a picture that the encoder sees, in single precision, and
# of a frame that is decoded, in half: tests/benchmarks/2026-11-23-v1-speed.md, with fused kernels and without them.
ENCODE_BYTES = 3_100
DECODE_BYTES, PLAIN_DECODE_BYTES = 1_800, 2_350
WIDTH = 128 + 256 / 4 + 512 / 16 + 512 / 64  # of Stable Video Diffusion's decoder


def cell_size(vae: AutoencoderKLTemporalDecoder) -> int:
    """Side of one latent cell in pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_image(vae: AutoencoderKLTemporalDecoder, images: Tensor) -> Tensor:
    """Mode of the posterior, not multiplied by the scaling factor.

    images: [N, 3, H, W] RGB in -1..1 -> [N, 4, h, w] float32. Computed in the encoder's own dtype and on its device.
    """
    return vae.encode(images.to(vae.quant_conv.weight)).latent_dist.mode().float()


def width_of(network: AutoencoderKLTemporalDecoder | AnimatorUNet) -> float:
    """Channels of a pixel or cell, over all resolutions: its memory is about proportional to that."""
    return sum(channels / 4**i for i, channels in enumerate(network.config.block_out_channels))


def encode_bytes(vae: AutoencoderKLTemporalDecoder, pixels: int) -> float:
    """What encoding a picture of so many pixels takes, about; for others than the published VAE in proportion."""
    return pixels * ENCODE_BYTES * width_of(vae) / WIDTH * vae.quant_conv.weight.dtype.itemsize / 4


def decode_bytes(vae: AutoencoderKLTemporalDecoder, pixels: int, device: torch.device | None = None) -> float:
    """What decoding takes for a frame of so many pixels, about; likewise. device: to decode on; None: where the VAE
    is."""
    each = DECODE_BYTES if kernels.usable(device or vae.device) else PLAIN_DECODE_BYTES
    return pixels * each * width_of(vae) / WIDTH * vae.decoder.conv_in.weight.dtype.itemsize / 2


def decode_video(
    models: Models, latents: Tensor, *, chunk: int = CHUNK, on_chunk: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Tensor:  # fmt: skip
    """A finished clip's latents [F, 4, h, w] to frames on the CPU, as decode_latents makes them; large networks leave
    the card where it needs the room."""
    pixels = latents.shape[-2:].numel() * cell_size(models.vae) ** 2
    with models.on_device(room=frames_at_once(len(latents), chunk) * decode_bytes(models.vae, pixels)):
        return decode_latents(
            models.vae, latents, chunk=chunk, keep_on="cpu", on_chunk=on_chunk, on_note=on_note,
            make_room=models.make_room,
        )  # fmt: skip


def decode_latents(
    vae: AutoencoderKLTemporalDecoder,
    latents: Tensor,
    *,
    chunk: int = CHUNK,
    overlap: int = OVERLAP,
    tile: int | None = None,
    keep_on: torch.device | str | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    step_down: bool = True,
    make_room: Callable[[], bool] | None = None,
) -> Tensor:
    """Scaled latents to frames: decode(latents / scaling_factor).

    latents: [F, 4, h, w] -> [F, 3, H, W] RGB float32, about -1..1 and not clamped. Gradients flow where enabled.
    chunk, overlap: as in decode_chunks; the decoder's temporal layers see one chunk at a time, and frames of two chunks
    are crossfaded. The decoder computes in its own dtype.
    tile: None decodes whole frames; a number, tiles of at most so many cells, which share a quarter of it and are
    blended. One tile for everything is exact; else the decoder's norms and attention see a part of the frame alone.
    keep_on: where decoded frames are collected, by default where they are made; "cpu" saves a card's memory.
    on_chunk(frames done, F) is called after each chunk; what it raises stops the decoding.
    make_room: asked when memory runs out, until it finds nothing more to give back; only then come smaller pieces.
    step_down: when memory runs out, finished chunks stay, and the frames from the failed chunk's first are decoded half
    as many at once, crossfaded like any others; one frame that does not fit is decoded in tiles, of half its longer
    side, then smaller ones down to LEAST_TILE; on_note(text) says so in the end. Not where gradients flow.
    Raises torch.OutOfMemoryError when all that did not help.
    """
    step_down = step_down and not (torch.is_grad_enabled() and latents.requires_grad)
    latents, frames = latents / vae.config.scaling_factor, len(latents)
    waiting = decode_chunks(frames, chunk, overlap)
    video, total = None, torch.zeros(frames)
    smaller, done = False, 0
    while waiting:
        part = waiting[0]
        given = vae, latents[part.start : part.stop], tile, keep_on
        decoded = attempt(_decode, *given) if step_down else _decode(*given)
        if decoded is None and make_room is not None and make_room():
            continue
        if decoded is None:
            chunk, tile = _step_down(len(part), tile, latents.shape[-2:])
            rest = decode_chunks(frames - part.start, chunk, overlap)
            waiting = [range(part.start + each.start, part.start + each.stop) for each in rest]
            smaller = True
            continue
        del waiting[0]
        fade = _fade(part, overlap, frames)
        total += fade
        if len(part) == frames:
            video, total = decoded, torch.ones(frames)
        else:
            video = decoded.new_zeros(frames, *decoded.shape[1:]) if video is None else video
            video[part.start : part.stop] += decoded * _as_frames(fade[part.start : part.stop], decoded)
        done = max(done, part.stop)  # smaller chunks begin with frames that are done
        if on_chunk is not None:
            on_chunk(done, frames)
    if smaller and on_note is not None:
        on_note(_smaller_note(chunk, tile, cell_size(vae)))
    return video if (total == 1).all() else video.div_(_as_frames(total, video))


def _as_frames(weights: Tensor, like: Tensor) -> Tensor:
    return weights[:, None, None, None].to(like)


def half(frames: int) -> int:
    """Of several frames, rounded up."""
    return -(-frames // 2)


def _step_down(chunk: int, tile: int | None, size: tuple[int, int]) -> tuple[int, int | None]:
    """The next smaller thing to try, chunk and tile. size: h, w of the latents."""
    if chunk > 1:
        return half(chunk), tile
    side = max(size) if tile is None else min(tile, max(size))
    if side <= LEAST_TILE:
        raise torch.OutOfMemoryError(
            f"decoding: memory ran out with one frame and tiles of {side}x{side} latent cells; "
            "close what else uses the card, or make a smaller video"
        )
    return 1, max(-(-side // 2), LEAST_TILE)


def _smaller_note(chunk: int, tile: int | None, cell: int) -> str:
    if tile is None:
        return f"decoding ran out of memory and went on with {chunk} frames at once: the video may be less steady"
    side = tile * cell
    return f"decoding ran out of memory and went on in tiles of {side}x{side} px: their colours may differ a little"


def _decode(
    vae: AutoencoderKLTemporalDecoder, latents: Tensor, tile: int | None, keep_on: torch.device | str | None
) -> Tensor:
    """Unscaled latents [n, 4, h, w], seen together, to [n, 3, H, W] float32."""

    def decode(cells: Tensor) -> Tensor:
        decoded = vae.decode(cells.to(vae.decoder.conv_in.weight), num_frames=len(cells)).sample
        return decoded.to(decoded.device if keep_on is None else keep_on, torch.float32)

    h, w = latents.shape[-2:]
    if tile is None or tile >= max(h, w):
        return decode(latents)
    cell, overlap = cell_size(vae), tile // 4
    video, total = None, torch.zeros(h * cell, w * cell)
    for rows in decode_chunks(h, tile, overlap):
        for columns in decode_chunks(w, tile, overlap):
            decoded = decode(latents[:, :, rows.start : rows.stop, columns.start : columns.stop])
            down, across = (
                _fade(range(cells.start * cell, cells.stop * cell), overlap * cell, side * cell)
                for cells, side in ((rows, h), (columns, w))
            )
            weight = down[:, None] * across  # [H, W]
            total += weight
            video = decoded.new_zeros(*decoded.shape[:2], *total.shape) if video is None else video
            area = (..., slice(rows.start * cell, rows.stop * cell), slice(columns.start * cell, columns.stop * cell))
            video[area] += decoded * weight[area].to(decoded)
    return video / total.to(video)


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


def frames_at_once(frames: int, chunk: int = CHUNK) -> int:
    """How many of a clip's frames decode_latents decodes together: parts are of one length, so it may be fewer."""
    return len(decode_chunks(frames, chunk, OVERLAP)[0])


def _fade(part: range, overlap: int, frames: int) -> Tensor:
    """Weight of a part of so many frames, or pixels, in each of them: 0 outside, falling towards its ends over
    `overlap` of them, [F]."""
    inside = torch.minimum(torch.arange(frames) - part.start, part.stop - 1 - torch.arange(frames)) + 1
    return inside.clamp(0, overlap + 1).float()
