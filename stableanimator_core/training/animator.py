"""Train the animator, of any size: EDM v-prediction, loss weighted by 1 + face mask, conditions dropped at random."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..conditioning import image_token, time_ids
from ..denoiser import scale_input, timestep_of
from ..errors import InputError
from ..vae import cell_size
from ..weights import ModelConfig, Models
from .autoencoder import face_mask
from .checkpoint import Checkpoint
from .curves import Curves
from .data import prefetch
from .graphs import Graphed
from .loop import Budget, MovingAverage, OptimizerSteps, Progress, generator_of
from .material import Material, Sample
from .validation import Validation

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PARTS = ("unet", "pose_net", "face_encoder", "image_encoder")
ADAPTERS = "id_adapters"  # of the UNet, without the rest of it


@dataclass(frozen=True)
class AnimatorRecipe:
    """How the animator is trained."""

    train: tuple[str, ...] = PARTS  # which of PARTS and ADAPTERS; the rest is frozen
    clips: int = 64  # in a batch, in each process
    accumulate: int = 1  # batches in a step
    frames: int = 8  # of each clip, until `long_after`
    long_after: float = 0.7  # of the budget: from then on whole clips, half as many
    rate: float = 5e-4
    sigma_mean: float = 0.5  # of ln σ
    sigma_std: float = 1.6
    average: float = 0.9995  # memory of the moving average
    drop_all: float = 0.1  # the unconditional half of guidance: no context, no image latents, no pose
    drop_face: float = 0.1  # the identity path off
    drop_pose: float = 0.05
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"  # of the autocast on a GPU
    gradient_checkpointing: bool = False  # less memory, more time
    graphs: bool = True  # CUDA graphs, where the other settings allow them: faster for small networks
    log_every: int = 100  # steps
    validate_every: int = 0  # steps; 0: never
    validate_steps: int = 10  # of the denoising
    checkpoint_seconds: float = 240.0
    seed: int = 0


class Animator(nn.Module):
    """The networks that may train as one module: conditioning and UNet.

    train: which of PARTS and ADAPTERS do. A frozen image encoder is left out, the material has its tokens.
    Raises InputError for other names.
    """

    def __init__(self, models: Models, train: tuple[str, ...] = PARTS):
        super().__init__()
        unknown = [name for name in train if name not in (*PARTS, ADAPTERS)]
        if unknown or not train:
            what, known = ", ".join(unknown) or "nothing", ", ".join((*PARTS, ADAPTERS))
            raise InputError(f"cannot train {what}; choose from {known}")
        self.unet, self.pose_net, self.face_encoder = models.unet, models.pose_net, models.face_encoder
        self.image_encoder = models.image_encoder if "image_encoder" in train else None
        self.requires_grad_(False)
        self.to(memory_format=torch.contiguous_format)  # with channels last torch's GroupNorm can crash where its
        # weights train and its input does not (2.11, CPU)
        for name in train:
            modules = self.unet.id_adapters() if name == ADAPTERS else [getattr(self, name)]
            for module in modules:
                module.requires_grad_(True)

    def token(self, reference: Tensor) -> Tensor:
        """The image token [B, 1, D] of a sample's reference, which is the token itself if the encoder is frozen."""
        return reference if self.image_encoder is None else image_token(self.image_encoder, reference)

    def forward(
        self, noisy: Tensor, timestep: Tensor, keep: Tensor, id_scale: Tensor, show_pose: Tensor, reference: Tensor,
        embedding: Tensor, image_latents: Tensor, pose_images: Tensor, micro: Tensor,
    ) -> Tensor:  # fmt: skip
        """v-prediction [B, F, 4, h, w] for what `noisy_batch` makes."""
        frames = noisy.shape[1]
        token = self.token(reference)  # [B, 1, D]
        faces = self.face_encoder(embedding, token)  # [B, 4, D]
        context = torch.cat([token, faces], dim=1) * keep[:, None, None]
        pose = self.pose_net(pose_images.flatten(0, 1))  # [B * F, C, h, w]
        pose = pose * (keep * show_pose).repeat_interleave(frames)[:, None, None, None]
        still = (image_latents * keep[:, None, None, None])[:, None].expand(-1, frames, -1, -1, -1)
        return self.unet(torch.cat([noisy, still], dim=2), timestep, context, micro, pose, id_scale)


class Batch(NamedTuple):
    """What `Animator` is given and what it should say."""

    given: tuple[Tensor, ...]
    target: Tensor  # [B, F, 4, h, w] v
    weight: Tensor  # [B, F, 1, h, w], 1 + face mask


def train_animator(
    models: Models, material: Material, budget: Budget, recipe: AnimatorRecipe, *, device: torch.device,
    process: int = 0, out: Path | None = None, on_checkpoint: Callable[[], None] | None = None,
) -> dict[str, float | int]:  # fmt: skip
    """Train in place; the networks end with their averaged weights.

    Returns the last loss, the last validation scores, and how many steps were taken in how many seconds each, all
    included; the first one, which is slow, is not counted.

    out: folder for the checkpoint, from which a run goes on if it is there, for validation pictures and curves. Every
    batch follows from seed, process and step, so that a run that was killed goes on to the same weights.
    on_checkpoint: called with the averaged weights whenever the first process has saved them.
    Raises InputError when the checkpoint is of another recipe or model.
    """
    first = process == 0
    animator = Animator(models, recipe.train).to(device).train()
    if recipe.gradient_checkpointing:
        models.unet.enable_gradient_checkpointing()
    graphs = recipe.graphs and recipe.accumulate == 1 and not recipe.gradient_checkpointing
    network = Graphed(animator, device, dtype=DTYPES[recipe.dtype], graphs=graphs)  # first: it may move the weights
    average = MovingAverage(animator, recipe.average)
    steps = _optimizer(animator, recipe, device)
    progress = Progress("animator", budget, every=recipe.log_every)
    checkpoint = Checkpoint(
        out and out / "animator.pt", recipe=recipe, network=animator, average=average, steps=steps, progress=progress,
        seconds=recipe.checkpoint_seconds, writes=first,
    )  # fmt: skip
    checkpoint.restore()
    curves = Curves(out / "curves" if out and first else None, step=progress.step)
    progress.on_report = curves.add
    validation = None
    if first and out and recipe.validate_every:
        validation = Validation.of(
            models, animator.token, material, out, steps=recipe.validate_steps, dtype=network.dtype
        )
    batches = _batches(material, recipe, progress, models.config, cell_size(models.vae), device=device, process=process)
    scores: dict[str, Tensor | float] = {}
    begun: tuple[int, float] | None = None
    for step in progress:
        rate = progress.learning_rate(recipe.rate)
        parts = [_add_batch(network, steps, next(batches), recipe.accumulate) for _ in range(recipe.accumulate)]
        scores["loss"] = torch.stack(parts).sum()
        steps.step(rate)
        average.update()
        progress.report(loss=scores["loss"], rate=torch.tensor(rate))
        if validation and (step + 1) % recipe.validate_every == 0:
            with average.in_place():
                seen = validation.look(step + 1)
            curves.add(step + 1, seen)
            scores |= seen
        if checkpoint.due():
            checkpoint.save(step + 1)
            if on_checkpoint is not None:
                with average.in_place():
                    on_checkpoint()
        begun = begun or (step + 1, time.monotonic())
    if begun is not None and progress.step > begun[0]:
        scores["seconds_per_step"] = (time.monotonic() - begun[1]) / (progress.step - begun[0])
    checkpoint.save(progress.step)
    curves.close()
    average.swap()
    animator.eval().requires_grad_(False)
    models.unet.disable_gradient_checkpointing()
    return {"steps": progress.step} | {name: float(value) for name, value in scores.items()}


def _optimizer(animator: Animator, recipe: AnimatorRecipe, device: torch.device) -> OptimizerSteps:
    cuda = device.type == "cuda"
    trained = [parameter for parameter in animator.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=cuda)
    scaler = torch.amp.GradScaler(device.type, enabled=cuda and recipe.dtype == "fp16")
    return OptimizerSteps(adam, scaler=scaler)


def _add_batch(network: Graphed, steps: OptimizerSteps, batch: Batch, parts: int) -> Tensor:
    """Backward of one of a step's batches; returns its share of the loss."""
    loss = ((network(*batch.given).float() - batch.target) ** 2 * batch.weight).mean() / parts
    steps.add(loss)
    return loss.detach()


def _batches(
    material: Material, recipe: AnimatorRecipe, progress: Progress, config: ModelConfig, cell: int, *,
    device: torch.device, process: int,
) -> Iterator[Batch]:  # fmt: skip
    """One process's batches from the present step on, without end."""
    first = progress.step * recipe.accumulate
    numbers = count(first)
    loader = prefetch(lambda: draw(material, recipe, progress, next(numbers), process), device=device)
    for number, drawn in enumerate(loader, first):
        sample = material.gather(*drawn)
        given, target = noisy_batch(sample, config, recipe, generator_of(device, recipe.seed, process, number))
        mask = face_mask(sample.boxes.flatten(0, 1) / cell, target.shape[-2:]).unflatten(0, target.shape[:2])
        yield Batch(given, target, 1 + mask)


def draw(material: Material, recipe: AnimatorRecipe, progress: Progress, number: int, process: int) -> tuple[Any, ...]:
    """The runs of frames of batch `number` of one process: later on longer and fewer."""
    late = progress.done_at(number // recipe.accumulate) >= recipe.long_after
    length = material.frames if late else min(recipe.frames, material.frames)
    clips = max(1, recipe.clips * recipe.frames // length)
    return material.draw(np.random.default_rng([recipe.seed, process, number]), clips, length)


def noisy_batch(
    sample: Sample, config: ModelConfig, recipe: AnimatorRecipe, generator: torch.Generator
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs of `Animator` and its v-target."""
    x0, device, clips = sample.latents, sample.latents.device, len(sample.latents)
    normal, uniform = (
        lambda *shape, draw=draw: draw(shape, generator=generator, device=device) for draw in (torch.randn, torch.rand)
    )
    sigma = (recipe.sigma_mean + recipe.sigma_std * normal(clips)).exp()
    wide = sigma[:, None, None, None, None]
    x = x0 + wide * normal(*x0.shape)
    target = (x / (wide**2 + 1) - x0) * (wide**2 + 1).sqrt() / wide
    keep, with_face, show_pose = (
        uniform(clips) >= drop for drop in (recipe.drop_all, recipe.drop_face, recipe.drop_pose)
    )
    batch = (
        scale_input(x, wide),
        timestep_of(sigma),
        keep.float(),
        (with_face & sample.has_face).float(),
        show_pose.float(),
        sample.reference,
        sample.embedding,
        sample.image_latents,
        sample.pose_images.permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        time_ids(config).to(device).repeat(clips, 1),
    )
    return batch, target
