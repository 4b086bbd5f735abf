"""Coding of frames on a tiny VAE."""

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from stableanimator_core.vae import cell_size, decode_chunks, decode_latents, encode_image


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(32, 32, 32), scaling_factor=0.5
    ).eval()


def test_cell_size(vae):
    assert cell_size(vae) == 4


@torch.no_grad()
def test_encode_gives_the_unscaled_mode(vae):
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = encode_image(vae, images)
    assert latents.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latents, vae.encode(images).latent_dist.mean)


@torch.no_grad()
def test_decode_divides_by_the_scaling_factor(vae):
    latents = torch.randn(3, 4, 4, 6)
    frames = decode_latents(vae, latents, chunk=3)
    assert frames.shape == (3, 3, 16, 24)
    torch.testing.assert_close(frames, vae.decode(latents / 0.5, num_frames=3).sample)


@torch.no_grad()
def test_decode_in_chunks_without_overlap(vae):
    latents, progress = torch.randn(5, 4, 4, 4), []
    frames = decode_latents(vae, latents, chunk=2, overlap=0, on_chunk=lambda *done: progress.append(done))
    assert progress == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(frames[2:4], decode_latents(vae, latents[2:4]))


@pytest.mark.parametrize("overlap", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 2, 7, 8])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 16, 17, 40])
def test_chunks_cover_the_clip_and_share_frames(frames, chunk, overlap):
    chunks = decode_chunks(frames, chunk, overlap)
    assert sorted({frame for part in chunks for frame in part}) == list(range(frames))
    assert {len(part) for part in chunks} == {len(chunks[0])} and len(chunks[0]) <= chunk
    for before, after in zip(chunks, chunks[1:]):
        assert before.stop - after.start >= min(overlap, chunk - 1)


@torch.no_grad()
def test_shared_frames_are_crossfaded(vae):
    latents = torch.randn(6, 4, 4, 4)
    first, second = decode_chunks(6, 4, 2)
    assert (list(first), list(second)) == ([0, 1, 2, 3], [2, 3, 4, 5])
    frames = decode_latents(vae, latents, chunk=4, overlap=2)
    a, b = decode_latents(vae, latents[:4]), decode_latents(vae, latents[2:])
    torch.testing.assert_close(frames[:2], a[:2])
    torch.testing.assert_close(frames[2:4], torch.stack([2 * a[2] + b[0], a[3] + 2 * b[1]]) / 3)
    torch.testing.assert_close(frames[4:], b[2:])
    assert frames.equal(decode_latents(vae, latents, chunk=4)), "chunks overlap unless told otherwise"


@torch.no_grad()
def test_overlap_removes_seams(vae):
    """Between the chunks of a clip that hardly changes, frames jump less with overlap than without."""
    latents = torch.randn(1, 4, 4, 4) + 0.02 * torch.randn(16, 4, 4, 4).cumsum(0)
    whole = decode_latents(vae, latents, chunk=16)
    off = [decode_latents(vae, latents, chunk=4, overlap=overlap) - whole for overlap in (0, 2)]
    jumps = [(each[1:] - each[:-1]).square().mean((1, 2, 3)).max() for each in off]
    assert jumps[1] < 0.5 * jumps[0]


def test_gradients_pass_through_overlapping_chunks(vae):
    latents = torch.randn(6, 4, 4, 4, requires_grad=True)
    decode_latents(vae, latents, chunk=4).sum().backward()
    assert latents.grad.abs().min() > 0


def test_decode_passes_gradients(vae):
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    decode_latents(vae, latents).sum().backward()
    assert latents.grad.abs().min() > 0


@torch.no_grad()
def test_half_precision_networks_give_float32(vae):
    latents = torch.randn(2, 4, 4, 4)
    expected = decode_latents(vae, latents)
    try:
        vae.decoder.bfloat16()
        frames = decode_latents(vae, latents)
        images = encode_image(vae, frames.double())  # the encoder kept its own dtype
    finally:
        vae.float()
    assert frames.dtype == images.dtype == torch.float32
    torch.testing.assert_close(frames, expected, atol=0.1, rtol=0.1)


def test_cancel_stops_decoding(vae):
    def cancel(done, total):
        raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        decode_latents(vae, torch.randn(4, 4, 2, 2), chunk=1, on_chunk=cancel)
