"""Fine-tune a model of any size on prepared clips: `train finetune`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..weights import Models, save_models
from .animator import AnimatorRecipe, train_animator
from .checkpoint import check_fresh
from .loop import Budget, start_processes
from .prepared import MixedMaterial, PreparedMaterial

log = logging.getLogger(__name__)

PUBLISHED = ("unet", "pose_net", "face_encoder")  # what the published training trains
GIB = 1 << 30


@dataclass(frozen=True)
class FinetuneRecipe:
    """How a model is fine-tuned; by default as the published one was trained, with conditions dropped at random."""

    budget: Budget = Budget(10_000)
    stride: int = 1  # frames of the clip from one frame of a run to the next
    animation: AnimatorRecipe = AnimatorRecipe(
        train=PUBLISHED, clips=1, frames=16, long_after=1.0, rate=1e-5, sigma_mean=0.7, average=0.999, graphs=False,
        log_every=10, validate_every=500, validate_steps=25, checkpoint_seconds=1800.0,
    )  # fmt: skip


def finetune(
    models: Models, data: Sequence[Path], out: Path, recipe: FinetuneRecipe, *, resume: bool = False
) -> dict[str, Any]:
    """Train on prepared clips and write a model folder to `out`; returns loss, scores, time and memory.

    data: prepared folders, one for each size. models: float32; they are trained in place. Under `accelerate launch` on
    several GPUs and hosts, which must see the same folders. resume: go on from the checkpoint in `out`.
    Raises InputError when `out` holds another run, when the recipe trains what stays frozen here, and as
    PreparedMaterial and train_animator do.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the model")
    if "image_encoder" in recipe.animation.train:
        raise InputError("cannot train image_encoder here: its tokens are computed once; leave it out")
    check_fresh([out / "checkpoints" / "animator.pt"], resume=resume)
    state = start_processes()
    device = state.device
    models.to(device)
    share = dict(process=state.process_index, processes=state.num_processes, wait=state.wait_for_everyone)
    runs = dict(frames=recipe.animation.frames, stride=recipe.stride)
    materials = [PreparedMaterial(models, folder, device=device, **runs, **share) for folder in data]
    models.image_encoder.to("cpu")  # its tokens are there
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for each in materials:
        log.info("%d clips of %d x %d px, %d held out", len(each.clips), *each.size, len(each.unseen))
    log.info("training %s on %s x %d", ", ".join(recipe.animation.train), device, state.num_processes)
    material = materials[0] if len(materials) == 1 else MixedMaterial(materials)
    result = train_animator(
        models, material, recipe.budget, recipe.animation, device=device, process=state.process_index,
        out=out / "checkpoints",
    )  # fmt: skip
    if state.is_main_process:
        save_models(_named(models, [each.size for each in materials]), out)
    return result | {
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
        "processes": state.num_processes,
    }


def _named(models: Models, sizes: Sequence[tuple[int, int]]) -> Models:
    """The model under a name of its own, with the sizes that it has learned."""
    config = models.config
    known = dict.fromkeys((*config.trained_sizes, *sizes))
    name, description = f"{config.name}-finetuned", f"{config.description}, fine-tuned"
    return replace(models, config=replace(config, name=name, description=description, sizes=tuple(known)[1:]))
