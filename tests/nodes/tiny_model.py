"""A model folder with random weights: a second of sampling, nothing to look at."""

from __future__ import annotations

from pathlib import Path

import torch

from stableanimator_core.weights import ModelConfig, build_models, save_models

SIZE = 64
CELL = 8
STEPS = 3
FPS = 7


def tiny_config(name: str = "tiny", *, face_width: int = 32) -> ModelConfig:
    """The smallest model that has every part."""
    cross, plain = "CrossAttn{}BlockSpatioTemporal", "{}BlockSpatioTemporal"
    embedder = {
        "layers": [1, 1, 1, 1],
        "widths": [8, 16, 16, 32],
        "embedding_dim": face_width,
        "input_size": 64,
        "head": "depthwise",
    }
    return ModelConfig(
        name=name,
        description="Random weights for tests",
        width=SIZE,
        height=SIZE,
        size_multiple=32,
        pose_canvas=512,
        face_scale=1.5,
        context_window=8,
        context_overlap=2,
        fps=FPS,
        motion_bucket=127,
        noise_augmentation=0.02,
        sigma_min=0.02,
        sigma_max=80.0,
        steps=STEPS,
        guidance=(1.5, 1.5),
        hjb={"iterations": 2, "first_step": 1, "last_step": 1, "lr": 0.1},
        parts={
            "unet": {
                "sample_size": SIZE // CELL,
                "in_channels": 8,
                "out_channels": 4,
                "down_block_types": [cross.format("Down"), plain.format("Down")],
                "up_block_types": [plain.format("Up"), cross.format("Up")],
                "block_out_channels": [32, 64],
                "addition_time_embed_dim": 32,
                "projection_class_embeddings_input_dim": 96,
                "layers_per_block": 1,
                "cross_attention_dim": 64,
                "num_attention_heads": [1, 2],
                "num_frames": 8,
            },
            "pose_net": {"noise_latent_channels": 32},
            "face_encoder": {"cross_attention_dim": 64, "id_embeddings_dim": face_width, "clip_embeddings_dim": 64},
            "face_embedder": embedder,
            "face_judge": embedder,
            "vae": {
                "in_channels": 3,
                "out_channels": 3,
                "down_block_types": ["DownEncoderBlock2D"] * 4,
                "block_out_channels": [32, 32, 32, 32],
                "layers_per_block": 1,
                "latent_channels": 4,
                "sample_size": SIZE,
                "scaling_factor": 0.5,
            },
            "image_encoder": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "projection_dim": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
        },
    )


def write_tiny_model(folder: Path, **config) -> Path:
    """Write the model and return its folder. config: see tiny_config."""
    torch.manual_seed(0)
    save_models(build_models(tiny_config(folder.name, **config)), folder)
    return folder
