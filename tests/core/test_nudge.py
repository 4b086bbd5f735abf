"""A nudge by hand moves everybody by one transform about the body's middle, and is measured."""

from dataclasses import replace

import numpy as np
import pytest

from stableanimator_core.alignment import align
from stableanimator_core.alignment.nudge import Nudge, nudge_unit, nudged, pivot_of
from stableanimator_core.errors import InputError
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.overlay import body_height


@pytest.fixture
def bodies(stick_figure):
    """Three frames of somebody who walks to the right, and the reference: the first of them, on 640 x 480 px."""
    walking = Poses.from_openpose(stick_figure(3, 640, 480, step=20))
    driving = replace(walking, face_score=walking.face_score + 1, hands_score=walking.hands_score + 1)
    return driving, driving.slice(0, 1)


@pytest.fixture
def aligned(bodies):
    return align(*bodies, "none")


def test_nothing_to_nudge_changes_nothing(aligned, bodies):
    assert nudged(aligned, bodies[1], Nudge()) is aligned


def test_moving_is_in_percent_of_the_references_body(aligned, bodies):
    moved = nudged(aligned, bodies[1], Nudge(x=10, y=-5))
    height = body_height(bodies[1])
    shift = np.array([0.1, -0.05]) * height
    for part in ("body", "face", "hands"):
        np.testing.assert_allclose(getattr(moved.poses, part), getattr(aligned.poses, part) + shift)
    assert moved.residual[0] == pytest.approx(np.hypot(*shift)), "frame 0 lay exactly over the reference"
    assert moved.notes[-1] == ("nudged by hand: +10 % to the right, -5 % down, 1 times as large, turned by 0 degrees")


def test_scaling_and_turning_leave_the_pivot_of_the_first_frame_where_it_is(aligned, bodies):
    pivot = pivot_of(aligned.poses)
    np.testing.assert_allclose(pivot, aligned.poses.body[0, 0, [1, 8, 11]].mean(0))
    moved = nudged(aligned, bodies[1], Nudge(scale=2, rotate=30)).poses
    np.testing.assert_allclose(pivot_of(moved), pivot)
    arms = [poses.body[0, 0, 4] - pivot for poses in (aligned.poses, moved)]
    assert np.linalg.norm(arms[1]) == pytest.approx(2 * np.linalg.norm(arms[0]))


def test_turning_is_clockwise_as_one_sees_it():
    right, down = np.array([[11.0, 10.0]]), [[10.0, 11.0]]
    np.testing.assert_allclose(Nudge(rotate=90).apply(right, np.array([10.0, 10.0]), 100), down, atol=1e-12)


def test_nudges_are_one_transform_for_the_clip(aligned, bodies):
    moved = nudged(aligned, bodies[1], Nudge(scale=0.5)).poses
    travel = [poses.body[2, 0, 1] - poses.body[0, 0, 1] for poses in (aligned.poses, moved)]
    np.testing.assert_allclose(travel[1], 0.5 * travel[0])
    assert travel[0].tolist() == [40, 0]


def test_pivot_without_a_trunk_is_the_mean_of_what_is_seen(aligned):
    score = np.zeros_like(aligned.poses.body_score)
    score[1, 0, [4, 7]] = 1
    poses = replace(aligned.poses, body_score=score)
    np.testing.assert_allclose(pivot_of(poses), poses.body[1, 0, [4, 7]].mean(0))


def test_nobody_has_a_pivot_and_a_unit():
    nobody = Poses.empty(2, 64, 48)
    assert pivot_of(nobody).tolist() == [32, 24] == pivot_of(Poses.empty(2, 64, 48, people=1)).tolist()
    assert nudge_unit(nobody) == 48


def test_the_expected_error_of_a_fit_is_not_that_of_a_nudged_one(aligned, bodies):
    assert nudged(replace(aligned, expected_error=0.02), bodies[1], Nudge(x=1)).expected_error is None


def test_a_scale_of_nothing_is_refused(aligned, bodies):
    with pytest.raises(InputError, match="nudge_scale 0: nothing would be left; take more than 0, 1 changes nothing"):
        nudged(aligned, bodies[1], Nudge(scale=0))
