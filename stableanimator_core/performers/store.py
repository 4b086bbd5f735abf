"""Renders many clips or views on all cores into memory-mapped files that can be read while they grow."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

from ..errors import InputError
from ..face import face_boxes
from ..keypoints import Poses
from ..pose.draw import draw_poses
from ..pose.lost import without_joints
from ..skeleton import BODY_POINTS, FACE_POINTS, HAND_POINTS
from .dataset import canvas_of, make_clip, make_views
from .mocap import MotionClip, load_mocap

FACE_SCALE = 1.5  # side of a face box over the extent of the face points: the hair belongs to the identity
MOST_LOST = 0.7  # of a clip's joints
_CHUNK = 8
_CLIP_FILES = ("frames", "pose_images", "face_boxes", "keypoints")
_LATER_FILES = ("keypoints",)  # that older folders lack
_POINTS = BODY_POINTS + FACE_POINTS + 2 * HAND_POINTS


@dataclass(frozen=True, eq=False)
class StoredClips:
    """Memory maps of `render_dataset`'s files; index 0 of the second axis is the reference."""

    frames: np.ndarray  # uint8 [N, F + 1, H, W, 3] RGB
    pose_images: np.ndarray  # uint8 [N, F + 1, H, W, 3] RGB
    face_boxes: np.ndarray  # float32 [N, F + 1, 4] x0, y0, x1, y1 px; NaN without a face
    keypoints: np.ndarray | None  # float32 [N, F + 1, 128, 3] x, y px, score: body, face, left hand, right hand
    meta: dict


def render_dataset(
    folder: str | Path,
    clips: int,
    *,
    seed: int,
    size: int | tuple[int, int] = 160,
    frames: int = 16,
    mocap_path: str | Path | None = None,
    workers: int | None = None,
    canvas_short_side: int = 512,
    split: str = "train",
    face_scale: float = FACE_SCALE,
    lost: float = 0.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> StoredClips:
    """Renders the clips of seeds seed .. seed + clips - 1 into frames.npy, pose_images.npy, face_boxes.npy and
    keypoints.npy.

    lost: share of the clips whose pose images lack joints as detectors lose them, up to MOST_LOST of them; the
    reference, the boxes and the keypoints lack nothing.

    The files have their full size at once and can be read (`open_clips`) while they grow: the first
    `rendered(folder)` clips are complete. workers: processes, one a core by default; they are spawned, so that a
    parent that uses CUDA is safe, and a script must call this under `if __name__ == "__main__"`.
    on_progress: called with the number of complete clips and of all clips.
    Raises InputError for counts that are not positive and for a motion file that cannot be read.
    """
    width, height = canvas_of(size)
    _check_counts(clips=clips, frames=frames)
    if mocap_path is not None:
        load_mocap(mocap_path)
    meta = {
        "clips": clips, "seed": seed, "size": [width, height], "frames": frames, "split": split,
        "face_scale": face_scale, "canvas_short_side": canvas_short_side, "mocap": mocap_path is not None,
        "lost": lost,
    }  # fmt: skip
    shapes = {
        "frames": (np.uint8, (clips, frames + 1, height, width, 3)),
        "pose_images": (np.uint8, (clips, frames + 1, height, width, 3)),
        "face_boxes": (np.float32, (clips, frames + 1, 4)),
        "keypoints": (np.float32, (clips, frames + 1, _POINTS, 3)),
    }
    _prepare(Path(folder), meta, shapes)
    job = partial(
        _render_clips, str(folder), seed, (width, height), frames, None if mocap_path is None else str(mocap_path),
        split, canvas_short_side, face_scale, lost,
    )  # fmt: skip
    _work(Path(folder), job, clips, workers, on_progress)
    return open_clips(folder)


def open_clips(folder: str | Path) -> StoredClips:
    """Read-only memory maps of a folder that `render_dataset` has filled or is filling. Raises InputError."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        arrays = [
            None if name in _LATER_FILES and not (folder / f"{name}.npy").exists()
            else np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in _CLIP_FILES
        ]  # fmt: skip
    except (OSError, ValueError) as error:
        raise InputError(f"folder {folder}: holds no rendered clips; make them with render_dataset") from error
    return StoredClips(*arrays, meta)


def rendered(folder: str | Path) -> int:
    """How many clips (or identities) from the first on are complete in a folder that may still be growing."""
    try:
        return int((Path(folder) / "progress").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def render_views(
    folder: str | Path,
    identities: int,
    *,
    seed: int,
    views: int = 12,
    size: int | tuple[int, int] = 160,
    crop: int = 64,
    workers: int | None = None,
    split: str = "train",
    face_scale: float = FACE_SCALE,
    jitter: float = 0.06,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Face crops uint8 [N, V, crop, crop, 3] (crops.npy) of the identities of seeds seed .. seed + identities - 1.

    jitter: random shift and scale of every face box, as a fraction of its side. Files, workers and progress are as
    for `render_dataset`. Raises InputError for counts that are not positive.
    """
    width, height = canvas_of(size)
    _check_counts(identities=identities, views=views, crop=crop)
    meta = {
        "identities": identities, "seed": seed, "size": [width, height], "views": views, "crop": crop, "split": split,
        "face_scale": face_scale, "jitter": jitter,
    }  # fmt: skip
    _prepare(Path(folder), meta, {"crops": (np.uint8, (identities, views, crop, crop, 3))})
    job = partial(_render_crops, str(folder), seed, (width, height), views, crop, split, face_scale, jitter)
    _work(Path(folder), job, identities, workers, on_progress)
    return np.load(Path(folder) / "crops.npy", mmap_mode="r")


def crop_face(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The box (x0, y0, x1, y1 px) of a picture [H, W, 3] as [size, size, 3]; edges are repeated outside."""
    scale = size / (box[2] - box[0])
    matrix = np.array(
        [[scale, 0, -scale * box[0] + 0.5 * scale - 0.5], [0, scale, -scale * box[1] + 0.5 * scale - 0.5]]
    )
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def clip_keypoints(poses: Poses) -> np.ndarray:
    """The first person of every frame as StoredClips keeps it: [F, 128, 3]."""
    frames = poses.frames
    hands = poses.hands[:, 0].reshape(frames, 2 * HAND_POINTS, 2)
    hands_score = poses.hands_score[:, 0].reshape(frames, 2 * HAND_POINTS)
    points = np.concatenate([poses.body[:, 0], poses.face[:, 0], hands], axis=1)
    score = np.concatenate([poses.body_score[:, 0], poses.face_score[:, 0], hands_score], axis=1)
    return np.concatenate([points, score[..., None]], axis=-1)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{count} {name} asked for, need at least 1")


def _prepare(folder: Path, meta: dict, shapes: dict[str, tuple[type, tuple[int, ...]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress").write_text("0", encoding="utf-8")
    for name, (dtype, shape) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    (folder / "dataset.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _work(
    folder: Path,
    job: Callable[[int, int], None],
    count: int,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Runs job(start, stop) over 0 .. count - 1 in spawned processes and keeps the progress file."""
    workers = workers or os.cpu_count() or 1
    chunks = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    complete, done = 0, set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context, initializer=_quiet_worker) as pool:
        running = {pool.submit(job, *chunk): chunk for chunk in chunks}
        try:
            for finished in as_completed(running):
                finished.result()
                done.add(running[finished][0])
                while complete < count and complete in done:
                    complete = min(complete + _CHUNK, count)
                _write_progress(folder, complete)
                if on_progress is not None:
                    on_progress(complete, count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_progress(folder: Path, complete: int) -> None:
    fresh = folder / "progress.new"
    fresh.write_text(str(complete), encoding="utf-8")
    os.replace(fresh, folder / "progress")


def _quiet_worker() -> None:
    """One thread a worker: thread pools would fight with the other workers."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@lru_cache(maxsize=1)
def _motions(path: str) -> list[MotionClip]:
    return load_mocap(path)


def _boxes(poses: Poses, scale: float) -> np.ndarray:
    """Face boxes float32 [F, 4] px, NaN where there is no face."""
    faces = face_boxes(poses, scale=scale)
    boxes = faces.boxes.numpy().astype(np.float32)
    boxes[~faces.found.numpy()] = np.nan
    return boxes


def _render_clips(
    folder: str, seed: int, size: tuple[int, int], frames: int, mocap_path: str | None, split: str, canvas: int,
    face_scale: float, lost: float, start: int, stop: int,
) -> None:  # fmt: skip
    mocap = None if mocap_path is None else _motions(mocap_path)
    maps = [np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in _CLIP_FILES]
    for index in range(start, stop):
        clip = make_clip(seed + index, size=size, frames=frames, mocap=mocap, split=split)
        rng = np.random.default_rng([seed + index, frames])
        share = rng.uniform(0, MOST_LOST) if rng.random() < lost else 0.0
        for row, picture, poses, found in (
            (slice(0, 1), clip.reference[None], clip.reference_pose, clip.reference_pose),
            (slice(1, None), clip.frames, clip.poses, without_joints(clip.poses, share, seed=seed + index)),
        ):
            maps[0][index, row] = picture
            maps[1][index, row] = draw_poses(found, *size, canvas_short_side=canvas)
            maps[2][index, row] = _boxes(poses, face_scale)
            maps[3][index, row] = clip_keypoints(poses)
    for array in maps:
        array.flush()


def _render_crops(
    folder: str, seed: int, size: tuple[int, int], views: int, crop: int, split: str, face_scale: float,
    jitter: float, start: int, stop: int,
) -> None:  # fmt: skip
    crops = np.load(Path(folder) / "crops.npy", mmap_mode="r+")
    for index in range(start, stop):
        rng = np.random.default_rng([seed + index, views])
        for view, (frame, pose) in enumerate(make_views(seed + index, views=views, size=size, split=split)):
            box = _boxes(pose, face_scale)[0]
            middle, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
            middle = middle + side * rng.uniform(-jitter, jitter, 2)
            half = side / 2 * (1 + rng.uniform(-jitter, jitter))
            crops[index, view] = crop_face(frame, np.concatenate([middle - half, middle + half]), crop)
    crops.flush()
