"""Faces in a picture: the SCRFD detector (arXiv 2105.04714) on onnxruntime, fed as InsightFace feeds it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..errors import WeightsError
from ..onnx_session import Session, open_session
from ..pose.dwpose import nms
from ..weights.places import Places

SIDE = 640  # px of the input, where the graph leaves it open
STRIDES = (8, 16, 32)
ANCHORS = 2  # in each cell
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4  # intersection over union


class DetectedFace(NamedTuple):
    """One face. Coordinates are px of the picture, counted from pixel centres."""

    box: np.ndarray  # [4] x0 y0 x1 y1
    landmarks: np.ndarray  # [5, 2] eyes, nose, mouth corners, left and right as the picture shows them
    score: float


class FaceDetector:
    """SCRFD with landmarks (antelopev2's scrfd_10g_bnkps).

    Raises WeightsError when the graph's input and outputs are not that detector's.
    """

    def __init__(self, session: Session):
        shape = session.inputs[0][1]
        sides = [side or SIDE for side in shape[2:]]
        right = len(session.inputs) == 1 and len(session.outputs) == 3 * len(STRIDES)
        if not right or len(shape) != 4 or any(side % STRIDES[-1] for side in sides):
            raise WeightsError(
                f"{session.path}: no face detector: {len(session.inputs)} inputs, the first {list(shape)}, "
                f"{len(session.outputs)} outputs; SCRFD with landmarks takes one [1, 3, {SIDE}, {SIDE}] and gives 9; "
                "take antelopev2's scrfd_10g_bnkps.onnx"
            )
        self.session, self.input = session, session.inputs[0][0]
        self.height, self.width = sides

    @classmethod
    def load(cls, places: Places, device: str = "auto") -> FaceDetector:
        """The detector among the published files. device: as in open_session.

        Raises WeightsError when its file is missing or damaged.
        """
        return cls(open_session(places.require("face_detector")["face_detector"], device))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: why it runs on the CPU although there is a GPU."""
        return (self.session.note,) if self.session.note else ()

    def detect(self, picture: np.ndarray) -> list[DetectedFace]:
        """Faces of a picture, [H, W, 3] uint8 RGB, the surest first.

        A face that fills the picture is larger than those SCRFD knows: where none is found, half the size is tried.
        """
        return self._detect(picture, 1) or self._detect(picture, 2)

    def _detect(self, picture: np.ndarray, smaller: int) -> list[DetectedFace]:
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        scale = letterbox(picture, canvas[: self.height // smaller, : self.width // smaller])
        blob = ((canvas.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]  # [1, 3, H, W], RGB
        boxes, landmarks, scores = self._candidates(self.session.run({self.input: blob}))
        kept = nms(boxes / scale, scores, MAX_OVERLAP)
        return [DetectedFace(boxes[i] / scale, landmarks[i] / scale, float(scores[i])) for i in kept]

    def _candidates(self, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [N, 4], landmarks [N, 5, 2] in px of the canvas and scores [N] of all anchors above MIN_SCORE.

        Outputs are the scores of each stride, then the boxes, then the landmarks; the latter are distances from the
        anchor in strides. Anchors lie on the corners of the cells, row by row.
        """
        found = []
        for i, stride in enumerate(STRIDES):
            scores, boxes, landmarks = (
                outputs[i + kind * len(STRIDES)].reshape(-1, width) for kind, width in enumerate((1, 4, 10))
            )
            rows, columns = np.mgrid[: self.height // stride, : self.width // stride].astype(np.float32) * stride
            anchors = np.stack([columns, rows], axis=-1).reshape(-1, 2).repeat(ANCHORS, axis=0)  # [N, 2]
            sure = scores[:, 0] >= MIN_SCORE
            anchors, boxes, landmarks = anchors[sure], boxes[sure] * stride, landmarks[sure] * stride
            corners = np.concatenate([anchors - boxes[:, :2], anchors + boxes[:, 2:]], axis=1)
            found.append((corners, anchors[:, None] + landmarks.reshape(-1, 5, 2), scores[sure, 0]))
        return tuple(np.concatenate(column) for column in zip(*found))


def letterbox(picture: np.ndarray, canvas: np.ndarray) -> float:
    """Fit a picture into the top left corner of a canvas, in place. Returns canvas px per picture px."""
    height, width = canvas.shape[:2]
    tall = picture.shape[0] / picture.shape[1]
    if tall > height / width:
        new_width, new_height = max(int(height / tall), 1), height
    else:
        new_width, new_height = width, max(int(width * tall), 1)
    canvas[:new_height, :new_width] = cv2.resize(picture, (new_width, new_height))
    return new_height / picture.shape[0]
