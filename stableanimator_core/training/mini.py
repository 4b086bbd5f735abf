"""Train the small built-in model from scratch on rendered performers: `train mini`."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from ..models.id_adapter import Adding
from ..performers import FACE_SCALE, load_mocap, render_dataset, render_views, rendered
from ..weights import ModelConfig, Models, build_models, fill_models, save_models
from .animator import AnimatorRecipe, train_animator
from .autoencoder import AutoencoderRecipe, train_autoencoder
from .checkpoint import check_fresh, read_state, write_state
from .data import ClipStore
from .faces import train_embedder, verification
from .loop import Budget, start_processes, take_from_first_process
from .material import RenderedMaterial

log = logging.getLogger(__name__)

STAGES = ("faces", "autoencoder", "animator")
CHECKPOINTS = dict(zip(STAGES, ("faces.pt", "vae.pt", "animator.pt")))
CROSS_DIM = 192
ID_DIM = 256
FACE_SIZE = 64  # px of the embedders' crops
FIRST_CLIPS = 2_000  # enough to begin with
CROSS, PLAIN = "CrossAttn{}BlockSpatioTemporal", "{}BlockSpatioTemporal"


@dataclass(frozen=True)
class MiniRecipe:
    """Sizes of the data and budgets of the stages."""

    clips: int = 24_000
    identities: int = 8_000  # of the embedder; the judge gets as many others
    unseen: int = 256  # for checking both
    views: int = 12
    frames: int = 16
    size: int = 192
    lost: float = 0.3  # share of the clips whose poses lack joints
    workers: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1))
    embedder: Budget = Budget(3_000)
    batch_faces: int = 512
    autoencoder: Budget = Budget(20_000)
    reconstruction: AutoencoderRecipe = AutoencoderRecipe()
    animator: Budget = Budget(20_000)
    animation: AnimatorRecipe = AnimatorRecipe(validate_every=2_000)
    adapter: Adding = "distribution"  # how face tokens are added; others are trained to be compared with this one
    seed: int = 1


def mini_config(size: int = 192, *, channels: tuple[int, ...] = (96, 128, 192)) -> ModelConfig:
    """What the built-in model is. Raises InputError for a size that is no multiple of its blocks' 32 px."""
    if size % 32:
        raise InputError(f"size {size}: the model needs a multiple of 32; take {round(size / 32) * 32}")
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
        steps=10,
        guidance=(1.5, 1.5),
        hjb={"iterations": 3, "first_step": 5, "last_step": 7, "lr": 0.07, "margin": 1},
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


def config_of(recipe: MiniRecipe) -> ModelConfig:
    """What the recipe makes. Raises InputError as mini_config does."""
    return replace(mini_config(recipe.size), id_adapter=recipe.adapter)


def train_mini(
    out: Path, recipe: MiniRecipe, *, stages: Sequence[str] = STAGES, mocap: Path | None = None,
    data: Path | None = None, start_from: Path | None = None, fresh_identity: bool = False, resume: bool = False,
) -> Models:  # fmt: skip
    """Render performers, train embedder, judge, VAE and animator, and write a model folder to `out`.

    On several GPUs under `accelerate launch`. mocap: motion capture for a share of the clips (see performers).
    data: where the rendered clips go or already are, `out`/data by default. start_from: a model folder to go on from;
    parts that it lacks start fresh, and so do ID adapters and Face Encoder with fresh_identity. stages: which of STAGES
    to train. resume: go on where a run that was killed had come to, from the checkpoints in `out`/checkpoints.
    Raises InputError when `out` is a file, a stage is unknown, the size does not suit, an earlier run would be
    overwritten or the motion capture cannot be read.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder for the model")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"stage '{unknown[0]}' is unknown; choose from {', '.join(STAGES)}")
    config = config_of(recipe)
    left = out / "checkpoints"
    check_fresh([left / CHECKPOINTS[stage] for stage in stages], resume=resume)
    if mocap is not None:
        load_mocap(mocap)  # a file that cannot be read ends it here, not in the processes that render
    state = start_processes()
    device, data = state.device, data or out / "data"
    main = state.is_main_process
    save = (lambda: save_models(models, out)) if main else None
    torch.manual_seed(recipe.seed)
    renderer = _start_rendering(data / "clips", recipe, mocap) if main and not _complete(data / "clips") else None
    try:
        models = _start(config, start_from, fresh_identity).to(device)
        torch.manual_seed(recipe.seed + 1 + state.process_index)
        if "faces" in stages:
            if main:
                _faces(models, data, recipe, device, left / CHECKPOINTS["faces"])
            take_from_first_process(models.face_embedder, models.face_judge)
        _wait(renderer, lambda: rendered(data / "clips") >= min(FIRST_CLIPS, recipe.clips))
        store = ClipStore(data / "clips", process=state.process_index, processes=state.num_processes)
        share = dict(device=device, process=state.process_index, out=left)
        if "autoencoder" in stages:
            train_autoencoder(
                models.vae, store, models.face_embedder, recipe.autoencoder, recipe.reconstruction, **share
            )
            if main:
                save()
        _wait(renderer, lambda: store.ready == len(store))
        log.info("%d clips rendered", len(store))
        if "animator" in stages:
            material = RenderedMaterial(models, store, device=device)
            train_animator(models, material, recipe.animator, recipe.animation, on_checkpoint=save, **share)
    finally:
        if renderer is not None:
            renderer.terminate()
    if main:
        save()
    return models


def _faces(models: Models, data: Path, recipe: MiniRecipe, device: torch.device, checkpoint: Path) -> None:
    """Train embedder and judge, or take those of an earlier run: a stage of minutes is kept as a whole."""
    parts = {name: getattr(models, name) for name in ("face_embedder", "face_judge")}
    if checkpoint.is_file():
        for name, state in read_state(checkpoint).items():
            parts[name].load_state_dict(state)
        log.info("the embedders of the earlier run are taken")
        return
    _train_faces(models, data, recipe, device)
    write_state(checkpoint, {name: part.state_dict() for name, part in parts.items()})


def _start(config: ModelConfig, start_from: Path | None, fresh_identity: bool) -> Models:
    """Fresh networks, filled with the parts that a folder has, with or without what tells the UNet of a face."""
    models = build_models(config)
    # As published, the Face Encoder's last projection starts at zero for fine-tuning; from scratch it must not.
    nn.init.xavier_uniform_(models.face_encoder.fusion_model.proj_out.weight)
    if start_from is not None:
        identity = nn.ModuleList([models.face_encoder, *models.unet.id_adapters()])
        drawn = deepcopy(identity.state_dict())
        fill_models(models, start_from)
        if fresh_identity:
            identity.load_state_dict(drawn)
    for part in ("face_embedder", "face_judge", "vae"):
        getattr(models, part).requires_grad_(False).eval()
    return models


def _train_faces(models: Models, data: Path, recipe: MiniRecipe, device: torch.device) -> None:
    """The embedder and, from other people, the judge; both are checked on people that neither has seen."""
    views = dict(views=recipe.views, crop=FACE_SIZE, face_scale=FACE_SCALE, workers=recipe.workers)
    crops = render_views(data / "views", 2 * recipe.identities, seed=recipe.seed, **views)
    unseen = torch.tensor(render_views(data / "unseen", recipe.unseen, seed=recipe.seed, split="held_out", **views))
    halves = crops[: recipe.identities], crops[recipe.identities :]
    for part, people in zip(("face_embedder", "face_judge"), halves):
        embedder = getattr(models, part)
        train_embedder(
            embedder, torch.tensor(people), recipe.embedder, device=device, name=part, batch=recipe.batch_faces,
            seed=recipe.seed + len(part),
        )  # fmt: skip
        log.info("%s on unseen people: %s", part, verification(embedder, unseen, device=device))


def _complete(folder: Path) -> bool:
    return (folder / "frames.npy").is_file() and ClipStore(folder).ready == len(ClipStore(folder))


def _start_rendering(folder: Path, recipe: MiniRecipe, mocap: Path | None) -> BaseProcess:
    """Render the clips in a process of their own; returns once the files are there to be read as they grow."""
    settings = dict(
        seed=recipe.seed, size=recipe.size, frames=recipe.frames, mocap_path=mocap, workers=recipe.workers,
        canvas_short_side=mini_config().pose_canvas, face_scale=FACE_SCALE, lost=recipe.lost,
    )  # fmt: skip
    process = multiprocessing.get_context("spawn").Process(
        target=render_dataset, args=(folder, recipe.clips), kwargs=settings
    )
    process.start()
    _wait(process, lambda: (folder / "face_boxes.npy").is_file())
    return process


def _wait(renderer: BaseProcess | None, ready: Callable[[], bool]) -> None:
    """Until ready, or an error when the renderer has failed; other processes than the first have no renderer."""
    while not ready():
        time.sleep(0.2)
        if renderer is not None and renderer.exitcode:
            raise RuntimeError(f"rendering the clips failed with exit status {renderer.exitcode}")


def quick_recipe() -> MiniRecipe:
    """A few steps of everything: shows that the whole recipe runs, not that it learns."""
    few = Budget(2)
    return replace(
        MiniRecipe(), clips=4, identities=4, unseen=2, views=2, workers=1, embedder=few, autoencoder=few, animator=few,
        animation=AnimatorRecipe(clips=2), reconstruction=AutoencoderRecipe(frames=2), batch_faces=8,
    )  # fmt: skip
