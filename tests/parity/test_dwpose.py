"""Boxes and keypoints around DWPose's two networks equal the recorded ones."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from golden import golden_path, load_json

from stableanimator_core.onnx_session import Session
from stableanimator_core.pose import dwpose
from stableanimator_core.pose.detector import PoseDetector

RECORD = load_json("dwpose_postprocess.json")
ARRAYS = np.load(golden_path("dwpose_arrays.npz"))


def recorded_detector_output() -> np.ndarray:
    """[1, A, 85] of the recorded full-size run."""
    record = RECORD["detector_full"]
    raw = np.full(record["raw_output_shape"], record["raw_output_default"], dtype=np.float32)
    for row in record["raw_output_rows"]:
        raw[0, row["anchor"]] = row["values"]
    return raw


def recorded_peaks() -> list[np.ndarray]:
    """simcc_x [P, 133, 2 width] and simcc_y [P, 133, 2 height] of the recorded full-size run."""
    record = RECORD["wholebody_full"]
    peaks = [np.zeros((len(record["simcc_peaks"]), *shape[1:]), np.float32) for shape in record["simcc_shapes"]]
    for person, at in enumerate(record["simcc_peaks"]):
        for array, place, value in zip(peaks, (at["x"], at["y"]), (at["vx"], at["vy"])):
            array[person, np.arange(array.shape[1]), place] = value
    return peaks


def played_back(inputs: dict, outputs: dict, fed: list) -> Session:
    """A session that answers with recorded outputs and keeps what it was fed."""

    def run(_, feeds):
        fed.extend(feeds.values())
        return list(outputs.values())

    runner = SimpleNamespace(run=run, get_inputs=lambda: [SimpleNamespace(type="tensor(float)")])
    shapes = tuple((name, array.shape) for name, array in outputs.items())
    return Session(golden_path("played_back.onnx"), "CPU", None, tuple(inputs.items()), shapes, runner)


@pytest.fixture
def fed() -> list[np.ndarray]:
    """What the two networks were fed, in that order."""
    return []


@pytest.fixture
def detector(fed) -> PoseDetector:
    x, y = recorded_peaks()
    size = tuple(RECORD["wholebody_full"]["pose_input"]["shape"][2:])
    return PoseDetector(
        played_back(
            {"images": tuple(RECORD["detector_full"]["input_shape"])}, {"output": recorded_detector_output()}, fed
        ),
        played_back({"input": (len(x), 3, *size)}, {"simcc_x": x, "simcc_y": y}, fed),
    )


def test_detector_input():
    record = RECORD["det_preprocess"]
    picture, size = ARRAYS["det_pre_image"], record["input_size_hw"]
    assert dwpose.letterbox_ratio(picture, *size) == record["ratio"]
    np.testing.assert_array_equal(dwpose.letterbox(picture, *size), ARRAYS["det_pre_out"])


def test_full_size_detector_input():
    record = RECORD["detector_full"]
    canvas = dwpose.letterbox(ARRAYS["det_full_image"], *record["input_shape"][2:])
    whole = np.ascontiguousarray(canvas.astype(np.uint8))
    assert hashlib.sha256(whole.tobytes()).hexdigest() == record["input_sha256"]


def test_boxes_and_scores():
    size = RECORD["det_preprocess"]["input_size_hw"]
    boxes, scores = dwpose.decode_boxes(ARRAYS["det_raw"][0], *size, RECORD["det_preprocess"]["ratio"])
    assert len(boxes) == RECORD["det_decode"]["num_anchors"]
    np.testing.assert_allclose(boxes, ARRAYS["det_boxes_xyxy"], atol=1e-4)
    np.testing.assert_allclose(scores, ARRAYS["det_scores"], atol=1e-6)


def test_suppression_of_overlapping_boxes():
    boxes, scores = ARRAYS["det_boxes_xyxy"], ARRAYS["det_scores"]
    kept = []
    for label, score in enumerate(scores.T):
        candidates = np.flatnonzero(score > RECORD["det_decode"]["score_thr"])
        chosen = candidates[dwpose.nms(boxes[candidates], score[candidates], RECORD["det_decode"]["nms_thr"])]
        kept.append(np.column_stack([boxes[chosen], score[chosen], np.full(len(chosen), label)]))
    np.testing.assert_allclose(np.concatenate(kept), ARRAYS["det_nms"], atol=1e-6)


def test_crops_of_the_keypoint_network():
    record = RECORD["pose_preprocess"]
    width, height = record["input_size_wh"]
    for i, box in enumerate(record["bboxes"]):
        centre, size = dwpose.crop_region(np.array(box), width, height)
        np.testing.assert_allclose(centre, ARRAYS["pose_pre_centers"][i])
        np.testing.assert_allclose(size, ARRAYS["pose_pre_scales"][i])
        matrix = dwpose.crop_matrix(centre, size, width, height)
        np.testing.assert_allclose(matrix, ARRAYS["pose_pre_warp"][i], atol=1e-5)
        check_crop(matrix, width, height, ARRAYS["pose_pre_images"][i])


def test_crop_of_a_whole_picture():
    width, height = RECORD["pose_preprocess"]["input_size_wh"]
    h, w = ARRAYS["det_pre_image"].shape[:2]
    centre, size = dwpose.crop_region(np.array([0.0, 0.0, w, h]), width, height)
    np.testing.assert_allclose(centre, RECORD["pose_preprocess_no_box"]["center"])
    np.testing.assert_allclose(size, RECORD["pose_preprocess_no_box"]["scale"])
    check_crop(dwpose.crop_matrix(centre, size, width, height), width, height, ARRAYS["pose_pre_nobox_image"])


def check_crop(matrix, width, height, expected):
    """Equal, but for the few grey levels by which OpenCV 4, which warps in steps of 1/32 px, is coarser."""
    crop = dwpose.normalised_crop(ARRAYS["det_pre_image"], matrix, width, height).transpose(1, 2, 0)
    apart = np.abs(crop - expected) * dwpose.STD_RGB
    assert apart.max() < 4 and apart.mean() < 0.5  # a quarter of a pixel gives 40 and 4


def test_keypoints_from_peaks():
    width, height = RECORD["simcc"]["input_size_wh"]
    for i in range(len(ARRAYS["simcc_x"])):
        points, scores = dwpose.decode_simcc(ARRAYS["simcc_x"][i, 0], ARRAYS["simcc_y"][i, 0])
        region = ARRAYS["pose_pre_centers"][i], ARRAYS["pose_pre_scales"][i]
        points = dwpose.crop_to_picture(points, *region, width, height)
        np.testing.assert_allclose(points, ARRAYS["simcc_keypoints"][i], atol=1e-6)
        np.testing.assert_allclose(scores, ARRAYS["simcc_scores"][i], atol=1e-7)


def test_the_134_points_of_two_people():
    record = RECORD["wholebody_full"]
    width, height = RECORD["wholebody_full"]["pose_input"]["shape"][:1:-1]
    points, scores = dwpose.decode_simcc(*recorded_peaks())
    for i, box in enumerate(RECORD["detector_full"]["final_boxes_xyxy"]):
        in_picture = dwpose.crop_to_picture(points[i], *dwpose.crop_region(np.array(box), width, height), width, height)
        joined, joined_scores = dwpose.to_openpose(in_picture, scores[i])
        np.testing.assert_allclose(joined, record["keypoints134"][i], atol=1e-3)
        np.testing.assert_allclose(joined_scores, record["scores134"][i], atol=1e-7)


def test_order_and_parts_of_the_134_points():
    index = np.arange(dwpose.WHOLEBODY_POINTS, dtype=np.float64)
    order, _ = dwpose.to_openpose(np.stack([index, index], axis=-1), np.ones(dwpose.WHOLEBODY_POINTS))
    np.testing.assert_array_equal(order[:, 0], RECORD["mapping"]["source_index_of_each_of_134"])
    slices = RECORD["slices"]
    assert [dwpose.BODY.start, dwpose.BODY.stop] == slices["body"]
    assert [dwpose.FACE.start, dwpose.FACE.stop] == slices["face"]
    assert [dwpose.HANDS.start, dwpose.HANDS.stop] == [slices["hand_first"][0], slices["hand_second"][1]]


def test_the_whole_way_from_a_frame_to_two_people(detector, fed):
    record = RECORD["wholebody_full"]
    height, width = record["image_shape_hw"]
    (people,) = detector.detect([ARRAYS["det_full_image"]])

    np.testing.assert_allclose(
        [person.box for person in people], RECORD["detector_full"]["final_boxes_xyxy"], atol=1e-4
    )
    count = len(people)
    size = np.array([width, height])
    bodies, pose = record["pose"]["bodies"], record["pose"]
    body = np.stack([person.body for person in people])
    np.testing.assert_allclose(body[..., :2] / size, np.reshape(bodies["candidate"], (count, 18, 2)), atol=1e-6)
    np.testing.assert_allclose(body[..., 2], bodies["score"], atol=1e-7)
    np.testing.assert_array_equal(body[..., 2] > 0.3, np.array(bodies["subset"]) >= 0)
    face = np.stack([person.face for person in people])
    np.testing.assert_allclose(face[..., :2] / size, pose["faces"], atol=1e-6)
    np.testing.assert_allclose(face[..., 2], pose["faces_score"], atol=1e-7)
    hands = np.stack([person.hands for person in people], axis=1).reshape(2 * count, 21, 3)  # left of all, right of all
    np.testing.assert_allclose(hands[..., :2] / size, pose["hands"], atol=1e-6)
    np.testing.assert_allclose(hands[..., 2], pose["hands_score"], atol=1e-7)

    # The published code feeds RGB to the detector too; the recorded run shows the same picture with channels reversed.
    canvas = dwpose.letterbox(ARRAYS["det_full_image"], *fed[0].shape[2:])
    np.testing.assert_array_equal(fed[0][0], canvas[::-1])


def test_nobody_is_nobody(detector):
    assert detector.detect([ARRAYS["det_full_image"]], min_person_score=0.95) == [[]]
