"""Model folders: what this project trains and ships.

A model folder holds `config.json` (what the networks are, how they were trained, good settings) and, for every part,
`<part>.safetensors` or its shards `<part>-00001-of-00002.safetensors`. The built-in model `mini` is such a folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import WeightsError
from .config import ModelConfig
from .networks import OPTIONAL, PARTS, Models
from .published import V1_CONFIG

ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN = {"mini": ASSETS / "mini"}
SHARD_BYTES = 15 << 20
FORMAT = 1


def find_model(model: str | Path) -> Path:
    """The model folder of a built-in model's name or of a path. Raises WeightsError naming what exists."""
    folder = BUILT_IN.get(str(model), Path(model))
    if not (folder / "config.json").is_file():
        known = ", ".join([*BUILT_IN, V1_CONFIG.name])
        raise WeightsError(
            f"unknown model '{model}': no such model ({known}) and neither config.json nor Animation/ in such a folder"
        )
    return folder


def read_config(folder: Path) -> ModelConfig:
    """Read and check a model folder's config.json."""
    path = folder / "config.json"
    try:
        data = dict(json.loads(path.read_text(encoding="utf-8")))
        version = data.pop("format")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not a model configuration ({error!r})") from error
    if version != FORMAT:
        raise WeightsError(f"{path}: format {version}, this version reads {FORMAT}; update StableAnimator++")
    try:
        config = ModelConfig(**data)
    except (TypeError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from error
    if not isinstance(config.parts, dict) or not all(isinstance(part, dict) for part in config.parts.values()):
        raise WeightsError(f"{path}: parts are {config.parts!r}, needed are the settings of each network by its name")
    missing = set(PARTS) - OPTIONAL - set(config.parts)
    if missing or set(config.parts) - set(PARTS):
        raise WeightsError(f"{path}: parts are {sorted(config.parts)}, needed are {sorted(set(PARTS) - OPTIONAL)}")
    return config


def read_part(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """State dict of one part, from one file or its shards."""
    files = sorted(folder.glob(f"{part}-*-of-*.safetensors")) or [folder / f"{part}.safetensors"]
    shards = int(files[0].stem.rsplit("-", 1)[-1]) if "-of-" in files[0].stem else 1
    if len(files) != shards:
        raise WeightsError(f"{folder}: {len(files)} of {shards} shards of {part} are there; copy the folder again")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state.update(load_file(file))
        except FileNotFoundError as error:
            raise WeightsError(f"{file}: missing; copy the model folder again") from error
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: damaged ({error}); copy the model folder again") from error
    return state


def save_models(models: Models, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a model folder that load_models reads: config.json and every part, in shards under 16 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, module in models.parts().items():
        save_part(module, folder, part, dtype=dtype)
    config = asdict(models.config)
    config["parts"]["vae"]["scaling_factor"] = models.vae.config.scaling_factor  # measured in training
    text = json.dumps({"format": FORMAT, **config}, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def save_part(module: nn.Module, folder: Path, part: str, *, dtype: torch.dtype = torch.float16) -> None:
    """Write one part; shards of at most 16 MiB, so that every file is easy to move."""
    for old in [*folder.glob(f"{part}.safetensors"), *folder.glob(f"{part}-*-of-*.safetensors")]:
        old.unlink()
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in module.state_dict().items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    for i, shard in enumerate(shards, 1):
        name = part if len(shards) == 1 else f"{part}-{i:05d}-of-{len(shards):05d}"
        save_file(shard, folder / f"{name}.safetensors")
