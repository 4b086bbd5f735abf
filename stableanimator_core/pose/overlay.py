"""Pictures that show how poses were aligned: reference, driver and result over one another, and what is left over."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..errors import PoseError
from ..keypoints import Poses
from ..skeleton import HAND_EDGES, LIMBS
from ..video.charts import DARK, Chart, Colour, ticks, widest, write
from .draw import FARTHEST

REFERENCE, DRIVER, RESULT = (60, 150, 255), (165, 165, 165), (255, 155, 35)  # told apart by colour-blind eyes, too
EDGE, WORST = (15, 15, 20), (255, 80, 80)
LEGEND = (("reference", REFERENCE), ("driver as filmed", DRIVER), ("result", RESULT))

SHORTEST = 512  # px, the least long side: smaller pictures leave no room to read
DIMMED = 0.45  # what is left of the picture's brightness
OTHER_SHAPE = 0.02  # difference of two aspect ratios beyond which a picture is not the pose's

# Widths in shares of the short side: where all fits, the result lies inside the reference.
REFERENCE_WIDTH, DRIVER_WIDTH, RESULT_WIDTH, DETAIL = 0.018, 0.0045, 0.008, 0.003
TEXT = 0.042  # height of a letter in shares of the long side

SUMMARY_WIDTH, CURVE_SHAPE = 960, 0.25  # px, the least of a summary; height of the curve in shares of its width

_SHIFT = 4  # OpenCV's fixed point: coordinates in sixteenths of a pixel


def draw_alignment(
    aligned: Poses, driving: Poses, reference: Poses, residual: np.ndarray, *, picture: np.ndarray | None = None,
    frames: Sequence[int] | None = None, min_score: float = 0.3, longest: int = 1024,
) -> np.ndarray:  # fmt: skip
    """The reference's skeleton, the driver's as it was filmed, and the result, on the reference's canvas.

    aligned, residual: what `align` made of driving and reference, residual [F] px. picture: uint8 [H, W, 3] RGB that
    shows the reference; drawn below, dimmed. frames: the ones to draw, by default all. Points above min_score count.
    Returns uint8 RGB [N, H, W, 3]: the canvas, SHORTEST to `longest` px on its long side, over two lines of text.
    Raises PoseError when there are not as many driving frames and residuals as aligned frames.
    """
    if not aligned.frames == driving.frames == len(residual):
        raise PoseError(
            f"{aligned.frames} aligned frames, {driving.frames} driving frames and {len(residual)} residuals: "
            "give those of one alignment"
        )
    side = max(reference.width, reference.height)
    scale = min(max(side, SHORTEST), longest) / side
    width, height = max(1, round(reference.width * scale)), max(1, round(reference.height * scale))
    unit = min(width, height)
    captions = _captions(residual)
    foot, size = _foot(width, TEXT * max(width, height), captions)
    base = _background(picture, width, height)
    target = _shown(reference, min_score).resized(width, height)
    _draw_people(base, target, 0, REFERENCE, REFERENCE_WIDTH * unit, min_score)
    came = driving.fitted(reference.width, reference.height).resized(width, height)
    moved = aligned.resized(width, height)
    wanted = range(aligned.frames) if frames is None else frames
    drawn = np.empty((len(wanted), height + len(foot), width, 3), np.uint8)
    for out, frame in zip(drawn, wanted):
        out[:height], out[height:] = base, foot
        _draw_people(out[:height], came, frame, DRIVER, DRIVER_WIDTH * unit, min_score)
        _draw_people(out[:height], moved, frame, RESULT, RESULT_WIDTH * unit, min_score)
        write(out[height:], captions[frame], size / 2, size, size=size, colour=DARK.ink, anchor="lm")
    return drawn


def draw_residual(
    residual: np.ndarray, *, marked: Sequence[int] = (), size: tuple[int, int] = (960, 300)
) -> np.ndarray:
    """The residual [F] px over the frames as a curve, with the frame where it is largest, as uint8 RGB picture.

    marked: further frames to mark. size: width and height of the picture in px.
    """
    known = np.isfinite(residual)
    most = float(residual[known].max()) if known.any() else 0.0
    last, top = max(1, len(residual) - 1), 1.2 * most or 1.0
    chart = Chart(*size, (0, last), (0, top), DARK)
    for frame in ticks(0, last, 10):
        if frame == int(frame):
            chart.tick_x(frame, f"{frame:.0f}")
    for px in ticks(0, top, 4):
        chart.tick_y(px, f"{px:g} px")
    chart.names("frame", "distance of the joints from the reference's, in px")
    chart.curve(np.arange(len(residual)), residual, RESULT)
    for frame in marked:
        if known[frame]:
            chart.dot(frame, residual[frame], RESULT)
    if known.any():
        farthest = int(np.nanargmax(residual))
        chart.dot(farthest, most, WORST, f"farthest: frame {farthest}, {most:.1f} px")
    return chart.picture


def draw_summary(
    aligned: Poses, driving: Poses, reference: Poses, residual: np.ndarray, *, picture: np.ndarray | None = None,
    min_score: float = 0.3,
) -> np.ndarray:  # fmt: skip
    """The first, the middle and the farthest frame side by side over the residual's curve, uint8 RGB [H, W, 3].

    Arguments and errors as in draw_alignment.
    """
    known = np.isfinite(residual)
    farthest = [int(np.nanargmax(residual))] if known.any() else []
    frames = sorted({0, aligned.frames // 2, *farthest})
    drawn = draw_alignment(
        aligned, driving, reference, residual, picture=picture, frames=frames, min_score=min_score, longest=512
    )
    across = max(SUMMARY_WIDTH, sum(frame.shape[1] for frame in drawn))
    row = np.full((drawn.shape[1], across, 3), DARK.paper, np.uint8)
    for column, frame in enumerate(drawn):
        left = across * (2 * column + 1) // (2 * len(drawn)) - frame.shape[1] // 2
        row[:, left : left + frame.shape[1]] = frame
    size = across, round(CURVE_SHAPE * across)
    return np.concatenate([row, draw_residual(residual, marked=frames, size=size)])


def body_height(reference: Poses, min_score: float = 0.3) -> float:
    """How tall person 0 of the reference is as far as it is seen: the longer side of the box around its joints, px.

    0 where there is nobody, or a single joint.
    """
    pose = _shown(reference, min_score)
    points = pose.body[pose.visible(min_score)]  # [N, 2]
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def residual_sentence(residual: np.ndarray) -> str:
    """How far the joints [F] px stay from the reference's, in words, and that this is no score."""
    known = residual[np.isfinite(residual)]
    if not len(known):
        return "no joint to compare with the reference's"
    most = f", most in frame {np.nanargmax(residual)} ({known.max():.1f} px)" if len(residual) > 1 else ""
    distance = f"{known.mean():.1f} px from the reference's on average{most}"
    return f"joints are {distance}: how unlike the postures are, not how good the fit is"


def shape_note(picture: np.ndarray | None, reference: Poses) -> tuple[str, ...]:
    """A sentence where the picture cannot be the one that the reference's pose was found in: its shape differs."""
    height, width = (reference.height, reference.width) if picture is None else picture.shape[:2]
    if abs(width / height * reference.height / reference.width - 1) <= OTHER_SHAPE:
        return ()
    return (
        f"the picture is {width}x{height}, the reference pose's canvas {reference.width}x{reference.height}: "
        "find the pose in this very picture",
    )


def _shown(reference: Poses, min_score: float) -> Poses:
    """What of the reference is aligned to: person 0 in one frame, or nobody."""
    frame = reference.first_shown(min_score)
    pose = reference.slice(frame, frame + 1)
    return pose.person(0) if pose.people else pose


def _captions(residual: np.ndarray) -> list[str]:
    """The line below each frame."""
    farthest = int(np.nanargmax(residual)) if np.isfinite(residual).any() and len(residual) > 1 else None
    captions = []
    for frame, px in enumerate(residual):
        if not np.isfinite(px):
            captions.append(f"frame {frame}: no joint to compare")
            continue
        mark = " (farthest)" if frame == farthest else ""
        captions.append(f"frame {frame}: {px:.1f} px from the reference{mark}")
    return captions


def _foot(width: int, size: float, captions: Sequence[str]) -> tuple[np.ndarray, int]:
    """The strip below the canvas with its legend, uint8 [h, width, 3], and the size of letters at which all fits."""
    swatch, gap = 1.2, 0.5  # letters
    row = "".join(name for name, _ in LEGEND)
    room = width / max(widest(captions, 100) + 100, widest([row], 100) + 100 * len(LEGEND) * (swatch + 2 * gap))
    size = max(8, int(min(size, 100 * room)))
    foot = np.full((round(3.2 * size), width, 3), DARK.paper, np.uint8)
    x, y = gap * size, 2.3 * size
    for name, colour in LEGEND:
        _line(foot, np.array([x, y]), np.array([x + swatch * size, y]), colour, size / 4)
        x += (swatch + gap) * size
        write(foot, name, x, y, size=size, colour=DARK.ink, anchor="lm")
        x += widest([name], size) + gap * size
    return foot, size


def _background(picture: np.ndarray | None, width: int, height: int) -> np.ndarray:
    """The picture, dimmed, or plain paper; uint8 [height, width, 3]."""
    if picture is None:
        return np.full((height, width, 3), DARK.paper, np.uint8)
    sized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return (sized * DIMMED).astype(np.uint8)


def _draw_people(
    canvas: np.ndarray, poses: Poses, frame: int, colour: Colour, thickness: float, min_score: float
) -> None:
    """Everybody of a frame in one colour: edged limbs, hands and faces in finer lines. poses: on the canvas."""
    fine = max(1.0, DETAIL * min(canvas.shape[:2]))
    for person in range(poses.people):
        body, seen = poses.body[frame, person], poses.body_score[frame, person] > min_score
        bones = [(body[a], body[b]) for a, b in LIMBS if seen[a] and seen[b]]
        for pen, width in ((EDGE, thickness + 2 * fine), (colour, thickness)):
            for a, b in bones:
                _line(canvas, a, b, pen, width)
            for point in body[seen]:
                _dot(canvas, point, pen, 0.75 * width)
        for hand, score in zip(poses.hands[frame, person], poses.hands_score[frame, person] > min_score):
            for a, b in HAND_EDGES:
                if score[a] and score[b]:
                    _line(canvas, hand[a], hand[b], colour, fine)
        for point in poses.face[frame, person][poses.face_score[frame, person] > min_score]:
            _dot(canvas, point, colour, fine)


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: Colour, thickness: float) -> None:
    """An anti-aliased line with round ends between two points, px."""
    cv2.line(canvas, _fixed(start), _fixed(end), colour, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)


def _dot(canvas: np.ndarray, point: np.ndarray, colour: Colour, radius: float) -> None:
    """An anti-aliased disc, px."""
    cv2.circle(canvas, _fixed(point), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def _fixed(point: np.ndarray) -> list[int]:
    return (point.clip(-FARTHEST, FARTHEST) * 2**_SHIFT).round().astype(int).tolist()
