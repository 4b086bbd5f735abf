"""Operations of frozen layers, channels last: fused where kernels.py can, with gradients of their input alone.

Autograd would keep the input of every convolution and normalisation, which the gradient of the input does not need.
Here a convolution keeps its weight alone, a normalisation with SiLU its input, a blend nothing, a BatchNorm nothing and
a PReLU one byte per value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import kernels


def trains(x: Tensor, layer: nn.Module, *, recurse: bool = False) -> bool:
    """Whether gradients of the layer's weights are wanted, or autocast is on: then it must compute as torch does."""
    wanted = torch.is_grad_enabled() and any(weight.requires_grad for weight in layer.parameters(recurse=recurse))
    return wanted or torch.is_autocast_enabled(x.device.type)


def _differentiated(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in inputs)


def conv(x: Tensor, layer: nn.Conv2d | nn.Conv3d, *, bias: bool = True) -> Tensor:
    """The convolution, of space or, with a kernel (k, 1, 1), of time. bias: False leaves it to what comes next."""
    how = layer.weight, layer.bias if bias else None, layer.stride, layer.padding, layer.dilation, layer.groups
    return (_Conv.apply if _differentiated(x) else _conv)(x, *how)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, *how) -> Tensor:
    if not kernels.usable(x.device):
        return _convolve(x, weight, bias, *how)
    y = _convolve(x, weight, None, *how)
    return y if bias is None else kernels.blend(None, y, bias, out=y)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> Tensor:
    if weight.ndim == 4:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if x.is_cuda:  # cuDNN is up to five times as fast as with what serves the CPU best
        return F.conv3d(x, weight, bias, stride, padding, dilation, groups)
    how = (each[:2] for each in (stride, padding, dilation))
    return _from_plane(F.conv2d(_to_plane(x), weight.squeeze(-1), bias, *how, groups), x)


def _to_plane(x: Tensor) -> Tensor:
    """[B, C, F, H, W] -> [B, C, F, H * W], by way of [B, F, H * W, C]: the strides of a reshaped batch of one would
    hide from torch that channels are last."""
    return x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)


def _from_plane(y: Tensor, x: Tensor) -> Tensor:
    """[B, C, F, H * W] -> [B, C, F, H, W], with the H and W of x."""
    return y.movedim(1, -1).unflatten(2, x.shape[-2:]).movedim(-1, 1)


class _Conv(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, *how) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.how = x.shape[2:], how
        return _conv(x, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        axes = zip(ctx.size, g.shape[2:], weight.shape[2:], stride, padding, dilation)
        rest = [size - (n - 1) * step + 2 * pad - gap * (kernel - 1) - 1 for size, n, kernel, step, pad, gap in axes]
        how = stride, padding, rest, dilation
        if weight.ndim == 4:
            d = F.conv_transpose2d(g, weight, None, *how[:3], groups, dilation)
        else:  # over time x place
            stride, padding, rest, dilation = (each[:2] for each in how)
            d = F.conv_transpose2d(_to_plane(g), weight.squeeze(-1), None, stride, padding, rest, groups, dilation)
            d = _from_plane(d, g)
        return d, *(None,) * 6


def norm_silu(x: Tensor, layer: nn.GroupNorm, add: Tensor | None = None) -> Tensor:
    """SiLU(GroupNorm(x + add)), [N, C, ...]. add: [M, C]; each of its rows is for a part of all places in memory."""
    call = _NormSiLU.apply if _differentiated(x) else _norm_silu
    return call(x, add, layer.weight, layer.bias, layer.num_groups, layer.eps)


def norm(x: Tensor, layer: nn.GroupNorm) -> Tensor:
    """GroupNorm(x), [N, C, ...]."""
    if kernels.usable(x.device) and not _differentiated(x):
        return kernels.norm_silu(x, layer.weight, layer.bias, layer.num_groups, layer.eps, silu=False)[0]
    return layer(x)


def _norm_silu(x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    if kernels.usable(x.device):
        return kernels.norm_silu(x, weight, bias, groups, eps, add=add)[0]
    return F.silu(F.group_norm(_added(x, add), groups, weight, bias, eps), inplace=True)


def _added(x: Tensor, add: Tensor | None) -> Tensor:
    if add is None:
        return x
    places = x.movedim(1, -1)
    return (places.reshape(len(add), -1, add.shape[-1]) + add[:, None]).view(places.shape).movedim(-1, 1)


class _NormSiLU(Function):
    @staticmethod
    def forward(ctx, x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.how = groups, eps
        if kernels.usable(x.device):
            y, mean, variance = kernels.norm_silu(x, weight, bias, groups, eps, add=add)
            ctx.save_for_backward(x, add, weight, bias, mean, variance)
            return y
        x = _added(x, add)
        ctx.save_for_backward(x, weight, bias)
        return _norm_silu(x, None, weight, bias, groups, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        saved, (groups, eps) = ctx.saved_tensors, ctx.how  # to be asked for once, as recomputation wants it
        if len(saved) > 3:
            return kernels.norm_silu_backward(g, *saved, eps), *(None,) * 5
        return norm_silu_backward(g, *saved, groups, eps), *(None,) * 5


def norm_silu_backward(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Gradient by x of SiLU(GroupNorm(x)) from the gradient g by its result, in float32 or better: [N, C, ...].

    torch's own kernel wants its channels first: it copies, and on the CPU it is slow.
    """
    centred, inverse = _statistics(x, groups, eps)
    scale = inverse * weight  # [N, C]
    y = torch.addcmul(bias.to(centred), centred, scale[:, None])
    g = torch.ops.aten.silu_backward(_places(g).to(y), y)
    level = inverse * _group_mean(g.mean(1) * weight, groups)
    slope = inverse**3 * _group_mean((g * centred).mean(1) * weight, groups)
    g = torch.addcmul(-level[:, None], g, scale[:, None]).addcmul_(centred, -slope[:, None])
    return g.to(x.dtype).unflatten(1, x.shape[2:]).movedim(-1, 1)


def _statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """x without the mean of its group [N, places, C], and 1 / its standard deviation [N, C], in float32 or better."""
    x = _places(x)
    mean = _group_mean(x.mean(1, dtype=torch.promote_types(x.dtype, torch.float32)), groups)
    centred = x - mean[:, None]
    variance = _group_mean(torch.linalg.vector_norm(centred, dim=1).square() / x.shape[1], groups)
    return centred, (variance + eps).rsqrt()


def _places(x: Tensor) -> Tensor:
    """[N, C, ...] -> [N, places, C]: a view where channels are last."""
    return x.movedim(1, -1).flatten(1, -2)


def _group_mean(channels: Tensor, groups: int) -> Tensor:
    """Each channel's mean of its group, [N, C] -> [N, C]."""
    each = channels.unflatten(-1, (groups, -1))
    return each.mean(-1, keepdim=True).expand_as(each).flatten(1)


def blend(x: Tensor, h: Tensor, bias: Tensor | None = None, share: Tensor | None = None) -> Tensor:
    """x + share · (h + bias): [N, C, ...]. bias: [C]. share: one number, [1]. Without gradients h is used up."""
    if _differentiated(x, h):
        return _Blend.apply(x, h, bias, share)
    return _blend(x, h, bias, share, h)


def _blend(x: Tensor, h: Tensor, bias: Tensor | None, share: Tensor | None, out: Tensor | None = None) -> Tensor:
    if kernels.usable(x.device):
        return kernels.blend(x, h, bias, share, out=out)
    if bias is not None:
        h = h + bias.view(-1, *[1] * (h.ndim - 2))
    return x + h if share is None else torch.addcmul(x, h, share.to(h))


class _Blend(Function):
    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, bias: Tensor | None, share: Tensor | None) -> Tensor:
        ctx.share = share
        return _blend(x, h, bias, share)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        if ctx.share is None:
            return g, g, None, None
        fused = kernels.usable(g.device)
        return g, kernels.blend(None, g, share=ctx.share) if fused else g * ctx.share.to(g), None, None


def batch_norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """By running statistics: a scale and a shift of each channel."""
    how = layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps
    return (_BatchNorm2d.apply if _differentiated(x) else _batch_norm)(x, *how)


def _batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    call = kernels.batch_norm if kernels.usable(x.device) else F.batch_norm
    return call(x, mean, variance, weight, bias, eps=eps)


class _BatchNorm2d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(variance, weight)
        ctx.eps = eps
        return _batch_norm(x, mean, variance, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        variance, weight = ctx.saved_tensors
        if kernels.usable(g.device):
            d = kernels.batch_norm(g, variance, variance, weight, weight, ctx.eps, shift=False)
        else:
            d = F.batch_norm(g, torch.zeros_like(variance), variance, weight, eps=ctx.eps)
        return d, *(None,) * 5


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Of [N, C, H, W]; weight: [C]."""
    return (_PReLU.apply if _differentiated(x) else F.prelu)(x, weight)


class _PReLU(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0, weight)
        return F.prelu(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        positive, weight = ctx.saved_tensors
        return torch.where(positive, g, g * weight[:, None, None]), None
