"""Work is run as it is where no CUDA graph can be recorded; tests/gpu records."""

import torch

from stableanimator_core.graphs import Graphs


def test_without_a_gpu_work_is_run_as_it_is():
    graphs, calls = Graphs(torch.device("cpu")), []

    def work(x: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(len(x))
        return (x * len(calls),)

    for n in (1, 2, 3):
        assert graphs.run("key", work, torch.ones(2))[0].tolist() == [n, n]
    assert calls == [2, 2, 2]
    graphs.close()
