"""People in frames: a person detector (YOLOX) and a whole-body keypoint network (RTMPose), as DWPose joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError, PoseError, WeightsError
from ..files import PACKAGE, PROGRAM, fetch_again
from ..onnx_session import Session, Shape, fits, listed, open_session
from ..skeleton import HAND_POINTS
from . import dwpose

if TYPE_CHECKING:
    from ..weights.places import Places

# Of a network whose file leaves them open: the batch that is still fast, and the size it was trained on.
FRAMES_AT_ONCE = 8
PEOPLE_AT_ONCE = 16
DETECTOR_SIZE = (640, 640)  # height, width
KEYPOINT_SIZE = (384, 288)

FILES = ("person_detector", "keypoint_detector")  # DWPose's, by their keys in the registry
BUILT_IN = PACKAGE / "assets" / "poses"
BUILT_IN_NOTE = (
    "found by the built-in pose estimator, which knows drawn performers; "
    f"for people in photographs: {PROGRAM} weights download poses"
)
DETECTORS = ("auto", "dwpose", "built-in")

LONGEST_SIDE = 32_766  # px that OpenCV can warp
SMALLEST_BOX = 1.0  # px; nobody's joints are found in less


class Person(NamedTuple):
    """One detected person in one frame. Points are x y px and a score of 0..1; weak ones keep their place."""

    box: np.ndarray  # [4] x0 y0 x1 y1 px, may reach beyond the frame
    score: float  # of the detector
    body: np.ndarray  # [18, 3] OpenPose order
    face: np.ndarray  # [68, 3]
    hands: np.ndarray  # [2, 21, 3] left, right


class PoseDetector:
    """DWPose, or networks like it: finds everybody's body, face and hands. `notes` are what the user should know."""

    def __init__(self, person_session: Session, keypoint_session: Session, notes: Sequence[str] = ()) -> None:
        """Raises WeightsError when a graph is not the one that it should be."""
        size = _picture_size(person_session, DETECTOR_SIZE)
        boxes = {"output": (None, len(dwpose.cell_grid(*size)[0]), None)}
        self._boxes = _Network(person_session, "a YOLOX person detector", "images", size, boxes, FRAMES_AT_ONCE)
        size = _picture_size(keypoint_session, KEYPOINT_SIZE)
        peaks = {name: (None, dwpose.WHOLEBODY_POINTS, 2 * side) for name, side in zip(("simcc_y", "simcc_x"), size)}
        what = "a SimCC whole-body keypoint network"
        self._keypoints = _Network(keypoint_session, what, "input", size, peaks, PEOPLE_AT_ONCE)
        notes = (*notes, person_session.note, keypoint_session.note)
        self.notes = tuple(dict.fromkeys(note for note in notes if note))

    @classmethod
    def load(cls, places: Places, device: str = "auto") -> PoseDetector:
        """Open both networks. Raises WeightsError for missing or wrong files, InputError without onnxruntime."""
        files = places.require(*FILES)
        return cls(*(open_session(files[key], device) for key in FILES))

    @classmethod
    def built_in(cls, folder: Path = BUILT_IN) -> PoseDetector:
        """The small networks that ship here, or those of another folder; they are fast on a CPU, and run there.

        Raises WeightsError for missing or wrong files, InputError without onnxruntime.
        """
        return cls(*(open_session(folder / f"{key}.onnx", "cpu") for key in FILES), notes=(BUILT_IN_NOTE,))

    @classmethod
    def choose(cls, detector: str, places: Places, device: str = "auto") -> PoseDetector:
        """The one of DETECTORS that which_detector names. Raises what that, load and built_in raise."""
        return cls.load(places, device) if which_detector(detector, places) == "dwpose" else cls.built_in()

    def detect(self, frames: Sequence[np.ndarray], *, min_person_score: float = 0.3) -> list[list[Person]]:
        """Everybody in each frame, the surest first; an empty list where nobody scores above min_person_score.

        frames: uint8 RGB [H, W, 3], of any sizes. Raises PoseError for a frame of another kind.
        """
        for index, frame in enumerate(frames):
            _check_frame(index, frame)
        sightings = [
            sighting
            for index, raw in enumerate(self._boxes.run(frames, self._detector_input))
            for sighting in self._sightings(index, frames[index], raw["output"], min_person_score)
        ]
        people: list[list[Person]] = [[] for _ in frames]
        for sighting, peaks in zip(sightings, self._keypoints.run(sightings, self._keypoint_input)):
            people[sighting.index].append(self._person(sighting, peaks))
        return people

    def _detector_input(self, frame: np.ndarray) -> np.ndarray:
        # YOLOX was trained on OpenCV's BGR, 0..255, the keypoint network on RGB with ImageNet's means. The published
        # code hands RGB to both.
        return dwpose.letterbox(frame, *self._boxes.size)[::-1]

    def _sightings(self, index: int, frame: np.ndarray, raw: np.ndarray, min_person_score: float) -> list[_Sighting]:
        """The people among the detector's boxes, the surest first. raw: [A, 5 + classes]."""
        ratio = dwpose.letterbox_ratio(frame, *self._boxes.size)
        boxes, scores = dwpose.decode_boxes(raw, *self._boxes.size, ratio)
        scores = scores[:, dwpose.PERSON]
        picked = (scores > min_person_score) & _inside(boxes, frame)
        boxes, scores = boxes[picked].astype(np.float64), scores[picked]
        height, width = self._keypoints.size
        return [
            _Sighting(index, frame, boxes[i], float(scores[i]), *dwpose.crop_region(boxes[i], width, height))
            for i in dwpose.nms(boxes, scores)
        ]

    def _keypoint_input(self, sighting: _Sighting) -> np.ndarray:
        height, width = self._keypoints.size
        matrix = dwpose.crop_matrix(sighting.centre, sighting.extent, width, height)
        return dwpose.normalised_crop(sighting.frame, matrix, width, height)

    def _person(self, sighting: _Sighting, peaks: dict[str, np.ndarray]) -> Person:
        height, width = self._keypoints.size
        points, score = dwpose.decode_simcc(peaks["simcc_x"], peaks["simcc_y"])
        points = dwpose.crop_to_picture(points, sighting.centre, sighting.extent, width, height)
        points, score = dwpose.to_openpose(points, score)
        score = np.where(score > 0, np.minimum(score, 1.0), 0.0)  # raw peaks may pass 1, and nan is no score
        keypoints = np.concatenate([points, score[:, None]], axis=1)  # [134, 3]
        hands = keypoints[dwpose.HANDS].reshape(2, HAND_POINTS, 3)
        return Person(sighting.box, min(sighting.score, 1.0), keypoints[dwpose.BODY], keypoints[dwpose.FACE], hands)


def which_detector(detector: str, places: Places) -> str:
    """ "dwpose" or "built-in"; "auto" is DWPose where its files are, else what ships here. Raises PoseError."""
    if detector not in DETECTORS:
        raise PoseError(f"pose detector '{detector}' is unknown; choose from {', '.join(DETECTORS)}")
    if detector != "auto":
        return detector
    here = all(places.find(key) is not None for key in FILES)
    return "dwpose" if here or not all((BUILT_IN / f"{key}.onnx").is_file() for key in FILES) else "built-in"


class _Sighting(NamedTuple):
    """A person's box and the region around it that the keypoint network is shown."""

    index: int  # of the frame in its batch
    frame: np.ndarray
    box: np.ndarray  # [4] px
    score: float
    centre: np.ndarray  # [2] px
    extent: np.ndarray  # [2] px


class _Network:
    """A session with one picture input, run in batches of the size that its file asks for."""

    def __init__(
        self, session: Session, what: str, name: str, size: tuple[int, int], outputs: dict[str, Shape], most: int
    ) -> None:
        session.expect(what, {name: (None, 3, *size)}, outputs)
        self.size = size  # height, width
        self._session, self._what, self._name, self._outputs = session, what, name, outputs
        self._fixed_batch = session.inputs[0][1][0]
        self._most = most

    def run(self, items: Sequence[Any], picture: Callable[[Any], np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Each item's outputs by name, without the batch axis. picture: item -> [3, H, W]."""
        start = 0
        while start < len(items):
            pictures = [picture(item) for item in items[start : start + (self._fixed_batch or self._most)]]
            start += len(pictures)
            batch = np.zeros((self._fixed_batch or len(pictures), 3, *self.size), dtype=np.float32)
            batch[: len(pictures)] = pictures
            outputs = self._run_batch(batch)
            for i in range(len(pictures)):
                yield {name: output[i] for name, output in outputs.items()}

    def _run_batch(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        names = [name for name, _ in self._session.outputs]
        try:
            raw = self._session.run({self._name: batch})
        except InputError:
            if self._fixed_batch or len(batch) == 1:
                raise
            self._most = 1  # a file may promise any batch and be made for one, or memory may be short
            single = [self._session.run({self._name: one[None]}) for one in batch]
            raw = [np.concatenate(parts) for parts in zip(*single)]
        outputs = dict(zip(names, raw))
        for name, shape in self._outputs.items():  # what the file left open shows only now
            wanted = (len(batch), *shape[1:])
            if not fits(outputs[name].shape, wanted):
                raise WeightsError(
                    f"{self._session.path}: not {self._what}: {listed(name, outputs[name].shape)}, "
                    f"expected is {listed(name, wanted)}; {fetch_again(self._session.path)}"
                )
        return outputs


def _picture_size(session: Session, usual: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the input, the usual ones where the file leaves them open."""
    shape = session.inputs[0][1] if session.inputs else ()
    height, width = shape[2:] if len(shape) == 4 else (None, None)
    return height or usual[0], width or usual[1]


def _inside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Which boxes [A, 4] px are real ones with at least a part inside the frame. Returns bool [A]."""
    height, width = frame.shape[:2]
    low, high = boxes[:, :2], boxes[:, 2:]
    large_enough = (high - low >= SMALLEST_BOX).all(axis=1)
    return np.isfinite(boxes).all(axis=1) & large_enough & (high > 0).all(axis=1) & (low < (width, height)).all(axis=1)


def _check_frame(index: int, frame: np.ndarray) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise PoseError(
            f"frame {index} of the batch: {frame.dtype} {list(frame.shape)}, expected is uint8 RGB [height, width, 3]"
        )
    if not 1 <= min(frame.shape[:2]) <= max(frame.shape[:2]) <= LONGEST_SIDE:
        raise PoseError(
            f"frame {index} of the batch: {frame.shape[1]} x {frame.shape[0]} px; "
            f"poses are found in frames of 1 to {LONGEST_SIDE} px a side; scale the video down"
        )
