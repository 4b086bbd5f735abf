"""The pose estimator that ships: from a video to a video with no download."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stableanimator_core import cli
from stableanimator_core.cli import material
from stableanimator_core.keypoints import Poses
from stableanimator_core.performers import make_clip
from stableanimator_core.pose import PoseDetector, detector
from stableanimator_core.training.pose_estimator import measure
from stableanimator_core.video import write_image, write_video

SEED = 90_001  # of people that nobody was trained or chosen on


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A performer's video and another one's picture, and no weights anywhere."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("STABLEANIMATOR_MODELS", str(tmp_path / "models"))
    clip = make_clip(SEED, size=160, frames=4, family="disco", split="held_out")
    write_video(tmp_path / "dance.mp4", clip.frames, 7)
    clip.poses.save(tmp_path / "truth.json")
    other = make_clip(SEED + 1, size=192, frames=1, family="star_jump", split="held_out")
    write_image(tmp_path / "reference.png", other.reference)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command that succeeds; returns its JSON."""

    def run(*argv) -> dict:
        assert cli.main([*map(str, argv), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_people_it_never_saw_are_found():
    clips = [
        make_clip(SEED + i, size=size, frames=3, split="held_out")
        for i, size in enumerate(((160, 160), (512, 512), (288, 512), (384, 256)))
    ]
    found = measure(PoseDetector.built_in(), clips)
    assert found["detected"] == 1
    assert found["recall"] > 0.95
    assert found["body"] < 3 and found["face"] < 2 and found["hands"] < 4  # % of the height


def test_the_command_line_offers_every_detector():
    assert material.DETECTORS == detector.DETECTORS


def test_poses_extract(run, world):
    result = run("poses", "extract", "--video", world / "dance.mp4", "--out", world / "poses.json", "--smooth", 0)
    assert (result["frames"], result["people"], result["frames_with_anybody"]) == (4, 1, 4)
    assert detector.BUILT_IN_NOTE in result["notes"]
    found, truth = Poses.load(world / "poses.json"), Poses.load(world / "truth.json")
    seen = truth.body_score > 0
    both = seen & (found.body_score > 0)
    assert both.sum() > 0.9 * seen.sum()
    assert np.linalg.norm(found.body - truth.body, axis=-1)[both].mean() < 5  # px of 160


def test_animate_from_a_video(run, world):
    argv = ["animate", "--reference", world / "reference.png", "--driving", world / "dance.mp4", "--frames", 2]
    argv += ["--steps", 2, "--hjb-iterations", 0, "--device", "cpu", "--out", world / "out.mp4"]
    result = run(*argv)
    assert (result["model"], result["frames"]) == ("mini", 2)
    found = "poses of 2 driving frames were found by the built-in pose estimator, at 7 frames a second"
    assert {found, "the pose of the picture was found by the built-in pose estimator"} <= set(result["notes"])
    assert detector.BUILT_IN_NOTE in result["notes"]


def test_people_are_not_left_to_it(world, capsys):
    argv = ["animate", "--reference", world / "reference.png", "--driving", world / "dance.mp4", "--model", "v1"]
    assert cli.main([*map(str, argv), "--out", str(world / "out.mp4")]) == 2
    message = capsys.readouterr().err
    assert "finding poses needs DWPose" in message and "weights download poses" in message


def test_doctor_asks_for_dwpose_only_where_it_is_needed(run, world):
    def problems(model: str) -> str:
        job = ["--reference", world / "reference.png", "--driving", world / "dance.mp4"]
        found = run("doctor", "--model", model, *job)
        return " ".join(problem["what"] for problem in found["problems"])

    assert "DWPose" not in problems("mini") and "finding poses needs DWPose" in problems("v1")
