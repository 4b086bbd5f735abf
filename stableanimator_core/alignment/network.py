"""The alignment network: reads motion, reference and SVD guidance, and corrects the SVD's transform.

After section III-A of the StableAnimator++ paper (arXiv 2507.15064): Transformer encoders read the driven motion, the
reference and the SVD-aligned poses; cross-attention takes the guidance into the motion; an MLP predicts the transform
(Eq. 10), here as a correction that starts at the identity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..skeleton import BODY_POINTS, LIMBS
from .guidance import WINDOW, Guidance, guide
from .similarity import Similarity

# What is measured between joints: all limbs, and the widths of shoulders, hips and head.
BONES = (*LIMBS, (2, 5), (8, 11), (16, 17))

MOST_FRAMES = 64  # a longer clip is read at so many places, of which ...
FIRST_FRAMES = 8  # ... so many are its first frames

_COORDINATES = 2 * BODY_POINTS
_SHORTEST = 0.02  # spreads; what points at the camera has no length to speak of
_REACH = 0.9  # quantile of a bone's length over the clip: its length when it lies in the picture's plane
_TIME = 16  # features of a frame's number
_USUAL_ERROR = 0.08  # body heights


class Placement(NamedTuple):
    """Where the network puts B clips, and how far from right it expects that to be."""

    transform: Similarity  # px to px
    error: Tensor  # [B] mean distance of the joints from where they belong, in heights of the reference's body


class Reading(NamedTuple):
    """What the network reads of B clips: tensors alone, made without weights. In normalised coordinates."""

    driving: Tensor  # [B, F, 18, 2]
    seen: Tensor  # bool [B, F, 18]
    bones: Tensor  # [B, F, M] logarithms of lengths
    bones_seen: Tensor  # bool [B, F, M]
    reach: Tensor  # [B, M] logarithms of each bone's length over the clip, when it lies in the picture's plane
    reference: Tensor  # [B, 18, 2]
    reference_seen: Tensor  # bool [B, 18]
    reference_bones: Tensor  # [B, M]
    reference_bones_seen: Tensor  # bool [B, M]
    growth: Tensor  # [B, F] logarithm of each frame's own fitted scale
    turn: Tensor  # [B, F] radians, its angle
    residual: Tensor  # [B, F] what it leaves
    fitted: Tensor  # bool [B, F]
    coverage: Tensor  # [B, F] 0..1
    base: Tensor  # [B, 4] the clip's fit: logarithm of scale, radians, translation
    time: Tensor  # [B, F, T] of the frames' numbers

    def rows(self, rows: slice | Tensor) -> Reading:
        """What is read of some of the clips."""
        return Reading(*(part[rows] for part in self))


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
        self.to_error = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        nn.init.zeros_(self.to_error[-1].weight)
        nn.init.constant_(self.to_error[-1].bias, math.log(_USUAL_ERROR))

    def forward(
        self, driving: Tensor, seen: Tensor, reference: Tensor, reference_seen: Tensor,
        guidance: Guidance | None = None,
    ) -> Placement:  # fmt: skip
        """Transforms of B clips, px to px, in the dtype of `driving`.

        driving: [B, F, 18, 2] px, seen: bool [B, F, 18], reference: [B, 18, 2] px, reference_seen: bool [B, 18].
        Any F; a clip of more than MOST_FRAMES is sampled. Coordinates of unseen joints are not read. Shifting or
        scaling either picture shifts or scales the result, and no more. Where nothing is seen the result is finite.
        guidance: what `guide` gives for these clips, where that is known already.
        """
        if guidance is None:
            guidance = self.guide(driving, seen, reference, reference_seen)
        return self.place(self.correct(*self.read(guidance, seen, reference_seen)), guidance)

    def guide(self, driving: Tensor, seen: Tensor, reference: Tensor, reference_seen: Tensor) -> Guidance:
        """Fits of the frames that are read; arguments as in forward. They need no weights: many clips are fitted best
        at once.
        """
        index = self._read_frames(seen.shape[1], seen.device)
        guidance = guide(driving[:, index], seen[:, index], reference, reference_seen)
        return guidance if self.use_guidance else guidance._replace(base=_identity(guidance.base))

    @torch.no_grad()
    def read(self, guidance: Guidance, seen: Tensor, reference_seen: Tensor) -> Reading:
        """What `correct` takes. guidance: of the frames that are read, seen: bool [B, F, 18] of all frames."""
        index = self._read_frames(seen.shape[1], seen.device)
        seen, batch = seen[:, index], len(seen)
        bones, bones_seen = _bones(guidance.driving, seen, self.bones)  # [B, F, M] each
        reference_bones = _bones(guidance.reference, reference_seen, self.bones)  # [B, M] each
        reach = bones.masked_fill(~bones_seen, math.nan).nanquantile(_REACH, dim=1).nan_to_num(0.0)  # [B, M]
        base = torch.stack([guidance.base.scale.log(), guidance.base.angle, *guidance.base.translation.unbind(-1)], -1)
        reading = Reading(
            guidance.driving, seen, bones, bones_seen, reach, guidance.reference, reference_seen, *reference_bones,
            guidance.frames.scale.log().view(batch, -1), guidance.frames.angle.view(batch, -1), guidance.residual,
            guidance.fitted, guidance.coverage, base,
            _time_features(index).repeat(batch, 1, 1),
        )  # fmt: skip
        return Reading(*(part.to(self.query.dtype) if part.is_floating_point() else part for part in reading))

    def correct(self, *reading: Tensor) -> Tensor:
        """From a Reading's parts to [B, 5]: the corrected fit of each clip as `base` has it, logarithm of the error."""
        given = Reading(*reading)
        tokens = self._tokens(given)  # [B, N, D]
        pooled = self.pool(self.query.expand(len(tokens), -1, -1), tokens).squeeze(1)  # [B, D]
        return torch.cat([_corrected(given.base, self.to_correction(pooled)), self.to_error(pooled)], 1)

    def place(self, corrected: Tensor, guidance: Guidance) -> Placement:
        """From what `correct` returns to pixels, in the guidance's dtype."""
        growth, angle, shift, error = corrected.to(guidance.driving.dtype).split((1, 1, 2, 1), dim=1)
        normalised = Similarity.through(growth.squeeze(1).exp(), angle.squeeze(1), torch.zeros_like(shift), shift)
        return Placement(guidance.pixels(normalised), error.squeeze(1).exp())

    def _read_frames(self, frames: int, device: torch.device) -> Tensor:
        """Numbers of the frames that are read: all, or the first ones and evenly spaced later ones."""
        if not self.use_motion:
            return torch.arange(min(frames, WINDOW), device=device)
        if frames <= MOST_FRAMES:
            return torch.arange(frames, device=device)
        later = torch.linspace(FIRST_FRAMES, frames - 1, MOST_FRAMES - FIRST_FRAMES, device=device).round().long()
        return torch.cat([torch.arange(FIRST_FRAMES, device=device), later])

    def _tokens(self, given: Reading) -> Tensor:
        """Motion that knows the reference and the guidance, and the reference itself: [B, F + 19, D]."""
        motion = self.read_reference(self.motion(given), reference := self.reference(given))
        if self.use_guidance:
            motion = self.read_guidance(motion, self.guidance(given))
        return torch.cat([motion, reference], 1)


def _corrected(base: Tensor, step: Tensor) -> Tensor:
    """correction ∘ base, both [B, 4]: logarithm of scale, radians, translation."""
    growth, turn, shift = step[:, 0], step[:, 1], step[:, 2:]
    moved = _moved(base[:, None, 2:], growth[:, None], turn[:, None]).squeeze(1) + shift
    return torch.cat([base[:, :2] + step[:, :2], moved], 1)


def _moved(points: Tensor, growth: Tensor, turn: Tensor) -> Tensor:
    """points [B, N, 2] scaled by exp(growth) and turned; growth, turn: [B, 1]."""
    scale = growth.exp()
    right, down = scale * turn.cos(), scale * turn.sin()
    x, y = points.unbind(-1)
    return torch.stack([right * x - down * y, down * x + right * y], -1)


class MotionEncoder(nn.Module):
    """One token per driving frame, over time."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.joints = Masked(_COORDINATES)
        self.bones = Masked(len(BONES))
        self.embed = _mlp(2 * _COORDINATES + 2 * len(BONES) + _TIME, width)
        self.encoder = _encoder(width, layers, heads)

    def forward(self, given: Reading) -> Tensor:
        """-> [B, F, D]."""
        parts = [self.joints(given.driving.flatten(2), _both(given.seen)), self.bones(given.bones, given.bones_seen)]
        return self.encoder(self.embed(torch.cat([*parts, given.time], -1)))


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

    def forward(self, given: Reading) -> Tensor:
        """-> [B, 19, D]."""
        features = self.joints(given.reference.flatten(1), _both(given.reference_seen))
        features = rearrange(features, "b (m k c) -> b k (m c)", m=2, c=2)
        seen = given.bones_seen.any(1)
        apart = given.reach + given.base[:, :1] - given.reference_bones
        compared = torch.cat([given.reach, given.reference_bones, apart], -1)
        compared_seen = torch.cat([seen, given.reference_bones_seen, seen & given.reference_bones_seen], -1)
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

    def forward(self, given: Reading) -> Tensor:
        """-> [B, F, D]."""
        growth, angle = given.base[:, :1], given.base[:, 1:2]
        aligned = _moved(given.driving.flatten(1, 2), growth, angle) + given.base[:, None, 2:]
        aligned = aligned.view_as(given.driving)
        apart = aligned - given.reference[:, None]
        turn = given.turn - angle  # [B, F]
        fit = torch.stack([given.growth - growth, turn.sin(), turn.cos(), given.residual], -1)
        clip = torch.cat([growth, angle.sin(), angle.cos()], -1)[:, None].expand(*turn.shape, -1)
        parts = [
            self.joints(aligned.flatten(2), _both(given.seen)),
            self.apart(apart.flatten(2), _both(given.seen & given.reference_seen[:, None])),
            self.fit(fit, given.fitted[..., None].expand_as(fit)),
            torch.cat([clip, given.coverage[..., None]], -1),
            given.time,
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


def _time_features(index: Tensor) -> Tensor:
    """Sinusoids of the logarithm of the frame's number, [F] -> [F, _TIME]: early frames are told apart best."""
    rate = torch.logspace(-0.3, 1.0, _TIME // 2, device=index.device)
    phase = index.to(rate.dtype).log1p()[:, None] * rate
    return torch.cat([phase.sin(), phase.cos()], -1)


def _identity(like: Similarity) -> Similarity:
    zero = torch.zeros_like(like.translation)
    return Similarity.through(torch.ones_like(like.scale), torch.zeros_like(like.scale), zero, zero)
