"""Frames as pictures, videos, animations and folders of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import VideoError, one_line
from .formats import CODECS, FORMATS, PICTURES, check_frames
from .sound import SoundTrack


def write_image(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Write one picture, uint8 [H, W, 3] RGB; the suffix chooses the format. Raises VideoError."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise VideoError(f"{path}: a picture is written as {', '.join(PICTURES)}; choose one of these endings")
    _check_folder(path)
    try:
        Image.fromarray(check_frames(np.asarray(image)[None])[0]).save(path)
    except OSError as error:
        raise VideoError(f"{path} cannot be written ({one_line(error)})") from None
    return path


def check_output(path: str | os.PathLike, option: str = "--out") -> Path:
    """Check that write_video could write here, before any work is done; returns the path that it will return.

    For a name that ends in .png, or in nothing, that is a folder of frames. option: where the name was given.
    Raises VideoError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix and suffix not in FORMATS:
        raise VideoError(f"{path}: cannot write {suffix} files; choose one of {', '.join(FORMATS)}")
    if suffix in CODECS and not _can_encode(CODECS[suffix]):
        raise VideoError(f"{path}: this PyAV cannot encode {suffix} files; choose .gif, .webp or .png")
    _check_folder(path, option)
    if suffix not in ("", ".png"):
        if path.is_dir():
            raise VideoError(f"{path} is a folder; choose another {option}")
        return path
    folder = path.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise VideoError(f"{folder} is a file, and the frames need a folder of that name; choose another {option}")
    return folder


def write_video(
    path: str | os.PathLike, frames: np.ndarray, fps: float | Fraction, *, sound: np.ndarray | None = None
) -> Path:
    """Write frames, uint8 [F, H, W, 3] RGB, in the format of the path's suffix; returns where they are.

    sound: Sound.samples, for a path that carries_sound; GIF, WebP and pictures leave it out.

    H.264 and VP9 are written as yuv420p, which every player shows; an odd width or height gets its last column or
    row twice. `name.png` (or a name without suffix) becomes a folder `name` of 00000.png, 00001.png, ...;
    frames of that naming that an earlier, longer video left there are deleted, other files stay.
    A file appears only when it is complete. Raises VideoError.
    """
    target = check_output(path)
    frames = check_frames(frames)
    if not math.isfinite(fps) or fps <= 0:
        raise VideoError(f"frames per second is {fps}, need a number above 0")
    suffix = target.suffix.lower() if target == Path(path) else ""
    try:
        if not suffix:
            _write_folder(target, frames)
            return target
        with _complete(target) as part:
            if suffix in CODECS:
                _write_stream(part, frames, fps, CODECS[suffix], sound)
            else:
                _write_animation(part, frames, fps)
    except OSError as error:
        raise VideoError(f"{target} cannot be written ({one_line(error)})") from None
    return target


def _check_folder(path: Path, option: str = "--out") -> None:
    folder = path.parent
    if not folder.is_dir():
        raise VideoError(f"output folder {folder} does not exist; create it or choose another {option}")
    if not os.access(folder, os.W_OK):
        raise VideoError(f"output folder {folder} cannot be written to; choose another {option}")


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """Write to a neighbour and rename it at the end, so that an interrupted run leaves no half file."""
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _write_folder(folder: Path, frames: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / _frame_name(index))
    for file in folder.glob("[0-9]*.png"):  # those of an earlier, longer video would follow as its end
        if file.stem.isdecimal() and int(file.stem) >= len(frames) and file.name == _frame_name(int(file.stem)):
            file.unlink()


def _frame_name(index: int) -> str:
    return f"{index:05d}.png"


def _can_encode(codec: str) -> bool:
    import av  # here and below: pictures are written without PyAV

    return codec in av.codecs_available


def _write_stream(
    path: Path, frames: np.ndarray, fps: float | Fraction, codec: str, sound: np.ndarray | None
) -> None:  # fmt: skip
    """Raises OSError."""
    import av

    height, width = frames.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        frames = np.pad(frames, padding, mode="edge")
    options = {"crf": "17"} if codec == "libx264" else {"crf": "24", "b": "0", "row-mt": "1", "cpu-used": "4"}
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            track = None if sound is None else SoundTrack(container, sound, path.suffix.lower())
            for number, pixels in enumerate(frames, 1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                for packet in track.until(number / float(fps)) if track else ():
                    container.mux(packet)
            container.mux(stream.encode())
            for packet in track.end() if track else ():
                container.mux(packet)
    except av.error.FFmpegError as error:
        raise OSError(one_line(error)) from error


def _write_animation(path: Path, frames: np.ndarray, fps: float | Fraction) -> None:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    unit = 10 if path.suffix.lower() == ".gif" else 1  # ms, what a frame's time is counted in
    times = [round(1000 * number / float(fps) / unit) * unit for number in range(len(frames) + 1)]
    durations = [max(unit, end - begin) for begin, end in zip(times[:-1], times[1:])]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, quality=90)
