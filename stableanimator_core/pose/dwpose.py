"""What surrounds DWPose's two networks, in numpy: pictures in, boxes and keypoints out.

The person detector is a YOLOX, the keypoint network an RTMPose with SimCC heads (one classification per axis) on
the 133 points of COCO-WholeBody. Sizes are those of the networks' inputs, read from their files.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..skeleton import BODY_POINTS

STRIDES = (8, 16, 32)  # px of the detector's input per cell of its three grids
PAD_GREY = 114  # what YOLOX was trained to see around a picture
PERSON = 0  # COCO's class

CROP_MARGIN = 1.25  # of a person's box, as the keypoint network was trained
MEAN_RGB = np.array([123.675, 116.28, 103.53])  # ImageNet's
STD_RGB = np.array([58.395, 57.12, 57.375])
SIMCC_SPLIT = 2.0  # SimCC cells per pixel

WHOLEBODY_POINTS = 133
SHOULDERS = (5, 6)  # left, right
SHOULDER_SEEN = 0.3
# Row i: the COCO-WholeBody point that is OpenPose's joint i; None is the neck, which COCO lacks.
BODY_FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
COCO_BODY = 17
# Of the 134 points in OpenPose's order. The six of the feet (18..23) are nobody's.
BODY, FACE, HANDS = slice(0, BODY_POINTS), slice(24, 92), slice(92, 134)


def letterbox_ratio(picture: np.ndarray, height: int, width: int) -> float:
    """By how much a picture [H, W, 3] is scaled to fit a height x width canvas."""
    return min(height / picture.shape[0], width / picture.shape[1])


def letterbox(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture scaled into the top left corner of a grey height x width canvas.

    picture: uint8 [H, W, 3]. Returns float32 [3, height, width], 0..255 in the picture's channel order.
    """
    h, w = picture.shape[:2]
    ratio = letterbox_ratio(picture, height, width)
    inner = (max(1, int(w * ratio)), max(1, int(h * ratio)))  # a very long picture would vanish
    canvas = np.full((height, width, 3), PAD_GREY, dtype=np.uint8)
    canvas[: inner[1], : inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_LINEAR)
    return canvas.transpose(2, 0, 1).astype(np.float32)


def cell_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a detector's input: x y counted in cells [A, 2] and strides [A, 1], fine to coarse, row by row."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decode_boxes(raw: np.ndarray, height: int, width: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The detector's output as boxes [A, 4] (x0 y0 x1 y1, px of the picture) and scores [A, classes].

    raw: [A, 5 + classes] of one picture: centre in cells, log of the size in cells, objectness, classes.
    Boxes of a wild output may be infinite or nan.
    """
    cells, strides = cell_grid(height, width)
    centre = (raw[:, :2] + cells) * strides
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.exp(raw[:, 2:4]) * strides / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1) / ratio
    return boxes, raw[:, 4:5] * raw[:, 5:]


def nms(boxes: np.ndarray, scores: np.ndarray, most_overlap: float = 0.45) -> np.ndarray:
    """Indices of the boxes to keep, best first: none overlaps a better one by an IoU above most_overlap.

    boxes: [N, 4] px of one class; sides are counted in whole pixels, ends included (+ 1). scores: [N].
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    area = sides[:, 0] * sides[:, 1]
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        first = np.maximum(boxes[best, :2], boxes[order, :2])
        last = np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.maximum(0.0, last - first + 1).prod(axis=1)
        overlap = common / (area[best] + area[order] - common)
        order = order[overlap <= most_overlap]
    return np.array(keep, dtype=np.int64)


def crop_region(box: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size [2] px of what the keypoint network sees of a box: a margin, and its own width : height."""
    centre = (box[:2] + box[2:]) / 2
    w, h = (box[2:] - box[:2]) * CROP_MARGIN
    size = (w, w * height / width) if w * height > h * width else (h * width / height, h)
    return centre, np.array(size)


def crop_matrix(centre: np.ndarray, size: np.ndarray, width: int, height: int) -> np.ndarray:
    """Affine [2, 3] from pixels of the picture to pixels of the width x height crop."""
    scale = width / size[0]
    shift = np.array([width, height]) / 2 - scale * centre
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def normalised_crop(picture_rgb: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """A person's crop as the keypoint network takes it: float64 [3, height, width], ImageNet's mean and deviation."""
    crop = cv2.warpAffine(picture_rgb, matrix, (width, height), flags=cv2.INTER_LINEAR)  # black outside
    return ((crop - MEAN_RGB) / STD_RGB).transpose(2, 0, 1)


def decode_simcc(simcc_x: np.ndarray, simcc_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [..., K, 2] in px of the crop and raw scores [..., K]: the peaks of both axes, the lower one counts.

    simcc_x: [..., K, 2 width], simcc_y: [..., K, 2 height]. Without a positive score a point lies at -0.5, -0.5.
    """
    score = np.minimum(simcc_x.max(axis=-1), simcc_y.max(axis=-1))
    peak = np.stack([simcc_x.argmax(axis=-1), simcc_y.argmax(axis=-1)], axis=-1).astype(np.float64)
    return np.where(score[..., None] > 0, peak, -1.0) / SIMCC_SPLIT, score


def crop_to_picture(points: np.ndarray, centre: np.ndarray, size: np.ndarray, width: int, height: int) -> np.ndarray:
    """Points [..., 2] of a width x height crop in px of the picture."""
    return points / np.array([width, height]) * size + centre - size / 2


def to_openpose(points: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO-WholeBody's [..., 133, 2] and [..., 133] as the 134 of DWPose: OpenPose's body, feet, face, hands.

    The neck is the middle of the shoulders, scored 1 when both are seen (above 0.3), else 0.
    """
    neck = points[..., SHOULDERS, :].mean(axis=-2)
    neck_score = (score[..., SHOULDERS] > SHOULDER_SEEN).all(axis=-1).astype(score.dtype)
    with_neck = np.concatenate([points, neck[..., None, :]], axis=-2)
    with_neck_score = np.concatenate([score, neck_score[..., None]], axis=-1)
    body = [WHOLEBODY_POINTS if source is None else source for source in BODY_FROM_COCO]
    order = [*body, *range(COCO_BODY, WHOLEBODY_POINTS)]
    return with_neck[..., order, :], with_neck_score[..., order]
