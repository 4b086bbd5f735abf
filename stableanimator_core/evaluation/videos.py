"""People's own videos as material: a reference out of each video, driven by what follows it, or by somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..conditioning import cover, cover_picture, cover_poses, resize_picture
from ..errors import FaceError, InputError, PoseError
from ..face import locate_in_pose
from ..keypoints import Poses
from ..pipeline import ASPECT_TOLERANCE, to_uint8
from ..video import FORMATS, PICTURES, open_video
from ..weights import ModelConfig
from .material import FIRST_SEED, Case, Footage, MakeCase

SEARCH = 60  # frames among which the reference is looked for
LONGEST = 1920  # px: larger frames are scaled down
VIDEOS = tuple(suffix for suffix in FORMATS if suffix not in PICTURES) + (".avi",)
UPPER = (0, 1, 2, 5)  # nose, neck, shoulders: the joints that every framing shows
MIN_SCORE = 0.3


class Video(NamedTuple):
    """A person's video, and the moment that their reference is taken from."""

    name: str
    path: Path  # a video, or a folder of pictures
    poses: Poses  # of its first frames, on any canvas of their aspect
    reference: int  # the frame; the clip begins with the next one
    frames: int  # of the clip

    @property
    def clip(self) -> Poses:
        """The poses that drive, without the reference's."""
        return self.poses.slice(self.reference + 1, self.reference + 1 + self.frames)


def find_videos(folder: Path) -> dict[str, Path]:
    """Videos, and folders of pictures, in a folder, by their names. Raises InputError when there are none."""
    _check_folder(folder, "--videos")
    found = {
        path.name: path
        for path in sorted(folder.iterdir())
        if (path.is_file() and path.suffix.lower() in VIDEOS) or (path.is_dir() and _has_pictures(path))
    }
    if not found:
        raise InputError(f"{folder} has no videos ({', '.join(VIDEOS)}) and no folders of pictures; check --videos")
    return found


def find_tiktok(folder: Path, sequences: tuple[int, int] | None = None) -> dict[str, Path]:
    """The TikTok dataset's sequences (Jafarian and Park 2021): NNNNN/images, one picture a frame, by number.

    What lies beside the pictures (masks, densepose) is not looked at. The folder may be that of the sequences, or
    hold it as TikTok_dataset, once or twice, as the archive does. sequences: first and last number; the field
    tests on 335 to 340 (DisCo, whose further ten test videos were not published).
    Raises InputError when there are none.
    """
    _check_folder(folder, "--tiktok")
    inner = Path("TikTok_dataset")
    for candidate in (folder, folder / inner, folder / inner / inner):
        numbered = sorted(path for path in candidate.glob("*/images") if path.parent.name.isdecimal())
        if numbered:
            break
    else:
        raise InputError(f"{folder} has no NNNNN/images folders as the TikTok dataset has; check --tiktok")
    first, last = sequences or (0, 10**9)
    found = {path.parent.name: path for path in numbered if first <= int(path.parent.name) <= last}
    if not found:
        names = f"{numbered[0].parent.name} to {numbered[-1].parent.name}"
        raise InputError(f"--sequences {first}:{last}: {folder} has {names}; choose among these")
    return found


def read_videos(
    paths: dict[str, Path], config: ModelConfig, *, frames: int, poses_of: Callable[[Path, int], Poses],
    on_video: Callable[[int, int], None] | None = None,
) -> tuple[list[Video], list[str]]:  # fmt: skip
    """The usable videos, and a line about each of the others and each that is shorter than asked for.

    The reference is the first frame with a usable face; the clip is what follows it, so that no frame of it can be had
    by copying. poses_of(path, most): poses of a video's first frames. on_video(videos read, videos).
    """
    videos, notes = [], []
    for done, (name, path) in enumerate(paths.items(), 1):
        try:
            video = _video(name, path, config, poses_of(path, frames + 1 + SEARCH), frames)
        except InputError as error:
            notes.append(f"{name} is left out: {str(error).removeprefix(f'{path}: ')}")
        else:
            videos.append(video)
            if video.frames < frames:
                notes.append(f"{name} gives {video.frames} frames, {frames} were asked for")
        if on_video is not None:
            on_video(done, len(paths))
    return videos, notes


def video_cases(videos: Sequence[Video], size: tuple[int, int], *, seed: int) -> list[MakeCase]:
    """Everybody repeats the motion of their own video, which is the truth. size: width, height in px of the output."""
    shoot = lru_cache(maxsize=2)(lambda index: _shoot(videos[index], size))

    def case(index: int) -> Case:
        own, other = shoot(index), shoot((index + 1) % len(videos))
        return Case(
            videos[index].name, own.reference, own.reference_pose, own.footage.poses, own.footage, other.footage,
            seed * FIRST_SEED + index,
        )  # fmt: skip

    return [partial(case, index) for index in range(len(videos))]


def misaligned_cases(videos: Sequence[Video], size: tuple[int, int], *, seed: int) -> list[MakeCase]:
    """Everybody does the motion of another video, of a body of another size; nobody knows the truth.

    Sorted by size in the picture, person r is driven by person r + n/2: everybody drives once, and the pairs differ
    about as much as the material allows.
    """
    sizes = [body_size(video.poses) for video in videos]
    order = np.argsort(sizes, kind="stable")
    pairs = [(int(i), int(j)) for i, j in zip(order, np.roll(order, -(len(videos) // 2)))]

    def case(index: int, driver: int) -> Case:
        own, other = _shoot(videos[index], size), _shoot(videos[driver], size)
        name = f"{videos[index].name} driven by {videos[driver].name}, {sizes[driver] / sizes[index]:.2f} times as big"
        return Case(
            name, own.reference, own.reference_pose, videos[driver].clip, own.footage, other.footage,
            seed * FIRST_SEED + index, known=False,
        )  # fmt: skip

    return [partial(case, *pair) for pair in sorted(pairs)]


def body_size(poses: Poses) -> float:
    """How big person 0 is: the median spread of nose, neck and shoulders, as a share of the canvas's height.

    Raises PoseError when no frame shows two of them.
    """
    seen = poses.body_score[:, 0, UPPER] > MIN_SCORE  # [F, 4]
    spreads = [
        float(np.linalg.norm(points[shown] - points[shown].mean(0), axis=1).mean())
        for points, shown in zip(poses.body[:, 0, UPPER], seen)
        if shown.sum() >= 2
    ]
    if not spreads:
        raise PoseError("no frame shows two of nose, neck and shoulders")
    return float(np.median(spreads)) / poses.height


class _Shot(NamedTuple):
    reference: np.ndarray  # [H, W, 3] uint8
    reference_pose: Poses
    footage: Footage


def _shoot(video: Video, size: tuple[int, int]) -> _Shot:
    """Read a video and crop it, its reference and its poses alike to the output's aspect."""
    begin, end = video.reference, video.reference + 1 + video.frames
    with open_video(video.path, max_frames=end, longest=LONGEST) as reader:
        pictures = list(reader)[begin:]
    if len(pictures) <= video.frames:
        raise InputError(f"{video.path} breaks off after {begin + len(pictures)} frames, its poses go on; shorten them")
    poses = video.poses.slice(begin, end)
    part = cover(poses, *size)
    poses = cover_poses(poses, part, *size)
    reference = to_uint8(cover_picture(pictures[0], part)[None])[0]
    frames = [to_uint8(resize_picture(cover_picture(picture, part)[None], *size))[0] for picture in pictures[1:]]
    return _Shot(reference, poses.slice(0, 1), Footage(np.stack(frames), poses.slice(1, None)))


def _video(name: str, path: Path, config: ModelConfig, poses: Poses, frames: int) -> Video:
    """Check a video against its poses and find its reference. Raises InputError where it can't serve."""
    body_size(poses)
    with open_video(path, max_frames=poses.frames, longest=LONGEST) as reader:
        count = min(poses.frames, reader.count or poses.frames)
        if abs(poses.width * reader.height / (poses.height * reader.width) - 1) > ASPECT_TOLERANCE:
            canvas = f"its poses are on a canvas of {poses.width}x{poses.height}"
            raise InputError(f"{canvas}, its frames are {reader.width}x{reader.height}; give its own poses")
    how = {"scale": config.face_scale, "crop": config.face_crop}
    fault = f"it has {count} frames, need 2"
    for index in range(min(count - 1, SEARCH)):
        try:
            locate_in_pose(poses.slice(index, index + 1), (poses.width, poses.height), **how)
        except FaceError as error:
            fault = f"none of its first {index + 1} frames shows a usable face (the last: {error})"
        else:
            return Video(name, path, poses, index, min(frames, count - index - 1))
    raise InputError(fault)


def _check_folder(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; check {option}")


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURES for path in folder.iterdir())
