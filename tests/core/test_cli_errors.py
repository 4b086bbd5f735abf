"""One test per wrong input: one line on stderr, status 2, no traceback; with --json one object on stdout."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stableanimator_core import cli, video
from stableanimator_core.cli import arguments
from stableanimator_core.evaluation.animation import FIRST_SEED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused(capsys):
    """Run a command that must refuse; returns its one line after checking everything around it."""

    def run(*argv) -> str:
        status = cli.main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture
def animate(material, tiny_model, refused):
    """`animate` on good material, except for what the test gives instead; it must refuse."""

    def run(**given) -> str:
        options = {"reference": "reference.png", "driving": "driving.json", "out": "out.mp4"}
        argv = ["animate", "--model", tiny_model, "--device", "cpu"]
        for name, value in {**options, **given}.items():
            value = material / value if name in options or name == "reference_poses" else value
            argv += ["--" + name.replace("_", "-"), value]
        return refused(*argv)

    return run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["animate"], "animate: the following arguments are required: --reference, --driving, --out"),
        (["poses"], "poses: the following arguments are required: ACTION"),
        (["demo", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_usage(refused, argv, message):
    assert message in refused(*argv)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("steps", "-3", "-3 is not a whole number of 1 or more"),
        ("steps", "0", "0 is not a whole number of 1 or more"),
        ("steps", "ten", "ten is not a whole number of 1 or more"),
        ("frames", "-1", "-1 is not a whole number of 1 or more"),
        ("seed", "-1", "-1 is not a whole number from 0 to 9223372036854775807"),
        ("seed", str(2**63), f"{2**63} is not a whole number from 0 to"),
        ("guidance", "-2", "-2 is not a number of 1 or more"),
        ("guidance", "1.5:nan", "nan is not a number of 1 or more"),
        ("fps", "0", "0 is not a frame rate from 0.1 to 240"),
        ("hjb_iterations", "-4", "-4 is not a whole number of 0 or more"),
        ("hjb_lr", "-0.1", "-0.1 is not a number of 0 or more"),
        ("hjb_steps", "3", "3 is not FIRST:LAST"),
        ("hjb_steps", "1:0", "hjb-steps 1:0 runs backwards"),
        ("hjb_steps", "0:7", "--hjb-steps 0:7: there are 2 denoising steps, 0 to 1"),
        ("size", "512", "512 is not a size; write WIDTHxHEIGHT"),
        ("size", "0x64", "0x64 is not a size"),
        ("size", "100x64", "size 100 x 64: model 'tiny' needs multiples of 32; take 96 x 64"),
        ("device", "warp", "device 'warp' can't be used"),
        ("align", "magic", "alignment 'magic' is unknown; use svd or learned or affine or homography or v1 or none"),
        ("dtype", "fp8", "invalid choice: 'fp8'"),
        ("person", "-1", "-1 is not a whole number of 0 or more"),
        ("person", "4", "driving.json: person 4 asked for, the poses hold 1; count from 0"),
        ("reference_person", "1", "reference.json: person 1 asked for, the poses hold 1; count from 0"),
        ("driving_fps", "12", "--driving-fps is for videos, and"),
        ("driving_fps", "0", "0 is not a frame rate from 0.1 to 240"),
        ("model", "no-such-model", "unknown model 'no-such-model'"),
        ("frames", "9", "driving.json has 3 frames"),
    ],
)
def test_options(animate, option, value, message):
    assert message in animate(**{option: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_gpu(animate):
    assert "device 'cuda' can't be used" in animate(device="cuda")


@pytest.mark.parametrize(
    "argv",
    [
        ["animate", "--reference"], ["animate", "--driving"], ["animate", "--reference-poses"],
        ["evaluate", "hjb-sweep", "--driving"], ["evaluate", "animation", "--videos"],
        ["evaluate", "animation", "--tiktok"], ["evaluate", "alignment", "--mocap"],
        ["evaluate", "alignment", "--shapes"], ["evaluate", "alignment", "--aligner"], ["experiments", "--mocap"],
        ["experiments", "--variants"], ["poses", "align", "--driving"], ["poses", "align", "--reference"],
        ["poses", "align", "--picture"], ["poses", "draw", "--poses"], ["poses", "draw", "--over"],
        ["poses", "extract", "--video"], ["train", "mini", "--mocap"], ["train", "mini", "--start-from"],
        ["train", "alignment", "--val-mocap"], ["train", "poses", "--mocap"], ["train", "prepare", "--data"],
        ["train", "prepare", "--poses"], ["train", "finetune", "--data"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_missing(refused, tmp_path, argv):
    missing = tmp_path / "nothing"
    assert f"argument {argv[-1]}: {missing} does not exist; check the path" in refused(*argv, missing)


@pytest.mark.parametrize("count, rank, said", [(2, 0, 1), (2, 1, 0), (1, 1, 1)])
def test_of_processes_launched_alike_the_first_one_says_what_is_wrong(capsys, monkeypatch, count, rank, said):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(cli, "GRACE", 0.0)
    assert cli.main(["animate", "--reference", "nobody.png", "--json"]) == 2
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), len(err.splitlines())) == (said, said)


def test_what_cannot_be_there(refused, tmp_path):
    line = refused("poses", "draw", "--poses", tmp_path / ("x" * 300))
    assert re.search(r"argument --poses: .*xxx cannot be read: File name too long", line)
    assert f"argument --reference: {tmp_path} is a folder; give a file" in refused("animate", "--reference", tmp_path)


def test_what_is_missing_is_said_before_torch_is_imported(material):
    job = ["animate", "--reference", str(material / "nobody.png"), "--driving", "a.json", "--out", "a.mp4"]
    script = f"import sys; from stableanimator_core import cli; print(cli.main({job!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr


def test_reference_is_no_picture(animate, material):
    (material / "text.png").write_text("hello")
    assert "text.png is not a picture" in animate(reference="text.png")


@pytest.fixture
def no_weights(tmp_path, monkeypatch) -> Path:
    """A models folder with nothing in it, where everything looks."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("STABLEANIMATOR_MODELS", str(folder))
    return folder


def assert_names_dwpose(line: str, folder: Path) -> None:
    for part in (folder, "DWPose/yolox_l.onnx", "DWPose/dw-ll_ucoco_384.onnx", "weights download poses"):
        assert str(part) in line


def test_reference_without_pose_and_without_dwpose(animate, material, no_weights):
    (material / "reference.json").unlink()
    line = animate()
    assert_names_dwpose(line, no_weights)
    assert "give --reference-poses POSES.json, or put reference.json or reference_pose.json beside the picture" in line


def test_reference_pose_beside_the_picture_is_found(animate, material):
    (material / "reference.json").rename(material / "reference_pose.json")
    assert "needs multiples" in animate(size="100x64")  # so the pose was found


def test_reference_pose_without_person(animate, material):
    frame = {"canvas_width": 64, "canvas_height": 64, "people": []}
    (material / "empty.json").write_text(json.dumps([frame]))
    assert "no person in its first frame" in animate(reference_poses="empty.json")


def test_driving_video_without_dwpose(animate, material, no_weights):
    video.write_video(material / "dance.mp4", np.zeros((2, 16, 16, 3), np.uint8), 7)
    line = animate(driving="dance.mp4")
    assert_names_dwpose(line, no_weights)
    assert "or give --driving POSES.json" in line


def test_missing_published_weights(animate, no_weights):
    line = animate(model="v1")
    assert "Animation/unet.pth" in line
    assert "weights download v1" in line


def test_poses_extract(refused, material, no_weights, tmp_path):
    clip = video.write_video(material / "dance.mp4", np.zeros((2, 16, 16, 3), np.uint8), 7)
    here = ("poses", "extract", "--detector", "dwpose", "--video", clip, "--out")
    line = refused(*here, material / "a.json", "--models", tmp_path)
    assert_names_dwpose(line, tmp_path)
    assert f'--models "{tmp_path}"' in line
    assert "save POSE_KEYPOINT as JSON" in line
    assert "does not exist; create it" in refused(*here, material / "no" / "a.json")
    assert "invalid choice: 'yolo'" in refused(*here, "a.json", "--detector", "yolo")
    assert "-1 is not a whole number of 0 or more" in refused(*here, "a.json", "--fill-gap", "-1")
    assert "1 is not a whole number of 64 or more" in refused(*here, "a.json", "--longest", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file of poses"),
        ("[1, 2", "not a JSON file of poses"),
        ("[]", "holds no frame"),
        ('{"frames": []}', "holds no frame"),
        ("[{}]", "frame 0: canvas_width is None"),
        ('[{"canvas_width": 64, "canvas_height": 64, "people": []}]', "no person in any of its 1 frames"),
    ],
)
def test_driving_poses(animate, material, content, message):
    (material / "bad.json").write_text(content)
    line = animate(driving="bad.json")
    assert "bad.json" in line
    assert message in line


def test_output_folder_is_checked_before_the_work(animate):
    line = animate(out="missing/out.mp4", reference="reference.png", model="no-such-model")
    assert re.search(r"output folder .*missing does not exist; create it or choose another --out", line)


def test_output_format(animate):
    assert "cannot write .avi files; choose one of .mp4" in animate(out="out.avi")


@pytest.fixture
def copied_model(tiny_model, tmp_path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_damaged_weights(animate, copied_model):
    (copied_model / "pose_net.safetensors").write_bytes(b"not tensors at all")
    line = animate(model=copied_model)
    assert "pose_net.safetensors: damaged" in line


def test_missing_weights(animate, copied_model):
    (copied_model / "face_encoder.safetensors").unlink()
    assert "face_encoder.safetensors: missing" in animate(model=copied_model)


def test_weights_of_another_model(animate, copied_model):
    (copied_model / "face_embedder.safetensors").write_bytes((copied_model / "face_judge.safetensors").read_bytes())
    assert "these weights belong to another model" in animate(model=copied_model)


def test_poses_commands(refused, material):
    driving = material / "driving.json"
    here = ("--driving", driving, "--reference", material / "reference.json", "--out")
    assert "does not exist; create it" in refused("poses", "align", *here, material / "no" / "a.json")
    assert f"{material} is a folder" in refused("poses", "align", *here, material)
    assert f"argument --driving: {material / 'x.json'} does not exist; check the path" in refused(
        "poses", "align", "--driving", material / "x.json", "--reference", driving, "--out", material / "a.json"
    )
    assert "-1 is not a number of 0 or more" in refused("poses", "align", *here, "a.json", "--min-score", "-1")
    assert "cannot write .xyz files" in refused("poses", "draw", "--poses", driving, "--out", material / "a.xyz")


def test_demo_output(refused, material):
    assert "does not exist; create it" in refused("demo", "--out", material / "no" / "demo")
    assert "is a file; choose another --out" in refused("demo", "--out", material / "driving.json")


def test_demo_frames(refused, material):
    line = refused("demo", "--out", material / "demo", "--frames", "999")
    assert "--frames 999: the demo's driving video has 24 frames" in line


def test_evaluate_wants_two_clips(refused):
    assert "1 is not a whole number from 2 to 10000" in refused("evaluate", "animation", "--clips", "1")


def test_evaluate_seed(refused):
    """The last clip's own seed has 63 bits."""
    assert arguments.MOST_CLIPS == FIRST_SEED
    largest = (2**63 - 1) // FIRST_SEED - 1
    assert arguments.CLIPS_SEED(str(largest)) * FIRST_SEED + arguments.MOST_CLIPS < 2**63
    message = refused("evaluate", "animation", "--seed", largest + 1)
    assert f"{largest + 1} is not a whole number from 0 to {largest}" in message


def test_frame_rate():
    assert [arguments.frame_rate(text) for text in ("0.1", "29.97", "240")] == [0.1, 29.97, 240]
    for text in ("0.09", "240.5"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text} is not a frame rate from 0.1 to 240$"):
            arguments.frame_rate(text)


def test_train_paths(refused, material):
    assert "does not exist; create it" in refused("train", "mini", "--out", material / "no" / "model")
    (material / "bad.npz").write_bytes(b"no archive")
    message = refused("train", "mini", "--out", material / "m", "--mocap", material / "bad.npz")
    assert "bad.npz: is no readable .npz" in message
    assert not (material / "m").exists()
    assert "0 is not a number above 0" in refused("train", "mini", "--out", "m", "--animator-minutes", "0")


def test_json_errors_are_one_object(capsys):
    assert cli.main(["animate", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": err.removeprefix("stableanimator_core: ").strip(), "status": 2}


def fail_with(monkeypatch, error: BaseException):
    def raise_it(*_):
        raise error

    monkeypatch.setattr(cli.doctor, "check_installation", raise_it)


def test_fault_of_ours_names_its_log(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("STABLEANIMATOR_DEBUG", raising=False)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    fail_with(monkeypatch, RuntimeError("two\nlines"))
    assert cli.main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "a fault of ours: RuntimeError: two lines; please report it with" in err
    [log] = tmp_path.glob("*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_fault_of_ours_with_debugging(capsys, monkeypatch):
    monkeypatch.setenv("STABLEANIMATOR_DEBUG", "1")
    fail_with(monkeypatch, RuntimeError("oops"))
    assert cli.main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert json.loads(out)["status"] == 1


def test_out_of_gpu_memory(capsys, monkeypatch):
    fail_with(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    assert cli.main(["doctor"]) == 1
    assert "try a smaller --size or --hjb-iterations 0" in capsys.readouterr().err


def test_cancel(capsys, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "stableanimator_core: cancelled\n"


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert cli.main(["animate", "--help"]) == 0
    assert "--reference-poses" in capsys.readouterr().out


def test_real_process(material):
    command = [sys.executable, "-m", "stableanimator_core", "poses", "draw", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for poses, status in (("driving.json", 0), ("missing.json", 2)):
        done = subprocess.run(
            [*command, "--poses", poses, "--out", "drawn.mp4"],
            cwd=material, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == status
        assert isinstance(json.loads(done.stdout), dict)
        assert "Traceback" not in done.stderr
    assert (material / "drawn.mp4").stat().st_size > 0


@pytest.mark.skipif(os.name == "nt", reason="a pipe that nobody reads ends otherwise there")
def test_a_reader_that_has_enough_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "stableanimator_core", "weights", "list"]
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(command, cwd=ROOT, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
