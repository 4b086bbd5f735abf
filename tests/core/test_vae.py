"""Coding of frames on a tiny VAE."""

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from stableanimator_core.vae import cell_size, decode_latents, encode_image


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
def test_decode_in_chunks(vae):
    latents, progress = torch.randn(5, 4, 4, 4), []
    frames = decode_latents(vae, latents, chunk=2, on_chunk=lambda *done: progress.append(done))
    assert progress == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(frames[2:4], decode_latents(vae, latents[2:4]))


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
