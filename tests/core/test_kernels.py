"""The fused kernels give torch's numbers. Without a GPU Triton's interpreter runs them (tests/conftest.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stableanimator_core.models import kernels

pytestmark = pytest.mark.skipif(kernels.triton is None, reason="Triton isn't installed: no fused kernels to test")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes 10 ms for every group of a picture, so few shapes have as many as the published model.
SHAPES = [((2, 40, 5, 7), 4), ((3, 16, 9, 8), 8), ((1, 24, 4, 16, 17), 6), ((2, 96, 70), 3), ((2, 16, 3, 9, 8), 8)]
PUBLISHED = (1, 128, 2, 16, 17), 32


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def last(*shape: int, seed: int = 0) -> Tensor:
    """[N, C, ...], channels last, far from 0."""
    return (3 * drawn(*shape, seed=seed) + 10).movedim(1, -1).contiguous().movedim(-1, 1)


def to_add(shape: tuple[int, ...], parts: int) -> Tensor | None:
    """Nothing, one row everywhere, or one for each picture, as a network's time embedding is added."""
    pictures = shape[0] * (shape[2] if len(shape) == 5 else 1)
    return None if parts == 0 else drawn(1 if parts == 1 else pictures, shape[1], seed=2)


def added(x: Tensor, add: Tensor | None) -> Tensor:
    if add is None:
        return x
    places = x.movedim(1, -1)
    return (places.reshape(len(add), -1, x.shape[1]) + add[:, None]).reshape(places.shape).movedim(-1, 1)


EACH = [(shape, parts) for shape in SHAPES for parts in (0, 1, 2)] + [(PUBLISHED, 2)]


@pytest.mark.parametrize("case, parts", EACH)
@pytest.mark.parametrize("silu", [True, False])
def test_norm(case, parts, silu):
    shape, groups = case
    x, channels = last(*shape), shape[1]
    weight, bias = drawn(2, channels, seed=1)
    add = to_add(shape, parts)
    y, mean, variance = kernels.norm_silu(x, weight, bias, groups, 1e-5, add=add, silu=silu)
    true = added(x, add).double()
    expected = F.group_norm(true, groups, weight.double(), bias.double(), 1e-5)
    expected = F.silu(expected) if silu else expected
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    each = true.reshape(shape[0], groups, -1)
    torch.testing.assert_close(mean.double(), each.mean(-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), each.var(-1, correction=0), rtol=1e-5, atol=0)
    assert y.stride() == x.stride()


@pytest.mark.parametrize("case, parts", EACH)
def test_gradient_of_norm(case, parts):
    shape, groups = case
    x, g, add = last(*shape), last(*shape, seed=1), to_add(shape, parts)
    weight, bias = drawn(2, shape[1], seed=3)
    true = added(x, add).double().requires_grad_()
    y = F.silu(F.group_norm(true, groups, weight.double(), bias.double(), 1e-5))
    (expected,) = torch.autograd.grad(y, true, g.double())
    _, mean, variance = kernels.norm_silu(x, weight, bias, groups, 1e-5, add=add)
    actual = kernels.norm_silu_backward(g, x, add, weight, bias, mean, variance, 1e-5)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_in_half_precision_is_rounded_at_its_end_alone(dtype):
    """The interpreter cuts the digits of bfloat16 off, which errs by up to one of the last place."""
    shape, groups = SHAPES[-1]
    x, g, add = (part.to(dtype) for part in (last(*shape), last(*shape, seed=1), to_add(shape, 2)))
    weight, bias = drawn(2, shape[1], seed=3).to(dtype)
    true = added(x.double(), add.double()).requires_grad_()
    expected = F.silu(F.group_norm(true, groups, weight.double(), bias.double(), 1e-5))
    (slope,) = torch.autograd.grad(expected, true, g.double())
    y, mean, variance = kernels.norm_silu(x, weight, bias, groups, 1e-5, add=add)
    d = kernels.norm_silu_backward(g, x, add, weight, bias, mean, variance, 1e-5)
    assert y.dtype == d.dtype == dtype and mean.dtype == variance.dtype == torch.float32
    digit = torch.finfo(dtype).eps
    for found, true in ((y, expected), (d, slope)):
        torch.testing.assert_close(found.double(), true, rtol=1.01 * digit, atol=2e-5)


def test_moments_of_many_splits_and_of_one_group():
    x = drawn(1, 5000, 40) * 2 + 100
    mean, variance = kernels.moments(x, 1)
    torch.testing.assert_close(mean.squeeze(), x.double().mean().float())
    torch.testing.assert_close(variance.squeeze(), x.double().var(correction=0).float(), rtol=1e-5, atol=0)


def test_blend():
    x, h = last(2, 20, 3, 5), last(2, 20, 3, 5, seed=1)
    bias, share = drawn(20, seed=2), torch.tensor([0.3], device=DEVICE)
    wide = bias[:, None, None]
    torch.testing.assert_close(kernels.blend(x, h, bias, share), x + share * (h + wide))
    torch.testing.assert_close(kernels.blend(x, h), x + h)
    torch.testing.assert_close(kernels.blend(None, h, share=share), share * h)
    expected = h + wide
    assert kernels.blend(None, h, bias, out=h).data_ptr() == h.data_ptr()
    torch.testing.assert_close(h, expected)


def test_rows_that_do_not_lie_channels_last_are_copied():
    x, h = drawn(2, 20, 3, 5), drawn(2, 20, 3, 5, seed=1)
    torch.testing.assert_close(kernels.blend(x, h), x + h)


@pytest.mark.parametrize("shift", [True, False])
def test_batch_norm(shift):
    x, mean, weight, bias = last(3, 70, 4, 2), *drawn(3, 70, seed=1)
    variance = drawn(70, seed=2).abs() + 0.1
    at = (mean, bias) if shift else (torch.zeros(70, device=DEVICE), None)
    expected = F.batch_norm(x, at[0], variance, weight, at[1])
    torch.testing.assert_close(kernels.batch_norm(x, mean, variance, weight, bias, 1e-5, shift=shift), expected)


@pytest.mark.parametrize("channels", [60, 320])
def test_layer_norm(channels):
    x, (weight, bias) = 100 + drawn(3, 7, channels), drawn(2, channels, seed=1)
    expected = F.layer_norm(x, (channels,), weight, bias)
    torch.testing.assert_close(kernels.layer_norm(x, weight, bias, 1e-5), expected, rtol=1e-4, atol=1e-4)


def test_geglu():
    x = drawn(3, 7, 60)
    a, b = x.chunk(2, -1)
    torch.testing.assert_close(kernels.geglu(x), a * F.gelu(b))


def test_affine():
    x, scale, shift = drawn(3, 70, 40), drawn(3, seed=1), drawn(3, 40, seed=2)
    torch.testing.assert_close(kernels.affine(x, scale, shift), x * scale[:, None, None] + shift[:, None])


def test_only_nvidia_gpus_use_them():
    assert not kernels.usable(torch.device("cpu"))
