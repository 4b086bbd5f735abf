"""What all tests share: skips that are seen, one thread, a tiny model and a stick figure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only get in one another's way
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the network is a mistake
os.environ.pop("HF_ENDPOINT", None)  # the pages of files are the hub's
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: then kernels run on the CPU

pytest_plugins = ["comfy_server"]  # of tests/nodes

CROSS, PLAIN = "CrossAttn{}BlockSpatioTemporal", "{}BlockSpatioTemporal"

# nose, neck, right shoulder, elbow, wrist, left ..., right hip, knee, ankle, left ..., eyes, ears: in 0..1
STANDING = np.array(
    [(0.50, 0.20), (0.50, 0.32), (0.40, 0.33), (0.34, 0.45), (0.30, 0.55), (0.60, 0.33), (0.66, 0.45), (0.70, 0.55),
     (0.44, 0.58), (0.43, 0.74), (0.42, 0.92), (0.56, 0.58), (0.57, 0.74), (0.58, 0.92),
     (0.46, 0.17), (0.54, 0.17), (0.41, 0.19), (0.59, 0.19)]
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests are named with their reasons: a green run must not hide them."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons: dict[str, int] = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    terminalreporter.section(f"{len(skipped)} TESTS WERE SKIPPED", sep="!", yellow=True, bold=True)
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count:4d} x {reason}", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def two_processes() -> Callable[..., str]:
    """Runs the command line in two processes that talk to each other, and returns what was printed."""

    def run(*argv) -> str:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [*launch, "-m", "stableanimator_core", *map(str, argv)], cwd=Path(__file__).parents[1], text=True,
            capture_output=True, timeout=300, env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def tiny_config():
    """A model configuration whose networks are as small as their classes allow."""
    from stableanimator_core.weights import ModelConfig

    embedder = {"layers": [1] * 4, "widths": [8] * 4, "embedding_dim": 16, "input_size": 32, "head": "depthwise"}
    return ModelConfig(
        name="tiny", description="random weights, for tests", width=64, height=64, size_multiple=32, pose_canvas=128,
        face_scale=1.5, context_window=4, context_overlap=2, fps=7, motion_bucket=127, noise_augmentation=0.02,
        sigma_min=0.02, sigma_max=80.0, steps=2, guidance=(1.5, 1.5),
        hjb={"iterations": 1, "first_step": 1, "last_step": 1, "lr": 0.1},
        parts={
            "unet": {
                "sample_size": 8, "in_channels": 8, "out_channels": 4,
                "down_block_types": [CROSS.format("Down"), CROSS.format("Down"), PLAIN.format("Down")],
                "up_block_types": [PLAIN.format("Up"), CROSS.format("Up"), CROSS.format("Up")],
                "block_out_channels": [32, 32, 32], "addition_time_embed_dim": 32,
                "projection_class_embeddings_input_dim": 96, "layers_per_block": 1, "cross_attention_dim": 64,
                "num_attention_heads": [1, 1, 1], "num_frames": 4,
            },
            "pose_net": {"noise_latent_channels": 32},
            "face_encoder": {"cross_attention_dim": 64, "id_embeddings_dim": 16, "clip_embeddings_dim": 64},
            "face_embedder": embedder,
            "face_judge": embedder | {"widths": [8, 8, 8, 16]},
            "vae": {
                "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * 4,
                "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "latent_channels": 4, "sample_size": 64,
            },
            "image_encoder": {
                "hidden_size": 32, "intermediate_size": 64, "projection_dim": 64, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            },
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    import torch

    from stableanimator_core.weights import build_models, save_models

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_models(build_models(tiny_config()), folder)
    return folder


def figure_frames(frames: int = 1, width: int = 64, height: int = 64, *, step: float = 0.0) -> list[dict]:
    """POSE_KEYPOINT frames of somebody standing who moves `step` px to the right a frame."""
    body = STANDING * (width, height)
    return [
        {
            "canvas_width": width,
            "canvas_height": height,
            "people": [
                {"pose_keypoints_2d": np.column_stack([body + (step * f, 0), np.ones(18)]).ravel().tolist()},
            ],
        }
        for f in range(frames)
    ]


@pytest.fixture
def stick_figure() -> Callable[..., list[dict]]:
    """figure_frames, for tests that need other frames than those of `material`."""
    return figure_frames


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A folder with reference.png, reference.json (its pose) and driving.json (three frames)."""
    from PIL import Image

    gradient = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(gradient[:, None], gradient[None], np.uint8(128)), axis=-1)
    Image.fromarray(picture).save(tmp_path / "reference.png")
    (tmp_path / "reference.json").write_text(json.dumps(figure_frames()))
    (tmp_path / "driving.json").write_text(json.dumps(figure_frames(3, step=2)))
    return tmp_path
