"""Sound of a driving video: read in step with its frames, written beside others."""

from __future__ import annotations

import json
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from stableanimator_core import cli
from stableanimator_core.errors import VideoError
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose import Extraction
from stableanimator_core.video import carries_sound, open_video, read_sound, write_video
from stableanimator_core.video import sound as video_sound
from stableanimator_core.video.formats import SOUND_CODECS
from stableanimator_core.video.sound import RATE, Sound

SECONDS, FPS = 2.0, 10
FRAMES = np.full((round(SECONDS * FPS), 32, 32, 3), 90, np.uint8)


def beeps(seconds: float, *at: float, rate: int = RATE) -> np.ndarray:
    """Silence with a beep of .1 s at each of these times; half as loud on the right."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    sounding = np.any([(first <= time) & (time < first + 0.1) for first in at], axis=0)
    return np.stack([tone * sounding, 0.5 * tone * sounding]).astype(np.float32)


def heard(sound: np.ndarray) -> list[float]:
    """When beeps begin, in seconds."""
    loud = np.abs(sound[0]) > 0.2
    times = np.flatnonzero(loud) / RATE
    return [round(float(time), 2) for time in times[np.diff(times, prepend=-1) > 0.05]]


def record(path, tracks, *, codec="aac", rate=RATE, layout="stereo", late=0.0, gop=12):
    """A video of FRAMES with these tracks [n] or [channels, n]; late: seconds from the first frame to the sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"g": str(gop), "bf": "0", "sc_threshold": "0"})
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        streams = [container.add_stream(codec, rate=rate, layout=layout) for _ in tracks]
        for number, pixels in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + round(max(-late, 0) * FPS), Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for stream, samples in zip(streams, tracks):
            for first in range(0, samples.shape[1], 1024):
                piece = np.ascontiguousarray(samples[:, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(piece, "fltp", layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = first + round(max(late, 0) * rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_round_trip(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", FRAMES, FPS, sound=beeps(SECONDS, 0.5, 1.5))
    sound, damaged = read_sound(path, SECONDS)
    assert not damaged and heard(sound) == pytest.approx([0.5, 1.5], abs=0.02) and sound.dtype == np.float32
    assert sound.shape[1] == pytest.approx(SECONDS * RATE, abs=0.03 * RATE)
    left, right = np.abs(sound).max(1)
    assert left == pytest.approx(0.5, abs=0.1) and right == pytest.approx(0.25, abs=0.05)
    with open_video(path) as reader:
        assert len(list(reader)) == len(FRAMES)


def test_it_is_interleaved_with_the_frames(tmp_path):
    """A player that streams the file finds both together."""
    path = write_video(tmp_path / "clip.mp4", np.repeat(FRAMES, 15, axis=0), FPS, sound=beeps(30.0, 0.5))
    ahead, furthest = {"video": 0.0, "audio": 0.0}, 0.0
    with av.open(str(path)) as container:
        packets = sorted((p for p in container.demux() if p.size and p.pos is not None), key=lambda packet: packet.pos)
        for packet in packets:
            ahead[packet.stream.type] = float(packet.pts * packet.time_base)
            furthest = max(furthest, abs(ahead["video"] - ahead["audio"]))
    assert furthest < 2


def test_only_what_is_asked_for_is_read(tmp_path):
    path = write_video(tmp_path / "clip.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.5, 1.5))
    sound = read_sound(path, 1.0).samples
    assert sound.shape == (2, RATE) and heard(sound) == pytest.approx([0.5], abs=0.02)
    late = read_sound(path, 9.0, start=1.2).samples
    assert heard(late) == pytest.approx([0.3], abs=0.02)
    assert late.shape[1] == pytest.approx(0.8 * RATE, abs=0.03 * RATE), "it ends with the file"


@pytest.mark.parametrize(("late", "expected"), [(0.7, [1.2]), (-0.7, [0.8])])
def test_it_is_counted_from_the_first_frame(tmp_path, late, expected):
    """Sound that sets in later than the frames, or before them."""
    path = record(tmp_path / "shifted.mkv", [beeps(SECONDS, 0.5, 1.5)[:1]], layout="mono", late=late)
    sound = read_sound(path, SECONDS).samples
    assert heard(sound) == pytest.approx(expected, abs=0.03)
    assert np.array_equal(sound[0], sound[1]), "one channel comes from both sides"


@pytest.mark.parametrize(
    ("rate", "layout", "channels"), [(44_100, "mono", 1), (22_050, "stereo", 2), (48_000, "5.1", 6)]
)
def test_other_rates_and_layouts(tmp_path, rate, layout, channels):
    loud = np.repeat(beeps(SECONDS, 0.5, SECONDS - 0.06, rate=rate)[:1], channels, axis=0)
    path = record(tmp_path / "other.mkv", [loud], codec="flac", rate=rate, layout=layout)
    sound = read_sound(path, SECONDS).samples
    assert heard(sound) == pytest.approx([0.5, SECONDS - 0.06], abs=0.01)
    assert sound.shape[1] == pytest.approx(SECONDS * RATE, abs=16), "with what the resampler held back"


def test_of_several_tracks_it_is_the_one_that_players_take(tmp_path):
    path = tmp_path / "two.mkv"
    record(tmp_path / "made.mkv", [beeps(SECONDS, 0.5), beeps(SECONDS, 1.0)])
    with av.open(str(tmp_path / "made.mkv")) as source, av.open(str(path), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        copies[1].disposition, copies[2].disposition = 0, av.stream.Disposition.default.value
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    assert heard(read_sound(path, SECONDS).samples) == pytest.approx([1.0], abs=0.02)


def test_numbers_that_no_encoder_takes(tmp_path):
    wild = beeps(SECONDS, 0.5)
    wild[:, 100:103] = [np.nan, np.inf, 1e30]
    path = record(tmp_path / "wild.mkv", [wild], codec="pcm_f32le")
    sound = read_sound(path, SECONDS).samples
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1
    assert write_video(tmp_path / "again.mp4", FRAMES, FPS, sound=sound).is_file()


def test_damaged_packets_are_silent_and_counted(tmp_path):
    path = write_video(tmp_path / "clip.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.5, 1.5))
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in (0, 40):
        position, size = places[number]
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    sound, damaged = read_sound(path, SECONDS)
    assert 1 <= damaged <= 2 and heard(sound) == pytest.approx([0.5, 1.5], abs=0.05)


@pytest.mark.parametrize("timed", [True, False])
def test_sound_that_changes_within(timed):
    """TV recordings go from mono to stereo, and may change their rate."""

    def piece(layout, channels, rate, first):
        frame = av.AudioFrame.from_ndarray(np.full((channels, rate), 0.25, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, first * rate if timed else None, Fraction(1, rate)
        return frame

    frames = [piece("mono", 1, 48_000, 0), piece("stereo", 2, 48_000, 1), piece("stereo", 2, 44_100, 2)]
    packets = [SimpleNamespace(decode=lambda frame=frame: [frame]) for frame in frames]
    container = SimpleNamespace(demux=lambda stream: iter(packets))
    pieces = list(video_sound._Decoder(container, None))
    assert sum(samples.shape[1] for _, samples in pieces) == pytest.approx(3 * RATE, abs=50)
    assert max(at + samples.shape[1] / RATE for at, samples in pieces) == pytest.approx(3, abs=0.01)


def test_what_follows_a_damaged_packet_is_silent_too():
    """Codecs blend each packet into the next."""
    frames = [av.AudioFrame.from_ndarray(np.full((2, 960), 0.25, np.float32), "fltp", "stereo") for _ in range(4)]
    for number, frame in enumerate(frames):
        frame.sample_rate, frame.pts, frame.time_base = RATE, 960 * number, Fraction(1, RATE)

    def damaged():
        raise av.error.InvalidDataError(1, "broken")

    packets = [SimpleNamespace(decode=lambda frame=frame: [frame]) for frame in frames]
    packets[1].decode = damaged
    decoder = video_sound._Decoder(SimpleNamespace(demux=lambda stream: iter(packets)), None)
    assert [round(at, 3) for at, samples in decoder if samples.size] == [0.0, 0.06] and decoder.damaged == 1


def test_what_has_no_sound(tmp_path):
    write_video(tmp_path / "mute.mp4", FRAMES, FPS)
    for name in ("frames.png", "moving.gif", "moving.webp"):
        write_video(tmp_path / name, FRAMES, FPS, sound=beeps(SECONDS, 0.5))
    with av.open(str(tmp_path / "song.mka"), "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(beeps(0.02), "fltp", "stereo")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    (tmp_path / "notes.txt").write_text("no video")
    for name in ("mute.mp4", "frames", "moving.gif", "moving.webp", "song.mka", "notes.txt", "missing.mp4"):
        assert read_sound(tmp_path / name, SECONDS) is None


def test_which_files_carry_it(monkeypatch):
    names = [f"out{suffix}" for suffix in (".mp4", ".MOV", ".webm", ".gif", ".png", "")]
    assert [carries_sound(name) for name in names] == [True] * 3 + [False] * 3
    monkeypatch.setitem(SOUND_CODECS, ".webm", "cook")  # which FFmpeg reads, and does not write
    assert not carries_sound("out.webm")


def test_sound_that_cannot_be_decoded(tmp_path):
    path = write_video(tmp_path / "clip.mkv", FRAMES, FPS, sound=beeps(SECONDS, 0.5))
    unknown(path)
    with pytest.raises(VideoError, match=r"clip\.mkv: its sound cannot be decoded \(a codec that FFmpeg does not know"):
        read_sound(path, SECONDS)
    path = write_video(tmp_path / "clip.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.5))
    content = path.read_bytes()
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(container.streams.audio[0]) if packet.size]
    broken = bytearray(content)
    for position, size in places:
        broken[position : position + size] = b"\xff" * size
    path.write_bytes(broken)
    with pytest.raises(VideoError, match=r"clip\.mp4: its sound cannot be decoded \(.+\)"):
        read_sound(path, SECONDS)


def test_sound_that_cannot_be_resampled(tmp_path, monkeypatch):
    def refuse(*_):
        raise av.error.ArgumentError(22, "no such layout")

    path = write_video(tmp_path / "clip.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.5))
    monkeypatch.setattr(av, "AudioResampler", refuse)
    with pytest.raises(VideoError, match=r"clip\.mp4: its sound cannot be resampled \(.*no such layout"):
        read_sound(path, SECONDS)


def unknown(path):
    """Makes the sound of an MKV one that FFmpeg does not know."""
    content = path.read_bytes()
    assert content.count(b"A_AAC") == 1
    path.write_bytes(content.replace(b"A_AAC", b"A_ZZZ"))


@pytest.fixture
def animate(material, tiny_model, tmp_path, monkeypatch, capsys):
    """Runs animate on the video driving.mp4, FRAMES with a beep at .1 s, in which poses are found; its JSON."""
    motion = Poses.load(material / "driving.json").slice(0, 1)
    monkeypatch.setattr("stableanimator_core.pose.extract_poses", lambda detector, frames, **_: found(motion, frames))
    write_video(tmp_path / "driving.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.1))

    def run(out: str, *options, said: str = "") -> dict:
        given = [
            "--model",
            tiny_model,
            "--device",
            "cpu",
            "--hjb-iterations",
            0,
            "--steps",
            1,
            "--detector",
            "built-in",
        ]
        given += ["--reference", material / "reference.png", "--reference-poses", material / "reference.json"]
        given += ["--driving", tmp_path / "driving.mp4", "--frames", 3, "--out", tmp_path / out, *options]
        given += [] if said else ["--json"]
        assert cli.main([str(each) for each in ("animate", *given)]) == 0
        answer = capsys.readouterr().out
        assert said in answer
        return {} if said else json.loads(answer)

    return run


def found(motion: Poses, frames) -> Extraction:
    return Extraction(motion.picked([0 for _ in frames]), ())


def test_animate_keeps_it(animate, tmp_path):
    made = animate("out.mp4")
    sound = read_sound(tmp_path / "out.mp4", 1.0).samples
    assert made["sound"] and heard(sound) == pytest.approx([0.1], abs=0.02)
    assert sound.shape[1] == pytest.approx(made["frames"] / FPS * RATE, abs=0.03 * RATE)
    assert animate("nearly.webm", "--fps", 9.99)["sound"]
    assert animate("half.mp4", "--driving-fps", 5)["sound"]
    animate("told.mp4", said=" on cpu, with the driving video's sound: ")
    animate("mute.mp4", "--mute", said=" on cpu: ")


def test_animate_leaves_it_out_where_it_would_be_out_of_step(animate, tmp_path):
    made = animate("out.mp4", "--fps", 5)
    told = "the sound of driving.mp4 was left out: at 5 frames a second the motion changes its speed, up to 0.2 s "
    assert made["notes"][-1] == told + "against the sound; --driving-fps 5 keeps both"
    assert not made["sound"] and read_sound(tmp_path / "out.mp4", 1.0) is None
    for out, options in (("mute.mp4", ["--mute"]), ("out.gif", [])):
        made = animate(out, *options)
        assert not made["sound"] and "sound" not in " ".join(made["notes"])


def test_animate_begins_with_the_first_frame_that_decodes(animate, tmp_path):
    """As in a recording that was cut between key frames."""
    whole = record(tmp_path / "whole.mkv", [beeps(SECONDS, 1.25)], gop=10)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None and packet.pts * packet.time_base >= 0.3:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    (tmp_path / "cut.mkv").replace(tmp_path / "driving.mp4")
    with open_video(tmp_path / "driving.mp4") as reader:
        shown = len(list(reader))
        assert shown == 10 and reader.times[0] == pytest.approx(0.7, abs=0.01), "the ten after the second key frame"
    assert animate("out.mp4", "--frames", 10)["sound"]
    assert heard(read_sound(tmp_path / "out.mp4", 1.0).samples) == pytest.approx([0.25], abs=0.03)


def test_animate_goes_on_without_sound_that_is_broken(animate, tmp_path):
    path = write_video(tmp_path / "driving.mkv", FRAMES, FPS, sound=beeps(SECONDS, 0.1))
    unknown(path)
    path.replace(tmp_path / "driving.mp4")
    made = animate("out.mp4")
    assert not made["sound"] and made["notes"][-1].endswith("FFmpeg does not know); the result is without it")


def test_pictures_do_not_depend_on_sound(animate, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no sound today")

    monkeypatch.setattr("stableanimator_core.video.writing.SoundTrack", fails)
    made = animate("out.mp4")
    assert not made["sound"] and (tmp_path / "out.mp4").is_file()
    assert made["notes"][-1].endswith("cannot be written (no sound today), so it was written without")


def test_the_extent_of_damage_is_told(animate, monkeypatch):
    monkeypatch.setattr("stableanimator_core.video.read_sound", lambda *_, **__: Sound(beeps(0.3, 0.1), 2))
    made = animate("out.mp4")
    assert made["sound"]
    assert made["notes"][-1] == "2 packets of the sound of driving.mp4 are damaged, and silent in the result"
