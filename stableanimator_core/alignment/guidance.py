"""SVD guidance: closed-form fits of every driving frame onto the reference, and one robust transform per clip.

Eq. 2-8 of the StableAnimator++ paper (arXiv 2507.15064) centre both poses, decompose the covariance of their joints by
SVD and take rotation, scale and translation from it. In the plane that rotation is one angle in closed form, which
`fit_similarity` uses: the same result without a decomposition. What is added here: joints are weighted and may be
missing, fits are robust, whole batches of clips are fitted at once, and every clip gets a transform, even where both
poses share no joint.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..skeleton import BODY_POINTS
from .similarity import DISTINCT, Similarity, fit_similarity_robust, fittable, weighted_spread

# How far each joint may speak for where and how large a person is: postures differ least at the trunk.
JOINT_TRUST = (
    0.6, 1.0,  # nose, neck
    1.0, 0.25, 0.1, 1.0, 0.25, 0.1,  # shoulders, elbows, wrists
    1.0, 0.5, 0.35, 1.0, 0.5, 0.35,  # hips, knees, ankles
    0.5, 0.5, 0.5, 0.5,  # eyes, ears
)  # fmt: skip

# Frames that decide place and size: a fifth to a third of a second.
WINDOW = 5

# A frame is fitted when it shows at least this share of the trust that the clip's best frame shows.
COVERAGE = 0.5

# Weight, against that of a frame's own fit, of the vote that no body is turned: it wins where the shared joints are
# few, close together or in other postures, which turn a fit more often than cameras are tilted.
UPRIGHT = 0.1


class Place(NamedTuple):
    """Where and how large a body is: the median of its seen joints, and their spread within a frame."""

    centre: Tensor  # [B, 2] px
    spread: Tensor  # [B] px

    def normalised(self, points: Tensor) -> Tensor:
        """points: [B, ..., 2] px -> the same in spreads from the centre."""
        lead = (-1, *(1 for _ in points.shape[1:-1]))
        return (points - self.centre.view(*lead, 2)) / self.spread.view(*lead, 1)

    def repeated(self, times: int) -> Place:
        """The place of B bodies for each of `times` frames, B · times."""
        return Place(*(part.repeat_interleave(times, 0) for part in self))


class Guidance(NamedTuple):
    """What closed-form fits say about B clips of F frames. All but the places is in normalised coordinates."""

    driving: Tensor  # [B, F, 18, 2]
    reference: Tensor  # [B, 18, 2]
    driving_place: Place
    reference_place: Place
    base: Similarity  # of B clips
    frames: Similarity  # of B · F frames, each by itself; the identity where fitted is False
    fitted: Tensor  # bool [B, F]
    residual: Tensor  # [B, F] root mean square distance that a frame's own fit leaves, 0 where fitted is False
    coverage: Tensor  # [B, F] 0..1, share of all joints' trust that is seen in both

    def rows(self, rows: slice | Tensor) -> Guidance:
        """What is said about some of the clips."""
        frames = (part.unflatten(0, self.fitted.shape)[rows].flatten(0, 1) for part in self.frames)
        return Guidance(
            driving=self.driving[rows],
            reference=self.reference[rows],
            driving_place=Place(*(part[rows] for part in self.driving_place)),
            reference_place=Place(*(part[rows] for part in self.reference_place)),
            base=Similarity(*(part[rows] for part in self.base)),
            frames=Similarity(*frames),
            fitted=self.fitted[rows],
            residual=self.residual[rows],
            coverage=self.coverage[rows],
        )

    def pixels(self, transform: Similarity) -> Similarity:
        """A transform of B clips from normalised to normalised coordinates, from pixels to pixels."""
        here, there = self.driving_place, self.reference_place
        scale = transform.scale * there.spread / here.spread
        shift = there.centre + there.spread[:, None] * transform.translation
        turned = (transform.rotation * here.centre[:, None]).sum(-1)
        return Similarity(scale, transform.rotation, shift - scale[:, None] * turned)


@torch.no_grad()
def guide(driving: Tensor, seen: Tensor, reference: Tensor, reference_seen: Tensor) -> Guidance:
    """Fits of B clips onto their references, whatever is seen; nothing raises, and no gradient passes.

    driving: [B, F, 18, 2] px, seen: bool [B, F, 18], reference: [B, 18, 2] px, reference_seen: bool [B, 18].
    The clip's transform takes the first frames' shared joints to the reference's. Its angle is the median over all
    frames, its size that over the first ones, and a frame weighs the more the closer its posture comes to the
    reference's. Clips that share one joint are matched by it and by their spreads, those that share none by centres
    and spreads. Shifting or scaling either picture changes nothing but the places.
    """
    batch, frames = seen.shape[:2]
    here, there = place_of(driving, seen), place_of(reference[:, None], reference_seen[:, None])
    source = here.normalised(driving.masked_fill(~seen[..., None], 0)).masked_fill(~seen[..., None], 0)
    target = there.normalised(reference).masked_fill(~reference_seen[..., None], 0)
    all_trust = source.new_tensor(JOINT_TRUST)
    trust = (seen & reference_seen[:, None]) * all_trust  # [B, F, 18]

    src, dst, weight = source.flatten(0, 1), target.repeat_interleave(frames, 0), trust.flatten(0, 1)  # [B · F, ...]
    possible = fittable(src, dst, weight)  # [B · F]
    anything = torch.arange(BODY_POINTS * 2, dtype=src.dtype, device=src.device).view(BODY_POINTS, 2)
    src, dst = (torch.where(possible[:, None, None], points, anything) for points in (src, dst))
    weight = torch.where(possible[:, None], weight, 1)
    fits, listened = fit_similarity_robust(src, dst, weight)
    distance2 = (fits.apply(src) - dst).square().sum(-1)
    residual = ((weight * distance2).sum(1) / weight.sum(1)).sqrt() * possible
    vote = _votes(src, dst, weight, listened)

    fitted, vote, residual = (part.view(batch, frames) for part in (possible, vote, residual))
    covered = trust.sum(-1)  # [B, F]
    good = fitted & (covered >= COVERAGE * (covered * fitted).amax(1, keepdim=True))
    first = _first(good)
    scale = _median(fits.scale.log().view(batch, frames), vote * first)
    angle = _median_angle(fits.angle.view(batch, frames), vote * good)
    heard = listened.view_as(trust) * first[..., None]
    heard = torch.where(good.any(1)[:, None, None], heard, trust * _first(covered > 0)[..., None])  # [B, F, 18]
    total = heard.sum((1, 2)).clamp_min(torch.finfo(heard.dtype).tiny)[:, None]
    anchors = [(heard[..., None] * points).sum((1, 2)) / total for points in (source, target[:, None])]  # [B, 2] each
    base = Similarity.through(scale.exp(), angle, *anchors)
    return Guidance(source, target, here, there, base, fits, fitted, residual, covered / all_trust.sum())


def place_of(points: Tensor, seen: Tensor) -> Place:
    """Place of the bodies of B clips. points: [B, F, 18, 2] px, seen: bool [B, F, 18].

    The spread is the median over frames of the root mean square distance of the seen joints from their mean; where no
    frame shows two joints, that of all seen joints together, and 1 px where these are all in one place.
    """
    hidden = ~seen[..., None]
    centre = points.masked_fill(hidden, math.nan).flatten(1, 2).nanmedian(1).values.nan_to_num(0.0)  # [B, 2]
    centred = (points - centre[:, None, None]).masked_fill(hidden, 0)
    weight = seen.to(points.dtype)
    flat = weighted_spread(centred.flatten(0, 1), weight.flatten(0, 1)).view(seen.shape[:2])  # [B, F], NaN of no joint
    size = centred.abs().flatten(1).amax(1)  # [B]
    spread = flat.masked_fill(~(flat > DISTINCT * size[:, None]), math.nan).nanmedian(1).values
    together = weighted_spread(centred.flatten(1, 2), weight.flatten(1))
    spread = torch.where(spread.isnan(), together, spread)
    return Place(centre, torch.where(spread > 0, spread, 1))


def compose(outer: Similarity, inner: Similarity) -> Similarity:
    """outer ∘ inner: first the inner transform, then the outer one."""
    moved = outer.apply(inner.translation[:, None]).squeeze(1)
    return Similarity(outer.scale * inner.scale, outer.rotation @ inner.rotation, moved)


def inverse(transform: Similarity) -> Similarity:
    """The transform that undoes this one."""
    scale, rotation = 1 / transform.scale, transform.rotation.mT
    return Similarity(scale, rotation, -scale[:, None] * (rotation @ transform.translation[..., None]).squeeze(-1))


def _votes(src: Tensor, dst: Tensor, weight: Tensor, listened: Tensor) -> Tensor:
    """How far each frame's fit may be believed, [N]: by likeness, number and distance of its joints.

    src, dst: [N, 18, 2], normalised. Two joints always agree, so that they are hardly heard.
    """
    unlike = 1 - listened.sum(1) / weight.sum(1)  # 0..1
    count = weight.sum(1).square() / weight.square().sum(1)  # joints, the distrusted ones counting less
    apart = torch.minimum(*(weighted_spread(points, weight) for points in (src, dst))).square()
    return weight.sum(1) * apart * (count - 2).clamp_min(0.02) * (0.02 / (0.02 + unlike)).square()


def _first(good: Tensor) -> Tensor:
    """The first WINDOW frames that are good: bool [B, F] -> bool [B, F]."""
    return good & (good.cumsum(1) <= WINDOW)


def _median(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted median. values, weight: [B, F] -> [B]."""
    ordered, order = values.sort(1)
    below = weight.gather(1, order).cumsum(1)
    middle = (below < below[:, -1:] / 2).sum(1, keepdim=True)
    return ordered.gather(1, middle).squeeze(1)


def _median_angle(angle: Tensor, weight: Tensor) -> Tensor:
    """Weighted median of angles in radians, taken around their mean direction, with a vote of UPRIGHT per voting frame
    for 0. angle, weight: [B, F] -> [B].
    """
    upright = UPRIGHT * (weight > 0).sum(1, keepdim=True).clamp_min(1)  # [B, 1]
    angle, weight = torch.cat([angle, torch.zeros_like(upright)], 1), torch.cat([weight, upright], 1)
    mean = torch.atan2((weight * angle.sin()).sum(1), (weight * angle.cos()).sum(1))  # [B]
    offset = torch.remainder(angle - mean[:, None] + math.pi, 2 * math.pi) - math.pi
    return mean + _median(offset, weight)
