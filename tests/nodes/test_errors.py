"""What the artist does wrong comes back as one line that says what to do."""

from __future__ import annotations

import pytest
from material import CANVAS, extract, literal, prompt, standing


def message_of(server, nodes: dict) -> tuple[str, str]:
    """Node and message of a run that must fail, which the page is told, too."""
    run = server.run(nodes)
    assert run.error is not None, "expected an error"
    assert "errors." in run.error["exception_type"], "not one of the core's own errors"
    assert len(run.error["traceback"]) < 8
    node, message = run.error["node_id"], run.error["exception_message"].strip()
    (told,) = [data for data in run.of("stableanimator.text") if data.get("failed")]
    assert (told["node"], told["text"]) == (node, f"PROBLEM: {message}")
    return node, message


CASES = {
    "empty poses": (dict(driving=[]), "align", "holds no frame"),
    "not poses": (dict(driving=[{"people": "x", "canvas_width": 8, "canvas_height": 8}]), "align", "expected a list"),
    "size not a multiple": (dict(width=100, height=96), "sample", "multiples of 32"),
    "steps after the end": (dict(steps=2, hjb={"first_step": 5, "last_step": 9}), "sample", "start after the last"),
    "overlap too large": (dict(frames=12, context_frames=4, context_overlap=4), "sample", "overlap < window"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_line(server, case):
    given, node, part = CASES[case]
    where, message = message_of(server, prompt(**given))
    assert (where, part in message, "\n" in message) == (node, True, False), message


def test_a_fault_of_ours_is_told_to_the_page_with_its_kind(server):
    nodes = prompt()
    nodes["align"]["inputs"]["picture"] = {"__value__": "no picture"}
    run = server.run(nodes)
    (told,) = [data for data in run.of("stableanimator.text") if data.get("failed")]
    assert run.error["node_id"] == told["node"] == "align"
    assert told["text"] == f"PROBLEM: {run.error['exception_type']}: {run.error['exception_message'].strip()}"


def test_face_without_a_pose(server):
    nodes = prompt()
    del nodes["face"]["inputs"]["reference_pose"]
    assert "connect the picture's pose" in message_of(server, nodes)[1]


def test_a_reference_without_a_face_is_said_and_the_video_made(server):
    run = server.run(prompt(frames=2, steps=1, reference_pose=standing(1, face=False)))
    assert run.succeeded, run.error
    assert any(text.startswith("identity path off: reference_pose: no face") for text in run.notes)
    assert any("no face was given to the model and none was optimised" in text for text in run.notes)


def test_published_model_that_is_not_there(server):
    node, message = message_of(server, prompt(model="v1"))
    assert node == "load" and "Animation/unet.pth" in message and "SVD/vae" in message
    assert "weights download v1" in message and "\n" not in message


def test_pose_files_that_are_not_there(server):
    nodes = prompt()
    nodes["extract"] = extract(["image", 0])
    nodes["align"]["inputs"]["driving"] = ["extract", 0]
    node, message = message_of(server, nodes)
    assert node == "extract" and "DWPose/yolox_l.onnx" in message and "weights download poses" in message


def test_downloads_that_cannot_be_made(server):
    """With the switch on they are tried; this server is told to stay offline."""
    nodes = prompt()
    nodes["extract"] = extract(["image", 0], download=True)
    nodes["align"]["inputs"]["driving"] = ["extract", 0]
    node, message = message_of(server, nodes)
    assert node == "extract" and "HF_HUB_OFFLINE" in message
    nodes["load"]["inputs"] |= {"model": "v1", "download": True}
    assert "HF_HUB_OFFLINE" in message_of(server, nodes)[1]


def test_unknown_model(server):
    assert "mini" in message_of(server, prompt(model="nothing"))[1]


def test_pose_images_of_another_size(server):
    nodes = prompt(pose_images=["draw", 0])
    draw = {"poses": ["align", 0], "width": 96, "height": 96}
    nodes["draw"] = {"class_type": "StableAnimatorDrawPoses", "inputs": draw}
    message = message_of(server, nodes)[1]
    assert "4 pictures of 96x96" in message and "64x64" in message


def test_latents_of_another_kind(server):
    nodes = prompt(frames=2, steps=1)
    nodes["decode"]["inputs"]["samples"] = ["empty", 0]
    nodes["empty"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}}
    assert "connect the LATENT" in message_of(server, nodes)[1]


def test_face_of_another_model(server):
    nodes = prompt(model="tiny")
    nodes["other"] = {"class_type": "StableAnimatorLoadModel", "inputs": {"model": "wide", "dtype": "auto"}}
    nodes["face"]["inputs"]["model"] = ["other", 0]
    assert "same model" in message_of(server, nodes)[1]


def test_nobody_in_the_reference(server):
    nobody = [{"people": [], "canvas_width": CANVAS, "canvas_height": CANVAS}]
    where, message = message_of(server, prompt(reference_pose=nobody))
    assert "\n" not in message and where in ("align", "face")


def test_steps_backwards_are_refused_before_anything_runs(server):
    errors = server.node_errors(prompt(hjb={"first_step": 9, "last_step": 3}))
    details = errors["hjb"]["errors"][0]["details"]
    assert "9:3" in details and "\n" not in details


def test_numbers_out_of_range_are_refused(server):
    assert "sample" in server.node_errors(prompt(steps=-1))
    assert "decode" in server.node_errors(prompt() | {"decode": {**prompt()["decode"], "inputs": {
        "model": ["load", 0], "samples": ["sample", 0], "chunk": 0,
    }}})  # fmt: skip


def test_literals_are_read_as_poses():
    assert literal(standing(2))["__value__"][0]["canvas_width"] == CANVAS
