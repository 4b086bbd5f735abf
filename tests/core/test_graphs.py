"""What CUDA graphs do for their callers, with a tape in place of a GPU; tests/gpu records real ones."""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stableanimator_core.graphs import Graphs

CUDA = torch.device("cuda")


class Tape(TorchDispatchMode):
    """Records torch's operations, and does them again where their inputs and results lay."""

    def __init__(self):
        super().__init__()
        self.operations, self.pool, self.replays = [], None, 0

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        made = operation(*given, **(named or {}))
        self.operations.append((operation, given, named or {}, made))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for operation, given, named, made in self.operations:
            made.copy_(operation(*given, **named))


@pytest.fixture
def card(monkeypatch):
    """A GPU 0 whose graphs are tapes; `tapes` are those that live, `said` is what it was told to do."""

    card = SimpleNamespace(allocator="native", index=0, said=[], tapes=weakref.WeakSet())

    def tape() -> Tape:
        made = Tape()
        card.tapes.add(made)
        return made

    def record(tape: Tape, *, pool, capture_error_mode: str) -> Tape:
        assert capture_error_mode == "thread_local", "other threads may use the card meanwhile"
        tape.pool = pool
        return tape

    for name, call in {
        "CUDAGraph": tape,
        "graph": record,
        "graph_pool_handle": lambda: "pool",
        "current_device": lambda: card.index,
        "get_allocator_backend": lambda: card.allocator,
        "current_stream": lambda: "stream",
        "set_stream": card.said.append,
        "empty_cache": lambda: card.said.append("empty"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, call)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        tell = partial(lambda *told: card.said.append(told), name)
        monkeypatch.setattr(torch._C, name, tell, raising=False)
    numbers = SimpleNamespace(clone_state=lambda: "as it is", graphsafe_set_state=card.said.append)
    monkeypatch.setattr(torch.cuda, "default_generators", (numbers,))
    return card


class Counted:
    """Work that counts how often Python does it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.expected(x)

    @staticmethod
    def expected(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x.sin() * x).sum(-1), x.cos().add_(1)


def test_without_a_gpu_work_is_run_as_it_is():
    graphs, calls = Graphs(torch.device("cpu")), []

    def work(x: Tensor) -> tuple[Tensor]:
        calls.append(len(x))
        return (x * len(calls),)

    for n in (1, 2, 3):
        assert graphs.run("key", work, torch.ones(2))[0].tolist() == [n, n]
    assert calls == [2, 2, 2]
    assert not graphs.close(), "there was nothing to give back"


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_work_is_run_then_recorded_then_replayed(card, mode):
    """With the inputs of each time, which stay what they were, as the results do."""
    graphs, work, known, given = Graphs(CUDA), Counted(), [], []
    with mode():
        for n in range(5):
            x = torch.randn(2, 3, generator=torch.Generator().manual_seed(n))
            known.append((graphs.run("key", work, x), work.expected(x)))
            given.append((x, x.clone()))
            assert (work.calls, len(card.tapes)) == ((1, 0), (2, 1))[min(n, 1)]
    assert [tape.replays for tape in card.tapes] == [4] and not card.said
    for found, expected in known + given:
        torch.testing.assert_close(found, expected)


def test_other_keys_shapes_and_precisions_have_graphs_of_their_own(card):
    graphs, work, x = Graphs(CUDA), Counted(), torch.randn(2, 3)
    others = [("key", x), ("other", x), ("key", x[:1]), ("key", x.T), ("key", x.double())]
    for _ in range(3):
        for key, given in others:
            torch.testing.assert_close(graphs.run(key, work, given), work.expected(given))
    assert work.calls == 2 * len(others) and len(card.tapes) == len(others)
    assert {tape.pool for tape in card.tapes} == {"pool"}, "they share their memory"
    assert all(tape.replays == 2 for tape in card.tapes)


def test_work_that_cannot_be_recorded_is_run_as_it_is(card, caplog):
    """What it had made until then is gone when it is run again, and the card's stream is what it was."""
    graphs, fine, made, still_there = Graphs(CUDA), Counted(), [], []
    for _ in range(2):
        graphs.run("fine", fine, torch.ones(1))

    def work(x: Tensor) -> tuple[Tensor]:
        still_there.append([each() is not None for each in made])
        y = x * 2
        made.append(weakref.ref(y))
        if len(made) == 2:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return (y + 1,)

    for n in range(4):
        assert graphs.run("key", work, torch.tensor([float(n)]))[0].item() == 2 * n + 1
    assert still_there[2] == [False, False] and len(made) == 5
    told = [("_cuda_endAllocateToPool", 0, "pool"), ("_cuda_releasePool", 0, "pool")]
    assert not card.tapes and card.said == ["stream", "as it is", *told, "empty"]
    assert caplog.messages == ["CUDA graphs are off in this run: operation not permitted when stream is capturing"]
    graphs.run("fine", fine, torch.ones(1))
    assert fine.calls == 3 and not graphs.close()


@pytest.mark.parametrize("known", [True, False])
def test_an_allocator_that_knows_that_a_recording_is_over_is_left_alone(card, monkeypatch, known):
    def complain(device: int, pool: str) -> None:
        raise RuntimeError("not currently recording to mempool_id")

    if known:
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", complain)
    else:
        monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool")

    def work(x: Tensor) -> tuple[Tensor]:
        if not card.said and card.tapes:
            raise RuntimeError("out of memory")
        return (x + 1,)

    graphs = Graphs(CUDA)
    assert [graphs.run("key", work, torch.tensor([float(n)]))[0].item() for n in range(3)] == [1, 2, 3]
    assert card.said == ["stream", "as it is", "empty"]


def test_errors_of_the_work_itself_are_the_callers(card):
    graphs = Graphs(CUDA)

    def work(x: Tensor) -> tuple[Tensor]:
        raise torch.OutOfMemoryError("no room")

    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            graphs.run("key", work, torch.ones(1))


def test_closing_gives_the_memory_back_once(card):
    graphs, work, x = Graphs(CUDA), Counted(), torch.ones(2, 3)
    for _ in range(2):
        graphs.run("key", work, x)
    assert len(card.tapes) == 1
    assert graphs.close() and not card.tapes and card.said == ["empty"]
    assert not graphs.close() and card.said == ["empty"]
    torch.testing.assert_close(graphs.run("key", work, x), work.expected(x))
    assert work.calls == 3 and not card.tapes


@pytest.mark.parametrize(
    "device, allocator, hip, works",
    [
        ("cuda", "native", None, True),
        ("cuda:0", "native", None, True),
        ("cuda:1", "native", None, False),
        ("cuda", "cudaMallocAsync", None, False),
        ("cuda", "native", "6.4", False),
        ("cpu", "native", None, False),
    ],
)
def test_where_graphs_are_recorded(card, monkeypatch, device, allocator, hip, works):
    monkeypatch.setattr(torch.version, "hip", hip)
    card.allocator = allocator
    graphs, work = Graphs(torch.device(device)), Counted()
    for _ in range(3):
        graphs.run("key", work, torch.ones(2, 3))
    assert graphs.works == works and work.calls == (2 if works else 3) and len(card.tapes) == works
