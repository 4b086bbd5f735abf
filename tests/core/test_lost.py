"""Joints that get lost: how many, and what goes with them."""

from __future__ import annotations

import numpy as np
import pytest

from stableanimator_core.performers import make_clip
from stableanimator_core.pose.lost import without_joints


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_face_goes_with_the_nose_and_a_hand_with_its_wrist(share):
    clip = make_clip(2, size=64, frames=40, family="wave")
    left = without_joints(clip.poses, share, seed=5)
    before, after = (poses.visible()[:, 0] for poses in (clip.poses, left))
    assert not (after & ~before).any()
    assert after.sum() / before.sum() == pytest.approx(1 - share, abs=0.01)
    for wrist, side in ((7, 0), (4, 1)):
        lost = before[:, wrist] & ~after[:, wrist]
        assert not left.hands_score[lost, 0, side].any()
        np.testing.assert_array_equal(left.hands_score[~lost, 0, side], clip.poses.hands_score[~lost, 0, side])
        assert lost.any() == (share > 0)
    lost = before[:, 0] & ~after[:, 0]
    assert not left.face_score[lost].any() and lost.any() == (share > 0)
    np.testing.assert_array_equal(left.face_score[~lost], clip.poses.face_score[~lost])
