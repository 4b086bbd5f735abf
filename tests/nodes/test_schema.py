"""What ComfyUI shows of the pack: every node, explained input by input, with its help page and in a stable order."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Saved workflows keep widget values by position: this list may grow at an end, nothing in it may move.
WIDGETS = {
    "StableAnimatorLoadModel": ["model", "dtype", "download"],
    "StableAnimatorExample": ["frames"],
    "StableAnimatorExtractPoses": [
        "detector", "person", "everyone", "min_person_score", "min_score", "fill_gap", "smooth", "download",
    ],
    "StableAnimatorAlignPoses": [
        "method", "fit", "proportions", "nudge_x", "nudge_y", "nudge_scale", "nudge_rotate",
    ],
    "StableAnimatorDrawPoses": ["width", "height"],
    "StableAnimatorEncodeFace": ["choose"],
    "StableAnimatorHJBOptions": [
        "enabled", "iterations", "first_step", "last_step", "learning_rate", "decode", "scope", "chunk",
        "stop", "sharpest", "strength",
    ],
    "StableAnimatorSample": [
        "seed", "steps", "guidance_first", "guidance_last", "width", "height", "context_frames", "context_overlap",
        "draft", "identity_scope",
    ],
    "StableAnimatorDecode": ["chunk"],
    "StableAnimatorPreflight": ["steps", "width", "height", "context_frames", "measure"],
    "StableAnimatorIdentityScore": ["worst_frames"],
    "StableAnimatorHJBSweep": ["iterations", "hjb_steps", "draft", "seed", "steps", "width", "height"],
}  # fmt: skip
SOCKETS = {
    "StableAnimatorLoadModel": ([], ["STABLEANIMATOR_MODEL"]),
    "StableAnimatorExample": ([], ["IMAGE", "POSE_KEYPOINT", "POSE_KEYPOINT"]),
    "StableAnimatorExtractPoses": (["images"], ["POSE_KEYPOINT"]),
    "StableAnimatorAlignPoses": (["driving", "reference", "picture"], ["POSE_KEYPOINT", "IMAGE"]),
    "StableAnimatorDrawPoses": (["poses", "model"], ["IMAGE"]),
    "StableAnimatorEncodeFace": (["model", "reference", "reference_pose"], ["STABLEANIMATOR_FACE"]),
    "StableAnimatorHJBOptions": ([], ["STABLEANIMATOR_HJB"]),
    "StableAnimatorSample": (["model", "reference", "poses", "face", "hjb", "pose_images"], ["LATENT"]),
    "StableAnimatorDecode": (["model", "samples"], ["IMAGE"]),
    "StableAnimatorPreflight": (["model", "reference", "reference_pose", "driving", "hjb"], ["STRING"]),
    "StableAnimatorIdentityScore": (
        ["model", "frames", "reference", "poses", "reference_pose", "face"],
        ["FLOAT", "IMAGE", "IMAGE", "STRING"],
    ),
    "StableAnimatorHJBSweep": (
        ["model", "reference", "poses", "face", "hjb"],
        ["IMAGE", "IMAGE", "STABLEANIMATOR_HJB", "STRING"],
    ),
}
KINDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.get("/object_info")


def inputs_of(schema: dict) -> dict[str, list]:
    return {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}


def test_pack_has_exactly_the_frozen_ids(info):
    assert {name for name in info if name.startswith("StableAnimator")} == set(WIDGETS)


@pytest.mark.parametrize("node", WIDGETS)
def test_widgets_and_sockets_keep_their_order(info, node):
    inputs = inputs_of(info[node])
    assert [name for name, (kind, *_) in inputs.items() if kind in KINDS] == WIDGETS[node]
    assert [name for name, (kind, *_) in inputs.items() if kind not in KINDS] == SOCKETS[node][0]
    assert info[node]["output"] == SOCKETS[node][1]


@pytest.mark.parametrize("node", WIDGETS)
def test_everything_is_explained(info, node):
    schema = info[node]
    assert schema["category"] == "StableAnimator++" and schema["description"] and schema["display_name"]
    for name, (_, options) in inputs_of(schema).items():
        assert len(options.get("tooltip", "")) > 15, f"{node}.{name} has no tooltip"
    assert all(schema["output_tooltips"])


@pytest.mark.parametrize("name", ["method", "fit"])
def test_every_choice_of_an_alignment_is_explained(server, info, name):
    _, options = inputs_of(info["StableAnimatorAlignPoses"])[name]
    page = server.text("/extensions/StableAnimator/docs/StableAnimatorAlignPoses.md")
    unexplained = [choice for choice in options["options"] if f"{choice}: " not in options["tooltip"]]
    assert not unexplained and all(f"`{choice}`" in page for choice in options["options"])


@pytest.mark.parametrize("node", WIDGETS)
def test_help_page_is_served_and_names_every_input(server, info, node):
    page = server.text(f"/extensions/StableAnimator/docs/{node}.md")
    unnamed = [name for name in inputs_of(info[node]) if f"`{name}`" not in page and f"**{name}**" not in page]
    assert not unnamed


def test_workflows_are_offered_as_templates(server):
    names = server.get("/workflow_templates")["StableAnimator"]
    assert sorted(names) == sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json")) != []


def test_own_model_folders_are_listed(info):
    options = info["StableAnimatorLoadModel"]["input"]["required"]["model"][1]["options"]
    assert options[:2] == ["mini", "v1"] and "tiny" in options and "elsewhere" in options
