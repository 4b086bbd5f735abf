"""Identity Score in ComfyUI: any video against any face, with its pictures and its report."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from material import CANVAS, literal, standing
from material import prompt as whole_run
from scrfd_graph import save_scrfd

from stableanimator_core.conditioning import cover, cover_poses
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.telling import telling_frames
from stableanimator_core.video import read_image

OTHER_POSES = "note: poses: Sample made these frames of other poses"


def prompt(model: str = "mini", **given) -> dict:
    """The picture of the person, twice, scored against itself."""
    inputs = {
        "model": ["load", 0], "frames": ["video", 0], "reference": ["image", 0], "worst_frames": 4,
        "poses": literal(standing(2, sway=0.0)), "reference_pose": literal(standing(1)),
    } | given  # fmt: skip
    return {
        "load": {"class_type": "StableAnimatorLoadModel", "inputs": {"model": model, "dtype": "fp32"}},
        "image": {"class_type": "LoadImage", "inputs": {"image": "person.png"}},
        "video": {"class_type": "RepeatImageBatch", "inputs": {"image": ["image", 0], "amount": 2}},
        "score": {
            "class_type": "StableAnimatorIdentityScore",
            "inputs": {name: value for name, value in inputs.items() if value is not None},
        },
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["score", 0]}},
    }


def nobody(frames: int) -> Poses:
    return Poses.empty(frames, CANVAS, CANVAS)


def crowd(frames: int, *, faceless_first: bool = False) -> Poses:
    """Two people; the first one, whose face it is, may show none."""
    first, second = (standing(frames, face=face, sway=0.0).to_openpose() for face in (not faceless_first, True))
    for frame, other in zip(first, second):
        frame["people"] += other["people"]
    return Poses.from_openpose(first)


def test_a_picture_is_like_itself(server):
    run = server.run(prompt())
    assert run.succeeded, run.error
    assert float(run.outputs["text"]["text"][0]) == pytest.approx(1.0, abs=1e-4)
    (report,) = run.outputs["score"]["text"]
    assert report.startswith("identity 1.000 on average over 2 frames")
    assert "judged by a network of model 'mini' that the face optimisation (HJB) never sees" in report
    (shown,) = server.shown(run, "score")
    assert read_image(shown).shape == (340 + 218, 960, 3), "the curve over the faces"
    assert [data["value"] for data in run.of("progress") if data["node"] == "score"][-1] == 2


def test_the_face_of_encode_face_serves_as_well(server):
    nodes = prompt(face=["face", 0], reference_pose=None)
    nodes["face"] = {
        "class_type": "StableAnimatorEncodeFace",
        "inputs": {"model": ["load", 0], "reference": ["image", 0], "reference_pose": literal(standing(1))},
    }
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert float(run.outputs["text"]["text"][0]) == pytest.approx(1.0, abs=1e-4)


def test_a_connected_face_counts_whatever_the_reference_shows(server):
    nodes = prompt(face=["face", 0], reference=["other", 0])
    nodes["face"] = {
        "class_type": "StableAnimatorEncodeFace",
        "inputs": {"model": ["load", 0], "reference": ["image", 0], "reference_pose": literal(standing(1))},
    }
    nodes["other"] = {"class_type": "ImageInvert", "inputs": {"image": ["image", 0]}}
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert float(run.outputs["text"]["text"][0]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "reference_face", "why"),
    [
        ({"poses": literal(standing(2, face=False))}, True, "poses: no face in any of their 2 frames: "),
        ({"poses": literal(nobody(2))}, True, "poses: no face in any of their 2 frames: "),
        ({"face": ["face", 0]}, False, "face: Encode Face found no usable face in its picture, and says why; connect"),
    ],
)
def test_nothing_to_score_stops_only_what_waits_for_the_score(server, given, reference_face, why):
    nodes = prompt(**given)
    pose = literal(standing(1, face=reference_face))
    nodes["face"] = {
        "class_type": "StableAnimatorEncodeFace",
        "inputs": {"model": ["load", 0], "reference": ["image", 0], "reference_pose": pose},
    }
    run = server.run(nodes)
    assert run.succeeded, run.error
    (score,) = run.outputs["score"]["text"]
    assert score.startswith(f"not scored: {why}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"poses": None}, "poses: not given, but model 'mini' finds faces through poses; give the poses of the frames"),
        ({"poses": literal(standing(3))}, "poses: 3 frames, but frames holds 2; give the poses of this very video"),
        ({"poses": literal([])}, "poses: the pose list holds no frame; expected at least one POSE_KEYPOINT frame"),
        (
            {"reference_pose": None},
            "face, reference_pose: neither is connected, and model 'mini' finds no face in reference without them; "
            "connect Encode Face to face, or the picture's pose to reference_pose",
        ),
        ({"reference_pose": literal([])}, "reference_pose: the pose list holds no frame"),
        ({"reference_pose": literal(nobody(1))}, "reference_pose: no face in its keypoints (it shows nobody; "),
        ({"reference_pose": literal(standing(1, face=False))}, "reference_pose: no face in its keypoints (the nose "),
        (
            {"reference_pose": literal(crowd(1, faceless_first=True))},
            "reference_pose: no face in its keypoints (person 1 shows one, but person 0 of 2 is followed; ",
        ),
    ],
)
def test_what_is_missing_is_one_line(server, given, message):
    error = server.run(prompt(**given)).error
    assert error["node_id"] == "score" and error["exception_message"].startswith(message)
    assert "\n" not in error["exception_message"].strip()


@pytest.fixture(scope="module")
def aligned(server, tiny_model) -> str:
    """A model like v1, whose faces are aligned; those of 'mini' are upright."""
    folder = shutil.copytree(tiny_model, server.base / "models" / "stableanimator" / "aligned")
    config = json.loads((folder / "config.json").read_text()) | {"name": "aligned", "face_crop": "arcface"}
    (folder / "config.json").write_text(json.dumps(config))
    return "aligned"


def known_through_its_pose(model: str) -> dict:
    """Nodes that find the picture's face for a model, without a detector. The body's eyes and nose look at the camera,
    the oval of face points does not."""
    pose = standing(1)
    pose.face_score[:] = 0
    return {
        "other": {"class_type": "StableAnimatorLoadModel", "inputs": {"model": model, "dtype": "fp32"}},
        "face": {
            "class_type": "StableAnimatorEncodeFace",
            "inputs": {"model": ["other", 0], "reference": ["image", 0], "reference_pose": literal(pose)},
        },
    }


def test_without_poses_a_detector_looks_for_faces(server, aligned):
    """The face is found before the detector is there, and stays in ComfyUI's cache."""
    nodes = prompt(aligned, poses=None, reference_pose=None, face=["face", 0]) | known_through_its_pose(aligned)
    message = "poses: not given, but model 'aligned' finds faces through poses or a face detector; give the poses"
    assert server.run(nodes).error["exception_message"].startswith(message)
    folder = server.base / "models" / "stableanimator" / "antelopev2"
    folder.mkdir()
    save_scrfd(folder / "scrfd_10g_bnkps.onnx")
    try:
        run = server.run(nodes)
    finally:
        shutil.rmtree(folder)
    assert run.succeeded, run.error
    (score,) = run.outputs["score"]["text"]
    assert score.startswith("not scored: frames: the face detector finds no usable face in any of 2 frames; take a ")


def test_a_face_for_another_kind_of_model_is_a_fault_of_the_wiring(server, aligned):
    error = server.run(prompt(face=["face", 0]) | known_through_its_pose(aligned)).error
    assert error["node_id"] == "score" and error["exception_message"].strip() == (
        "face: cut out aligned, but model 'mini' compares faces that are cut out upright; find it with the same model"
    )


def test_material_that_may_be_meant_otherwise_is_scored_with_a_note(server):
    wide = crowd(3).resized(2 * CANVAS, CANVAS)
    run = server.run(prompt(poses=literal(crowd(2)), reference_pose=literal(wide)))
    assert run.succeeded, run.error
    notes = [line for line in run.outputs["score"]["text"][0].split("\n") if line.startswith("note: ")]
    assert notes == [
        "note: poses: up to 2 people in a frame; the first one's face is scored",
        "note: reference_pose: 3 frames; the first one is taken, is it that of reference?",
        "note: reference_pose: it shows 2 people; the first one's face is compared with",
        "note: reference_pose: its canvas is 256x128, reference 128x128; connect the pose of this picture",
    ]


def test_a_connected_face_makes_the_references_pose_idle(server):
    nodes = prompt(face=["face", 0], reference_pose=literal(crowd(3)))
    nodes["face"] = {
        "class_type": "StableAnimatorEncodeFace",
        "inputs": {"model": ["load", 0], "reference": ["image", 0], "reference_pose": literal(standing(1))},
    }
    assert "note: " not in server.run(nodes).outputs["score"]["text"][0]


def test_poses_on_another_canvas_fit(server):
    run = server.run(prompt(poses=literal(standing(2, sway=0.0).resized(2 * CANVAS, 2 * CANVAS))))
    assert float(run.outputs["text"]["text"][0]) == pytest.approx(1.0, abs=1e-3)


def aside(frames: int) -> Poses:
    """Somebody who sways beside the middle: a narrow video's crop follows the face."""
    return standing(frames, sway=24.0).transformed(lambda points: points + np.array([20.0, 0.0]))


def drafted(frames: int = 9, draft: int = 3, **given) -> tuple[dict, list[int]]:
    """A draft's score with the motion's poses, and with those of its frames alone; the frames that are made."""
    motion = aside(frames)
    nodes = whole_run(frames, model="mini", driving=motion, steps=1, seed=420, draft=draft, **given)
    nodes["align"]["inputs"]["method"] = "none"
    chosen = telling_frames(motion, draft)
    scored = prompt(frames=["decode", 0], poses=["align", 0])["score"]
    alone = {"class_type": scored["class_type"], "inputs": scored["inputs"] | {"poses": literal(motion.picked(chosen))}}
    return nodes | {"score": scored, "alone": alone}, chosen


def of_draft(alone: str, chosen: list[int]) -> str:
    """What is said of a draft, by what is said of a video that is its frames: no drift, and their own numbers.

    The poses of these frames alone are none that Sample has, which is doubted.
    """
    *told, doubt = alone.splitlines()
    assert doubt.startswith(OTHER_POSES)
    lines = [line for line in told if not line.startswith("drift")]
    named = re.sub(r"(?<=frame )\d+", lambda number: str(chosen[int(number[0])]), "\n".join(lines))
    return f"{named}\na draft: {len(chosen)} frames, called by their numbers in the whole motion"


def test_poses_of_the_whole_motion_serve_for_a_draft_of_them(server):
    nodes, chosen = drafted()
    run = server.run(nodes)
    assert run.succeeded, run.error
    (report,), (alone,) = run.outputs["score"]["text"], run.outputs["alone"]["text"]
    assert report == of_draft(alone, chosen) and chosen != [0, 1, 2]


def test_a_draft_is_cropped_as_the_whole_motion(server):
    nodes, chosen = drafted(width=96, height=192)
    motion = aside(9)
    placed = cover_poses(motion, cover(motion, 96, 192), 96, 192)
    nodes["alone"]["inputs"]["poses"] = literal(placed.picked(chosen))
    run = server.run(nodes)
    assert run.succeeded, run.error
    assert run.outputs["score"]["text"][0] == of_draft(run.outputs["alone"]["text"][0], chosen)


@pytest.mark.parametrize("poses", ["align", "example"])
def test_poses_of_the_right_length_that_sample_does_not_have_are_doubted(server, poses):
    motion = aside(3)
    nodes = whole_run(3, model="mini", driving=motion, steps=1, seed=421)
    scored = prompt(frames=["decode", 0], poses=["align", 0] if poses == "align" else literal(motion))["score"]
    run = server.run(nodes | {"score": scored})
    assert run.succeeded, run.error
    assert (OTHER_POSES in run.outputs["score"]["text"][0]) == (poses != "align")


@pytest.mark.parametrize("why", ["other poses", "fewer frames"])
def test_poses_that_the_draft_was_not_made_of_are_refused(server, why):
    nodes, _ = drafted()
    if why == "other poses":
        nodes["score"]["inputs"]["poses"] = literal(aside(9))
    else:
        nodes["part"] = {
            "class_type": "ImageFromBatch", "inputs": {"image": ["decode", 0], "batch_index": 0, "length": 2},
        }  # fmt: skip
        nodes["score"]["inputs"]["frames"] = ["part", 0]
    del nodes["alone"]
    error = server.run(nodes).error
    assert error["exception_message"].startswith("poses: 9 frames, but frames holds ")
