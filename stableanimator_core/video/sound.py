"""The sound of a video: read to be written beside other frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import VideoError, one_line
from .formats import SOUND_CODECS

if TYPE_CHECKING:
    import av

RATE = 48_000  # samples a second, which every codec here takes
LAYOUT, FORMAT = "stereo", "fltp"
PIECE = 1024  # samples


class Sound(NamedTuple):
    """A stretch of a file's sound."""

    samples: np.ndarray  # float32 [2, n] in -1..1 at RATE
    damaged: int  # packets that could not be decoded; they are silent


def carries_sound(path: str | os.PathLike) -> bool:
    """Whether write_video can give a file of this name sound."""
    import av

    try:
        av.codec.Codec(SOUND_CODECS.get(Path(path).suffix.lower(), ""), "w")
    except ValueError:  # UnknownCodecError is one
        return False
    return True


def read_sound(path: str | os.PathLike, seconds: float, *, start: float = 0.0) -> Sound | None:
    """The sound of a video from `start`, in seconds since its video stream begins, as VideoReader.times counts.

    It is as long as asked for, or ends with the file; where it sets in late it begins with silence. Of several tracks
    it is the one that players take. None where there is none, as in pictures and their folders.
    Raises VideoError when there is sound and nothing of it can be decoded.
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
        stream = container.streams.best("audio")
        if stream is None or not container.streams.video:
            return None
        if stream.codec_context is None:  # older versions of PyAV would crash in it
            raise VideoError(f"{path}: its sound cannot be decoded (a codec that FFmpeg does not know)")
        video = container.streams.video[0]
        begin = start + float((video.start_time or 0) * (video.time_base or 0))
        samples, end = np.zeros((2, round(seconds * RATE)), np.float32), 0
        decoder = _Decoder(container, stream)
        try:
            for at, piece in decoder:
                first = round((at - begin) * RATE)
                if first >= samples.shape[1]:
                    break
                piece = piece[:, max(-first, 0) : samples.shape[1] - first]
                first = max(first, 0)
                samples[:, first : first + piece.shape[1]] = piece
                end = max(end, first + piece.shape[1])
        except (av.error.FFmpegError, ValueError) as error:  # channels that nothing is known of
            raise VideoError(f"{path}: its sound cannot be resampled ({one_line(error)})") from None
        if decoder.error is not None and not decoder.decoded:
            raise VideoError(f"{path}: its sound cannot be decoded ({one_line(decoder.error)})")
        samples = np.nan_to_num(samples[:, :end]).clip(-1, 1)
        return Sound(samples, decoder.damaged) if end else None


class _Decoder:
    """Pieces [2, n] at RATE, each with its time in seconds; damaged packets are left out and counted."""

    def __init__(self, container: av.container.InputContainer, stream: av.AudioStream):
        self.decoded = self.damaged = 0
        self.error: Exception | None = None
        self._container, self._stream = container, stream

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        import av

        resampler, kind, time = None, None, 0.0
        for frame in self._frames():
            now = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
            pieces = []
            if resampler is not None and now != kind:  # the end, or TV recordings that change within
                pieces += resampler.resample(None)
            if frame is not None:
                if now != kind:
                    resampler, kind = av.AudioResampler(FORMAT, LAYOUT, RATE), now
                pieces += resampler.resample(frame)
            for piece in pieces:
                time = time if piece.time is None else piece.time
                yield time, piece.to_ndarray()
                time += piece.samples / RATE

    def _frames(self) -> Iterator[av.AudioFrame | None]:
        """All that can be decoded, then None."""
        import av

        packets, whole = self._container.demux(self._stream), True
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError, ValueError) as error:  # the file breaks off
                self.error, packet = error, None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                self.error, whole = error, False
                self.damaged += 1
                continue
            self.decoded += len(frames)
            if whole:
                yield from frames
            whole = True  # what follows damage sounds of it, since codecs blend each packet into the next
        yield None


class SoundTrack:
    """The sound of a file that is being written, handed over in step with its frames."""

    def __init__(self, container: av.container.OutputContainer, samples: np.ndarray, suffix: str):
        """samples: float32 [2, n] at RATE."""
        self._samples, self._written = samples, 0
        self._stream = container.add_stream(SOUND_CODECS[suffix], rate=RATE, layout=LAYOUT)

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """The packets of what comes before this time and was not handed over yet."""
        import av

        end = min(round(seconds * RATE), self._samples.shape[1])
        while self._written < end:
            samples = np.ascontiguousarray(self._samples[:, self._written : min(self._written + PIECE, end)])
            frame = av.AudioFrame.from_ndarray(samples, FORMAT, LAYOUT)
            frame.sample_rate, frame.pts, frame.time_base = RATE, self._written, Fraction(1, RATE)
            self._written += samples.shape[1]
            yield from self._stream.encode(frame)

    def end(self) -> Iterator[av.Packet]:
        """What is left of it."""
        yield from self.until(self._samples.shape[1] / RATE)
        yield from self._stream.encode()
