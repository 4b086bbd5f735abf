"""The schedule and the Euler loop against known truths."""

import pytest
import torch

from stableanimator_core.denoiser import scale_input, x0_from_v
from stableanimator_core.errors import InputError
from stableanimator_core.sampling import init_noise, karras_sigmas, sample_euler


def test_schedule_descends_to_zero():
    sigmas = karras_sigmas(10, sigma_min=0.01, sigma_max=60.0)
    assert sigmas.shape == (11,)
    assert sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(sigmas[[0, -2, -1]], torch.tensor([60.0, 0.01, 0.0]))


def test_one_step_starts_at_the_top():
    torch.testing.assert_close(karras_sigmas(1), torch.tensor([700.0, 0.0]))


def test_no_steps():
    with pytest.raises(InputError, match="steps 0: sampling needs at least 1 step"):
        karras_sigmas(0)


def test_noise_has_the_right_spread_and_repeats():
    noise, again = (init_noise((64, 64), 7.0, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(noise, again)
    assert noise.std().item() == pytest.approx(50**0.5, rel=0.05)


def test_constant_denoiser_returns_its_constant():
    x0 = torch.randn(3, 4, 2, 2)
    x = sample_euler(lambda x, sigma: x0, 700 * torch.randn_like(x0), karras_sigmas(5))
    torch.testing.assert_close(x, x0)


def test_zero_v_is_the_denoiser_of_unit_gaussian_data():
    x, sigma = torch.randn(2, 4, 3, 3), torch.tensor(2.0)
    torch.testing.assert_close(x0_from_v(torch.zeros_like(x), x, sigma), x / 5)


def test_v_prediction_inverts_its_definition():
    x0, noise, sigma = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([[0.5], [30.0]])
    x = x0 + sigma * noise
    v = (noise - sigma * x0) / (sigma**2 + 1).sqrt()
    torch.testing.assert_close(x0_from_v(v, x, sigma), x0, atol=1e-4, rtol=1e-4)
    assert scale_input(30 * torch.randn(10000), torch.tensor(30.0)).std().item() == pytest.approx(1, rel=0.05)


def test_unit_gaussian_data_follows_its_exact_path():
    """For x0 ~ N(0, 1) the probability flow is x(σ) = x(σ_max) √(1 + σ²) / √(1 + σ_max²)."""
    start = torch.tensor([-50.0, 3.0, 80.0]).view(3, 1, 1, 1)
    x = sample_euler(lambda x, sigma: x / (1 + sigma**2), start, karras_sigmas(2000, sigma_max=80.0))
    torch.testing.assert_close(x, start / (1 + 80.0**2) ** 0.5, rtol=1e-2, atol=0)


def test_refine_and_callback_see_every_step():
    seen = []
    x = sample_euler(
        lambda x, sigma: torch.zeros_like(x),
        torch.ones(1, 4, 2, 2),
        karras_sigmas(3),
        refine=lambda x0, i: x0 + i,
        callback=lambda i, x0, x, total: seen.append((i, x0.mean().item(), total)),
    )
    assert seen == [(0, 0.0, 3), (1, 1.0, 3), (2, 2.0, 3)]
    torch.testing.assert_close(x, torch.full_like(x, 2.0))


def test_later_steps_alone():
    """Going on from the latents before a step gives what all steps give."""
    before, sigmas = [], karras_sigmas(5)
    start = 700 * torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = sample_euler(lambda x, sigma: x / (2 + sigma), start, sigmas, callback=lambda i, x0, x, n: before.append(x))
    for first, x in enumerate(before):
        steps = []
        rest = sample_euler(
            lambda x, sigma: x / (2 + sigma), x, sigmas, first=first, callback=lambda i, *_, s=steps: s.append(i)
        )
        assert rest.equal(whole) and steps == list(range(first, 5))
    assert sample_euler(lambda x, sigma: x, whole, sigmas, first=5) is whole


def test_callback_can_cancel():
    def cancel(*step):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_euler(lambda x, sigma: x, torch.ones(1, 4, 2, 2), karras_sigmas(3), callback=cancel)


def test_no_gradients_are_kept():
    weight = torch.ones(1, requires_grad=True)
    assert not sample_euler(lambda x, sigma: x * weight, torch.ones(1, 4, 2, 2), karras_sigmas(2)).requires_grad
