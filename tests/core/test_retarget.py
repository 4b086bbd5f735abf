"""A body's motion put on another body: nearer to that body's own motion than any similarity, without sliding feet."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from stableanimator_core.alignment import Similarity, fit_similarity
from stableanimator_core.alignment.faces import SHARED
from stableanimator_core.alignment.retarget import retarget
from stableanimator_core.errors import PoseError
from stableanimator_core.keypoints import Poses
from stableanimator_core.skeleton import FACE_MIRROR

FRAMES = 40
LENGTHS = dict(
    trunk=0.50, shoulder=0.18, hip=0.09, thigh=0.42, shank=0.42, upper=0.30, fore=0.26, neck=0.2, head=1.0
)  # fmt: skip
HEAD_POINTS = np.array([(0, -0.012, 0.12), (-0.032, 0.025, 0.08), (0.032, 0.025, 0.08), (-0.07, 0, 0), (0.07, 0, 0)])


def body_of(**factors):
    return {name: value * factors.get(name, 1.0) for name, value in LENGTHS.items()}


LONG_LEGS = body_of(thigh=1.35, shank=1.35)
SHORT_LEGS = body_of(thigh=0.7, shank=0.7)
BIG_HEAD = body_of(head=1.5, neck=1.3, thigh=0.85, shank=0.85, upper=0.85, fore=0.85)
ADULT = body_of()


def walking(body, frames=FRAMES, still=False, bend=0.0):
    """A walk in place, somebody standing, or somebody with bent legs (radians): joints [F, 18, 3] metres, y up."""
    phase = np.linspace(0, 4 * math.pi, frames)
    level = np.zeros(frames)
    swing = level if still else 1.0
    joints = np.zeros((frames, 18, 3))
    hips, legs = np.zeros((frames, 3)), {}
    for sign, shift in ((-1, 0.0), (1, math.pi)):
        lift = np.clip(np.sin(phase + shift), 0, None) * swing  # one foot is up while the other one stands
        thigh, shank = 0.9 * lift + bend, -0.9 * lift - bend
        down = lambda angle: np.stack([level, -np.cos(angle), np.sin(angle)], -1)  # noqa: E731
        legs[sign] = (body["thigh"] * down(thigh), body["shank"] * down(shank))
    reach = np.maximum(*(-(legs[sign][0] + legs[sign][1])[:, 1] for sign in (-1, 1)))
    hips[:, 1] = reach + 0.08
    hips[:, 0] = 0.05 * np.sin(phase / 2) * swing * (body["thigh"] + body["shank"]) / 0.84
    for sign, hip in ((-1, 8), (1, 11)):
        joints[:, hip] = hips + np.array([sign * body["hip"], 0, 0])
        joints[:, hip + 1] = joints[:, hip] + legs[sign][0]
        joints[:, hip + 2] = joints[:, hip + 1] + legs[sign][1]
    joints[:, 1] = hips + np.array([0, body["trunk"], 0])
    for sign, shoulder in ((-1, 2), (1, 5)):
        arm = 0.3 + 0.5 * np.sin(phase + (sign > 0) * math.pi) * swing
        upper = np.stack([sign * np.sin(arm), -np.cos(arm), 0 * arm], -1)
        fore = np.stack([sign * np.sin(arm + 0.3), -np.cos(arm + 0.3), 0 * arm], -1)
        joints[:, shoulder] = joints[:, 1] + np.array([sign * body["shoulder"], 0, 0])
        joints[:, shoulder + 1] = joints[:, shoulder] + body["upper"] * upper
        joints[:, shoulder + 2] = joints[:, shoulder + 1] + body["fore"] * fore
    ears = joints[:, 1] + np.array([0, body["neck"], 0])
    joints[:, [0, 14, 15, 16, 17]] = ears[:, None] + body["head"] * HEAD_POINTS
    return joints


def seen_by(joints, yaw=0.0, size=300.0, distance=None, place=(400.0, 800.0)):
    """Pixels [F, 18, 2] of joints, turned by yaw in degrees, in parallel or central projection."""
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    x, y, z = np.moveaxis(joints, -1, 0)
    x, z = cos * x + sin * z, cos * z - sin * x
    near = 1.0 if distance is None else distance / (distance - z)
    lift = 0.0 if distance is None else 1.0  # the camera's height
    return np.stack([place[0] + size * near * x, place[1] - size * (lift + near * (y - lift))], -1)


def poses(body, score=None):
    body = body.reshape(-1, 18, 2)
    empty = Poses.empty(len(body), 800, 1000, people=1)
    score = np.ones(body.shape[:2]) if score is None else score
    return dataclasses.replace(empty, body=body[:, None], body_score=score[:, None])


def best_similarity(src, dst):
    """The one similarity that takes a clip [F, 18, 2] nearest to another one."""
    src, dst = (torch.from_numpy(points).reshape(1, -1, 2) for points in (src, dst))
    return fit_similarity(src, dst, torch.ones(src.shape[:2]))


def distance(a, b):
    return float(np.linalg.norm(a - b, axis=-1).mean())


def similar(transform, points):
    return transform.apply(torch.from_numpy(points)).numpy()


@pytest.mark.parametrize("distance_m", [None, 4.0])
@pytest.mark.parametrize("yaw", [0, 35])
@pytest.mark.parametrize(
    ("driver", "model"),
    [(ADULT, LONG_LEGS), (LONG_LEGS, ADULT), (ADULT, SHORT_LEGS), (SHORT_LEGS, LONG_LEGS), (ADULT, BIG_HEAD),
     (BIG_HEAD, ADULT)],
)  # fmt: skip
def test_nearer_to_the_other_bodys_motion_than_any_similarity(driver, model, yaw, distance_m):
    view = dict(yaw=yaw, distance=distance_m)
    driving, truth = seen_by(walking(driver), **view), seen_by(walking(model), size=240.0, **view)
    reference = seen_by(walking(model, 1, still=True), size=240.0, **view)
    oracle = best_similarity(driving, truth)
    found = retarget(poses(driving), poses(reference), oracle)
    assert (found.poses.width, found.poses.height, found.poses.frames) == (800, 1000, FRAMES)
    assert distance(found.poses.body[:, 0], truth) < 0.6 * distance(similar(oracle, driving), truth)


@pytest.mark.parametrize("body", [ADULT, LONG_LEGS, BIG_HEAD])
def test_equal_bodies_get_the_similarity(body):
    driving, reference = seen_by(walking(body)), seen_by(walking(body, 1, still=True), size=150.0)
    transform = Similarity.through(
        *(torch.tensor(value, dtype=torch.float64) for value in ([0.5], [0.1], [[400, 500]], [[300, 350]]))
    )
    found = retarget(poses(driving), poses(reference), transform)
    height = 0.5 * 300 * 1.8  # px
    assert distance(found.poses.body[:, 0], similar(transform, driving)) < 0.01 * height
    assert all(abs(math.log(ratio)) < 0.06 for ratio in found.ratios.values()), found.ratios


def test_the_reference_is_the_frame_that_alignment_takes():
    """The first frame that shows a person counts, not a later one that shows more of another."""
    driving = seen_by(walking(ADULT))
    two = np.concatenate([seen_by(walking(body, 1, still=True)) for body in (LONG_LEGS, SHORT_LEGS)])
    score = np.ones(two.shape[:2])
    score[0, 17] = 0
    transform = best_similarity(driving, driving)
    both, first = (retarget(poses(driving), poses(two[part], score[part]), transform) for part in (slice(2), slice(1)))
    assert both.ratios == first.ratios


def test_size_and_place_stay_the_similaritys():
    driving = seen_by(walking(ADULT))
    reference = seen_by(walking(SHORT_LEGS, 1, still=True), size=500.0)
    transform = best_similarity(driving, 0.7 * driving + 20)
    found = retarget(poses(driving), poses(reference), transform)
    again = best_similarity(similar(transform, driving), found.poses.body[:, 0])
    assert abs(float(again.scale) - 1) < 0.01
    np.testing.assert_allclose(found.poses.body[:, 0].mean((0, 1)), similar(transform, driving).mean((0, 1)))


@pytest.mark.parametrize("model", [LONG_LEGS, SHORT_LEGS, body_of(thigh=1.3, shank=0.9, hip=1.5)])
def test_standing_feet_stay(model):
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(model, 1, still=True))
    transform = best_similarity(driving, driving)
    found = retarget(poses(driving), poses(reference), transform).poses.body[:, 0]
    for ankle in (10, 13):
        before, after = (np.linalg.norm(np.diff(points[:, ankle], axis=0), axis=-1) for points in (driving, found))
        low = driving[:, ankle, 1] > driving[:, ankle, 1].max() - 2
        stands = low[1:] & low[:-1]
        assert stands.sum() > 8
        travelled = before[stands].sum()
        assert after[stands].sum() < 1.5 * travelled + 0.02 * 300
        assert np.ptp(found[low, ankle, 1]) < 0.01 * 300


def test_knee_bends_with_other_thighs_do_not_push_the_feet():
    bend = 0.7 * np.sin(np.linspace(0, 4 * math.pi, FRAMES)) ** 2
    model = body_of(thigh=1.2, shank=0.95)
    driving = seen_by(walking(ADULT, still=True, bend=bend), yaw=80)
    reference = seen_by(walking(model, 1, still=True), yaw=80)
    assert np.ptp(driving[:, [10, 13]], axis=0).max() < 1e-6  # the driver's feet stand
    found = retarget(poses(driving), poses(reference), best_similarity(driving, driving))
    assert found.ratios["thighs"] > 1.15 * found.ratios["shanks"]
    assert np.ptp(found.poses.body[:, 0, [10, 13]], axis=0).max() < 1.0  # px; hips move instead


def test_travel_is_that_of_the_legs():
    across = np.linspace(0, 300, FRAMES)[:, None, None] * np.array([1.0, 0.0])
    driving = seen_by(walking(ADULT)) + across
    for model in (LONG_LEGS, SHORT_LEGS):
        reference = seen_by(walking(model, 1, still=True))
        found = retarget(poses(driving), poses(reference), best_similarity(driving, driving))
        travel = np.ptp(found.poses.body[:, 0, [8, 11], 0].mean(1)) / np.ptp(driving[:, [8, 11], 0].mean(1))
        assert abs(travel / found.ratios["legs"] - 1) < 0.03


def test_lengths_in_another_posture_are_believed_less():
    driving, standing = seen_by(walking(ADULT)), seen_by(walking(LONG_LEGS, 1, still=True))
    raised = standing.copy()
    for shoulder, side in ((2, -1), (5, 1)):
        raised[0, shoulder + 1] = raised[0, shoulder] + (side * 90, 0)
        raised[0, shoulder + 2] = raised[0, shoulder + 1] + (side * 78, 0)
    like, unlike = (
        retarget(poses(driving), poses(reference), best_similarity(driving, driving)).ratios
        for reference in (standing, raised)
    )
    assert like["legs"] / like["trunk"] > 1.3 > unlike["legs"] / unlike["trunk"] > 1.15


def test_nothing_jumps_when_joints_come_and_go():
    rng = np.random.default_rng(0)
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(SHORT_LEGS, 1, still=True))
    transform = best_similarity(driving, driving)
    score = (rng.random((FRAMES, 18)) > 0.25).astype(float)
    for joint, first in ((9, 5), (1, 12), (8, 20), (0, 25)):  # parents that are gone for a while
        score[first : first + 6, joint] = 0
    whole = retarget(poses(driving), poses(reference), transform).poses.body[:, 0]
    holes = retarget(poses(driving, score), poses(reference), transform)
    assert (holes.poses.body_score[:, 0] == score).all() and (holes.poses.body[:, 0][score == 0] == 0).all()
    apart = np.linalg.norm(holes.poses.body[:, 0] - whole, axis=-1)[score > 0]
    assert apart.mean() < 4 and apart.max() < 25  # px of a body 530 high
    steps = np.linalg.norm(np.diff(holes.poses.body[:, 0], axis=0), axis=-1)[(score[1:] > 0) & (score[:-1] > 0)]
    smooth = np.linalg.norm(np.diff(whole, axis=0), axis=-1).max()
    assert steps.max() < smooth + 12


def test_half_bodies_change_what_is_seen_and_keep_the_neck():
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(BIG_HEAD, 1, still=True))
    transform = best_similarity(driving, driving)
    above = np.ones((FRAMES, 18))
    above[:, [8, 9, 10, 11, 12, 13]] = 0
    found = retarget(poses(driving, above), poses(reference, above[:1]), transform)
    body = found.poses.body[:, 0]
    assert found.ratios["head"] > 1.2 * found.ratios["forearms"]
    path = (body - driving)[:, 1]
    assert np.ptp(path, axis=0).max() < 0.2 * np.ptp(driving[:, 1], axis=0).max() + 1e-6
    assert (body[:, [8, 9, 10, 11, 12, 13]] == 0).all()


def test_bent_legs_of_the_reference_are_not_short_legs():
    driving = seen_by(walking(ADULT), yaw=60)
    reference = seen_by(walking(ADULT, 1, still=True, bend=0.9), yaw=60)
    found = retarget(poses(driving), poses(reference), best_similarity(driving, driving))
    assert found.notes == ("the reference's legs are bent: their length was taken from the trunk and arms",)
    assert abs(math.log(found.ratios["legs"])) < 0.05


def test_thighs_towards_the_camera_are_not_short():
    driving, sitting = seen_by(walking(ADULT)), walking(ADULT, 1, still=True)
    for hip in (8, 11):
        sitting[0, hip + 1] = sitting[0, hip] + (0, -0.05, 0.41)
        sitting[0, hip + 2] = sitting[0, hip + 1] + (0, -0.42, 0)
    found = retarget(poses(driving), poses(seen_by(sitting)), best_similarity(driving, driving))
    assert abs(math.log(found.ratios["thighs"])) < 0.08 and abs(math.log(found.ratios["shanks"])) < 0.08


def test_face_and_hands_go_with_nose_and_wrists():
    rng = np.random.default_rng(1)
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(BIG_HEAD, 1, still=True))
    face, hand = rng.normal(0, 10, (68, 2)), rng.normal(0, 10, (21, 2))
    clip = dataclasses.replace(
        poses(driving),
        face=(driving[:, None, 0] + face)[:, None],
        face_score=np.ones((FRAMES, 1, 68)),
        hands=np.stack([driving[:, None, wrist] + hand for wrist in (7, 4)], 1)[:, None],
        hands_score=np.ones((FRAMES, 1, 2, 21)),
    )
    found = retarget(clip, poses(reference), best_similarity(driving, driving))
    body = found.poses.body[:, 0]
    np.testing.assert_allclose(found.poses.face[:, 0] - body[:, None, 0], np.broadcast_to(
        found.ratios["head"] * face, (FRAMES, 68, 2)), atol=1e-9)  # fmt: skip
    for side, wrist in enumerate((7, 4)):
        np.testing.assert_allclose(found.poses.hands[:, 0, side] - body[:, None, wrist], np.broadcast_to(
            found.ratios["forearms"] * hand, (FRAMES, 21, 2)), atol=1e-9)  # fmt: skip
    assert found.ratios["head"] > 1.2


def with_face(pose, face, seen=68):
    """Poses of one person with the face points [68, 2] about the nose, the first ones of which are seen."""
    score = np.zeros((len(pose.body), 1, 68))
    score[..., :seen] = 1
    return dataclasses.replace(pose, face=pose.body[:, :, :1] + face, face_score=score)


def test_faces_tell_how_large_a_head_is_whatever_the_posture():
    face = np.random.default_rng(1).normal(0, 10, (68, 2))
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(body_of(head=1.2), 1, still=True))
    for shoulder, side in ((2, -1), (5, 1)):
        reference[0, shoulder + 1] = reference[0, shoulder] + (side * 90, 0)
        reference[0, shoulder + 2] = reference[0, shoulder + 1] + (side * 78, 0)
    clip, transform = with_face(poses(driving), face), best_similarity(driving, driving)

    def head(seen):
        found = retarget(clip, with_face(poses(reference), 1.4 * face, seen), transform)
        return found.ratios["head"] / found.ratios["trunk"]

    assert head(68) == pytest.approx(1.4, abs=0.02)
    assert head(SHARED) == pytest.approx(head(68), abs=1e-9)
    assert head(SHARED - 1) == head(0) < 1.18, "so few points tell nothing: the joints do, which are believed less"


def test_the_face_gets_the_references_shape_when_all_of_it_is_seen():
    half = np.random.default_rng(2).normal(0, 10, (68, 2))
    face = half + half[list(FACE_MIRROR)] * (-1, 1)
    long = face * (0.9, 1.2)
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(ADULT, 1, still=True))
    clip, transform = with_face(poses(driving), face), best_similarity(driving, driving)

    def shape(seen):
        made = retarget(clip, with_face(poses(reference), long, seen), transform).poses.face[0, 0]
        width, height = np.ptp(made, axis=0)
        return height / width

    own, wanted = (np.ptp(each, axis=0) for each in (face, long))
    assert shape(68) == pytest.approx(wanted[1] / wanted[0], rel=1e-6)
    assert shape(67) == pytest.approx(own[1] / own[0], rel=1e-6)


def test_a_face_in_one_place_tells_nothing():
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(BIG_HEAD, 1, still=True))
    transform = best_similarity(driving, driving)
    clip, picture = (with_face(poses(body), np.zeros((68, 2))) for body in (driving, reference))
    assert retarget(clip, picture, transform).ratios == retarget(poses(driving), poses(reference), transform).ratios


def test_others_get_the_similarity_alone():
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(SHORT_LEGS, 1, still=True))
    both = Poses.empty(FRAMES, 800, 1000, people=2)
    both = dataclasses.replace(
        both, body=np.stack([driving, driving + (150, 0)], 1), body_score=np.ones((FRAMES, 2, 18))
    )
    transform = best_similarity(driving, 0.5 * driving)
    found = retarget(both, poses(reference), transform)
    np.testing.assert_allclose(found.poses.body[:, 1], similar(transform, driving + (150, 0)))
    assert distance(found.poses.body[:, 0], similar(transform, driving)) > 3


def test_ratios_are_bounded_and_said_so():
    tiny = body_of(thigh=0.25, shank=0.25)
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(tiny, 1, still=True))
    found = retarget(poses(driving), poses(reference), best_similarity(driving, driving))
    assert [note for note in found.notes if note.startswith("the reference's thighs would be 0.") and "0.6" in note]


@pytest.mark.parametrize("joints", [[0, 14, 15], [1], [4, 10], [2, 5], [0, 1, 2, 5]])
def test_few_joints_still_work(joints):
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(BIG_HEAD, 1, still=True))
    score = np.zeros((FRAMES, 18))
    score[:, joints] = 1
    for pair in ((score, np.ones((1, 18))), (np.ones((FRAMES, 18)), score[:1]), (score, score[:1])):
        found = retarget(poses(driving, pair[0]), poses(reference, pair[1]), best_similarity(driving, driving))
        apart = np.linalg.norm(found.poses.body[:, 0] - driving, axis=-1)[pair[0] > 0]
        assert np.isfinite(apart).all() and apart.max() < 120


def test_one_frame_and_single_transforms():
    driving, reference = seen_by(walking(ADULT)), seen_by(walking(SHORT_LEGS, 1, still=True))
    one = best_similarity(driving, driving)
    many = Similarity(*(part.expand(FRAMES, *part.shape[1:]) for part in one))
    a, b = (retarget(poses(driving), poses(reference), transform).poses.body for transform in (one, many))
    np.testing.assert_allclose(a, b)
    rounded = Similarity(*(part.float() for part in one))
    np.testing.assert_allclose(retarget(poses(driving), poses(reference), rounded).poses.body, a, atol=1e-3)
    assert retarget(poses(driving[:1]), poses(reference), one).poses.frames == 1
    message = "retarget: the transform holds 40 frames, need 1 or the clip's 5"
    with pytest.raises(PoseError, match=message):
        retarget(poses(driving[:5]), poses(reference), many)


@pytest.mark.parametrize("whose", ["reference", "driving"])
def test_nobody_is_said(whose):
    person, nobody = poses(seen_by(walking(ADULT, 3))), Poses.empty(3, 800, 1000)
    pair = (person, nobody) if whose == "reference" else (nobody, person)
    transform = best_similarity(person.body[:, 0], person.body[:, 0])
    with pytest.raises(PoseError, match=f"{whose} poses: no body joint of person 0 above min_score 0.3 in 3 frames"):
        retarget(*pair, transform)
