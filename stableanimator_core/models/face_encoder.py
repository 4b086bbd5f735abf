"""FaceEncoder: one ArcFace embedding becomes a few tokens, informed by the image embedding."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, cat, nn

_HEAD_SIZE = 64


class PerceiverAttention(nn.Module):
    """The latents attend to the context and to themselves; one matrix makes keys and values of both."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // _HEAD_SIZE
        inner = self.heads * _HEAD_SIZE
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, context: Tensor, latents: Tensor) -> Tensor:
        """context: [B, L, D], latents: [B, T, D] -> [B, T, D]."""
        context, latents = self.norm1(context), self.norm2(latents)
        key, value = self.to_kv(cat([context, latents], dim=1)).chunk(2, dim=-1)  # [B, L + T, inner]
        heads = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (self.to_q(latents), key, value))
        out = F.scaled_dot_product_attention(*heads)  # [B, heads, T, head size]
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class PerceiverFusion(nn.Module):
    """Perceiver layers that let the face tokens read the image embedding.

    The last projection starts at zero: at first every token is the bias of the last LayerNorm.
    """

    def __init__(self, width: int, context_dim: int, depth: int):
        super().__init__()
        self.proj_in = nn.Linear(context_dim, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width), _feed_forward(width)]) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens: [B, T, D], context: [B, L, context_dim] -> [B, T, D]."""
        context = self.proj_in(context)
        for attend, feed_forward in self.layers:
            tokens = attend(context, tokens) + tokens
            tokens = feed_forward(tokens) + tokens
        return self.norm_out(self.proj_out(tokens))


class FaceEncoder(nn.Module):
    """Face tokens for the ID adapter.

    cross_attention_dim: D, the UNet's context width, at least one head of 64. num_tokens: T.
    Raises ValueError when cross_attention_dim is below 64.
    """

    def __init__(
        self,
        cross_attention_dim: int = 1024,
        id_embeddings_dim: int = 512,
        clip_embeddings_dim: int = 1024,
        num_tokens: int = 4,
        depth: int = 4,
    ):
        super().__init__()
        if cross_attention_dim < _HEAD_SIZE:
            raise ValueError(f"cross_attention_dim {cross_attention_dim} leaves no head of {_HEAD_SIZE}")
        self.num_tokens = num_tokens
        self.proj = nn.Sequential(
            nn.Linear(id_embeddings_dim, 2 * id_embeddings_dim),
            nn.GELU(),
            nn.Linear(2 * id_embeddings_dim, num_tokens * cross_attention_dim),
        )
        self.norm = nn.LayerNorm(cross_attention_dim)
        self.fusion_model = PerceiverFusion(cross_attention_dim, clip_embeddings_dim, depth)

    def identity_tokens(self, id_embeds: Tensor) -> Tensor:
        """Tokens of the face alone, before they read the image embedding: [B, id] -> [B, T, D]."""
        return self.norm(rearrange(self.proj(id_embeds), "b (t d) -> b t d", t=self.num_tokens))

    def forward(
        self, id_embeds: Tensor, clip_embeds: Tensor, shortcut: bool = False, scale: float | Tensor = 1.0
    ) -> Tensor:
        """id_embeds: [B, id] as ArcFace gives it, clip_embeds: [B, L, clip] -> [B, T, D].

        shortcut: return the identity tokens + scale · fused tokens; otherwise the fused tokens, and scale has no part.
        """
        tokens = self.identity_tokens(id_embeds)
        fused = self.fusion_model(tokens, clip_embeds)
        return tokens + scale * fused if shortcut else fused
