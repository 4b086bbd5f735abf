"""Faces: where they are, how they are cut out, and what they are compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stableanimator_core.errors import FaceError
from stableanimator_core.face import (
    FaceBoxes,
    crop_faces,
    csim,
    embed_faces,
    encode_reference_face,
    face_boxes,
    score_identity,
)
from stableanimator_core.keypoints import Poses
from stableanimator_core.models.iresnet import IResNet
from stableanimator_core.skeleton import HEAD

NOSE = HEAD[0]


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    return IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=32, head="depthwise").eval()


def poses_of(*, face=None, head=None, width=100, height=80, frames=1) -> Poses:
    """One person: face [68, 2] px and head [5, 2] px (nose, eyes, ears), each absent or fully seen."""
    poses = Poses.empty(frames, width, height, people=1)
    if face is not None:
        poses.face[:, 0], poses.face_score[:, 0] = face, 1
    if head is not None:
        poses.body[:, 0, list(HEAD)], poses.body_score[:, 0, list(HEAD)] = head, 1
    return poses


def ring(x, y, radius):
    """68 points on a circle: their extent is the diameter."""
    angle = np.linspace(0, 2 * np.pi, 69)[:-1]
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=-1)


def head_at(x, y, spread):
    """Nose, eyes and ears of somebody who looks at the camera; the ears are `spread` apart."""
    return np.array([(0, 0), (-0.2, -0.1), (0.2, -0.1), (-0.5, 0), (0.5, 0)]) * spread + (x, y)


def upright(boxes) -> FaceBoxes:
    """A face in every frame, cut out by its box."""
    return FaceBoxes(torch.tensor(boxes, dtype=torch.float32), torch.ones(len(boxes), dtype=torch.bool))


# --- boxes ----------------------------------------------------------------------------------------------------------


def test_box_of_the_face_points():
    boxes, found, _ = face_boxes(poses_of(face=ring(50, 40, 10)), scale=1.5)
    assert found.tolist() == [True]
    # extent 20: a square of 30 round the middle, a tenth of the extent higher than it (the forehead has no points)
    np.testing.assert_allclose(boxes[0], [35, 23, 65, 53], atol=0.1)


def test_scale_is_the_side_over_the_extent():
    for scale in (1.0, 1.2, 2.0):
        boxes, *_ = face_boxes(poses_of(face=ring(50, 40, 10)), scale=scale)
        assert (boxes[0, 2:] - boxes[0, :2]).tolist() == pytest.approx([20 * scale] * 2, abs=0.1)


def test_box_from_the_head_joints():
    boxes, found, _ = face_boxes(poses_of(head=head_at(50, 40, 20)), scale=1.0)
    assert found.all()
    centre, side = (boxes[0, :2] + boxes[0, 2:]) / 2, boxes[0, 2] - boxes[0, 0]
    assert side == pytest.approx(20 * 1.15)  # the ears lie a little inside the face
    assert centre[0] == pytest.approx(50)
    assert centre[1] == pytest.approx(40 - 0.1 * side)


def test_face_points_win_over_head_joints():
    both = face_boxes(poses_of(face=ring(30, 40, 8), head=head_at(70, 40, 30)), scale=1.5)
    face = face_boxes(poses_of(face=ring(30, 40, 8)), scale=1.5)
    assert both.boxes.equal(face.boxes)


def test_half_the_face_points_are_enough():
    poses = poses_of(face=ring(50, 40, 10))
    poses.face_score[:, :, 34:] = 0
    assert face_boxes(poses, scale=1.5).found.all()
    poses.face_score[:, :, 33:] = 0.3  # a score of .3 is not above .3
    assert not face_boxes(poses, scale=1.5).found.any()


def test_missing_points_do_not_stretch_the_box():
    poses = poses_of(face=ring(50, 40, 10))
    poses.face[0, 0, 7] = 0
    poses.face_score[0, 0, 7] = 0
    np.testing.assert_allclose(face_boxes(poses, scale=1.5).boxes[0], [35, 23, 65, 53], atol=0.2)


@pytest.mark.parametrize("missing", [[NOSE], list(HEAD[1:4])], ids=["back of the head", "two joints"])
def test_turned_away(missing):
    poses = poses_of(head=head_at(50, 40, 20))
    poses.body_score[:, :, missing] = 0
    assert not face_boxes(poses, scale=1.5).found.any()


def test_box_that_leaves_the_picture():
    # a square of side 20 about (x, 38); with x = 2 its share inside is .6, with x = 1 less, far away nothing
    for x, expected in ((50, True), (10, True), (3, True), (1, False), (-40, False), (99, False)):
        assert face_boxes(poses_of(face=ring(x, 40, 10)), scale=1.0).found.item() is expected, x
    assert not face_boxes(poses_of(face=ring(50, -90, 10)), scale=1.0).found.any()


def test_boxes_smaller_than_two_pixels_are_no_face():
    assert not face_boxes(poses_of(face=ring(50, 40, 0.5)), scale=1.5).found.any()
    assert not face_boxes(poses_of(face=ring(50, 40, 0)), scale=1.5).found.any()


def test_nobody_and_the_second_person():
    assert face_boxes(Poses.empty(3, 64, 64), scale=1.5).found.tolist() == [False] * 3
    one = poses_of(face=ring(50, 40, 10))
    assert not face_boxes(one, scale=1.5, person=1).found.any()
    two = Poses.empty(1, 100, 80, people=2)
    two.face[0, 1], two.face_score[0, 1] = ring(20, 40, 10), 1
    assert not face_boxes(two, scale=1.5).found.any()
    assert face_boxes(two, scale=1.5, person=1).boxes[0, 0] == pytest.approx(5, abs=0.1)


def test_scaled_boxes_are_boxes_of_scaled_poses():
    poses = poses_of(face=ring(50, 40, 10))
    scaled = face_boxes(poses, scale=1.5).scaled(2, 2)
    torch.testing.assert_close(scaled.boxes, face_boxes(poses.resized(200, 160), scale=1.5).boxes)
    assert FaceBoxes(torch.ones(1, 4), torch.ones(1)).scaled(2, 3).boxes.tolist() == [[2, 3, 2, 3]]


# --- crops ----------------------------------------------------------------------------------------------------------


def test_a_crop_at_its_own_size_is_the_pixels():
    frames = torch.rand(2, 3, 20, 30)
    boxes = [[3.0, 4, 11, 12], [10.4, 2.4, 18.4, 10.4]]  # the second rounds to whole pixels
    crops = crop_faces(frames, upright(boxes), 8)
    assert crops[0].equal(frames[0, :, 4:12, 3:11])
    assert crops[1].equal(frames[1, :, 2:10, 10:18])


def test_a_crop_is_clamped_to_the_frame():
    frames = torch.rand(1, 3, 20, 30)
    crops = crop_faces(frames, upright([[-5, -5, 10, 10]]), 10)
    assert crops[0].equal(frames[0, :, :10, :10])


def test_crops_are_differentiable_inside_the_box_only():
    frames = torch.rand(1, 3, 20, 30, requires_grad=True)
    crop_faces(frames, upright([[3, 4, 11, 12]]), 16).sum().backward()
    inside = torch.zeros_like(frames)
    inside[..., 4:12, 3:11] = 1
    assert frames.grad.ne(0).float().equal(inside)


def test_a_crop_outside_the_frame():
    with pytest.raises(FaceError, match=r"face box \[40, 0, 50, 10\] lies outside the 30x20 frame; check the aligned"):
        crop_faces(torch.zeros(1, 3, 20, 30), upright([[40, 0, 50, 10]]), 8)


# --- embeddings -----------------------------------------------------------------------------------------------------


def test_csim_knows_direction_not_length():
    a = torch.tensor([[1.0, 0], [1, 1], [2, 0], [-3, 0]])
    expected = torch.tensor([1, 0.5**0.5, 1, -1])
    torch.testing.assert_close(csim(a, torch.tensor([5.0, 0])), expected)
    assert csim(a.half(), a.half()).dtype == torch.float32


def test_embeddings_are_nan_where_there_is_no_face(embedder):
    frames = torch.rand(3, 3, 40, 40) * 2 - 1
    faces = FaceBoxes(torch.tensor([[0.0, 0, 32, 32], [float("nan")] * 4, [8, 8, 40, 40]]), torch.tensor([1, 0, 1]) > 0)
    embedded = embed_faces(embedder, frames, faces)
    assert embedded.isnan().any(1).tolist() == [False, True, False]
    assert embedded[1].isnan().all()
    torch.testing.assert_close(embedded[2:], embedder(frames[2:, :, 8:, 8:]))
    scores = score_identity(embedder, frames, faces, embedded[0])
    assert scores[0].item() == pytest.approx(1)
    assert scores.isnan().tolist() == [False, True, False]


def test_no_face_at_all_is_all_nan(embedder):
    nobody = FaceBoxes(torch.zeros(2, 4), torch.zeros(2, dtype=torch.bool))
    embedded = embed_faces(embedder, torch.rand(2, 3, 40, 40), nobody)
    assert embedded.shape == (2, 16)
    assert embedded.isnan().all()


def test_embedding_in_half_precision():
    torch.manual_seed(0)
    half = IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=32, head="depthwise").eval().bfloat16()
    faces = FaceBoxes(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([True]))
    embedded = embed_faces(half, torch.rand(1, 3, 40, 40).bfloat16(), faces)
    assert embedded.dtype == torch.float32
    assert embedded.isfinite().all()


def test_reference_face_on_another_canvas(embedder):
    image = torch.rand(3, 80, 100) * 2 - 1
    pose = poses_of(face=ring(50, 40, 10))
    face = encode_reference_face(embedder, image, pose, scale=1.5)
    small = encode_reference_face(embedder, image, pose.resized(50, 40), scale=1.5)
    np.testing.assert_allclose(face.box, [35, 23, 65, 53], atol=0.1)
    torch.testing.assert_close(small.box, face.box)
    torch.testing.assert_close(small.embedding, face.embedding)
    assert face.embedding.shape == (16,)


def test_reference_uses_the_first_frame(embedder):
    image = torch.rand(3, 80, 100)
    pose = poses_of(face=ring(50, 40, 10), frames=2)
    pose.face[1] += 20
    first = encode_reference_face(embedder, image, pose.slice(0, 1), scale=1.5)
    torch.testing.assert_close(encode_reference_face(embedder, image, pose, scale=1.5), first)


def test_reference_without_a_face(embedder):
    with pytest.raises(FaceError, match="reference_pose: no face in its keypoints .*; give the pose of a picture"):
        encode_reference_face(embedder, torch.rand(3, 80, 100), poses_of(), scale=1.5)
