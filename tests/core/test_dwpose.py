"""What surrounds DWPose's networks, against known truths; the recorded numbers are in tests/parity."""

import numpy as np
import pytest

from stableanimator_core.pose import dwpose
from stableanimator_core.skeleton import JOINTS, MIRROR


def test_letterbox_keeps_proportions_and_fills_with_grey():
    picture = np.full((20, 40, 3), (10, 20, 30), dtype=np.uint8)
    canvas = dwpose.letterbox(picture, 64, 96)  # scale 2.4
    assert canvas.shape == (3, 64, 96) and canvas.dtype == np.float32
    np.testing.assert_array_equal(canvas[:, :48, :96], np.broadcast_to([[[10]], [[20]], [[30]]], (3, 48, 96)))
    assert (canvas[:, 48:] == 114).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 4001), (4001, 7), (1, 4001), (1, 20000)])
def test_letterbox_of_odd_sizes_shows_at_least_a_line(height, width):
    canvas = dwpose.letterbox(np.zeros((height, width, 3), dtype=np.uint8), 64, 96)
    assert canvas.shape == (3, 64, 96) and (canvas[:, 0, 0] == 0).all()


def test_cells_run_row_by_row_from_fine_to_coarse():
    cells, strides = dwpose.cell_grid(640, 640)
    assert len(cells) == len(strides) == 8400
    assert cells[1].tolist() == [1, 0] and cells[80].tolist() == [0, 1]
    assert strides[[0, 6399, 6400, 7999, 8000, 8399], 0].tolist() == [8, 8, 16, 16, 32, 32]


def test_a_box_is_decoded_from_its_cell():
    raw = np.zeros((126, 7), dtype=np.float32)  # 64 x 96
    anchor = 96 + 1 * 6 + 2  # second grid, row 1, column 2
    raw[anchor] = (0.5, 0.25, np.log(2), np.log(4), 0.5, 0.5, 0.25)
    boxes, scores = dwpose.decode_boxes(raw, 64, 96, ratio=0.5)
    # centre (40, 20), size (32, 64) in the canvas, twice that in the picture
    np.testing.assert_allclose(boxes[anchor], [48, -24, 112, 104], rtol=1e-6)
    np.testing.assert_allclose(scores[anchor], [0.25, 0.125])


def test_a_wild_box_is_infinite_and_no_warning():
    raw = np.full((126, 6), 1000.0, dtype=np.float32)
    boxes, _ = dwpose.decode_boxes(raw, 64, 96, ratio=1.0)
    assert np.isinf(boxes).all()


def test_nms_keeps_the_best_of_each_heap():
    boxes = np.array([[0, 0, 99, 99], [10, 0, 109, 99], [200, 0, 299, 99], [0, 0, 99, 98]], dtype=np.float64)
    assert dwpose.nms(boxes, np.array([0.5, 0.9, 0.3, 0.6])).tolist() == [1, 2]


@pytest.mark.parametrize(("shift", "kept"), [(39, 2), (37, 1)])
def test_nms_keeps_an_overlap_at_the_threshold(shift, kept):
    """100 px wide boxes shifted by s: IoU = (100 - s) / (100 + s); 0.4388 at 39, 0.4599 at 37."""
    boxes = np.array([[0, 0, 99, 99], [shift, 0, shift + 99, 99]], dtype=np.float64)
    assert len(dwpose.nms(boxes, np.array([0.9, 0.8]))) == kept


def test_nms_at_exactly_the_threshold_keeps_both():
    boxes = np.array([[0, 0, 2, 0], [1, 0, 3, 0]], dtype=np.float64)  # 2 of 4 whole pixels
    assert len(dwpose.nms(boxes, np.array([0.9, 0.8]), most_overlap=0.5)) == 2
    assert len(dwpose.nms(boxes, np.array([0.9, 0.8]), most_overlap=0.49)) == 1


def test_nms_of_equal_scores_keeps_the_first_and_of_none_is_empty():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]], dtype=np.float64)
    assert dwpose.nms(boxes, np.array([0.5, 0.5])).tolist() == [0]
    assert dwpose.nms(np.zeros((0, 4)), np.zeros(0)).tolist() == []


@pytest.mark.parametrize("box", [(10, 20, 30, 120), (10, 20, 210, 60), (-50, -40, 10, 20), (5, 5, 6, 6)])
def test_a_crop_has_the_networks_proportions_holds_the_box_with_its_margin_and_can_be_undone(box):
    box = np.array(box, dtype=np.float64)
    width, height = 288, 384
    centre, size = dwpose.crop_region(box, width, height)
    np.testing.assert_allclose(centre, (box[:2] + box[2:]) / 2)
    np.testing.assert_allclose(size[0] / size[1], width / height)
    np.testing.assert_allclose((size / (box[2:] - box[:2])).min(), 1.25)

    matrix = dwpose.crop_matrix(centre, size, width, height)
    points = np.random.default_rng(0).uniform(-100, 300, (50, 2))
    crop = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(dwpose.crop_to_picture(crop, centre, size, width, height), points, atol=1e-9)
    np.testing.assert_allclose(matrix @ [*centre, 1], [width / 2, height / 2])


def test_a_crop_is_normalised_in_the_order_of_the_channels_and_black_outside():
    picture = np.full((10, 10, 3), (255, 128, 0), dtype=np.uint8)
    crop = dwpose.normalised_crop(picture, np.array([[1.0, 0, 0], [0, 1, 0]]), 12, 10)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(crop[:, 5, 5], ((255, 128, 0) - mean) / std)
    np.testing.assert_allclose(crop[:, 5, 11], -mean / std)


def test_simcc_peaks_are_half_pixels_and_the_lower_peak_is_the_score():
    x, y = np.zeros((3, 20)), np.zeros((3, 30))
    x[0, 7], y[0, 12] = 0.9, 0.4
    x[1, 7] = 0.9  # no peak in y
    x[2], y[2] = -1, -0.5
    points, score = dwpose.decode_simcc(x, y)
    np.testing.assert_allclose(score, [0.4, 0, -1])
    np.testing.assert_allclose(points, [[3.5, 6], [-0.5, -0.5], [-0.5, -0.5]])


def test_openpose_order_knows_left_from_right():
    # COCO's names of its body points, and where OpenPose has the same
    coco = ["Nose", "LEye", "REye", "LEar", "REar", "LShoulder", "RShoulder", "LElbow", "RElbow", "LWrist", "RWrist",
            "LHip", "RHip", "LKnee", "RKnee", "LAnkle", "RAnkle"]  # fmt: skip
    points = np.arange(133 * 2, dtype=np.float64).reshape(133, 2)
    score = np.linspace(0.4, 1, 133)
    joined, joined_score = dwpose.to_openpose(points, score)

    assert joined.shape == (134, 2)
    for joint, name in enumerate(JOINTS):
        if name != "Neck":
            np.testing.assert_array_equal(joined[joint], points[coco.index(name)], err_msg=name)
            assert joined_score[joint] == score[coco.index(name)]
    np.testing.assert_array_equal(joined[1], (points[5] + points[6]) / 2)
    assert joined_score[1] == 1
    np.testing.assert_array_equal(joined[dwpose.FACE], points[23:91])
    np.testing.assert_array_equal(joined[dwpose.HANDS], points[91:])
    assert [dwpose.BODY_FROM_COCO[MIRROR[i]] for i in (2, 5)] == [5, 6]


@pytest.mark.parametrize(("left", "right", "neck"), [(0.31, 0.9, 1), (0.3, 0.9, 0), (0.9, 0.3, 0), (0.9, 0.0, 0)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_neck_is_seen_with_both_shoulders_above_the_threshold(left, right, neck, kind):
    score = np.ones(133, dtype=kind)
    score[5], score[6] = left, right
    assert dwpose.to_openpose(np.zeros((133, 2)), score)[1][1] == neck


def test_people_are_reordered_together_as_alone():
    rng = np.random.default_rng(0)
    points, score = rng.normal(size=(4, 133, 2)), rng.uniform(size=(4, 133))
    together = dwpose.to_openpose(points, score)
    np.testing.assert_array_equal(together[0][2], dwpose.to_openpose(points[2], score[2])[0])
    np.testing.assert_array_equal(together[1][2], dwpose.to_openpose(points[2], score[2])[1])
