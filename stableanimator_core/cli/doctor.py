"""`doctor`: what is installed, found and missing, and the exact command that mends it."""

import argparse
import importlib
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from .. import __version__
from .arguments import add_json
from .report import Report

PACK = Path(__file__).resolve().parents[2]
REQUIREMENTS = PACK / "requirements.txt"
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
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
}
ON_TORCH = ("diffusers", "transformers", "accelerate")  # they fail with a torch that fails


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="what is installed, found, missing, and the exact fix")
    add_json(parser)
    parser.set_defaults(run=doctor_command)


def doctor_command(args: argparse.Namespace, report: Report) -> dict:
    """Examine this installation. A finding is no failure: the exit status is 0, `ok` tells."""
    problems: list[dict[str, str]] = []
    packages = check_packages(REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.is_file() else "", problems)
    check_opencv(problems)
    device = check_device(problems)
    check_imports(problems, torch=device["torch"] is not None)
    check_encoder(problems)
    models = check_models(problems)
    result = {
        "ok": not problems,
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "device": device,
        "memory_gib": memory_gib(),
        "packages": packages,
        "models": models,
        "problems": problems,
    }
    _print(result, report)
    return result


def check_packages(requirements: str, problems: list[dict[str, str]]) -> dict[str, str | None]:
    """Installed version of everything in a requirements text (None: missing); appends what is missing or too old."""
    found: dict[str, str | None] = {}
    fix = f'"{sys.executable}" -m pip install -r "{REQUIREMENTS}"'
    for line in requirements.splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)\s*(?:>=\s*([\d.]+))?", line.partition("#")[0].strip())
        if not match:
            continue
        name, wanted = match.groups()
        found[name] = installed = installed_version(name)
        if installed is None:
            problems.append({"what": f"{name} is not installed", "fix": fix})
        elif wanted and _numbers(installed) < _numbers(wanted):
            problems.append({"what": f"{name} {installed} is installed, {wanted} or later is needed", "fix": fix})
    return found


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None when it is not there. cv2 comes from any of the OpenCV variants."""
    for candidate in OPENCV if name == "opencv-python" else (name,):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_opencv(problems: list[dict[str, str]]) -> None:
    """Several OpenCV variants overwrite one another's cv2 folder."""
    variants = [name for name in OPENCV if _is_installed(name)]
    if len(variants) > 1:
        pip = f'"{sys.executable}" -m pip'
        keep = "opencv-contrib-python" if any("contrib" in name for name in variants) else "opencv-python"
        problems.append(
            {
                "what": f"{' and '.join(variants)} are installed over one another; cv2 may break at the next update",
                "fix": f"{pip} uninstall -y {' '.join(variants)} && {pip} install {keep}",
            }
        )


def check_imports(problems: list[dict[str, str]], *, torch: bool = True) -> None:
    """Import everything but torch (see check_device); appends what is installed and yet fails.

    torch: whether it works; without it the packages built on it are not tried.
    """
    pip = f'"{sys.executable}" -m pip install --force-reinstall --no-deps'
    for module, package in MODULES.items():
        if module in ON_TORCH and not torch:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package raises anything
            if isinstance(error, ModuleNotFoundError) and any(
                problem["what"] == f"{package} is not installed" for problem in problems
            ):
                continue
            variant = next((name for name in OPENCV if _is_installed(name)), package) if module == "cv2" else package
            fix = f"{pip} {variant}"
            if "libGL" in str(error):
                fix = "install the system's OpenGL library, on Debian and Ubuntu: sudo apt-get install libgl1"
            problems.append({"what": f"{package} cannot be imported ({_one_line(error)})", "fix": fix})


def check_device(problems: list[dict[str, str]]) -> dict:
    """What torch can compute on; a machine with an NVIDIA GPU and a torch without CUDA is a problem."""
    try:
        import torch
    except Exception as error:  # a broken package raises anything
        problems.append(
            {
                "what": f"torch cannot be imported ({_one_line(error)})",
                "fix": f'"{sys.executable}" -m pip install --force-reinstall torch torchvision torchaudio',
            }
        )
        return {"name": None, "torch": None}
    if torch.cuda.is_available():
        try:
            free, total = torch.cuda.mem_get_info()
        except RuntimeError as error:
            fix = "update the NVIDIA driver; until then: --device cpu"
            problems.append({"what": f"the GPU does not answer ({_one_line(error)})", "fix": fix})
            return {"name": "cpu", "torch": torch.__version__}
        return {
            "name": "cuda",
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory_gib": round(total / GIB, 1),
            "gpu_memory_free_gib": round(free / GIB, 1),
        }
    if shutil.which("nvidia-smi"):
        what = "sees no GPU: the driver is too old for it" if torch.version.cuda else "is a CPU build"
        problems.append(
            {
                "what": f"this machine has an NVIDIA driver, but torch {torch.__version__} {what}",
                "fix": "update the NVIDIA driver"
                if torch.version.cuda
                else "install the CUDA build of torch: https://pytorch.org/get-started/locally/",
            }
        )
    return {"name": "mps" if torch.backends.mps.is_available() else "cpu", "torch": torch.__version__}


def check_encoder(problems: list[dict[str, str]]) -> None:
    """H.264 is what `--out name.mp4` needs."""
    try:
        import av

        codecs = av.codecs_available
    except Exception:  # named by check_packages or check_imports
        return
    if "libx264" not in codecs:
        fix = f'"{sys.executable}" -m pip install --force-reinstall --only-binary=av av'
        problems.append({"what": "PyAV has no H.264 encoder, so .mp4 cannot be written", "fix": fix})


def check_models(problems: list[dict[str, str]]) -> dict[str, dict]:
    """The built-in models: every part present and readable."""
    try:
        from ..weights import BUILT_IN, find_model, read_config, read_part
    except Exception as error:  # a broken package raises anything
        what = f"the models cannot be examined ({_one_line(error)})"
        fix = "first mend what is named above, then run doctor again" if problems else "install the pack again"
        problems.append({"what": what, "fix": fix})
        return {}
    models = {}
    for name, folder in BUILT_IN.items():
        models[name] = {"folder": str(folder), "ok": True}
        try:
            config = read_config(find_model(name))
            for part in config.parts:
                read_part(folder, part)
        except Exception as error:  # an InputError, or whatever a broken package raises
            models[name]["ok"] = False
            fix = f'restore it: git -C "{PACK}" checkout -- "{folder}", or install the pack again'
            problems.append({"what": f"model {name}: {_one_line(error)}", "fix": fix})
    return models


def memory_gib() -> float | None:
    """Main memory; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _print(result: dict, report: Report) -> None:
    device = result["device"]
    report.line(f"StableAnimator++ {result['version']}, Python {result['python']}, {result['platform']}")
    computes = device["name"] or "nothing: torch is missing"
    if "gpu" in device:
        computes += f" ({device['gpu']}, {device['gpu_memory_free_gib']} of {device['gpu_memory_gib']} GiB free)"
    memory = f", {result['memory_gib']} GiB of main memory" if result["memory_gib"] else ""
    report.line(f"computes on {computes}{memory}")
    packages = (f"{name} {version or 'MISSING'}" for name, version in result["packages"].items())
    report.line(f"packages: {', '.join(packages)}")
    for name, model in result["models"].items():
        report.line(f"model {name}: {'complete' if model['ok'] else 'NOT USABLE'} in {model['folder']}")
    for problem in result["problems"]:
        report.line(f"PROBLEM: {problem['what']}")
        report.line(f"    fix: {problem['fix']}")
    if result["ok"]:
        report.line("everything that is needed is here; try: python -m stableanimator_core demo")
