"""Whole runs on a real server: the shipped workflow, progress, previews, cancelling, memory."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_client import graph_to_prompt
from material import literal, picture, prompt, standing
from safetensors.torch import load_file

from stableanimator_core.alignment import FITS, METHODS
from stableanimator_core.pipeline import to_uint8
from stableanimator_core.pose.overlay import DIMMED, REFERENCE, RESULT
from stableanimator_core.video import read_image, read_video
from stableanimator_core.weights import BUILT_IN, load_models, read_config

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
SHIPPED = sorted(WORKFLOWS.glob("*.json"))
SIZE = 64  # px, of the tiny model


def test_run_yields_one_picture_per_frame_at_the_models_size(server):
    run = server.run(prompt(frames=5))
    assert run.succeeded, run.error
    pictures = [read_image(path) for path in server.saved(run)]
    assert [p.shape for p in pictures] == [(SIZE, SIZE, 3)] * 5
    assert np.ptp(pictures[0]) > 0, "the picture is blank"


def test_size_and_length_follow_the_widgets(server):
    run = server.run(prompt(frames=11, steps=1, width=96, height=128, context_frames=6, context_overlap=2))
    assert run.succeeded, run.error
    assert [read_image(path).shape for path in server.saved(run)] == [(128, 96, 3)] * 11
    assert any("trained at 64x64; at 96x128 expect less" in text for text in run.notes)


def test_a_missing_side_follows_from_the_pictures_shape(server):
    nodes = prompt(frames=2, steps=1, width=128)
    nodes["image"] = {"class_type": "ImageCrop", "inputs": {
        "image": ["whole", 0], "width": 128, "height": 96, "x": 0, "y": 0,
    }}  # fmt: skip
    nodes["whole"] = {"class_type": "LoadImage", "inputs": {"image": "person.png"}}
    nodes["drawn"] = {
        "class_type": "StableAnimatorDrawPoses",
        "inputs": {"poses": literal(standing(2)), "model": ["load", 0], "width": 0, "height": 64},
    }
    nodes["skeletons"] = {"class_type": "PreviewImage", "inputs": {"images": ["drawn", 0]}}
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert [read_image(path).shape for path in server.saved(run)] == [(96, 128, 3)] * 2
    assert "size 128x96: the height follows from the picture's shape" in run.notes
    assert [read_image(path).shape for path in server.shown(run, "skeletons")] == [(64, 64, 3)] * 2
    assert "size 64x64: the width follows from the picture's shape" in run.notes


def test_same_seed_same_video_other_seed_another(server):
    frames = []
    for seed in (7, 8, 7):
        again = prompt(frames=2, steps=2, seed=seed, driving=standing(2, sway=float(len(frames)) * 1e-9))
        frames.append(read_image(server.saved(server.run(again))[0]).astype(int))
    assert abs(frames[0] - frames[2]).max() == 0
    assert abs(frames[0] - frames[1]).max() > 0


def test_progress_and_previews_arrive(server):
    nodes = prompt(frames=3, steps=4, seed=11, hjb={"iterations": 3, "first_step": 1, "last_step": 2})
    nodes["load"]["inputs"]["dtype"] = "fp32"  # not what other tests left in ComfyUI's cache
    run = server.run(nodes)
    assert run.succeeded, run.error
    sampling = [data for data in run.of("progress") if data["node"] == "sample"]
    assert [data["value"] for data in sampling] == list(range(1, 11)), "4 steps and 2 x 3 iterations, one by one"
    assert {data["max"] for data in sampling} == {10}
    assert len(run.previews) == 4
    decoding = [data["value"] for data in run.of("progress") if data["node"] == "decode"]
    assert decoding[-1] == 3
    assert any(text.startswith("face found") for text in run.notes)


def align_prompt(frames: int, **given) -> dict:
    """Align Poses alone, its overlay saved."""
    inputs = {"driving": literal(standing(frames)), "reference": literal(standing(1)), "method": "svd", "fit": "clip"}
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": "person.png"}},
        "align": {"class_type": "StableAnimatorAlignPoses", "inputs": inputs | given},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["align", 1], "filename_prefix": "overlay"}},
    }


def test_align_poses_shows_what_it_did(server):
    run = server.run(align_prompt(5, picture=["image", 0]))
    assert run.succeeded, run.error
    overlay = [read_image(path) for path in server.saved(run)]
    assert len(overlay) == 5 and overlay[0].shape[1] == 512 < overlay[0].shape[0]
    assert all((frame == colour).all(-1).any() for frame in overlay for colour in (REFERENCE, RESULT))
    assert "images" not in run.outputs["align"], "the page has the view, and pictures below it would take its room"
    blue = (np.array(picture()[2, 2]) * DIMMED).astype(int)
    assert abs(overlay[0][2, 2].astype(int) - blue).max() <= 1, "the picture lies below"


@pytest.mark.parametrize(("method", "fit"), [("svd", fit) for fit in FITS] + [(method, "clip") for method in METHODS])
def test_align_poses_runs_with_every_method_and_fit(server, method, fit):
    run = server.run(align_prompt(6, method=method, fit=fit, driving=literal(standing(6, sway=9.0))))
    assert run.succeeded, run.error


def test_align_poses_runs_alone_and_says_in_words_how_good_the_fit_should_be(server):
    nodes = align_prompt(3, method="learned")
    del nodes["save"], nodes["image"]
    runs = [server.run(nodes) for _ in range(2)]
    texts = [data["output"]["text"] for run in runs for data in run.of("executed") if data["node"] == "align"]
    assert len(texts) == 2 and texts[0] == texts[1]
    first, *others = texts[0][0].split("\n")
    assert re.fullmatch(r"expected fit: \w+, off by about \d+ % of the body's height", first)
    assert not any(re.search(r"px|%", line) for line in others), "one number, and what it means"


def test_a_picture_that_is_not_the_references_is_noted(server):
    wide = standing(1).fitted(256, 128)
    run = server.run(align_prompt(2, picture=["image", 0], reference=literal(wide)))
    assert "the picture is 128x128, the reference pose's canvas 256x128" in run.outputs["align"]["text"][0]


def test_face_optimisation_reaches_the_face_and_its_switches_work(server):
    plain = server.run(prompt(frames=2, steps=3, seed=5, hjb={"enabled": False, "last_step": 2}))
    nothing = server.run(prompt(frames=2, steps=3, seed=5, hjb={"iterations": 0, "last_step": 2}))
    refined = server.run(prompt(frames=2, steps=3, seed=5, hjb={"iterations": 4, "last_step": 2}))
    first = [read_image(server.saved(run)[0]).astype(int) for run in (plain, nothing, refined)]
    assert abs(first[0] - first[1]).max() == 0
    assert abs(first[0] - first[2]).max() > 0


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_runs_with_face_optimisation(server, dtype):
    nodes = prompt(frames=2, seed=9)
    nodes["load"]["inputs"]["dtype"] = dtype
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert np.ptp(read_image(server.saved(run)[0])) > 0


def test_minus_one_is_the_models_own_setting(server):
    own = {"iterations": -1, "first_step": -1, "last_step": -1, "learning_rate": -1}
    runs = [server.run(prompt(frames=2, seed=6)), server.run(prompt(frames=2, seed=6, hjb=own))]
    first = [read_image(server.saved(run)[0]).astype(int) for run in runs]
    assert abs(first[0] - first[1]).max() == 0


def test_identity_path_is_off_without_a_face(server):
    run = server.run(prompt(frames=2, steps=2, face=None))
    assert run.succeeded, run.error
    assert len(server.saved(run)) == 2
    assert {data["max"] for data in run.of("progress") if data["node"] == "sample"} == {2}, "no HJB rounds to wait for"


def test_drawn_poses_may_be_handed_to_sample(server):
    nodes = prompt(frames=2, steps=1, seed=3, pose_images=["draw", 0])
    nodes["draw"] = {
        "class_type": "StableAnimatorDrawPoses",
        "inputs": {"poses": ["align", 0], "model": ["load", 0], "width": 0, "height": 0},
    }
    handed = server.run(nodes)
    assert handed.succeeded, handed.error
    drawn = server.run(prompt(frames=2, steps=1, seed=3))
    pair = [read_image(server.saved(run)[0]).astype(int) for run in (handed, drawn)]
    assert abs(pair[0] - pair[1]).max() == 0, "the pictures are those that Sample draws itself"


def test_latent_is_scaled_as_core_vae_nodes_expect_it(server, tiny_model):
    nodes = prompt(frames=2, steps=1)
    nodes["save_latent"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "l"}}
    run = server.run(nodes)
    assert run.succeeded, run.error
    (path,) = (server.base / "output").glob("l_*.latent")
    samples = load_file(path)["latent_tensor"]
    assert samples.shape == (2, 4, SIZE // 8, SIZE // 8)
    with torch.no_grad():
        decoded = load_models(tiny_model).vae.decode(samples, num_frames=2).sample  # as it is, nothing multiplied
    pictures = np.stack([read_image(path) for path in server.saved(run)])
    assert abs(to_uint8(decoded).astype(int) - pictures).max() <= 1


@pytest.mark.parametrize("where", ["step", "iteration"])
def test_interrupt_takes_effect_within_a_step_and_the_next_run_works(server, where):
    hjb = {"enabled": where == "iteration", "iterations": 100, "first_step": 0, "last_step": 199}
    after = []

    def cancel(kind: str, data: dict) -> None:
        if kind == "progress" and data["node"] == "sample":
            if data["value"] == 5:
                server.interrupt()
            after.append(data["value"])

    start = time.monotonic()
    run = server.run(prompt(frames=4, steps=200, seed=21, hjb=hjb), on_event=cancel)
    assert run.of("execution_interrupted") and not run.succeeded
    assert not any(data.get("failed") for data in run.of("stableanimator.text")), "a cancel is no failure"
    assert max(after) <= 8, f"went on to {max(after)} after a cancel at 5"
    assert time.monotonic() - start < 60
    assert server.run(prompt(frames=2, steps=1, seed=22)).succeeded


def test_memory_comes_back_when_freed(server):
    server.run(prompt(frames=4, seed=31))
    loaded = server.get("/probe/models")
    assert loaded["loaded"].count("StableAnimatorNetworks") == 3 == loaded["alive"]
    sizes = []
    for seed in (32, 33, 34):
        assert server.run(prompt(frames=4, seed=seed)).succeeded
        server.free()
        assert server.get("/probe/models") == {"loaded": [], "alive": 0}
        sizes.append(server.resident_mib())
    assert sizes[2] - sizes[0] < 30, f"resident memory grows: {sizes} MiB"


def test_built_in_workflow_runs_to_a_video(server):
    path = WORKFLOWS / "built-in quick start.json"
    nodes = graph_to_prompt(json.loads(path.read_text(encoding="utf-8")), server.get("/object_info"))
    for node in nodes.values():  # the rest as it ships: the built-in model, its example, its face optimisation
        shorter = {"StableAnimatorExample": {"frames": 6}, "StableAnimatorSample": {"steps": 3}}
        node["inputs"] |= shorter.get(node["class_type"], {})
    run = server.run(nodes, seconds=300)
    assert run.succeeded, run.error
    config = read_config(BUILT_IN["mini"])
    (video,) = [path for path in server.saved(run) if path.suffix == ".mp4"]
    frames, fps = read_video(video)
    assert frames.shape == (6, config.height, config.width, 3) and fps == config.fps


def test_every_workflow_has_a_thumbnail():
    assert SHIPPED
    assert [path.with_suffix(".jpg").is_file() for path in SHIPPED] == [True] * len(SHIPPED)


def test_a_missing_side_is_never_absurd(server):
    banner = replace(standing(1), width=1280)
    nodes = {
        "drawn": {
            "class_type": "StableAnimatorDrawPoses", "inputs": {"poses": literal(banner), "width": 64, "height": 0},
        },
        "skeletons": {"class_type": "PreviewImage", "inputs": {"images": ["drawn", 0]}},
    }  # fmt: skip
    run = server.run(nodes)
    assert [read_image(path).shape for path in server.shown(run, "skeletons")] == [(32, 64, 3)]
    assert "size 64x32: the height follows from the picture's shape, 2 to 1 at most: the rest is cut off" in run.notes
