"""The sound of a video: read to be written beside other frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import VideoError, one_line
from .formats import SOUND_CODECS

if TYPE_CHECKING:
    import av

RATE = 48_000  # samples a second, which every codec here takes
LAYOUT, FORMAT = "stereo", "fltp"
PIECE = 1024  # samples


def carries_sound(path: str | os.PathLike) -> bool:
    """Whether write_video can give a file of this name sound."""
    import av

    return SOUND_CODECS.get(Path(path).suffix.lower()) in av.codecs_available


def read_sound(path: str | os.PathLike, seconds: float) -> np.ndarray | None:
    """The sound of a video's first seconds, counted from its first frame: float32 [2, n] at RATE.

    It is as long as that, or ends with the file; where it sets in late it begins with silence. None where there is
    none, as in pictures and their folders. Raises VideoError when there is sound that cannot be decoded.
    """
    import av

    path = Path(path)
    if not path.is_file():
        return None
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError):  # WebP, which FFmpeg does not read
        return None
    with container:
        if not container.streams.audio or not container.streams.video:
            return None
        stream, video = container.streams.audio[0], container.streams.video[0]
        begin = float((video.start_time or 0) * (video.time_base or 0))
        wanted = round(seconds * RATE)
        sound = np.zeros((2, wanted), np.float32)
        end = 0
        try:
            for at, samples in _resampled(container, stream):
                first = round((at - begin) * RATE)
                if first >= wanted:
                    break
                samples = samples[:, max(-first, 0) : wanted - first]
                first = max(first, 0)
                sound[:, first : first + samples.shape[1]] = samples
                end = max(end, first + samples.shape[1])
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if not end:
                raise VideoError(f"{path}: its sound cannot be decoded ({one_line(error)})") from None
        return sound[:, :end] if end else None


def _resampled(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[tuple[float, np.ndarray]]:
    """Pieces [2, n] at RATE, each with its time in seconds."""
    import av

    resampler = av.AudioResampler(FORMAT, LAYOUT, RATE)
    time = 0.0
    for frame in chain(container.decode(stream), [None]):  # None: what the resampler still holds
        for piece in resampler.resample(frame):
            time = time if piece.time is None else piece.time
            yield time, piece.to_ndarray()
            time += piece.samples / RATE


class SoundTrack:
    """The sound of a file that is being written, handed over in step with its frames."""

    def __init__(self, container: av.container.OutputContainer, sound: np.ndarray, suffix: str):
        """sound: float32 [2, n] at RATE."""
        self._sound, self._written = sound, 0
        self._stream = container.add_stream(SOUND_CODECS[suffix], rate=RATE, layout=LAYOUT)

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """The packets of what comes before this time and was not handed over yet."""
        import av

        end = min(round(seconds * RATE), self._sound.shape[1])
        while self._written < end:
            samples = np.ascontiguousarray(self._sound[:, self._written : min(self._written + PIECE, end)])
            frame = av.AudioFrame.from_ndarray(samples, FORMAT, LAYOUT)
            frame.sample_rate, frame.pts, frame.time_base = RATE, self._written, Fraction(1, RATE)
            self._written += samples.shape[1]
            yield from self._stream.encode(frame)

    def end(self) -> Iterator[av.Packet]:
        """What is left of it."""
        yield from self.until(self._sound.shape[1] / RATE)
        yield from self._stream.encode()
