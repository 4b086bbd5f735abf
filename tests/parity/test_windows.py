"""Windows and blending weights are the recorded ones; where the reference fails, ours cover every frame."""

import math

import pytest
import torch
from golden import load_json

from stableanimator_core.errors import InputError
from stableanimator_core.windows import context_windows, window_weights

CASES = load_json("context_windows.json")["cases"]


def name(case) -> str:
    return "{num_frames} frames by {tile_size} over {tile_overlap}".format(**case)


def uncovered(case) -> list[int]:
    """Frames that are in none of the recorded windows, whose blend divides 0 by 0."""
    return case["frames_with_zero_weight"]


SANE = [case for case in CASES if "error" not in case and not uncovered(case)]
BARE = [case for case in CASES if "error" not in case and uncovered(case)]
CRASHING = [case for case in CASES if "error" in case]


def blended_weights(windows: list[list[int]], frames: int) -> torch.Tensor:
    total = torch.zeros(frames)
    for window in windows:
        total[window] += window_weights(len(window))
    return total


@pytest.mark.parametrize("case", SANE, ids=name)
def test_windows_and_weights(case):
    windows = context_windows(case["num_frames"], case["tile_size"], case["tile_overlap"])
    assert windows == case["indices"]
    torch.testing.assert_close(window_weights(case["tile_size"]), torch.tensor(case["weights"]), rtol=0, atol=1e-6)
    sums = blended_weights(windows, case["num_frames"])
    torch.testing.assert_close(sums, torch.tensor(case["weight_sum_per_frame"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", BARE, ids=name)
def test_frames_that_the_reference_leaves_out_are_covered(case):
    """Overlap 0 works as overlap 1: frame 0 takes a place, so windows side by side would miss a frame between them."""
    frames, size, overlap = (case[key] for key in ("num_frames", "tile_size", "tile_overlap"))
    windows = context_windows(frames, size, overlap)
    sums = blended_weights(windows, frames)
    assert not blended_weights(case["indices"], frames)[uncovered(case)].any()
    assert sums.min() >= 1 / size - 1e-6, "no frame's weights may vanish"
    assert windows == context_windows(frames, size, overlap + 1)


@pytest.mark.parametrize("case", CRASHING, ids=name)
def test_where_the_reference_crashes(case):
    """A clip shorter than the window is one window of its own length; an overlap that never ends is refused."""
    frames, size, overlap = (case[key] for key in ("num_frames", "tile_size", "tile_overlap"))
    if overlap < size:
        windows = context_windows(frames, size, overlap)
        assert windows == [list(range(frames))]
        assert math.isfinite(1 / blended_weights(windows, frames).min())
    else:
        with pytest.raises(InputError, match=f"context window {size} with overlap {overlap}: need"):
            context_windows(frames, size, overlap)
