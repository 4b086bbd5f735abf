"""Make clips ready for fine-tuning: `train prepare`.

What is written is the published training's own layout, a folder of images/, faces/ and poses/ for every clip and a list
of them, with faces.npz (where the face is, aligned as the embedder wants it) and clip.json (written last) beside them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from ..conditioning import Cover, cover, cover_picture, cover_poses, resize_picture
from ..errors import FaceError, InputError, PoseError, VideoError, one_line
from ..face import DetectedFace, FaceBoxes, face_boxes, locate_among
from ..keypoints import Poses
from ..pipeline import SamplingConfig, to_uint8
from ..pose.draw import draw_poses
from ..weights import ModelConfig

FORMAT = 1
SETTINGS, CLIP, FACES, BAD = "prepared.json", "clip.json", "faces.npz", "bad.txt"
LISTS = ("video_rec_path.txt", "video_vec_path.txt")  # of clips as wide as high, or wider; of upright ones
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
LONGEST = 1920  # px: larger frames are scaled down
SEEN_JOINTS = 4  # of a person who counts
MOST_STRANGERS = 0.1  # share of the frames that may show more than one person
MOST_EMPTY = 0.1  # share of the frames that may show nobody
LEAST_FACES = 0.25  # share of the frames that must show a face
THUMBNAIL = 24  # px
CUT = 0.12  # least mean difference of two thumbnails (of 1) across a cut
CUT_OVER_MOTION = 4.0  # and how much more it is than that of the clip's other neighbours
SAME_ASPECT = 0.02  # of width over height

FindPoses = Callable[[Iterable[np.ndarray]], Poses]
FindFaces = Callable[[np.ndarray], list[DetectedFace]]


@dataclass(frozen=True)
class PrepareSettings:
    """What all clips of a prepared folder share."""

    width: int  # px
    height: int
    pose_canvas: int
    face_scale: float
    face_crop: str
    fps: float | None = None  # of the clips; None: every frame of the video
    least: int = 16  # frames of a clip
    most: int | None = None

    @classmethod
    def for_model(cls, config: ModelConfig, size: tuple[int, int] | None = None, **given) -> PrepareSettings:
        """Clips for this model, at its own size by default. Raises InputError on a size that it can't make."""
        width, height = size or (None, None)
        made = SamplingConfig.for_model(config, width=width, height=height)
        return cls(made.width, made.height, config.pose_canvas, config.face_scale, config.face_crop, **given)


class Source(NamedTuple):
    """A clip as it was found."""

    name: str  # of the folder that it becomes
    frames: Path  # a video, or a folder of pictures
    pose_file: Path | None = None  # POSE_KEYPOINT
    drawings: Path | None = None  # folder of drawn poses, with `masks`
    masks: Path | None = None  # folder of face masks, white on black

    @property
    def where(self) -> str:
        """What the user knows it by."""
        return str(self.frames.parent if self.frames.is_dir() else self.frames)


class Prepared(NamedTuple):
    """What a prepared folder holds."""

    clips: int
    frames: int
    bad: dict[str, str]  # source: what is wrong with it


class BadClip(Exception):
    """A clip that is no use, and why."""


@dataclass(frozen=True)
class _Clip:
    """Poses drawn and faces found, on the output."""

    part: Cover  # of the frames
    drawings: Iterator[np.ndarray]  # uint8 [H, W, 3]
    boxes: np.ndarray  # [F, 4] px, NaN without a face
    templates: np.ndarray | None  # [F, 2, 3] as in FaceBoxes, NaN where the face can't be embedded


def prepare_clips(
    data: Path, out: Path, settings: PrepareSettings, *, find_poses: FindPoses, find_faces: FindFaces,
    poses: Path | None = None, on_clip: Callable[[int, int, str], None] | None = None,
) -> Prepared:  # fmt: skip
    """Write every usable clip of `data` to `out`, and what is wrong with the others to bad.txt, a line each.

    data: a video, or a folder of videos and of clips laid out as the published training's: images/, with or without
    faces/ and poses/; a video_rec_path.txt or video_vec_path.txt names the clips to take. poses: folder of
    POSE_KEYPOINT files under the clips' names; they may also lie beside the videos. find_poses: for clips without
    poses. find_faces: aligns the faces of clips that come with drawn poses. What is done already is not done again:
    take a line out of bad.txt to try its clip once more.
    on_clip(done, clips, name) is called after each clip.
    Raises InputError when there is nothing to prepare or `out` was prepared otherwise, and what find_poses and
    find_faces raise, except for PoseError and FaceError.
    """
    sources, bad = find_sources(data, out, poses)
    _check_settings(out, settings)
    bad |= _read_bad(out)
    for done, source in enumerate(sources, 1):
        folder = out / source.name
        if not (folder / CLIP).is_file() and source.where not in bad:
            try:
                _prepare(source, folder, settings, find_poses, find_faces)
            except (BadClip, PoseError, FaceError, VideoError) as error:
                bad[source.where] = one_line(error)
        _write_bad(out, bad)
        if on_clip is not None:
            on_clip(done, len(sources), source.name)
    _write_bad(out, bad)
    clips = sorted(path.parent for path in out.glob(f"*/{CLIP}"))
    name = LISTS[settings.height > settings.width]
    _write(out / name, "".join(f"{clip.name}\n" for clip in clips))
    frames = sum(json.loads((clip / CLIP).read_text(encoding="utf-8"))["frames"] for clip in clips)
    return Prepared(len(clips), frames, bad)


def find_sources(data: Path, out: Path, poses: Path | None = None) -> tuple[list[Source], dict[str, str]]:
    """The clips in a folder by name, and what lists name but nobody finds. Raises InputError when there are none."""
    if not data.exists():
        raise InputError(f"{data} does not exist; check --data")
    if poses is not None and not poses.is_dir():
        raise InputError(f"{poses} is no folder; give the folder of the clips' POSES.json files")
    missing: dict[str, str] = {}
    root = data if data.is_dir() else data.parent
    lists = [data / name for name in LISTS if (data / name).is_file()]
    if data.is_file():
        found = [data]
    elif lists:
        found = []
        for path in lists:
            for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
                folder = _listed(line, data)
                if folder is None:
                    missing[line] = f"is named in {path.name} and not there"
                else:
                    found.append(folder)
    else:
        found = [path.parent for path in sorted(data.rglob("images")) if path.is_dir()]
        inside = set(found)
        videos = (path for path in sorted(data.rglob("*")) if path.suffix.lower() in VIDEOS)
        found += [path for path in videos if not inside & set(path.parents)]
    found = [path for path in found if out.resolve() not in path.resolve().parents]
    if not found and not missing:
        raise InputError(f"{data}: no clips; give videos ({', '.join(VIDEOS)}) or folders that hold images/")
    return [_source(path, root, poses) for path in found], missing


def _listed(line: str, data: Path) -> Path | None:
    """A clip's folder from a list that may have been written on another machine: its last folders count."""
    parts = Path(line).parts
    tries = [Path(line), *(data.joinpath(*parts[-some:]) for some in range(len(parts), 0, -1))]
    return next((folder for folder in tries if (folder / "images").is_dir()), None)


def _source(path: Path, root: Path, poses: Path | None) -> Source:
    relative = path.relative_to(root) if root in path.parents else Path(path.name)  # listed elsewhere, or all of it
    name = re.sub(r"[^\w.-]+", "_", "__".join(relative.parts))
    named = [path.with_suffix(".json"), path / "poses.json"]
    if poses is not None:
        named += [(poses / relative).with_suffix(".json"), poses / f"{path.stem}.json"]
    pose_file = next((file for file in named if file.is_file()), None)
    if path.is_file():
        return Source(name, path, pose_file)
    drawn = pose_file is None and (path / "poses").is_dir() and (path / "faces").is_dir()
    return Source(name, path / "images", pose_file, *((path / "poses", path / "faces") if drawn else ()))


def _check_settings(out: Path, settings: PrepareSettings) -> None:
    """Raises InputError when `out` was prepared with others; else remembers these."""
    wanted = {"format": FORMAT, **asdict(settings)}
    path = out / SETTINGS
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the clips")
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != wanted:
            raise InputError(f"{out}: was prepared with other settings; give the same ones, or another --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds other things; give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(wanted, indent=1) + "\n")


def _prepare(
    source: Source, folder: Path, settings: PrepareSettings, find_poses: FindPoses, find_faces: FindFaces
) -> None:
    """Write one clip. Raises BadClip or another error of the clip."""
    thumbnails: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    frames = _watched(_frames(source, settings), thumbnails, sizes)
    found = find_poses(frames) if source.pose_file is None and source.drawings is None else None
    for _ in frames:  # what the detector has not read: a broken file shows here
        pass
    count = len(thumbnails)
    if count < settings.least:
        raise BadClip(f"{count} frames, need {settings.least}")
    if (cut := find_cut(np.stack(thumbnails))) is not None:
        raise BadClip(f"a cut before frame {cut}; split it there")
    if source.drawings is not None:
        clip = _from_drawings(source, settings, count, find_faces)
    else:
        poses = Poses.load(source.pose_file).slice(0, settings.most) if found is None else found
        width, height = sizes[0]
        if abs(poses.width * height / (poses.height * width) - 1) > SAME_ASPECT:
            raise BadClip(f"frames of {width}x{height} and poses on a canvas of {poses.width}x{poses.height}")
        clip = _from_poses(poses, settings, count)
    seen = np.isfinite(clip.boxes).all(1)
    if seen.mean() < LEAST_FACES:
        raise BadClip(f"a face in {seen.sum()} of {count} frames only")
    _write_clip(source, folder, settings, clip)


def _frames(source: Source, settings: PrepareSettings) -> Iterator[np.ndarray]:
    from ..video import open_video

    fps = None if source.frames.is_dir() else settings.fps  # pictures have no rate of their own
    with open_video(source.frames, fps=fps, max_frames=settings.most, longest=LONGEST) as reader:
        yield from reader


def _watched(
    frames: Iterable[np.ndarray], thumbnails: list[np.ndarray], sizes: list[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """The frames, with a small copy of each kept, and its width and height."""
    for frame in frames:
        sizes.append(frame.shape[1::-1])
        thumbnails.append(cv2.resize(frame, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))
        yield frame


def find_cut(thumbnails: np.ndarray) -> int | None:
    """The first frame after a cut, if there is one. thumbnails: uint8 [F, S, S, 3]."""
    if len(thumbnails) < 3:
        return None
    change = np.abs(np.diff(thumbnails.astype(np.float32) / 255, axis=0)).mean((1, 2, 3))  # [F - 1]
    largest = int(change.argmax())
    sharp = change[largest] > max(CUT, CUT_OVER_MOTION * float(np.median(change)))
    return largest + 1 if sharp else None


def _from_poses(poses: Poses, settings: PrepareSettings, count: int) -> _Clip:
    if poses.frames != count:
        raise BadClip(f"{count} frames and poses for {poses.frames}; find the poses of this clip again")
    people = (poses.visible().sum(-1) >= SEEN_JOINTS).sum(-1)  # [F]
    if (crowded := int((people > 1).sum())) > MOST_STRANGERS * count:
        raise BadClip(f"several people in {crowded} of {count} frames")
    if (empty := int((people == 0).sum())) > MOST_EMPTY * count:
        raise BadClip(f"nobody in {empty} of {count} frames")
    poses, size = poses.person(0), (settings.width, settings.height)
    part = cover(poses, *size)
    poses = cover_poses(poses, part, *size)
    faces = face_boxes(poses, scale=settings.face_scale, crop=settings.face_crop)
    drawings = (
        draw_poses(poses.slice(f, f + 1), *size, canvas_short_side=settings.pose_canvas)[0] for f in range(count)
    )
    return _Clip(part, drawings, _or_nan(faces.boxes, faces.found), _templates(faces))


def _or_nan(values: torch.Tensor, found: torch.Tensor) -> np.ndarray:
    kept = values.float().clone()
    kept[~found] = float("nan")
    return kept.numpy()


def _templates(faces: FaceBoxes) -> np.ndarray | None:
    return None if faces.templates is None else _or_nan(faces.templates, faces.found)


def _from_drawings(source: Source, settings: PrepareSettings, count: int, find_faces: FindFaces) -> _Clip:
    """A clip of the published layout: its poses are drawn already, its faces masked."""
    from ..video import open_video, read_video

    masks, _ = read_video(source.masks)  # uint8 [F, H, W, 3]
    masks = masks[: settings.most]
    with open_video(source.drawings) as reader:
        drawn = min(reader.count, settings.most or reader.count)
        shape = reader.width / reader.height
    if not len(masks) == drawn == count:
        raise BadClip(f"{count} pictures in images/, {drawn} in poses/, {len(masks)} in faces/")
    height, width = masks.shape[1:3]
    if abs(shape * settings.height / settings.width - 1) > SAME_ASPECT:
        raise BadClip(f"its drawn poses are {width}x{height}, another shape than {settings.width}x{settings.height}")
    scale = np.array([settings.width / width, settings.height / height] * 2, dtype=np.float32)
    boxes = np.stack([mask_box(mask) for mask in masks]) * scale
    part, templates = Cover(0.0, 0.0, 1.0, 1.0), None
    if settings.face_crop == "arcface":
        frames = (_fitted(frame, part, settings) for frame in _frames(source, settings))
        templates = np.stack([_align(frame, box, find_faces) for frame, box in zip(frames, boxes)])
    return _Clip(part, _drawings(source, settings), boxes, templates)


def _drawings(source: Source, settings: PrepareSettings) -> Iterator[np.ndarray]:
    from ..video import open_video

    with open_video(source.drawings, max_frames=settings.most) as reader:
        for drawing in reader:
            yield cv2.resize(drawing, (settings.width, settings.height), interpolation=cv2.INTER_AREA)


def mask_box(mask: np.ndarray) -> np.ndarray:
    """The box around a mask's white, [4] px; NaN without any, and for a mask that is all white: no face was found.

    mask: uint8 [H, W, 3].
    """
    white = mask[..., 0] == 255
    if not white.any() or white.all():
        return np.full(4, np.nan, np.float32)
    ys, xs = white.any(1).nonzero()[0], white.any(0).nonzero()[0]
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], np.float32)


def _align(frame: np.ndarray, box: np.ndarray, find_faces: FindFaces) -> np.ndarray:
    """The template of the face in a box, [2, 3]; NaN where none can be embedded."""
    nothing = np.full((2, 3), np.nan, np.float32)
    if not np.isfinite(box).all():
        return nothing
    middles = ((face, (face.box[:2] + face.box[2:]) / 2) for face in find_faces(frame))
    inside = [face for face, middle in middles if (middle > box[:2]).all() and (middle < box[2:]).all()]
    try:
        return locate_among(inside, frame.shape[1::-1]).templates[0].numpy()
    except FaceError:
        return nothing


def _fitted(frame: np.ndarray, part: Cover, settings: PrepareSettings) -> np.ndarray:
    """The covering part of a frame at the output's size, uint8 [H, W, 3]."""
    return to_uint8(resize_picture(cover_picture(frame, part)[None], settings.width, settings.height))[0]


def _write_clip(source: Source, folder: Path, settings: PrepareSettings, clip: _Clip) -> None:
    for name in ("images", "poses", "faces"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    count = 0
    for frame, drawing, box in zip(_frames(source, settings), clip.drawings, clip.boxes):
        mask = np.zeros((settings.height, settings.width), np.uint8)
        if np.isfinite(box).all():
            x0, y0, x1, y1 = box.round().astype(int).clip(0)
            mask[y0:y1, x0:x1] = 255
        for name, picture in (("images", _fitted(frame, clip.part, settings)), ("poses", drawing), ("faces", mask)):
            Image.fromarray(picture).save(folder / name / f"frame_{count}.png", compress_level=1)
        count += 1
    faces = {"boxes": clip.boxes} | ({} if clip.templates is None else {"templates": clip.templates})
    np.savez(folder / FACES, **faces)
    about = {"source": source.where, "frames": count, "faces": int(np.isfinite(clip.boxes).all(1).sum())}
    _write(folder / CLIP, json.dumps(about, indent=1) + "\n")


def _read_bad(out: Path) -> dict[str, str]:
    path = out / BAD
    if not path.is_file():
        return {}
    rows = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {row[0]: row[-1] for row in rows}


def _write_bad(out: Path, bad: dict[str, str]) -> None:
    _write(out / BAD, "".join(f"{source}\t{reason}\n" for source, reason in bad.items()))


def _write(path: Path, text: str) -> None:
    """A whole file or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
