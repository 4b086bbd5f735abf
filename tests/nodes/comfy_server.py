"""Fixtures: a real ComfyUI server on a free port, with a private base directory that links this repository as a pack.

One server serves the tests of the nodes and those in the browser, so tests/conftest.py loads this as a plugin.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from comfy_client import ComfyServer
from material import picture

from stableanimator_core.video import write_image
from stableanimator_core.weights import build_models, read_config, save_models

REPOSITORY = Path(__file__).resolve().parents[2]
PACK = "StableAnimator"
MISSING = (
    "NO COMFYUI, so the nodes were not tested: set COMFYUI_PATH to a checkout (0.3.64 or newer) whose requirements "
    "are installed here, or put one into {cache}"
)


def comfyui_folder() -> Path | None:
    """$COMFYUI_PATH, else the cache folder; None when neither is a checkout."""
    folder = Path(os.environ.get("COMFYUI_PATH") or _cache())
    return folder if (folder / "main.py").is_file() else None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stableanimator" / "ComfyUI"


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI checkout; without one the test is skipped, and the summary of all tests says why."""
    folder = comfyui_folder()
    if folder is None:
        pytest.skip(MISSING.format(cache=_cache()))
    return folder


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """What ComfyUI reads and writes: nothing of the developer's own installation.

    It holds the models "tiny" and "wide" (its faces have more numbers), and "elsewhere" in an extra model path.
    """
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir()
    (base / "custom_nodes" / PACK).symlink_to(REPOSITORY, target_is_directory=True)
    (base / "custom_nodes" / "probe").symlink_to(Path(__file__).parent / "probe", target_is_directory=True)
    shutil.copytree(tiny_model, base / "models" / "stableanimator" / "tiny")
    shutil.copytree(tiny_model, base / "other_disk" / "models" / "elsewhere")
    write_wide_model(tiny_model, base / "models" / "stableanimator" / "wide")
    (base / "extra_model_paths.yaml").write_text(f"other:\n  base_path: {base}/other_disk\n  stableanimator: models\n")
    write_image(base / "input" / "person.png", picture())
    return base


def write_wide_model(like: Path, folder: Path) -> None:
    """A model like another one whose face network gives twice as many numbers."""
    config = read_config(like)
    parts = deepcopy(config.parts)
    for part, key in (("face_embedder", "embedding_dim"), ("face_encoder", "id_embeddings_dim")):
        parts[part][key] *= 2
    save_models(build_models(replace(config, name=folder.name, parts=parts)), folder)


@pytest.fixture(scope="session")
def server(comfyui: Path, base_directory: Path):
    """A running server. Its log is in <base directory>/server.log and is shown when it does not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base_directory / "server.log"
    options = [
        "--cpu", "--port", str(port), "--base-directory", str(base_directory), "--database-url", "sqlite:///:memory:",
        "--preview-method", "latent2rgb", "--disable-api-nodes",
        "--extra-model-paths-config", str(base_directory / "extra_model_paths.yaml"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "main.py", *options], cwd=comfyui, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    running = ComfyServer(f"127.0.0.1:{port}", process, base_directory, log)
    try:
        running.wait_until_up(seconds=120)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
