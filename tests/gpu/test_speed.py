"""What makes a GPU fast keeps the numbers: fused kernels and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stableanimator_core.face import FaceBoxes
from stableanimator_core.face_windows import place_windows
from stableanimator_core.graphs import OFF, Graphs
from stableanimator_core.hjb import face_gradient
from stableanimator_core.models import kernels
from stableanimator_core.vae import cell_size, decode_latents
from stableanimator_core.weights import load_models

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
FRAMES, SIDE = 6, 24


@pytest.fixture(scope="module")
def models():
    return load_models("mini", device=DEVICE, dtype=torch.float32)


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def with_kernels(request, monkeypatch):
    assert kernels.usable(DEVICE), "Triton can't compile here"
    if not request.param:
        monkeypatch.setattr(kernels, "usable", lambda device: False)


def latents() -> Tensor:
    return torch.randn(FRAMES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def upright(side: int) -> FaceBoxes:
    """Squares of `side` px in every frame."""
    return FaceBoxes(torch.tensor([[side, side, 2 * side, 2 * side]] * FRAMES).float(), torch.ones(FRAMES).bool())


def turned(side: int) -> FaceBoxes:
    """ArcFace's templates about `side` px wide, which lean otherwise in every frame."""
    angle = torch.linspace(-0.6, 0.6, FRAMES)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2) * (side / 112)
    place = 1.5 * side - turn @ torch.tensor([55.5, 55.5])
    return FaceBoxes.of_templates(torch.cat([turn, place[..., None]], dim=-1), torch.ones(FRAMES).bool())


def gradient(models, graphs: Graphs, x0: Tensor, kind: Callable[[int], FaceBoxes] = upright, **how) -> Tensor:
    """How windows are placed; by default of four frames and of two."""
    cell = cell_size(models.vae)
    windows = place_windows(kind(8 * cell), (SIDE, SIDE), cell, **{"chunk": 4, "margin": 2} | how)
    target = torch.ones(models.face_embedder.embedding_dim, device=x0.device)
    return face_gradient(x0, windows, models.vae, models.face_embedder, target, graphs=graphs)[1]


@pytest.fixture(scope="module")
def conditions(models) -> tuple[Tensor, ...]:
    """Of the UNet, beside its sample: made before anything is recorded, as a graph draws no random numbers."""
    config = models.unet.config
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 5, config.cross_attention_dim, generator=generator)
    pose = torch.randn(2 * FRAMES, config.block_out_channels[0], SIDE, SIDE, generator=generator)
    given = torch.full((2,), 0.3), context, torch.tensor([[6.0, 127.0, 0.02]] * 2), pose
    return tuple(tensor.to(DEVICE) for tensor in given)


def sample() -> Tensor:
    return torch.randn(2, FRAMES, 8, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).to(DEVICE)


def off_by(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu().double() - expected.cpu().double()).norm() / expected.cpu().double().norm())


def test_numbers_are_those_of_the_cpu(models, with_kernels):
    cpu = load_models("mini", device="cpu", dtype=torch.float32)
    pairs = []
    with torch.no_grad():
        pairs.append((decode_latents(models.vae, latents()), decode_latents(cpu.vae, latents().cpu())))
    for kind in (upright, turned):
        pairs.append((gradient(models, OFF, latents(), kind), gradient(cpu, OFF, latents().cpu(), kind)))
    video, *gradients = [off_by(*pair) for pair in pairs]
    assert video < 1e-4, video
    assert max(gradients) < 1e-3, f"{gradients}; 3e-4 was seen, one and two threads of a CPU are up to 2e-4 apart"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_unet_with_and_without_kernels(models, conditions, monkeypatch, mode):
    with mode():
        fused = models.unet(sample(), *conditions)
        monkeypatch.setattr(kernels, "usable", lambda device: False)
        assert off_by(fused, models.unet(sample(), *conditions)) < 1e-5


def test_graphs_replay_with_new_inputs(models, conditions):
    """Also of a second kind of work, which shares the memory, between the replays of the first."""
    graphs = Graphs(DEVICE)
    for i in range(4):
        x0, noisy = latents() + i, sample() + i
        assert off_by(gradient(models, graphs, x0), gradient(models, OFF, x0)) < 1e-5
        with torch.inference_mode():
            (v,) = graphs.run("UNet", lambda x: (models.unet(x, *conditions),), noisy)
            assert off_by(v, models.unet(noisy, *conditions)) < 1e-5
    assert len(graphs._recorded) == 3 and all(graphs._recorded.values())
    graphs.close()


def test_windows_that_lean_otherwise_share_a_graph(models):
    """It reads nothing that was freed: between replays all free memory is given back and taken by others."""
    graphs, others = Graphs(DEVICE), []
    how = {"kind": turned, "chunk": 2, "margin": None}  # three windows of whole frames
    for i in range(4):
        x0 = latents() + i
        found = gradient(models, graphs, x0, **how)
        assert off_by(found, gradient(models, OFF, x0, **how)) < 1e-5
        torch.cuda.empty_cache()
        others += [torch.full((n,), torch.nan, device=DEVICE) for n in (1, 12, 128, 512, 4096) for _ in range(50)]
    assert len(graphs._recorded) == 1 and all(graphs._recorded.values())
    assert all(tensor.isnan().all() for tensor in others), "a replay wrote where others are"
    assert graphs.close()


def kept() -> int:
    """Bytes of 512 MiB that torch holds once they are no longer used and it was asked to give back what it keeps."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.empty(1 << 29, dtype=torch.uint8, device=DEVICE)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved() - before


def test_what_cannot_be_recorded_is_run_as_it_is(caplog):
    """And leaves the card fit for everything else, other graphs among it."""
    graphs = Graphs(DEVICE)

    def work(x: Tensor) -> tuple[Tensor]:
        return (x * float(x.sum()),)  # waits for the card

    def run_again(graphs: Graphs, work: Callable[..., tuple[Tensor]], factor: float) -> None:
        for n in range(4):
            (found,) = graphs.run("key", work, torch.full((2,), 1.0 + n, device=DEVICE))
            assert found.tolist() == [factor * (1 + n) ** 2] * 2

    run_again(graphs, work, 2)
    assert caplog.text.count("CUDA graphs are off in this run") == 1
    assert not graphs.works and not graphs.close()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.randn(1000, device=DEVICE).std() > 0.5
    assert kept() < 1 << 27
    fresh = Graphs(DEVICE)
    run_again(fresh, lambda x: (x * x,), 1)
    assert all(fresh._recorded.values()) and fresh.close()
    assert caplog.text.count("CUDA graphs are off in this run") == 1
