"""Pictures and videos survive a round trip; every wrong file gets its one line."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

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
    even = suffix in video.CODECS
    assert frames.shape == (6, height + height % 2 * even, width + width % 2 * even, 3)
    assert float(fps) == pytest.approx(7, abs=0.2)  # GIF counts in hundredths of a second
    error = np.abs(frames[:, :height, :width].astype(int) - clip)
    assert error.mean() < (8 if even else 3)
    assert not list(tmp_path.glob(".*part*"))


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
    monkeypatch.setitem(video.CODECS, ".mp4", "no_such_codec")
    with pytest.raises(VideoError, match="cannot encode .mp4 files"):
        video.check_output(tmp_path / "a.mp4")


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no write bit on Windows")
def test_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(video.os, "access", lambda *_: False)
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

    monkeypatch.setattr(video, "_write_stream", full_disk)
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
