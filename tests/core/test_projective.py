"""Known affine and projective transforms are recovered; noise, outliers and too few joints never make a wild one."""

import math

import numpy as np
import pytest
import torch

from stableanimator_core.alignment.projective import (
    KINDS,
    MOST_STRETCH,
    MOST_TILT,
    Homography,
    fit_affine,
    fit_homography,
)
from stableanimator_core.alignment.similarity import fit_similarity_robust
from stableanimator_core.errors import PoseError

# Somebody standing, 1 high, by OpenPose-18 joint; y down.
STANDING = np.array(
    [
        (0.00, 0.08), (0.00, 0.18), (-0.11, 0.18), (-0.14, 0.34), (-0.15, 0.48), (0.11, 0.18), (0.14, 0.34),
        (0.15, 0.48), (-0.06, 0.50), (-0.07, 0.73), (-0.07, 0.95), (0.06, 0.50), (0.07, 0.73), (0.07, 0.95),
        (-0.02, 0.06), (0.02, 0.06), (-0.045, 0.07), (0.045, 0.07),
    ]
)  # fmt: skip


def bodies(frames, rng, jitter=0.02):
    """Bodies 300 px high, each in a somewhat different posture, [F, 18, 2]."""
    return torch.from_numpy(300 * (STANDING + rng.normal(0, jitter, (frames, 18, 2))) + (200, 100))


def random_affine(frames, rng):
    """matrices [F, 2, 2] of stretches up to 1.6 along any axis, turns up to 60 degrees, sizes 0.5..2; shifts [F, 2]."""
    stretch = np.sqrt(rng.uniform(1, 1.6, frames))
    axis, turn = rng.uniform(-math.pi, math.pi, frames), rng.uniform(-1, 1, frames)
    diagonal = np.zeros((frames, 2, 2))
    diagonal[:, 0, 0], diagonal[:, 1, 1] = stretch, 1 / stretch
    matrix = turned(turn) @ turned(axis) @ diagonal @ turned(-axis)
    size = np.exp(rng.uniform(-0.7, 0.7, frames))[:, None, None]
    return torch.from_numpy(size * matrix), torch.from_numpy(rng.uniform(-300, 300, (frames, 2)))


def turned(angle):
    return np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)


def tilted(points, tilt):
    """points [F, N, 2] seen in perspective: sizes change by the shares tilt [F, 2] over 150 px from (200, 250)."""
    centred = points - torch.tensor([200.0, 250.0], dtype=points.dtype)
    return centred / (1 + (centred * tilt[:, None] / 150).sum(-1, keepdim=True))


def grid(points):
    """The corners and edges of the box around points [F, N, 2], [F, 25, 2]."""
    low, high = points.amin(1), points.amax(1)
    steps = torch.linspace(0, 1, 5, dtype=points.dtype)
    share = torch.cartesian_prod(steps, steps)
    return low[:, None] + share * (high - low)[:, None]


def cross(transform, points, step=0.1):
    """Determinant of the local map at points [F, N, 2]: negative where it mirrors."""
    x = transform.apply(points + torch.tensor([step, 0.0])) - transform.apply(points)
    y = transform.apply(points + torch.tensor([0.0, step])) - transform.apply(points)
    return (x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]) / step**2


def test_known_affine_is_recovered():
    rng = np.random.default_rng(0)
    src = bodies(40, rng)
    matrix, shift = random_affine(40, rng)
    dst = src @ matrix.mT + shift[:, None]
    found = fit_affine(src, dst, torch.from_numpy(rng.uniform(0.2, 1, (40, 18))))
    assert [KINDS[kind] for kind in found.kind] == ["affine"] * 40
    torch.testing.assert_close(found.matrix, matrix, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.apply(src), dst, atol=1e-4, rtol=0)


def test_known_homography_is_recovered():
    rng = np.random.default_rng(1)
    src = bodies(40, rng)
    matrix, shift = random_affine(40, rng)
    tilt = torch.from_numpy(rng.uniform(-0.2, 0.2, (40, 2)))
    dst = tilted(src, tilt) @ matrix.mT + shift[:, None]
    found = fit_homography(src, dst, torch.from_numpy(rng.uniform(0.2, 1, (40, 18))))
    assert [KINDS[kind] for kind in found.kind] == ["homography"] * 40
    torch.testing.assert_close(found.apply(src), dst, atol=1e-2, rtol=0)
    there = tilted(grid(src), tilt) @ matrix.mT + shift[:, None]
    torch.testing.assert_close(found.apply(grid(src)), there, atol=0.1, rtol=0)
    flat = (fit_affine(src, dst, torch.ones(40, 18)).apply(src) - dst).norm(dim=-1).mean()
    assert flat > 3  # px: perspective is what an affine map lacks


@pytest.mark.parametrize("fit", [fit_affine, fit_homography])
def test_similarity_is_recovered(fit):
    rng = np.random.default_rng(2)
    src = bodies(10, rng)
    dst = 1.7 * src @ torch.from_numpy(turned(np.full(10, 0.6))).mT + 40
    found = fit(src, dst, torch.ones(10, 18))
    torch.testing.assert_close(found.apply(src), dst, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fit", [fit_affine, fit_homography])
@pytest.mark.parametrize("seed", range(3))
def test_noise_and_outliers_stay_near(fit, seed):
    rng = np.random.default_rng(seed)
    src = bodies(60, rng)
    matrix, shift = random_affine(60, rng)
    truth = src @ matrix.mT + shift[:, None]
    size = matrix.det().sqrt()[:, None, None]
    dst = truth + size * torch.from_numpy(rng.normal(0, 3, (60, 18, 2)))
    dst[:, [4, 10]] += size * 250
    found = fit(src, dst, torch.ones(60, 18))
    keep = [joint for joint in range(18) if joint not in (4, 10)]
    error = ((found.apply(src) - truth) / size).norm(dim=-1)  # px of the driver, a body 300 high
    plain = ((fit_similarity_robust(src, dst, torch.ones(60, 18))[0].apply(src) - truth) / size).norm(dim=-1)
    assert error[:, keep].mean() < 5 and error[:, keep].mean() < 0.6 * plain[:, keep].mean()
    assert error[:, keep].mean(1).max() < 25


@pytest.mark.parametrize("joints", [2, 3, 4, 5, 6, 8, 18])
@pytest.mark.parametrize("thin", [1.0, 0.2, 0.02])
@pytest.mark.parametrize("fit", [fit_affine, fit_homography])
def test_hopeless_joints_never_make_a_wild_or_mirrored_map(fit, thin, joints):
    rng = np.random.default_rng(joints)
    src = bodies(50, rng) * torch.tensor([thin, 1.0])
    dst = src + torch.from_numpy(rng.normal(0, 40, (50, 18, 2)))  # mostly posture
    dst[25:] = dst[25:] * torch.tensor([-1.0, 1.0]) + 500  # left and right exchanged
    weight = torch.zeros(50, 18)
    for row in weight:
        row[torch.from_numpy(rng.permutation(18)[:joints])] = 1
    found = fit(src, dst, weight)
    box = grid(src)
    sizes = cross(found, box)
    assert sizes.min() > 0
    middle = cross(found, src.mean(1, keepdim=True)).sqrt()
    assert (sizes.sqrt() / middle).max() < 12 and torch.isfinite(found.apply(src)).all()
    used = torch.where(weight[..., None] > 0, src, src[weight > 0].reshape(50, joints, 2)[:, :1])
    if isinstance(found, Homography):
        moved = grid(used) @ found.matrix[:, 2, :2, None] + found.matrix[:, 2, 2, None, None]
        assert moved.min() > 1 / MOST_TILT / 2 and moved.max() < 2
    else:
        axes = torch.linalg.svdvals(found.matrix)
        assert (axes[:, 0] / axes[:, 1]).max() < MOST_STRETCH + 1e-6


@pytest.mark.parametrize(
    ("joints", "thin", "affine", "homography"),
    [(18, 1, 1, 2), (6, 1, 1, 2), (5, 1, 1, 1), (4, 1, 0, 0), (2, 1, 0, 0), (18, 0.03, 0, 0), (18, 0.0, 0, 0)],
)
def test_kinds_degrade_one_by_one(joints, thin, affine, homography):
    src = torch.from_numpy(300 * STANDING * (thin, 1))[None]
    weight = torch.zeros(1, 18)
    weight[:, [1, 8, 11, 2, 5, 0, *range(3, 5), 6, 7, *range(9, 11), *range(12, 18)][:joints]] = 1
    dst = src @ torch.tensor([[1.2, 0.0], [0.0, 0.9]], dtype=torch.float64) + 5
    fits = [fit(src, dst, weight) for fit in (fit_affine, fit_homography)]
    assert [int(found.kind) for found in fits] == [affine, homography]
    if affine == 0:
        plain = fit_similarity_robust(src, dst, weight)[0]
        for found in fits:
            torch.testing.assert_close(found.apply(src), plain.apply(src), atol=8, rtol=0)


def test_frames_do_not_mix_and_one_fit_serves_a_clip():
    rng = np.random.default_rng(5)
    src = bodies(6, rng)
    matrix, shift = random_affine(1, rng)
    tilt = torch.from_numpy(rng.uniform(-0.2, 0.2, (1, 2)))
    dst = tilted(src, tilt) @ matrix.mT + shift[:, None]
    clip = fit_homography(src.reshape(1, -1, 2), dst.reshape(1, -1, 2), torch.full((1, 6 * 18), 1 / 6))
    assert clip.matrix.shape == (1, 3, 3)
    torch.testing.assert_close(clip.apply(src), dst, atol=1e-2, rtol=0)
    together = fit_affine(src, dst, torch.ones(6, 18))
    alone = fit_affine(src[3:4], dst[3:4], torch.ones(1, 18))
    torch.testing.assert_close(together.matrix[3], alone.matrix[0])


def test_a_clip_filmed_from_above_is_nearer_by_homography():
    rng = np.random.default_rng(6)
    src = bodies(30, rng, jitter=0.01)
    dst = tilted(src, torch.tensor([[0.0, 0.25]], dtype=torch.float64).repeat(30, 1)) * torch.tensor([1.0, 0.75])
    dst = dst + torch.from_numpy(rng.normal(0, 2, dst.shape))
    weight = torch.ones(30, 18)
    plain, flat, full = (
        float((fit.apply(src) - dst).norm(dim=-1).mean())
        for fit in (fit_similarity_robust(src, dst, weight)[0], fit_affine(src, dst, weight),
                    fit_homography(src, dst, weight))
    )  # fmt: skip
    assert full < flat < plain


def test_extremes_are_bounded():
    src, sure = bodies(20, np.random.default_rng(8)), torch.full((20, 18), 1e4)  # joints that outweigh what is expected
    stretched = fit_affine(src, src * torch.tensor([3.0, 1.0]), sure)
    axes = torch.linalg.svdvals(stretched.matrix)
    torch.testing.assert_close(axes[:, 0] / axes[:, 1], torch.full((20,), MOST_STRETCH, dtype=torch.float64))
    found = fit_homography(src, tilted(src, torch.full((20, 2), 0.45, dtype=torch.float64)), sure)
    divisor = grid(src) @ found.matrix[:, 2, :2, None] + found.matrix[:, 2, 2, None, None]  # [20, 25, 1]
    assert 0.9 / MOST_TILT < divisor.min() and 1.3 < divisor.max() < 1.5


def test_points_far_outside_stay_finite():
    rng = np.random.default_rng(7)
    src = bodies(5, rng)
    found = fit_homography(src, tilted(src, torch.full((5, 2), 0.25, dtype=torch.float64)), torch.ones(5, 18))
    far = torch.from_numpy(rng.uniform(-1e5, 1e5, (5, 500, 2)))
    assert found.apply(far).abs().max() < 1e6


@pytest.mark.parametrize("fit", [fit_affine, fit_homography])
def test_one_joint_is_named(fit):
    src, weight = bodies(3, np.random.default_rng(0)), torch.ones(3, 18)
    weight[1, 1:] = 0
    with pytest.raises(PoseError, match="frame 1: 1 of 18 joints shared by both poses, need 2 at distinct places"):
        fit(src, src, weight)
