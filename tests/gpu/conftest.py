"""What all GPU tests share."""

from __future__ import annotations

import pytest
import torch

from stableanimator_core.cli import let_segments_grow

let_segments_grow()  # as the command line does, before CUDA is in use


@pytest.fixture(scope="module", autouse=True)
def true_single_precision():
    """By default convolutions round float32 to TF32, whose numbers are as coarse as half precision's."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
