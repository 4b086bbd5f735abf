"""The alignment network: reads motion, reference and SVD guidance, and corrects the SVD's transform.

After section III-A of the StableAnimator++ paper (arXiv 2507.15064): Transformer encoders read the driven motion, the
reference and the SVD-aligned poses; cross-attention takes the guidance into the motion; an MLP predicts the transform
(Eq. 10), here as a correction that starts at the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..skeleton import BODY_POINTS, LIMBS
from .guidance import WINDOW, Guidance, compose, guide
from .similarity import Similarity

# What is measured between joints: all limbs, and the widths of shoulders, hips and head.
BONES = (*LIMBS, (2, 5), (8, 11), (16, 17))

MOST_FRAMES = 64  # a longer clip is read at so many places, of which ...
FIRST_FRAMES = 8  # ... so many are its first frames

_COORDINATES = 2 * BODY_POINTS
_SHORTEST = 0.02  # spreads; what points at the camera has no length to speak of
_REACH = 0.9  # quantile of a bone's length over the clip: its length when it lies in the picture's plane
_TIME = 16  # features of a frame's number


class AlignmentNet(nn.Module):
    """The similarity that brings a driver onto a reference, one per clip: correction ∘ T_svd.

    width: of the tokens, a multiple of heads. layers: of each encoder.
    use_guidance: False leaves the SVD out: bodies are matched by centre and spread, then corrected.
    use_motion: False reads the first WINDOW frames alone.
    Raises ValueError when the width does not suit the heads.
    """

    def __init__(
        self, width: int = 128, layers: int = 3, heads: int = 4, use_guidance: bool = True, use_motion: bool = True
    ):
        super().__init__()
        if min(width, layers, heads) < 1 or width % heads:
            raise ValueError(
                f"width {width}, layers {layers}, heads {heads}: need 1 or more, and heads that divide width"
            )
        self.config = {
            "width": width, "layers": layers, "heads": heads, "use_guidance": use_guidance, "use_motion": use_motion,
        }  # fmt: skip
        self.use_guidance, self.use_motion = use_guidance, use_motion
        self.register_buffer("bones", torch.tensor(BONES).T.contiguous(), persistent=False)  # [2, M]
        self.motion = MotionEncoder(width, layers, heads)
        self.reference = ReferenceEncoder(width, layers, heads)
        self.read_reference = CrossAttention(width, heads)
        if use_guidance:
            self.guidance = GuidanceEncoder(width, layers, heads)
            self.read_guidance = CrossAttention(width, heads)
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pool = CrossAttention(width, heads)
        self.to_correction = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4)
        )
        nn.init.zeros_(self.to_correction[-1].weight)
        nn.init.zeros_(self.to_correction[-1].bias)

    def forward(
        self, driving: Tensor, seen: Tensor, reference: Tensor, reference_seen: Tensor,
        guidance: Guidance | None = None,
    ) -> Similarity:  # fmt: skip
        """Transforms of B clips, px to px, in the dtype of `driving`.

        driving: [B, F, 18, 2] px, seen: bool [B, F, 18], reference: [B, 18, 2] px, reference_seen: bool [B, 18].
        Any F; a clip of more than MOST_FRAMES is sampled. Coordinates of unseen joints are not read. Shifting or
        scaling either picture shifts or scales the result, and no more. Where nothing is seen the result is finite.
        guidance: what `guide` gives for these clips, where that is known already.
        """
        if guidance is None:
            guidance = self.guide(driving, seen, reference, reference_seen)
        index = self._read_frames(seen.shape[1], seen.device)
        tokens = self._tokens(guidance, seen[:, index], reference_seen, index)  # [B, N, D]
        pooled = self.pool(self.query.expand(len(tokens), -1, -1), tokens).squeeze(1)  # [B, D]
        growth, angle, shift = self.to_correction(pooled).to(driving.dtype).split((1, 1, 2), dim=1)
        correction = Similarity.through(growth.squeeze(1).exp(), angle.squeeze(1), torch.zeros_like(shift), shift)
        return guidance.pixels(compose(correction, guidance.base))

    def guide(self, driving: Tensor, seen: Tensor, reference: Tensor, reference_seen: Tensor) -> Guidance:
        """Fits of the frames that are read; arguments as in forward. They need no weights: many clips are fitted best
        at once.
        """
        index = self._read_frames(seen.shape[1], seen.device)
        guidance = guide(driving[:, index], seen[:, index], reference, reference_seen)
        return guidance if self.use_guidance else guidance._replace(base=_identity(guidance.base))

    def _read_frames(self, frames: int, device: torch.device) -> Tensor:
        """Numbers of the frames that are read: all, or the first ones and evenly spaced later ones."""
        if not self.use_motion:
            return torch.arange(min(frames, WINDOW), device=device)
        if frames <= MOST_FRAMES:
            return torch.arange(frames, device=device)
        later = torch.linspace(FIRST_FRAMES, frames - 1, MOST_FRAMES - FIRST_FRAMES, device=device).round().long()
        return torch.cat([torch.arange(FIRST_FRAMES, device=device), later])

    def _tokens(self, guidance: Guidance, seen: Tensor, reference_seen: Tensor, index: Tensor) -> Tensor:
        """Motion that knows the reference and the guidance, and the reference itself: [B, F + 19, D]."""
        dtype = self.query.dtype
        bones, bones_seen = _bones(guidance.driving, seen, self.bones)  # [B, F, M] each
        reference_bones = _bones(guidance.reference, reference_seen, self.bones)  # [B, M] each
        time = _time_features(index).to(dtype)  # [F, _TIME]
        motion = self.motion(guidance.driving.to(dtype), seen, bones.to(dtype), bones_seen, time)
        compared = _compare(bones, bones_seen, *reference_bones, guidance.base.scale)
        reference = self.reference(guidance.reference.to(dtype), reference_seen, compared[0].to(dtype), compared[1])
        motion = self.read_reference(motion, reference)
        if self.use_guidance:
            motion = self.read_guidance(motion, self.guidance(guidance, seen, reference_seen, time))
        return torch.cat([motion, reference], 1)


class MotionEncoder(nn.Module):
    """One token per driving frame, over time."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.joints = Masked(_COORDINATES)
        self.bones = Masked(len(BONES))
        self.embed = _mlp(2 * _COORDINATES + 2 * len(BONES) + _TIME, width)
        self.encoder = _encoder(width, layers, heads)

    def forward(self, joints: Tensor, seen: Tensor, bones: Tensor, bones_seen: Tensor, time: Tensor) -> Tensor:
        """joints: [B, F, 18, 2] in spreads, bones: log lengths [B, F, M], time: [F, T] -> [B, F, D]."""
        parts = [self.joints(joints.flatten(2), _both(seen)), self.bones(bones, bones_seen)]
        return self.encoder(self.embed(torch.cat([*parts, time.expand(len(joints), -1, -1)], -1)))


class ReferenceEncoder(nn.Module):
    """One token per joint of the reference, and one that compares the lengths of both bodies' bones."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.joints = Masked(_COORDINATES)
        self.embed = nn.Linear(4, width)
        self.joint = nn.Parameter(0.02 * torch.randn(BODY_POINTS, width))
        self.bones = Masked(3 * len(BONES))
        self.embed_bones = _mlp(6 * len(BONES), width)
        self.encoder = _encoder(width, layers, heads)

    def forward(self, joints: Tensor, seen: Tensor, compared: Tensor, compared_seen: Tensor) -> Tensor:
        """joints: [B, 18, 2] in spreads, compared: [B, 3 M] as _compare gives them -> [B, 19, D]."""
        features = rearrange(self.joints(joints.flatten(1), _both(seen)), "b (m k c) -> b k (m c)", m=2, c=2)
        bones = self.embed_bones(self.bones(compared, compared_seen))  # [B, D]
        return self.encoder(torch.cat([self.embed(features) + self.joint, bones[:, None]], 1))


class GuidanceEncoder(nn.Module):
    """One token per frame, over time: the SVD-aligned pose, how it differs from the reference, and the frame's fit."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.joints = Masked(_COORDINATES)
        self.apart = Masked(_COORDINATES)
        self.fit = Masked(4)
        self.embed = _mlp(4 * _COORDINATES + 8 + 4 + _TIME, width)
        self.encoder = _encoder(width, layers, heads)

    def forward(self, guidance: Guidance, seen: Tensor, reference_seen: Tensor, time: Tensor) -> Tensor:
        """seen: [B, F, 18], reference_seen: [B, 18], time: [F, T] -> [B, F, D]."""
        dtype, base, frames = time.dtype, guidance.base, guidance.frames
        batch = len(seen)
        aligned = base.apply(guidance.driving.flatten(1, 2)).view_as(guidance.driving)  # [B, F, 18, 2]
        apart = aligned - guidance.reference[:, None]
        turn = frames.angle.view(batch, -1) - base.angle[:, None]  # [B, F]
        growth = (frames.scale.view(batch, -1) / base.scale[:, None]).log()
        fit = torch.stack([growth, turn.sin(), turn.cos(), guidance.residual], -1)
        clip = torch.stack([base.scale.log(), base.angle.sin(), base.angle.cos()], -1)[:, None].expand(*turn.shape, -1)
        parts = [
            self.joints(aligned.flatten(2).to(dtype), _both(seen)),
            self.apart(apart.flatten(2).to(dtype), _both(seen & reference_seen[:, None])),
            self.fit(fit.to(dtype), guidance.fitted[..., None].expand_as(fit)),
            torch.cat([clip, guidance.coverage[..., None]], -1).to(dtype),
            time.expand(batch, -1, -1),
        ]
        return self.encoder(self.embed(torch.cat(parts, -1)))


class Masked(nn.Module):
    """Measured values, and which of them are known: an unknown one is a learned constant, whatever it was."""

    def __init__(self, values: int):
        super().__init__()
        self.unknown = nn.Parameter(torch.zeros(values))

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """values, bool known: [..., N] -> [..., 2 N]; asinh keeps far ones in reach."""
        return torch.cat([torch.where(known, values.asinh(), self.unknown), known.to(values.dtype)], -1)


class CrossAttention(nn.Module):
    """A residual block in which tokens attend to other ones, then think."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_context, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.to_q, self.to_kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.to_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens: [B, N, D], context: [B, L, D] -> [B, N, D]."""
        key, value = self.to_kv(self.norm_context(context)).chunk(2, dim=-1)
        parts = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (self.to_q(self.norm(tokens)), key, value))
        attended = F.scaled_dot_product_attention(*parts)
        tokens = tokens + self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        return tokens + self.feed_forward(self.norm_out(tokens))


def _encoder(width: int, layers: int, heads: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def _mlp(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))


def _both(seen: Tensor) -> Tensor:
    """One mask for x and y: bool [..., 18] -> [..., 36]."""
    return seen.repeat_interleave(2, -1)


def _bones(points: Tensor, seen: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the lengths of bones, and whether both ends [2, M] are seen. [..., 18, 2] -> [..., M] each."""
    start, end = ends
    length = (points[..., start, :] - points[..., end, :]).norm(dim=-1)
    return length.clamp_min(_SHORTEST).log(), seen[..., start] & seen[..., end]


def _compare(
    driving: Tensor, driving_seen: Tensor, reference: Tensor, reference_seen: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The driver's bones over the clip, the reference's, and their difference after the base's scale: [B, 3 M] each.

    driving: logarithms [B, F, M], reference: [B, M], scale: [B].
    """
    reach = driving.masked_fill(~driving_seen, math.nan).nanquantile(_REACH, dim=1)  # [B, M]
    seen = driving_seen.any(1)
    apart = reach + scale.log()[:, None] - reference
    values = torch.cat([reach, reference, apart], -1)
    return values, torch.cat([seen, reference_seen, seen & reference_seen], -1)


def _time_features(index: Tensor) -> Tensor:
    """Sinusoids of the logarithm of the frame's number, [F] -> [F, _TIME]: early frames are told apart best."""
    rate = torch.logspace(-0.3, 1.0, _TIME // 2, device=index.device)
    phase = index.to(rate.dtype).log1p()[:, None] * rate
    return torch.cat([phase.sin(), phase.cos()], -1)


def _identity(like: Similarity) -> Similarity:
    zero = torch.zeros_like(like.translation)
    return Similarity.through(torch.ones_like(like.scale), torch.zeros_like(like.scale), zero, zero)
