"""The face detector gives what InsightFace gives, on a tiny network with SCRFD's inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scrfd_graph import SIZES, picture_of, save_scrfd

from stableanimator_core.errors import WeightsError
from stableanimator_core.face import FaceDetector
from stableanimator_core.face.detect import MAX_OVERLAP, letterbox
from stableanimator_core.onnx_session import open_session
from stableanimator_core.pose.dwpose import nms
from stableanimator_core.weights import FILES, Places

RECORDED = json.loads((Path(__file__).parent / "data" / "scrfd.json").read_text(encoding="utf-8"))["faces"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return FaceDetector(open_session(save_scrfd(tmp_path_factory.mktemp("scrfd") / "open.onnx"), "cpu"))


@pytest.mark.parametrize("name", SIZES)
def test_faces_are_those_of_insightface(detector, name):
    """Recorded from BGR pictures, which InsightFace turns into RGB: ours are RGB throughout."""
    faces, expected = detector.detect(picture_of(name)), RECORDED[name]
    assert len(faces) == len(expected["scores"]) > 2
    scores = [face.score for face in faces]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, expected["scores"], atol=2e-4)
    np.testing.assert_allclose([face.box for face in faces], expected["boxes"], atol=0.05)
    np.testing.assert_allclose([face.landmarks for face in faces], expected["landmarks"], atol=0.05)


@pytest.mark.parametrize("side, batched", [(640, False), (640, True), (None, True)])
def test_graphs_of_a_fixed_size_and_with_a_batch_axis(detector, tmp_path, side, batched):
    other = FaceDetector(open_session(save_scrfd(tmp_path / "other.onnx", side=side, batched=batched), "cpu"))
    picture = picture_of("portrait")
    for face, expected in zip(other.detect(picture), detector.detect(picture), strict=True):
        np.testing.assert_array_equal(face.landmarks, expected.landmarks)


def test_a_fixed_side_is_respected(tmp_path):
    detector = FaceDetector(open_session(save_scrfd(tmp_path / "small.onnx", side=320), "cpu"))
    assert (detector.width, detector.height) == (320, 320)
    assert detector.detect(picture_of("landscape"))


def test_colours_matter(detector):
    """The tiny network knows red faces alone, as the real one knows human ones: the channels must not be swapped."""
    red = np.zeros((120, 120, 3), np.uint8)
    red[40:80, 40:80, 0] = 255
    assert detector.detect(red)
    assert detector.detect(np.ascontiguousarray(red[..., ::-1])) == []


def test_no_face(detector):
    assert detector.detect(np.zeros((50, 70, 3), np.uint8)) == []


def test_a_sliver_of_a_picture(detector):
    assert detector.detect(np.zeros((2, 3000, 3), np.uint8)) == []


def test_letterbox():
    picture, canvas = np.full((30, 60, 3), 200, np.uint8), np.zeros((64, 64, 3), np.uint8)
    assert letterbox(picture, canvas) == pytest.approx(32 / 30)
    assert (canvas[:32] == 200).all() and not canvas[32:].any()
    canvas[:] = 0
    assert letterbox(picture.transpose(1, 0, 2), canvas) == pytest.approx(64 / 60)
    assert (canvas[:, :32] == 200).all() and not canvas[:, 32:].any()


def test_a_face_that_fills_the_picture(detector, monkeypatch):
    """A network that knows no large faces: the picture is shown to it once more, half as large, and only then."""
    shown, runner = [], detector.session.runner

    def run_small(names, feeds):
        shown.append(feeds["input"])
        red = (feeds["input"][0, 0] > 0.5).sum()
        outputs = runner.run(names, feeds)
        return outputs if red < 640 * 640 / 3 else [np.zeros_like(output) for output in outputs]

    knows_no_large = detector.session._replace(runner=SimpleNamespace(run=run_small))
    monkeypatch.setattr(detector, "session", knows_no_large)
    picture = np.zeros((400, 400, 3), np.uint8)
    picture[20:380, 20:380, 0] = 250
    faces = detector.detect(picture)
    assert len(shown) == 2 and faces
    assert (shown[1][:, :, :320, :320] == shown[0][:, :, ::2, ::2]).mean() > 0.9
    middle = np.mean([(face.box[:2] + face.box[2:]) / 2 for face in faces], axis=0)
    np.testing.assert_allclose(middle, [200, 200], atol=30)
    shown.clear()
    picture[100:] = 0
    assert detector.detect(picture) and len(shown) == 1


def test_overlapping_boxes_are_one_face():
    # 10 x 10 px with both corners; shifted by 4 the overlap is 60 / 140, by 5 it is 50 / 150
    boxes = np.array([[0, 0, 9, 9], [4, 0, 13, 9], [30, 0, 39, 9], [5, 0, 14, 9]], dtype=np.float32)
    assert nms(boxes, np.array([0.9, 0.8, 0.95, 0.7]), MAX_OVERLAP).tolist() == [2, 0, 3]
    assert nms(boxes[:0], np.zeros(0)).tolist() == []


def test_load_finds_the_file(tmp_path):
    path = tmp_path / FILES["face_detector"].path
    with pytest.raises(WeightsError, match=r"scrfd_10g_bnkps\.onnx.*weights download"):
        FaceDetector.load(Places((tmp_path,)), "cpu")
    path.parent.mkdir(parents=True)
    save_scrfd(path)
    detector = FaceDetector.load(Places((tmp_path,)), "cpu")
    assert detector.detect(picture_of("landscape"))
    assert detector.notes == ()


@pytest.mark.parametrize("settings", [{"outputs": 6}, {"side": 600}], ids=["no landmarks", "odd size"])
def test_another_network(tmp_path, settings):
    path = save_scrfd(tmp_path / "other.onnx", **settings)
    with pytest.raises(WeightsError, match=r"other\.onnx: no face detector: 1 inputs.* take antelopev2's") as error:
        FaceDetector(open_session(path, "cpu"))
    assert "\n" not in str(error.value)
