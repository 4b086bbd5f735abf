"""Layers of frozen networks: autograd keeps little of them, since no gradient of their weights is wanted.

Autograd keeps the input of every convolution and normalisation, which the gradient of the input does not need. HJB
differentiates through the decoder and the face embedder with frozen weights; for it a convolution keeps its weight
alone, a normalisation with SiLU its input, a BatchNorm nothing and a PReLU one byte per value. Activations lie
channels-last, and convolutions over time run as 2D ones over time x place.

Where a weight requires grad, and under autocast, layers are the plain ones; without gradients only the layout differs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.resnet import SpatioTemporalResBlock
from einops import rearrange
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .iresnet import IResNet


def freeze(network: nn.Module) -> None:
    """Make the layers of a frozen network frugal, in place and by class; its state dict stays as it is.

    network: diffusers' TemporalDecoder or IResNet, in evaluation mode. Freezing twice does no harm.
    Gradients of weights are right after a later requires_grad_(True); the saving is then gone.
    Raises ValueError for another kind of network, and for one that trains.
    """
    if not isinstance(network, (TemporalDecoder, IResNet)):
        raise ValueError(f"{type(network).__name__} has no frugal layers; freeze a TemporalDecoder or an IResNet")
    if network.training:
        raise ValueError(f"{type(network).__name__} is in training mode; call eval() before freeze()")
    name = next((name for name, weight in network.named_parameters() if weight.requires_grad), None)
    if name is not None:
        raise ValueError(f"{type(network).__name__}: {name} requires grad; call requires_grad_(False) before freeze()")
    if isinstance(network, TemporalDecoder):
        _join_norms(network)
    with torch.inference_mode(False):  # weights laid out in inference mode can't be differentiated through
        for module in network.modules():
            if type(module) in _FROZEN and _known(module):
                module.__class__ = _FROZEN[type(module)]
                if module.weight.ndim > 1:
                    layout = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
                    module.weight.data = module.weight.data.contiguous(memory_format=layout)


def _join_norms(decoder: TemporalDecoder) -> None:
    """Norms take over the SiLU after them."""
    for block in decoder.modules():
        if type(block) is SpatioTemporalResBlock:
            block.__class__ = FrozenBlock
            for part in (block.spatial_res_block, block.temporal_res_block):
                part.norm1.__class__ = part.norm2.__class__ = FrozenNormSiLU
    decoder.conv_norm_out.__class__ = FrozenNormSiLU
    decoder.conv_act = nn.Identity()


def _known(module: nn.Module) -> bool:
    """Whether a layer is of the kind that its frugal class computes."""
    if isinstance(module, nn.Conv3d):
        beside = [each[1:] for each in (module.kernel_size, module.stride, module.padding)]
        if beside != [(1, 1), (1, 1), (0, 0)]:
            return False
    return getattr(module, "padding_mode", "zeros") == "zeros"


def _only_input(x: Tensor, layer: nn.Module) -> bool:
    """Whether a gradient is wanted of the layer's input, of its weights none."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and not any(weight.requires_grad for weight in layer.parameters(recurse=False))
        and not torch.is_autocast_enabled(x.device.type)
    )


class _Conv2d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.how = x.shape[2:], (stride, padding, dilation, groups)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        axes = zip(ctx.size, g.shape[2:], weight.shape[2:], stride, padding, dilation)
        rest = [size - (n - 1) * step + 2 * pad - gap * (kernel - 1) - 1 for size, n, kernel, step, pad, gap in axes]
        return F.conv_transpose2d(g, weight, None, stride, padding, rest, groups, dilation), *(None,) * 6


class FrozenConv2d(nn.Conv2d):
    """Keeps its weight alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not _only_input(x, self):
            return super().forward(x)
        return _Conv2d.apply(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FrozenTimeConv(nn.Conv3d):
    """Kernel (k, 1, 1), as a 2D convolution over time x place; keeps its weight alone."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)  # [B, C, F, H * W]; by way of [B, F, H * W, C], since
        # the strides of a reshaped batch of one would hide from torch that channels are last
        weight, how = self.weight.squeeze(-1), tuple(each[:2] for each in (self.stride, self.padding, self.dilation))
        convolve = _Conv2d.apply if _only_input(x, self) else F.conv2d
        y = convolve(flat, weight, self.bias, *how, self.groups)
        return y.movedim(1, -1).unflatten(2, x.shape[-2:]).movedim(-1, 1)  # [B, C, F, H, W]


class _NormSiLU(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.how = groups, eps
        return _norm_silu(x, weight, bias, groups, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        return norm_silu_backward(g, *ctx.saved_tensors, *ctx.how), *(None,) * 4


class FrozenNormSiLU(nn.GroupNorm):
    """SiLU(GroupNorm(x)); keeps x."""

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and (self.weight.requires_grad or self.bias.requires_grad)
        if trains or torch.is_autocast_enabled(x.device.type):
            return F.silu(super().forward(x))
        function = _NormSiLU.apply if torch.is_grad_enabled() and x.requires_grad else _norm_silu
        return function(x, self.weight, self.bias, self.num_groups, self.eps)


def _norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    return F.silu(F.group_norm(x, groups, weight, bias, eps), inplace=True)


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


class FrozenBlock(SpatioTemporalResBlock):
    """The decoder's block: in space, then in time, and a blend of both results.

    In time the block adds h to y, and the blend α·y + (1 − α)·(y + h) is y + (1 − α)·h. Its norms hold the SiLU.
    """

    def forward(self, x: Tensor, temb: None = None, image_only_indicator: Tensor | None = None) -> Tensor:
        """x: [B * F, C, H, W]. image_only_indicator: [B, F], of which the shape counts."""
        space, time = self.spatial_res_block, self.temporal_res_block
        y = space.conv2(space.norm2(space.conv1(space.norm1(x))))
        y = y + (x if space.conv_shortcut is None else space.conv_shortcut(x))
        y = rearrange(y, "(b f) c h w -> b c f h w", f=image_only_indicator.shape[-1])
        h = time.conv2(time.norm2(time.conv1(time.norm1(y))))
        share = torch.sigmoid(self.time_mixer.mix_factor).to(y.dtype)  # 1 − α, [1]
        return rearrange(torch.addcmul(y, h, share), "b c f h w -> (b f) c h w")


class _BatchNorm2d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(mean, variance, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        mean, variance, weight = ctx.saved_tensors
        return F.batch_norm(g, torch.zeros_like(mean), variance, weight, eps=ctx.eps), *(None,) * 5  # scales alone


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """In evaluation mode a scale and a shift of each channel; keeps nothing of its input."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not _only_input(x, self):
            return super().forward(x)
        return _BatchNorm2d.apply(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)


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


class FrozenPReLU(nn.PReLU):
    """Of [N, C, H, W]; keeps where its input is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return _PReLU.apply(x, self.weight) if _only_input(x, self) else super().forward(x)


_FROZEN = {
    nn.Conv2d: FrozenConv2d,
    nn.Conv3d: FrozenTimeConv,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.PReLU: FrozenPReLU,
}
