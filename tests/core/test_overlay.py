"""Overlays: what is drawn where and in which colour, sizes, captions, the curve, and what happens without people."""

import dataclasses
import time

import numpy as np
import pytest

from stableanimator_core.alignment import align
from stableanimator_core.errors import PoseError
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose import overlay
from stableanimator_core.pose.overlay import (
    DIMMED,
    DRIVER,
    REFERENCE,
    RESULT,
    WORST,
    body_height,
    draw_alignment,
    draw_residual,
    draw_summary,
    residual_sentence,
    shape_note,
)


def has(picture, colour):
    """Where a colour is, bool [H, W]."""
    return (picture == colour).all(-1)


@pytest.fixture
def reference(stick_figure):
    return Poses.from_openpose(stick_figure(1, 512, 512))


@pytest.fixture
def driving(stick_figure):
    """On another canvas, walking to the right."""
    return Poses.from_openpose(stick_figure(4, 256, 256, step=8))


@pytest.fixture
def aligned(driving, reference):
    return align(driving, reference, "svd")


def drawn(aligned, driving, reference, **given):
    return draw_alignment(aligned.poses, driving, reference, aligned.residual, **given)


def test_three_skeletons_lie_where_their_joints_are(aligned, driving, reference):
    frames = drawn(aligned, driving, reference)
    assert frames.dtype == np.uint8 and frames.shape[0] == 4 and frames.shape[2] == 512 < frames.shape[1]
    ankle = 10
    x, y = reference.body[0, 0, ankle].round().astype(int)
    assert has(frames[3], REFERENCE)[y, x]
    x, y = aligned.poses.body[3, 0, ankle].round().astype(int)
    assert has(frames[3], RESULT)[y, x] and not has(frames[0], RESULT)[y, x]


def test_driver_is_drawn_as_it_was_filmed(reference, stick_figure):
    driving = Poses.from_openpose(stick_figure(1, 200, 400))
    low = driving.transformed(lambda points: 0.5 * points + (0, 200))
    frame = drawn(align(low, reference, "svd"), low, reference)[0]
    x, y = (low.body[0, 0, 10] * 1.28 + (128, 0)).round().astype(int)  # fitted: as high as the canvas, in its middle
    assert has(frame, DRIVER)[y, x]
    assert not has(frame[:200], DRIVER).any()


def test_all_lies_right_on_a_canvas_that_is_enlarged(driving, stick_figure):
    reference = Poses.from_openpose(stick_figure(1, 256, 128))
    aligned = align(driving, reference, "svd")
    frame = drawn(aligned, driving, reference)[3]
    for poses, index, colour in ((reference, 0, REFERENCE), (aligned.poses, 3, RESULT)):
        x, y = (2 * poses.body[index, 0, 10]).round().astype(int)
        assert has(frame, colour)[y, x]


def test_result_covers_the_driver_and_leaves_the_reference_to_be_seen(reference):
    same = align(reference, reference, "svd")
    frame = drawn(same, reference, reference)[0]
    assert has(frame, RESULT)[:512].any() and has(frame, REFERENCE)[:512].any()
    assert not has(frame[:512], DRIVER).any()


def test_joints_below_min_score_are_not_drawn(aligned, driving, reference):
    score = reference.body_score.copy()
    score[..., 10] = 0.4
    weak = dataclasses.replace(reference, body_score=score)
    x, y = reference.body[0, 0, 10].round().astype(int)
    seen = [has(drawn(aligned, driving, weak, min_score=least)[3], REFERENCE)[y, x] for least in (0.3, 0.5)]
    assert seen == [True, False]


def test_faces_and_hands_are_drawn(aligned, driving, reference):
    face, score = driving.face.copy(), driving.face_score.copy()
    hands, hands_score = driving.hands.copy(), driving.hands_score.copy()
    face[:, 0, 5], score[:, 0, 5] = (10, 10), 1
    hands[:, 0, 0, :2], hands_score[:, 0, 0, :2] = ((5, 60), (25, 60)), 1
    more = dataclasses.replace(driving, face=face, face_score=score, hands=hands, hands_score=hands_score)
    frame = drawn(aligned, more, reference)[0]
    assert has(frame, DRIVER)[20, 20] and has(frame, DRIVER)[120, 30]


def test_picture_lies_below_dimmed(aligned, driving, reference):
    picture = np.full((128, 128, 3), (200, 100, 40), np.uint8)
    frame = drawn(aligned, driving, reference, picture=picture)[0]
    np.testing.assert_array_equal(frame[5, 5], (np.array([200, 100, 40]) * DIMMED).astype(np.uint8))


@pytest.mark.parametrize(
    ("canvas", "longest", "size"),
    [((300, 200), 1024, (512, 341)), ((4000, 2000), 1024, (1024, 512)), ((700, 900), 1024, (700, 900)),
     ((4000, 2000), 768, (768, 384))],
)  # fmt: skip
def test_long_side_is_kept_within_bounds(driving, stick_figure, canvas, longest, size):
    reference = Poses.from_openpose(stick_figure(1, *canvas))
    aligned = align(driving, reference, "svd")
    picture = np.full((*canvas[::-1], 3), 255, np.uint8)
    frame = drawn(aligned, driving, reference, picture=picture, longest=longest, frames=[1])[0]
    assert frame.shape[1] == size[0]
    inside = (frame[:, 0] == int(255 * DIMMED)).all(-1).sum()  # rows that show the picture
    assert inside == size[1]


def test_only_the_wanted_frames_are_drawn(aligned, driving, reference):
    every = drawn(aligned, driving, reference)
    np.testing.assert_array_equal(drawn(aligned, driving, reference, frames=[2, 0]), every[[2, 0]])


def test_captions_tell_frame_distance_and_the_farthest():
    assert overlay._captions(np.array([1.0, np.nan, 30.25])) == [
        "frame 0: 1.0 px from the reference",
        "frame 1: no joint to compare",
        "frame 2: 30.2 px from the reference (farthest)",
    ]
    assert overlay._captions(np.array([2.0])) == ["frame 0: 2.0 px from the reference"]


def test_every_frame_has_its_own_caption(aligned, driving, reference):
    feet = drawn(aligned, driving, reference)[:, 512:]
    assert len({foot.tobytes() for foot in feet}) == 4


def test_text_fits_the_width(stick_figure, driving):
    reference = Poses.from_openpose(stick_figure(1, 200, 1000))
    frame = drawn(align(driving, reference, "svd"), driving, reference)[3]
    foot = frame[1000:]
    written = (foot > 200).all(-1)
    assert written.any() and not written[:, -4:].any() and not has(foot, RESULT)[:, -4:].any()


def test_counts_must_agree(aligned, driving, reference):
    message = "4 aligned frames, 4 driving frames and 3 residuals: give those of one alignment"
    with pytest.raises(PoseError, match=message):
        draw_alignment(aligned.poses, driving, reference, aligned.residual[:3])


def test_nobody_and_far_points_are_no_error(driving):
    empty = Poses.empty(1, 100, 100)
    aligned = align(driving, empty, "none")
    assert has(drawn(aligned, driving, empty), RESULT).any()
    assert draw_summary(aligned.poses, driving, empty, aligned.residual).any()
    far = driving.transformed(lambda points: points * 1e9)
    draw_alignment(far, far, empty, aligned.residual)


def test_body_height_is_the_longer_side_of_what_is_seen(stick_figure, reference):
    body = reference.body[0, 0]
    assert body_height(reference) == pytest.approx(np.ptp(body[:, 1]))
    score = reference.body_score.copy()
    score[..., [9, 10, 12, 13]] = 0
    assert body_height(dataclasses.replace(reference, body_score=score)) < 0.7 * body_height(reference)
    lying = reference.transformed(lambda points: points[..., ::-1])
    assert body_height(lying) == pytest.approx(body_height(reference))
    assert body_height(Poses.empty(1, 64, 64)) == body_height(Poses.empty(1, 64, 64, people=1)) == 0


def test_reference_is_the_frame_that_is_aligned_to(stick_figure, driving):
    late = Poses.from_openpose(stick_figure(3, 512, 512, step=40))
    score = late.body_score.copy()
    score[0] = 0
    late = dataclasses.replace(late, body_score=score)
    frame = drawn(align(driving, late, "svd"), driving, late)[3]
    x, y = late.body[1, 0, 10].round().astype(int)
    assert late.first_shown() == 1 and has(frame, REFERENCE)[y, x]


def test_a_picture_of_another_shape_is_noted(reference):
    assert shape_note(np.zeros((100, 101, 3), np.uint8), reference) == ()
    (note,) = shape_note(np.zeros((768, 512, 3), np.uint8), reference)
    assert note == ("the picture is 512x768, the reference pose's canvas 512x512: find the pose in this very picture")


def test_curve_follows_the_residual_and_marks_the_worst_frame():
    residual = np.concatenate([np.full(10, 5.0), [np.nan] * 3, np.full(10, 5.0), [50.0], np.full(9, 5.0)])
    picture = draw_residual(residual, marked=[0, 11])
    worst = np.argwhere(has(picture, WORST))
    assert len(worst)
    curve = has(picture, RESULT)
    column = np.flatnonzero(curve.any(0))
    share = (np.median(worst[:, 1]) - column.min()) / (column.max() - column.min())
    assert share == pytest.approx(23 / 32, abs=0.02)
    gap = slice(*(round(column.min() + at / 32 * np.ptp(column)) for at in (9.4, 12.6)))
    assert not curve[:, gap].any()


@pytest.mark.parametrize("residual", [[3.0], [0.0, 0.0], [np.nan, np.nan], [1e-3] * 5, [1e6] * 300])
def test_any_residual_gives_a_curve(residual):
    assert draw_residual(np.array(residual)).shape == (300, 960, 3)


def test_summary_shows_first_middle_and_worst_over_the_curve(stick_figure, reference):
    driving = Poses.from_openpose(stick_figure(9, 512, 512, step=10))
    aligned = align(driving, reference, "svd")
    assert int(np.argmax(aligned.residual)) == 8
    picture = draw_summary(aligned.poses, driving, reference, aligned.residual)
    cells = draw_alignment(aligned.poses, driving, reference, aligned.residual, frames=[0, 4, 8], longest=512)
    np.testing.assert_array_equal(picture[: cells.shape[1]], np.concatenate(cells, axis=1))
    assert has(picture[cells.shape[1] :], WORST).any()


@pytest.mark.slow
def test_200_large_frames_take_seconds(reference):
    many = Poses.empty(200, 1024, 1024, people=1)
    body, face = many.body.copy(), many.face.copy()
    body[:, 0], face[:, 0] = 2 * reference.body[0, 0], np.random.default_rng(0).uniform(300, 500, (68, 2))
    many = dataclasses.replace(
        many, body=body, body_score=np.ones_like(many.body_score), face=face, face_score=np.ones_like(many.face_score)
    )
    began = time.perf_counter()
    draw_alignment(many, many, many, np.ones(200))
    assert time.perf_counter() - began < 20


def test_residual_is_told_in_words():
    assert residual_sentence(np.array([1.0, 2.0, np.nan])) == (
        "joints are 1.5 px from the reference's on average, most in frame 1 (2.0 px): "
        "how unlike the postures are, not how good the fit is"
    )
    assert residual_sentence(np.array([1.0])) == (
        "joints are 1.0 px from the reference's on average: how unlike the postures are, not how good the fit is"
    )
    assert residual_sentence(np.full(2, np.nan)) == "no joint to compare with the reference's"
