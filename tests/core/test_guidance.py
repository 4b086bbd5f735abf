"""Closed-form guidance: known transforms come back for whole batches, whatever is missing; nothing ever raises."""

import math

import numpy as np
import pytest
import torch
from test_alignment import STANDING, random_similarity

from stableanimator_core.alignment import Similarity, align, fit_similarity
from stableanimator_core.alignment.guidance import WINDOW, compose, guide, inverse, place_of
from stableanimator_core.keypoints import Poses

BODY = torch.from_numpy(STANDING)
EVERYTHING = torch.ones(1, 18, dtype=torch.bool)


def clips(batch, frames, seed=0, noise=0.0):
    """Driving [B, F, 18, 2], all seen, and references that a known transform makes from their first frames."""
    rng = np.random.default_rng(seed)
    steps = torch.from_numpy(rng.uniform(-8, 8, (batch, 1, 1, 2))) * torch.arange(frames)[:, None, None]
    driving = 300 * BODY + 100 + steps + noise * torch.from_numpy(rng.normal(size=(batch, frames, 18, 2)))
    truth = random_similarity(batch, rng)
    return driving, torch.ones(batch, frames, 18, dtype=torch.bool), truth.apply(driving[:, 0]), truth


def base_of(guidance):
    return guidance.pixels(guidance.base)


def assert_close(found, expected, points, atol):
    np.testing.assert_allclose(found.apply(points), expected.apply(points), atol=atol)


def test_a_standing_clip_gives_the_transform_back():
    driving, seen, reference, truth = clips(7, 1)
    driving, seen = driving.expand(-1, 9, -1, -1), seen.expand(-1, 9, -1)
    found = guide(driving, seen, reference, EVERYTHING.expand(7, -1))
    assert_close(base_of(found), truth, driving[:, 0], 1e-6)
    assert found.fitted.all()
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)
    np.testing.assert_allclose(found.coverage, 1)


def test_the_first_frames_decide_the_place():
    driving, seen, reference, truth = clips(5, 30)
    middle = driving[:, :WINDOW].mean(1)
    found = base_of(guide(driving, seen, reference, EVERYTHING.expand(5, -1)))
    np.testing.assert_allclose(found.apply(middle), reference, atol=1e-6)
    np.testing.assert_allclose(found.scale, truth.scale)


def test_later_growth_does_not_change_the_size():
    driving, seen, reference, truth = clips(1, 1)
    growth = torch.cat([torch.ones(8), torch.linspace(1, 3, 30)]).double()
    found = guide(driving * growth[:, None, None], seen.expand(-1, 38, -1), reference, EVERYTHING)
    assert_close(base_of(found), truth, driving[:, 0], 1e-6)


def test_frames_are_fitted_one_by_one():
    driving, seen, reference, _ = clips(2, 6, noise=4.0)
    found = guide(driving, seen, reference, EVERYTHING.expand(2, -1))
    own = Similarity(*(part.unflatten(0, (2, 6))[:, 4] for part in found.frames))
    there = found.pixels(own)
    moved = there.apply(driving[:, 4])
    plain = fit_similarity(driving[:, 4], reference, torch.ones(2, 18, dtype=torch.float64))
    assert (moved - reference).norm(dim=-1).mean() < 1.2 * (plain.apply(driving[:, 4]) - reference).norm(dim=-1).mean()


def test_rows_are_those_of_the_clips_alone():
    driving, seen, reference, _ = clips(5, 6, noise=4.0)
    seen = seen & (torch.rand(seen.shape, generator=torch.Generator().manual_seed(0)) > 0.8)
    rows = slice(2, 4)
    found = guide(driving, seen, reference, EVERYTHING.expand(5, -1)).rows(rows)
    expected = guide(driving[rows], seen[rows], reference[rows], EVERYTHING.expand(2, -1))
    assert not expected.fitted.all()
    torch.testing.assert_close(found, expected)


def test_unseen_joints_do_not_count_whatever_their_coordinates():
    driving, seen, reference, _ = clips(3, 12, noise=2.0)
    rng = np.random.default_rng(1)
    seen, shown = torch.from_numpy(rng.random((3, 12, 18)) > 0.4), torch.from_numpy(rng.random((3, 18)) > 0.2)
    elsewhere = driving.masked_fill(~seen[..., None], math.nan), reference.masked_fill(~shown[..., None], math.nan)
    one, other = guide(driving, seen, reference, shown), guide(elsewhere[0], seen, elsewhere[1], shown)
    for a, b in zip(
        (*base_of(one), one.driving, one.residual), (*base_of(other), other.driving, other.residual), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_batch_is_what_its_clips_are():
    driving, seen, reference, _ = clips(4, 10, noise=3.0)
    seen = torch.from_numpy(np.random.default_rng(2).random((4, 10, 18)) > 0.5)
    together = base_of(guide(driving, seen, reference, EVERYTHING.expand(4, -1)))
    for index in range(4):
        row = slice(index, index + 1)
        alone = base_of(guide(driving[row], seen[row], reference[row], EVERYTHING))
        assert_close(alone, Similarity(*(part[row] for part in together)), driving[row, 0], 1e-9)


def test_two_joints_next_to_each_other_turn_nobody_round():
    driving, seen, reference, _ = clips(1, 10, noise=1.0)
    reference = 500 * BODY[None] + 50
    few = torch.zeros_like(seen)
    few[..., [14, 15]] = True  # both eyes, and their noise
    found = base_of(guide(driving, few, reference, EVERYTHING))
    assert abs(math.degrees(found.angle)) < 1e-6


def test_a_lean_at_the_start_does_not_tilt_the_clip():
    driving, seen, reference, truth = clips(1, 1)
    lean = Similarity.through(torch.ones(1).double(), torch.tensor([0.5]).double(), driving[:, 0, 8], driving[:, 0, 8])
    driving = torch.cat([lean.apply(driving[:, 0])[:, None].expand(-1, 8, -1, -1), driving.expand(-1, 20, -1, -1)], 1)
    found = base_of(guide(driving, seen.expand(-1, 28, -1), reference, EVERYTHING))
    np.testing.assert_allclose(found.angle, truth.angle, atol=1e-9)


def test_two_joints_always_agree_and_are_hardly_heard():
    driving, seen, _, _ = clips(1, 1)
    turn = Similarity.through(torch.ones(1).double(), torch.tensor([0.5]).double(), driving[:, 0, 1], driving[:, 0, 1])
    some, few = torch.zeros_like(seen), torch.zeros_like(seen)
    some[..., [1, 2, 5, 8]] = few[..., [1, 8]] = True
    clip = torch.cat([turn.apply(driving[:, 0])[:, None].expand(-1, 3, -1, -1), driving.expand(-1, 30, -1, -1)], 1)
    found = guide(clip, torch.cat([some.expand(-1, 3, -1), few.expand(-1, 30, -1)], 1), driving[:, 0], EVERYTHING)
    assert found.fitted.all()
    assert abs(float(found.base.angle) + 0.5) < 0.2  # what three frames of four joints say, against thirty of two


def test_one_outlier_frame_is_overruled():
    driving, seen, reference, truth = clips(1, 1)
    driving, seen = driving.repeat(1, 9, 1, 1), seen.expand(-1, 9, -1)
    driving[:, 1] = driving[:, 1].flip(-1) * 4
    found = base_of(guide(driving, seen, reference, EVERYTHING))
    np.testing.assert_allclose(found.scale, truth.scale)
    np.testing.assert_allclose(found.angle, truth.angle, atol=1e-9)


def test_one_shared_joint_is_put_onto_its_own():
    driving, seen, reference, _ = clips(1, 6)
    seen[..., [0, 14, 15, 16, 17]] = False
    shown = torch.zeros_like(EVERYTHING)
    shown[:, [0, 1, 14, 15, 16, 17]] = True  # the neck alone is seen in both
    found = guide(driving, seen, reference, shown)
    assert not found.fitted.any()
    middle = driving[:, :WINDOW, 1].mean(1)
    np.testing.assert_allclose(base_of(found).apply(middle[:, None])[:, 0], reference[:, 1])
    expected = place_of(reference[:, None], shown[:, None]).spread / place_of(driving, seen).spread
    np.testing.assert_allclose(base_of(found).scale, expected)


def test_bodies_that_share_no_joint_are_matched_by_centre_and_spread():
    driving, seen, reference, _ = clips(1, 6)
    seen[..., :8] = seen[..., 14:] = False
    shown = torch.zeros_like(EVERYTHING)
    shown[:, [0, 1, 2, 5]] = True
    found, here, there = (
        base_of(guide(driving, seen, reference, shown)),
        place_of(driving, seen),
        place_of(reference[:, None], shown[:, None]),
    )
    np.testing.assert_allclose(found.scale, there.spread / here.spread)
    np.testing.assert_allclose(found.apply(here.centre[:, None])[:, 0], there.centre)
    np.testing.assert_allclose(found.angle, 0)


@pytest.mark.parametrize("driver", [0, 1, 2, 18])
@pytest.mark.parametrize("shown", [0, 1, 2, 18])
@pytest.mark.parametrize("frames", [1, 7])
def test_a_transform_exists_for_any_number_of_joints(driver, shown, frames):
    driving, _, reference, _ = clips(1, frames)
    seen = (torch.arange(18) < driver).expand(1, frames, 18)
    found = guide(driving.float(), seen, reference.float(), (torch.arange(18) < shown)[None])
    for part in (*base_of(found), *found.frames, found.residual, found.coverage):
        assert part.isfinite().all() and part.dtype == torch.float32
    assert (base_of(found).scale > 0).all()
    assert bool(found.fitted.any()) == (min(driver, shown) >= 2)


def test_joints_all_in_one_place_give_a_finite_transform():
    point, seen = torch.full((1, 3, 18, 2), 77.3), EVERYTHING.expand(1, 3, 18)
    found = base_of(guide(point, seen, 400 * BODY[None].float(), EVERYTHING))
    assert all(part.isfinite().all() for part in found)


def test_shifts_and_sizes_of_the_pictures_change_nothing_else():
    driving, seen, reference, _ = clips(3, 11, noise=5.0)
    seen = torch.from_numpy(np.random.default_rng(3).random((3, 11, 18)) > 0.5)
    one = guide(driving, seen, reference, EVERYTHING.expand(3, -1))
    other = guide(driving * 7 - 4000, seen, reference * 0.01 + 900, EVERYTHING.expand(3, -1))
    for a, b in zip((*one.base, one.driving, one.residual), (*other.base, other.driving, other.residual), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_the_travel_does_not_make_a_body_larger():
    driving, seen, _, _ = clips(1, 40)
    still, walking = place_of(driving[:, :1], seen[:, :1]), place_of(driving, seen)
    np.testing.assert_allclose(walking.spread, still.spread)


def test_agrees_with_method_svd_on_a_plain_walk():
    driving, seen, reference, _ = clips(1, 20)
    found = base_of(guide(driving, seen, reference, EVERYTHING))
    poses = [Poses.empty(frames, 800, 800, people=1) for frames in (20, 1)]
    poses = [
        Poses(body=points[:, None].numpy(), body_score=np.ones(points.shape[:1] + (1, 18)), face=empty.face,
              face_score=empty.face_score, hands=empty.hands, hands_score=empty.hands_score, width=800, height=800)
        for empty, points in zip(poses, (driving[0], reference), strict=True)
    ]  # fmt: skip
    svd = align(*poses).transform
    np.testing.assert_allclose(found.scale, svd.scale[:1], rtol=1e-6)
    np.testing.assert_allclose(found.apply(driving[:, 2]), svd.apply(driving[0])[2:3], atol=1e-3)


def test_compose_and_inverse():
    rng = np.random.default_rng(4)
    outer, inner = random_similarity(5, rng), random_similarity(5, rng)
    points = torch.from_numpy(rng.uniform(-50, 50, (5, 18, 2)))
    np.testing.assert_allclose(compose(outer, inner).apply(points), outer.apply(inner.apply(points)), atol=1e-8)
    np.testing.assert_allclose(inverse(outer).apply(outer.apply(points)), points, atol=1e-8)
