"""Sound of a driving video: read in step with its frames, written beside others."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from stableanimator_core import cli
from stableanimator_core.errors import VideoError
from stableanimator_core.video import carries_sound, open_video, read_sound, write_video
from stableanimator_core.video.sound import RATE

SECONDS, FPS = 2.0, 10
FRAMES = np.full((round(SECONDS * FPS), 32, 32, 3), 90, np.uint8)


def beeps(seconds: float, *at: float) -> np.ndarray:
    """Silence with a beep of .1 s at each of these times; half as loud on the right."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    sounding = np.any([(first <= time) & (time < first + 0.1) for first in at], axis=0)
    return np.stack([tone * sounding, 0.5 * tone * sounding]).astype(np.float32)


def heard(sound: np.ndarray) -> list[float]:
    """When beeps begin, in seconds."""
    loud = np.abs(sound[0]) > 0.2
    times = np.flatnonzero(loud) / RATE
    return [round(float(time), 2) for time in times[np.diff(times, prepend=-1) > 0.05]]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_round_trip(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", FRAMES, FPS, sound=beeps(SECONDS, 0.5, 1.5))
    sound = read_sound(path, SECONDS)
    assert heard(sound) == pytest.approx([0.5, 1.5], abs=0.02) and sound.dtype == np.float32
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
    sound = read_sound(path, 1.0)
    assert sound.shape == (2, RATE) and heard(sound) == pytest.approx([0.5], abs=0.02)
    assert read_sound(path, 9.0).shape[1] == pytest.approx(SECONDS * RATE, abs=0.03 * RATE), "it ends with the file"


@pytest.mark.parametrize(("late", "expected"), [(0.7, [1.2]), (-0.7, [0.8])])
def test_it_is_counted_from_the_first_frame(tmp_path, late, expected):
    """Sound that sets in later than the frames, or before them."""
    path = tmp_path / "shifted.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=FPS), container.add_stream("aac", rate=RATE, layout="mono")
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for number, pixels in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + round(max(-late, 0) * FPS), Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = beeps(SECONDS, 0.5, 1.5)[:1]
        for first in range(0, tone.shape[1] - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, first : first + 1024]), "fltp", "mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = first + round(max(late, 0) * RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    sound = read_sound(path, SECONDS)
    assert heard(sound) == pytest.approx(expected, abs=0.03)
    assert np.array_equal(sound[0], sound[1]), "one channel comes from both sides"


def test_what_has_no_sound(tmp_path):
    write_video(tmp_path / "mute.mp4", FRAMES, FPS)
    for name in ("frames.png", "moving.gif", "moving.webp"):
        write_video(tmp_path / name, FRAMES, FPS, sound=beeps(SECONDS, 0.5))
    for name in ("mute.mp4", "frames", "moving.gif", "moving.webp"):
        assert read_sound(tmp_path / name, SECONDS) is None
    (tmp_path / "notes.txt").write_text("no video")
    assert read_sound(tmp_path / "notes.txt", 1.0) is None and read_sound(tmp_path / "missing.mp4", 1.0) is None


def test_which_files_carry_it(monkeypatch):
    assert [carries_sound(f"out{suffix}") for suffix in (".mp4", ".MOV", ".gif", ".png", "")] == [True, True] + 3 * [
        False
    ]
    monkeypatch.setattr(av, "codecs_available", {"aac"})
    assert carries_sound("out.mkv") and not carries_sound("out.webm")


def test_sound_that_cannot_be_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", FRAMES, FPS, sound=beeps(SECONDS, 0.5))

    def broken(*_):
        raise av.error.InvalidDataError(1, "broken")

    monkeypatch.setattr("stableanimator_core.video.sound._resampled", broken)
    with pytest.raises(VideoError, match=r"clip\.mp4: its sound cannot be decoded \(.*broken"):
        read_sound(path, SECONDS)


@pytest.fixture
def animate(material, tiny_model, tmp_path, monkeypatch, capsys):
    """Runs animate on a driving video with a beep at .1 s whose poses are known; its JSON."""
    from stableanimator_core.cli import material as read
    from stableanimator_core.keypoints import Poses

    driving = write_video(tmp_path / "driving.mp4", FRAMES[:6], FPS, sound=beeps(0.6, 0.1))
    motion = read.Motion(Poses.load(material / "driving.json"), Fraction(FPS), ())
    monkeypatch.setattr("stableanimator_core.cli.animate.read_driving", lambda args, finder: motion)

    def run(out: str, *options) -> dict:
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
        pictures = ["--reference", material / "reference.png", "--driving", driving, "--out", tmp_path / out]
        assert cli.main([str(each) for each in ("animate", *given, *pictures, *options, "--json")]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_animate_keeps_it(animate, tmp_path):
    made = animate("out.mp4")
    assert made["sound"] and heard(read_sound(tmp_path / "out.mp4", 1.0)) == pytest.approx([0.1], abs=0.02)
    assert read_sound(tmp_path / "out.mp4", 1.0).shape[1] == pytest.approx(made["frames"] / FPS * RATE, abs=0.03 * RATE)
    assert animate("nearly.webm", "--fps", 9.99)["sound"]


def test_animate_leaves_it_out_where_it_would_not_fit(animate, tmp_path):
    made = animate("out.mp4", "--fps", 5)
    told = "the sound of driving.mp4 was left out: --fps 5 plays its 10 frames a second at another speed"
    assert not made["sound"] and made["notes"][-1] == told and read_sound(tmp_path / "out.mp4", 1.0) is None
    for out, options in (("mute.mp4", ["--mute"]), ("out.gif", [])):
        made = animate(out, *options)
        assert not made["sound"] and "sound" not in " ".join(made["notes"])


def test_animate_goes_on_without_sound_that_is_broken(animate, monkeypatch):
    def broken(path, seconds):
        raise VideoError("driving.mp4: its sound cannot be decoded (broken)")

    monkeypatch.setattr("stableanimator_core.video.read_sound", broken)
    made = animate("out.mp4")
    told = "driving.mp4: its sound cannot be decoded (broken); the video was written without it"
    assert not made["sound"] and made["notes"][-1] == told
