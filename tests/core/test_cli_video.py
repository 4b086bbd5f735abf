"""From pictures and videos to poses and animations on the command line, with small networks in DWPose's place."""

import json

import numpy as np
import pytest

from stableanimator_core import cli
from stableanimator_core.keypoints import Poses
from stableanimator_core.video import read_video, write_image, write_video

pytest.importorskip("onnx", reason="the package onnx, which builds the tests' networks, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from onnx_graphs import draw_person, save_keypoint_network, save_person_detector, spread_joints  # noqa: E402

FRAMES, STEP = 6, 4
MAIN, SMALL = (60, 40, 210, 240), (320, 60, 410, 180)
COCO_OF_BODY = (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # the neck is the middle of 5 and 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder whose DWPose files see drawn people."""
    folder = tmp_path_factory.mktemp("models")
    save_person_detector(folder / "DWPose" / "yolox_l.onnx", size=(320, 320))
    save_keypoint_network(folder / "DWPose" / "dw-ll_ucoco_384.onnx", size=(192, 144))
    return folder


@pytest.fixture
def world(tmp_path):
    """reference.png, and a folder `dance` in which the large person walks and the small one stands."""
    frames = np.zeros((FRAMES, 300, 480, 3), np.uint8)
    for index, frame in enumerate(frames):
        box = np.array(MAIN) + (STEP * index, 0, STEP * index, 0)
        draw_person(frame, box, spread_joints(box))
        draw_person(frame, SMALL, spread_joints(SMALL, seed=0), who=1)
    write_video(tmp_path / "dance.png", frames, 7)
    write_image(tmp_path / "reference.png", frames[0, :, :300])
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command that must succeed; returns its JSON and what people see beside it."""

    def command(*argv):
        status = cli.main([*map(str, argv), "--device", "cpu", "--json"])
        out, err = capsys.readouterr()
        assert status == 0, err
        return json.loads(out), err

    return command


def true_body(box):
    joints = spread_joints(box)
    body = joints[list(COCO_OF_BODY)]
    body[1] = joints[[5, 6]].mean(axis=0)
    return body


def test_poses_extract(run, world, models):
    out = world / "poses.json"
    result, err = run("poses", "extract", "--video", world / "dance", "--out", out, "--models", models)
    assert (result["frames"], result["people"], result["size"], result["fps"]) == (FRAMES, 1, [480, 300], 7)
    assert result["frames_with_anybody"] == FRAMES
    assert "2 people found; the main one is followed, person 1 is the next" in result["notes"]
    assert "6/6 frames searched for people" in err
    poses = Poses.load(out)
    truth = true_body(MAIN) + np.arange(FRAMES)[:, None, None] * (STEP, 0)
    np.testing.assert_allclose(poses.body[:, 0], truth, atol=2.5)
    assert poses.visible().all()
    assert (poses.face_score > 0).all() and (poses.hands_score > 0).all()
    [frame, *_] = json.loads(out.read_text())
    assert {key: len(value) for key, value in frame["people"][0].items()} == {
        "pose_keypoints_2d": 54, "face_keypoints_2d": 210, "hand_left_keypoints_2d": 63, "hand_right_keypoints_2d": 63,
    }  # fmt: skip


def test_poses_extract_options(run, world, models):
    extract = ("poses", "extract", "--video", world / "dance", "--out", world / "poses.json", "--models", models)
    result, _ = run(*extract, "--frames", 3, "--start", 0.15, "--longest", 240)
    assert (result["frames"], result["size"]) == (3, [240, 150])
    np.testing.assert_allclose(Poses.load(world / "poses.json").body[0, 0], (true_body(MAIN) + (STEP, 0)) / 2, atol=2.5)
    result, _ = run(*extract, "--everyone", "--frames", 3)
    assert result["people"] == 2
    body = Poses.load(world / "poses.json").body
    np.testing.assert_allclose(body[1], [true_body(MAIN) + (STEP, 0), true_body(SMALL)], atol=2.5)
    result, _ = run(*extract, "--person", 1, "--fps", 3.5, "--smooth", 0, "--fill-gap", 0)
    assert (result["frames"], result["fps"]) == (3, 3.5)
    np.testing.assert_allclose(Poses.load(world / "poses.json").body[2, 0], true_body(SMALL), atol=2.5)
    result, _ = run("poses", "extract", "--video", world / "reference.png", *extract[4:])
    assert (result["frames"], result["size"]) == (1, [300, 300])


def test_poses_extract_refusals(world, models, capsys):
    def refused(*argv):
        options = ["--out", world / "poses.json", "--models", models, "--device", "cpu", *argv]
        assert cli.main(["poses", "extract", *map(str, options)]) == 2
        err = capsys.readouterr().err
        assert not (world / "poses.json").exists()
        return err.splitlines()[-1]

    assert "person 2 asked for, 2 found" in refused("--video", world / "dance", "--person", 2)
    assert f"argument --video: {world / 'no.mp4'} does not exist; check the path" in refused(
        "--video", world / "no.mp4"
    )
    assert "smooth is 2, need a number" in refused("--video", world / "dance", "--smooth", 2)
    write_video(world / "dark.mp4", np.zeros((3, 64, 64, 3), np.uint8), 7)
    assert "nobody found in any of 3 frames; lower the thresholds" in refused("--video", world / "dark.mp4")
    (models / "broken" / "DWPose").mkdir(parents=True, exist_ok=True)
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        (models / "broken" / "DWPose" / name).write_bytes(b"no network" * 300)
    assert "yolox_l.onnx" in refused("--video", world / "dance", "--models", models / "broken")


def test_animate_from_a_video_and_a_picture(run, world, models, tiny_model):
    animate = ("animate", "--model", tiny_model, "--models", models, "--reference", world / "reference.png")
    animate += ("--driving", world / "dance", "--frames", 4, "--hjb-iterations", 0, "--out")
    result, _ = run(*animate, world / "out.mp4")
    assert (result["frames"], result["fps"]) == (4, 7)
    assert "poses of 4 driving frames were found by DWPose, at 7 frames a second" in result["notes"]
    assert "the pose of the picture was found by DWPose" in result["notes"]
    frames, fps = read_video(world / "out.mp4")
    assert (frames.shape, fps) == ((4, 64, 64, 3), 7)

    result, _ = run(*animate, world / "slow.mp4", "--driving-fps", 3.5, "--person", 1, "--dtype", "fp32")
    assert (result["frames"], result["fps"]) == (3, 3.5)
    assert "dance gives 3 frames, 4 were asked for" in result["notes"]
    result, _ = run(*animate, world / "own.mp4", "--driving-fps", 3.5, "--fps", 12)
    assert result["fps"] == 12


def test_animate_gives_the_same_for_extracted_and_for_saved_poses(run, world, models, tiny_model):
    animate = ("animate", "--model", tiny_model, "--models", models, "--hjb-iterations", 0, "--steps", 1)
    animate += ("--reference", world / "reference.png", "--fps", 7)
    run(*animate, "--driving", world / "dance", "--out", world / "a.png")
    for source, out in ((world / "dance", "poses.json"), (world / "reference.png", "reference.json")):
        run("poses", "extract", "--video", source, "--out", world / out, "--models", models)
    result, _ = run(*animate, "--driving", world / "poses.json", "--out", world / "b.png")
    assert not any("DWPose" in note for note in result["notes"])
    np.testing.assert_array_equal(read_video(world / "a")[0], read_video(world / "b")[0])


def test_nobody_in_the_picture(world, models, tiny_model, capsys):
    write_image(world / "empty.png", np.zeros((64, 64, 3), np.uint8))
    argv = ["animate", "--model", tiny_model, "--models", models, "--reference", world / "empty.png"]
    argv += ["--driving", world / "dance", "--out", world / "out.mp4", "--device", "cpu"]
    assert cli.main([str(argument) for argument in argv]) == 2
    assert "empty.png: nobody found in the picture; lower the thresholds" in capsys.readouterr().err
    argv[argv.index("--reference") + 1] = world / "reference.png"
    argv[argv.index("--driving") + 1] = world / "empty.png"
    assert cli.main([str(argument) for argument in argv]) == 2
    assert "empty.png: nobody found in the picture; lower the thresholds" in capsys.readouterr().err
