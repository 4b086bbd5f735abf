"""Layers of frozen networks: fast in inference, and frugal where HJB differentiates through them.

The same weights and keys as the plain layers, and the same maths; activations lie channels-last. Where a weight
requires grad, and under autocast, layers are the plain ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import kernels, operations
from .id_adapter import ImageTokenAttnProcessor
from .iresnet import IResNet
from .unet import AnimatorUNet

AT_ONCE = 1 << 19  # pixels of the decoder that go through layers in space together; more take more memory
MATH_PLACES = 2048  # at most so many places attend to each other through matrices


def freeze(network: nn.Module) -> None:
    """Exchange the layers of a frozen network, in place and by class; its state dict stays as it is.

    network: AnimatorUNet, diffusers' TemporalDecoder or IResNet, in evaluation mode. Freezing twice does no harm.
    Gradients of weights are right after a later requires_grad_(True); the saving is then gone. Before only some of them
    train, call to(memory_format=torch.contiguous_format): with channels last, torch 2.11 crashes on the CPU where a
    GroupNorm trains and its input does not.
    Raises ValueError for another kind of network, and for one that trains.
    """
    if not isinstance(network, (AnimatorUNet, TemporalDecoder, IResNet)):
        raise ValueError(
            f"{type(network).__name__} has no frozen layers; freeze an AnimatorUNet, a TemporalDecoder or an IResNet"
        )
    if network.training:
        raise ValueError(f"{type(network).__name__} is in training mode; call eval() before freeze()")
    name = next((name for name, weight in network.named_parameters() if weight.requires_grad), None)
    if name is not None:
        raise ValueError(f"{type(network).__name__}: {name} requires grad; call requires_grad_(False) before freeze()")
    with torch.inference_mode(False):  # weights laid out in inference mode can't be differentiated through
        for module in network.modules():
            if type(module) in _FROZEN and _known(module):
                module.__class__ = _FROZEN[type(module)]
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                layout = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
                module.weight.data = module.weight.data.contiguous(memory_format=layout)
    if not isinstance(network, IResNet):  # the last norm takes over the SiLU after it
        network.conv_norm_out.__class__ = FrozenNormSiLU
        network.conv_act = nn.Identity()
    if isinstance(network, TemporalDecoder):
        for attention in network.mid_block.attentions:
            attention.set_processor(SmallAttnProcessor())


def _known(module: nn.Module) -> bool:
    """Whether a layer is of the kind that its frozen class computes."""
    if isinstance(module, nn.Conv3d):
        beside = [each[1:] for each in (module.kernel_size, module.stride, module.padding)]
        if beside != [(1, 1), (1, 1), (0, 0)]:
            return False
    return getattr(module, "padding_mode", "zeros") == "zeros"


def _infers(x: Tensor) -> bool:
    """Whether no gradient is wanted at all."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))


class FrozenConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if operations.trains(x, self) else operations.conv(x, self)


class FrozenTimeConv(nn.Conv3d):
    """Kernel (k, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if operations.trains(x, self) else operations.conv(x, self)


class FrozenNormSiLU(nn.GroupNorm):
    """SiLU(GroupNorm(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x)) if operations.trains(x, self) else operations.norm_silu(x, self)


class FrozenBlock(SpatioTemporalResBlock):
    """In space, then in time, and a blend of both results.

    In time the block adds h to y, and the blend α·y + (1 − α)·(y + h) is y + (1 − α)·h. The bias of a convolution is
    added where its result is read next.
    """

    def forward(self, x: Tensor, temb: Tensor | None = None, image_only_indicator: Tensor | None = None) -> Tensor:
        """x: [B * F, C, H, W]. temb: [B * F, D]. image_only_indicator: [B, F], of which the shape counts."""
        time_trains = temb is not None and temb.requires_grad and torch.is_grad_enabled()
        if time_trains or operations.trains(x, self, recurse=True):
            return super().forward(x, temb, image_only_indicator)
        temb = None if temb is None else F.silu(temb)
        time = self.temporal_res_block
        at_once = max(AT_ONCE // x.shape[2:].numel(), 1)
        if at_once < len(x) and temb is None and _infers(x):  # the decoder: in space frames are apart
            channels = self.spatial_res_block.out_channels
            y = x.new_empty(len(x), *x.shape[2:], channels).movedim(-1, 1)
            for part, into in zip(x.split(at_once), y.split(at_once)):
                into.copy_(self._in_space(part))
        else:
            y = self._in_space(x, temb)
        y = y.unflatten(0, image_only_indicator.shape).transpose(1, 2)  # [B, C, F, H, W]
        mix, switched = self.time_mixer.mix_factor, self.time_mixer.switch_spatial_to_temporal_mix
        share = torch.sigmoid(mix if switched else -mix)  # 1 − α, [1]
        y = operations.blend(y, self._branch(y, temb, time), time.conv2.bias, share)
        return y.transpose(1, 2).flatten(0, 1)

    def _in_space(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        block = self.spatial_res_block
        h = self._branch(x, temb, block)
        skip = x if block.conv_shortcut is None else operations.conv(x, block.conv_shortcut)
        return operations.blend(skip, h, block.conv2.bias)

    @staticmethod
    def _branch(x: Tensor, temb: Tensor | None, block: nn.Module) -> Tensor:
        """What a block adds to its input, less the last bias."""
        h = operations.conv(operations.norm_silu(x, block.norm1), block.conv1, bias=False)
        add = block.conv1.bias[None]
        if temb is not None:
            add = add + block.time_emb_proj(temb)
        return operations.conv(operations.norm_silu(h, block.norm2, add), block.conv2, bias=False)


class SmallAttnProcessor(AttnProcessor2_0):
    """Self-attention whose gradient is taken through matrices where few places attend to each other.

    No fused attention for gradients takes heads as wide as the decoder's one but a slow one.
    """

    def __call__(self, attn, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        places = hidden_states.shape[2:].numel() if hidden_states.ndim == 4 else hidden_states.shape[1]
        if not (hidden_states.requires_grad and hidden_states.is_cuda and places <= MATH_PLACES):
            return super().__call__(attn, hidden_states, *args, **kwargs)
        with sdpa_kernel(SDPBackend.MATH):
            return super().__call__(attn, hidden_states, *args, **kwargs)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """In evaluation mode a scale and a shift of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training or operations.trains(x, self):
            return super().forward(x)
        return operations.batch_norm(x, self)


class FrozenPReLU(nn.PReLU):
    """Of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if operations.trains(x, self) else operations.prelu(x, self.weight)


# The UNet's: without gradients alone


class FrozenLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        if _infers(x) and kernels.usable(x.device) and x.is_contiguous():
            return kernels.layer_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x)


class FrozenGEGLU(GEGLU):
    def forward(self, hidden_states: Tensor) -> Tensor:
        if _infers(hidden_states) and kernels.usable(hidden_states.device):
            return kernels.geglu(self.proj(hidden_states))
        return super().forward(hidden_states)


class FrozenTransformer(TransformerSpatioTemporalModel):
    """Rows of channels all the way: nothing is transposed but for attention over time."""

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, image_only_indicator: Tensor, return_dict: bool = True):
        """x: [B * F, C, h, w]; its class is that of diffusers, whose blocks ask for a tuple."""
        blocks = list(zip(self.transformer_blocks, self.temporal_transformer_blocks))
        if not (_infers(x) and all(_is_usual(temporal_block) for _, temporal_block in blocks)):
            return super().forward(x, encoder_hidden_states, image_only_indicator, return_dict)
        batch, frames = image_only_indicator.shape
        rows = self.proj_in(operations.norm(x, self.norm).movedim(1, -1).flatten(1, 2))  # [B * F, h * w, C]
        number = self.time_proj(torch.arange(frames, device=x.device)).to(rows.dtype)
        number = self.time_pos_embed(number).repeat(batch, 1)[:, None]  # [B * F, 1, C]
        share = torch.sigmoid(self.time_mixer.mix_factor).to(rows.dtype)
        for block, temporal_block in blocks:
            rows = block(rows, encoder_hidden_states=encoder_hidden_states)
            rows = torch.lerp(_over_time(temporal_block, rows + number, encoder_hidden_states[::frames]), rows, share)
        rows = self.proj_out(rows).unflatten(1, x.shape[-2:]).movedim(-1, 1)
        return (operations.blend(x, rows),)


def _is_usual(block: TemporalBasicTransformerBlock) -> bool:
    """Whether a block is of the kind that _over_time computes."""
    return (
        isinstance(block.attn2.processor, ImageTokenAttnProcessor)
        and type(block.attn1.processor) is AttnProcessor2_0
        and block.is_res
        and block._chunk_size is None
    )


def _over_time(block: TemporalBasicTransformerBlock, x: Tensor, context: Tensor) -> Tensor:
    """The block of x [B * F, S, C], which is used up, without gradients. context: [B, N, D], one for all places."""
    frames = len(x) // len(context)
    x = block.ff_in(block.norm_in(x)).add_(x)
    x = _attend_over_time(block.attn1, block.norm1(x), frames).add_(x)
    queries = x.unflatten(0, (-1, frames)).flatten(1, 2)  # [B, F * S, C]
    if context.shape[1] - block.attn2.processor.num_tokens > 1:  # else queries don't matter
        queries = block.norm2(queries)
    x = block.attn2(queries, encoder_hidden_states=context).reshape(x.shape).add(x)
    return block.ff(block.norm3(x)).add_(x)


def _attend_over_time(attn: Attention, x: Tensor, frames: int) -> Tensor:
    """Every place to itself in the other frames of its clip: [B * F, S, C]."""
    parts = (project(x).unflatten(0, (-1, frames)) for project in (attn.to_q, attn.to_k, attn.to_v))
    parts = (part.unflatten(-1, (attn.heads, -1)).permute(0, 2, 3, 1, 4) for part in parts)  # [B, S, heads, F, d]
    z = torch.stack([F.scaled_dot_product_attention(*clip) for clip in zip(*parts)])
    return attn.to_out[0](z.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1))


_FROZEN = {
    nn.Conv2d: FrozenConv2d,
    nn.Conv3d: FrozenTimeConv,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.PReLU: FrozenPReLU,
    nn.LayerNorm: FrozenLayerNorm,
    GEGLU: FrozenGEGLU,
    SpatioTemporalResBlock: FrozenBlock,
    TransformerSpatioTemporalModel: FrozenTransformer,
}
