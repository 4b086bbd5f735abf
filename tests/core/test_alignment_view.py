"""What the page draws: joints of every method, where they are and that they are seen, in plain numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stableanimator_core.alignment import METHODS, align
from stableanimator_core.alignment.nudge import pivot_of
from stableanimator_core.alignment.view import MOST_FRAMES, shown_frames, view_alignment
from stableanimator_core.keypoints import Poses
from stableanimator_core.skeleton import LIMBS
from stableanimator_core.weights import load_aligner


@pytest.fixture(scope="module")
def aligner():
    return load_aligner()


@pytest.fixture
def bodies(stick_figure):
    """Somebody who walks to the right, and the reference on another canvas."""
    return Poses.from_openpose(stick_figure(4, 256, 256, step=8)), Poses.from_openpose(stick_figure(1, 512, 384))


def view(bodies, aligner, method="svd", **given):
    aligned = align(*bodies, method, fit="clip")
    return view_alignment(aligned, *bodies, fit="clip", aligner=aligner, **given)


def test_joints_are_those_of_every_method(bodies, aligner):
    shown = view(bodies, aligner)
    assert list(shown["methods"]) == list(METHODS) and shown["method"] == "svd"
    for name, made in shown["methods"].items():
        truth = align(*bodies, name, aligner=aligner)
        np.testing.assert_allclose(np.reshape(made["joints"], (4, 18, 2)), truth.poses.body[:, 0], atol=0.051)
        np.testing.assert_allclose(made["pivot"], pivot_of(truth.poses), atol=0.051)
        assert made["residual"] == pytest.approx(truth.residual.mean(), abs=0.051)


def test_the_rest_is_what_is_needed_to_draw_them(bodies, aligner):
    driving, reference = bodies
    shown = view(bodies, aligner)
    assert (shown["width"], shown["height"], shown["total"], shown["frames"]) == (512, 384, 4, [0, 1, 2, 3])
    np.testing.assert_allclose(np.reshape(shown["reference"], (18, 2)), reference.body[0, 0], atol=0.051)
    filmed = driving.fitted(512, 384).body[:, 0]
    np.testing.assert_allclose(np.reshape(shown["driver"], (4, 18, 2)), filmed, atol=0.051)
    assert shown["limbs"] == [list(limb) for limb in LIMBS]
    assert set(shown["colours"]) == {"reference", "driver", "result", "worst"}
    assert len(json.dumps(shown)) < 12_000


def test_joints_that_are_not_seen_are_none(bodies, aligner):
    driving, reference = bodies
    score = driving.body_score.copy()
    score[1, 0, 7] = 0.1
    shown = view((replace(driving, body_score=score), reference), aligner)
    assert shown["driver"][1][14:16] == [None, None] == shown["methods"]["svd"]["joints"][1][14:16]
    assert None not in shown["driver"][0]


def test_a_method_that_cannot_be_had_says_why(bodies, aligner):
    driving, reference = bodies
    two = Poses.from_openpose([{**frame, "people": frame["people"] * 2} for frame in driving.to_openpose()])
    shown = view((two, reference), aligner)
    assert shown["methods"]["v1"]["error"].startswith("v1 alignment: none of 4 driving frames shows exactly one person")
    assert "joints" in shown["methods"]["learned"]


def test_nobody_is_shown_as_nothing(bodies, aligner):
    nobody = Poses.empty(4, 64, 64)
    shown = view_alignment(align(nobody, bodies[1], "none"), nobody, bodies[1], fit="clip", aligner=aligner)
    assert set(shown["driver"][0]) == {None} and shown["methods"]["none"]["residual"] is None
    assert "error" in shown["methods"]["svd"]


def test_long_clips_are_thinned_but_keep_their_ends_and_the_worst_frame():
    residual = np.ones(1000)
    residual[501] = 2
    frames = shown_frames(residual)
    assert len(frames) in (MOST_FRAMES, MOST_FRAMES + 1) and {0, 501, 999} < set(frames) and frames == sorted(frames)
    assert shown_frames(np.full(3, np.nan)) == [0, 1, 2]
