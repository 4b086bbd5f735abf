"""Train a face embedder on crops of many people with ArcFace's additive angular margin (arXiv 1801.07698)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.iresnet import IResNet
from .loop import Budget, MovingAverage, OptimizerSteps, Progress


class MarginHead(nn.Module):
    """s · cos(θ + m) for the right person, s · cos θ for all others."""

    def __init__(self, embedding_dim: int, people: int, *, margin: float = 0.35, scale: float = 32.0):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, embedding_dim) * 0.01)
        self.margin, self.scale = margin, scale

    def forward(self, embedding: Tensor, person: Tensor) -> Tensor:
        """embedding: [B, D], person: [B] -> the cross-entropy loss."""
        cosine = F.normalize(embedding.float()) @ F.normalize(self.centres).T  # [B, people]
        own = cosine.gather(1, person[:, None]).clamp(-0.999, 0.999)
        shifted = torch.cos(torch.acos(own) + self.margin)
        return F.cross_entropy(self.scale * cosine.scatter(1, person[:, None], shifted), person)


def train_embedder(
    embedder: IResNet, crops: Tensor, budget: Budget, *, device: torch.device, name: str, batch: int = 512,
    rate: float = 2e-3, seed: int = 0,
) -> None:  # fmt: skip
    """Train in place, in this process alone. crops: uint8 [people, views, S, S, 3]."""
    people, views = crops.shape[:2]
    generator = torch.Generator(device).manual_seed(seed)
    embedder.to(device).train()
    head = MarginHead(embedder.embedding_dim, people).to(device)
    parameters = [p for p in [*embedder.parameters(), *head.parameters()] if p.requires_grad]
    step = OptimizerSteps(torch.optim.AdamW(parameters, lr=rate, weight_decay=5e-4), alone=True)
    average = MovingAverage(embedder, 0.995)
    crops = crops.to(device)
    progress = Progress(name, budget, every=500, alone=True)
    for _ in progress:
        who = torch.randint(people, (batch,), generator=generator, device=device)
        view = torch.randint(views, (batch,), generator=generator, device=device)
        faces = degrade(crops[who, view].permute(0, 3, 1, 2).float() / 127.5 - 1, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embedding = embedder(faces)
        loss = head(embedding, who)
        step(loss, progress.learning_rate(rate))
        average.update()
        progress.report(loss=loss)
    average.swap()
    embedder.eval().requires_grad_(False)


def degrade(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Light, colour, softness and noise as a generated video has them. faces: [B, 3, S, S] in -1..1."""
    rand = lambda *shape: torch.rand(shape, generator=generator, device=faces.device)  # noqa: E731
    size = faces.shape[-1]
    small = int(size * (0.35 + 0.65 * float(rand(1))))
    soft = F.interpolate(F.interpolate(faces, size=(small, small), mode="area"), size=(size, size), mode="bilinear")
    faces = torch.where(rand(len(faces), 1, 1, 1) < 0.5, soft, faces)
    gain = 1 + 0.2 * (rand(len(faces), 3, 1, 1) - 0.5) * rand(len(faces), 1, 1, 1)
    shift = 0.15 * (rand(len(faces), 1, 1, 1) - 0.5)
    noise = 0.08 * rand(len(faces), 1, 1, 1) * torch.randn(faces.shape, generator=generator, device=faces.device)
    return (faces * gain + shift + noise).clamp(-1, 1)


@torch.no_grad()
def verification(embedder: IResNet, crops: Tensor, *, device: torch.device) -> dict[str, float]:
    """How well the embedder tells people apart: mean cosine of same and other, and the true accept rate at 0.1 % false.

    crops: uint8 [people, views, S, S, 3] of people it has not seen.
    """
    people, views = crops.shape[:2]
    faces = crops.to(device).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    embedding = F.normalize(torch.cat([embedder(chunk).float() for chunk in faces.split(1024)]))
    cosine = embedding @ embedding.T
    person = torch.arange(people, device=device).repeat_interleave(views)
    same = person[:, None] == person[None]
    other = cosine[~same]
    same &= ~torch.eye(len(person), dtype=torch.bool, device=device)
    threshold = other.float().flatten()[: 2**24].kthvalue(int(min(len(other), 2**24) * 0.999)).values
    return {
        "same": float(cosine[same].mean()),
        "other": float(other.mean()),
        "tar_at_far_0.001": float((cosine[same] > threshold).float().mean()),
    }
