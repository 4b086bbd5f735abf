"""How much the faces of any video are those of a picture: CSIM per frame, drawn and told."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..conditioning import cover, cover_poses, resize_picture
from ..errors import FaceError, InputError, PoseError
from ..face import FaceBoxes, FaceDetector, ReferenceFace, crop_faces, csim, embed_faces, face_boxes, locate_among
from ..keypoints import Poses
from ..video.charts import DARK, Chart, ticks, write
from ..video.pixels import from_uint8, to_uint8
from ..weights import ModelConfig, Models
from .judge import Judge
from .metrics import DRIFT_FRAMES, identity_drift, mean

CHUNK = 16  # frames that are embedded at a time
WIDTH, COLUMNS, GAP, FOOT = 960, 5, 6, 26  # of the pictures: px, faces side by side, px around them, px for captions
LINE, MEAN, WORST = (90, 170, 255), (150, 155, 165), (255, 110, 90)
ROOM = 0.1  # of CSIM, below the lowest at least
TOLD = 5  # frames named in a sentence


class Identity(NamedTuple):
    """How similar each frame's face is to the reference's."""

    csim: np.ndarray  # [F], NaN where there is no face
    judge: str  # who says so, as in Judge
    model: str
    chosen: tuple[int, ...] | None = None  # of a draft: which frames of the whole motion these are

    def number(self, frame: int) -> int:
        """What a frame is called: its place in the whole motion, from 0."""
        return int(frame) if self.chosen is None else self.chosen[frame]

    @property
    def mean(self) -> float:
        """Over the frames with a face; NaN without any."""
        return mean(self.csim)

    @property
    def order(self) -> np.ndarray:
        """Frames with a face, the least alike first."""
        return np.argsort(self.csim, kind="stable")[: int((~np.isnan(self.csim)).sum())]


@torch.no_grad()
def score_video(
    models: Models, video: np.ndarray, faces: FaceBoxes, reference: ReferenceFace, *,
    on_frames: Callable[[int], None] | None = None,
) -> Identity:  # fmt: skip
    """Compare every frame's face with the reference's, by the model's judge or, without one, its embedder.

    video: [F, H, W, 3] uint8 RGB; faces: where they are in it. reference: of a model that cuts faces out as this one
    does. on_frames(frames done). Raises InputError for a reference of another kind of model, FaceError when no frame
    shows a face.
    """
    kinds = {False: "upright", True: "aligned"}
    found, wanted = kinds[reference.template is not None], kinds[models.config.face_crop == "arcface"]
    if found != wanted:
        raise InputError(
            f"face: cut out {found}, but model '{models.config.name}' compares faces that are cut out {wanted}; "
            "find it with the same model"
        )
    if not faces.found.any():
        raise FaceError(
            f"frames: none of {len(video)} frames shows a face, so there is nothing to score; "
            "check their poses, or take a video that shows the face"
        )
    judge = Judge.of(models)
    target = reference.embedded_by(judge.network)
    similar = []
    for start in range(0, len(video), CHUNK):
        frames = range(start, min(start + CHUNK, len(video)))
        pixels = torch.stack([from_uint8(video[frame]) for frame in frames])
        similar.append(csim(embed_faces(judge.network, pixels, faces.picked(frames)), target).cpu().numpy())
        if on_frames is not None:
            on_frames(frames.stop)
    return Identity(np.concatenate(similar), judge.name, models.config.name)


def locate_faces(
    config: ModelConfig, video: np.ndarray, poses: Poses | None = None, detector: FaceDetector | None = None, *,
    on_frames: Callable[[int], None] | None = None,
) -> FaceBoxes:  # fmt: skip
    """Where one person's face is in every frame: the poses' first person's, else the largest that the detector finds.

    video: [F, H, W, 3] uint8 RGB. poses: of these frames; on a canvas of another shape they are cropped as `sample`
    crops what it makes. detector: serves models that take aligned faces (face_crop "arcface"). Frames whose face is
    too small, in profile or cut off count as without. on_frames(frames done) is called while the detector works; what
    it raises stops that.
    Raises PoseError for poses of another number of frames, InputError where there is neither poses nor a detector.
    """
    height, width = video.shape[1:3]
    if poses is not None:
        if poses.frames != len(video):
            raise PoseError(
                f"poses: {poses.frames} frames, but frames holds {len(video)}; give the poses of this very video, "
                "for what Sample made those that it has"
            )
        poses = cover_poses(poses, cover(poses, width, height), width, height)
        return face_boxes(poses, scale=config.face_scale, crop=config.face_crop)
    if detector is None or config.face_crop != "arcface":
        needed = "poses or a face detector" if config.face_crop == "arcface" else "poses"
        raise InputError(
            f"poses: not given, but model '{config.name}' finds faces through {needed}; give the poses of the frames"
        )
    return _detected(video, detector, on_frames)


def describe_identity(identity: Identity) -> str:
    """The numbers in sentences, one a line. A few frames of a draft say nothing of drift."""
    scores, order, frames = identity.csim, identity.order, len(identity.csim)
    lines = [f"identity {identity.mean:.3f} on average over {len(order)} frame{'s' * (len(order) != 1)}"]
    if len(order) > 1:
        lines[0] += f", from {scores[order[0]]:.3f} to {scores[order[-1]]:.3f}"
        lines.append("least alike: " + ", ".join(f"frame {identity.number(f)} ({scores[f]:.3f})" for f in order[:TOLD]))
    drift = identity_drift(scores)
    if identity.chosen is None and drift.slope == drift.slope and drift.ends == drift.ends:
        slope = f"{drift.slope:+.3f} in {DRIFT_FRAMES} frames; " if len(order) >= DRIFT_FRAMES else ""
        likeness = f"{abs(drift.ends):.3f} {'less' if drift.ends < 0 else 'more'} alike than the first"
        lines.append(f"drift: {slope}the last quarter is {likeness}")
    hidden = np.flatnonzero(np.isnan(scores))
    if len(hidden):
        named = ", ".join(str(identity.number(f)) for f in hidden[:TOLD]) + (" ..." if len(hidden) > TOLD else "")
        lines.append(f"{len(hidden)} of {frames} frames show no usable face and are not counted: {named}")
    if identity.judge == "judge":
        lines.append(f"judged by a network of model '{identity.model}' that the face optimisation (HJB) never sees")
    else:
        lines.append(
            f"judged by the embedder of model '{identity.model}', the very network that the face optimisation (HJB) "
            "optimises: it flatters videos that were made with HJB"
        )
    return "\n".join(lines)


def draw_identity(identity: Identity, *, marked: int = 4, size: tuple[int, int] = (WIDTH, 340)) -> np.ndarray:
    """CSIM over the frames with its mean and the `marked` least similar frames; uint8 RGB [H, W, 3] of size in px."""
    scores = identity.csim
    last, low = max(1, len(scores) - 1), np.floor((np.nanmin(scores) - ROOM) * 5) / 5
    chart = Chart(*size, (0, last), (low, 1.0), DARK)
    for frame in ticks(0, last, 10):
        if frame == int(frame):
            chart.tick_x(frame, f"{identity.number(min(int(frame), len(scores) - 1))}")
    marks = ticks(low, 1.0, 5)
    digits = next(count for count in (1, 2, 3) if len({f"{mark:.{count}f}" for mark in marks}) == len(marks))
    for mark in marks:
        chart.tick_y(mark, f"{mark:.{digits}f}")
    judge = "its judge" if identity.judge == "judge" else "its embedder, which HJB optimises"
    chart.names("frame", f"identity (CSIM): mean {identity.mean:.3f}, by model '{identity.model}': {judge}")
    chart.curve(np.array([0, last]), np.full(2, identity.mean), MEAN)
    chart.curve(np.arange(len(scores)), scores, LINE)
    seen = identity.order
    for frame in seen:
        if np.isnan(scores[max(frame - 1, 0) : frame + 2]).any() or len(scores) == 1:
            chart.dot(frame, scores[frame], LINE)  # between gaps there is no line to see
    for frame in seen[:marked]:
        chart.dot(frame, scores[frame], WORST)
    column, row = chart.place(seen[0], scores[seen[0]]).tolist()
    label = f"frame {identity.number(seen[0])}: {scores[seen[0]]:.3f}"  # below the dot: the curve comes from above
    chart.text(label, min(max(column, chart.left + 60), chart.right - 60), row + 10, "mt", WORST)
    return chart.picture


def draw_worst(
    identity: Identity, video: np.ndarray, faces: FaceBoxes, reference: ReferenceFace, count: int = 4
) -> np.ndarray:
    """The reference's face, then those of the `count` least similar frames, in rows; uint8 RGB, as wide as the plot.

    Arguments as in score_video. The reference is as blurred as its kept crop: as the embedder saw it.
    """
    worst = identity.order[:count]
    side = WIDTH // COLUMNS
    room = side - 2 * GAP  # px
    cuts = [crop_faces(from_uint8(video[frame])[None], faces.picked([frame]), room, antialias=True) for frame in worst]
    known = resize_picture(reference.crop[None], room, room)
    shown = to_uint8(torch.cat([known, *cuts]))
    captions = ["reference", *(f"frame {identity.number(frame)}: {identity.csim[frame]:.3f}" for frame in worst)]
    picture = np.full((-(-len(shown) // COLUMNS) * (side + FOOT), WIDTH, 3), DARK.paper, np.uint8)
    for number, (face, caption) in enumerate(zip(shown, captions)):
        row, column = divmod(number, COLUMNS)
        top, left = row * (side + FOOT), column * side
        picture[top + GAP : top + side - GAP, left + GAP : left + side - GAP] = face
        write(picture, caption, left + side / 2, top + side + FOOT / 2, colour=DARK.ink, anchor="mm")
    return picture


def _detected(video: np.ndarray, detector: FaceDetector, on_frames: Callable[[int], None] | None) -> FaceBoxes:
    nobody = FaceBoxes.of_templates(torch.zeros(1, 2, 3), torch.zeros(1, dtype=torch.bool))
    places = []
    for done, frame in enumerate(video, 1):
        try:
            places.append(locate_among(detector.detect(frame), (frame.shape[1], frame.shape[0])))
        except FaceError:  # none, or none that an embedding could be taken from
            places.append(nobody)
        if on_frames is not None:
            on_frames(done)
    return FaceBoxes(*map(torch.cat, zip(*places)))
