"""Identity Score in ComfyUI: any video against any face, with its pictures and its report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from material import CANVAS, literal, standing
from material import prompt as whole_run

from stableanimator_core.conditioning import cover, cover_poses
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.telling import telling_frames
from stableanimator_core.video import read_image


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
        ({"poses": literal(standing(2, face=False))}, True, "frames: none of 2 frames shows a face, so there is"),
        ({"face": ["face", 0]}, False, "Encode Face found no usable face in its picture, and says why"),
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
        ({"poses": None}, "frames: model 'mini' finds faces through poses; give the poses of the frames"),
        ({"poses": literal(standing(3))}, "poses: 3 frames, the video has 2; give the poses of this video"),
        ({"reference_pose": None}, "reference: model 'mini' finds the face through its pose; give the picture's pose"),
        ({"reference_pose": literal(standing(1, face=False))}, "reference: no face in its keypoints"),
    ],
)
def test_what_is_missing_is_one_line(server, given, message):
    error = server.run(prompt(**given)).error
    assert error["node_id"] == "score" and error["exception_message"].startswith(message)
    assert "\n" not in error["exception_message"].strip()


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
    """What is said of a draft, by what is said of a video that is its frames: no drift, and their own numbers."""
    lines = [line for line in alone.splitlines() if not line.startswith("drift")]
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
    assert error["exception_message"].startswith("poses: 9 frames, the video has ")
