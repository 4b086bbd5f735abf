"""What align says about two bodies and a result: each sentence where it is due, and not elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_alignment import person, placed

from stableanimator_core.alignment import METHODS, align
from stableanimator_core.alignment.advice import (
    HEAD_JOINTS,
    MUCH_LARGER,
    OTHER_HEAD,
    doubt_notes,
    fit_note,
    is_doubtful,
)
from stableanimator_core.skeleton import HEAD

HEAD = list(HEAD)
CLOSED = [name for name in METHODS if name not in ("learned", "none")]


def clip(points, frames=6):
    return person(np.repeat(points[None], frames, 0))


def reference(points=None, **canvas):
    return person(placed(size=400, x=150, y=50) if points is None else points, **canvas)


@pytest.mark.parametrize("method", [*CLOSED, "none"])
def test_like_bodies_need_no_words(method):
    assert align(clip(placed(size=400, x=150, y=50)), reference(), method).notes == ()


@pytest.mark.parametrize("method", CLOSED)
def test_sitting_is_said_for_every_method(method):
    sitting = placed(size=400, x=150, y=50)
    sitting[[9, 10, 12, 13], 1] = sitting[[8, 8, 11, 11], 1] + [20, 40, 20, 40]
    notes = align(clip(placed(size=200)), reference(sitting), method).notes
    assert "the reference sits or crouches, the driver stands: check the size" in notes


def test_a_head_outside_of_the_picture_is_counted():
    body = np.repeat(placed(size=400, x=150, y=50)[None], 6, 0)
    body[4:, :, 1] -= 300  # jumps out of the top
    notes = align(person(body), reference(), "svd").notes
    assert "the head lies outside of the picture in 2 of 6 frames" in notes
    body[4:, HEAD[0], 1] = 100  # the nose stays inside
    assert not any("outside" in note for note in align(person(body), reference(), "svd").notes)


@pytest.mark.parametrize("growth", [0.9 * MUCH_LARGER, 1.1 * MUCH_LARGER])
def test_much_growth_is_said(growth):
    notes = align(clip(placed(size=400 / growth)), reference(), "svd").notes
    said = [note for note in notes if note.startswith("the driver is enlarged")]
    assert said == ([f"the driver is enlarged {growth:.1f} times, and so are its keypoints' errors: film it larger"]
                    if growth > MUCH_LARGER else [])  # fmt: skip


def with_head(points, factor):
    points = points.copy()
    points[HEAD] = points[HEAD].mean(0) + factor * (points[HEAD] - points[HEAD].mean(0))
    return points


@pytest.mark.parametrize("factor", [0.8 / OTHER_HEAD, 1.1 / OTHER_HEAD, 0.9 * OTHER_HEAD, 1.2 * OTHER_HEAD])
def test_another_head_size_points_to_proportions(factor):
    driving = clip(with_head(placed(size=200), factor))
    said = [note for note in align(driving, reference(), "svd").notes if "head comes out" in note]
    assert bool(said) == (not 1 / OTHER_HEAD < factor < OTHER_HEAD)
    if said:
        assert said[0].endswith(f"{factor:.2g} times as large as the reference's: try proportions")
    for options in (dict(method="svd", proportions=True), dict(method="v1")):
        said = [note for note in align(driving, reference(), **options).notes if "head comes out" in note]
        assert not any("try proportions" in note for note in said), "they are on, or of no use"
        assert bool(said) == (not 1 / OTHER_HEAD < factor < OTHER_HEAD), options


def test_noise_on_like_heads_says_nothing():
    """As in the alignment benchmark, up to a fiftieth of the body's height on every joint of clip and picture."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        body = placed(size=400, x=150, y=50) + rng.normal(0, 0.01 * 400, (24, 18, 2))
        one = placed(size=400, x=150, y=50) + rng.normal(0, 0.01 * 400, (18, 2))
        assert not any("head comes" in note for note in align(person(body), reference(one), "svd").notes)


def test_the_heads_size_is_the_clips_usual_one():
    body = np.repeat(placed(size=200)[None], 9, 0)
    body[:4] = with_head(placed(size=200), 3.0)
    assert not any("head comes" in note for note in align(person(body), reference(), "svd").notes)
    body[:5] = with_head(placed(size=200), 3.0)
    assert any("head comes" in note for note in align(person(body), reference(), "svd").notes)


def test_few_head_joints_say_nothing_of_its_size():
    driving = clip(with_head(placed(size=200), 3.0))
    driving.body_score[:, :, HEAD[HEAD_JOINTS - 1 :]] = 0
    assert not any("head comes" in note for note in align(driving, reference(), "svd").notes)


def test_several_people_in_the_reference_are_said():
    one = reference()
    two = dataclasses.replace(
        one,
        **{name: np.concatenate([getattr(one, name)] * 2, 1) for name in (
            "body", "body_score", "face", "face_score", "hands", "hands_score",
        )},
    )  # fmt: skip
    assert align(clip(placed(size=400, x=150, y=50)), two).notes == (
        "the reference shows 2 people: the first one counts",
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (0.03, "good, off by about 3 % of the body's height"),
        (0.054, "good, off by about 5 % of the body's height"),
        (0.056, "fair, off by about 6 % of the body's height"),
        (0.104, "fair, off by about 10 % of the body's height"),
        (0.14, "doubtful, off by about 14 % of the body's height; look whether heads, shoulders and hips lie over one "
         "another"),
    ],
)  # fmt: skip
def test_an_expected_error_is_a_grade_that_agrees_with_its_number(error, told):
    assert fit_note(error) == f"expected fit: {told}"
    assert is_doubtful(error) == told.startswith("doubtful")
    assert doubt_notes(error) == ([f"expected fit: {told}"] if told.startswith("doubtful") else [])
    assert doubt_notes(None) == []
