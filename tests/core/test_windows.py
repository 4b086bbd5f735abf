"""Context windows cover every frame in the published layout."""

import pytest
import torch

from stableanimator_core.errors import InputError
from stableanimator_core.windows import context_windows, window_weights

LAYOUTS = [(size, overlap) for size in (2, 3, 4, 7, 16, 25) for overlap in sorted({0, 1, size // 3, size - 1})]


@pytest.mark.parametrize("size, overlap", LAYOUTS)
def test_every_frame_is_in_a_window(size, overlap):
    for frames in range(1, 201):
        windows = context_windows(frames, size, overlap)
        assert {frame for window in windows for frame in window} == set(range(frames))
        assert all(len(window) == min(size, frames) for window in windows)
        assert all(window == sorted(set(window)) for window in windows), "no frame twice in a window"
        assert windows[-1][-1] == frames - 1


@pytest.mark.parametrize("size, overlap", LAYOUTS)
def test_the_documented_layout(size, overlap):
    """[0, i+1, …, i+size-1] for i = 0, size-overlap, …, and one more that ends with the last frame."""
    for frames in range(size + 1, 201):
        first, *middle, last = context_windows(frames, size, overlap)
        assert first == list(range(size))
        stride = size - max(overlap, 1)
        for number, window in enumerate(middle, 1):
            assert window == [0, *range(number * stride + 1, number * stride + size)]
        assert last == [0, *range(frames - size + 1, frames)]
        starts = [window[1] for window in (first, *middle, last)]
        assert all(0 < after - before <= stride for before, after in zip(starts, starts[1:]))


def test_examples():
    assert context_windows(1, 16, 4) == [[0]]
    assert context_windows(4, 4, 2) == [[0, 1, 2, 3]]
    assert context_windows(6, 4, 2) == [[0, 1, 2, 3], [0, 3, 4, 5]]
    assert context_windows(7, 4, 2) == [[0, 1, 2, 3], [0, 3, 4, 5], [0, 4, 5, 6]]


@pytest.mark.parametrize("size, overlap", [(1, 0), (0, 0), (16, 16), (16, 17), (16, -1)])
def test_windows_that_cannot_be(size, overlap):
    with pytest.raises(InputError) as error:
        context_windows(40, size, overlap)
    assert str(error.value) == (
        f"context window {size} with overlap {overlap}: need 2 <= window and 0 <= overlap < window"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 16, 25])
def test_weights_are_a_triangle(size):
    weights = window_weights(size)
    assert weights.shape == (size,)
    assert (weights > 0).all()
    torch.testing.assert_close(weights, weights.flip(0))
    assert weights.argmax() in ((size - 1) // 2, size // 2)
    torch.testing.assert_close(window_weights(4), torch.tensor([0.25, 0.75, 0.75, 0.25]))
