"""What perspective does to a driver is read off its bones: known views are undone, and sizes do not mind postures."""

import math

import numpy as np
import pytest
import torch
from test_alignment import placed

from stableanimator_core.alignment.guidance import JOINT_TRUST
from stableanimator_core.alignment.perspective import MOST_CHANGE, fit_alike, fit_upright
from stableanimator_core.alignment.projective import fit_affine, fit_homography

ALL = torch.ones(12, 18, dtype=torch.bool)


def clip(change=0.0, frames=12):
    """Somebody who stands still, sizes growing by the share `change` from the middle of the body up to the head."""
    body = torch.from_numpy(np.repeat(placed(size=300, x=400, y=100)[None], frames, 0))
    middle = torch.tensor([400.0, 250.0], dtype=body.dtype)
    centred = body - middle
    return middle + centred / (1 + change * centred[..., 1:] / 130)


def head_to_feet(body):
    """Width of the shoulders over that of the ankles."""
    return ((body[:, 5] - body[:, 2]).norm(dim=-1) / (body[:, 13] - body[:, 10]).norm(dim=-1)).mean()


@pytest.mark.parametrize("change", [-0.3, 0.3])
def test_a_view_from_above_or_below_comes_nearer_to_upright(change):
    plain = head_to_feet(fit_upright(clip(), ALL).apply(clip()))
    body = clip(change)
    before, after = (head_to_feet(part) for part in (body, fit_upright(body, ALL).apply(body)))
    assert abs(math.log(after / plain)) < 0.75 * abs(math.log(before / head_to_feet(clip())))
    assert (after < before) == (change > 0)


def test_somebody_of_usual_proportions_hardly_changes():
    moved = fit_upright(clip(), ALL).apply(clip())
    assert (moved - clip()).norm(dim=-1).max() < 0.06 * 300


def test_place_and_size_of_the_picture_do_not_matter():
    body = clip(0.3)
    moved = fit_upright(3 * body - 700, ALL).apply(3 * body - 700)
    torch.testing.assert_close(moved, 3 * fit_upright(body, ALL).apply(body) - 700)


def test_who_walks_far_changes_no_more_than_bounds_allow():
    body = clip(0.3) + torch.linspace(0, 5000, 12)[:, None, None] * torch.tensor([0.0, 1.0])
    matrix = fit_upright(body, ALL).matrix[0]
    divisor = body @ matrix[2, :2] + matrix[2, 2]
    assert (divisor / divisor.median() - 1).abs().max() < 1.5 * MOST_CHANGE


@pytest.mark.parametrize("joints", [[], [1], [1, 2]])
def test_too_few_bones_change_nothing(joints):
    seen = torch.zeros(12, 18, dtype=torch.bool)
    seen[:, joints] = True
    found = fit_upright(clip(0.3), seen)
    torch.testing.assert_close(found.matrix[0], torch.eye(3, dtype=torch.float64))
    assert found.kind.tolist() == [0]


@pytest.mark.parametrize("fit", [fit_affine, fit_homography])
def test_what_is_stretched_stays_where_it_was_put(fit):
    target = torch.from_numpy(placed(size=400))
    body = (target * torch.tensor([0.85, 1.0]) + torch.tensor([180.0, 90.0])).repeat(12, 1, 1)
    found = fit_alike(body, ALL, target, torch.ones(18, dtype=torch.bool), fit).apply(body)
    trust = torch.tensor(JOINT_TRUST, dtype=body.dtype)[:, None]
    middle, before = ((trust * part[0]).sum(0) / trust.sum() for part in (found, body))
    torch.testing.assert_close(middle, before, atol=2, rtol=0)
    size, wanted = (part.amax(0) - part.amin(0) for part in (found[0], target))
    assert float(size[0] / size[1] * wanted[1] / wanted[0]) == pytest.approx(1, abs=0.02)
