"""HJB on a tiny VAE and a tiny face embedder."""

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from stableanimator_core import hjb
from stableanimator_core.errors import FaceError, InputError
from stableanimator_core.face import FaceBoxes, crop_faces
from stableanimator_core.face.sharpness import sharpness
from stableanimator_core.face_windows import (
    PLAIN_HJB_BYTES,
    face_mask,
    find_face_cells,
    fitting_chunk,
    hjb_bytes,
    largest_window,
    place_windows,
)
from stableanimator_core.hjb import face_gradient, make_face_refiner, smaller_note, with_chunk
from stableanimator_core.hjb_settings import CURVES, HJBConfig, StepSettings
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import SamplingConfig, find_face, place_motion
from stableanimator_core.vae import cell_size, decode_latents, encode_image
from stableanimator_core.video.pixels import from_uint8
from stableanimator_core.weights import load_models

FRAMES, SIZE, CELL = 4, 12, 4
STEPS = 10


class TinyEmbedder(nn.Module):
    input_size = 16

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.fc = nn.Linear(8 * 9, 16)

    def forward(self, faces):
        return self.fc(torch.tanh(self.conv(faces)).flatten(1))


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(32, 32, 32)
    ).eval()


@pytest.fixture(scope="module")
def embed():
    torch.manual_seed(1)
    return TinyEmbedder().eval()


def random_decoder(seed):
    """A decoder whose weights are the same whatever the library initialises first and how."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(32, 32, 32)
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(vae.named_parameters()):
            if weight.ndim > 1:  # the uniform distribution that torch's layers start from
                weight.uniform_(-1, 1, generator=generator).mul_(weight[0].numel() ** -0.5)
            elif name.endswith("bias"):
                weight.zero_()
            else:
                weight.fill_(0.5 if name.endswith("mix_factor") else 1.0)
    return vae


@pytest.fixture
def x0():
    return 0.18 * torch.randn(FRAMES, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def target():
    return torch.randn(16, generator=torch.Generator().manual_seed(3))


def boxes_of(*boxes, found=None):
    return FaceBoxes(torch.tensor(boxes, dtype=torch.float32), torch.tensor(found or [True] * len(boxes)))


BOXES = boxes_of((13, 12, 29, 27), (14, 12, 30, 27), (15, 13, 31, 28), (16, 14, 33, 30))
FACE_ROWS, FACE_COLUMNS = slice(3, 8), slice(3, 9)  # cells that any of the boxes touches


def refine(
    vae, embed, target, boxes, x0, i=0, steps=STEPS, on_identity=None, measure=False, reference=None, on_smaller=None,
    **config,
):  # fmt: skip
    return make_face_refiner(
        vae, embed, target, boxes, HJBConfig(**config), steps, reference=reference, on_identity=on_identity,
        on_smaller=on_smaller, measure=measure,
    )(x0, i)  # fmt: skip


def gradient_of(vae, embed, target, x0, chunk=FRAMES, margin=None):
    return face_gradient(x0, place_windows(BOXES, x0.shape[-2:], CELL, chunk=chunk, margin=margin), vae, embed, target)


@pytest.mark.parametrize("decode, scope", [("face", "face"), ("full", "all"), ("face", "all"), ("full", "face")])
def test_raises_csim_under_inference_mode(vae, embed, x0, target, decode, scope):
    seen = []
    with torch.inference_mode():
        boxes = FaceBoxes(BOXES.boxes.clone(), BOXES.found.clone())  # inference tensors, as a node would pass them
        refined = refine(
            vae,
            embed,
            target.clone(),
            boxes,
            x0.clone(),
            iterations=8,
            decode=decode,
            scope=scope,
            on_identity=lambda like: seen.append(like.csim.mean().item()),
        )
        assert (refined - x0).abs().max() > 0
    assert len(seen) == 8
    assert seen[-1] > seen[0] + 0.1


def test_face_scope_moves_face_latents_alone(vae, embed, x0, target):
    moved = (refine(vae, embed, target, BOXES, x0, iterations=2) - x0).ne(0)
    assert moved[:, :, FACE_ROWS, FACE_COLUMNS].any()
    moved[:, :, FACE_ROWS, FACE_COLUMNS] = False
    assert not moved.any()


@pytest.mark.parametrize("seed", range(3))
def test_all_scope_moves_the_margin_too(embed, x0, target, seed):
    """Every cell of the window that has a gradient moves, in the margin as in the face, and none outside."""
    vae = random_decoder(seed)
    moved = (refine(vae, embed, target, BOXES, x0, iterations=1, margin=1, scope="all") - x0).ne(0)
    _, gradient = gradient_of(vae, embed, target, x0, margin=1)
    assert moved.equal(gradient.ne(0))
    window = torch.zeros_like(moved)
    window[:, :, FACE_ROWS.start - 1 : FACE_ROWS.stop + 1, FACE_COLUMNS.start - 1 : FACE_COLUMNS.stop + 1] = True
    assert moved[window].any() and not moved[~window].any()
    window[:, :, FACE_ROWS, FACE_COLUMNS] = False
    assert moved[window].float().mean() > 0.5, "the margin itself moves"


def test_frames_without_a_face_are_untouched(vae, embed, x0, target):
    boxes = FaceBoxes(BOXES.boxes.clone(), torch.tensor([True, False, True, False]))
    boxes.boxes[1] = float("nan")
    seen = []
    for scope in ("face", "all"):
        refined = refine(
            vae, embed, target, boxes, x0, iterations=1, scope=scope, on_identity=lambda like: seen.append(like.csim)
        )
        assert refined[[1, 3]].equal(x0[[1, 3]])
        assert refined[0].ne(x0[0]).any()
        assert refined[2].ne(x0[2]).any()
    assert seen[0].isnan().tolist() == [False, True, False, True]


def test_nothing_to_refine_returns_x0_itself(vae, embed, x0, target):
    nobody = FaceBoxes(BOXES.boxes, torch.zeros(FRAMES, dtype=torch.bool))
    assert refine(vae, embed, target, nobody, x0) is x0
    assert refine(vae, embed, target, BOXES, x0, iterations=0, first_step=99, last_step=99) is x0
    for i, refined in ((2, False), (3, True), (5, True), (6, False)):
        result = refine(vae, embed, target, BOXES, x0, i=i, iterations=1, first_step=3, last_step=5)
        assert (result is not x0) == refined


def test_input_and_networks_are_left_alone(vae, embed, x0, target):
    before = x0.clone()
    refined = refine(vae, embed, target, BOXES, x0, iterations=1)
    assert x0.equal(before)
    assert not refined.requires_grad
    assert all(weight.requires_grad and weight.grad is None for weight in (*vae.parameters(), *embed.parameters()))


@pytest.mark.parametrize("i, expected", [(0, 0.2), (5, 0.1)])
def test_learning_rate_falls_with_the_step(vae, embed, x0, target, i, expected):
    moved = refine(vae, embed, target, BOXES, x0, i=i, iterations=1, lr=0.2) - x0
    assert moved.abs().max().item() == pytest.approx(expected, rel=1e-3)


def test_half_precision_networks(x0, vae, embed, target):
    seen = []
    try:
        vae.bfloat16()
        embed.bfloat16()
        with torch.inference_mode():
            refined = refine(
                vae, embed, target, BOXES, x0, iterations=6, on_identity=lambda like: seen.append(like.csim.mean())
            )
    finally:
        vae.float()
        embed.float()
    assert refined.dtype == torch.float32
    assert refined.isfinite().all()
    assert seen[-1] > seen[0]


def independent_frames(vae):
    """The same decoder with every temporal layer switched off."""
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("mix_factor"):
                parameter.fill_(-1e4)  # the decoder's mixers count the temporal branch by sigmoid of this
            if name.endswith("time_conv_out.weight"):
                parameter[:, :, [0, 2]] = 0
    return vae


def test_chunks_are_exact_when_frames_decode_on_their_own(embed, x0, target):
    torch.manual_seed(0)
    vae = independent_frames(
        AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(32, 32, 32)
        ).eval()
    )
    whole, chunked, longer = (gradient_of(vae, embed, target, x0, chunk=n) for n in (FRAMES, 1, 99))
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(longer, whole)


def test_a_chunk_of_all_frames_is_the_whole_clip(vae, embed, x0, target):
    whole, longer = (gradient_of(vae, embed, target, x0, chunk=n) for n in (FRAMES, FRAMES + 5))
    torch.testing.assert_close(longer, whole, rtol=0, atol=0)


def test_gradient_of_the_crop_follows_that_of_the_whole_frame(embed, x0, target):
    """The wider the margin the closer, on the average of a few random decoders; whole at the frame's size."""
    area = (..., FACE_ROWS, FACE_COLUMNS)
    agreement = torch.zeros(3, 4)
    for seed, row in enumerate(agreement):
        vae = random_decoder(seed)
        _, full = gradient_of(vae, embed, target, x0)
        for i, margin in enumerate((0, 1, 2, SIZE)):
            _, gradient = gradient_of(vae, embed, target, x0, margin=margin)
            row[i] = torch.cosine_similarity(full[area].flatten(), gradient[area].flatten(), dim=0)
    torch.testing.assert_close(agreement[:, 3], torch.ones(3))
    none, one, two, _ = agreement.mean(0).tolist()
    assert none + 0.05 < one < two - 0.05
    assert two > 0.7


def test_windows_hold_the_faces_of_their_chunk():
    boxes = boxes_of((0, 0, 9, 8), (8, 5, 17, 12), (0, 0, 0, 0), (30, 33, 48, 48), found=[True, True, False, True])
    first, second = place_windows(boxes, (SIZE, SIZE), CELL, chunk=2, margin=1)
    assert (first.frames, first.cells) == ([0, 1], (slice(0, 4), slice(0, 6)))
    assert (second.frames, second.cells) == ([3], (slice(7, 12), slice(6, 12)))
    assert first.faces.boxes.tolist() == [[0, 0, 9, 8], [8, 5, 17, 12]]
    assert second.faces.boxes.tolist() == [[30 - 24, 33 - 28, 48 - 24, 48 - 28]]


def turned_faces() -> FaceBoxes:
    """ArcFace's template in every frame: leaning, growing, moving."""
    angle, scale = torch.tensor([0.0, 0.4, -0.7, 1.2]), torch.tensor([0.14, 0.15, 0.16, 0.13])
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2) * scale[:, None, None]
    place = torch.tensor([(23.0, 22), (25, 20), (22, 24), (21, 21)])
    templates = torch.cat([turn, (place - turn @ torch.tensor([55.5, 55.5]))[..., None]], dim=-1)
    return FaceBoxes.of_templates(templates, torch.ones(FRAMES, dtype=torch.bool))


@pytest.mark.parametrize("chunk", [1, 2, FRAMES])
def test_windows_hold_turned_faces(chunk):
    """Cut out of a window without any margin, a face is what it is cut out of the whole frame."""
    faces, frames = turned_faces(), torch.rand(FRAMES, 3, SIZE * CELL, SIZE * CELL)
    for window in place_windows(faces, (SIZE, SIZE), CELL, chunk=chunk, margin=0):
        rows, columns = (slice(run.start * CELL, run.stop * CELL) for run in window.cells)
        assert (rows.stop - rows.start) * (columns.stop - columns.start) < (SIZE * CELL) ** 2
        crops = crop_faces(frames[window.frames][..., rows, columns], window.faces, 112)
        torch.testing.assert_close(crops, crop_faces(frames, faces, 112)[window.frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("decode, scope", [("face", "face"), ("full", "all")])
def test_aligned_faces_raise_csim_under_inference_mode(vae, embed, x0, target, decode, scope):
    seen = []
    with torch.inference_mode():
        faces = FaceBoxes(*(tensor.clone() for tensor in turned_faces()))
        refine(
            vae, embed, target.clone(), faces, x0.clone(), iterations=8, decode=decode, scope=scope,
            on_identity=lambda like: seen.append(like.csim.mean().item()),
        )  # fmt: skip
    assert seen[-1] > seen[0] + 0.1


def test_windows_of_whole_frames():
    (window,) = place_windows(BOXES, (SIZE, SIZE - 1), CELL, chunk=FRAMES, margin=None)
    assert window.cells == (slice(0, SIZE), slice(0, SIZE - 1))
    torch.testing.assert_close(window.faces.boxes, BOXES.boxes)


def test_callback_can_cancel(vae, embed, x0, target):
    def cancel(like):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        refine(vae, embed, target, BOXES, x0, on_identity=cancel)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"iterations": -1}, "hjb-iterations -1: give 0 (HJB off) or more"),
        ({"first_step": -1}, "hjb-steps -1:9 starts before step 0"),
        ({"first_step": 9, "last_step": 3}, "hjb-steps 9:3 runs backwards, give FIRST:LAST"),
        ({"lr": 0.0}, "HJB learning rate 0.0: give a number above 0, 0.1 is usual"),
        ({"lr": float("inf")}, "HJB learning rate inf: give a number above 0, 0.1 is usual"),
        ({"decode": "crop"}, 'HJB decode "crop": give "face" or "full"'),
        ({"scope": "body"}, 'HJB scope "body": give "face" or "all"'),
        ({"margin": -2}, "HJB margin -2: give 0 or more latent cells"),
        ({"chunk": 0}, "HJB chunk 0: at least 1 frame is decoded at once"),
        ({"stop": "never"}, 'HJB stop "never": give "count" or "adaptive"'),
        ({"sharpest": 0.0}, "HJB sharpest 0.0: give a number above 0; 1 is as sharp as the reference"),
        ({"strength": ()}, "HJB strength (): give (share, factor), shares rising, nothing below 0"),
        (
            {"strength": ((0.5, 1), (0.5, 0))},
            "HJB strength ((0.5, 1.0), (0.5, 0.0)): give (share, factor), shares rising, nothing below 0",
        ),
        (
            {"strength": ((0, -1),)},
            "HJB strength ((0.0, -1.0),): give (share, factor), shares rising, nothing below 0",
        ),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(InputError) as error:
        HJBConfig(**values)
    assert str(error.value) == message


def test_steps_that_never_come(vae, embed, x0, target):
    with pytest.raises(InputError, match="hjb-steps 8:17 start after the last sampling step, 4"):
        refine(vae, embed, target, BOXES, x0, first_step=8, last_step=17, steps=5)
    with pytest.raises(InputError, match="hjb-steps 8:17 start after the last sampling step, 4"):
        HJBConfig(first_step=8, last_step=17).check(5)
    HJBConfig(first_step=4, last_step=17).check(5)
    HJBConfig(iterations=0, first_step=8, last_step=17).check(5)


def test_box_outside_the_frame(vae, embed, x0, target):
    outside = boxes_of(*BOXES.boxes[:3].tolist(), (50, 0, 60, 10))
    with pytest.raises(FaceError, match=r"frame 3: face box \[50, 0, 60, 10\] lies outside the 48x48 frame"):
        refine(vae, embed, target, outside, x0)


def test_boxes_of_another_clip(vae, embed, x0, target):
    with pytest.raises(ValueError, match="face boxes of 4 frames for latents of 3"):
        refine(vae, embed, target, BOXES, x0[:3])


def test_networks_loaded_under_inference_mode(vae, x0, target):
    with torch.inference_mode():
        embed = TinyEmbedder()
    with pytest.raises(ValueError, match="TinyEmbedder was loaded under torch.inference_mode"):
        refine(vae, embed, target, BOXES, x0)


def test_overflowing_gradient(vae, x0, target):
    def embed(faces):
        return faces.flatten(1)[:, :16] * float("inf")

    embed.input_size = 16
    with pytest.raises(FaceError, match="sampling step 0, iteration 0: the gradient is not finite"):
        refine(vae, embed, target, BOXES, x0)


# --- frames that stop by themselves ---------------------------------------------------------------------------------


def adaptive(vae, embed, target, x0, **more):
    """What comes out, and what was seen on the way."""
    seen = []
    more = {"iterations": 30, "stop": "adaptive", "lr": 0.2} | more
    return refine(vae, embed, target, BOXES, x0, on_identity=seen.append, measure=True, **more), seen


def test_adaptive_ends_when_no_face_gets_more_alike(vae, embed, x0, target):
    made, seen = adaptive(vae, embed, target, x0, iterations=80)
    taken = seen[-1].iteration
    assert 2 < taken < 80
    assert [like.iteration for like in seen] == [*range(taken + 1), taken]
    assert [like.last for like in seen] == [False] * (taken + 1) + [True]
    csim = torch.stack([like.csim for like in seen[:-1]])
    torch.testing.assert_close(seen[-1].csim, csim.amax(0), atol=0.01, rtol=0)  # back at the best latents of each
    assert (seen[-1].csim > csim[0] + 0.1).all()
    assert (made - x0).abs().max() > 0


def test_the_last_iteration_is_judged_too(vae, embed, x0, target):
    """Frame 0 is led the wrong way by its gradient: it goes back, whether anybody measures or not."""

    def misleading(faces):
        seen = embed(faces)
        return torch.cat([2 * seen[:1].detach() - seen[:1], seen[1:]])

    misleading.input_size = embed.input_size
    seen = []
    options = {"iterations": 1, "measure": True, "on_identity": seen.append}
    counted = refine(vae, misleading, target, BOXES, x0, **options)
    before, spoiled = (like.csim for like in seen)
    assert (spoiled < before).tolist() == [True, False, False, False]
    made = refine(vae, misleading, target, BOXES, x0, stop="adaptive", **options)
    assert made[0].equal(x0[0]) and made[1:].equal(counted[1:])
    assert refine(vae, misleading, target, BOXES, x0, stop="adaptive", iterations=1).equal(made)


def test_a_frame_at_rest_goes_back_and_stays(vae, embed, x0, target):
    """Frame 0 looks the same whatever is done, so that it rests where it began; the others go on."""
    wanted = target / target.norm()

    def blind(faces):
        seen = embed(faces)
        return torch.cat([wanted[None], seen[1:]])

    blind.input_size = embed.input_size
    made, seen = adaptive(vae, blind, target, x0, iterations=8)
    assert made[0].equal(x0[0]) and made[1:].ne(x0[1:]).flatten(1).any(1).all()
    assert seen[-1].iteration > 3


def test_frames_that_rest_together_go_back_too(vae, embed, x0, target):
    """Similarity stays what it is, though its gradient moves the latents."""

    def flat(faces):
        seen = embed(faces)
        return target / target.norm() + seen - seen.detach()

    flat.input_size = embed.input_size
    made, seen = adaptive(vae, flat, target, x0, iterations=8)
    assert seen[-1].iteration == 2 and made.equal(x0)


def test_sharpness_has_a_limit(vae, embed, x0, target):
    """Faces sharper than the reference's don't get sharper still; without a limit they do."""
    smooth = 0.01 * torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    sharp, taken = [], []
    for reference in (smooth, None):
        _, seen = adaptive(vae, embed, target, x0, reference=reference)
        sharp.append([sharpness(like.faces, smooth) for like in (seen[0], seen[-1])])
        taken.append(seen[-1].iteration)
    (before, limited), (_, free) = sharp
    assert 0 < taken[0] < taken[1], "faces that are sharp by themselves are still worked on"
    assert (before > 1.2).all()
    assert (limited <= before * 1.01).all() and (free > before * 1.05).any()
    wild = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 200 - 100
    far, _ = adaptive(vae, embed, target, x0, reference=wild)
    assert far.equal(adaptive(vae, embed, target, x0)[0]), "a limit that is far away changes nothing"


@pytest.mark.parametrize(
    "more, pictures",
    [
        ({}, 0),
        ({"measure": True}, 0),
        ({"stop": "adaptive"}, 0),
        ({"on_identity": lambda like: None}, 2),
        ({"stop": "adaptive", "reference": torch.zeros(3, 16, 16)}, 3),  # the last Adam step is judged, too
    ],
)
def test_pictures_of_faces_are_made_for_who_looks_at_them(vae, embed, x0, target, monkeypatch, more, pictures):
    made = []

    def counted(frames, boxes, size, *, antialias=False):
        made.extend([size] * antialias)
        return crop_faces(frames, boxes, size, antialias=antialias)

    monkeypatch.setattr(hjb, "crop_faces", counted)
    refine(vae, embed, target, BOXES, x0, iterations=2, lr=0.01, **more)
    assert len(made) == pictures


def test_steps_that_are_left_alone_are_measured_through_windows(vae, embed, x0, target, monkeypatch):
    """Whole frames are decoded only where the face optimisation asks for them."""
    sizes = []

    def noted(vae, latents, **more):
        sizes.append(tuple(latents.shape[-2:]))
        return decode_latents(vae, latents, **more)

    monkeypatch.setattr(hjb, "decode_latents", noted)
    options = {"first_step": 0, "last_step": 0, "iterations": 1, "decode": "full", "margin": 1}
    for step in (0, 1):
        refine(vae, embed, target, BOXES, x0, i=step, measure=True, on_identity=lambda like: None, **options)
    assert sizes == [(SIZE, SIZE), (SIZE, SIZE), (7, 8)]


def test_windows_at_rest_are_not_decoded(vae, embed, x0, target):
    decoded = []

    def counting(faces):
        decoded.append(len(faces))
        return embed(faces)

    counting.input_size = embed.input_size
    moving = torch.tensor([False, False, True, False])
    windows = place_windows(BOXES, x0.shape[-2:], CELL, chunk=2, margin=1)
    look, gradient = face_gradient(x0, windows, vae, counting, target, moving=moving)
    whole, everything = face_gradient(x0, windows, vae, embed, target)
    assert decoded == [2]
    assert look.csim.isnan().tolist() == [True, True, False, False]
    assert not gradient[:2].any() and gradient[2:].equal(everything[2:])
    assert whole.updated(look).csim.equal(whole.csim) and not whole.updated(look).faces.isnan().any()


@torch.no_grad()
def test_what_is_told_is_what_the_embedder_sees(vae, embed, x0, target):
    _, seen = adaptive(vae, embed, target, x0, iterations=1, decode="full")
    for like in seen:
        assert like.frames == [0, 1, 2, 3] and like.faces.shape == (4, 3, 16, 16)
    decoded = decode_latents(vae, x0, chunk=4).clamp(-1, 1)
    crops = crop_faces(decoded, BOXES, 16)
    torch.testing.assert_close(torch.cosine_similarity(embed(crops), target, dim=-1), seen[0].csim)
    torch.testing.assert_close(seen[0].faces, crop_faces(decoded, BOXES, 16, antialias=True))


# --- strength over time ---------------------------------------------------------------------------------------------


def test_the_papers_strength_falls_with_the_step():
    config = HJBConfig(lr=0.1, first_step=0, last_step=9)
    assert [config.rate(i, 25) for i in range(10)] == [0.1 * (1 - i / 25) for i in range(10)]
    assert config.rate(10, 25) == 0
    assert HJBConfig(iterations=0).rate(0, 25) == 0


@pytest.mark.parametrize(
    "points, expected",
    [
        (((0, 1),), [1, 1, 1, 1, 1]),
        (((0.25, 0.5), (0.75, 1.0)), [0.5, 0.5, 0.65, 0.85, 1]),
        (((0, 0), (0.4, 1), (1, 0)), [0, 0.5, 1, 2 / 3, 1 / 3]),
    ],
)
def test_strength_runs_straight_between_points(points, expected):
    config = HJBConfig(lr=2.0, first_step=0, last_step=9, strength=points)
    assert [config.rate(i, 5) for i in range(5)] == pytest.approx([2 * factor for factor in expected])


def test_no_strength_is_no_refinement(vae, embed, x0, target):
    assert refine(vae, embed, target, BOXES, x0, i=0, strength=((0, 0), (1, 1))) is x0
    assert HJBConfig(strength=((0, 0), (1, 1))).at(0, 5) is None


def test_settings_of_a_step_are_equal_where_the_work_is():
    """Lists come from a model's file; what has no effect makes no difference."""
    one = HJBConfig(strength=[[0, 1], [1, 0]], sharpest=1.3, margin=4, decode="full")
    assert one.at(3, 20) == HJBConfig(first_step=2, decode="full").at(3, 20)
    assert one.at(3, 20) != HJBConfig(decode="full", scope="all").at(3, 20)
    assert one.at(3, 20) != HJBConfig(decode="full", stop="adaptive").at(3, 20)


def test_curves_are_valid():
    for points in CURVES.values():
        HJBConfig(strength=points)
    assert CURVES["falling"] == HJBConfig().strength


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(vae, monkeypatch):
    """A card on which the decoder may take only so many frames at once; what it was given is noted."""
    taken, decode = [], vae.decode

    def limit(frames):
        def limited(latents, num_frames):
            taken.append(num_frames)
            if num_frames > frames:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return decode(latents, num_frames=num_frames)

        monkeypatch.setattr(vae, "decode", limited)
        return taken

    return limit


@pytest.mark.parametrize("stop", ["count", "adaptive"])
def test_the_chunk_halves_when_memory_runs_out(vae, embed, x0, target, short_of_memory, stop):
    """The iteration is done again: the result is that of the smaller chunk from the start, and told once."""
    options = {"iterations": 2, "stop": stop, "measure": True, "on_identity": lambda like: None}
    expected = refine(vae, embed, target, BOXES, x0, chunk=2, **options)
    taken, smaller = short_of_memory(2), []
    refined = refine(vae, embed, target, BOXES, x0, chunk=99, on_smaller=smaller.append, **options)
    assert refined.equal(expected)
    assert smaller == [2] and taken[0] == 4 and set(taken[1:]) == {2}


def test_what_was_done_before_memory_ran_out_stays(vae, embed, x0, target, monkeypatch):
    """The second of three iterations fails; the first one is not done again, the third goes on with the half."""
    decode, parts, seen, smaller = vae.decode, [], [], []

    def full_once(latents, num_frames):
        parts.append(num_frames)
        if len(parts) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, num_frames=num_frames)

    monkeypatch.setattr(vae, "decode", full_once)
    told = {"on_identity": lambda like: seen.append((like.iteration, len(smaller))), "on_smaller": smaller.append}
    refine(vae, embed, target, BOXES, x0, iterations=3, **told)
    assert parts == [4, 4, 2, 2, 2, 2] and smaller == [2] and seen == [(0, 0), (1, 1), (2, 1)]


def test_a_look_at_the_faces_steps_down_too(vae, embed, x0, target, short_of_memory):
    taken, smaller = short_of_memory(1), []
    nothing = {"first_step": 5, "last_step": 5, "measure": True, "on_identity": lambda like: None}
    assert refine(vae, embed, target, BOXES, x0, i=0, on_smaller=smaller.append, **nothing) is x0
    assert smaller == [2, 1] and taken == [4, 2, 1, 1, 1, 1]


def test_the_smaller_chunk_stays_for_later_steps(vae, embed, x0, target, short_of_memory):
    taken, smaller = short_of_memory(2), []
    again = make_face_refiner(vae, embed, target, BOXES, HJBConfig(iterations=1), STEPS, on_smaller=smaller.append)
    again(again(x0, 0), 1)
    assert taken == [4, 2, 2, 2, 2] and smaller == [2]


def test_memory_runs_out_with_one_frame(vae, embed, x0, target, short_of_memory):
    short_of_memory(0)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        refine(vae, embed, target, BOXES, x0)
    assert str(caught.value) == (
        "HJB: memory ran out while one frame was decoded, 36x36 px; "
        "make a smaller video, decode the face alone, or switch the face optimisation off"
    )


def test_without_a_gpu_eight_frames_are_decoded_at_once(vae, embed, target, short_of_memory):
    boxes = boxes_of(*[(13, 12, 29, 27)] * 9)
    taken = short_of_memory(99)
    refine(vae, embed, target, boxes, torch.randn(9, 4, SIZE, SIZE), iterations=1)
    assert taken == [8, 1] and with_chunk(HJBConfig(), vae, boxes, (SIZE, SIZE)).chunk == 8


def test_the_chunk_is_chosen_from_what_is_free(vae, embed, x0, target, monkeypatch, short_of_memory):
    size, each = (SIZE, SIZE), hjb_bytes(vae, largest_window(BOXES, (SIZE, SIZE), CELL, chunk=1, margin=2))
    two = hjb_bytes(vae, largest_window(BOXES, size, CELL, chunk=2, margin=2))
    assert fitting_chunk(vae, BOXES, size, 2, two) == 2 and fitting_chunk(vae, BOXES, size, 2, two - 1) == 1
    assert fitting_chunk(vae, BOXES, size, 2, 0) == 1, "one frame is always tried"
    assert fitting_chunk(vae, BOXES, size, 2, 99 * each) == 8 and fitting_chunk(vae, BOXES, size, 2, two, most=4) == 2
    nobody = FaceBoxes(BOXES.boxes, torch.zeros(FRAMES, dtype=torch.bool))
    assert fitting_chunk(vae, nobody, size, 2, 0) == 8
    monkeypatch.setattr(hjb, "free_bytes", lambda device: hjb.SPARE_BYTES + two + 1)
    assert with_chunk(HJBConfig(), vae, BOXES, size).chunk == 2
    assert with_chunk(HJBConfig(chunk=3), vae, BOXES, size).chunk == 3, "a number is obeyed"
    taken = short_of_memory(99)
    refine(vae, embed, target, BOXES, x0, iterations=1)
    assert taken == [2, 2]


def test_memory_follows_channels_precision_and_area(vae):
    """Three levels of 32 channels; the published decoder's, 128 256 512 512, make 232 with their share of pixels."""
    (window,) = place_windows(BOXES, (SIZE, SIZE), CELL, chunk=4, margin=2)
    assert window.shape == (4, 9, 10)
    pixels, width = 4 * 9 * 10 * 16, 32 * (1 + 1 / 4 + 1 / 16)
    assert hjb_bytes(vae, window) == pytest.approx(pixels * PLAIN_HJB_BYTES * 2 * width / 232)
    try:
        assert hjb_bytes(vae.bfloat16(), window) == pytest.approx(pixels * PLAIN_HJB_BYTES * width / 232)
    finally:
        vae.float()
    assert hjb_bytes(vae, None) == 0


def test_the_chunk_belongs_to_what_a_step_does():
    assert HJBConfig().at(0, 5).chunk is None
    assert HJBConfig(chunk=4).at(0, 5) == StepSettings(10, 0.1, 2, "face", 4, None) != HJBConfig(chunk=8).at(0, 5)


class Held:
    """Graphs that hold memory until they are closed: with them the decoder may take `most` frames, else all."""

    def __init__(self, vae, monkeypatch, *, most, after):
        self.works, self.taken, self.most, self.after = True, [], most, after
        self.decode = vae.decode
        monkeypatch.setattr(vae, "decode", self.limited)

    def limited(self, latents, num_frames):
        self.taken.append(num_frames)
        if num_frames > (self.most if self.works else self.after):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.decode(latents, num_frames=num_frames)

    def run(self, key, work, *inputs):
        return work(*inputs)

    def close(self):
        had, self.works = self.works, False
        return had


@pytest.mark.parametrize("after, taken, smaller", [(4, [4, 4, 4], []), (2, [4, 4, 2, 2, 2, 2], [2])])
def test_graphs_are_closed_before_the_chunk_halves(vae, embed, x0, target, monkeypatch, after, taken, smaller):
    expected = refine(vae, embed, target, BOXES, x0, chunk=after, iterations=2)
    graphs, told = Held(vae, monkeypatch, most=3, after=after), []
    config = HJBConfig(iterations=2)
    again = make_face_refiner(vae, embed, target, BOXES, config, STEPS, on_smaller=told.append, graphs=graphs)
    assert again(x0, 0).equal(expected)
    assert (graphs.taken, told) == (taken, smaller) and not graphs.works


def test_a_look_at_the_faces_closes_graphs_too(vae, embed, x0, target, monkeypatch):
    graphs, told = Held(vae, monkeypatch, most=0, after=4), []
    config = HJBConfig(first_step=5, last_step=5)
    make_face_refiner(
        vae, embed, target, BOXES, config, STEPS, on_identity=lambda like: None, on_smaller=told.append, measure=True,
        graphs=graphs,
    )(x0, 0)  # fmt: skip
    assert (graphs.taken, told) == ([4, 4], [])


# --- graphs ---------------------------------------------------------------------------------------------------------


class Replayed:
    """Graphs that do what was first given under a key and shapes, with the inputs of now. keys: of every call."""

    def __init__(self):
        self.works, self.keys, self.inputs = {}, [], []

    def run(self, key, work, *inputs):
        self.keys.append((key, tuple(tensor.shape for tensor in inputs)))
        self.inputs.append([tensor.clone() for tensor in inputs])
        return self.works.setdefault(self.keys[-1], work)(*inputs)

    def close(self):
        return False


def alike_windows(faces):
    """Two frames each, in the same cells."""
    whole = (slice(0, SIZE), slice(0, SIZE))
    windows = place_windows(faces, (SIZE, SIZE), CELL, chunk=2, margin=None)
    assert [window.cells for window in windows] == [whole, whole]
    return windows


def test_a_graph_is_given_the_templates_of_each_window(vae, embed, x0, target):
    """Windows of one shape share a graph, though their faces lean otherwise; what the first read may be gone."""
    windows, graphs = alike_windows(turned_faces()), Replayed()
    for latents in (x0, x0 + 0.1):
        true = face_gradient(latents, windows, vae, embed, target)
        fresh = [window._replace(faces=FaceBoxes(*(part.clone() for part in window.faces))) for window in windows]
        look, gradient = face_gradient(latents, fresh, vae, embed, target, graphs=graphs)
        torch.testing.assert_close((look.csim, look.faces, gradient), (true[0].csim, true[0].faces, true[1]))
        for window in fresh:
            window.faces.templates.fill_(float("nan"))
    assert len(set(graphs.keys)) == 1 and len(graphs.keys) == 4
    for window, (latents, goal, templates) in zip(windows, graphs.inputs):
        assert latents.equal(x0[window.frames]) and goal.equal(target) and templates.equal(window.faces.templates)


def test_graphs_of_upright_faces_know_where_they_are(vae, embed, x0, target):
    """Their crops are slices, which a graph cannot move: windows share one if their boxes are the same."""
    graphs, windows = Replayed(), alike_windows(BOXES)
    for latents in (x0, x0 + 0.1):
        true = face_gradient(latents, windows, vae, embed, target)
        look, gradient = face_gradient(latents, windows, vae, embed, target, graphs=graphs)
        torch.testing.assert_close((look.csim, gradient), (true[0].csim, true[1]))
    assert len(set(graphs.keys)) == 2 and len(graphs.keys) == 4
    assert all(len(inputs) == 2 for inputs in graphs.inputs)


@pytest.mark.parametrize("count, more", [(2, {"scale": 32.0}), (2, {"show": False}), (1, {})])
def test_graphs_of_other_work_are_others(vae, embed, x0, target, count, more):
    """The loss is a mean over all windows' faces: with fewer windows each has a larger share."""
    graphs, all_windows = Replayed(), alike_windows(turned_faces())
    for windows, how in ((all_windows, {}), (all_windows[:count], more)):
        true = face_gradient(x0, windows, vae, embed, target, **how)[1]
        torch.testing.assert_close(face_gradient(x0, windows, vae, embed, target, graphs=graphs, **how)[1], true)
    assert len(set(graphs.keys)) == 2


def test_stepping_down_is_told_with_what_to_do():
    assert smaller_note(4).endswith("comes out slightly different, unless chunk is set to 4 there")


def test_gradient_of_the_crop_on_the_built_in_model():
    """The built-in decoder was trained: its crops say more of the whole frame than those of random decoders."""
    models = load_models("mini")
    clip = make_clip(5, size=(160, 160), frames=4, family="wave")
    settings = SamplingConfig.for_model(models.config)
    boxes = place_motion(models.config, clip.poses, settings, range(4))[2]
    with torch.no_grad():
        target = find_face(models, make_clip(6, size=(160, 160), frames=1).reference, clip.reference_pose).embedding
        video = torch.stack([from_uint8(frame) for frame in clip.frames])
        x0 = encode_image(models.vae, video) * models.vae.config.scaling_factor
    size, cell = x0.shape[-2:], cell_size(models.vae)
    face = face_mask(find_face_cells(boxes, size, cell), x0)

    def gradient(margin):
        windows = place_windows(boxes, size, cell, chunk=8, margin=margin)
        return (face * face_gradient(x0, windows, models.vae, models.face_embedder, target)[1]).flatten(1)

    whole = gradient(None)
    cosine = {margin: torch.cosine_similarity(gradient(margin), whole).mean().item() for margin in (0, 1, 2, 4)}
    print(", ".join(f"margin {margin}: cosine {value:.3f}" for margin, value in cosine.items()))
    assert cosine[1] > 0.85 and cosine[0] < cosine[1] < cosine[2] < cosine[4] < 1.0001
