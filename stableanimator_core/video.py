"""Pictures and videos in and out: uint8 RGB, frames [F, H, W, 3]; contact sheets and pose overlays.

The suffix of a path chooses the format: .mp4 .mov .mkv (H.264), .webm (VP9), .gif and .webp (animations), and
.png, a folder of numbered pictures.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence, UnidentifiedImageError

from .errors import VideoError

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
FORMATS = (*CODECS, ".gif", ".webp", ".png")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FALLBACK_FPS = Fraction(7)  # what Stable Video Diffusion was trained at; for files that carry no rate
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


def write_image(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Write one picture, uint8 [H, W, 3] RGB; the suffix chooses the format. Raises VideoError."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise VideoError(f"{path}: a picture is written as {', '.join(PICTURES)}; choose one of these endings")
    _check_folder(path)
    try:
        Image.fromarray(_check_frames(np.asarray(image)[None])[0]).save(path)
    except OSError as error:
        raise VideoError(f"{path} cannot be written ({one_line(error)})") from None
    return path


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, Fraction]:
    """Read all of what open_video reads: (frames uint8 [F, H, W, 3] RGB, frames per second).

    Raises VideoError as open_video does, and when frames differ in size.
    """
    with open_video(path, max_frames=max_frames) as reader:
        return _stack(list(reader), Path(path)), reader.fps


class VideoReader:
    """Frames one after the other, uint8 [H, W, 3] RGB; made by open_video, to be used in a `with`, once."""

    def __init__(
        self, first: np.ndarray, rest: Iterator[np.ndarray], fps: Fraction, count: int | None, close: Callable[[], None]
    ):  # fmt: skip
        self.fps = fps  # of the frames that come out
        self.count = count  # how many will come, as far as the file says; None: unknown
        self.height, self.width = first.shape[:2]  # of the first one; pictures in a folder may differ
        self._frames, self._close = chain([first], rest), close

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._frames

    def __enter__(self) -> "VideoReader":
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
        makers = (make for _, make in moments) if fps is None else _resampled(moments, rate, 1 / source.fps)
        frames = (make() for make in islice(makers, max_frames))
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
    return VideoReader(first, frames, rate, count, source.close)


def check_output(path: str | os.PathLike) -> Path:
    """Check that write_video could write here, before any work is done; returns the path that it will return.

    For a name that ends in .png, or in nothing, that is a folder of frames. Raises VideoError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix and suffix not in FORMATS:
        raise VideoError(f"{path}: cannot write {suffix} files; choose one of {', '.join(FORMATS)}")
    if suffix in CODECS and CODECS[suffix] not in av.codecs_available:
        raise VideoError(f"{path}: this PyAV cannot encode {suffix} files; choose .gif, .webp or .png")
    _check_folder(path)
    if suffix not in ("", ".png"):
        if path.is_dir():
            raise VideoError(f"{path} is a folder; choose another --out")
        return path
    folder = path.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise VideoError(f"{folder} is a file, and the frames need a folder of that name; choose another --out")
    return folder


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float | Fraction) -> Path:
    """Write frames, uint8 [F, H, W, 3] RGB, in the format of the path's suffix; returns where they are.

    H.264 and VP9 are written as yuv420p, which every player shows; an odd width or height gets its last column or
    row twice. `name.png` (or a name without suffix) becomes a folder `name` of 00000.png, 00001.png, ...;
    frames of that naming that an earlier, longer video left there are deleted, other files stay.
    A file appears only when it is complete. Raises VideoError.
    """
    target = check_output(path)
    frames = _check_frames(frames)
    if not math.isfinite(fps) or fps <= 0:
        raise VideoError(f"frames per second is {fps}, need a number above 0")
    suffix = target.suffix.lower() if target == Path(path) else ""
    try:
        if not suffix:
            _write_folder(target, frames)
            return target
        with _complete(target) as part:
            if suffix in CODECS:
                _write_stream(part, frames, fps, CODECS[suffix])
            else:
                _write_animation(part, frames, fps)
    except (OSError, av.error.FFmpegError) as error:
        raise VideoError(f"{target} cannot be written ({one_line(error)})") from None
    return target


def overlay(frames: np.ndarray, pose_images: np.ndarray, *, opacity: float = 0.75) -> np.ndarray:
    """Lay drawn poses over frames, both uint8 [F, H, W, 3]: black of the pose picture stays transparent.

    Raises VideoError when the two have different shapes.
    """
    frames, pose_images = _check_frames(frames), _check_frames(pose_images)
    if frames.shape != pose_images.shape:
        raise VideoError(f"frames {list(frames.shape)} and pose pictures {list(pose_images.shape)} differ in shape")
    drawn = pose_images.max(axis=-1, keepdims=True).astype(np.float32) / 255  # [F, H, W, 1], 0 where nothing is drawn
    alpha = opacity * np.minimum(2 * drawn, 1)
    return (frames * (1 - alpha) + pose_images * alpha).round().astype(np.uint8)


class SheetRow(NamedTuple):
    label: str
    frames: np.ndarray  # uint8 [F, H, W, 3]
    captions: Sequence[str] = ()  # one per frame, or none


def contact_sheet(rows: Sequence[SheetRow | tuple], columns: int = 8, *, cell: int | None = None) -> np.ndarray:
    """One picture, uint8 [H, W, 3], of rows of frames spread evenly over time, each row with its label.

    rows: SheetRow or (label, frames) or (label, frames, captions); rows may differ in length and frame size, every
    frame is fitted into the same cell. cell: its height in px, by default that of the tallest frame.
    Raises VideoError when there is nothing to show.
    """
    sheet = [SheetRow(*row) for row in rows]
    if not sheet or columns < 1:
        raise VideoError(f"a contact sheet of {len(sheet)} rows and {columns} columns shows nothing")
    for row in sheet:
        _check_frames(row.frames)
    height = cell or max(row.frames.shape[1] for row in sheet)
    width = max(round(height * row.frames.shape[2] / row.frames.shape[1]) for row in sheet)
    columns = min(columns, max(len(row.frames) for row in sheet))
    font = ImageFont.load_default(max(11, round(height / 11)))
    line = font.getbbox("Ag")[3] + 4
    gap = max(3, height // 40)
    margin = max(math.ceil(font.getlength(row.label)) for row in sheet) + 3 * gap
    heights = [height + (line if len(row.captions) else 0) + gap for row in sheet]
    image = Image.new("RGB", (margin + columns * (width + gap), sum(heights) + gap), "white")
    pen = ImageDraw.Draw(image)
    top = gap
    for row, row_height in zip(sheet, heights):
        pen.text((gap, top + height / 2), row.label, fill="black", font=font, anchor="lm")
        for column, index in enumerate(spread(len(row.frames), columns)):
            left = margin + column * (width + gap)
            picture = Image.fromarray(_fit(row.frames[index], width, height))
            image.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            if index < len(row.captions):
                place = (left + width / 2, top + height + line / 2)
                pen.text(place, row.captions[index], fill="black", font=font, anchor="mm")
        top += row_height
    return np.array(image)


def spread(count: int, columns: int) -> list[int]:
    """At most `columns` distinct indices of 0..count-1, evenly spread, first and last included."""
    return sorted({round(float(position)) for position in np.linspace(0, count - 1, min(count, columns))})


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks, for messages of one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_file(path: Path, what: str) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist; check the path of the {what}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder, not a {what}")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); copy or export the {what} again")


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise VideoError(f"output folder {folder} does not exist; create it or choose another --out")
    if not os.access(folder, os.W_OK):
        raise VideoError(f"output folder {folder} cannot be written to; choose another --out")


def _check_frames(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise VideoError(f"frames are {frames.dtype} {list(frames.shape)}, need uint8 [F, H, W, 3], none of them 0")
    return frames


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
) -> Iterator[Callable[[], np.ndarray]]:
    """For every 1/fps seconds the frame nearest in time; the last frame lasts `duration` seconds."""
    wanted, before = 0.0, None
    step, tolerance = float(1 / fps), 1e-6
    for time, make in moments:
        if before is None:
            begin = time
        else:
            while begin + wanted * step <= (before[0] + time) / 2 + tolerance:
                yield before[1]
                wanted += 1
        before = time, make
    while before is not None and begin + wanted * step < before[0] + float(duration) - tolerance:
        yield before[1]
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
    try:
        container.seek(round(start * av.time_base) + (container.start_time or 0))
    except av.error.FFmpegError:  # some formats cannot: they are read from the beginning
        pass


def _moments(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, fps: Fraction, longest: int | None
) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
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
    return _fit(picture, longest, longest)


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


def _write_stream(path: Path, frames: np.ndarray, fps: float | Fraction, codec: str) -> None:
    height, width = frames.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    if height % 2 or width % 2:
        frames = np.pad(frames, padding, mode="edge")
    options = {"crf": "17"} if codec == "libx264" else {"crf": "24", "b": "0", "row-mt": "1", "cpu-used": "4"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _write_animation(path: Path, frames: np.ndarray, fps: float | Fraction) -> None:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / float(fps)), loop=0, quality=90)


def _fit(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a frame [H, W, 3] to the largest size of its own aspect inside width x height."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    if size == (frame.shape[1], frame.shape[0]):
        return frame
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4)
