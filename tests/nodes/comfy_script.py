"""Runs a script inside ComfyUI's own modules, with this repository as a pack and without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
import utils.install_util  # before anything else that is called utils, as main.py does
from comfy.cli_args import args
pack, folder, device = sys.argv[1:]
args.cpu = device == "cpu"
import torch

spec = spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
from comfy import model_management
from pack.nodes.patchers import AnimatorModel
from pack.stableanimator_core.weights import load_models
"""


def run_in(comfyui: Path, script: str, model: Path | str, device: str = "cpu") -> None:
    """Run a script that prints "done" in the end, in ComfyUI's folder; `folder` in it is the model."""
    command = [sys.executable, "-c", START + script, str(REPOSITORY), str(model), device]
    result = subprocess.run(command, cwd=comfyui, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "done" in result.stdout, result.stderr[-3000:]
