"""Joints as detectors lose them: one by one, whole limbs, the whole person for a while."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws
from ..keypoints import Poses
from ..skeleton import HEAD, MIRROR

# What detectors lose as one.
LIMBS = ((2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13), HEAD, (1, 2, 5, 8, 11))
_LIMB = tuple(next(number for number, limb in enumerate(LIMBS) if joint in limb) for joint in range(len(MIRROR)))
NOSE, WRISTS = 0, (7, 4)  # hand 0 is the left one


def without_joints(poses: Poses, share: float, *, seed: int) -> Poses:
    """Person 0 without this share of the body joints that are seen, nor the face and hands that go with them."""
    seen = torch.from_numpy(poses.visible()[:, 0])[None]  # [1, F, 18]
    draws = Draws(torch.Generator().manual_seed(seed), "cpu")
    left = lose_joints(seen, torch.tensor([share]), torch.zeros_like(seen), draws)[0].numpy()  # [F, 18]
    hands = left[:, WRISTS, None]  # [F, 2, 1]
    return replace(
        poses,
        body_score=np.where(left[:, None], poses.body_score, 0),
        face_score=np.where(left[:, None, [NOSE]], poses.face_score, 0),
        hands_score=np.where(hands[:, None], poses.hands_score, 0),
    )


def lose_joints(inside: Tensor, share: Tensor, kept: Tensor, draws: Draws) -> Tensor:
    """What remains seen, bool [B, F, 18], of the joints `inside` after losing `share` [B] of them, never those `kept`.

    Joints are lost one by one, whole limbs and the whole person for a while, mixed anew for each clip.
    """
    batch, frames, joints = inside.shape
    single = draws.uniform((batch, frames, joints))
    limb = _spells(batch, frames, len(LIMBS), draws)[..., _LIMB]
    person = _spells(batch, frames, 1, draws)
    mix = (2 * draws.normal((batch, 3)) + torch.tensor([1.0, 1.0, -1.0], device=draws.device)).softmax(1)
    weak = sum(mix[:, part, None, None] * field for part, field in enumerate((single, limb, person)))
    weak = weak + 1e-3 * single
    order = weak.masked_fill(kept, 2.0).masked_fill(~inside, 3.0).flatten(1).argsort(1).argsort(1)  # ranks
    there = inside.flatten(1).sum(1)
    wanted = (share * there + draws.uniform(share.shape)).floor().long()  # the share on average, however few there are
    count = torch.minimum(wanted, there - (kept & inside).flatten(1).sum(1))
    return inside & (order.view_as(inside) >= count[:, None, None])


def _spells(batch: int, frames: int, parts: int, draws: Draws) -> Tensor:
    """Random numbers 0..1 that hold for spells of a few frames to the whole clip, [B, F, parts]."""
    length = draws.log_uniform((batch, 1, parts), 2.0, 2.0 * max(frames, 2))
    time = torch.arange(frames, device=draws.device).view(1, frames, 1)
    spell = (time / length + draws.uniform(length.shape)).long()  # [B, F, parts]
    return draws.uniform((batch, frames // 2 + 2, parts)).gather(1, spell)
