"""Faces aligned to ArcFace's template: cut out as cv2.warpAffine does, where InsightFace would, differentiably."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stableanimator_core.errors import FaceError
from stableanimator_core.face import FaceBoxes, crop_faces, embed_faces, face_boxes
from stableanimator_core.face.template import TEMPLATE, fit_templates, template_side
from stableanimator_core.keypoints import Poses
from stableanimator_core.models.iresnet import IResNet

RECORDED = json.loads((Path(__file__).parent / "data" / "norm_crop.json").read_text(encoding="utf-8"))["cases"]
POINTS = np.array(TEMPLATE)
FIVE = {36: 0, 42: 1, 30: 2, 48: 3, 54: 4}  # first face point of each part -> row of the template


def wavy_picture(width: int = 320, height: int = 240) -> np.ndarray:
    """[H, W, 3] uint8, smooth, every place another colour."""
    y, x = np.mgrid[:height, :width]
    waves = 127.5 + 127.5 * np.sin(x / 17) * np.cos(y / 23)
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), waves], axis=-1).round().astype(np.uint8)


def as_frames(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_uint8(crops: torch.Tensor) -> np.ndarray:
    return ((crops + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def similarity(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    """Crop px -> frame px: turned by `angle` degrees and scaled about the crop's middle, which comes to x, y."""
    a = np.deg2rad(angle)
    turn = scale * np.array([(np.cos(a), -np.sin(a)), (np.sin(a), np.cos(a))])
    return np.column_stack([turn, np.array([x, y]) - turn @ (55.5, 55.5)])


def moved(matrix: np.ndarray, points: np.ndarray = POINTS) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def places(*matrices: np.ndarray) -> FaceBoxes:
    templates = torch.tensor(np.stack(matrices), dtype=torch.float32)
    return FaceBoxes.of_templates(templates, torch.ones(len(templates), dtype=torch.bool))


def poses_at(points: np.ndarray, *, width: int = 320, height: int = 240, body: bool = False) -> Poses:
    """Somebody whose five points lie at these px from pixel centres, as 68 face points or as eyes and nose."""
    poses = Poses.empty(1, width, height, people=1)
    if body:
        poses.body[0, 0, [14, 15, 0]], poses.body_score[0, 0, [14, 15, 0]] = points[:3] + 0.5, 1
        return poses
    poses.face_score[0, 0] = 1
    poses.face[0, 0] = points.mean(0)
    ring = np.array([(np.cos(a), 0.4 * np.sin(a)) for a in np.arange(6) * np.pi / 3]) * 3
    for first, row in FIVE.items():
        eye = first in (36, 42)
        poses.face[0, 0, first : first + (6 if eye else 1)] = points[row] + 0.5 + (ring if eye else 0)
    return poses


SIMILARITIES = {
    "as it is": similarity(0, 1, 160, 120),
    "turned": similarity(30, 1.3, 150, 110),
    "upside down and small": similarity(175, 0.4, 100, 90),
    "over the edge": similarity(-20, 1.1, 40, 210),
}


# --- crops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", SIMILARITIES.values(), ids=SIMILARITIES)
@pytest.mark.parametrize("size", [112, 56])
def test_a_crop_is_that_of_warp_affine(matrix, size):
    picture = wavy_picture()
    to_crop = matrix * [[112 / size, 112 / size, 1]]
    expected = cv2.warpAffine(
        picture.astype(np.float32), to_crop, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=0
    )
    crop = as_uint8(crop_faces(as_frames(picture), places(matrix), size))[0]
    # warpAffine rounds places to 1/32 px; at the black border that is up to 255 / 64
    assert np.abs(crop - expected).max() < 255 / 32
    assert np.abs(crop - expected).mean() < 0.2


@pytest.mark.parametrize("case", RECORDED, ids=range(len(RECORDED)))
def test_the_same_crop_as_insightface(case):
    landmarks = torch.tensor(case["landmarks"], dtype=torch.float64)[None]
    templates, found = fit_templates(landmarks, torch.ones(1, 5, dtype=torch.bool))
    assert found.all()
    to_crop = np.array([*case["frame_to_crop"], (0, 0, 1)])
    np.testing.assert_allclose(templates[0], np.linalg.inv(to_crop)[:2], atol=1e-3)
    crop = as_uint8(crop_faces(as_frames(wavy_picture()), FaceBoxes.of_templates(templates, found), 112))[0]
    difference = np.abs(crop[::8, ::8] - np.array(case["crop_every_8th"]))
    assert difference.max() < 255 / 32 + 0.5
    assert difference.mean() < 0.5


def test_outside_is_black():
    crop = crop_faces(torch.ones(1, 3, 60, 60), places(similarity(0, 1, 30, 30)), 112)
    assert crop[..., :25, :].eq(-1).all() and crop[..., 30:80, 30:80].eq(1).all()


@pytest.mark.parametrize("angle, scale", [(0, 0.5), (33, 1.7), (-70, 0.8), (180, 1.0)])
def test_a_turned_and_scaled_face_returns_to_the_template(angle, scale):
    """Bright dots where eyes, nose and mouth are come to lie on the template's points."""
    picture = np.zeros((240, 320, 3), np.float32)
    matrix = similarity(angle, scale, 160, 120)
    y, x = np.mgrid[:240, :320]
    for at in moved(matrix):
        picture += 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * (2.5 * scale) ** 2))[..., None]
    faces = face_boxes(poses_at(moved(matrix)), scale=1.5, crop="arcface")
    assert faces.found.all()
    crop = as_uint8(crop_faces(torch.tensor(picture).permute(2, 0, 1)[None] / 127.5 - 1, faces, 112))[0, ..., 0]
    v, u = np.mgrid[:112, :112]
    for px, py in TEMPLATE:
        near = crop * (np.hypot(u - px, v - py) < 8)
        assert ((near * u).sum() / near.sum(), (near * v).sum() / near.sum()) == pytest.approx((px, py), abs=0.1)


def test_large_faces_are_shrunk_before():
    """The grain of a huge picture is averaged, not picked from; the face stays in its place."""
    picture, place = as_frames(wavy_picture()), places(SIMILARITIES["turned"])
    huge = torch.nn.functional.interpolate(picture, scale_factor=6, mode="bilinear", align_corners=False)
    grain = 0.4 * torch.randn(huge.shape, generator=torch.Generator().manual_seed(0))
    expected, large = crop_faces(picture, place, 112), place.scaled(6, 6)
    picked = crop_faces(huge + grain, large, 112) - expected
    averaged = crop_faces(huge + grain, large, 112, antialias=True) - expected
    assert averaged.std() < 0.5 * picked.std()
    assert averaged.mean().abs() < 0.01
    torch.testing.assert_close(crop_faces(huge, large, 112, antialias=True), expected, atol=0.05, rtol=0)


def test_faces_of_usual_size_are_not_shrunk():
    """InsightFace's crop, to the last digit, until a pixel of the crop is made of more than two."""
    picture = as_frames(wavy_picture())
    for scale, same in ((0.5, True), (1.9, True), (2.2, False)):
        place = places(similarity(0, scale, 160, 120))
        plain, shrunk = (crop_faces(picture, place, 112, antialias=antialias) for antialias in (False, True))
        assert shrunk.equal(plain) is same, scale


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 1, 9, 12, generator=generator, dtype=torch.float64).requires_grad_()
    faces = places(similarity(20, 0.06, 6, 4), similarity(-70, 0.1, 5, 5))
    assert torch.autograd.gradcheck(lambda x: crop_faces(x, faces, 6), frames)


def test_only_the_pixels_of_the_face_have_a_gradient():
    frames = torch.rand(1, 1, 60, 80, requires_grad=True)
    faces = places(similarity(15, 0.25, 37, 30))
    crop_faces(frames, faces, 112).square().sum().backward()
    x0, y0, x1, y1 = faces.pixels()[0].tolist()
    inside = torch.zeros_like(frames, dtype=torch.bool)
    inside[..., y0:y1, x0:x1] = True
    assert frames.grad[inside].ne(0).float().mean() > 0.6, "a turned square fills its box in part"
    assert not frames.grad[~inside].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Places are counted in float32: half precision knows whole pixels only, from 2048 on not even these."""
    frames = as_frames(wavy_picture(2400, 60)).to(dtype)
    faces = places(similarity(10, 0.4, 2200, 30))
    crops = crop_faces(frames, faces, 112)
    assert crops.dtype == dtype
    torch.testing.assert_close(crops.float(), crop_faces(frames.float(), faces, 112), atol=0.01, rtol=0)


def test_places_stay_exact_under_autocast():
    frames, faces = as_frames(wavy_picture()), places(SIMILARITIES["turned"])
    with torch.autocast("cpu", torch.bfloat16):
        inside = crop_faces(frames, faces, 112)
    torch.testing.assert_close(inside.float(), crop_faces(frames, faces, 112), atol=0.01, rtol=0)


def test_a_template_outside_the_frame():
    with pytest.raises(FaceError, match=r"face box \[\d+, \d+, \d+, \d+\] lies outside the 320x240 frame"):
        crop_faces(torch.zeros(1, 3, 240, 320), places(similarity(0, 0.5, 500, 100)), 112)


# --- places ---------------------------------------------------------------------------------------------------------


def test_the_box_is_that_of_the_turned_square():
    upright, turned = places(similarity(0, 0.5, 99.5, 79.5), similarity(45, 0.5, 99.5, 79.5)).boxes
    np.testing.assert_allclose(upright, [72, 52, 128, 108], atol=1e-3)
    half = 28 * 2**0.5
    np.testing.assert_allclose(turned, [100 - half, 80 - half, 100 + half, 80 + half], atol=1e-3)
    assert template_side(places(similarity(45, 0.5, 0, 0)).templates).tolist() == [pytest.approx(56)]


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.25])
def test_scaled_places_show_the_same(factor):
    """Keypoints of the resized picture give the place that the resized place is, and the crop shows the same."""
    poses = poses_at(moved(SIMILARITIES["turned"]))
    faces = face_boxes(poses, scale=1.5, crop="arcface")
    scaled = faces.scaled(factor, factor)
    expected = face_boxes(poses.resized(int(320 * factor), int(240 * factor)), scale=1.5, crop="arcface")
    torch.testing.assert_close(scaled.templates, expected.templates, atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.boxes, expected.boxes, atol=1e-3, rtol=0)
    picture = as_frames(wavy_picture())
    larger = torch.nn.functional.interpolate(picture, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(crop_faces(larger, scaled, 112), crop_faces(picture, faces, 112), atol=0.03, rtol=0)


def test_shifted_places_show_the_same():
    picture, faces = as_frames(wavy_picture()), places(SIMILARITIES["turned"])
    window = faces.shifted(-48, -8)
    torch.testing.assert_close(
        crop_faces(picture[..., 8:, 48:], window, 112), crop_faces(picture, faces, 112), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(window.boxes, faces.boxes - torch.tensor([48.0, 8, 48, 8]))


def test_picked_places():
    faces = places(*SIMILARITIES.values())
    picked = faces.picked([2, 0])
    assert picked.templates.equal(faces.templates[[2, 0]]) and picked.boxes.equal(faces.boxes[[2, 0]])
    upright = FaceBoxes(faces.boxes, faces.found).picked([1])
    assert upright.templates is None and upright.boxes.equal(faces.boxes[1:2])


# --- from keypoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [False, True], ids=["68 points", "eyes and nose"])
@pytest.mark.parametrize("matrix", list(SIMILARITIES.values())[:3], ids=list(SIMILARITIES)[:3])
def test_keypoints_give_the_template(matrix, body):
    faces = face_boxes(poses_at(moved(matrix), body=body), scale=1.5, crop="arcface")
    assert faces.found.all()
    np.testing.assert_allclose(faces.templates[0], matrix, atol=1e-3)


def test_face_points_win_over_the_body():
    poses = poses_at(moved(SIMILARITIES["turned"]))
    poses.body[0, 0, [14, 15, 0]], poses.body_score[0, 0, [14, 15, 0]] = [(5, 5), (9, 5), (7, 8)], 1
    expected = face_boxes(poses_at(moved(SIMILARITIES["turned"])), scale=1.5, crop="arcface")
    assert face_boxes(poses, scale=1.5, crop="arcface").templates.equal(expected.templates)


@pytest.mark.parametrize("missing", [36, 41, 42, 47, 30, 48, 54])
def test_a_missing_face_point_leaves_it_to_the_body(missing):
    poses = poses_at(moved(SIMILARITIES["turned"]))
    poses.face_score[0, 0, missing] = 0.3
    assert not face_boxes(poses, scale=1.5, crop="arcface").found.any()
    poses.body[0, 0, [14, 15, 0]], poses.body_score[0, 0, [14, 15, 0]] = moved(SIMILARITIES["as it is"])[:3] + 0.5, 1
    faces = face_boxes(poses, scale=1.5, crop="arcface")
    np.testing.assert_allclose(faces.templates[0], SIMILARITIES["as it is"], atol=1e-3)


def test_a_missing_chin_does_not_matter():
    poses = poses_at(moved(SIMILARITIES["turned"]))
    poses.face_score[0, 0, :17] = 0
    assert face_boxes(poses, scale=1.5, crop="arcface").found.all()


@pytest.mark.parametrize("joint", [0, 14, 15])
def test_without_an_eye_or_the_nose_there_is_no_face(joint):
    poses = poses_at(moved(SIMILARITIES["turned"]), body=True)
    poses.body_score[0, 0, joint] = 0.3
    assert not face_boxes(poses, scale=1.5, crop="arcface").found.any()


def test_points_in_one_place_are_no_face():
    assert not face_boxes(poses_at(np.full((5, 2), 50.0), body=True), scale=1.5, crop="arcface").found.any()


def test_less_than_three_fifths_inside_is_no_face():
    for x, expected in ((160, True), (10, True), (5, False), (-80, False)):
        faces = face_boxes(poses_at(moved(similarity(0, 0.5, x, 120))), scale=1.5, crop="arcface")
        assert faces.found.item() is expected, x
    speck = poses_at(moved(similarity(0, 0.015, 160, 120)), body=True)
    assert not face_boxes(speck, scale=1.5, crop="arcface").found.any()


def test_nobody_has_templates_too():
    faces = face_boxes(Poses.empty(3, 64, 64), scale=1.5, crop="arcface")
    assert faces.found.tolist() == [False] * 3
    assert faces.templates.shape == (3, 2, 3)


def test_the_template_pays_no_heed_to_the_scale():
    poses = poses_at(moved(SIMILARITIES["turned"]))
    one, other = (face_boxes(poses, scale=scale, crop="arcface") for scale in (1.0, 2.0))
    assert one.templates.equal(other.templates)


def test_embeddings_of_aligned_faces():
    """The embedder sees the same crop of an upright face and of the same face turned."""
    torch.manual_seed(0)
    embedder = IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=112, head="depthwise").eval()
    upright, turned = similarity(0, 1, 160, 120), similarity(40, 0.9, 150, 120)
    to_turned = np.vstack([turned, (0, 0, 1)]) @ np.linalg.inv(np.vstack([upright, (0, 0, 1)]))
    picture = wavy_picture()
    frames = as_frames(picture, cv2.warpAffine(picture, to_turned[:2], (320, 240)), picture)
    faces = places(upright, turned, upright)._replace(found=torch.tensor([True, True, False]))
    with torch.no_grad():
        embedded = embed_faces(embedder, frames, faces)
        expected = embedder(crop_faces(frames[:1], faces.picked([0]), 112))
    torch.testing.assert_close(embedded[:1], expected)
    assert torch.cosine_similarity(embedded[0], embedded[1], dim=0) > 0.995
    assert embedded[2].isnan().all()
