"""What stands in the way of an animation: the installation, and one job's picture, poses and size.

Every check gives findings: what was found, and the exact command or step that mends it. Packages may be missing or
broken, so nothing but the standard library is imported before the check that needs it.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from . import __version__
from .errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np

    from .face import FaceBoxes, FaceDetector
    from .keypoints import Poses
    from .weights import ModelConfig, Places

PACK = Path(__file__).resolve().parents[1]
REQUIREMENTS = PACK / "requirements.txt"
PIP = f'"{sys.executable}" -m pip'
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml", "onnxruntime-openvino")
VARIANTS = {"opencv-python": OPENCV, "onnxruntime": ONNXRUNTIME, "onnxruntime-gpu": ONNXRUNTIME}  # any of them serves
GIB = 1 << 30
MODULES = {  # what is imported: the package that brings it
    "numpy": "numpy",
    "cv2": "opencv-python",
    "av": "av",
    "PIL.Image": "pillow",
    "safetensors": "safetensors",
    "einops": "einops",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "huggingface_hub": "huggingface-hub",
}
ON_TORCH = ("diffusers", "transformers", "accelerate")  # they fail with a torch that fails
WEIGHTS_FOR = {
    "v1": "the published model",
    "poses": "find the poses of people in photographs and films",
    "faces": "find the face in a picture for v1",
}
# y = Identity(x) for one float, as an ONNX file: shows where onnxruntime computes
IDENTITY_ONNX = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


class Finding(NamedTuple):
    """Something to know or to mend."""

    level: Literal["problem", "note"]
    what: str
    fix: str
    details: tuple[str, ...] = ()  # lines on what was found

    @classmethod
    def of(cls, error: InputError, level: Literal["problem", "note"] = "problem") -> Finding:
        """Our errors say what was found and, after a semicolon, what to do."""
        what, _, fix = one_line(error).partition("; ")
        return cls(level, what, fix or "give another one")

    def record(self) -> dict:
        """For JSON."""
        return {"what": ": ".join(filter(None, (self.what, "; ".join(self.details)))), "fix": self.fix}

    @property
    def lines(self) -> tuple[str, ...]:
        """As people read it."""
        level = self.level.upper() if self.level == "problem" else self.level
        return f"{level}: {self.what}", *(f"    {line}" for line in (*self.details, f"fix: {self.fix}"))


def distinct(findings: Iterable[Finding]) -> list[Finding]:
    """Problems, then notes; without what was found twice, and without notes that the problems say as well: files that a
    job lacks are missing in the installation, too."""
    findings = list(dict.fromkeys(findings))
    problems = [finding for finding in findings if finding.level == "problem"]
    said = {line for problem in problems for line in problem.details or (problem.what,)}
    notes = (finding for finding in findings if finding.level == "note")
    return [*problems, *(note for note in notes if not said.issuperset(note.details or (note.what,)))]


@dataclass(frozen=True)
class Installation:
    """What is installed, found and missing."""

    findings: tuple[Finding, ...]
    device: dict  # name (cuda, mps, cpu, None without torch), torch, gpu, gpu_memory_gib, gpu_memory_free_gib
    memory_gib: float | None
    packages: dict[str, str | None]  # version by name; None: missing
    models: dict[str, dict]  # built-in ones: folder, ok
    weights: dict[str, dict]  # groups of published files: complete, found (path by key), missing

    @property
    def ok(self) -> bool:
        """Whether animations can be made: with the built-in model at least."""
        return all(finding.level != "problem" for finding in self.findings)


def check_installation(places: Places | None) -> Installation:
    """Examine packages, device, built-in models and the published weights of `places` (None: not examined)."""
    text = REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.is_file() else ""
    packages, findings = check_packages(text)
    missing = {name for name, version in packages.items() if version is None}
    findings += check_variants(OPENCV, "cv2", _opencv_to_keep, level="note")
    device, on_device = check_device()
    gpu = device["name"] == "cuda"
    findings += check_variants(ONNXRUNTIME, "onnxruntime", lambda _: "onnxruntime-gpu" if gpu else "onnxruntime")
    findings += on_device
    findings += check_imports(missing, torch=device["torch"] is not None)
    if gpu and not any(finding.level == "problem" for finding in findings):
        findings += check_speed()
    findings += check_encoder()
    if device["torch"] is not None and any(map(_is_installed, ONNXRUNTIME)):
        findings += check_onnxruntime()
    models, on_models = check_models(broken=any(finding.level == "problem" for finding in findings))
    weights, on_weights = check_weights(places) if places else ({}, [])
    return Installation((*findings, *on_models, *on_weights), device, memory_gib(), packages, models, weights)


def check_packages(requirements: str) -> tuple[dict[str, str | None], list[Finding]]:
    """Installed version of everything that a requirements text asks for on this machine (None: missing); findings for
    what is missing or too old."""
    found: dict[str, str | None] = {}
    findings = []
    fix = f'{PIP} install -r "{REQUIREMENTS}"'
    for line in requirements.splitlines():
        requirement, _, marker = line.partition("#")[0].partition(";")
        match = re.match(r"([A-Za-z0-9_.-]+)\s*(?:>=\s*([\d.]+))?", requirement.strip())
        if not match or not _applies(marker.strip()):
            continue
        name, wanted = match.groups()
        name = next(filter(_is_installed, VARIANTS.get(name, ())), name)  # any variant serves
        found[name] = installed = installed_version(name)
        if installed is None:
            findings.append(Finding("problem", f"{name} is not installed", fix))
        elif wanted and _numbers(installed) < _numbers(wanted):
            what = f"{name} {installed} is installed, {wanted} or later is needed"
            findings.append(Finding("problem", what, fix))
    return found, findings


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None when it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_variants(
    variants: tuple[str, ...], module: str, keep: Callable[[list[str]], str], *,
    level: Literal["problem", "note"] = "problem",
) -> list[Finding]:  # fmt: skip
    """Several variants of a package overwrite one another's folder. keep: which of those found should stay."""
    found = [name for name in variants if _is_installed(name)]
    if len(found) < 2:
        return []
    what = f"{' and '.join(found)} are installed over one another; {module} may break at the next update"
    # All go first: uninstalling one takes files from the others.
    return [Finding(level, what, f"{PIP} uninstall -y {' '.join(found)}, then {PIP} install {keep(found)}")]


def check_imports(missing: set[str], *, torch: bool = True) -> list[Finding]:
    """Import everything but torch (see check_device); findings for what is installed and yet fails.

    missing: what check_packages has named. torch: whether it works; without it the packages built on it are not tried.
    """
    findings = []
    for module, package in MODULES.items():
        if module in ON_TORCH and not torch:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package raises anything
            if isinstance(error, ModuleNotFoundError) and package in missing:
                continue
            variant = next((name for name in OPENCV if _is_installed(name)), package) if module == "cv2" else package
            fix = f"{PIP} install --force-reinstall --no-deps {variant}"
            if "libGL" in str(error):
                fix = "install the system's OpenGL library, on Debian and Ubuntu: sudo apt-get install libgl1"
            findings.append(Finding("problem", f"{package} cannot be imported ({one_line(error)})", fix))
    return findings


def check_device() -> tuple[dict, list[Finding]]:
    """What torch can compute on; a machine with an NVIDIA GPU and a torch without CUDA is a problem."""
    try:
        import torch
    except Exception as error:  # a broken package raises anything
        fix = f"{PIP} install --force-reinstall torch torchvision torchaudio"
        problem = Finding("problem", f"torch cannot be imported ({one_line(error)})", fix)
        return {"name": None, "torch": None}, [problem]
    if torch.cuda.is_available():
        try:
            free, total = torch.cuda.mem_get_info()
        except RuntimeError as error:
            fix = "update the NVIDIA driver; until then: --device cpu"
            problem = Finding("problem", f"the GPU does not answer ({one_line(error)})", fix)
            return {"name": "cpu", "torch": torch.__version__}, [problem]
        return {
            "name": "cuda",
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory_gib": round(total / GIB, 1),
            "gpu_memory_free_gib": round(free / GIB, 1),
        }, []
    findings = []
    if shutil.which("nvidia-smi"):
        what = "sees no GPU: the driver is too old for it" if torch.version.cuda else "is a CPU build"
        fix = "install the CUDA build of torch: https://pytorch.org/get-started/locally/"
        fix = "update the NVIDIA driver" if torch.version.cuda else fix
        what = f"this machine has an NVIDIA driver, but torch {torch.__version__} {what}"
        findings.append(Finding("problem", what, fix))
    return {"name": "mps" if torch.backends.mps.is_available() else "cpu", "torch": torch.__version__}, findings


def check_speed() -> list[Finding]:
    """What keeps an NVIDIA GPU from going as fast as it could."""
    import torch

    from .models import kernels

    if torch.version.hip is not None:
        return []
    findings = []
    why = "Triton is not installed" if kernels.triton is None else kernels.why_not(torch.cuda.current_device())
    if why:
        fix = f"{PIP} install {'triton-windows' if sys.platform == 'win32' else 'triton'}"
        if kernels.triton is not None:
            fix = "install a C compiler and Python's headers (python3-dev), from which Triton builds"
        findings.append(Finding("note", f"the GPU goes without fused kernels, at about half the speed ({why})", fix))
    if torch.cuda.get_allocator_backend() != "native":
        what = "the GPU goes without CUDA graphs, since torch allocates by cudaMallocAsync: a fast one waits for Python"
        findings.append(Finding("note", what, "start ComfyUI with --disable-cuda-malloc"))
    return findings


def check_encoder() -> list[Finding]:
    """H.264 is what `--out name.mp4` needs."""
    try:
        import av

        codecs = av.codecs_available
    except Exception:  # named by check_packages or check_imports
        return []
    if "libx264" in codecs:
        return []
    fix = f"{PIP} install --force-reinstall --only-binary=av av"
    return [Finding("problem", "PyAV has no H.264 encoder, so .mp4 cannot be written", fix)]


def check_onnxruntime() -> list[Finding]:
    """Open a tiny network, on the GPU where there is one; a note when that ends on the CPU."""
    try:
        from .onnx_session import open_session

        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "identity.onnx"
            path.write_bytes(IDENTITY_ONNX)
            note = open_session(path).note
    except Exception as error:  # a broken package raises anything
        installed = next(name for name in ONNXRUNTIME if _is_installed(name))
        fix = f"{PIP} install --force-reinstall --no-deps {installed}"
        return [Finding("problem", f"{installed} cannot open a network ({one_line(error)})", fix)]
    if note is None:
        return []
    what, _, fix = note.rpartition("; ")
    return [Finding("note", what, fix.replace("pip ", f"{PIP} "))]


def check_models(*, broken: bool = False) -> tuple[dict[str, dict], list[Finding]]:
    """The built-in models: every part present and readable. broken: whether something was found before this."""
    try:
        from .weights import BUILT_IN, find_model, read_config, read_part
    except Exception as error:  # a broken package raises anything
        fix = "first mend what is named above, then run doctor again" if broken else "install the pack again"
        return {}, [Finding("problem", f"the models cannot be examined ({one_line(error)})", fix)]
    models, findings = {}, []
    for name, folder in BUILT_IN.items():
        models[name] = {"folder": str(folder), "ok": True}
        try:
            config = read_config(find_model(name))
            for part in config.parts:
                read_part(folder, part)
        except Exception as error:  # an InputError, or whatever a broken package raises
            models[name]["ok"] = False
            fix = f'restore it: git -C "{PACK}" checkout -- "{folder}", or install the pack again'
            findings.append(Finding("problem", f"model {name}: {one_line(error)}", fix))
    return models, findings


def check_weights(places: Places) -> tuple[dict[str, dict], list[Finding]]:
    """The published files by group: a note for what is missing (all is optional), a problem for what is broken."""
    from .weights.registry import FILES, GROUPS
    from .weights.verify import check_structure

    groups = {}
    findings = [
        Finding("note", note, "mend the file; until then its folders are not searched") for note in places.notes
    ]
    for group, keys in GROUPS.items():
        paths = {key: places.find(key) for key in keys}
        found = {key: path for key, path in paths.items() if path}
        missing = [key for key in keys if key not in found]
        groups[group] = {"complete": not missing, "found": found, "missing": [FILES[key].path for key in missing]}
        findings += check_missing(places, keys, f"weights {group} ({WEIGHTS_FOR[group]})", "note")
        for key, path in found.items():
            try:
                check_structure(path)
            except InputError as error:
                findings.append(Finding("problem", str(error), f"delete it, then: {places.fetch_command([key])}"))
    return groups, findings


def check_missing(
    places: Places, keys: Sequence[str], whose: str, level: Literal["problem", "note"] = "problem"
) -> list[Finding]:
    """One finding where any of these published files is missing, with its size and its page on the hub."""
    from .weights.registry import size_of

    missing = [key for key in keys if places.find(key) is None]
    if not missing:
        return []
    what = f"{whose}: {size_of(missing)} to download, {len(missing)} of {len(keys)} files missing in {places.models[0]}"
    return [Finding(level, what, places.fetch_command(missing), places.describe_each(missing))]


def check_job(
    config: ModelConfig, *, reference: np.ndarray | None = None, reference_pose: Poses | None = None,
    driving: Poses | None = None, size: tuple[int, int] | None = None, detector: FaceDetector | None = None,
    places: Places | None = None,
) -> list[Finding]:  # fmt: skip
    """What would spoil an animation with this model; what is None is not checked.

    reference: [H, W, 3] uint8 RGB. size: (width, height) px. detector: finds the face for models that take aligned
    faces, as in pipeline.find_face. places: where the model's files must be, if it is the published one.
    """
    findings = check_size(config, size)
    if places is not None:
        findings += check_files(config, places)
    if reference is not None:
        findings += check_reference(config, reference, reference_pose, detector)
    if driving is not None:
        findings += check_driving(config, driving, reference_pose)
    return findings


def check_size(config: ModelConfig, size: tuple[int, int] | None) -> list[Finding]:
    """A size that the model can't make is a problem, one that it was not trained at a note."""
    from .pipeline import SamplingConfig

    width, height = size or (None, None)
    try:
        made = SamplingConfig.for_model(config, width=width, height=height)
    except InputError as error:
        return [Finding.of(error)]
    if (made.width, made.height) in config.trained_sizes:
        return []
    trained = " or ".join(f"{width}x{height}" for width, height in config.trained_sizes)
    what = f"model {config.name} was not trained at {made.width}x{made.height}, expect less"
    return [Finding("note", what, f"take {trained} and scale the video afterwards")]


def check_files(config: ModelConfig, places: Places) -> list[Finding]:
    """The files of the published model."""
    from .weights import V1, V1_CONFIG

    return check_missing(places, V1, f"model {config.name}") if config == V1_CONFIG else []


def check_reference(
    config: ModelConfig, reference: np.ndarray, pose: Poses | None, detector: FaceDetector | None = None
) -> list[Finding]:
    """One person, whose face is found and large enough for the embedder."""
    from .face import locate_among, locate_in_pose

    height, width = reference.shape[:2]
    findings = []
    if pose is not None and (people := int(pose.visible()[:1].any(-1).sum())) != 1:
        who = f"{people} people" if people else "nobody"
        fix = "cut the picture to one person; else the first one is followed" if people else "give the picture's pose"
        findings.append(Finding("note" if people else "problem", f"reference: its pose shows {who}", fix))
    try:
        if detector is not None and config.face_crop == "arcface":
            faces = detector.detect(reference)
            place = locate_among(faces, (width, height), pose)
            if len(faces) > 1 and pose is None:
                what = f"reference: {len(faces)} faces found; the largest is taken"
                findings.append(Finding("note", what, "cut the picture to one person"))
        elif pose is not None:
            place = locate_in_pose(pose, (width, height), scale=config.face_scale, crop=config.face_crop)
        else:
            what = "reference: the face was not checked, its pose is missing"
            return [*findings, Finding("note", what, "give the pose of the picture")]
    except InputError as error:
        return [*findings, Finding.of(error)]
    return findings + _check_face_size(config, place)


def _check_face_size(config: ModelConfig, place: FaceBoxes) -> list[Finding]:
    side, wanted = float(place.boxes[0, 2] - place.boxes[0, 0]), config.parts["face_embedder"]["input_size"]
    if side >= wanted / 2:
        return []
    what = f"reference: the face is {side:.0f} px wide, the embedder looks at {wanted}; the likeness will be vague"
    return [Finding("note", what, "use a larger or closer picture")]


def check_driving(config: ModelConfig, driving: Poses, reference_pose: Poses | None = None) -> list[Finding]:
    """The motion: somebody is there, in every frame, alone, with a face, and can be laid over the reference."""
    from .alignment import align
    from .face import face_boxes

    people = driving.visible().any(-1)  # [F, P]
    if not people.any():
        return [Finding("problem", f"driving: no person in any of {driving.frames} frames", "give other poses")]
    findings = []
    empty = (~people.any(-1)).nonzero()[0]
    if len(empty):
        what = f"driving: nobody in {len(empty)} of {driving.frames} frames, first in frame {empty[0]}"
        findings.append(Finding("note", what, "trim the clip, or extract the poses again with longer gaps filled"))
    if (most := int(people.sum(-1).max())) > 1:
        what = f"driving: up to {most} people in a frame; alignment and face follow the first one"
        findings.append(Finding("note", what, "keep one person's poses"))
    if reference_pose is not None:  # where the faces will be counts, not where they were
        try:
            driving = align(driving, reference_pose, "svd").poses
        except InputError as error:
            findings.append(Finding.of(error))
    hidden = int((~face_boxes(driving, scale=config.face_scale, crop=config.face_crop).found).sum())
    if hidden:
        what = f"driving: {hidden} of {driving.frames} frames show no face; it is neither optimised nor scored there"
        findings.append(Finding("note", what, "use poses with face points, or a clip that looks at the camera"))
    return findings


def memory_gib() -> float | None:
    """Main memory; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def describe_system() -> dict[str, str]:
    """Versions and paths for a report."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
    }


def _opencv_to_keep(found: list[str]) -> str:
    return "opencv-contrib-python" if any("contrib" in name for name in found) else "opencv-python"


def _applies(marker: str) -> bool:
    """Whether a requirement's marker is true on this machine; without the package that reads markers, it is not."""
    if not marker:
        return True
    try:
        from packaging.markers import Marker
    except ImportError:
        return False
    return Marker(marker).evaluate()


def _is_installed(name: str) -> bool:
    return installed_version(name) is not None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
