"""AnimatorUNet: the UNet of Stable Video Diffusion with pose features and the ID adapter."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .id_adapter import FACE_TOKENS, IDAdapterAttnProcessor, ImageTokenAttnProcessor


class PoseConv2d(nn.Conv2d):
    """A convolution that adds pose features to its output while they are lent to it; its keys are Conv2d's."""

    _pose_features: Tensor | None = None

    @contextmanager
    def adding(self, pose_features: Tensor | None) -> Iterator[None]:
        """Within the block, forward adds pose_features ([N, C, h, w]; None adds nothing)."""
        self._pose_features = pose_features
        try:
            yield
        finally:
            self._pose_features = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, h, w] -> [N, C, h, w]. Raises ValueError when the pose features have another shape."""
        y = super().forward(x)
        if self._pose_features is None:
            return y
        if self._pose_features.shape != y.shape:
            raise ValueError(f"pose_features are {list(self._pose_features.shape)}, expected {list(y.shape)}")
        return y + self._pose_features


class FaceScale:
    """Within the block, the adapters work at this scale. Can be entered again, as recomputation does."""

    def __init__(self, adapters: list[IDAdapterAttnProcessor], scale: float | Tensor):
        self.adapters, self.scale = adapters, scale

    def __enter__(self) -> None:
        self.before = [adapter.scale for adapter in self.adapters]
        for adapter in self.adapters:
            adapter.scale = self.scale

    def __exit__(self, *error) -> None:
        for adapter, scale in zip(self.adapters, self.before):
            adapter.scale = scale


class AnimatorUNet(UNetSpatioTemporalConditionModel):
    """diffusers' UNetSpatioTemporalConditionModel with three changes; the configuration and the other keys stay.

    1. Pose features are added right after `conv_in`, before the first skip is stored.
    2. Spatial cross-attention is the ID adapter; the last 4 tokens of the context are face tokens.
    3. Temporal cross-attention sees the image tokens only.

    With one image token, queries and keys cannot change the image's part of cross-attention and are not computed: the
    temporal `norm2`, `attn2.to_q`, `attn2.to_k` and the spatial `attn2.to_k` then get no gradient (it would be zero).
    """

    @functools.wraps(UNetSpatioTemporalConditionModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        conv = self.conv_in
        self.conv_in = PoseConv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
        for name, layer in self.named_modules():
            if not (isinstance(layer, Attention) and name.endswith(".attn2")):
                continue
            if ".temporal_transformer_blocks." in name:
                layer.set_processor(ImageTokenAttnProcessor())
            else:
                hidden_size, cross_attention_dim = layer.to_k.weight.shape
                layer.set_processor(IDAdapterAttnProcessor(hidden_size, cross_attention_dim))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        pose_features: Tensor | None = None,
        id_scale: float | Tensor = 1.0,
    ) -> Tensor:
        """v-prediction, [B, F, 4, h, w].

        sample: [B, F, 8, h, w], noisy latents beside image latents. timestep: [B] or one number, ¼ ln σ.
        encoder_hidden_states: [B, N + 4, D], image tokens then face tokens. added_time_ids: [B, 3].
        pose_features: [B * F, C, h, w] of PoseNet, or None. id_scale: strength of the face tokens, one number or [B];
        the number 0 skips them.
        Raises ValueError when the context holds no image token or the pose features have another shape.
        """
        tokens = encoder_hidden_states.shape[1]
        if tokens <= FACE_TOKENS:
            raise ValueError(f"context of {tokens} tokens, need at least one image token and {FACE_TOKENS} face tokens")
        if torch.is_tensor(id_scale):
            batch, frames = sample.shape[:2]
            id_scale = id_scale.to(sample.dtype).expand(batch).repeat_interleave(frames)[:, None, None]  # [B * F, 1, 1]
        with self.conv_in.adding(pose_features), FaceScale(self.id_adapters(), id_scale):
            (out,) = super().forward(sample, timestep, encoder_hidden_states, added_time_ids, return_dict=False)
        return out

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable | None = None) -> None:
        """As in diffusers; the default function also recomputes each block with the id_scale of its forward pass."""
        super().enable_gradient_checkpointing(gradient_checkpointing_func or self._checkpoint)

    def id_adapters(self) -> list[IDAdapterAttnProcessor]:
        """The processors that hold the adapter's weights."""
        return [module for module in self.modules() if isinstance(module, IDAdapterAttnProcessor)]

    def _checkpoint(self, block: Callable, *args) -> Tensor:
        adapters = self.id_adapters()
        scaling = FaceScale(adapters, adapters[0].scale)
        return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), scaling))
