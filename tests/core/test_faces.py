"""Another person's face comes out with the reference's shape, and moves as it did."""

import dataclasses

import numpy as np
import pytest

from stableanimator_core.alignment.faces import SHARED, reshaped, size_ratio, spread
from stableanimator_core.performers import random_person
from stableanimator_core.performers.choreography import rotation
from stableanimator_core.performers.head import HeadView, landmarks
from stableanimator_core.performers.scene import look_at
from stableanimator_core.skeleton import FACE_MIRROR

FRAMES = 8
YAW = 15 * np.sin(np.arange(FRAMES))  # degrees
SEEN = np.ones((FRAMES, 68), dtype=bool)
CAMERA = dataclasses.replace(
    look_at(np.array([0, 1.0, 5.0]), np.array([0, 1.0, 0.0]), 192, 192), focal=900.0, centre=np.array([96.0, 96.0])
)


def face(person, yaw, mouth=0.0, roll=0.0):
    """Face points [F, 68, 2] px of a drawn person at angles in degrees."""
    yaw = np.atleast_1d(np.asarray(yaw, dtype=float))
    axes = rotation(1, yaw) @ rotation(2, np.full(len(yaw), roll))
    head = HeadView(person.head, np.tile([[0, 1.0, 0]], (len(yaw), 1)), axes, CAMERA)
    return landmarks(head, np.ones(len(yaw)), np.broadcast_to(np.asarray(mouth, dtype=float), len(yaw)))


def normal(faces):
    return (faces - faces.mean(1, keepdims=True)) / spread(faces)[:, None, None]


def apart(faces, others):
    return float(np.linalg.norm(normal(faces) - normal(others), axis=-1).mean())


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("yaw", [0, 12])
def test_the_face_gets_the_models_shape_in_every_view(number, yaw):
    driver, model = random_person(2 * number), random_person(2 * number + 1)
    driving, truth = face(driver, YAW), face(model, YAW)
    made = reshaped(driving, SEEN, face(model, yaw, roll=5.0)[0])
    assert apart(made, truth) < 0.55 * apart(driving, truth)


@pytest.mark.parametrize("roll", [80, 100, 180, -120])
@pytest.mark.parametrize("lean", [0, 180])
def test_a_face_that_stands_on_its_head_gets_the_shape_as_it_stands(roll, lean):
    """The most alike frame is the one that is rolled: it looks straight ahead, as the model does."""
    driver, model = random_person(0), random_person(1)
    yaw = np.array([22, 25, 0, 25, 22])
    rolls = (0, 0, roll, 0, 0)
    faces, truth = (
        np.concatenate([face(person, at, roll=by) for at, by in zip(yaw, rolls)]) for person in (driver, model)
    )
    made = reshaped(faces, SEEN[:5], face(model, 0, roll=lean)[0])
    assert apart(made, truth) < 0.55 * apart(faces, truth)


def test_size_place_and_play_of_features_stay_the_drivers():
    mouth = np.linspace(0, 0.12, FRAMES)
    driver, model = random_person(0), random_person(1)
    driving = face(driver, YAW, mouth)
    made = reshaped(driving, SEEN, face(model, 0)[0])
    np.testing.assert_allclose(made.mean(1), driving.mean(1), atol=1e-6)
    np.testing.assert_allclose(spread(made), spread(driving), rtol=0.03)
    opening = [points[:, 66, 1] - points[:, 62, 1] for points in (made, driving)]  # inner lips
    np.testing.assert_allclose(np.ptp(opening[0]), np.ptp(opening[1]), rtol=0.1)


def test_ones_own_face_stays():
    driving = face(random_person(0), YAW)
    np.testing.assert_allclose(reshaped(driving, SEEN, driving[3]), driving, atol=1e-6)


def test_a_profile_is_not_compared_with_a_front():
    driving = face(random_person(0), YAW)
    assert (reshaped(driving, SEEN, face(random_person(1), 75)[0]) == driving).all()


def test_faces_that_are_hardly_seen_stay():
    driving, model = face(random_person(0), YAW), face(random_person(1), 0)[0]
    seen = SEEN.copy()
    seen[2, SHARED - 1 :] = False
    seen[3, SHARED:] = False
    made = reshaped(driving, seen, model)
    assert (made[2] == driving[2]).all()
    whole = reshaped(driving, SEEN, model)
    assert np.abs(made[3] - whole[3])[:SHARED].max() < 1 < np.abs(whole[3] - driving[3]).max()
    seen[:, 0] = False
    assert (reshaped(driving, seen, model) == driving).all(), "no face is seen whole"


def test_a_face_in_one_place_changes_nothing():
    driving, model = face(random_person(0), YAW), np.full((68, 2), 50.0)
    assert (reshaped(driving, SEEN, model) == driving).all()
    still = np.full_like(driving, 50.0)
    assert (reshaped(still, SEEN, driving[0]) == still).all()
    assert size_ratio(driving, SEEN, model) is None


def test_sizes_compare_by_what_both_show():
    driving = face(random_person(0), YAW)
    assert size_ratio(driving, SEEN, 1.3 * face(random_person(0), 0)[0]) == pytest.approx(1.3, rel=0.02)
    seen = SEEN.copy()
    seen[:, SHARED - 1 :] = False
    assert size_ratio(driving, seen, driving[0]) is None


def test_the_mirror_table_is_a_straight_faces_own():
    assert [FACE_MIRROR[FACE_MIRROR[i]] for i in range(68)] == list(range(68))
    straight = face(random_person(0), 0)[0]
    np.testing.assert_allclose(straight[list(FACE_MIRROR)] * (-1, 1) + (192, 0), straight, atol=0.5)
