"""The only reader and writer of weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor

from ..errors import WeightsError
from .aligner import load_aligner, save_aligner
from .config import ModelConfig
from .folder import ASSETS, BUILT_IN, find_model, read_config, read_part, save_models, save_part
from .networks import OPTIONAL, PARTS, Models, build_models, fill, fill_in_turn, random_models
from .places import Places
from .published import V1_CONFIG, is_published, read_published
from .registry import FILES, V1

__all__ = [
    "ASSETS", "BUILT_IN", "OPTIONAL", "PARTS", "V1_CONFIG", "ModelConfig", "ModelInfo", "Models", "Places",
    "available_models", "build_models", "config_of", "fill_models", "find_model", "load_aligner", "load_models",
    "load_published", "random_models", "read_config", "read_part", "save_aligner", "save_models", "save_part",
]  # fmt: skip


@dataclass(frozen=True)
class ModelInfo:
    """A model that load_models takes, whole or not."""

    model: str | Path  # what load_models is given
    description: str
    missing: tuple[str, ...]  # what it lacks, as paths below a models folder or below its own

    @property
    def complete(self) -> bool:
        return not self.missing


def load_models(
    model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
    places: Places | None = None,
) -> Models:  # fmt: skip
    """Load a model, frozen and in evaluation mode.

    model: the name of a built-in model, "v1" for the published weights, a model folder, or a folder laid out like the
    published weights. dtype: of the weights; None keeps float32, which is what CPUs are fast at.
    places: where published weights are looked for; None takes Places.default().
    A large network for which a CUDA device has no room stays in main memory: see Models.taking_turns.
    Raises WeightsError with the exact file that is missing, damaged or of another model.
    """
    config = config_of(model)
    if config is V1_CONFIG:
        places = places or Places.default()
        if str(model) != V1_CONFIG.name:
            places = replace(places, models=(Path(model),))
        return load_published(config, places.require(*V1), device=device, dtype=dtype)
    folder = find_model(model)
    return _load(config, lambda part: (read_part(folder, part), folder / part), device, dtype)


def config_of(model: str | Path) -> ModelConfig:
    """The configuration of what load_models would load; V1_CONFIG itself for published weights. Raises WeightsError."""
    if str(model) == V1_CONFIG.name or is_published(Path(model)):
        return V1_CONFIG
    return read_config(find_model(model))


def load_published(
    config: ModelConfig, files: Mapping[str, Path], *, device: str | torch.device, dtype: torch.dtype | None
) -> Models:
    """Load networks of `config` from published files by part, as Places.require gives them. Raises WeightsError."""
    return _load(config, lambda part: (read_published(files[part], part, config), files[part]), device, dtype)


def available_models(places: Places) -> dict[str, ModelInfo]:
    """Every model by the name for a menu: the built-in ones, v1 (complete or not), and the model folders in places."""
    models = {name: _folder_info(name, folder) for name, folder in BUILT_IN.items()}
    missing = tuple(FILES[key].path for key in V1 if places.find(key) is None)
    models[V1_CONFIG.name] = ModelInfo(V1_CONFIG.name, V1_CONFIG.description, missing)
    for root in places.models:
        for config in sorted(root.glob("*/config.json")):
            models.setdefault(config.parent.name, _folder_info(config.parent, config.parent))
    return models


def fill_models(models: Models, folder: Path) -> None:
    """Load the parts that a folder has into float32 networks, for training to go on. Raises WeightsError."""
    config = read_config(folder)
    for part, module in models.parts().items():
        if list(folder.glob(f"{part}*.safetensors")):
            fill(module, read_part(folder, part), folder / part, torch.float32)
    models.vae.register_to_config(scaling_factor=config.parts["vae"]["scaling_factor"])


def _load(
    config: ModelConfig, read: Callable[[str], tuple[dict[str, Tensor], Path]], device: str | torch.device,
    dtype: torch.dtype | None,
) -> Models:  # fmt: skip
    """Networks of `config`, filled with what `read(part)` gives: the state dict, and where it comes from."""
    with torch.inference_mode(False):  # weights created in inference mode can't be differentiated through (HJB)
        with init_empty_weights():
            models = build_models(config)
        return fill_in_turn(models, device, lambda part, network: fill(network, *read(part), dtype or torch.float32))


def _folder_info(model: str | Path, folder: Path) -> ModelInfo:
    """A model folder for the menu; one whose settings are broken is listed with the reason."""
    try:
        config = read_config(folder)
    except WeightsError as error:
        return ModelInfo(model, str(error), ("config.json",))
    missing = (f"{part}.safetensors" for part in config.parts if not any(folder.glob(f"{part}*.safetensors")))
    return ModelInfo(model, config.description, tuple(missing))
