"""A known similarity is recovered, through noise, missing joints and outliers; the driver's own travel survives."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from stableanimator_core.alignment import (
    FITS,
    METHODS,
    SIMILARITIES,
    Similarity,
    align,
    fit_similarity,
    fit_similarity_robust,
)
from stableanimator_core.alignment.fits import CAMERA_SHARE, SMOOTH, WINDOW, smoothed
from stableanimator_core.errors import InputError, PoseError
from stableanimator_core.keypoints import Poses

# Somebody standing, 1 high, by OpenPose-18 joint; y down.
STANDING = np.array(
    [
        (0.00, 0.08), (0.00, 0.18), (-0.11, 0.18), (-0.14, 0.34), (-0.15, 0.48), (0.11, 0.18), (0.14, 0.34),
        (0.15, 0.48), (-0.06, 0.50), (-0.07, 0.73), (-0.07, 0.95), (0.06, 0.50), (0.07, 0.73), (0.07, 0.95),
        (-0.02, 0.06), (0.02, 0.06), (-0.045, 0.07), (0.045, 0.07),
    ]
)  # fmt: skip


def random_similarity(frames, rng):
    scale = torch.from_numpy(np.exp(rng.uniform(-1, 1, frames)))
    angle = torch.from_numpy(rng.uniform(-math.pi, math.pi, frames))
    shift = torch.from_numpy(rng.uniform(-300, 300, (frames, 2)))
    return Similarity.through(scale, angle, torch.zeros(frames, 2, dtype=torch.float64), shift)


def assert_similar(found, expected, scale=1e-9, angle=1e-9, shift=1e-6):
    np.testing.assert_allclose(found.scale / expected.scale, 1, atol=scale)
    turn = torch.remainder(found.angle - expected.angle + math.pi, 2 * math.pi) - math.pi
    np.testing.assert_allclose(turn, 0, atol=angle)
    np.testing.assert_allclose(found.translation, expected.translation, atol=shift)


def person(body, score=None, width=512, height=512):
    """Poses of one person with body [F, 18, 2] or [18, 2] px."""
    body = body.reshape(-1, 18, 2)
    poses = Poses.empty(len(body), width, height, people=1)
    score = np.ones(body.shape[:2]) if score is None else score
    return dataclasses.replace(poses, body=body[:, None], body_score=score[:, None])


def placed(size=300.0, x=200.0, y=100.0, degrees=0.0):
    """STANDING of a size in px, neck-to-toe axis turned about the given place."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return size * STANDING @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


# --- fit_similarity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [2, 3, 18, 100])
def test_known_similarity_is_recovered(points):
    rng = np.random.default_rng(points)
    src = torch.from_numpy(rng.uniform(0, 500, (7, points, 2)))
    truth = random_similarity(7, rng)
    weight = torch.from_numpy(rng.uniform(0.1, 1, (7, points)))
    assert_similar(fit_similarity(src, truth.apply(src), weight), truth)


def test_similarity_apply_is_scale_rotation_translation():
    quarter = Similarity.through(
        torch.tensor([2.0]), torch.tensor([math.pi / 2]), torch.tensor([[1.0, 1.0]]), torch.tensor([[5.0, 7.0]])
    )
    moved = quarter.apply(torch.tensor([[[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]]]))
    torch.testing.assert_close(moved, torch.tensor([[[5.0, 7.0], [5.0, 9.0], [3.0, 7.0]]]))
    torch.testing.assert_close(quarter.angle, torch.tensor([math.pi / 2]))


def test_least_squares_equals_umeyama_by_decomposition():
    rng = np.random.default_rng(3)
    src, dst = torch.from_numpy(rng.normal(size=(50, 9, 2))), torch.from_numpy(rng.normal(size=(50, 9, 2)))
    weight = torch.from_numpy(rng.uniform(0.1, 1, (50, 9)))
    share = (weight / weight.sum(1, keepdim=True))[..., None]
    a, b = src - (share * src).sum(1, keepdim=True), dst - (share * dst).sum(1, keepdim=True)
    u, s, vt = torch.linalg.svd(b.mT @ (share * a))
    flip = torch.stack([torch.ones(50, dtype=torch.float64), torch.det(u @ vt).sign()], -1)
    assert (flip < 0).any()  # some of these would be reflections
    found = fit_similarity(src, dst, weight)
    torch.testing.assert_close(found.rotation, u @ torch.diag_embed(flip) @ vt)
    torch.testing.assert_close(found.scale, (s * flip).sum(-1) / (share * a.square()).sum((1, 2)))


def test_mirrored_points_are_not_reflected():
    src = torch.from_numpy(placed())[None]
    found = fit_similarity(src, src * torch.tensor([-1.0, 1.0]), torch.ones(1, 18))
    torch.testing.assert_close(torch.det(found.rotation), torch.ones(1, dtype=torch.float64))


def test_joints_of_weight_zero_do_not_count():
    rng = np.random.default_rng(5)
    src = torch.from_numpy(rng.uniform(0, 500, (4, 18, 2)))
    truth = random_similarity(4, rng)
    dst, weight = truth.apply(src), torch.ones(4, 18)
    dst[:, 6:] += 1000 * torch.from_numpy(rng.normal(size=(4, 12, 2)))
    weight[:, 6:] = 0
    assert_similar(fit_similarity(src, dst, weight), truth)


def test_fit_has_gradients():
    src = torch.from_numpy(placed())[None].requires_grad_()
    fit = fit_similarity(src, torch.from_numpy(placed(degrees=0.0))[None], torch.ones(1, 18))
    (fit.scale.sum() + fit.angle.sum() + fit.translation.sum()).backward()
    assert torch.isfinite(src.grad).all() and src.grad.abs().sum() > 0


@pytest.mark.parametrize("which", ["weight", "src", "dst"])
def test_fewer_than_two_distinct_joints_name_the_frame(which):
    src = torch.from_numpy(placed()).repeat(3, 1, 1)
    dst, weight = src.clone(), torch.ones(3, 18)
    if which == "weight":
        weight[1, 1:] = 0
        count = 1
    else:
        (src if which == "src" else dst)[1] = torch.tensor([250.0, 130.0])
        count = 18
    message = f"frame 1: {count} of 18 joints shared by both poses, need 2 at distinct places; lower min_score or trim"
    with pytest.raises(PoseError, match=message):
        fit_similarity(src, dst, weight)


def test_shapes_are_checked():
    with pytest.raises(PoseError, match=re.escape("src [1, 18, 2], dst [1, 17, 2], weight [1, 18]; expected")):
        fit_similarity(torch.ones(1, 18, 2), torch.ones(1, 17, 2), torch.ones(1, 18))


def test_robust_fit_leaves_outliers_out():
    rng = np.random.default_rng(7)
    src = torch.from_numpy(placed()).repeat(20, 1, 1) + torch.from_numpy(rng.normal(0, 1, (20, 18, 2)))
    truth = random_similarity(20, rng)
    dst = truth.apply(src)
    outliers = [4, 7, 10]
    dst[:, outliers] += 600 * truth.scale[:, None, None]
    plain = fit_similarity(src, dst, torch.ones(20, 18))
    robust, listened = fit_similarity_robust(src, dst, torch.ones(20, 18))
    assert (plain.scale / truth.scale - 1).abs().median() > 0.5
    assert_similar(robust, truth, scale=0.03, angle=0.03, shift=40)
    assert listened[:, outliers].max() < 0.05 and listened[:, [1, 2, 5, 8, 11]].min() > 0.5


def test_robust_fit_of_an_exact_similarity_is_exact():
    rng = np.random.default_rng(8)
    src = torch.from_numpy(rng.uniform(0, 500, (5, 18, 2)))
    truth = random_similarity(5, rng)
    assert_similar(fit_similarity_robust(src, truth.apply(src), torch.ones(5, 18))[0], truth)


# --- align ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 7, 40, 100])
@pytest.mark.parametrize("fit", FITS)
def test_still_person_lands_on_the_reference(frames, fit):
    reference = placed(size=400, x=150, y=60)
    driving = person(np.repeat(placed(size=220, x=500, y=200, degrees=12)[None], frames, 0), width=1280, height=720)
    found = align(driving, person(reference, width=320, height=640), fit=fit)
    assert (found.poses.width, found.poses.height, found.method) == (320, 640, "svd")
    np.testing.assert_allclose(found.poses.body[:, 0], np.repeat(reference[None], frames, 0), atol=1e-6)
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)
    assert found.transform.scale.shape == (frames,) and found.transform.rotation.shape == (frames, 2, 2)
    np.testing.assert_allclose(found.transform.scale, 400 / 220)
    np.testing.assert_allclose(torch.rad2deg(found.transform.angle), -12)


@pytest.mark.parametrize("seed", range(5))
def test_noise_missing_joints_and_outliers(seed):
    rng = np.random.default_rng(seed)
    reference = placed(size=400, x=200, y=60)
    body = np.repeat(placed(size=200, x=500, y=200)[None], 20, 0) + rng.normal(0, 2, (20, 18, 2))
    wild = rng.random((20, 18)) < 0.1
    body[wild] += rng.normal(0, 150, (wild.sum(), 2))
    score = np.where(rng.random((20, 18)) < 0.3, 0.1, 0.9)
    found = align(person(body, score), person(reference))
    assert abs(float(found.transform.scale[0]) / 2 - 1) < 0.05
    assert abs(math.degrees(found.transform.angle[0])) < 5
    clean = found.transform.apply(torch.from_numpy(placed(size=200, x=500, y=200)).repeat(20, 1, 1)).numpy()
    assert np.linalg.norm(clean - reference, axis=-1).mean() < 15


def test_own_travel_survives_scaled_and_a_fit_per_frame_pins_the_person():
    walk = placed(size=200, x=100, y=100)[None] + np.arange(30)[:, None, None] * (8, 0)
    reference = person(placed(size=400, x=250, y=60))
    moved = align(person(walk), reference).poses.body[:, 0]
    np.testing.assert_allclose(moved[29] - moved[0], np.full((18, 2), (29 * 8 * 2, 0)), atol=1e-6)
    assert np.abs(moved[:5].mean(0) - placed(size=400, x=250, y=60)).max() < 1e-6  # the clip's beginning counts
    pinned = align(person(walk), reference, fit="frames").poses.body[:, 0]
    np.testing.assert_allclose(pinned, np.repeat(reference.body[0], 30, 0), atol=1e-6)


def filmed(path, zoom=None, size=200.0):
    """A person whose place [F, 2] in px and size, as a factor [F], a camera changes."""
    zoom = np.ones(len(path)) if zoom is None else zoom
    return zoom[:, None, None] * placed(size=size, x=0, y=0) + np.asarray(path)[:, None] + 300


def test_smooth_follows_its_share_of_a_slow_pan_and_leaves_quick_motion():
    time = np.arange(60)
    pan = np.stack([5.0 * time, 0 * time], -1)
    hop = np.stack([0 * time, -30.0 * (time == 30)], -1)
    moved = align(person(filmed(pan + hop)), person(placed(size=400)), fit="smooth").poses.body[:, 0].mean(1)
    left = 2 * 5 * (1 - CAMERA_SHARE)  # px a frame, in a picture of twice the size
    np.testing.assert_allclose(np.diff(moved[:28, 0]), left, atol=1e-6)
    np.testing.assert_allclose(moved[30, 1] - moved[[29, 31], 1].mean(), -60, atol=1)


def test_smooth_follows_its_share_of_a_zoom():
    zoom = np.exp(np.linspace(0, 0.6, 50))
    found = align(person(filmed(np.zeros((50, 2)), zoom)), person(placed(size=400)), fit="smooth").transform
    growth = np.log(found.scale.numpy() / found.scale.numpy()[0])
    np.testing.assert_allclose(growth, -CAMERA_SHARE * np.linspace(0, 0.6, 50), atol=1e-6)
    assert found.angle.abs().max() < 1e-9


def test_smooth_begins_where_the_clip_does_and_knows_no_lean():
    lean = np.stack([placed(size=200, degrees=degrees) for degrees in np.linspace(-10, 10, 40)])
    clip, smooth = (align(person(lean), person(placed(size=400)), fit=fit).transform for fit in ("clip", "smooth"))
    np.testing.assert_allclose(smooth.angle, clip.angle, atol=1e-9)
    middle = torch.from_numpy(lean).mean(1, keepdim=True)
    np.testing.assert_allclose(smooth.apply(middle)[:WINDOW].mean(0), clip.apply(middle)[:WINDOW].mean(0), atol=2)


def test_smooth_begins_where_the_clip_does_although_a_pan_follows_at_once():
    path = np.stack([200.0 * (np.arange(40) >= 6), np.zeros(40)], -1)
    clip, smooth = (align(person(filmed(path)), person(placed(size=400)), fit=fit) for fit in ("clip", "smooth"))
    begins = [found.poses.body[:WINDOW, 0].mean(0) for found in (clip, smooth)]
    np.testing.assert_allclose(*begins, atol=1e-3)
    assert np.abs(clip.poses.body[-1] - smooth.poses.body[-1]).max() > 50


def test_smooth_bridges_gaps():
    path = np.stack([4.0 * np.arange(80), np.zeros(80)], -1)
    score = np.ones((80, 18))
    score[20:60] = 0
    found, whole = (
        align(person(filmed(path), given), person(placed(size=400)), fit="smooth").transform for given in (score, None)
    )
    np.testing.assert_allclose(found.translation, whole.translation, atol=2)


@pytest.mark.parametrize("frames", [1, WINDOW - 1])
def test_smooth_leaves_clips_that_are_too_short_as_they_are(frames):
    body = filmed(20.0 * np.arange(frames)[:, None] * (1, 0))
    clip, smooth = (align(person(body), person(placed(size=400)), fit=fit) for fit in ("clip", "smooth"))
    np.testing.assert_array_equal(smooth.poses.body, clip.poses.body)


def test_a_line_stays_a_line_when_smoothed_and_noise_goes():
    time = torch.arange(40, dtype=torch.float64)
    where = torch.cat([torch.arange(12), torch.arange(20, 40)])
    line = torch.stack([3 * time - 7, 5 - time], 1)
    np.testing.assert_allclose(smoothed(line[where], where, torch.ones(32).double(), 40), line, atol=1e-3)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 1)))
    calm = smoothed(noise, torch.arange(400), torch.ones(400).double(), 400)
    assert calm.std() < 1.3 / math.sqrt(2 * math.sqrt(math.pi) * SMOOTH)
    heard = torch.ones(40).double()
    line[17] += 500
    heard[17] = 1e-6
    np.testing.assert_allclose(smoothed(line, torch.arange(40), heard, 40)[10], (23, -5), atol=0.01)


@pytest.mark.parametrize("fit", ["frames", "smooth"])
@pytest.mark.parametrize("wrong", [dict(size=800.0), dict(degrees=80.0), dict(size=50.0)])
def test_frames_with_an_implausible_fit_of_their_own_are_left_out(fit, wrong):
    body = np.repeat(placed(size=200)[None], 30, 0)
    expected = align(person(body), person(placed(size=400)), fit=fit).transform
    body[[12, 13, 20]] = placed(**dict(size=200.0) | wrong)
    found = align(person(body), person(placed(size=400)), fit=fit)
    assert "3 of 30 frames have no plausible fit of their own: left out" in found.notes
    assert_similar(found.transform, expected, scale=1e-6, angle=1e-6, shift=1e-3)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("method", ["affine", "homography", "v1", "none", "svd"])
def test_everybody_goes_where_the_first_person_does(method, fit):
    """Person 1, whom no fit may heed, has the first person's joints in another order: they must end up together."""
    rng = np.random.default_rng(4)
    body = filmed(np.cumsum(rng.normal(0, 6, (20, 2)), 0)) + rng.normal(0, 3, (20, 18, 2))
    order = rng.permutation(18)
    weak = np.repeat((np.arange(20)[:, None] >= 5) * 0.1, 18, 1)  # v1 needs frames of one person
    poses = alone((body, np.ones((20, 18))), (body[:, order], weak))
    poses.face[5:, 1, :18], poses.face_score[5:, 1, :18] = body[5:, order], 1
    squeezed = placed(size=400) * (1.1, 1)
    moved = align(poses, person(squeezed, width=700, height=900), method, fit=fit).poses
    assert np.abs(moved.body[:, 0] - body).max() > 20
    np.testing.assert_allclose(moved.body[5:, 1], moved.body[5:, 0, order], atol=1e-6)
    np.testing.assert_allclose(moved.face[5:, 1, :18], moved.body[5:, 0, order], atol=1e-6)


@pytest.mark.parametrize("method", ["affine", "homography"])
def test_a_squeezed_driver_is_stretched_again(method):
    wide = filmed(4.0 * np.arange(12)[:, None] * (1, 0)) * (0.85, 1)
    found = align(person(wide), person(placed(size=400, x=150, y=40)), method)
    moved = found.poses.body[:, 0]
    np.testing.assert_allclose(moved - moved[:, 1:2], np.repeat(placed(400)[None] - placed(400)[1], 12, 0), atol=4)
    left = align(person(wide), person(placed(size=400, x=150, y=40))).poses.body[:, 0]
    assert np.abs((left - left[:, 1:2]) - (placed(400) - placed(400)[1])).max() > 8
    np.testing.assert_allclose(moved[:5].mean((0, 1)), placed(size=400, x=150, y=40).mean(0), atol=4)
    np.testing.assert_allclose(np.diff(moved[:, 1, 0]), 8, atol=0.3)  # travel, in the reference's size
    told = ("perspective is read off the driver's bones, as of adults of usual proportions",)
    assert found.method == method and found.notes == (told if method == "homography" else ())
    assert len(found.transform.kind) == 12
    divisor = found.transform.matrix[..., 2, :] if method == "homography" else None
    if divisor is not None:  # sizes are bounded about the body's middle, wherever on the canvas that is
        middle = np.append(np.median(wide.reshape(-1, 2), axis=0), 1)
        np.testing.assert_allclose(divisor.numpy() @ middle, 1, atol=0.02)


@pytest.mark.parametrize("method", ["affine", "homography"])
def test_other_postures_stretch_nothing_and_are_told(method):
    sitting = placed(size=400)
    sitting[[9, 10, 12, 13]] = sitting[[8, 8, 11, 11]] + [(-90, 10), (-90, 90), (90, 10), (90, 90)]
    sitting[[3, 4, 6, 7]] -= (0, 140)
    found = align(person(filmed(np.zeros((8, 2)))), person(sitting), method)
    told = f"no frame has the reference's posture and shape: {method} compares nothing with it"
    assert told in found.notes
    found_size = np.linalg.norm(found.poses.body[0, 0, 1] - found.poses.body[0, 0, [8, 11]].mean(0))
    wanted = np.linalg.norm(sitting[1] - sitting[[8, 11]].mean(0))
    assert found_size == pytest.approx(wanted, rel=0.12), "bones tell the size, not the crouching body's extent"
    if method == "affine":
        linear = found.transform.matrix[0]
        np.testing.assert_allclose(linear.mT @ linear / linear.det(), np.eye(2), atol=1e-9)


def test_raised_arms_do_not_change_the_size_or_tilt_the_clip():
    body = placed(size=200, x=300, y=200)
    body[[3, 4, 6, 7]] = body[[2, 2, 5, 5]] + [(-15, -30), (-10, -65), (60, -5), (90, 5)]
    found = align(person(np.repeat(body[None], 10, 0)), person(placed(size=400)))
    assert abs(float(found.transform.scale[0]) / 2 - 1) < 0.03
    assert abs(math.degrees(found.transform.angle[0])) < 2


def test_somebody_sitting_with_arms_up_keeps_nearly_the_size_of_the_trunk():
    body = placed(size=200, x=300, y=200)
    body[[9, 10, 12, 13]] = body[[8, 8, 11, 11]] + [(0, 10), (0, 40), (0, 10), (0, 40)]
    body[[3, 4, 6, 7]] = body[[2, 2, 5, 5]] + [(-15, -30), (-10, -65), (15, -30), (10, -65)]
    found = align(person(np.repeat(body[None], 10, 0)), person(placed(size=400)))
    assert 1.9 < float(found.transform.scale[0]) < 2.2


@pytest.mark.parametrize(("leaning", "standing"), [(10, 30), (30, 15)])
def test_a_lean_at_the_start_does_not_tilt_the_whole_clip(leaning, standing):
    lean, upright = placed(size=200, degrees=25), placed(size=200)
    bent = np.concatenate([lean[:8], upright[8:14], lean[14:]])  # trunk and head lean, legs stand
    body = np.concatenate([np.repeat(bent[None], leaning, 0), np.repeat(upright[None], standing, 0)])
    found = align(person(body), person(placed(size=400)))
    assert abs(math.degrees(found.transform.angle[0])) < 3


def test_everybody_and_every_part_take_the_first_persons_transform():
    rng = np.random.default_rng(2)
    first = person(np.repeat(placed(size=200, x=100, y=50)[None], 6, 0))
    poses = Poses(
        body=np.concatenate([first.body, first.body * 0.5 + 40], 1),
        body_score=np.ones((6, 2, 18)),
        face=rng.uniform(0, 500, (6, 2, 68, 2)),
        face_score=np.ones((6, 2, 68)),
        hands=rng.uniform(0, 500, (6, 2, 2, 21, 2)),
        hands_score=np.ones((6, 2, 2, 21)),
        width=512,
        height=512,
    )
    moved = align(poses, person(placed(size=400, x=300, y=50))).poses
    for name in ("body", "face", "hands"):
        expected = (getattr(poses, name) - (100, 50)) * 2 + (300, 50)
        np.testing.assert_allclose(getattr(moved, name), expected, atol=1e-6)


def test_frames_without_enough_joints_take_the_nearest_fit():
    walk = placed(size=200, x=100, y=100)[None] + np.arange(12)[:, None, None] * (8, 0)
    score = np.ones((12, 18))
    score[4:6, 1:] = 0
    found = align(person(walk, score), person(placed(size=400)), fit="frames")
    np.testing.assert_array_equal(found.transform.translation[[4, 5]], found.transform.translation[[3, 6]])
    assert found.notes == ("2 of 12 frames share too few joints with the reference: they follow the others",)
    assert np.isfinite(found.residual).all()


def test_a_late_entrance_is_placed_by_its_first_good_frame():
    body = np.repeat(placed(size=200, x=100, y=100)[None], 12, 0)
    body[:4] += 300
    score = np.ones((12, 18))
    score[:4] = 0
    found = align(person(body, score), person(placed(size=400, x=50, y=50)))
    np.testing.assert_allclose(found.poses.body[4:, 0], np.repeat(placed(size=400, x=50, y=50)[None], 8, 0), atol=1e-6)
    assert found.notes == (
        "the first person is not seen in 4 of 12 driving frames",
        "frames 0 to 3 share too few joints with the reference: placed by frame 4",
    )
    assert np.isnan(found.residual[:4]).all() and (found.residual[4:] < 1e-6).all()


def test_frames_of_few_stray_joints_do_not_place_the_clip():
    body = np.repeat(placed(size=200, x=100, y=100)[None], 12, 0)
    body[:4] += 300
    score = np.ones((12, 18))
    score[:4] = 0
    score[:4, [3, 4, 9, 10]] = 1
    found = align(person(body, score), person(placed(size=400, x=50, y=50)))
    np.testing.assert_allclose(found.poses.body[4, 0], placed(size=400, x=50, y=50), atol=1e-6)
    assert found.notes == ("frames 0 to 3 share too few joints with the reference: placed by frame 4",)


def test_joints_that_come_and_go_are_fitted_where_they_are_seen():
    score = np.ones((10, 18))
    score[:3, [2, 8]] = score[2:5, [0, 13]] = 0
    found = align(person(np.repeat(placed(size=200)[None], 10, 0), score), person(placed(size=400, x=90)))
    np.testing.assert_allclose(found.transform.scale, 2)
    np.testing.assert_allclose(found.poses.body[5, 0], placed(size=400, x=90), atol=1e-6)


def test_upside_down_is_one_direction_although_its_angle_jumps():
    turns = [178, 179, -179, -178, -177]
    body = np.concatenate([np.repeat(placed(size=200, degrees=turn)[None], 5, 0) for turn in turns])
    found = align(person(body), person(placed(size=400)))
    np.testing.assert_allclose(torch.remainder(torch.rad2deg(found.transform.angle), 360), 180, atol=2.1)


def test_two_joints_suffice_with_a_warning_even_when_they_change_places():
    score = np.zeros((2, 18))
    score[:, [2, 5]] = 1
    body = np.repeat(placed(size=200)[None], 2, 0)
    body[1, [2, 5]] = body[1, [5, 2]]
    found = align(person(body, score), person(placed(size=400)))
    np.testing.assert_allclose(found.transform.scale, 2)
    assert found.notes[0] == "only 2 joints are shared with the reference: check the result"


def test_a_turn_is_reported():
    found = align(person(placed(degrees=-20)), person(placed(size=400)))
    assert found.notes == ("the clip is turned by 20 degrees",)
    found = align(person(placed(degrees=-20)), person(placed(size=400)), fit="frames")
    assert found.notes == ("single frames are turned by 20 degrees",)


def test_the_references_first_frame_with_a_person_counts():
    score = np.ones((3, 18))
    score[0], score[1, 10] = 0, 0
    reference = person(np.stack([placed(), placed(size=400), placed(size=300)]), score)
    np.testing.assert_allclose(align(person(placed(size=200)), reference).poses.body[0, 0], placed(size=400), atol=1e-6)


def test_none_fits_the_canvas_by_one_scale():
    body = np.repeat(placed(size=200)[None], 3, 0)
    found = align(person(body, width=1280, height=720), person(placed(), width=512, height=512), "none")
    np.testing.assert_allclose(found.poses.body[:, 0], body * 0.4 + (0, 112))
    assert found.transform is None and found.notes == ()
    expected = np.sqrt(np.square(found.poses.body[0, 0] - placed()).sum(-1).mean())
    np.testing.assert_allclose(found.residual, expected)


def test_none_needs_no_person_and_says_that_the_fit_is_idle():
    found = align(Poses.empty(3, 64, 64), Poses.empty(1, 32, 32), "none", fit="frames")
    assert found.poses.frames == 3 and np.isnan(found.residual).all()
    assert found.notes == ("fit frames has no effect: method none fits nothing",)


def alone(*people):
    """Slots of poses side by side: each is (body [F, 18, 2], score [F, 18])."""
    poses = Poses.empty(len(people[0][0]), 512, 512, people=len(people))
    body, score = (np.stack(parts, axis=1) for parts in zip(*people))
    return dataclasses.replace(poses, body=body, body_score=score)


def test_v1_lands_a_person_of_another_size_on_the_reference():
    still = np.repeat(placed(size=200, x=300, y=200)[None], 4, 0)
    found = align(person(still), person(placed(size=400, x=150, y=60)), "v1")
    np.testing.assert_allclose(found.poses.body[:, 0], np.repeat(placed(size=400, x=150, y=60)[None], 4, 0), atol=1e-6)
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)
    assert found.transform is None and found.notes == ()


def test_v1_fits_frames_of_one_person_whatever_their_slot():
    """Frame 1 shows two people and a body that would spoil the fit; in frame 2 the one person is in slot 1."""
    body, ones, none = placed(size=200, x=100, y=100), np.ones(18), np.zeros(18)
    first = (np.stack([body, body * 3, body * 0]), np.stack([ones, ones, none]))
    second = (np.stack([body * 0, body, body]), np.stack([none, ones, ones]))
    found = align(alone(first, second), person(placed(size=400, x=50, y=60)), "v1")
    for frame, slot in ((0, 0), (2, 1)):
        np.testing.assert_allclose(found.poses.body[frame, slot], placed(size=400, x=50, y=60), atol=1e-6)
    assert "1 of 3 frames do not show exactly one person: left out of the fit" in found.notes


def test_v1_counts_weak_joints_in_full_and_svd_does_not():
    body, score = np.repeat(placed(size=200, x=100, y=100)[None], 4, 0), np.ones((4, 18))
    body[:, 10], score[:, 10] = (100, 3000), 0.05
    reference = person(placed(size=400, x=50, y=60))
    assert align(person(body, score), reference, "v1").residual.min() > 50
    np.testing.assert_allclose(align(person(body, score), reference).residual, 0, atol=1e-6)


def test_v1_leaves_out_joints_that_were_never_seen():
    body, score = np.repeat(placed(size=200, x=100, y=100)[None], 4, 0), np.ones((4, 18))
    score[:, 10] = 0
    found = align(person(body, score), person(placed(size=400, x=50, y=60)), "v1")
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("fit", "who"), [("clip", "the clip is"), ("smooth", "the clip is"), ("frames", "single frames are")]
)
def test_a_turn_is_told_as_the_fit_makes_it(fit, who):
    found = align(person(np.repeat(placed(degrees=12)[None], 12, 0)), person(placed()), fit=fit)
    assert f"{who} turned by -12 degrees" in found.notes or f"{who} turned by 12 degrees" in found.notes


def test_a_clip_too_short_to_be_smoothed_is_told():
    body = np.repeat(placed()[None], 4, 0)
    assert align(person(body), person(placed()), fit="smooth").notes == (
        "fit smooth has no effect on fewer than 5 frames",
    )


def test_v1_says_what_it_distorts_and_ignores():
    wide = person(placed(size=200), width=1024, height=512)
    found = align(wide, person(placed(size=400), width=512, height=512), "v1", fit="frames")
    assert found.notes[:2] == (
        "fit frames has no effect: method v1 fits one transform for the clip",
        "method v1 draws bodies 0.50 times as wide for their height; svd keeps proportions",
    )
    moved = found.poses.body[0, 0]
    width, height = moved[5, 0] - moved[2, 0], moved[10, 1] - moved[1, 1]  # shoulders, neck to ankle
    assert width / height == pytest.approx(0.5 * 0.22 / 0.77, rel=1e-6)


def test_works_under_inference_mode():
    with torch.inference_mode():
        found = align(person(placed(size=200)), person(placed(size=400)))
    np.testing.assert_allclose(found.poses.body[0, 0], placed(size=400), atol=1e-6)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_unknown_method():
    assert list(METHODS) == ["svd", "learned", "affine", "homography", "v1", "none"]
    message = "alignment 'polyfit' is unknown; use svd or learned or affine or homography or v1 or none"
    with pytest.raises(InputError, match=message):
        align(person(placed()), person(placed()), "polyfit")


def test_unknown_fit():
    assert FITS == ("clip", "smooth", "frames")
    with pytest.raises(InputError, match="alignment fit 'window' is unknown; use clip or smooth or frames"):
        align(person(placed()), person(placed()), fit="window")


@pytest.mark.parametrize("weak", [Poses.empty(2, 64, 64), person(np.stack([placed()] * 2), np.full((2, 18), 0.3))])
def test_nobody_there(weak):
    line = "no body joint of person 0 above min_score 0.3 in 2 frames; lower min_score or use a picture or clip that"
    with pytest.raises(PoseError, match=f"reference poses: {line}"):
        align(person(placed()), weak)
    with pytest.raises(PoseError, match=f"driving poses: {line}"):
        align(weak, person(placed()))


@pytest.mark.parametrize("people", [0, 2])
def test_v1_without_a_frame_of_exactly_one_person(people):
    slots = [(np.repeat(placed()[None], 3, 0), np.ones((3, 18)))] * people
    driving = alone(*slots) if people else Poses.empty(3, 512, 512, people=1)
    message = "v1 alignment: none of 3 driving frames shows exactly one person; keep one person's poses, or use method"
    with pytest.raises(PoseError, match=message):
        align(driving, person(placed()), "v1")
    with pytest.raises(PoseError, match="reference poses: no body joint of person 0 above min_score 0.3 in 1 frames"):
        align(driving, Poses.empty(1, 512, 512), "v1")


def test_v1_needs_two_heights():
    score = np.zeros((2, 18))
    score[:, [2, 5]] = 1
    body = np.repeat(placed()[None], 2, 0)
    message = "v1 alignment: 4 joints at 1 heights are shared with the reference in frames of one person, need 2 at"
    with pytest.raises(PoseError, match=message):
        align(person(body, score), person(placed()), "v1")


def test_too_few_joints_in_common_name_the_best_frame():
    driving, reference = np.zeros((5, 18)), np.zeros((1, 18))
    driving[:, :4] = 1
    driving[2, 4] = 1
    reference[0, 4:] = 1
    message = (
        "frame 2: 1 of 18 joints above min_score 0.3 in both the driving and the reference pose, "
        "need 2 at distinct places; lower min_score or trim the clip"
    )
    with pytest.raises(PoseError, match=message):
        align(person(np.stack([placed()] * 5), driving), person(placed(), reference))


def test_min_score_decides_who_is_visible():
    score = np.full((1, 18), 0.2)
    found = align(person(placed(size=200), score), person(placed(size=400)), min_score=0.1)
    np.testing.assert_allclose(found.transform.scale, 2)


def test_proportions_are_the_references_on_request():
    """A driver whose legs are a quarter longer for its trunk than the reference's."""
    rng = np.random.default_rng(3)
    reference = placed()
    longer = reference.copy()
    for hip, knee, ankle in ((8, 9, 10), (11, 12, 13)):
        longer[knee] = longer[hip] + 1.25 * (reference[knee] - reference[hip])
        longer[ankle] = longer[knee] + 1.25 * (reference[ankle] - reference[knee])
    driving = person(np.stack([longer + [3 * f, 0] for f in range(12)]) + rng.normal(0, 0.01, (12, 18, 2)))
    legs = {}
    for proportions in (False, True):
        made = align(driving, person(reference[None]), "svd", proportions=proportions)
        body = made.poses.body[:, 0]
        leg = np.linalg.norm(body[:, 9] - body[:, 8], axis=-1) + np.linalg.norm(body[:, 10] - body[:, 9], axis=-1)
        trunk = np.linalg.norm(body[:, 1] - (body[:, 8] + body[:, 11]) / 2, axis=-1)
        legs[proportions] = (leg / trunk).mean()
        assert made.residual.shape == (12,)
    hips = (reference[8] + reference[11]) / 2
    own = np.linalg.norm(reference[9] - reference[8]) + np.linalg.norm(reference[10] - reference[9])
    wanted = own / np.linalg.norm(reference[1] - hips)
    assert abs(legs[False] / wanted - 1.25) < 0.02
    assert abs(legs[True] / wanted - 1) < abs(legs[False] / wanted - 1) / 2


@pytest.mark.parametrize("method", ["none", "v1", "affine", "homography"])
def test_proportions_need_a_similarity(method):
    made = align(person(placed()[None]), person(placed()[None]), method, proportions=True)
    assert f"proportions have no effect: method {method} fits no similarity" in made.notes
    assert method not in SIMILARITIES and not isinstance(made.transform, Similarity)
