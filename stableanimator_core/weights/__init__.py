"""The only reader and writer of weight files."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights

from .config import ModelConfig
from .folder import ASSETS, BUILT_IN, find_model, read_config, read_part, save_models, save_part
from .networks import OPTIONAL, PARTS, Models, build_models, fill

__all__ = [
    "ASSETS", "BUILT_IN", "OPTIONAL", "PARTS", "ModelConfig", "Models", "build_models", "fill_models", "find_model",
    "load_models", "read_config", "read_part", "save_models", "save_part",
]  # fmt: skip


def load_models(model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Models:
    """Load a built-in model by name or a model folder, frozen and in evaluation mode.

    dtype: of the weights; None keeps float32, which is what CPUs are fast at.
    Raises WeightsError with the exact file that is missing, damaged or of another model.
    """
    folder = find_model(model)
    config = read_config(folder)
    with torch.inference_mode(False):  # weights created in inference mode can't be differentiated through (HJB)
        with init_empty_weights():
            models = build_models(config)
        for part, module in models.parts().items():
            fill(module, read_part(folder, part), folder / part, dtype or torch.float32)
            module.requires_grad_(False).eval()
        return models.to(device)


def fill_models(models: Models, folder: Path) -> None:
    """Load the parts that a folder has into float32 networks, for training to go on. Raises WeightsError."""
    config = read_config(folder)
    for part, module in models.parts().items():
        if list(folder.glob(f"{part}*.safetensors")):
            fill(module, read_part(folder, part), folder / part, torch.float32)
    models.vae.register_to_config(scaling_factor=config.parts["vae"]["scaling_factor"])
