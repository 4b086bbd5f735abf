"""Attention processors of the UNet: the ID adapter in space, the image token alone in time."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from . import kernels

FACE_TOKENS = 4
_EPS = 1e-5

Adding = Literal["distribution", "own", "none", "off"]  # how z_face comes to z_img; see IDAdapterAttnProcessor


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(Q Kᵀ / √d) V. query: [B, N, C], key and value: [B, M, C] -> [B, N, C]."""
    split = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(*split), "b h n d -> b n (h d)")


def _attend_image(attn: Attention, hidden_states: Tensor, image_tokens: Tensor) -> Tensor:
    """The layer's own cross-attention before `to_out`. [B, N, C], [B, M, D] -> [B, N, C], or [B, 1, C] where M = 1.

    Softmax over one key is 1, so with one image token every query gets its value.
    """
    value = attn.to_v(image_tokens)
    if image_tokens.shape[1] == 1:
        return value
    return _attend(attn.to_q(hidden_states), attn.to_k(image_tokens), value, attn.heads)


def _project_out(attn: Attention, z: Tensor) -> Tensor:
    linear, dropout = attn.to_out
    return dropout(linear(z))


def frame_statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over tokens and channels together: [B, N, C] -> two [B, 1, 1], float32."""
    std, mean = torch.std_mean(z.float(), dim=(1, 2), keepdim=True)
    return mean, std


def align_distribution(z_face: Tensor, z_img: Tensor) -> Tensor:
    """(z_face − μ_face) · σ_img / (σ_face + 1e-5) + μ_img, both [B, N, C], in float32: one μ and σ per frame.

    z_img may be [B, 1, C], the same for every token. The ID adapter of StableAnimator++ (arXiv 2507.15064).
    """
    mean_face, std_face = frame_statistics(z_face)
    mean_img, std_img = frame_statistics(z_img)
    tokens, channels = z_face.shape[1:]
    if z_img.shape[1] == 1:
        std_img = std_img * _tokens_share(tokens, channels)
    return (z_face.float() - mean_face) * (std_img / (std_face + _EPS)) + mean_img


def add_aligned(z_img: Tensor, z_face: Tensor, scale: float | Tensor) -> Tensor:
    """z_img + scale · align_distribution(z_face, z_img), [B, N, C] in their dtype; scale broadcasts with [B, 1, 1]."""
    if torch.is_grad_enabled() or z_img.shape[1] > 1 or not kernels.usable(z_face.device):
        return z_img + scale * align_distribution(z_face, z_img).to(z_img.dtype)
    z_face = z_face.contiguous()
    tokens, channels = z_face.shape[1:]
    mean_face, variance_face = kernels.moments(z_face, 1)
    mean_img, std_img = frame_statistics(z_img)
    count = tokens * channels
    std_face = (variance_face * (count / (count - 1))).sqrt()[..., None]
    std_img = std_img * _tokens_share(tokens, channels)
    ratio = scale * (std_img / (std_face + _EPS))  # [B, 1, 1]
    shift = z_img.float() + scale * mean_img - ratio * mean_face[..., None]
    return kernels.affine(z_face, ratio.flatten(), shift.flatten(1))


def _tokens_share(tokens: int, channels: int) -> float:
    """Standard deviation of one token that stands for many, over its own: squares add up, less one value in all."""
    return math.sqrt(tokens * (channels - 1) / (tokens * channels - 1))


def normalized(z: Tensor) -> Tensor:
    """(z − μ) / (σ + 1e-5), [B, N, C] in float32: one μ and σ per frame. Half of what `align_distribution` does."""
    mean, std = frame_statistics(z)
    return (z.float() - mean) / (std + _EPS)


class IDAdapterAttnProcessor(nn.Module):
    """Cross-attention to [image tokens, face tokens]: z = z_img + scale · z_face, z_face aligned to z_img.

    The last num_tokens of the context are face tokens, with keys and values of their own (`id_to_k`, `id_to_v`).
    normalize: "distribution" aligns z_face by `align_distribution`. The others are there to be compared with it: "own"
    normalises z_face by its own statistics alone, "none" adds it as it is, "off" leaves it out.
    scale: a number, or a tensor that broadcasts with [B * F, 1, 1]; the number 0 skips the face branch.
    """

    def __init__(
        self,
        hidden_size: int,
        cross_attention_dim: int,
        num_tokens: int = FACE_TOKENS,
        normalize: Adding = "distribution",
    ):
        super().__init__()
        if normalize not in get_args(Adding):
            raise ValueError(f'normalize is "{normalize}", expected one of {", ".join(get_args(Adding))}')
        self.num_tokens = num_tokens
        self.normalize = normalize
        self.scale: float | Tensor = 1.0
        self.id_to_k = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.id_to_v = nn.Linear(cross_attention_dim, hidden_size, bias=False)

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: [B * F, N, C], encoder_hidden_states: [B * F, M + num_tokens, D] -> [B * F, N, C].

        attention_mask is part of diffusers' call; the UNet of Stable Video Diffusion never passes one.
        """
        image_tokens = encoder_hidden_states[:, : -self.num_tokens]
        z = _attend_image(attn, hidden_states, image_tokens)  # [B * F, N or 1, C]
        if self.normalize != "off" and (torch.is_tensor(self.scale) or self.scale != 0):
            z = self._add_face(attn, hidden_states, encoder_hidden_states, z)
        return _project_out(attn, z.expand_as(hidden_states))

    def _add_face(self, attn: Attention, hidden_states: Tensor, context: Tensor, z_img: Tensor) -> Tensor:
        face_tokens = context[:, -self.num_tokens :]
        z_face = _attend(attn.to_q(hidden_states), self.id_to_k(face_tokens), self.id_to_v(face_tokens), attn.heads)
        if self.normalize == "distribution":
            return add_aligned(z_img, z_face, self.scale)
        z_face = normalized(z_face).to(z_img.dtype) if self.normalize == "own" else z_face
        return z_img + self.scale * z_face


class ImageTokenAttnProcessor:
    """Temporal cross-attention that sees the image tokens only: the last num_tokens of the context are dropped."""

    def __init__(self, num_tokens: int = FACE_TOKENS):
        self.num_tokens = num_tokens

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: [N, F, C], encoder_hidden_states: [N, M + num_tokens, D] -> [N, F, C], N = B * h * w."""
        image_tokens = encoder_hidden_states[:, : -self.num_tokens]
        return _project_out(attn, _attend_image(attn, hidden_states, image_tokens)).expand_as(hidden_states)
