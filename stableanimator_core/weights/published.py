"""The published StableAnimator v1: what its networks are, and its files as state dicts."""

from __future__ import annotations

from pathlib import Path

from .config import ModelConfig
from .convert import State, read_kept, read_safetensors, read_weights
from .onnx_embedder import read_embedder
from .single_file import PREFIX, is_single_file, read_single_file

V1_CONFIG = ModelConfig(
    name="v1",
    description="StableAnimator v1 as published (2024), on Stable Video Diffusion XT",
    width=512,
    height=512,
    sizes=((576, 1024),),
    size_multiple=64,
    pose_canvas=2160,
    face_scale=1.5,
    face_crop="arcface",
    context_window=16,
    context_overlap=4,
    fps=7,
    motion_bucket=127,
    noise_augmentation=0.02,
    sigma_min=0.002,
    sigma_max=700.0,
    steps=25,
    guidance=(3.0, 3.0),
    hjb={"iterations": 3, "first_step": 0, "last_step": 20, "lr": 0.1},
    parts={
        "unet": {
            "sample_size": 96,
            "in_channels": 8,
            "out_channels": 4,
            "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
            "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
            "block_out_channels": [320, 640, 1280, 1280],
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 768,
            "layers_per_block": 2,
            "cross_attention_dim": 1024,
            "transformer_layers_per_block": 1,
            "num_attention_heads": [5, 10, 20, 20],
            "num_frames": 25,
        },
        "pose_net": {"noise_latent_channels": 320},
        "face_encoder": {"cross_attention_dim": 1024, "id_embeddings_dim": 512, "clip_embeddings_dim": 1024},
        "face_embedder": {"layers": [3, 13, 30, 3], "embedding_dim": 512, "input_size": 112, "head": "fc"},
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 768,
            "scaling_factor": 0.18215,
            "force_upcast": True,
        },
        "image_encoder": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "projection_dim": 1024,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "gelu",
        },
    },
)


def is_published(folder: Path) -> bool:
    """Whether a folder is laid out like the published weights: Animation/, SVD/, ..."""
    return (folder / "Animation").is_dir()


def read_published(path: Path, part: str, config: ModelConfig) -> State:
    """State dict of one part from any of the files that Places finds for it. Raises WeightsError naming the file."""
    if path.suffix == ".onnx":
        layers = config.parts[part]["layers"]
        return read_kept(path, lambda file: read_embedder(file, layers))
    if part in PREFIX and path.suffix == ".safetensors":
        state = read_single_file(path, part) if is_single_file(path, part) else read_safetensors(path)
        state.pop("vision_model.embeddings.position_ids", None)  # earlier versions of transformers stored 0, 1, 2, ...
        return state
    return read_weights(path)
