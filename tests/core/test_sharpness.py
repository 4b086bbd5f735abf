"""How sharp a face is beside the reference's, and faces to look at."""

import pytest
import torch
import torch.nn.functional as F

from stableanimator_core.face import FaceBoxes, ReferenceFace
from stableanimator_core.face.pictures import face_pictures
from stableanimator_core.face.sharpness import detail, reference_among, sharpness


@pytest.fixture
def faces():
    return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def blurred(faces):
    return F.avg_pool2d(faces, 3, stride=1, padding=1)


def boxes_of(*sides, found=None):
    corners = torch.tensor([[0.0, 0.0, side, side] for side in sides])
    return FaceBoxes(corners, torch.tensor(found or [True] * len(sides)))


def test_detail_tells_blur_from_sharpness(faces):
    assert (detail(blurred(faces)) < 0.2 * detail(faces)).all()
    torch.testing.assert_close(detail(2 * faces), 4 * detail(faces))
    assert detail(torch.full_like(faces, 0.3)).max() < 1e-9


def test_a_face_is_as_sharp_as_itself(faces):
    assert sharpness(faces[:1], faces[0]).tolist() == [pytest.approx(1)]
    assert sharpness(1.2 * faces[:1], faces[0]).tolist() == [pytest.approx(1.44, rel=1e-4)]
    assert sharpness(blurred(faces[:1]), faces[0]).item() < 0.2
    assert sharpness(faces * torch.nan, faces[0]).isnan().all()


def test_a_small_face_is_as_sharp_as_the_close_up_that_it_was_shrunk_from(faces):
    """A picture of 96 px, and the same in the 32 px of a frame, enlarged for the embedder."""
    picture = F.interpolate(faces[..., :16, :16], (96, 96), mode="bicubic") + 0.2 * F.interpolate(faces, (96, 96))
    small = F.interpolate(picture, (32, 32), mode="bilinear", antialias=True)
    enlarged = F.interpolate(small, (96, 96), mode="bilinear")
    close_up = ReferenceFace(torch.zeros(8), torch.tensor([0.0, 0, 200, 200]), crop=picture[0])
    assert sharpness(enlarged[:1], picture[0]).item() < 0.2
    assert sharpness(enlarged[:1], reference_among(close_up, boxes_of(28, 32, 99))).item() == pytest.approx(1)
    hidden = boxes_of(32, 9, 9, found=[True, False, False])
    assert sharpness(enlarged[:1], reference_among(close_up, hidden)).item() == pytest.approx(1)


def test_a_reference_no_larger_than_the_faces_is_left_alone(faces):
    far = ReferenceFace(torch.zeros(8), torch.tensor([0.0, 0, 20, 20]), crop=faces[0])
    assert reference_among(far, boxes_of(30)) is far.crop
    assert reference_among(far, boxes_of(10)) is not far.crop
    near = far._replace(box=torch.tensor([0.0, 0, 200, 200]))
    assert reference_among(near, boxes_of(90)) is near.crop, "the crop has 48 px"
    assert reference_among(near._replace(crop=None), boxes_of(10)) is None


def test_frames_without_a_face_are_grey():
    boxes = FaceBoxes(torch.tensor([[0.0, 0, 8, 8], [0, 0, 0, 0]]), torch.tensor([True, False]))
    faces = face_pictures(torch.ones(2, 3, 16, 16), boxes, [0, 1], side=32)
    assert faces.shape == (2, 32, 32, 3)
    assert (faces[0] == 255).all() and (faces[1] == 128).all()
