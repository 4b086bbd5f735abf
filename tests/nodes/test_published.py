"""The published files in ComfyUI: listed, missing, and, with small networks in their places, the shipped workflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfy_client import graph_to_prompt
from material import extract, prompt
from onnx_graphs import draw_person, save_keypoint_network, save_person_detector, spread_joints
from safetensors.torch import save_file

from stableanimator_core.video import read_image, read_video, write_image
from stableanimator_core.weights import load_models

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "published weights.json"
FRAMES, SIDE = 5, 480  # px of picture and video
BOX = np.array([90, 30, 390, 450])  # px, of the drawn person


def drawn_joints(box: np.ndarray) -> np.ndarray:
    """133 dots in a box (x0 y0 x1 y1 px), those of eyes, nose and mouth as in a face that looks at the camera."""
    joints = spread_joints(box)
    cell = (box[2:] - box[:2]) / (10, 14)
    wanted = {30: (5, 5), 48: (3, 7), 54: (7, 7)}
    wanted |= {36 + i: (2 + i % 3, 2 + i // 3) for i in range(6)}
    wanted |= {42 + i: (6 + i % 3, 2 + i // 3) for i in range(6)}
    for point, place in wanted.items():  # swap places, so that no two dots meet
        joint = 23 + point
        target = (box[:2] + (np.array(place) + 0.5) * cell).round()
        other = int(np.abs(joints - target).sum(1).argmin())
        joints[[joint, other]] = joints[[other, joint]]
    return joints


def picture_of(box: np.ndarray) -> np.ndarray:
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    draw_person(frame, box, drawn_joints(box))
    return frame


def write_exact_video(path: Path, frames: list[np.ndarray]) -> None:
    """H.264 that keeps every colour, as the keypoint network goes by them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def published(server, tiny_model):
    """Small networks in the published layout, a picture and a video in which a person can be found."""
    root = server.base / "models" / "stableanimator"
    models = load_models(tiny_model)
    (root / "Animation").mkdir()
    files = {"unet": "unet", "pose_net": "pose_net", "face_encoder": "face_encoder", "face_embedder": "glintr100_torch"}
    for part, name in files.items():
        torch.save(models.parts()[part].state_dict(), root / "Animation" / f"{name}.pth")
    for part, name in {"vae": "diffusion_pytorch_model", "image_encoder": "model"}.items():
        (root / "SVD" / part).mkdir(parents=True)
        state = {key: tensor.contiguous() for key, tensor in models.parts()[part].state_dict().items()}
        save_file(state, root / "SVD" / part / f"{name}.safetensors")
    (root / "DWPose").mkdir()
    save_person_detector(root / "DWPose" / "yolox_l.onnx", size=(320, 320))
    save_keypoint_network(root / "DWPose" / "dw-ll_ucoco_384.onnx")
    write_image(server.base / "input" / "drawn.png", picture_of(BOX))
    moved = [picture_of(BOX + np.array([10, 0, 10, 0]) * f) for f in range(FRAMES)]
    write_exact_video(server.base / "input" / "drawn.mp4", moved)
    status, _ = server.post("/probe/shrink_v1", {"model": str(tiny_model)})
    assert status == 200
    yield root
    server.post("/probe/shrink_v1", {"model": None})
    for folder in ("Animation", "SVD", "DWPose"):
        shutil.rmtree(root / folder)


def tooltip(server) -> str:
    return server.get("/object_info")["StableAnimatorLoadModel"]["input"]["required"]["model"][1]["tooltip"]


def test_the_menu_says_what_is_missing(server):
    assert "6 of its 6 files are missing (9.61 GB to download)" in tooltip(server)


def test_the_menu_says_that_all_is_there(server, published):
    assert "all its files are here" in tooltip(server)


def test_poses_of_a_picture(server, published):
    nodes = {
        "image": {"class_type": "LoadImage", "inputs": {"image": "drawn.png"}},
        "extract": extract(["image", 0], smooth=0.0),
        "draw": {"class_type": "StableAnimatorDrawPoses", "inputs": {"poses": ["extract", 0], "width": 0, "height": 0}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["draw", 0], "filename_prefix": "pose"}},
    }
    run = server.run(nodes)
    assert run.succeeded, run.error
    (path,) = server.saved(run)
    drawn = read_image(path)
    joints = drawn_joints(BOX).round().astype(int)
    nose, right_shoulder = joints[0], joints[6]  # COCO-WholeBody's order
    for x, y in (nose, right_shoulder):
        assert drawn[y - 2 : y + 3, x - 2 : x + 3].max() > 100, "no joint where the dot is"
    assert drawn[:, : BOX[0] - 20].max() == 0


def test_nobody_in_the_picture(server, published):
    nodes = prompt()
    nodes["extract"] = extract(["image", 0])
    nodes["align"]["inputs"]["driving"] = ["extract", 0]
    error = server.run(nodes).error
    assert error["node_id"] == "extract" and "nobody found in the picture" in error["exception_message"]


def test_shipped_workflow_runs_to_a_video(server, published):
    nodes = graph_to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
    given = {
        "LoadImage": {"image": "drawn.png"},
        "LoadVideo": {"file": "drawn.mp4"},
        "StableAnimatorSample": {"steps": 2},
    }
    for node in nodes.values():
        node["inputs"] |= given.get(node["class_type"], {})
    run = server.run(nodes, seconds=300)
    assert run.succeeded, run.error
    assert any(text.startswith("face found through the pose") for text in run.notes), run.notes
    (video,) = [path for path in server.saved(run) if path.suffix == ".mp4"]
    frames, fps = read_video(video)
    assert frames.shape == (FRAMES, 64, 64, 3) and fps == 10
    assert (published / "Animation" / "unet.safetensors").is_file(), "pickles are read once"
