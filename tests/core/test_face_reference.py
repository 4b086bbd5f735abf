"""Which face is the reference's, and when it is none that an identity could be taken from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stableanimator_core.errors import FaceError
from stableanimator_core.face import (
    DetectedFace,
    ReferenceFace,
    embed_reference,
    encode_reference_face,
    locate_among,
    locate_in_pose,
)
from stableanimator_core.face.template import TEMPLATE
from stableanimator_core.keypoints import Poses
from stableanimator_core.models.iresnet import IResNet

SIZE = WIDTH, HEIGHT = 400, 300
FRONT = np.array(TEMPLATE) - 56  # px about the middle of the crop


def face_points(x: float, y: float, side: float = 80, *, angle: float = 0, turn: float = 0) -> np.ndarray:
    """Five points of a face in a crop of `side` px; turn: degrees that the head looks to the picture's right."""
    points = FRONT.copy()
    depth = np.array([0, 0, 26.0, 4, 4])  # the nose stands out
    t, a = np.deg2rad(turn), np.deg2rad(angle)
    points[:, 0] = points[:, 0] * np.cos(t) + depth * np.sin(t)
    points = points @ np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))])
    return points * side / 112 + (x, y)


def detected(*args, score: float = 0.9, **kwargs) -> DetectedFace:
    landmarks = face_points(*args, **kwargs)
    middle, half = landmarks.mean(0), 1.2 * np.abs(landmarks - landmarks.mean(0)).max()
    return DetectedFace(np.concatenate([middle - half, middle + half]), landmarks, score)


def pose_of(*people: np.ndarray | None, whole: bool = False) -> Poses:
    """People whose five points these are, as the body's eyes and nose or as 68 face points; None shows no head."""
    poses = Poses.empty(1, WIDTH, HEIGHT, people=len(people))
    for person, points in enumerate(people):
        poses.body[0, person, 1], poses.body_score[0, person, 1] = (50, 200), 1
        if points is None:
            continue
        if whole:
            poses.face_score[0, person] = 1
            poses.face[0, person] = points.mean(0) + 0.5
            for part, point in zip((range(36, 42), range(42, 48), (30,), (48,), (54,)), points):
                poses.face[0, person, list(part)] = point + 0.5
        else:
            poses.body[0, person, [14, 15, 0]] = points[:3] + 0.5
            poses.body_score[0, person, [14, 15, 0]] = 1
    return poses


def aligned(pose: Poses, **choice):
    return locate_in_pose(pose, SIZE, scale=1.5, crop="arcface", **choice)


def nose_of(place) -> list[float]:
    """Where the template's nose comes to lie, px."""
    return (place.templates[0] @ torch.tensor([*TEMPLATE[2], 1])).tolist()


# --- which face -----------------------------------------------------------------------------------------------------

LARGE, SMALL, MIDDLE = detected(300, 150, 120), detected(60, 80, 50), detected(180, 200, 70, score=0.99)


def test_without_a_pose_the_largest():
    place = locate_among([MIDDLE, SMALL, LARGE], SIZE)
    assert nose_of(place) == pytest.approx(LARGE.landmarks[2], abs=0.01)
    assert place.found.tolist() == [True]
    assert place.boxes[0].tolist() == pytest.approx([240.5, 90.5, 360.5, 210.5], abs=1)


@pytest.mark.parametrize("choose, expected", [(0, SMALL), (1, MIDDLE), (2, LARGE)])
def test_a_choice_counts_from_the_left(choose, expected):
    pose = pose_of(LARGE.landmarks)
    for given in (None, pose):
        place = locate_among([MIDDLE, LARGE, SMALL], SIZE, given, choose=choose)
        assert nose_of(place) == pytest.approx(expected.landmarks[2], abs=0.01)


@pytest.mark.parametrize("face", [SMALL, MIDDLE, LARGE], ids=["small", "middle", "large"])
def test_the_face_of_the_poses_first_person(face):
    others = [other.landmarks for other in (LARGE, SMALL, MIDDLE) if other is not face]
    for whole in (False, True):
        place = locate_among([LARGE, SMALL, MIDDLE], SIZE, pose_of(face.landmarks, *others, whole=whole))
        assert nose_of(place) == pytest.approx(face.landmarks[2], abs=0.01)


def test_a_pose_on_another_canvas():
    pose = pose_of(SMALL.landmarks).resized(WIDTH * 3, HEIGHT * 3)
    assert nose_of(locate_among([LARGE, SMALL], SIZE, pose)) == pytest.approx(SMALL.landmarks[2], abs=0.01)
    assert nose_of(aligned(pose)) == pytest.approx(SMALL.landmarks[2], abs=0.01)


def test_an_empty_pose_is_no_pose():
    place = locate_among([SMALL, LARGE], SIZE, Poses.empty(1, WIDTH, HEIGHT))
    assert nose_of(place) == pytest.approx(LARGE.landmarks[2], abs=0.01)


def test_from_the_pose_the_first_person_or_the_choice():
    pose = pose_of(MIDDLE.landmarks, LARGE.landmarks, None, SMALL.landmarks)
    assert nose_of(aligned(pose)) == pytest.approx(MIDDLE.landmarks[2], abs=0.01)
    for choose, face in enumerate((SMALL, MIDDLE, LARGE)):
        assert nose_of(aligned(pose, choose=choose)) == pytest.approx(face.landmarks[2], abs=0.01)


def test_detector_and_pose_lay_the_template_alike():
    face = detected(200, 150, 90, angle=25)
    one, other = locate_among([face], SIZE), aligned(pose_of(face.landmarks, whole=True))
    torch.testing.assert_close(one.templates, other.templates, atol=1e-3, rtol=0)


def test_the_embedding_of_a_place():
    torch.manual_seed(0)
    embedder = IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=32, head="depthwise").eval()
    image = torch.rand(3, HEIGHT, WIDTH) * 2 - 1
    pose = pose_of(face_points(200, 150, 90), whole=True)
    with torch.no_grad():
        found = encode_reference_face(embedder, image, pose, scale=1.5, crop="arcface")
        again = embed_reference(embedder, image, found.place)
        upright = encode_reference_face(embedder, image, pose, scale=1.5)
    torch.testing.assert_close(again, found)
    assert found.place.templates[0].equal(found.template) and found.place.boxes[0].equal(found.box)
    assert upright.template is None and upright.place.templates is None
    assert not torch.allclose(upright.embedding, found.embedding)
    assert ReferenceFace(torch.zeros(16), torch.zeros(4)).place.found.all()


@torch.no_grad()
@pytest.mark.parametrize("crop", ["box", "arcface"])
def test_another_network_sees_the_same_face_without_the_picture(crop):
    torch.manual_seed(0)
    embedder, judge, larger = (
        IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=size, head="depthwise").eval() for size in (32, 32, 48)
    )
    image = torch.rand(3, HEIGHT // 10, WIDTH // 10)
    image = torch.nn.functional.interpolate(image[None], (HEIGHT, WIDTH), mode="bicubic")[0].clamp(-1, 1)
    pose = pose_of(face_points(200, 150, 90), whole=True)
    face = encode_reference_face(embedder, image, pose, scale=1.5, crop=crop)
    torch.testing.assert_close(face.embedded_by(embedder), face.embedding)
    torch.testing.assert_close(face.embedded_by(judge), embed_reference(judge, image, face.place).embedding)
    enlarged, cut = face.embedded_by(larger), embed_reference(larger, image, face.place).embedding
    assert torch.cosine_similarity(enlarged, cut, dim=0) > 0.99


# --- none, or not good enough ---------------------------------------------------------------------------------------


def refused(call, whose: str = "reference") -> str:
    """What is said of one of the two inputs: what was found and what to do."""
    with pytest.raises(FaceError) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{whose}: ") and "; " in message and "\n" not in message
    return message


def test_nothing_detected():
    message = refused(lambda: locate_among([], SIZE))
    assert message == "reference: no face found in the picture; use one that shows the face"
    message = refused(lambda: locate_among([], SIZE, pose_of(None, None)))
    assert "no face found in the picture (people in its pose: 2)" in message


def test_nothing_in_the_pose():
    def said(pose: Poses, **choice) -> str:
        return refused(lambda: aligned(pose, **choice), "reference_pose")

    assert "no face in its keypoints (the nose" in said(pose_of(None))
    assert "no face in its keypoints (it shows nobody; the nose" in said(Poses.empty(1, WIDTH, HEIGHT))
    assert "none of 2 people; the nose" in said(pose_of(None, None))
    assert "none of 2 people; the nose" in said(pose_of(None, None), choose=1)
    message = said(pose_of(None, LARGE.landmarks))
    assert "person 1 shows one, but person 0 of 2 is followed" in message


def test_a_choice_that_is_not_there():
    for call in (
        lambda n: locate_among([LARGE, SMALL], SIZE, choose=n),
        lambda n: aligned(pose_of(LARGE.landmarks, SMALL.landmarks), choose=n),
    ):
        for n in (2, -1):
            with pytest.raises(FaceError, match=f"face {n} asked for, the picture shows 2; count from 0 at the left"):
                call(n)


@pytest.mark.parametrize("side, fine", [(26, True), (22, False)])
def test_too_small(side, fine):
    face = detected(200, 150, side)
    calls = (lambda: locate_among([face], SIZE), lambda: aligned(pose_of(face.landmarks, whole=True)))
    for call in calls:
        if fine:
            assert call().found.all()
        else:
            assert "the face is too small, 22 px across where 24 are needed; use a larger or closer" in refused(call)


@pytest.mark.parametrize("angle", [0, 40, -90, 180])
@pytest.mark.parametrize("turn, fine", [(0, True), (25, True), (-25, True), (50, False), (-50, False), (85, False)])
def test_in_profile(turn, fine, angle):
    """However the picture is turned: a head that looks aside is a profile, one that leans is none."""
    points = face_points(200, 150, 90, angle=angle, turn=turn)
    calls = [
        lambda: locate_among([detected(200, 150, 90, angle=angle, turn=turn)], SIZE),
        lambda: aligned(pose_of(points, whole=True)),
        lambda: aligned(pose_of(points)),
    ]
    for call in calls:
        if fine:
            assert call().found.all()
        else:
            assert "the face is in profile" in refused(call)


def test_both_signs_of_a_profile():
    beyond = face_points(200, 150)
    beyond[2] += (30, 0)
    assert "(the nose lies beyond an eye)" in refused(lambda: aligned(pose_of(beyond, whole=True)))
    narrow = face_points(200, 150)
    narrow[:2, 0] = (narrow[:2, 0] - narrow[2, 0]) * 0.3 + narrow[2, 0]
    assert "(its eyes are close together for its height)" in refused(lambda: aligned(pose_of(narrow, whole=True)))


def test_cut_off_by_the_edge():
    assert locate_among([detected(20, 150)], SIZE).found.all()
    message = refused(lambda: locate_among([detected(2, 150)], SIZE))
    assert "the picture's edge cuts off the face" in message


def test_pose_and_picture_disagree():
    message = refused(lambda: locate_among([SMALL, MIDDLE], SIZE, pose_of(LARGE.landmarks)), "reference_pose")
    assert "pose and picture disagree: the pose has the head at (300, 1" in message
    assert "the nearest face found is 1" in message
    message = refused(lambda: locate_among([SMALL, MIDDLE], SIZE, pose_of(None, SMALL.landmarks)), "reference_pose")
    assert "its first person shows no head, so none of the faces in reference (2) can be theirs" in message


def test_upright_boxes_are_not_judged():
    """A model trained on upright boxes was trained on what they show, small and from the side."""
    small = pose_of(face_points(200, 150, 16, turn=60), whole=True)
    assert locate_in_pose(small, SIZE, scale=1.5).found.all()
