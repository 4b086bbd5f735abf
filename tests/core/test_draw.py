"""Drawing by the description: what is drawn, in which colour and order, and what is left out."""

import dataclasses

import numpy as np
import pytest

from stableanimator_core.errors import PoseError
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose import draw_poses
from stableanimator_core.skeleton import COLOURS

SIDE = 64


def with_body(points, frames=1, people=1):
    """Body joints {index: (x, y, score)} for everybody, on a canvas that is drawn pixel by pixel."""
    poses = Poses.empty(frames, SIDE, SIDE, people=people)
    body, score = poses.body.copy(), poses.body_score.copy()
    for joint, (x, y, s) in points.items():
        body[:, :, joint], score[:, :, joint] = (x, y), s
    return dataclasses.replace(poses, body=body, body_score=score)


def with_hand(points, hand=0):
    poses = Poses.empty(1, SIDE, SIDE, people=1)
    hands, score = poses.hands.copy(), poses.hands_score.copy()
    for joint, (x, y, s) in points.items():
        hands[0, 0, hand, joint], score[0, 0, hand, joint] = (x, y), s
    return dataclasses.replace(poses, hands=hands, hands_score=score)


def draw(poses):
    """On a canvas of the picture's own size, so that no resize blurs what is looked at."""
    return draw_poses(poses, SIDE, SIDE, canvas_short_side=SIDE)[0]


def colours(picture):
    """The set of colours but black."""
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} - {(0, 0, 0)}


def test_joint_is_a_disc_of_radius_four_dimmed_by_its_score():
    picture = draw(with_body({9: (32, 20, 0.5)}))
    assert colours(picture) == {tuple(int(channel * 0.5) for channel in COLOURS[9])}
    ys, xs = np.nonzero(picture.any(-1))
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (16, 24, 28, 36)


def test_rgb_order_first_limb_is_dark_red():
    picture = draw(with_body({1: (10, 32, 1), 2: (50, 32, 1)}))
    assert picture[32, 30].tolist() == [153, 0, 0]
    assert picture[32, 10].tolist() == [255, 85, 0]  # the neck's disc lies on top


def test_limb_is_dimmed_by_both_scores_and_joints_are_not():
    picture = draw(with_body({1: (10, 32, 0.8), 2: (50, 32, 0.5)}))
    assert picture[32, 30].tolist() == [int(int(255 * 0.8 * 0.5) * 0.6), 0, 0]
    assert picture[32, 50].tolist() == [int(255 * 0.5), int(170 * 0.5), 0]


def test_limb_is_nine_pixels_wide_along_its_joints():
    picture = draw(with_body({1: (12, 10, 1), 2: (12, 54, 1)}))
    xs = np.flatnonzero(picture[32].any(-1))
    assert (xs.min(), xs.max()) == (8, 16)


def test_later_limbs_cover_earlier_ones():
    joints = {1: (8, 32, 1), 2: (56, 32, 1), 5: (56, 32, 1)}  # neck to both shoulders, on top of each other
    assert draw(with_body(joints))[32, 32].tolist() == [153, 51, 0]


@pytest.mark.parametrize("score", [0.0, 0.3])
@pytest.mark.parametrize(("weak", "strong"), [(1, 2), (2, 1)])
def test_joint_up_to_the_threshold_is_absent_with_its_limbs(score, weak, strong):
    picture = draw(with_body({strong: (10, 32, 1), weak: (50, 32, score)}))
    assert colours(picture) == {COLOURS[strong]}


def test_scores_above_one_do_not_overflow():
    picture = draw(with_body({1: (10, 32, 3.0), 2: (50, 32, 3.0)}))
    assert colours(picture) == {(153, 0, 0), COLOURS[1], COLOURS[2]}


def test_hand_bones_lie_under_blue_dots():
    picture = draw(with_hand({0: (10, 32, 1), 1: (50, 32, 0.5)}))
    assert picture[32, 30].tolist() == [127, 0, 0]  # first bone: hue 0, both scores
    assert picture[32, 10].tolist() == [0, 0, 255]
    assert picture[32, 50].tolist() == [0, 0, 127]


@pytest.mark.parametrize("hand", [0, 1])
def test_weak_hands_are_drawn_and_missing_ones_are_not(hand):
    assert colours(draw(with_hand({3: (30, 30, 0.1)}, hand))) == {(0, 0, 25)}
    poses = with_body({1: (30, 30, 1)})
    shifted = dataclasses.replace(poses, hands=poses.hands + 30)  # coordinates without a score mean nothing
    np.testing.assert_array_equal(draw(shifted), draw(poses))


@pytest.mark.parametrize("x", [0.5, -3.0])
def test_hand_points_on_the_first_column_or_outside_are_skipped(x):
    assert not draw(with_hand({0: (x, 32, 1), 1: (20, 32, 1)}))[32, :15].any()


def test_face_points_are_grey_discs_of_radius_three():
    poses = Poses.empty(1, SIDE, SIDE, people=1)
    face, score = poses.face.copy(), poses.face_score.copy()
    face[0, 0, 67], score[0, 0, 67] = (20, 30), 0.4
    picture = draw(dataclasses.replace(poses, face=face, face_score=score))
    assert colours(picture) == {(102, 102, 102)}
    ys, xs = np.nonzero(picture.any(-1))
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (27, 33, 17, 23)


def test_everybody_is_drawn_on_one_canvas():
    poses = with_body({0: (16, 16, 1)}, people=2)
    body = poses.body.copy()
    body[0, 1, 0] = (48, 48)
    picture = draw(dataclasses.replace(poses, body=body))
    assert picture[16, 16].any() and picture[48, 48].any()


def test_frames_do_not_leak_into_each_other():
    poses = with_body({0: (16, 16, 1)}, frames=3)
    score = poses.body_score.copy()
    score[1] = 0
    pictures = draw_poses(dataclasses.replace(poses, body_score=score), SIDE, SIDE, canvas_short_side=SIDE)
    assert pictures.shape == (3, SIDE, SIDE, 3) and pictures.dtype == np.uint8
    assert pictures[0].any() and not pictures[1].any()
    np.testing.assert_array_equal(pictures[0], pictures[2])


def test_size_is_width_by_height_and_a_smaller_canvas_draws_thicker():
    poses = with_body({1: (12, 32, 1), 2: (52, 32, 1)})
    assert draw_poses(poses, 48, 96).shape == (1, 96, 48, 3)
    thin, thick = (draw_poses(poses, SIDE, SIDE, canvas_short_side=side)[0].any(-1).sum() for side in (1024, 256))
    assert 3 * thin < thick


def test_points_far_outside_and_nobody_are_no_error():
    assert not draw(Poses.empty(1, SIDE, SIDE)).any()
    picture = draw(with_body({1: (1e15, -1e12, 1), 2: (1e15, 1e15, 1), 0: (32, 32, 1)}))
    assert picture[32, 32].tolist() == [255, 0, 0]


def test_sizes_must_be_positive():
    with pytest.raises(PoseError, match="cannot draw 0 x 8 px on a canvas of short side 2160; all must be at least 1"):
        draw_poses(Poses.empty(1, SIDE, SIDE), 0, 8)
