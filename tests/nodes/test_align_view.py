"""What Align Poses tells the page for its view, and that a nudge by hand reaches what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from material import literal, standing

from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.overlay import body_height
from stableanimator_core.video import read_image


def prompt(frames: int = 3, **given) -> dict:
    """Align Poses with its drawn result."""
    inputs = {"driving": literal(standing(frames)), "reference": literal(standing(1)), "method": "svd", "fit": "clip"}
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": "person.png"}},
        "align": {"class_type": "StableAnimatorAlignPoses", "inputs": inputs | given},
        "draw": {
            "class_type": "StableAnimatorDrawPoses",
            "inputs": {"poses": ["align", 0], "width": 0, "height": 0},
        },
        "save": {"class_type": "SaveImage", "inputs": {"images": ["draw", 0], "filename_prefix": "drawn"}},
    }


def centre(server, run) -> np.ndarray:
    """Middle of the box around what is drawn in the first frame, x and y in px."""
    drawn = np.argwhere(read_image(server.saved(run)[0]).any(-1))
    return (drawn.min(0) + drawn.max(0))[::-1] / 2


def test_view_reaches_the_page_and_again_when_nothing_changed(server):
    nodes = prompt(picture=["image", 0])
    runs = [server.run(nodes) for _ in range(2)]
    sent = [data["output"]["alignment"] for run in runs for data in run.of("executed") if data["node"] == "align"]
    assert len(sent) == 2 and sent[0] == sent[1]
    (view,) = sent[0]
    assert view["frames"] == [0, 1, 2] and view["method"] == "svd" and view["nudge"] == [0, 0, 1, 0]
    assert view["picture"]["type"] == "temp"
    assert read_image(server.base / "temp" / view["picture"]["filename"]).shape == (128, 128, 3)
    reference = standing(1)
    np.testing.assert_allclose(np.reshape(view["reference"], (18, 2)), reference.body[0, 0], atol=0.06)


def test_nothing_lies_below_without_a_picture(server):
    run = server.run(prompt())
    assert run.outputs["align"]["alignment"][0]["picture"] is None


def test_long_clips_send_less_than_a_picture(server):
    run = server.run({"align": prompt(64)["align"]})
    (view,) = run.outputs["align"]["alignment"]
    assert view["total"] == 64 and len(view["frames"]) <= 61
    assert len(json.dumps(view)) < 150_000


def test_a_nudge_moves_what_comes_out(server):
    plain = server.run(prompt())
    moved = server.run(prompt(nudge_x=10.0, nudge_y=-5.0))
    shift = np.array([10, -5]) / 100 * body_height(standing(1))
    np.testing.assert_allclose(centre(server, moved) - centre(server, plain), shift, atol=1)
    (view,) = moved.outputs["align"]["alignment"]
    assert view["nudge"] == [10, -5, 1, 0]
    assert view["methods"] == plain.outputs["align"]["alignment"][0]["methods"], "joints are sent as they were before"
    assert "nudged by hand: +10 % to the right, -5 % down" in moved.outputs["align"]["text"][0]


def test_a_nudge_scales_and_turns(server):
    small = server.run(prompt(nudge_scale=0.5))
    turned = server.run(prompt(nudge_rotate=90.0))
    shapes = []
    for run in (small, turned):
        drawn = np.argwhere(read_image(server.saved(run)[0]).any(-1))
        shapes.append(np.ptp(drawn, axis=0))
    whole = np.ptp(Poses.from_openpose(standing(1).to_openpose()).body[0, 0], axis=0)
    assert shapes[0][0] == pytest.approx(whole[1] / 2, abs=10)
    assert shapes[1][1] > shapes[1][0], "who stood lies"


@pytest.mark.parametrize(("name", "value"), [("nudge_scale", 0.0), ("nudge_x", 900.0), ("nudge_rotate", 181.0)])
def test_nudges_beyond_reason_are_refused(server, name, value):
    (error,) = server.node_errors(prompt(**{name: value}))["align"]["errors"]
    assert error["extra_info"]["input_name"] == name
