"""Each check finds what it is for, says the exact fix, and is silent when all is well."""

import sys

import numpy as np
import pytest

from stableanimator_core import onnx_session, preflight
from stableanimator_core.errors import PoseError, WeightsError
from stableanimator_core.face import DetectedFace
from stableanimator_core.keypoints import Poses
from stableanimator_core.preflight import Finding, check_driving, check_job, check_reference, check_size
from stableanimator_core.weights import V1_CONFIG, Places, read_config

PICTURE = np.zeros((640, 640, 3), np.uint8)


def only(findings: list[Finding]) -> Finding:
    """The one finding of these; its two parts are one line each."""
    assert len(findings) == 1, findings
    assert findings[0].what
    assert findings[0].fix
    assert "\n" not in findings[0].what + findings[0].fix
    return findings[0]


@pytest.fixture
def tiny(tiny_model):
    """The tiny model's configuration: 64x64, multiples of 32, upright face boxes."""
    return read_config(tiny_model)


@pytest.fixture
def figure(stick_figure):
    """Makes poses of somebody standing, on a square canvas."""
    return lambda frames=1, side=640: Poses.from_openpose(stick_figure(frames, side, side))


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these distributions are installed, and no others."""

    def pretend(**versions: str) -> None:
        versions = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(preflight, "installed_version", versions.get)

    return pretend


def test_an_error_is_a_finding():
    error = PoseError("frame 3: no\nhips; lower min_score; or trim")
    assert Finding.of(error) == Finding("problem", "frame 3: no hips", "lower min_score; or trim")
    assert Finding.of(PoseError("nobody"), "note") == Finding("note", "nobody", "give another one")


def test_packages_missing_or_old():
    text = "no-such-package-here>=1.0  # why\nnumpy>=999\n\n# comment\npillow"
    packages, findings = preflight.check_packages(text)
    assert packages["no-such-package-here"] is None
    assert packages["pillow"]
    assert [finding.what.partition(" ")[0] for finding in findings] == ["no-such-package-here", "numpy"]
    assert all("pip install -r" in finding.fix for finding in findings)


def test_requirements_of_other_machines_do_not_count():
    text = "no-such-package; sys_platform == 'amiga'\nother-package; python_version >= '3.10'"
    assert list(preflight.check_packages(text)[0]) == ["other-package"]


def test_any_variant_of_a_package_serves(installed):
    installed(onnxruntime="1.20", opencv_contrib_python="5.0")
    packages, findings = preflight.check_packages("onnxruntime-gpu>=1.17\nopencv-python>=4.8")
    assert packages == {"onnxruntime": "1.20", "opencv-contrib-python": "5.0"}
    assert not findings


def test_a_damaged_built_in_model(monkeypatch, tmp_path):
    from stableanimator_core import weights

    monkeypatch.setitem(weights.BUILT_IN, "mini", tmp_path)
    models, findings = preflight.check_models()
    assert models["mini"]["ok"] is False
    assert "model mini" in only(findings).what


def test_imports_without_torch(monkeypatch):
    def broken(name):
        raise RuntimeError("broken")

    monkeypatch.setattr(preflight.importlib, "import_module", broken)
    named = [finding.what.partition(" ")[0] for finding in preflight.check_imports(set(), torch=False)]
    assert "numpy" in named
    assert "diffusers" not in named


@pytest.mark.parametrize(
    ("variants", "keep"),
    [
        (("opencv-python", "opencv-python-headless"), "opencv-python"),
        (("opencv-python", "opencv-contrib-python"), "opencv-contrib-python"),
    ],
)
def test_clobbering_opencvs(installed, monkeypatch, variants, keep):
    installed(**{name.replace("-", "_"): "5.0" for name in variants})
    monkeypatch.setattr(preflight, "check_device", lambda: ({"name": "cpu", "torch": "2.11"}, []))
    findings = preflight.check_installation(None).findings
    finding = only([finding for finding in findings if "over one another" in finding.what])
    assert finding.level == "note", "it works until the next update; a failing import is a problem of its own"
    assert "installed over one another" in finding.what
    assert f"uninstall -y {' '.join(variants)}, then " in finding.fix
    assert finding.fix.endswith(f"install {keep}")


@pytest.mark.parametrize(("device", "keep"), [("cuda", "onnxruntime-gpu"), ("cpu", "onnxruntime")])
def test_clobbering_onnxruntimes(installed, monkeypatch, device, keep):
    installed(onnxruntime="1.20", onnxruntime_gpu="1.20")
    monkeypatch.setattr(preflight, "check_device", lambda: ({"name": device, "torch": "2.11"}, []))
    findings = preflight.check_installation(None).findings
    finding = only([finding for finding in findings if "over one another" in finding.what])
    assert finding.level == "problem"
    assert "uninstall -y onnxruntime-gpu onnxruntime, then " in finding.fix
    assert finding.fix.endswith(f"install {keep}")


def test_onnxruntime_opens_a_network():
    assert preflight.check_onnxruntime() == []


def test_onnxruntime_that_ends_on_the_cpu(monkeypatch):
    """The machine has a GPU; this onnxruntime is the CPU build."""
    import onnxruntime

    monkeypatch.setattr(onnx_session, "_nvidia_gpu", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    finding = only(preflight.check_onnxruntime())
    assert finding.level == "note"
    assert "is the CPU build" in finding.what
    pip = f'"{sys.executable}" -m pip'
    assert finding.fix == f"{pip} uninstall -y onnxruntime onnxruntime-gpu, then {pip} install onnxruntime-gpu"


def test_onnxruntime_that_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = only(preflight.check_onnxruntime())
    assert finding.level == "problem"
    assert "cannot open a network" in finding.what
    assert "--force-reinstall --no-deps onnxruntime" in finding.fix


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(preflight.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    for build, message in ((None, "is a CPU build"), ("13.0", "driver is too old")):
        monkeypatch.setattr(torch.version, "cuda", build)
        assert message in only(preflight.check_device()[1]).what


def test_what_keeps_a_gpu_slow(monkeypatch):
    import torch

    from stableanimator_core.models import kernels

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    monkeypatch.setattr(kernels, "triton", object())
    monkeypatch.setattr(kernels, "why_not", lambda index: "")
    assert preflight.check_speed() == []
    monkeypatch.setattr(kernels, "why_not", lambda index: "no C compiler")
    slow = only(preflight.check_speed())
    assert slow.what.endswith("at about half the speed (no C compiler)") and "python3-dev" in slow.fix
    monkeypatch.setattr(kernels, "triton", None)
    for system, package in (("linux", "triton"), ("win32", "triton-windows")):
        monkeypatch.setattr(preflight.sys, "platform", system)
        assert only(preflight.check_speed()).fix.endswith(f" install {package}")
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    assert [finding.fix for finding in preflight.check_speed()][1] == "start ComfyUI with --disable-cuda-malloc"


def test_pyav_without_an_encoder(monkeypatch):
    import av

    assert preflight.check_encoder() == []
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    assert "no H.264" in only(preflight.check_encoder()).what


def test_weights_that_are_missing_are_notes(tmp_path):
    groups, findings = preflight.check_weights(Places((tmp_path,), notes=("paths.yaml cannot be read",)))
    assert [finding.level for finding in findings] == ["note"] * 4
    assert findings[0].what == "paths.yaml cannot be read"
    assert groups["poses"] == {
        "complete": False,
        "found": {},
        "missing": ["DWPose/yolox_l.onnx", "DWPose/dw-ll_ucoco_384.onnx"],
    }
    assert findings[2].what.endswith(f": 0.35 GB to download, 2 of 2 files missing in {tmp_path}")
    assert findings[2].details[0] == (
        "DWPose/yolox_l.onnx, 0.22 GB: https://huggingface.co/FrancisRing/StableAnimator/blob/main/DWPose/yolox_l.onnx"
    )
    assert findings[2].fix.startswith("python -m stableanimator_core weights download poses")


def test_missing_weights_say_what_lies_in_their_place_and_where_their_folders_differ(tmp_path):
    (tmp_path / "SVD/vae").mkdir(parents=True)
    page = tmp_path / "SVD/vae/diffusion_pytorch_model.safetensors"
    page.write_text("<html>log in first</html>")
    finding = only(preflight.check_missing(Places((tmp_path,)), ["vae"], "model v1"))
    assert finding.what == f"model v1: 0.39 GB to download, 1 of 1 files missing in {tmp_path}"
    (line,) = finding.details
    assert line.startswith("SVD/vae/diffusion_pytorch_model.safetensors, 0.39 GB: https://huggingface.co/")
    remote = "/blob/main/stable-video-diffusion-img2vid-xt/vae/diffusion_pytorch_model.safetensors"
    assert line.endswith(f"{remote}, but {page} is a web page, not the weights")


def test_lines_of_a_finding():
    finding = Finding("problem", "two files missing", "get them", ("one", "another"))
    assert finding.lines == ("PROBLEM: two files missing", "    one", "    another", "    fix: get them")
    assert finding.record() == {"what": "two files missing: one; another", "fix": "get them"}
    assert Finding("note", "small", "wait").record() == {"what": "small", "fix": "wait"}


def test_notes_that_a_problem_says_as_well_are_left_out():
    problem = Finding("problem", "Load Model: no files", "run this; or that", ("one", "another"))
    twice, more = (Finding("note", "no files here", "run this", lines) for lines in (("one",), ("one", "a third")))
    other, broken = Finding("note", "small", "use a larger one"), Finding("problem", "a file is bad", "delete it")
    findings = [other, twice, broken, more, problem, broken._replace(level="note"), other]
    assert preflight.distinct(findings) == [broken, problem, other, more]


def test_files_that_are_missing_are_told_beside_a_damaged_one(tmp_path):
    vae = tmp_path / "SVD/vae/diffusion_pytorch_model.safetensors"
    vae.parent.mkdir(parents=True)
    vae.write_bytes(b"damaged")
    damaged, *notes = preflight.distinct(preflight.check_weights(Places((tmp_path,)))[1])
    assert damaged.level == "problem" and "weights download v1" in damaged.fix
    assert any("5 of 6 files missing" in note.what for note in notes)


def test_size(tiny):
    config = tiny
    assert check_size(config, None) == check_size(config, (64, 64)) == []
    assert only(check_size(config, (65, 64))).level == "problem"
    finding = only(check_size(config, (96, 64)))
    assert finding.level == "note"
    assert "not trained at 96x64" in finding.what
    assert check_size(V1_CONFIG, (576, 1024)) == []
    assert "512x512 or 576x1024" in only(check_size(V1_CONFIG, (512, 576))).fix


def test_files_of_the_published_model(tmp_path, tiny):
    places = Places((tmp_path,))
    assert check_job(tiny, places=places) == []
    finding = only(check_job(V1_CONFIG, places=places))
    assert finding.level == "problem"
    assert finding.what == f"model v1: 9.61 GB to download, 6 of 6 files missing in {tmp_path}"
    assert len(finding.details) == 6 and any(line.startswith("Animation/unet.pth, 6.20 GB") for line in finding.details)
    assert "weights download v1" in finding.fix


def test_a_good_job(tiny, figure):
    job = {"reference": PICTURE, "reference_pose": figure(), "driving": figure(3), "size": (64, 64)}
    assert check_job(tiny, **job) == []


def test_reference_without_a_face(tiny, figure):
    pose = figure()
    pose.body_score[..., 0] = 0  # the nose
    finding = only(check_reference(tiny, PICTURE, pose))
    assert finding.level == "problem"
    assert "no face" in finding.what


def test_reference_in_profile(figure):
    pose = figure()
    pose.body[..., 0, :] = pose.body[..., 14, :] - (20, 0)  # the nose beyond the right eye
    assert "in profile" in only(check_reference(V1_CONFIG, PICTURE, pose)).what


def test_reference_with_a_small_face(tiny, figure):
    finding = only(check_reference(tiny, PICTURE[:32, :32], figure(side=32)))
    assert finding.level == "note"
    assert "px wide, the embedder looks at 32" in finding.what
    assert only(check_reference(V1_CONFIG, PICTURE[:32, :32], figure(side=32))).level == "problem"


def test_reference_with_other_than_one_person(tiny, stick_figure):
    [frame] = stick_figure(1, 640, 640)
    crowd = Poses.from_openpose([{**frame, "people": frame["people"] * 2}])
    assert "2 people" in only(check_reference(tiny, PICTURE, crowd)).what
    nobody = check_reference(tiny, PICTURE, Poses.empty(1, 640, 640))
    assert [finding.level for finding in nobody] == ["problem", "problem"]
    assert "nobody" in nobody[0].what


def test_reference_without_a_pose(tiny):
    assert "its pose is missing" in only(check_reference(tiny, PICTURE, None)).what


class Detector:
    """Finds the same faces in every picture."""

    def __init__(self, *sides: int):
        self.sides = sides

    def detect(self, picture):
        points = np.array([(0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)])
        return [
            DetectedFace(np.array([200, 200, 200 + side, 200 + side]), 200 + points * side, 0.9) for side in self.sides
        ]


def test_reference_through_a_detector(tiny, figure):
    assert check_reference(V1_CONFIG, PICTURE, None, Detector(200)) == []
    assert "no face found" in only(check_reference(V1_CONFIG, PICTURE, None, Detector())).what
    assert "2 faces found; the largest" in only(check_reference(V1_CONFIG, PICTURE, None, Detector(200, 90))).what
    assert "px wide" in only(check_reference(V1_CONFIG, PICTURE, None, Detector(40))).what
    assert "too small" in only(check_reference(V1_CONFIG, PICTURE, None, Detector(10))).what
    assert check_reference(tiny, PICTURE, figure(), Detector()) == []  # upright boxes come from poses


def test_driving_without_anybody(tiny):
    finding = only(check_driving(tiny, Poses.empty(5, 640, 640, people=1)))
    assert finding == Finding("problem", "driving: no person in any of 5 frames", "give other poses")


def test_driving_with_gaps(tiny, figure):
    driving = figure(6)
    driving.body_score[2:4] = 0
    findings = check_driving(tiny, driving)
    assert findings[0].what == "driving: nobody in 2 of 6 frames, first in frame 2"
    assert findings[1].what.startswith("driving: 2 of 6 frames show no face")
    assert {finding.level for finding in findings} == {"note"}


def test_driving_with_several_people(tiny, stick_figure):
    frames = stick_figure(3, 640, 640)
    frames[1]["people"] *= 3
    assert "up to 3 people" in only(check_driving(tiny, Poses.from_openpose(frames))).what


def test_driving_that_cannot_be_laid_over_the_reference(tiny, figure):
    pose = figure()
    pose.body_score[..., 1:] = 0
    finding = check_driving(tiny, figure(3), pose)[-1]
    assert finding.level == "problem"
    assert finding.fix


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(WeightsError) as caught:
        Places((tmp_path,)).require("unet")
    assert Finding.of(caught.value).fix.startswith("fetch with: python -m stableanimator_core weights download v1")
