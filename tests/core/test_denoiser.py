"""Guidance and windows around a fake UNet whose answers are known."""

from __future__ import annotations

import pytest
import torch

from stableanimator_core.conditioning import Conditioning
from stableanimator_core.denoiser import HALVES_APART, frame_guidance, make_denoiser, scale_input, x0_from_v
from stableanimator_core.weights import load_models
from stableanimator_core.windows import context_windows

H, W, C, D = 3, 4, 5, 6
SIGMA = torch.tensor(2.0)


class FakeUNet:
    """Keeps what it is called with; answers with `answer(sample [B, F, 8, h, w], context, pose [B, F, C, h, w])`."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def __call__(self, sample, timestep, context, time_ids, pose, *, id_scale):
        self.calls.append((sample, timestep, context, time_ids, pose, id_scale))
        return self.answer(sample, context, pose.unflatten(0, sample.shape[:2]))


def conditioning(frames, *, id_scale=1.0):
    g = torch.Generator().manual_seed(1)
    return Conditioning(
        context=torch.randn(1, 5, D, generator=g),
        id_scale=id_scale,
        image_latents=torch.randn(1, 4, H, W, generator=g),
        time_ids=torch.tensor([[6.0, 127, 0.02]]),
        pose_features=torch.randn(frames, C, H, W, generator=g),
    )


def noise(frames):
    return 3 * torch.randn(frames, 4, H, W, generator=torch.Generator().manual_seed(2))


def real_conditioning(dtype):
    """Of three frames, for the tiny model."""
    g = torch.Generator().manual_seed(0)
    parts = dict(context=(1, 5, 64), image_latents=(1, 4, 8, 8), time_ids=(1, 3), pose_features=(3, 32, 8, 8))
    return Conditioning(
        id_scale=1.0, **{name: torch.randn(*shape, generator=g).to(dtype) for name, shape in parts.items()}
    )


def noise_of(frames):
    return torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def of_each_frame(sample, context, pose):
    """Depends on a frame's own input alone."""
    return sample[:, :, :4].sin() + sample[:, :, 4:] + pose[:, :, :4] + context.mean((1, 2))[:, None, None, None, None]


def test_guidance_one_runs_no_unconditional_half():
    unet, cond, x = FakeUNet(of_each_frame), conditioning(4), noise(4)
    x0 = make_denoiser(unet, cond, torch.ones(4), [[0, 1, 2, 3]])(x, SIGMA)
    ((sample, timestep, context, time_ids, pose, id_scale),) = unet.calls
    assert sample.shape == (1, 4, 8, H, W)
    torch.testing.assert_close(sample[0, :, :4], scale_input(x, SIGMA))
    torch.testing.assert_close(sample[0, :, 4:], cond.image_latents.expand(4, -1, -1, -1))
    torch.testing.assert_close(timestep, 0.25 * SIGMA.log()[None])
    assert context is cond.context and time_ids.equal(cond.time_ids) and id_scale == 1
    assert pose.equal(cond.pose_features)
    v = of_each_frame(sample, context, pose[None])[0]
    torch.testing.assert_close(x0, x0_from_v(v, x, SIGMA))


def test_the_unconditional_half_sees_the_noise_alone():
    unet, cond, x = FakeUNet(of_each_frame), conditioning(4, id_scale=0.0), noise(4)
    make_denoiser(unet, cond, torch.tensor([1.0, 1, 1, 2]), [[0, 1, 2, 3]])(x, SIGMA)
    ((sample, timestep, context, time_ids, pose, id_scale),) = unet.calls
    assert sample.shape == (2, 4, 8, H, W)
    assert sample[0, :, :4].equal(sample[1, :, :4])
    assert not sample[0, :, 4:].any() and sample[1, :, 4:].equal(cond.image_latents.expand(4, -1, -1, -1))
    assert not context[0].any() and context[1].equal(cond.context[0])
    assert not pose[:4].any() and pose[4:].equal(cond.pose_features)
    assert timestep.shape == (2,) and time_ids.equal(cond.time_ids.expand(2, -1))
    assert id_scale == 0


def test_guidance_of_every_frame():
    """v = u + g (c - u) with each frame's own g."""
    cond, x = conditioning(4), noise(4)
    guidance = torch.tensor([1.0, 2, 3, 0])
    unet = FakeUNet(of_each_frame)
    x0 = make_denoiser(unet, cond, guidance, [[0, 1, 2, 3]])(x, SIGMA)
    sample, _, context, _, pose, _ = unet.calls[0]
    u, c = of_each_frame(sample, context, pose.unflatten(0, (2, 4)))
    expected = x0_from_v(u + guidance[:, None, None, None] * (c - u), x, SIGMA)
    torch.testing.assert_close(x0, expected)
    unguided = make_denoiser(unet, cond, torch.ones(4), [[0, 1, 2, 3]])(x, SIGMA)
    torch.testing.assert_close(x0[0], unguided[0], msg="a frame of guidance 1 is the conditional half")


@pytest.mark.parametrize("frames, size, overlap", [(5, 4, 0), (9, 4, 2), (12, 4, 3), (7, 3, 1), (6, 2, 1)])
@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_windows_of_a_frame_by_frame_network_equal_one_window(frames, size, overlap, strength):
    cond, x, guidance = conditioning(frames), noise(frames), torch.full((frames,), strength)
    windows = context_windows(frames, size, overlap)
    assert len(windows) > 1
    blended = make_denoiser(FakeUNet(of_each_frame), cond, guidance, windows)(x, SIGMA)
    whole = make_denoiser(FakeUNet(of_each_frame), cond, guidance, [list(range(frames))])(x, SIGMA)
    torch.testing.assert_close(blended, whole)


def test_windows_are_blended_by_their_weights():
    """Two windows of two frames that answer 0 and 1: the shared frame is in the middle of both, so the mean."""
    answers = iter((0.0, 1.0))
    unet = FakeUNet(lambda sample, context, pose: torch.full_like(sample[:, :, :4], next(answers)))
    x = torch.zeros(3, 4, H, W)
    x0 = make_denoiser(unet, conditioning(3), torch.ones(3), [[0, 1], [0, 2]])(x, SIGMA)
    v = x0[:, 0, 0, 0] / -(SIGMA / (SIGMA**2 + 1).sqrt())
    torch.testing.assert_close(v, torch.tensor([0.5, 0, 1]))


def test_windows_of_three_frames_weigh_the_middle_most():
    answers = iter((0.0, 1.0))
    unet = FakeUNet(lambda sample, context, pose: torch.full_like(sample[:, :, :4], next(answers)))
    x0 = make_denoiser(unet, conditioning(4), torch.ones(4), [[0, 1, 2], [0, 2, 3]])(torch.zeros(4, 4, H, W), SIGMA)
    v = x0[:, 0, 0, 0] / -(SIGMA / (SIGMA**2 + 1).sqrt())
    torch.testing.assert_close(v, torch.tensor([0.5, 0, 1 / (1 + 1 / 3), 1]))  # weights 1/3, 1, 1/3


def test_every_call_asks_whether_to_go_on():
    calls = []
    denoise = make_denoiser(
        FakeUNet(of_each_frame), conditioning(9), torch.ones(9), context_windows(9, 4, 2),
        on_forward=lambda: calls.append(1),
    )  # fmt: skip
    denoise(noise(9), SIGMA)
    assert len(calls) == len(context_windows(9, 4, 2))

    def cancel():
        raise InterruptedError

    unet = FakeUNet(of_each_frame)
    with pytest.raises(InterruptedError):
        make_denoiser(unet, conditioning(4), torch.ones(4), [[0, 1, 2, 3]], on_forward=cancel)(noise(4), SIGMA)
    assert not unet.calls


class SmallCard(FakeUNet):
    """Runs out of memory when it is given more than one half."""

    def __init__(self, answer):
        super().__init__(answer)
        self.failed = 0

    def __call__(self, sample, *others, **more):
        if len(sample) > 1:
            self.failed += 1
            raise torch.OutOfMemoryError("no room")
        return super().__call__(sample, *others, **more)


def test_where_both_halves_do_not_fit_they_are_run_apart_from_then_on():
    cond, x, guidance = conditioning(9), noise(9), torch.linspace(1, 3, 9)
    windows, notes, forwards = context_windows(9, 4, 2), [], []
    unet = SmallCard(of_each_frame)
    denoise = make_denoiser(
        unet, cond, guidance, windows, on_note=notes.append, on_forward=lambda: forwards.append(1)
    )  # fmt: skip
    whole = make_denoiser(FakeUNet(of_each_frame), cond, guidance, windows)
    for sigma in (SIGMA, SIGMA / 2):
        torch.testing.assert_close(denoise(x, sigma), whole(x, sigma), rtol=0, atol=1e-6)
    assert unet.failed == 1, "it tried again"
    assert notes == [HALVES_APART]
    assert len(forwards) == 1 + len(unet.calls) == 1 + 2 * 2 * len(windows)
    blank, own = unet.calls[:2]
    for number, (sample, timestep, context, time_ids, pose, _) in enumerate((blank, own)):
        assert sample.shape == (1, 4, 8, H, W) and len(timestep) == len(context) == len(time_ids) == 1
        assert pose.equal(cond.pose_features[windows[0]] * number)


class Held:
    """Graphs that hold memory until they are closed; closed: how often somebody asked for it."""

    def __init__(self):
        self.works, self.closed = True, 0

    def run(self, key, work, *inputs):
        return work(*inputs)

    def close(self):
        had, self.works = self.works, False
        self.closed += had
        return had


@pytest.mark.parametrize("enough", [True, False], ids=["that helps", "that does not help"])
def test_graphs_are_closed_before_the_halves_are_run_apart(enough):
    cond, x, guidance, windows = conditioning(9), noise(9), torch.linspace(1, 3, 9), context_windows(9, 4, 2)
    graphs, sizes, notes = Held(), [], []

    def short(sample, *others, **more):
        sizes.append(len(sample))
        if len(sample) > 1 and (graphs.works or not enough):
            raise torch.OutOfMemoryError("no room")
        return FakeUNet(of_each_frame)(sample, *others, **more)

    denoise = make_denoiser(short, cond, guidance, windows, on_note=notes.append, graphs=graphs)
    whole = make_denoiser(FakeUNet(of_each_frame), cond, guidance, windows)
    torch.testing.assert_close(denoise(x, SIGMA), whole(x, SIGMA), rtol=0, atol=1e-6)
    assert sizes == [2] + ([2] * len(windows) if enough else [2] + [1] * 2 * len(windows))
    assert notes == ([] if enough else [HALVES_APART]) and graphs.closed == 1


def test_no_room_for_one_half_is_an_error():
    def no_room(*inputs):
        raise torch.OutOfMemoryError("no room")

    for strength in (1.0, 2.0):
        unet = FakeUNet(no_room)
        with pytest.raises(torch.OutOfMemoryError):
            make_denoiser(unet, conditioning(4), torch.full((4,), strength), [[0, 1, 2, 3]])(noise(4), SIGMA)
        assert [len(call[0]) for call in unet.calls] == ([1] if strength == 1 else [2, 1])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_the_halves_of_a_real_unet_apart(tiny_model, dtype, tolerance):
    """The prediction is float32, whatever the UNet computes in."""
    unet, cond, x = load_models(tiny_model, dtype=dtype).unet, real_conditioning(dtype), noise_of(3)
    frames, guidance = [[0, 1, 2]], frame_guidance(1.5, 2.0, 3)

    def small(sample, *others, **more):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("no room")
        return unet(sample, *others, **more)

    with torch.no_grad():
        together = make_denoiser(unet, cond, guidance, frames)(x, SIGMA)
        apart = make_denoiser(small, cond, guidance, frames)(x, SIGMA)
        blank = make_denoiser(unet, cond, guidance * 0, frames)(x, SIGMA)
    torch.testing.assert_close(apart, together, rtol=0, atol=tolerance)
    assert (blank - together).abs().max() > 10 * tolerance


def test_the_input_stays_as_it_is():
    x = noise(4)
    before = x.clone()
    make_denoiser(FakeUNet(of_each_frame), conditioning(4), torch.full((4,), 2.0), [[0, 1], [0, 2, 3]])(x, SIGMA)
    assert x.equal(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_unet_in_its_own_precision(tiny_model, dtype):
    unet, cond, x = load_models(tiny_model, dtype=dtype).unet, real_conditioning(dtype), noise_of(3)
    told = []
    unet.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    with torch.no_grad():
        x0 = make_denoiser(unet, cond, frame_guidance(1.0, 2.0, 3), [[0, 1, 2]])(x, SIGMA)
    assert told[0].dtype == torch.float32, "in bfloat16 the UNet would be told of another noise level"
    assert x0.dtype == torch.float32
    assert x0.shape == x.shape and x0.isfinite().all()


def test_guidance_is_linear_over_the_frames():
    assert frame_guidance(1.0, 3.0, 5).tolist() == [1, 1.5, 2, 2.5, 3]
    assert frame_guidance(1.5, 1.5, 4).tolist() == [1.5] * 4
    assert frame_guidance(2.0, 3.0, 1).tolist() == [2]


def test_graphs_are_closed_before_one_half_gives_up():
    graphs = Held()

    def short(sample, *others, **more):
        if graphs.works:
            raise torch.OutOfMemoryError("no room")
        return FakeUNet(of_each_frame)(sample, *others, **more)

    x0 = make_denoiser(short, conditioning(4), torch.ones(4), [[0, 1, 2, 3]], graphs=graphs)(noise(4), SIGMA)
    assert x0.isfinite().all() and graphs.closed == 1
