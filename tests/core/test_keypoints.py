"""Poses and POSE_KEYPOINT: every dialect gives the same pixels, what is written is strict, errors name the place."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

from stableanimator_core.errors import PoseError
from stableanimator_core.keypoints import Poses

ARRAYS = ("body", "body_score", "face", "face_score", "hands", "hands_score")
PARTS = ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")


def random_poses(frames=3, people=2, width=640, height=480, seed=0):
    rng = np.random.default_rng(seed)
    tails = {"body": (18,), "face": (68,), "hands": (2, 21)}
    arrays = {}
    for name, tail in tails.items():
        arrays[name] = rng.uniform(5, (width, height), (frames, people, *tail, 2))
        arrays[f"{name}_score"] = rng.uniform(0.05, 1, (frames, people, *tail))
    return Poses(**arrays, width=width, height=height)


def assert_same(a, b, tolerance=0.0):
    assert (a.width, a.height) == (b.width, b.height)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance, err_msg=name)


def edited(poses, change):
    """The poses' strict frames after change(person, frame) on a copy of everybody."""
    frames = copy.deepcopy(poses.to_openpose())
    for frame in frames:
        for person in frame["people"]:
            change(person, frame)
    return frames


# --- writing --------------------------------------------------------------------------------------------------------


def test_round_trip_is_exact_through_json():
    poses = random_poses()
    assert_same(Poses.from_openpose(json.loads(json.dumps(poses.to_openpose()))), poses)


def test_strict_form_is_flat_floats_with_seventy_face_points():
    poses = random_poses(frames=1, people=1)
    (frame,) = poses.to_openpose()
    assert set(frame) == {"people", "canvas_width", "canvas_height"}
    (person,) = frame["people"]
    assert {name: len(person[name]) for name in person} == dict(zip(PARTS, (54, 210, 63, 63), strict=True))
    assert all(type(value) is float for name in PARTS for value in person[name])
    body = person["pose_keypoints_2d"]
    assert body[3:6] == [*poses.body[0, 0, 1], poses.body_score[0, 0, 1]]
    assert person["face_keypoints_2d"][68 * 3 :] == body[14 * 3 : 16 * 3]  # right eye, left eye
    assert person["hand_left_keypoints_2d"][:2] == list(poses.hands[0, 0, 0, 0])


def test_missing_points_and_parts_are_written_as_zeros():
    poses = random_poses(frames=1, people=1)
    body_score = poses.body_score.copy()
    body_score[0, 0, 4] = 0
    poses = dataclasses.replace(poses, body_score=body_score, face_score=poses.face_score * 0)
    (person,) = poses.to_openpose()[0]["people"]
    assert person["pose_keypoints_2d"][12:15] == [0, 0, 0]
    assert person["face_keypoints_2d"] == [0.0] * 210  # the eyes are not repeated where there is no face
    assert_same(Poses.from_openpose(poses.to_openpose()), poses)


def test_people_without_a_point_are_left_out_at_the_end_only():
    poses = random_poses(frames=3, people=2)
    scores = {name: getattr(poses, name).copy() for name in ARRAYS if name.endswith("score")}
    for score in scores.values():
        score[0, 1] = 0  # frame 0: the second one is gone
        score[1, 0] = 0  # frame 1: the first one is gone
        score[2] = 0  # frame 2: both are gone
    poses = dataclasses.replace(poses, **scores)
    assert [len(frame["people"]) for frame in poses.to_openpose()] == [1, 2, 0]
    assert_same(Poses.from_openpose(poses.to_openpose()), poses)


def test_save_and_load(tmp_path):
    poses = random_poses()
    poses.save(tmp_path / "poses.json")
    assert_same(Poses.load(tmp_path / "poses.json"), poses)


# --- reading --------------------------------------------------------------------------------------------------------


def test_wrappings():
    poses = random_poses()
    frames = poses.to_openpose()
    assert_same(Poses.from_openpose({"frames": frames}), poses)
    assert_same(Poses.from_openpose([frames[:2], frames[2:]]), poses)
    assert_same(Poses.from_openpose(frames[0]), poses.slice(0, 1))


def test_nested_lists_and_arrays():
    poses = random_poses()

    def nest(person, frame):
        for name in PARTS:
            person[name] = np.reshape(person[name], (-1, 3)).tolist()

    assert_same(Poses.from_openpose(edited(poses, nest)), poses)

    def to_array(person, frame):
        for name in PARTS:
            person[name] = np.array(person[name])

    assert_same(Poses.from_openpose(edited(poses, to_array)), poses)


@pytest.mark.parametrize("absent", [None, [], "key"])
def test_absent_parts_are_missing(absent):
    def drop(person, frame):
        for name in PARTS[1:]:
            if absent == "key":
                del person[name]
            else:
                person[name] = absent

    poses = random_poses()
    read = Poses.from_openpose(edited(poses, drop))
    expected = dataclasses.replace(poses, face_score=poses.face_score * 0, hands_score=poses.hands_score * 0)
    assert_same(read, expected)


def test_none_among_nested_points_is_a_missing_point():
    def nest(person, frame):
        points = np.reshape(person["pose_keypoints_2d"], (-1, 3)).tolist()
        person["pose_keypoints_2d"] = [None if i == 7 else point for i, point in enumerate(points)]

    poses = random_poses()
    read = Poses.from_openpose(edited(poses, nest))
    assert (read.body_score[:, :, 7] == 0).all()
    np.testing.assert_array_equal(np.delete(read.body, 7, 2), np.delete(poses.body, 7, 2))


def test_face_of_68_points():
    def cut(person, frame):
        person["face_keypoints_2d"] = person["face_keypoints_2d"][: 68 * 3]

    poses = random_poses()
    assert_same(Poses.from_openpose(edited(poses, cut)), poses)


def test_body_25():
    def widen(person, frame):
        points = np.reshape(person["pose_keypoints_2d"], (-1, 3))
        mid_hip, feet = [[9, 9, 0.9]], np.full((6, 3), 0.5)
        person["pose_keypoints_2d"] = np.concatenate([points[:8], mid_hip, points[8:], feet]).ravel().tolist()

    poses = random_poses()
    assert_same(Poses.from_openpose(edited(poses, widen)), poses)


@pytest.mark.parametrize("part", PARTS)
def test_fractions_are_recognised_per_array(part):
    def normalise(person, frame):
        points = np.reshape(person[part], (-1, 3)) / [frame["canvas_width"], frame["canvas_height"], 1]
        person[part] = points.ravel().tolist()

    poses = random_poses()
    assert_same(Poses.from_openpose(edited(poses, normalise)), poses, tolerance=1e-9)


def test_fractions_may_lie_a_little_outside_and_missing_points_do_not_vote():
    points = np.tile([0.5, 0.5, 1.0], (18, 1))
    points[0] = [-0.2, 1.3, 1]
    points[1], points[2] = [400, 0.5, 0], [0.5, -400, 0]
    frame = {"canvas_width": 200, "canvas_height": 100, "people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    read = Poses.from_openpose(frame)
    np.testing.assert_allclose(read.body[0, 0, :3], [[-40, 130], [0, 0], [0, 0]])
    np.testing.assert_allclose(read.body[0, 0, 3], [100, 50])


def test_pixels_near_the_origin_stay_pixels():
    points = np.tile([0.5, 0.5, 1.0], (18, 1))
    points[0] = [4, 3, 1]  # one visible point beyond the fractions' range settles it
    frame = {"canvas_width": 200, "canvas_height": 100, "people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    np.testing.assert_array_equal(Poses.from_openpose(frame).body[0, 0, 1], [0.5, 0.5])
    points[0] = [1, 1, 1]
    frame = {"canvas_width": 8, "canvas_height": 8, "people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    np.testing.assert_array_equal(Poses.from_openpose(frame).body[0, 0, 1], [0.5, 0.5])


def test_confidence_below_one_counts_and_above_one_is_clipped():
    points = np.tile([50.0, 60.0, 0.2], (18, 1))
    points[1, 2] = 1.7
    points[2, 2] = -0.4
    frame = {"canvas_width": 200, "canvas_height": 100, "people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    read = Poses.from_openpose(frame)
    assert read.body_score[0, 0, :4].tolist() == [0.2, 1.0, 0.0, 0.2]
    assert read.body[0, 0, 0].tolist() == [50, 60]


def test_frames_of_animals_or_nobody_hold_no_person():
    poses = random_poses(frames=1)
    canvas = {"canvas_width": 640, "canvas_height": 480}
    frames = [*poses.to_openpose(), {**canvas, "version": "ap10k", "animals": [[[1, 2, 1]] * 17]}]
    frames += [{**canvas, "people": []}, {**canvas, "people": None}]
    read = Poses.from_openpose(frames)
    assert read.frames == 4 and read.people == 2
    assert_same(read.slice(0, 1), poses)
    assert not read.slice(1, 4).visible(0.0).any()


def test_feet_and_unknown_keys_are_left_out():
    poses = random_poses()
    frames = edited(poses, lambda person, frame: person.update(foot_keypoints_2d=[1.0] * 18, person_id=[3]))
    assert_same(Poses.from_openpose(frames), poses)


def test_frames_with_fewer_people_are_padded():
    frames = random_poses(frames=2, people=3).to_openpose()
    frames[1]["people"] = frames[1]["people"][:1]
    read = Poses.from_openpose(frames)
    assert read.people == 3
    assert read.visible(0.0).any(-1).tolist() == [[True] * 3, [True, False, False]]


def test_frames_on_another_canvas_are_fitted_into_the_first():
    frames = random_poses(frames=2, people=1, width=400, height=300).to_openpose()
    other = random_poses(frames=2, people=1, width=200, height=300, seed=1)
    read = Poses.from_openpose([frames[0], *other.to_openpose()])
    assert (read.width, read.height) == (400, 300)
    np.testing.assert_allclose(read.slice(1, 3).body, other.body + [100, 0])


# --- geometry -------------------------------------------------------------------------------------------------------


def test_visible_is_strictly_above():
    poses = random_poses(frames=1, people=1)
    score = np.full((1, 1, 18), 0.3)
    score[0, 0, 5] = 0.31
    poses = dataclasses.replace(poses, body_score=score)
    assert np.flatnonzero(poses.visible()).tolist() == [5]
    assert poses.visible(0.2).all()


def test_resized_stretches_and_fitted_keeps_proportions():
    poses = random_poses(width=200, height=100)
    stretched = poses.resized(400, 400)
    np.testing.assert_allclose(stretched.hands, poses.hands * [2, 4])
    fitted = poses.fitted(400, 400)
    np.testing.assert_allclose(fitted.face, poses.face * 2 + [0, 100])
    assert (fitted.width, fitted.height) == (400, 400)


def test_transformed_sees_every_point_once():
    poses = random_poses(frames=2, people=3)
    seen = []

    def shift(points):
        seen.append(points.shape)
        return points + [10, 20]

    moved = poses.transformed(shift)
    assert seen == [(2, 3 * (18 + 68 + 42), 2)]
    for name in ("body", "face", "hands"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(poses, name) + [10, 20])


def test_missing_points_stay_at_zero_when_moved():
    moved = Poses.empty(2, 64, 64, people=1).transformed(lambda points: points + 7)
    assert not moved.body.any() and not moved.hands.any()


def test_person_slice_and_empty():
    poses = random_poses(frames=4, people=3)
    np.testing.assert_array_equal(poses.person(2).body, poses.body[:, 2:3])
    np.testing.assert_array_equal(poses.slice(1, 3).hands_score, poses.hands_score[1:3])
    empty = Poses.empty(5, 64, 32)
    assert (empty.frames, empty.people, empty.width, empty.height) == (5, 0, 64, 32)
    assert [frame["people"] for frame in empty.to_openpose()] == [[]] * 5
    assert empty.resized(10, 10).frames == 5


@pytest.mark.parametrize("people", [0, 1])
def test_nobody_makes_the_round_trip(people):
    frames = Poses.empty(1, 128, 128, people=people).to_openpose()
    assert frames == [{"people": [], "canvas_width": 128, "canvas_height": 128}]
    back = Poses.from_openpose(frames)
    assert (back.frames, back.people, back.width, back.height) == (1, 0, 128, 128)
    assert back.to_openpose() == frames


# --- errors ---------------------------------------------------------------------------------------------------------

GOOD = {"canvas_width": 64, "canvas_height": 64, "people": [{}]}


def with_part(name, value):
    return [GOOD, {**GOOD, "people": [{}, {name: value}]}]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (7, "the poses are an int, expected a list of POSE_KEYPOINT frames"),
        (None, "the poses are None, expected a list of POSE_KEYPOINT frames"),
        ([], "the pose list holds no frame; expected at least one POSE_KEYPOINT frame"),
        ([GOOD, "x"], "frame 1 is a str, expected a POSE_KEYPOINT dict"),
        ([GOOD, {"people": []}], "frame 1: canvas_width is None, expected the width or height in pixels"),
        ([{**GOOD, "canvas_height": "64"}], "frame 0: canvas_height is '64', expected the width or height in pixels"),
        ([{**GOOD, "canvas_height": float("nan")}], "frame 0: canvas_height is nan, expected the width or height"),
        ([{**GOOD, "canvas_width": 1e300}], "frame 0: canvas_width is 1e+300, expected the width or height in pixels"),
        (
            [{**GOOD, "canvas_width": 65_537}],
            "canvas_width is 65537, expected the width or height in pixels, 1 to 65536",
        ),
        ([{**GOOD, "canvas_width": 10**400}], f"canvas_width is 1{'0' * 39}... (401 characters), expected the width"),
        (with_part("pose_keypoints_2d", [1.0] * 53 + [10**400]), f"number 53 is 1{'0' * 39}... (401 characters), exp"),
        (
            with_part("pose_keypoints_2d", [1e300] + [1.0] * 53),
            "point 0 at (1e+300, 1.0) is far outside of any picture",
        ),
        ([{**GOOD, "canvas_width": 0}], "frame 0: canvas_width is 0, expected the width or height in pixels"),
        ([{"canvas_width": 9, "canvas_height": 9}], "frame 0: no 'people' list, found canvas_width, canvas_height"),
        ([{**GOOD, "people": {"a": 1}}], "frame 0: 'people' is a dict, expected a list"),
        ([{**GOOD, "people": [None]}], "frame 0, person 0 is None, expected a dict of keypoint lists"),
        (
            with_part("hand_left_keypoints_2d", [1.0] * 62),
            "frame 1, person 1, hand_left_keypoints_2d: 62 numbers, expected 21 x 3 (x, y and confidence of each",
        ),
        (
            with_part("pose_keypoints_2d", [1.0] * 36),
            "frame 1, person 1, pose_keypoints_2d: 36 numbers, expected 18 x 3 or 25 x 3",
        ),
        (
            with_part("face_keypoints_2d", [1.0] * 69),
            "frame 1, person 1, face_keypoints_2d: 69 numbers, expected 68 x 3 or 70 x 3",
        ),
        (
            with_part("pose_keypoints_2d", [1.0] * 13 + [float("nan")] + [1.0] * 40),
            "frame 1, person 1, pose_keypoints_2d: point 4 is (1.0, nan, 1.0), expected finite numbers",
        ),
        (
            with_part("hand_right_keypoints_2d", "abc"),
            "frame 1, person 1, hand_right_keypoints_2d is a str, expected a list of numbers",
        ),
        (
            with_part("pose_keypoints_2d", [1.0, "2", *[1.0] * 52]),
            "frame 1, person 1, pose_keypoints_2d: number 1 is '2', expected a number",
        ),
        (
            with_part("pose_keypoints_2d", [[1.0, 2.0, 1.0]] * 17 + [[1.0, 2.0]]),
            "frame 1, person 1, pose_keypoints_2d: point 17 is [1.0, 2.0], expected [x, y, confidence]",
        ),
    ],
)
def test_reading_errors_name_the_place_on_one_line(frames, message):
    with pytest.raises(PoseError, match=re.escape(message)) as raised:
        Poses.from_openpose(frames)
    assert "\n" not in str(raised.value)


def test_shape_errors():
    poses = random_poses(frames=2, people=1)
    with pytest.raises(PoseError, match=re.escape("face has shape [2, 1, 68], expected [2, 1, 68, 2]")):
        dataclasses.replace(poses, face=poses.face_score)
    with pytest.raises(PoseError, match=re.escape("body_score has shape (18,), expected [frames, people, 18]")):
        dataclasses.replace(poses, body_score=np.ones(18))


def test_a_visible_point_must_be_finite_and_a_missing_one_need_not():
    poses = random_poses(frames=2, people=1)
    hands = poses.hands.copy()
    hands[1, 0, 1, 3] = np.nan
    with pytest.raises(PoseError, match="frame 1, person 0, hands: a visible point is not finite"):
        dataclasses.replace(poses, hands=hands)
    score = poses.hands_score.copy()
    score[1, 0, 1, 3] = 0
    assert np.isfinite(dataclasses.replace(poses, hands=hands, hands_score=score).hands).all()


def test_canvas_and_person_errors():
    with pytest.raises(PoseError, match="a canvas of 0 x 5 px holds no pose; both sides must be at least 1"):
        Poses.empty(1, 0, 5)
    with pytest.raises(PoseError, match="person 2 asked for, the poses hold 2; count from 0"):
        random_poses().person(2)


def test_file_errors(tmp_path):
    missing, broken, wrong = tmp_path / "missing.json", tmp_path / "broken.json", tmp_path / "wrong.json"
    broken.write_text("[1,")
    wrong.write_text("[]")
    with pytest.raises(PoseError, match="missing.json: cannot read the poses: No such file"):
        Poses.load(missing)
    with pytest.raises(PoseError, match="broken.json: not a JSON file of poses .Expecting value"):
        Poses.load(broken)
    with pytest.raises(PoseError, match="wrong.json: the pose list holds no frame"):
        Poses.load(wrong)
    for text in ("[" * 100_000, "9" * 5_000):
        broken.write_text(text)
        with pytest.raises(PoseError, match="broken.json: not a JSON file of poses [^\n]+$"):
            Poses.load(broken)
    with pytest.raises(PoseError, match="poses.json: cannot write the poses: No such file"):
        random_poses().save(tmp_path / "no" / "poses.json")
