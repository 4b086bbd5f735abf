"""Performers: clips are repeatable, keypoints lie on what is drawn, splits stay apart."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from stableanimator_core.errors import InputError
from stableanimator_core.performers import HELD_OUT, make_clip, make_pair, make_views, random_person
from stableanimator_core.performers.person import BEARDS, FACE_SHAPES, GLASSES, HAIR_STYLES, HATS, MOUTHS, Person, shade


def plain(person: Person, **changes) -> Person:
    """The person without anything that covers the face."""
    bare = {"glasses": "none", "beard": "none", "hat": "none", "blush": False, "hair": "short", **changes}
    return replace(person, head=replace(person.head, **bare))


def near(picture: np.ndarray, point: np.ndarray, radius: int) -> np.ndarray:
    """Pixels [N, 3] of a square round a point."""
    x, y = (int(v) for v in point)
    return (
        picture[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1].reshape(-1, 3).astype(float)
    )


def test_clip_has_the_documented_shapes():
    clip = make_clip(0, size=(128, 96), frames=3)
    assert clip.frames.shape == (3, 96, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.reference.shape == (96, 128, 3)
    assert (clip.poses.frames, clip.poses.people) == (3, 1)
    assert (clip.poses.width, clip.poses.height) == (128, 96)
    assert clip.reference_pose.frames == 1


def test_equal_arguments_give_equal_clips_and_other_seeds_other_ones():
    first, again, other = make_clip(5, frames=2), make_clip(5, frames=2), make_clip(6, frames=2)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.reference, again.reference)
    assert np.array_equal(first.poses.face, again.poses.face)
    assert first.person == again.person
    assert first.person != other.person and not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("seed", range(6))
def test_eyes_are_drawn_at_the_eye_keypoints(seed):
    clip = make_clip(seed, size=224, frames=1, family="wave", person=plain(random_person(seed)))
    pose = clip.reference_pose
    for joint in (14, 15):
        around = near(clip.reference, pose.body[0, 0, joint], 7)
        assert around.min(0).max() < 90, "no dark pupil"
        assert np.abs(around - clip.person.head.iris).sum(1).min() < 60, "no iris"
    for middle, corners in ((14, (36, 39)), (15, (42, 45))):
        ends = pose.face[0, 0, list(corners)]
        assert np.linalg.norm(ends.mean(0) - pose.body[0, 0, middle]) < 2.0


@pytest.mark.parametrize("seed", range(6))
def test_skin_lies_inside_the_jaw_and_not_outside(seed):
    person = plain(random_person(seed), hair="bald", earrings=None)
    clip = make_clip(seed, size=224, frames=1, family="idle", person=person)
    face = clip.reference_pose.face[0, 0]
    nose = face[30]
    for point in (3, 13):
        inside = face[point] + 0.18 * (nose - face[point])
        outside = face[point] - 0.25 * (nose - face[point])
        assert np.abs(near(clip.reference, inside, 1) - person.head.skin).sum(1).min() < 12
        assert np.abs(near(clip.reference, outside, 0) - person.head.skin).sum(1).min() > 12


def test_wrists_and_hands_are_skin_and_ankles_are_clothes():
    person = plain(random_person(3))
    person = replace(person, outfit=replace(person.outfit, sleeves="none", bottom="trousers"))
    clip = make_clip(11, size=224, frames=1, family="star_jump", person=person)
    pose, frame = clip.poses, clip.frames[0]
    seen = 0
    for hand in (0, 1):
        palm = pose.hands[0, 0, hand, 9]
        if pose.hands_score[0, 0, hand].all():
            assert np.abs(near(frame, palm, 1) - person.head.skin).sum(1).min() < 30
            seen += 1
    for joint in (9, 12):
        if pose.body_score[0, 0, joint] > 0:
            assert np.abs(near(frame, pose.body[0, 0, joint], 2) - person.outfit.bottom_colour).sum(1).min() < 30
            seen += 1
    assert seen


def test_the_left_hand_is_the_one_at_the_left_wrist():
    clip = make_clip(4, frames=1)
    left, right = clip.poses.body[0, 0, 7], clip.poses.body[0, 0, 4]
    assert np.allclose(clip.poses.hands[0, 0, 0, 0], left) or clip.poses.body_score[0, 0, 7] == 0
    assert np.allclose(clip.poses.hands[0, 0, 1, 0], right) or clip.poses.body_score[0, 0, 4] == 0


def test_scores_are_one_inside_the_picture_and_zero_outside():
    clips = [make_clip(seed, frames=2) for seed in range(30)]
    assert {s for clip in clips for s in np.unique(clip.poses.body_score)} == {0.0, 1.0}
    for clip in clips:
        points = clip.poses.body[clip.poses.body_score > 0]
        assert (points >= 0).all() and (points < 160).all()
        assert clip.poses.face_score.mean() > 0.9


def test_only_the_pose_moves_against_the_background():
    clip = make_clip(2, frames=4, family="wave")
    corner = np.concatenate([clip.frames[:, :6, :6], clip.reference[None, :6, :6]])
    assert (corner == corner[0]).all()


def test_the_reference_is_fairly_frontal():
    for seed in range(12):
        face = make_clip(seed, frames=1).reference_pose.face[0, 0]
        left, right = np.linalg.norm(face[30] - face[2]), np.linalg.norm(face[30] - face[14])
        assert 0.33 < left / right < 3.0


def test_held_out_families_and_people_are_not_in_training():
    names = {part for seed in range(150) for part in make_clip(seed, size=32, frames=1).motion.split("+")}
    assert not names & set(HELD_OUT) and len(names) > 8
    held_out = {p for seed in range(8) for p in make_clip(seed, size=32, frames=1, split="held_out").motion.split("+")}
    assert held_out == set(HELD_OUT)
    training = {random_person(seed).head for seed in range(100)}
    assert not training & {random_person(seed, "held_out").head for seed in range(100)}


def test_views_keep_the_head_and_change_the_rest():
    views = make_views(7, views=3, size=96)
    assert len(views) == 3 and views[0][0].shape == (96, 96, 3)
    assert all(pose.frames == 1 and pose.face_score.all() for _, pose in views)
    assert not np.array_equal(views[0][0], views[1][0])
    person = random_person(7)
    changed = person.dressed(np.random.default_rng(1)).built(np.random.default_rng(2))
    assert changed.head == person.head and changed.outfit != person.outfit and changed.body != person.body


def test_a_pair_has_the_same_clip_and_another_driver():
    pair = make_pair(1, frames=3)
    clip = make_clip(1, frames=3, split="held_out")
    assert np.array_equal(pair.clip.frames, clip.frames)
    assert pair.driver_poses.frames == 3
    both = (pair.driver_poses.body_score > 0) & (clip.poses.body_score > 0)
    assert np.abs(pair.driver_poses.body - clip.poses.body)[both].mean() > 2


def test_people_differ():
    heads = [random_person(seed).head for seed in range(400)]
    for field, options in (("hair", HAIR_STYLES), ("shape", FACE_SHAPES), ("glasses", GLASSES), ("beard", BEARDS),
                           ("hat", HATS), ("mouth", MOUTHS)):  # fmt: skip
        assert {getattr(head, field) for head in heads} == set(options)
    assert len(set(heads)) == len(heads)


@pytest.mark.parametrize("hair", HAIR_STYLES)
def test_every_hair_style_is_drawn_in_the_hair_colour(hair):
    person = random_person(1)
    person = replace(person, head=replace(person.head, hair=hair, hat="none", hair_colour=(0, 200, 40), beard="none"))
    frame = make_clip(1, frames=1, person=person).reference.astype(int)
    assert (np.abs(frame - (0, 200, 40)).sum(-1) < 20).any() == (hair != "bald")


@pytest.mark.parametrize("hat", [hat for hat in HATS if hat != "none"])
def test_every_hat_is_drawn_in_its_colour(hat):
    person = random_person(2)
    person = replace(person, head=replace(person.head, hair="short", hat=hat, hat_colour=(250, 20, 220)))
    frame = make_clip(1, frames=1, person=person).reference.astype(int)
    assert (np.abs(frame - (250, 20, 220)).sum(-1) < 20).sum() > 10


def test_shade_darkens_and_lightens():
    assert shade((100, 100, 100), 0.5) == (50, 50, 50)
    assert shade((100, 100, 100), 2.0) == (255, 255, 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split 'test' is unknown; choose from train, held_out"),
        ({"frames": 0}, "0 frames asked for"),
        ({"size": 16}, "16 x 16 px is too small"),
        ({"family": "polka"}, "motion 'polka' is unknown"),
        ({"seed": -1}, "seed -1 is negative"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        make_clip(**{"seed": 0, **arguments})


def test_no_views_is_an_error():
    with pytest.raises(InputError, match="0 views"):
        make_views(0, views=0)


def test_a_frame_takes_milliseconds():
    make_clip(0)
    start = time.process_time()
    for seed in range(3):
        make_clip(seed)
    assert (time.process_time() - start) / (3 * 17) < 0.02
