"""Train the small built-in model from scratch on rendered performers: `train mini`."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import InputError
from ..performers import FACE_SCALE, render_dataset, render_views
from ..weights import ModelConfig, Models, build_models, load_models, save_models
from .animator import AnimatorRecipe, train_animator
from .autoencoder import train_autoencoder
from .data import ClipStore
from .faces import train_embedder, verification
from .loop import Budget

log = logging.getLogger(__name__)

CROSS_DIM = 192
ID_DIM = 256
FACE_SIZE = 64  # px of the embedders' crops
UNSEEN = 256  # people for checking the embedders
FIRST_CLIPS = 2_000  # enough to begin with
CROSS, PLAIN = "CrossAttn{}BlockSpatioTemporal", "{}BlockSpatioTemporal"


@dataclass(frozen=True)
class MiniRecipe:
    """Sizes of the data and budgets of the stages."""

    clips: int = 24_000
    identities: int = 8_000  # of the embedder; the judge gets as many others
    views: int = 12
    frames: int = 16
    size: int = 160
    workers: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1))
    embedder: Budget = Budget(3_000)
    autoencoder: Budget = Budget(20_000)
    animator: Budget = Budget(20_000)
    animation: AnimatorRecipe = AnimatorRecipe()
    batch_faces: int = 512
    batch_frames: int = 96  # of the autoencoder, in whole frames
    seed: int = 1


def mini_config(size: int = 160, *, channels: tuple[int, ...] = (96, 128, 192)) -> ModelConfig:
    """What the built-in model is."""
    embedder = {"layers": [1, 2, 2, 1], "embedding_dim": ID_DIM, "input_size": FACE_SIZE, "head": "depthwise"}
    return ModelConfig(
        name="mini",
        description="Small StableAnimator++ trained from scratch on rendered cartoon performers",
        width=size,
        height=size,
        size_multiple=32,
        pose_canvas=512,
        face_scale=FACE_SCALE,
        context_window=16,
        context_overlap=6,
        fps=7,
        motion_bucket=127,
        noise_augmentation=0.02,
        sigma_min=0.02,
        sigma_max=40.0,
        steps=15,
        guidance=(1.5, 1.5),
        hjb={"iterations": 4, "first_step": 6, "last_step": 11, "lr": 0.1},
        parts={
            "unet": {
                "sample_size": size // 8,
                "in_channels": 8,
                "out_channels": 4,
                "down_block_types": [CROSS.format("Down"), CROSS.format("Down"), PLAIN.format("Down")],
                "up_block_types": [PLAIN.format("Up"), CROSS.format("Up"), CROSS.format("Up")],
                "block_out_channels": list(channels),
                "addition_time_embed_dim": 64,
                "projection_class_embeddings_input_dim": 192,
                "layers_per_block": 1,
                "cross_attention_dim": CROSS_DIM,
                "num_attention_heads": [c // 32 for c in channels],
                "num_frames": 16,
            },
            "pose_net": {"noise_latent_channels": channels[0]},
            "face_encoder": {
                "cross_attention_dim": CROSS_DIM,
                "id_embeddings_dim": ID_DIM,
                "clip_embeddings_dim": CROSS_DIM,
            },
            "face_embedder": embedder | {"widths": [32, 64, 128, 192]},
            "face_judge": embedder | {"widths": [24, 56, 112, 208]},
            "vae": {
                "in_channels": 3,
                "out_channels": 3,
                "down_block_types": ["DownEncoderBlock2D"] * 4,
                "block_out_channels": [32, 64, 128, 128],
                "layers_per_block": 1,
                "latent_channels": 4,
                "sample_size": size,
            },
            "image_encoder": {
                "hidden_size": 128,
                "intermediate_size": 512,
                "projection_dim": CROSS_DIM,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 8,
            },
        },
    )


def train_mini(
    out: Path, recipe: MiniRecipe, *, mocap: Path | None = None, data: Path | None = None, start_from: Path | None = None
) -> Models:
    """Render performers, train embedder, judge, VAE and animator, and write a model folder to `out`.

    mocap: motion capture for a share of the clips (see performers). data: where the rendered clips go or already
    are, `out`/data by default. start_from: a model folder whose embedders and VAE are kept and whose animator is
    trained further. Raises InputError when `out` is a file.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the model")
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(recipe.seed)
    data = data or out / "data"
    renderer = None if _complete(data / "clips") else _start_rendering(data / "clips", recipe, mocap)
    try:
        if start_from is None:
            models = _new_models(recipe, data, accelerator.device)
        else:
            models = load_models(start_from, device=accelerator.device)
        store = ClipStore(data / "clips")
        if start_from is None:
            _wait(renderer, lambda: store.ready >= min(FIRST_CLIPS, len(store)))
            train_autoencoder(
                models.vae, store, models.face_embedder, recipe.autoencoder, device=accelerator.device,
                pixels=recipe.batch_frames * recipe.size**2, seed=recipe.seed,
            )  # fmt: skip
            save_models(models, out)
        _wait(renderer, lambda: store.ready == len(store))
        log.info("%d clips rendered", len(store))
        train_animator(
            models, store, recipe.animator, recipe.animation, accelerator, on_checkpoint=lambda: save_models(models, out)
        )
    finally:
        if renderer is not None:
            renderer.terminate()
    save_models(models, out)
    return models


def _new_models(recipe: MiniRecipe, data: Path, device: torch.device) -> Models:
    """Fresh networks with a trained embedder and, from other people, a trained judge."""
    views = dict(views=recipe.views, crop=FACE_SIZE, face_scale=FACE_SCALE, workers=recipe.workers)
    crops = render_views(data / "views", 2 * recipe.identities, seed=recipe.seed, **views)
    unseen = torch.tensor(render_views(data / "unseen", UNSEEN, seed=recipe.seed, split="held_out", **views))
    models = build_models(mini_config(recipe.size)).to(device)
    # As published, the Face Encoder's last projection starts at zero for fine-tuning; from scratch it must not.
    nn.init.xavier_uniform_(models.face_encoder.fusion_model.proj_out.weight)
    halves = crops[: recipe.identities], crops[recipe.identities :]
    for part, people in zip(("face_embedder", "face_judge"), halves):
        embedder = getattr(models, part)
        seed = recipe.seed + len(part)
        train_embedder(
            embedder, torch.tensor(people), recipe.embedder, device=device, name=part, batch=recipe.batch_faces, seed=seed
        )
        log.info("%s on unseen people: %s", part, verification(embedder, unseen, device=device))
    return models


def _complete(folder: Path) -> bool:
    return (folder / "frames.npy").is_file() and ClipStore(folder).ready == len(ClipStore(folder))


def _start_rendering(folder: Path, recipe: MiniRecipe, mocap: Path | None) -> BaseProcess:
    """Render the clips in a process of their own; returns once the files are there to be read as they grow."""
    settings = dict(
        seed=recipe.seed, size=recipe.size, frames=recipe.frames, mocap_path=mocap, workers=recipe.workers,
        canvas_short_side=mini_config().pose_canvas, face_scale=FACE_SCALE,
    )  # fmt: skip
    process = multiprocessing.get_context("spawn").Process(
        target=render_dataset, args=(folder, recipe.clips), kwargs=settings
    )
    process.start()
    _wait(process, lambda: (folder / "face_boxes.npy").is_file())
    return process


def _wait(renderer: BaseProcess | None, ready: Callable[[], bool]) -> None:
    """Until ready, or an error when the renderer has failed."""
    while renderer is not None and not ready():
        renderer.join(timeout=0.2)
        if renderer.exitcode:
            raise RuntimeError(f"rendering the clips failed with exit status {renderer.exitcode}")


def quick_recipe() -> MiniRecipe:
    """A few steps of everything: shows that the whole recipe runs, not that it learns."""
    few = Budget(2)
    return replace(
        MiniRecipe(), clips=4, identities=4, views=2, workers=1, embedder=few, autoencoder=few, animator=few,
        animation=AnimatorRecipe(clips=2), batch_faces=8, batch_frames=4,
    )  # fmt: skip
