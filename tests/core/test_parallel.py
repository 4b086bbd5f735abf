"""Several processes make what one makes, bit for bit, and end together when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from stableanimator_core import parallel
from stableanimator_core.errors import InputError
from stableanimator_core.hjb import smaller_note
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.keypoints import Poses
from stableanimator_core.parallel import ALONE, Processes, join_processes, own_device
from stableanimator_core.pipeline import Hooks, SamplingConfig, find_face, sample
from stableanimator_core.video import read_image, read_video
from stableanimator_core.weights import Models, load_models

DEMO = Path(parallel.__file__).parent / "assets" / "demo"
ROOT = Path(__file__).parents[2]
HJB = HJBConfig(iterations=2, first_step=1, last_step=1, lr=0.3, chunk=2)
# Frames and HJB: three context windows of the tiny model and four of faces, then one and two; adaptive HJB, of which
# frames rest at different times; and memory that runs out in the second process alone.
JOBS = {
    "long": (7, HJB),
    "short": (3, HJB),
    "adaptive": (7, replace(HJB, iterations=8, stop="adaptive", sharpest=9.0)),
    "full": (7, HJB),
}


def launch(count: int, *argv) -> subprocess.CompletedProcess:
    """Run Python with these arguments in so many processes that know of one another."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    return subprocess.run(
        [*command, *map(str, argv)], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300
    )  # fmt: skip


def sampled(
    model: Path, material: Path, frames: int, hjb: HJBConfig, processes: Processes, full: bool = False
) -> dict:  # fmt: skip
    """A clip's latents and notes, and how many windows this process ran, faces it saw and measurements it was told of.

    full: memory runs out in the first decoding with gradients.
    """
    models = load_models(model)
    reference, pose = read_image(material / "reference.png"), Poses.load(material / "reference.json")
    poses = Poses.load(material / f"{frames}.json")
    calls, told = [], []
    if full:
        run_out_once(models)
    models.unet.register_forward_hook(lambda *args: calls.append("window"))
    models.face_embedder.register_forward_hook(lambda network, given, out: calls.extend(["face"] * len(out)))
    with torch.no_grad(), patch("stableanimator_core.hjb.RISE", 1e-5):  # what random networks rise by
        face = find_face(models, reference, pose)
        calls.clear()
        made = sample(
            models, reference, poses, face, SamplingConfig.for_model(models.config), hjb, processes=processes,
            hooks=Hooks(on_identity=lambda likeness: told.append(likeness._replace(faces=likeness.faces.tolist()))),
            measure=True,
        )  # fmt: skip
    return {
        "latents": made.latents, "notes": made.notes, "windows": calls.count("window"), "faces": calls.count("face"),
        "told": [(like.step, like.iteration, like.csim.tolist(), like.faces, like.frames) for like in told],
    }  # fmt: skip


def run_out_once(models: Models) -> None:
    decode, waiting = models.vae.decode, [True]

    def limited(*given, **how):
        if waiting and torch.is_grad_enabled():
            waiting.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*given, **how)

    models.vae.decode = limited


WORKER = """
import sys
from pathlib import Path
import torch
from stableanimator_core.parallel import join_processes
from test_parallel import JOBS, sampled

torch.set_num_threads(1)
model, folder = map(Path, sys.argv[1:])
with join_processes("cpu") as (processes, device):
    for name, (frames, hjb) in JOBS.items():
        full = name == "full" and processes.rank == 1
        torch.save(sampled(model, folder, frames, hjb, processes, full), folder / f"{name}-{processes.rank}.pt")
    assert processes.told(processes.rank) == [0, 1, 2]
    said = processes.from_first(lambda: f"made by {processes.rank}")
    print("said", processes.rank, said, device)
"""


@pytest.mark.slow
def test_three_processes_sample_what_one_samples(tiny_model, material, stick_figure, tmp_path):
    """Latents, and what is told of the faces, are equal bit for bit; windows of both kinds are shared."""
    for frames, _ in JOBS.values():
        (material / f"{frames}.json").write_text(json.dumps(stick_figure(frames, step=1)))
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    done = launch(3, script, tiny_model, material)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["said 0 made by 0 cpu"], "the others are silent"
    for name, (frames, hjb) in JOBS.items():
        whole = sampled(tiny_model, material, frames, hjb, ALONE, full=name == "full")
        parts = [torch.load(material / f"{name}-{rank}.pt") for rank in range(3)]
        assert all(part["latents"].equal(whole["latents"]) for part in parts), name
        assert repr(parts[0]["told"]) == repr(whole["told"]) and whole["told"], "NaN, too"
        assert not parts[1]["told"] and not parts[2]["told"], "the first one alone tells"
        windows, faces = ([part[kind] for part in parts] for kind in ("windows", "faces"))
        assert sum(windows) == whole["windows"]
        assert max(windows) - min(windows) == (0 if frames == 7 else whole["windows"])
        if name == "full":
            assert all(part["notes"][-1] == smaller_note(1) for part in parts), "all went down, and say so"
        else:
            assert sum(faces) == whole["faces"] and max(faces) < 0.75 * whole["faces"]
        if name == "adaptive":
            rounds = [iteration for step, iteration, *_ in whole["told"] if step == 1]
            assert 2 < max(rounds) < 8 and whole["faces"] < 7 * (len(rounds) + 1), "frames came to rest"


@pytest.mark.slow
def test_two_processes_animate_as_one(two_processes, tmp_path):
    """The built-in model on 40 frames: the same pictures, written and told of once."""
    motion = json.loads((DEMO / "driving.json").read_text())
    (tmp_path / "driving.json").write_text(json.dumps((motion + motion[::-1] + motion)[:40]))
    argv = ["animate", "--reference", DEMO / "reference.png", "--driving", tmp_path / "driving.json", "--size", "64x64"]
    argv += ["--steps", 2, "--hjb-steps", "0:0", "--hjb-iterations", 1, "--device", "cpu", "--json", "--out"]
    told = json.loads(two_processes(*argv, tmp_path / "two.png"))
    assert told["frames"] == 40
    alone = subprocess.run(
        [sys.executable, "-m", "stableanimator_core", *map(str, argv), str(tmp_path / "one.png")], cwd=ROOT, text=True,
        capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    np.testing.assert_array_equal(read_video(tmp_path / "two")[0], read_video(tmp_path / "one")[0])
    assert told["csim"] == json.loads(alone.stdout)["csim"]


@pytest.mark.parametrize(
    "picture, message",
    [("missing.png", "missing.png does not exist"), ("driving.json", "driving.json is not a picture")],
)
def test_what_all_processes_find_wrong_is_said_once(material, tiny_model, picture, message):
    argv = ["animate", "--model", tiny_model, "--reference", material / picture]
    argv += ["--driving", material / "driving.json", "--out", material / "out.mp4"]
    done = launch(2, "-m", "stableanimator_core", *argv)
    assert done.returncode != 0
    assert done.stderr.count("stableanimator_core: ") == 1
    assert message in done.stderr


FAILING = """
import sys
import torch
from stableanimator_core import cli, parallel
from stableanimator_core.cli import animate
from stableanimator_core.errors import InputError

parallel.GRACE = 1.0

def broken(args, report, processes):
    if not processes.first:
        raise InputError("the second one's GPU is away")
    return processes.gather(torch.ones(2))  # waits for a process that won't come

animate._animate = broken
raise SystemExit(cli.main(["animate", "--reference", __file__, "--driving", __file__, "--out", "c.mp4"]))
"""


def test_what_one_process_finds_wrong_ends_all(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    done = launch(2, script)
    assert done.returncode != 0
    assert done.stderr.count("stableanimator_core: ") == 1
    assert "stableanimator_core: the second one's GPU is away" in done.stderr


# --- one process alone ----------------------------------------------------------------------------------------------


def test_alone_nothing_is_shared_or_copied():
    table, asked = torch.ones(2), []
    assert ALONE.first and ALONE.mine([1, 2, 3]) == [1, 2, 3]
    assert ALONE.gather(table) is table
    assert ALONE.from_first(lambda: asked.append(1) or table) is table and asked == [1]
    assert ALONE.told(3) == [3]


def test_items_are_dealt_out():
    items = list(range(7))
    for count in (2, 3, 9):
        shares = [Processes(rank, count).mine(items) for rank in range(count)]
        assert sorted(sum(shares, [])) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_launcher_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("auto") as (processes, device):
        assert processes is ALONE and device == "auto"
    assert not torch.distributed.is_initialized()


def test_one_process_of_a_launcher_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_processes("cpu") as (processes, _):
        assert processes is ALONE


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [own_device("auto", number) for number in range(2)] == ["cuda:0", "cuda:1"]
    assert own_device("cuda", 1) == "cuda:1" and own_device("cpu", 5) == "cpu"
    with pytest.raises(InputError, match="process 2 of this host finds 2 GPUs: launch --num_processes 2"):
        own_device("auto", 2)
    for device in ("cuda:1", "mps"):
        with pytest.raises(InputError, match=f"device '{device}' for several processes: give auto, cuda"):
            own_device(device, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device("auto", 1) == "cpu"
