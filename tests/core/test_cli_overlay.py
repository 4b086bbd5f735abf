"""`poses align --overlay` on the command line: a picture, a video or a folder, over the reference's picture."""

import json
import re

import numpy as np
import pytest

from stableanimator_core import cli
from stableanimator_core.pose.overlay import DIMMED, RESULT
from stableanimator_core.video import read_image, read_video, write_image


@pytest.fixture
def align(capsys, material):
    """Run `poses align`; returns status, stdout and stderr."""

    def command(*argv):
        files = ["--driving", material / "driving.json", "--reference", material / "reference.json"]
        given = ["poses", "align", *files, "--out", material / "aligned.json", "--method", "svd", *argv]
        return cli.main([str(argument) for argument in given]), *capsys.readouterr()

    return command


def test_picture_shows_a_few_frames_and_the_curve(align, material):
    status, out, _ = align("--overlay", material / "how.png")
    assert status == 0 and f"overlay: {material / 'how.png'}" in out
    picture = read_image(material / "how.png")
    assert picture.shape[1] == 2 * 512 and (picture == RESULT).all(-1).any()
    assert "joints are" in out and " px from the reference's on average, most in frame" in out


def test_how_good_the_fit_should_be_is_said_in_words(align):
    status, out, _ = align("--method", "learned")
    assert status == 0 and re.search(r"^expected fit: \w+, off by about \d+ % of the body's height", out, re.M)
    assert "expected fit" not in align()[1], "only the network expects anything"


@pytest.mark.parametrize("name", ["how.mp4", "how"])
def test_video_or_folder_shows_every_frame_over_the_picture(align, material, name):
    write_image(material / "white.png", np.full((64, 64, 3), 255, np.uint8))
    status, out, err = align("--overlay", material / name, "--picture", material / "white.png", "--fps", 8, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["overlay"] == str(material / name) and result["body_height_px"] == pytest.approx(48, abs=0.1)
    frames, fps = read_video(material / name)
    assert len(frames) == 3 and abs(int(frames[0, 5, 5, 0]) - 255 * DIMMED) < 4
    assert fps == 8 or name == "how"


def test_without_an_overlay_none_is_written(align, material):
    before = set(material.iterdir())
    result = json.loads(align("--json")[1])
    assert result["overlay"] is None and set(material.iterdir()) - before == {material / "aligned.json"}


def test_a_picture_of_another_shape_is_noted(align, material):
    write_image(material / "wide.png", np.zeros((64, 128, 3), np.uint8))
    _, out, err = align("--overlay", material / "how.png", "--picture", material / "wide.png", "--json")
    assert "the picture is 128x64, the reference pose's canvas 64x64" in err
    assert json.loads(out)["notes"] == [err.strip()]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--overlay", "no/how.png"], "output folder no does not exist; create it or choose another --overlay"),
        (["--overlay", "no/how.mp4"], "output folder no does not exist; create it or choose another --overlay"),
        (["--overlay", "how.txt"], "how.txt: cannot write .txt files; choose one of .mp4"),
        (["--picture", "reference.png"], "--picture reference.png lies below the overlay: give --overlay, too"),
        (["--overlay", "how.png", "--picture", "a.png"], "argument --picture: a.png does not exist; check the path"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(align, material, argv, message, monkeypatch):
    monkeypatch.chdir(material)
    before = set(material.iterdir())
    status, _, err = align(*argv)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1
    assert set(material.iterdir()) == before
