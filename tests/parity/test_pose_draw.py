"""Drawn skeletons equal the recorded ones in every pixel."""

import hashlib
import json

import numpy as np
import pytest
from golden import golden_path
from PIL import Image

from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.draw import draw_poses

IMAGES = json.loads(golden_path("pose_draw/index.json").read_text())["images"]


def recorded_poses(case: str) -> Poses:
    """Keypoints of a case in fractions: pixels of a 1 x 1 canvas."""
    record = json.loads(golden_path(f"pose_draw/{case}.json").read_text())
    body_score = np.array(record["bodies"]["score"])
    people = len(body_score)
    hands = np.array(record["hands"]).reshape(2, people, 21, 2)  # left hands of everybody, then right hands
    hands_score = np.array(record["hands_score"]).reshape(2, people, 21)
    return Poses(
        body=np.array(record["bodies"]["candidate"]).reshape(1, people, 18, 2),
        body_score=body_score[None],
        face=np.array(record["faces"])[None],
        face_score=np.array(record["faces_score"])[None],
        hands=hands.swapaxes(0, 1)[None],
        hands_score=hands_score.swapaxes(0, 1)[None],
        width=1,
        height=1,
    )


@pytest.mark.parametrize("image", IMAGES, ids=[image["file"] for image in IMAGES])
def test_every_pixel_is_the_recorded_one(image):
    width, height = image["width"], image["height"]
    drawn = draw_poses(recorded_poses(image["case"]).resized(width, height), width, height)[0]

    expected = np.asarray(Image.open(golden_path(f"pose_draw/{image['file']}")).convert("RGB"))
    np.testing.assert_array_equal(drawn, expected)
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == image["sha256_of_rgb_bytes"]
