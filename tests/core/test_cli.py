"""The commands do their work: files appear, JSON is one object, people see the identity of every frame."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from stableanimator_core import cli, preflight, video
from stableanimator_core.cli import demo
from stableanimator_core.cli.arguments import prepare_folder
from stableanimator_core.cli.report import Report, plain, rounded, sparkline
from stableanimator_core.keypoints import Poses
from stableanimator_core.video import contact_sheet as sheet
from stableanimator_core.video import read_image, read_video, write_image, write_video


@pytest.fixture
def run(capsys):
    """Run a command that must succeed; returns its stdout."""

    def command(*argv) -> str:
        status = cli.main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return command


def test_animate(run, material, tiny_model):
    argv = ["animate", "--model", tiny_model, "--device", "cpu", "--seed", 3, "--guidance", "1:2"]
    argv += ["--hjb-steps", "0:1", "--reference", material / "reference.png"]
    argv += ["--driving", material / "driving.json"]
    result = json.loads(run(*argv, "--out", material / "out.mp4", "--json"))
    assert (result["frames"], result["size"]) == (3, [64, 64])
    assert (result["seed"], result["device"]) == (3, "cpu")
    assert len(result["csim"]) == 3
    assert result["judge"] == "judge"
    frames, fps = read_video(result["out"])
    assert frames.shape == (3, 64, 64, 3)
    assert fps == result["fps"] == 7

    few = ["--frames", 2, "--hjb-iterations", 0, "--size", "64x96", "--fps", 5]
    text = run(*argv, "--out", material / "out.png", *few)
    assert "identity (CSIM):" in text
    assert "2 frames of 64x96" in text
    other = json.loads(run(*argv, "--out", material / "out.gif", *few, "--json"))
    assert "trained at 64x64; at 64x96 expect less" in " ".join(other["notes"])
    assert len(list((material / "out").glob("*.png"))) == 2


def test_animate_repeats_itself(run, material, tiny_model):
    argv = ["animate", "--model", tiny_model, "--device", "cpu", "--frames", 2]
    argv += ["--reference", material / "reference.png", "--driving", material / "driving.json", "--out"]
    for name in ("a.png", "b.png"):
        run(*argv, material / name, "--seed", 5)
    np.testing.assert_array_equal(read_video(material / "a")[0], read_video(material / "b")[0])


def test_demo(run, tmp_path, tiny_model, monkeypatch):
    rows = []
    monkeypatch.setattr(video, "contact_sheet", lambda given, **kwargs: rows.append(given) or sheet(given, **kwargs))
    argv = ["demo", "--model", tiny_model, "--device", "cpu", "--out", tmp_path / "demo", "--frames", 3]
    result = json.loads(run(*argv, "--json"))
    for key in ("animation", "pose_overlay", "contact_sheet"):
        assert Path(result[key]).stat().st_size > 0
    assert len(result["csim"]) == len(result["csim_without_hjb"]) == result["frames"] == 3
    assert read_video(result["animation"])[0].shape == (3, 64, 64, 3)
    assert read_image(result["contact_sheet"]).shape[0] > 6 * 64
    assert [row[2] for row in rows[0] if row[0] == "driving video"] == [["frame 0", "frame 1", "frame 2"]]

    text = run(*argv)
    assert "without HJB" in text
    assert " ".join(f"{value:.2f}" for value in result["csim"]) in text
    assert " ".join(f"{value:.2f}" for value in result["csim_without_hjb"]) in text
    assert "contact_sheet.png" in text
    off = json.loads(run(*argv, "--hjb-iterations", 0, "--frames", 2, "--json"))
    assert off["frames"] == 2
    assert off["csim"] == off["csim_without_hjb"]


def test_what_ships_is_complete(run, tmp_path):
    assert json.loads(run("doctor", "--json"))["models"]["mini"]["ok"]
    argv = ["demo", "--device", "cpu", "--out", tmp_path / "demo", "--frames", 2, "--steps", 3]
    result = json.loads(run(*argv, "--json"))
    assert (result["model"], result["frames"], result["size"]) == ("mini", 2, [192, 192])
    assert min(result["csim"]) > 0.2, "the built-in model does not keep the demo's face"


def test_demo_makes_its_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare_folder(demo.DEFAULT_OUT, demo.DEFAULT_OUT).is_dir()


def test_methods_are_all_named():
    from stableanimator_core.alignment import FITS, METHODS
    from stableanimator_core.cli.arguments import ALIGN_FITS, ALIGN_METHODS

    assert all(method in ALIGN_METHODS for method in METHODS)
    assert all(fit in ALIGN_FITS for fit in FITS)


def test_poses_align(run, material):
    argv = ["poses", "align", "--driving", material / "driving.json", "--reference", material / "reference.json"]
    result = json.loads(run(*argv, "--out", material / "aligned.json", "--json"))
    assert (result["frames"], result["size"], result["method"]) == (3, [64, 64], "learned")
    assert Poses.load(material / "aligned.json").frames == 3
    assert "3 frames aligned by none" in run(*argv, "--out", material / "b.json", "--method", "none", "--fit", "frames")
    result = json.loads(run(*argv, "--out", material / "c.json", "--method", "none", "--proportions", "--json"))
    assert "proportions have no effect: method none fits no similarity" in result["notes"]


def test_poses_draw(run, material):
    draw = ["poses", "draw", "--poses", material / "driving.json", "--canvas", 128]
    result = json.loads(run(*draw, "--out", material / "a.mp4", "--size", "96x80", "--json"))
    assert result["size"] == [96, 80]
    assert read_video(material / "a.mp4")[0].shape == (3, 80, 96, 3)
    one = ["poses", "draw", "--poses", material / "reference.json", "--out", material / "skeleton.png"]
    assert "1 frames of 64x64" in run(*one)
    assert read_image(material / "skeleton.png").max() > 100


def test_poses_draw_over_a_picture_or_video(run, material):
    draw = ["poses", "draw", "--poses", material / "driving.json", "--canvas", 128, "--out", material / "over.png"]
    write_image(material / "grey.png", np.full((64, 64, 3), 90, np.uint8))
    run(*draw, "--over", material / "grey.png")
    frames, _ = read_video(material / "over")
    assert len(frames) == 3
    assert frames[0, 0, 0].tolist() == [90, 90, 90]
    write_video(material / "grey.mp4", np.full((2, 64, 64, 3), 90, np.uint8), 7)
    assert json.loads(run(*draw, "--over", material / "grey.mp4", "--json"))["frames"] == 2


def test_train_mini_hands_over_the_recipe(run, tmp_path, tiny_model, monkeypatch):
    from stableanimator_core.training import mini
    from stableanimator_core.weights import load_models

    calls = []

    def train_mini(out, recipe, **sources):
        calls.append((out, recipe, sources))
        return load_models(tiny_model)

    monkeypatch.setattr(mini, "train_mini", train_mini)
    argv = ["train", "mini", "--out", tmp_path / "model", "--clips", 7, "--seed", 9, "--animator-minutes", 1.5]
    result = json.loads(run(*argv, "--json"))
    assert result["parameters"]["unet"] > 0
    [(out, recipe, sources)] = calls
    assert out == tmp_path / "model"
    assert (recipe.clips, recipe.seed, recipe.animator.minutes) == (7, 9, 1.5)
    assert recipe.identities == mini.MiniRecipe().identities
    assert sources == {"mocap": None, "data": None, "start_from": None, "fresh_identity": False, "resume": False}
    assert "trained in" in run(*argv, "--quick")
    assert calls[-1][1].autoencoder == mini.quick_recipe().autoencoder
    assert calls[-1][1].reconstruction == mini.quick_recipe().reconstruction
    rates = ["--autoencoder-rate", 1e-4, "--animator-rate", 2e-4]
    run(*argv, *rates, "--batch", 3, "--decoder-only", "--start-from", tiny_model)
    recipe = calls[-1][1]
    assert (recipe.reconstruction.rate, recipe.reconstruction.decoder_only) == (1e-4, True)
    assert (recipe.animation.rate, recipe.animation.clips) == (2e-4, 3)
    assert recipe.animation.validate_every == mini.MiniRecipe().animation.validate_every


def test_evaluate_animation(run, tiny_model):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    argv = ["evaluate", "animation", "--model", tiny_model, "--device", "cpu", "--clips", 2, "--frames", 2]
    result = json.loads(run(*argv, "--json"))
    keys = "csim csim_without_hjb csim_reconstruction csim_ceiling csim_copy csim_floor l1 l1_without_hjb face_l1"
    for key in (*keys.split(), "face_l1_without_hjb", "psnr", "ssim", "seconds_per_clip"):
        assert isinstance(result[key], float), key
    assert (result["clips"], result["seed"], result["model"]) == (2, 0, "tiny")
    assert "the truth itself" in run(*argv, "--seed", 1, "--hjb-iterations", 0)


def test_doctor(run):
    result = json.loads(run("doctor", "--json"))
    assert result["ok"] == (not result["problems"])
    assert result["packages"]["torch"]
    assert "mini" in result["models"]
    text = run("doctor")
    assert "computes on" in text
    assert all(finding["fix"] in text for finding in result["problems"] + result["notes"])


def test_doctor_survives_broken_packages(run, monkeypatch):
    """Whatever a package raises while it is imported, doctor names it and does not say that all is well."""
    whole = preflight.importlib.import_module

    def broken(name, *args):
        if name in ("cv2", "diffusers"):
            raise RuntimeError("built for another\nnumpy" if name == "diffusers" else "libGL.so.1: cannot open")
        return whole(name, *args)

    monkeypatch.setattr(preflight.importlib, "import_module", broken)
    result = json.loads(run("doctor", "--json"))
    assert not result["ok"]
    fixes = {problem["what"]: problem["fix"] for problem in result["problems"]}
    assert "libgl1" in fixes["opencv-python cannot be imported (libGL.so.1: cannot open)"]
    assert fixes["diffusers cannot be imported (built for another numpy)"].endswith("--no-deps diffusers")
    assert "everything that is needed is here" not in run("doctor")


@pytest.mark.parametrize("module", ["torch", "stableanimator_core.weights", "av"])
def test_doctor_survives_a_module_that_cannot_be_imported(run, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    result = json.loads(run("doctor", "--json"))
    assert not result["ok"]
    assert all(problem["what"] and problem["fix"] for problem in result["problems"])


def test_doctor_looks_at_published_weights(run, tmp_path):
    """Missing weights are notes: the built-in model works without them."""
    before = json.loads(run("doctor", "--models", tmp_path, "--json"))
    assert before["weights_folders"] == [str(tmp_path)]
    assert len(before["weights"]["v1"]["missing"]) == 6
    [note] = [note for note in before["notes"] if note["what"].startswith("weights faces")]
    assert f"missing in {tmp_path}: antelopev2/scrfd_10g_bnkps.onnx" in note["what"]
    assert note["fix"] == f'python -m stableanimator_core weights download faces --models "{tmp_path}"'

    (tmp_path / "antelopev2").mkdir()
    (tmp_path / "antelopev2" / "scrfd_10g_bnkps.onnx").write_bytes(b"\x08\x08")
    after = json.loads(run("doctor", "--models", tmp_path, "--json"))
    assert after["weights"]["faces"]["complete"]
    assert any("scrfd_10g_bnkps.onnx: no whole .onnx file" in problem["what"] for problem in after["problems"])
    assert after["ok"] is False


def test_doctor_looks_at_a_job(run, material, tiny_model):
    job = ["doctor", "--model", tiny_model, "--reference", material / "reference.png"]
    job += ["--driving", material / "driving.json", "--models", material]
    good = json.loads(run(*job, "--json"))
    before = json.loads(run("doctor", "--models", material, "--json"))
    assert good["problems"] == before["problems"]

    bad = json.loads(run(*job, "--json", "--size", "100x64"))
    assert {"what": "size 100 x 64: model 'tiny' needs multiples of 32", "fix": "take 96 x 64"} in bad["problems"]
    assert bad["ok"] is False
    assert "PROBLEM: size 100 x 64" in run(*job, "--size", "100x64")


def test_doctor_names_files_of_a_job_that_cannot_be_read(run, material, tiny_model):
    (material / "reference.json").unlink()
    job = ["doctor", "--models", material, "--json"]
    result = json.loads(
        run(*job, "--model", tiny_model, "--reference", material / "reference.png", "--driving", material / "no.json")
    )
    found = " ".join(problem["what"] for problem in result["problems"])
    assert "no.json: cannot read the poses" in found
    assert f"missing in {material}: DWPose/yolox_l.onnx" in found  # what would find the picture's pose
    result = json.loads(
        run(*job, "--model", "v3", "--reference", material / "no.png", "--driving", material / "no.mp4")
    )
    found = " ".join(problem["what"] for problem in result["problems"])
    for message in ("unknown model 'v3'", "no.png does not exist", "no.mp4 does not exist"):
        assert message in found


def test_doctor_does_not_examine_a_video(run, material, tiny_model):
    (material / "dance.mp4").write_bytes(b"video")
    job = ["doctor", "--models", material, "--model", tiny_model, "--json"]
    result = json.loads(run(*job, "--driving", material / "dance.mp4"))
    assert any("finding poses needs DWPose" in problem["what"] for problem in result["problems"])
    [note] = [note for note in result["notes"] if "is not examined until" in note["what"]]
    assert "poses extract --video" in note["fix"]


def test_doctor_says_what_v1_lacks(run, tmp_path):
    result = json.loads(run("doctor", "--models", tmp_path, "--model", "v1", "--json"))
    assert any("Animation/unet.pth" in problem["what"] for problem in result["problems"])
    assert not result["ok"]
    (tmp_path / "mine" / "Animation").mkdir(parents=True)
    result = json.loads(run("doctor", "--models", tmp_path, "--model", tmp_path / "mine", "--json"))
    assert any(f"missing in {tmp_path / 'mine'}: " in problem["what"] for problem in result["problems"])


def test_json_has_no_nan():
    value = {"a": float("nan"), "b": np.array([1.0, np.inf]), "c": (Path("x"), None, True), 1: np.int64(2)}
    assert plain(value) == {"a": None, "b": [1.0, None], "c": ["x", None, True], "1": 2}


def test_sparkline_and_rounded():
    assert sparkline([0.0, 1.0, None, 0.5, -3.0]) == "▁█·▅▁"
    assert rounded([0.123456, float("nan")]) == [0.1235, None]


def test_progress_is_sparse_when_nobody_watches(capsys):
    report = Report()
    for step in range(100):
        report.progress(step + 1, 100, "steps")
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 7
    assert lines[-1] == "100/100 steps"
    report.live("nobody sees this")
    assert not capsys.readouterr().err


def test_progress_moves_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    Report().live("passing")
    Report().progress(2, 2, "steps")
    err = capsys.readouterr().err
    assert "passing" in err
    assert err.endswith("2/2 steps\n")


@pytest.mark.parametrize(
    "command, platform, given, found",
    [
        (["demo"], "linux", {}, ["expandable_segments:True"] * 2),
        (["demo"], "linux", {cli.ALLOCATOR[1]: "max_split_size_mb:64"}, [None, "max_split_size_mb:64"]),
        (["demo"], "win32", {}, [None, None]),
        (["train", "mini"], "linux", {}, [None, None]),
    ],
)
def test_segments_grow_unless_the_user_has_set_the_allocator(run, monkeypatch, command, platform, given, found):
    for name in cli.ALLOCATOR:
        monkeypatch.setenv(name, "")  # so that what the command sets is undone in the end
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    run(*command, "--help")
    assert [os.environ.get(name) for name in cli.ALLOCATOR] == found


def test_version_is_written_once():
    from stableanimator_core import __version__

    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"' in pyproject
