"""Pictures and videos survive a round trip; every wrong file gets its one line."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from stableanimator_core import video
from stableanimator_core.errors import VideoError


def moving_square(frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (40, 80, 160), np.uint8)
    for index in range(frames):
        clip[index, 8:24, 4 + 6 * index : 20 + 6 * index] = (250, 200, 30)
    return clip


def write_alpha(path, mode="RGBA"):
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.convert(mode).save(path)


def test_transparent_pixels_become_white(tmp_path):
    write_alpha(tmp_path / "cutout.png")
    picture = video.read_image(tmp_path / "cutout.png")
    assert picture.dtype == np.uint8 and picture.shape == (2, 4, 3)
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert picture[1, 3].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8))  # red left, green right
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "phone.png", exif=exif)
    assert video.read_image(tmp_path / "phone.png")[:, 0].tolist() == [[255, 0, 0], [0, 255, 0]]


def test_sixteen_bit_greys_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert video.read_image(tmp_path / "deep.png")[0, :, 1].tolist() == [0, 100, 255]


def test_picture_errors(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture at all")
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name, message in {
        "missing.png": "missing.png does not exist; check the path of the picture",
        "empty.png": "is empty (0 bytes)",
        "text.png": "is not a picture that can be read",
        "cut.png": "is damaged",
    }.items():
        with pytest.raises(VideoError) as caught:
            video.read_image(tmp_path / name)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="is a folder, not a picture"):
        video.read_image(tmp_path)


def test_write_image_round_trip_and_ending(tmp_path):
    picture = moving_square(1)[0]
    assert video.write_image(tmp_path / "a.png", picture) == tmp_path / "a.png"
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.png"), picture)
    with pytest.raises(VideoError, match="a picture is written as"):
        video.write_image(tmp_path / "a.mp4", picture)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".png", ""])
@pytest.mark.parametrize("height,width", [(48, 64), (47, 63)])
def test_round_trip(tmp_path, suffix, height, width):
    clip = moving_square(height=height, width=width)
    written = video.write_video(tmp_path / f"clip{suffix}", clip, 7)
    frames, fps = video.read_video(written)
    even = suffix in video.formats.CODECS
    assert frames.shape == (6, height + height % 2 * even, width + width % 2 * even, 3)
    assert float(fps) == pytest.approx(7, abs=0.2)  # GIF counts in hundredths of a second
    error = np.abs(frames[:, :height, :width].astype(int) - clip)
    assert error.mean() < (8 if even else 3)
    assert not list(tmp_path.glob(".*part*"))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_last_as_long_as_they_should(tmp_path, suffix):
    """15 frames a second are 67 ms each, and GIF counts in hundredths of a second."""
    path = video.write_video(tmp_path / f"clip{suffix}", numbered(15), 15)
    with Image.open(path) as image:
        durations = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(frame.info["duration"])
    assert len(durations) == 15 and sum(durations) == 1000


def test_fractional_rate_and_limit(tmp_path):
    video.write_video(tmp_path / "ntsc.mp4", moving_square(), Fraction(30000, 1001))
    frames, fps = video.read_video(tmp_path / "ntsc.mp4", max_frames=2)
    assert len(frames) == 2 and fps == Fraction(30000, 1001)
    video.write_video(tmp_path / "loop.webp", moving_square(), 10)
    assert len(video.read_video(tmp_path / "loop.webp", max_frames=3)[0]) == 3


def test_rotation_flag_is_applied(tmp_path):
    clip = moving_square(2)
    video.write_video(tmp_path / "upright.mp4", clip, 10)
    data = bytearray((tmp_path / "upright.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44  # ISO 14496-12, track header version 0: the 3x3 display matrix
    quarter_turn = (0, 1, 0, -1, 0, 0, 0, 0)
    for index, value in enumerate(quarter_turn):
        data[matrix + 4 * index : matrix + 4 * index + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    (tmp_path / "phone.mp4").write_bytes(data)
    turned, _ = video.read_video(tmp_path / "phone.mp4")
    upright, _ = video.read_video(tmp_path / "upright.mp4")
    np.testing.assert_array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))


def test_video_errors(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video in here " * 50)
    (tmp_path / "text.webp").write_text("no video in here")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "mixed").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "mixed" / "0.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "mixed" / "1.png")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video.write_video(tmp_path / "whole.mkv", moving_square(12, 96, 128), 7)
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "header.mkv").write_bytes(whole[: len(whole) // 4])
    for name, message in {
        "missing.mp4": "missing.mp4 does not exist; check the path of the video",
        "empty.mp4": "is empty (0 bytes)",
        "text.mp4": "is not a video that can be read",
        "text.webp": "is not a video that can be read",
        "sound.mkv": "has no video stream",
        "header.mkv": "header.mkv ",
        "nothing": "has no pictures",
        "mixed": "frame 1 is 6x4, frame 0 is 4x4",
    }.items():
        with pytest.raises(VideoError) as caught:
            video.read_video(tmp_path / name)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="max_frames is 0"):
        video.read_video(tmp_path / "whole.mkv", max_frames=0)


def numbered(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame i is grey 8 * i, which survives every codec well enough to be told."""
    greys = np.arange(frames, dtype=np.uint8) * 8
    return np.broadcast_to(greys[:, None, None, None], (frames, height, width, 3)).copy()


def numbers(reader) -> list[int]:
    """Which of the numbered frames came out."""
    return [round(float(frame.mean()) / 8) for frame in reader]


def encode(path, pictures, codec, source="rgb24", pixels="yuv420p", times=None, rate=25, options=None):
    """Write frames with PyAV; times: of the frames, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=source)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.gif", "clip.webp", "clip.png"])
def test_reader_streams_and_tells_what_comes(tmp_path, name):
    written = video.write_video(tmp_path / name, numbered(12), 7)
    with video.open_video(written) as reader:
        assert (reader.width, reader.height) == (64, 48)
        assert float(reader.fps) == pytest.approx(7, abs=0.2)
        assert reader.count in (12, None) or name == "clip.webm"
        frames = iter(reader)
        first = next(frames)
        assert first.dtype == np.uint8 and first.flags.c_contiguous
        assert [0, *numbers(frames)] == list(range(12))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.gif", "clip.webp", "clip.png"])
@pytest.mark.parametrize(("options", "expected"), [
    ({"max_frames": 3}, [0, 1, 2]),
    ({"start": 0.5}, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]),
    ({"start": 0.5, "max_frames": 2}, [5, 6]),
    ({"fps": 5}, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
    ({"fps": 20, "max_frames": 7}, [0, 0, 1, 1, 2, 2, 3]),
    ({"fps": 5, "start": 1}, [10, 12, 14, 16, 18]),
])  # fmt: skip
def test_choice_of_frames(tmp_path, name, options, expected):
    written = video.write_video(tmp_path / name, numbered(20), 10)
    options = dict(options)
    if name == "clip.png":  # a folder of pictures has no rate and counts as 7 a second
        options |= {
            key: options[key] * (10 / 7 if key == "start" else 0.7) for key in ("fps", "start") if key in options
        }
    with video.open_video(written, **options) as reader:
        count, fps = reader.count, reader.fps
        assert numbers(reader) == expected
    assert count in (None, len(expected))
    assert fps == pytest.approx(options.get("fps", 7 if name == "clip.png" else 10))


def test_seeking_finds_the_frame_between_key_frames(tmp_path):
    options = {"g": "12", "bf": "2"}
    clip = [np.full((48, 64, 3), 8 * (i % 30), np.uint8) for i in range(100)]
    encode(tmp_path / "long.mp4", clip, "libx264", options={**options, "crf": "5"})
    with video.open_video(tmp_path / "long.mp4", start=2.6, max_frames=3) as reader:
        assert numbers(reader) == [5, 6, 7]


def test_varying_rates_are_resampled_by_their_timestamps(tmp_path):
    """Frames 0-4 are 40 ms apart, frames 5-8 200 ms."""
    times = [0, 40, 80, 120, 160, 200, 400, 600, 800]
    encode(tmp_path / "phone.mkv", list(numbered(9)), "libx264", times=times)
    with video.open_video(tmp_path / "phone.mkv") as reader:
        assert numbers(reader) == list(range(9))
    with video.open_video(tmp_path / "phone.mkv", fps=10) as reader:
        assert numbers(reader)[:9] == [0, 2, 5, 5, 6, 6, 7, 7, 8]


def test_large_frames_are_scaled_down(tmp_path):
    for name in ("big.mp4", "big.webp", "big.png"):
        written = video.write_video(tmp_path / name, numbered(3, 90, 161), 7)
        with video.open_video(written, longest=80) as reader:
            assert (reader.width, reader.height) in ((80, 44), (80, 45))
            assert [frame.shape for frame in reader] == [(reader.height, 80, 3)] * 3
        with video.open_video(written, longest=400) as reader:
            assert (reader.width, reader.height) in ((161, 90), (162, 90))


def test_pictures_are_clips_of_one_frame(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp"):
        Image.fromarray(numbered(6)[5]).save(tmp_path / name)
        with video.open_video(tmp_path / name) as reader:
            assert (reader.count, numbers(reader)) == (1, [5])


def test_numbered_pictures_come_in_their_order(tmp_path):
    for index, frame in enumerate(numbered(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.png")
    with video.open_video(tmp_path) as reader:
        assert numbers(reader) == list(range(12))


@pytest.mark.parametrize(("name", "codec", "pixels", "options"), [
    ("cut.webm", "libvpx-vp9", "yuva420p", {"lossless": "1"}),
    ("cut.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
    ("cut.mkv", "ffv1", "bgra", {}),
    ("cut.mov", "qtrle", "argb", {}),
])  # fmt: skip
def test_transparent_video_is_laid_on_white(tmp_path, name, codec, pixels, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    clip = np.zeros((3, 48, 64, 4), np.uint8)
    clip[..., :32, :] = (200, 40, 40, 255)
    encode(tmp_path / name, list(clip), codec, source="rgba", pixels=pixels, options=options)
    frames, _ = video.read_video(tmp_path / name)
    assert len(frames) == 3
    np.testing.assert_allclose(frames[:, :, 40:], 255, atol=6)
    assert np.abs(frames[:, :, 4:28].astype(int) - (200, 40, 40)).mean() < 8


def test_transparent_animations_are_laid_on_white(tmp_path):
    stills = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in range(3)]
    for index, still in enumerate(stills):
        still.paste((200, 40, 40, 255), (0, 0, 8 + index, 32))
    for name in ("cut.gif", "cut.webp"):
        stills[0].save(
            tmp_path / name, save_all=True, append_images=stills[1:], duration=100, disposal=2, lossless=True
        )
        frames, _ = video.read_video(tmp_path / name)
        np.testing.assert_allclose(frames[:, :, 16:], 255, atol=2, err_msg=name)
        assert frames[0, 16, 4].tolist() == pytest.approx([200, 40, 40], abs=16)


@pytest.mark.parametrize(("codec", "pixels"), [
    ("libx264", "yuv420p10le"), ("libx264", "yuv444p"), ("libx265", "yuv420p10le"), ("ffv1", "gbrp16le"),
    ("ffv1", "gray16le"),
])  # fmt: skip
def test_deep_pixels_become_eight_bits(tmp_path, codec, pixels):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    encode(tmp_path / "deep.mkv", list(numbered(4) + 64), codec, pixels=pixels)
    frames, _ = video.read_video(tmp_path / "deep.mkv")
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(frames[:, 20, 20, 1], 64 + 8 * np.arange(4), atol=4)


def test_a_broken_tail_gives_what_could_be_decoded(tmp_path):
    encode(tmp_path / "whole.mkv", [*np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)], "libx264")
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with video.open_video(tmp_path / "cut.mkv") as reader:
        assert 0 < len(list(reader)) < 30


@pytest.mark.parametrize("good", [0, 1, 3])
def test_a_fault_in_the_middle_ends_the_clip(tmp_path, monkeypatch, good):
    video.write_video(tmp_path / "a.mp4", numbered(6), 7)
    decoded = video.reading._decoded

    def broken(container, stream):
        for index, frame in enumerate(decoded(container, stream)):
            if index == good:
                raise av.error.InvalidDataError(1, "broken\npacket")
            yield frame

    monkeypatch.setattr(video.reading, "_decoded", broken)
    if good:
        assert len(video.read_video(tmp_path / "a.mp4")[0]) == good
    else:
        with pytest.raises(VideoError, match="is not a video that can be read .*broken packet"):
            video.read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("options", "message"), [
    ({"fps": 0}, "frames per second is 0, need a number above 0"),
    ({"start": -1}, "start is -1 s, need 0 or more"),
    ({"start": 99}, "has no frames after 99 s; choose an earlier start"),
    ({"longest": 0}, "longest is 0 px, need 1 or more"),
    ({"max_frames": 0}, "max_frames is 0, need 1 or more"),
])  # fmt: skip
def test_reading_options_are_checked(tmp_path, options, message):
    video.write_video(tmp_path / "a.mp4", moving_square(), 7)
    with pytest.raises(VideoError, match=message):
        video.open_video(tmp_path / "a.mp4", **options)


def test_output_is_checked_before_work(tmp_path):
    assert video.check_output(tmp_path / "a.png") == tmp_path / "a"
    assert video.check_output(tmp_path / "a.MP4") == tmp_path / "a.MP4"
    (tmp_path / "taken").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name, message in {
        "none/a.mp4": f"output folder {tmp_path / 'none'} does not exist; create it or choose another --out",
        "a.avi": "cannot write .avi files; choose one of .mp4",
        "taken.png": "is a file, and the frames need a folder",
        "folder.mp4": "is a folder; choose another --out",
    }.items():
        with pytest.raises(VideoError) as caught:
            video.check_output(tmp_path / name)
        assert message in str(caught.value)


def test_missing_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(video.formats.CODECS, ".mp4", "no_such_codec")
    with pytest.raises(VideoError, match="cannot encode .mp4 files"):
        video.check_output(tmp_path / "a.mp4")


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no write bit on Windows")
def test_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(video.writing.os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="cannot be written to"):
        video.check_output(tmp_path / "a.mp4")


def test_a_shorter_video_replaces_a_longer_one(tmp_path):
    folder = video.write_video(tmp_path / "a.png", moving_square(6), 7)
    kept = ["3.png", "000004.png", "note.png", "00005.txt", "0000²5.png"]
    for name in kept:
        (folder / name).touch()
    video.write_video(tmp_path / "a.png", moving_square(2), 7)
    assert {file.name for file in folder.iterdir()} == {"00000.png", "00001.png", *kept}


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.writing, "_write_stream", full_disk)
    with pytest.raises(VideoError, match="cannot be written .*No space left"):
        video.write_video(tmp_path / "a.mp4", moving_square(), 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -7, float("nan"), float("inf")])
def test_frame_rate_must_be_positive(tmp_path, fps):
    with pytest.raises(VideoError, match="frames per second is"):
        video.write_video(tmp_path / "a.mp4", moving_square(), fps)


def test_frames_must_be_bytes(tmp_path):
    with pytest.raises(VideoError, match=r"frames are float64 \[2, 4, 4, 3\], need uint8"):
        video.write_video(tmp_path / "a.mp4", np.zeros((2, 4, 4, 3)), 7)
    with pytest.raises(VideoError, match="need uint8"):
        video.write_video(tmp_path / "a.mp4", np.zeros((0, 4, 4, 3), np.uint8), 7)


def test_overlay_leaves_the_rest_untouched():
    frames, poses = moving_square(2), np.zeros((2, 48, 64, 3), np.uint8)
    poses[:, 10, 10] = (255, 0, 0)
    result = video.overlay(frames, poses, opacity=1.0)
    assert result[0, 10, 10].tolist() == [255, 0, 0]
    poses[:, 10, 10] = 0
    np.testing.assert_array_equal(video.overlay(frames, poses), frames)
    with pytest.raises(VideoError, match="differ in shape"):
        video.overlay(frames, poses[:1])


def test_contact_sheet_shows_every_row():
    clip = moving_square(20)
    reference = np.full((1, 96, 64, 3), (0, 200, 0), np.uint8)
    rows = [("reference", reference), ("result", clip, [f"{i / 20:.2f}" for i in range(20)])]
    sheet = video.contact_sheet(rows, columns=4)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 2 * 96
    for colour in ((0, 200, 0), (250, 200, 30)):
        assert (sheet == colour).all(axis=-1).any()
    assert video.contact_sheet(rows, columns=4, cell=32).shape[0] < sheet.shape[0]
    with pytest.raises(VideoError, match="0 rows"):
        video.contact_sheet([])


def test_spread_includes_both_ends():
    assert video.spread(20, 4) == [0, 6, 13, 19]
    assert video.spread(3, 8) == [0, 1, 2]
    assert video.spread(5, 1) == [0]
