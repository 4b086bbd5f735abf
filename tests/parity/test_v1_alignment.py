"""Method v1 gives the recorded transforms and keypoints: the published fit, with its faults."""

import numpy as np
import pytest
from golden import load_json

from stableanimator_core.alignment import align
from stableanimator_core.keypoints import Poses

CASES = load_json("pose_align_polyfit.json")["cases"]


def poses_of(records: list[dict], width: int, height: int) -> Poses:
    """Recorded people in fractions, one list entry per frame, on a canvas in pixels."""
    most = max(len(record["bodies"]["subset"]) for record in records)
    parts = {
        name: np.zeros((len(records), most, *tail))
        for name, tail in {
            "body": (18, 2), "body_score": (18,), "face": (68, 2), "face_score": (68,), "hands": (2, 21, 2),
            "hands_score": (2, 21),
        }.items()
    }  # fmt: skip
    for frame, record in enumerate(records):
        people = len(record["bodies"]["subset"])
        hands = np.array(record["hands"]).reshape(2, people, 21, 2)  # left hands of everybody, then right hands
        hands_score = np.array(record["hands_score"]).reshape(2, people, 21)
        parts["body"][frame, :people] = np.array(record["bodies"]["candidate"]).reshape(people, 18, 2)
        parts["body_score"][frame, :people] = record["bodies"]["score"]
        parts["face"][frame, :people] = record["faces"]
        parts["face_score"][frame, :people] = record["faces_score"]
        parts["hands"][frame, :people] = hands.swapaxes(0, 1)
        parts["hands_score"][frame, :people] = hands_score.swapaxes(0, 1)
    for name in ("body", "face", "hands"):
        parts[name] *= (width, height)
    return Poses(**parts, width=width, height=height)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("canvas", [None, (640, 360)], ids=["same canvas", "wide driving canvas"])
def test_every_recorded_keypoint(case, canvas):
    """Fractions are all that the published fit sees: the driving canvas does not matter to it."""
    width, height = case["ref_width"], case["ref_height"]
    driving = poses_of(case["driving_poses"], *(canvas or (width, height)))
    found = align(driving, poses_of([case["ref_pose"]], width, height), "v1")
    expected = poses_of(case["aligned_poses"], width, height)
    assert (found.poses.height, found.poses.width) == tuple(case["draw_height_width"])
    assert found.method == "v1" and found.transform is None
    for name in ("body", "face", "hands"):
        np.testing.assert_allclose(getattr(found.poses, name), getattr(expected, name), rtol=0, atol=1e-6)
        scores = f"{name}_score"
        np.testing.assert_array_equal(getattr(found.poses, scores), getattr(driving, scores))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_recorded_scale_and_shift(case):
    width, height = case["ref_width"], case["ref_height"]
    driving = poses_of(case["driving_poses"], width, height)
    moved = align(driving, poses_of([case["ref_pose"]], width, height), "v1").poses
    before, after = (poses.body[0, 0] / (width, height) for poses in (driving, moved))
    np.testing.assert_allclose(after, before * case["a_xy"] + case["b_xy"], rtol=0, atol=1e-9)
