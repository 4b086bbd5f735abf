"""Pictures, videos, animations and folders of pictures as uint8 RGB frames, upright and opaque."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from ..errors import VideoError, one_line
from .formats import FALLBACK_FPS, PICTURES, fitted

if TYPE_CHECKING:  # PyAV is imported where a video is opened: pictures, charts and training do without it
    import av

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these leave transparency out


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3] RGB, upright (EXIF orientation applied).

    Transparent pixels are composited on white, as viewers show cut-outs; of an animation the first frame is read.
    Raises VideoError when the file is missing, empty, not a picture or damaged.
    """
    path = Path(path)
    _check_file(path, "picture")
    try:
        with Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise VideoError(f"{path} is not a picture that can be read; give a PNG, JPEG or WebP file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path} is damaged or cannot be read as a picture ({one_line(error)})") from None


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, Fraction]:
    """Read all of what open_video reads: (frames uint8 [F, H, W, 3] RGB, frames per second).

    Raises VideoError as open_video does, and when frames differ in size.
    """
    with open_video(path, max_frames=max_frames) as reader:
        return _stack(list(reader), Path(path)), reader.fps


class VideoReader:
    """Frames one after the other, uint8 [H, W, 3] RGB; made by open_video, to be used in a `with`, once."""

    def __init__(
        self, first: np.ndarray, rest: Iterator[np.ndarray], fps: Fraction, count: int | None, times: list[float],
        close: Callable[[], None],
    ):  # fmt: skip
        self.fps = fps  # of the frames that come out
        self.count = count  # how many will come, as far as the file says; None: unknown
        self.times = times  # of the frames that came out so far: in seconds since the stream begins
        self.height, self.width = first.shape[:2]  # of the first one; pictures in a folder may differ
        self._frames, self._close = chain([first], rest), close

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._frames

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def open_video(
    path: str | os.PathLike, *, fps: float | Fraction | None = None, start: float = 0.0,
    max_frames: int | None = None, longest: int | None = None,
) -> VideoReader:  # fmt: skip
    """Open a video, an animation, a picture or a folder of pictures, to be read frame by frame.

    Frames are upright (rotation flags of phones are applied), transparent pixels become white, every pixel format
    becomes 8 bits a channel. fps: resample to that rate: at every 1/fps seconds the frame nearest in time, so frames
    are dropped or repeated, by their own timestamps where the rate varies; None gives every frame once. start: in
    seconds. max_frames: of those that come out. longest: larger frames are scaled down to that many px on their
    longer side. A file without a rate counts as 7 fps; where a file breaks off, what could be decoded comes out.
    Raises VideoError when nothing is there, nothing in it is video, or no frame decodes.
    """
    path = Path(path)
    _check_reading(fps, start, max_frames, longest)
    source = _open(path, longest)
    rate = source.fps if fps is None else Fraction(fps).limit_denominator(1001)
    try:
        if start > 0:
            source.seek(start)
        earliest = start - 0.5 / float(source.fps)
        moments = ((time, make) for time, make in source.moments if time >= earliest)
        chosen = moments if fps is None else _resampled(moments, rate, 1 / source.fps)
        times: list[float] = []
        frames = (_made(moment, times) for moment in islice(chosen, max_frames))
        first = next(frames, None)
        if first is None:
            late = f"no frames after {start:g} s; choose an earlier start"
            why = late if start > 0 else "no frames that can be decoded; is the file complete?"
            raise VideoError(f"{path} has {why}")
    except BaseException:
        source.close()
        raise
    count = source.count
    if count is not None:
        count = max(1, math.ceil(round((count / source.fps - Fraction(start)) * rate, 6)))
        count = min(count, max_frames or count)
    return VideoReader(first, frames, rate, count, times, source.close)


def _made(moment: tuple[float, Callable[[], np.ndarray]], times: list[float]) -> np.ndarray:
    time, make = moment
    frame = make()
    times.append(time)
    return frame


def _check_file(path: Path, what: str) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist; check the path of the {what}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder, not a {what}")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); copy or export the {what} again")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow's own conversion would clip at 255
        return np.repeat((np.asarray(image) // 257).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _stack(frames: list[np.ndarray], path: Path) -> np.ndarray:
    for index, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise VideoError(
                f"{path}: frame {index} is {frame.shape[1]}x{frame.shape[0]}, frame 0 is "
                f"{frames[0].shape[1]}x{frames[0].shape[0]}; all frames must have one size"
            )
    return np.stack(frames)  # [F, H, W, 3]


class _Source(NamedTuple):
    """An open file: its frames in time, each made into pixels only when it is wanted."""

    fps: Fraction
    count: int | None
    moments: Iterator[tuple[float, Callable[[], np.ndarray]]]  # seconds from the beginning
    seek: Callable[[float], None] = lambda start: None  # go near a time, never beyond it
    close: Callable[[], None] = lambda: None


def _open(path: Path, longest: int | None) -> _Source:
    if path.is_dir():
        return _open_folder(path, longest)
    _check_file(path, "video")
    suffix = path.suffix.lower()
    if suffix == ".webp":
        return _open_webp(path, longest)
    return _pictures([path], longest) if suffix in PICTURES else _open_stream(path, longest)


def _check_reading(fps: float | Fraction | None, start: float, max_frames: int | None, longest: int | None) -> None:
    if max_frames is not None and max_frames < 1:
        raise VideoError(f"max_frames is {max_frames}, need 1 or more")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"frames per second is {fps}, need a number above 0")
    if not (math.isfinite(start) and start >= 0):
        raise VideoError(f"start is {start} s, need 0 or more")
    if longest is not None and longest < 1:
        raise VideoError(f"longest is {longest} px, need 1 or more")


def _resampled(
    moments: Iterable[tuple[float, Callable[[], np.ndarray]]], fps: Fraction, duration: Fraction
) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
    """Every 1/fps seconds, with the frame nearest in time; the last frame lasts `duration` seconds."""
    wanted, before = 0.0, None
    step, tolerance = float(1 / fps), 1e-6
    for time, make in moments:
        if before is None:
            begin = time
        else:
            while begin + wanted * step <= (before[0] + time) / 2 + tolerance:
                yield begin + wanted * step, before[1]
                wanted += 1
        before = time, make
    while before is not None and begin + wanted * step < before[0] + float(duration) - tolerance:
        yield begin + wanted * step, before[1]
        wanted += 1


def _open_folder(folder: Path, longest: int | None) -> _Source:
    def by_number(file: Path) -> list:  # 2.png before 10.png
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in PICTURES), key=by_number)
    if not files:
        raise VideoError(f"folder {folder} has no pictures ({', '.join(PICTURES)})")
    return _pictures(files, longest)


def _pictures(files: Sequence[Path], longest: int | None) -> _Source:
    moments = ((float(i / FALLBACK_FPS), partial(_read_shrunk, file, longest)) for i, file in enumerate(files))
    return _Source(FALLBACK_FPS, len(files), moments)


def _open_stream(path: Path, longest: int | None) -> _Source:
    """Whatever FFmpeg reads."""
    import av

    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path} is not a video that can be read ({one_line(error)})") from None
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path} has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    fps = Fraction(stream.average_rate or stream.guessed_rate or FALLBACK_FPS)
    count = stream.frames or None
    if count is None and container.duration:
        count = round(container.duration / av.time_base * fps)
    return _Source(
        fps, count, _moments(path, container, stream, fps, longest),
        lambda start: _seek(container, start), container.close,
    )  # fmt: skip


def _seek(container: av.container.InputContainer, start: float) -> None:
    import av

    try:
        container.seek(round(start * av.time_base) + (container.start_time or 0))
    except av.error.FFmpegError:  # some formats cannot: they are read from the beginning
        pass


def _moments(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, fps: Fraction, longest: int | None
) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
    import av

    begin = float((stream.start_time or 0) * (stream.time_base or 0))
    decoded = 0
    try:
        for frame in _decoded(container, stream):
            time = decoded / float(fps) if frame.time is None else frame.time - begin
            decoded += 1
            yield time, partial(_upright, frame, longest)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if not decoded:
            raise VideoError(f"{path} is not a video that can be read ({one_line(error)})") from None


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames of the stream, with their transparency where FFmpeg needs another decoder for it."""
    import av

    decoder = ALPHA_DECODERS.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or decoder not in av.codecs_available:
        yield from container.decode(stream)
        return
    context = av.CodecContext.create(decoder, "r")
    for packet in container.demux(stream):
        yield from context.decode(packet)


def _upright(frame: av.VideoFrame, longest: int | None) -> np.ndarray:
    """A decoded frame as uint8 RGB [H, W, 3]: scaled down, on white, turned."""
    scale = min(1.0, (longest or math.inf) / max(frame.width, frame.height))
    size = {"width": max(1, round(frame.width * scale)), "height": max(1, round(frame.height * scale))}
    clear = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    wanted = "rgba" if clear else "rgb24"
    pixels = frame.reformat(**size, format=wanted, interpolation="AREA" if scale < 1 else "BILINEAR").to_ndarray()
    if clear:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _open_webp(path: Path, longest: int | None) -> _Source:
    """Animated WebP, which FFmpeg does not decode. Frames are decoded twice: their durations are known only then."""
    try:
        image = Image.open(path)
        milliseconds = []
        for frame in ImageSequence.Iterator(image):
            frame.load()  # tells the duration
            milliseconds.append(frame.info.get("duration", 0))
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"{path} is not a video that can be read ({one_line(error)})") from None
    count, total = len(milliseconds), sum(milliseconds)
    fps = Fraction(1000 * count / total).limit_denominator(1001) if total else FALLBACK_FPS

    def moments() -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        time = 0.0
        for index, duration in enumerate(milliseconds):
            image.seek(index)
            yield time, partial(_shrunk, _to_rgb(image), longest)
            time += duration / 1000 if total else float(1 / fps)

    return _Source(fps, count, moments(), close=image.close)


def _read_shrunk(file: Path, longest: int | None) -> np.ndarray:
    return _shrunk(read_image(file), longest)


def _shrunk(picture: np.ndarray, longest: int | None) -> np.ndarray:
    if longest is None or max(picture.shape[:2]) <= longest:
        return picture
    return fitted(picture, longest, longest)
