"""The example's motion, as long as it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from stableanimator_core.video import read_image

OWN = 16  # frames of the motion that ships


@pytest.mark.parametrize("frames", [0, 3, 40])
def test_motion_goes_back_and_forth_when_more_is_asked_for(server, frames):
    drawn = {"poses": ["example", 2], "width": 64, "height": 64}
    run = server.run({
        "example": {"class_type": "StableAnimatorExample", "inputs": {"frames": frames}},
        "draw": {"class_type": "StableAnimatorDrawPoses", "inputs": drawn},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["draw", 0], "filename_prefix": "example"}},
    })  # fmt: skip
    assert run.succeeded, run.error
    pictures = np.stack([read_image(path) for path in server.saved(run)])
    assert len(pictures) == (frames or OWN)
    if frames > OWN:
        assert (pictures[OWN : 2 * OWN - 1] == pictures[OWN - 2 :: -1]).all(), "back"
        assert (pictures[2 * OWN - 2 :] == pictures[: frames - 2 * OWN + 2]).all(), "and forth"
        assert (pictures[0] != pictures[OWN - 1]).any()
