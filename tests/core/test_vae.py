"""Coding of frames on a tiny VAE."""

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from stableanimator_core.evaluation.plan import plan_decoding
from stableanimator_core.performers import make_clip
from stableanimator_core.vae import (
    cell_size,
    decode_bytes,
    decode_chunks,
    decode_latents,
    decode_video,
    encode_image,
    frames_at_once,
)
from stableanimator_core.video.pixels import from_uint8
from stableanimator_core.weights import load_models


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


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(vae, monkeypatch):
    """A card on which the decoder may take only so many latent cells at once; what it was given is noted."""
    taken, decode = [], vae.decode

    def limit(cells: int) -> list[tuple[int, ...]]:
        def limited(latents, num_frames):
            taken.append((num_frames, *latents.shape[-2:]))
            if num_frames * latents[0, 0].numel() > cells:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents, num_frames=num_frames)

        monkeypatch.setattr(vae, "decode", limited)
        return taken

    return limit


@torch.no_grad()
def test_chunks_halve_when_memory_runs_out(vae, short_of_memory):
    latents, notes = torch.randn(6, 4, 4, 4), []
    expected = decode_latents(vae, latents, chunk=3)
    assert short_of_memory(3 * 16) == []
    frames = decode_latents(vae, latents, chunk=6, on_note=notes.append)
    assert frames.equal(expected), "nothing was done yet: as if it had begun with the half"
    assert notes == ["decoding ran out of memory and went on with 3 frames at once: the video may be less steady"]


@torch.no_grad()
def test_finished_chunks_stay_when_memory_runs_out(vae, monkeypatch):
    """Frames 0-3 are done when 2-5 fail: those go on in twos, and frames 2 and 3 are crossfaded."""
    latents, parts, done, decode = torch.randn(6, 4, 4, 4), [], [], vae.decode

    def once(given, num_frames):
        parts.append(num_frames)
        if len(parts) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(given, num_frames=num_frames)

    monkeypatch.setattr(vae, "decode", once)
    frames = decode_latents(vae, latents, chunk=4, on_chunk=lambda *told: done.append(told))
    monkeypatch.undo()
    assert parts == [4, 4, 2, 2, 2] and done == [(4, 6), (4, 6), (5, 6), (6, 6)]
    first, second, third = (decode_latents(vae, latents[a:b]) for a, b in ((0, 4), (2, 4), (3, 5)))
    torch.testing.assert_close(frames[:2], first[:2])
    torch.testing.assert_close(frames[2], (2 * first[2] + second[0]) / 3)
    torch.testing.assert_close(frames[3], (first[3] + second[1] + third[0]) / 3)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 16, 20])
@pytest.mark.parametrize("room", [1, 2, 3, 5, 8])
def test_what_is_reckoned_is_decoded_at_once(vae, short_of_memory, frames, room):
    """room: frames that fit. Where the decoding ends by trying is what the plan says beforehand."""
    side, cell = 2, cell_size(vae)
    taken = short_of_memory(room * side**2)
    decode_latents(vae, torch.zeros(frames, 4, side, side))
    each = decode_bytes(vae, (side * cell) ** 2)
    at_once, tile, gib = plan_decoding(vae, side * cell, side * cell, frames, room * each)
    assert taken[0][0] == frames_at_once(frames) and (taken[-1][0], None) == (at_once, tile)
    assert gib * 2**30 == pytest.approx(at_once * each)


@torch.no_grad()
def test_room_is_asked_for_what_is_decoded_at_once(vae):
    asked = []

    def on_device(*, room: float) -> AbstractContextManager:
        asked.append(room)
        return nullcontext()

    decode_video(SimpleNamespace(vae=vae, on_device=on_device, make_room=None), torch.zeros(16, 4, 2, 2))
    assert asked == [7 * decode_bytes(vae, (2 * cell_size(vae)) ** 2)], "three parts of 16 frames"


@torch.no_grad()
def test_progress_never_goes_back(vae, monkeypatch):
    """Frames 0-4 are done when memory runs out; the rest goes on one by one, from frame 3."""
    parts, done, decode = [], [], vae.decode

    def once(given, num_frames):
        parts.append(num_frames)
        if num_frames > 1 and len(parts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(given, num_frames=num_frames)

    monkeypatch.setattr(vae, "decode", once)
    decode_latents(vae, torch.randn(8, 4, 2, 2), chunk=5, on_chunk=lambda *told: done.append(told[0]))
    assert parts == [5, 5, 3, 2, 1, 1, 1, 1, 1] and done == [5, 5, 5, 6, 7, 8]


@torch.no_grad()
def test_one_frame_that_does_not_fit_is_decoded_in_tiles(vae, short_of_memory):
    latents, notes = torch.randn(2, 4, 24, 16), []
    expected = decode_latents(vae, latents, chunk=1, tile=12)
    taken = short_of_memory(12 * 12)
    assert decode_latents(vae, latents, chunk=2, on_note=notes.append).equal(expected)
    assert taken[:3] == [(2, 24, 16), (1, 24, 16), (1, 10, 10)] and set(taken[3:]) == {(1, 10, 10)}
    assert notes == ["decoding ran out of memory and went on in tiles of 48x48 px: their colours may differ a little"]


@torch.no_grad()
def test_memory_that_never_suffices(vae, short_of_memory):
    short_of_memory(10)
    message = "decoding: memory ran out with one frame and tiles of 8x8 latent cells; close what else"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        decode_latents(vae, torch.randn(2, 4, 16, 16))


def test_the_error_goes_up_where_stepping_down_is_not_wanted(vae, short_of_memory):
    taken = short_of_memory(16)
    latents = torch.randn(2, 4, 4, 4)
    for given, more in ((latents, {"step_down": False}), (latents.clone().requires_grad_(), {})):
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            decode_latents(vae, given, **more)
    assert taken == [(2, 4, 4)] * 2


@torch.no_grad()
def test_one_tile_for_everything_is_exact(vae):
    latents = torch.randn(2, 4, 6, 8)
    assert decode_latents(vae, latents, tile=8).equal(decode_latents(vae, latents))
    assert not decode_latents(vae, latents, tile=7).equal(decode_latents(vae, latents))


@torch.no_grad()
def test_tiles_are_blended_evenly(vae, monkeypatch):
    """Tiles of one colour blend to that colour, and each weighs most in its own middle."""
    colours = iter((0.0, 1.0, 2.0, 3.0))

    class Flat:
        def __init__(self, latents):
            h, w = (4 * side for side in latents.shape[-2:])
            self.sample = torch.full((len(latents), 3, h, w), next(colours))

    monkeypatch.setattr(vae, "decode", lambda latents, num_frames: Flat(latents))
    frames = decode_latents(vae, torch.randn(1, 4, 14, 8), tile=8)  # rows 0-7 and 6-13, which share two cells
    column = frames[0, 0, :, 0]
    assert frames.equal(column[:, None].expand_as(frames)) and column[0] == 0 and column[-1] == 1
    shared = torch.arange(1, 9) / 9  # eight pixels
    torch.testing.assert_close(column[24:32], shared)
    assert (column.diff() >= 0).all()


@torch.no_grad()
def test_tiles_on_the_built_in_decoder():
    """What tiles change in 160x160 px of a drawn performer: mean absolute difference on a scale of 0..1."""
    models = load_models("mini")
    clip = make_clip(3, size=(160, 160), frames=2, family="wave")
    video = torch.stack([from_uint8(frame) for frame in clip.frames])
    latents = encode_image(models.vae, video) * models.vae.config.scaling_factor
    whole = decode_latents(models.vae, latents)
    off = {tile: (decode_latents(models.vae, latents, tile=tile) - whole).abs().mean().item() / 2 for tile in (16, 8)}
    print(", ".join(f"tiles of {tile} cells: {error:.4f}" for tile, error in off.items()))
    assert 0 < off[16] < 0.025 and off[16] < off[8] < 0.045
