"""How fast earlier runs on this machine were, kept in ComfyUI's user folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import folder_paths
import torch
from comfy import model_management

from ..stableanimator_core.evaluation.estimate import Speed
from ..stableanimator_core.hjb_settings import HJBConfig
from ..stableanimator_core.pipeline import SamplingConfig

KEPT = 64  # kinds of runs, the latest


def kind_of(model: str, dtype: torch.dtype, settings: SamplingConfig, hjb: HJBConfig) -> str:
    """What runs must have in common to be as fast: the name that a speed is kept under."""
    device = model_management.get_torch_device_name(model_management.get_torch_device())
    halves = 1 if settings.guidance == (1, 1) else 2
    size = f"{settings.width}x{settings.height}"
    return f"{model} {str(dtype).removeprefix('torch.')} {size} guidance {halves} decode {hjb.decode} on {device}"


def recall(kind: str) -> Speed | None:
    """The speed of the last run of a kind."""
    kept = _read().get(kind)
    return None if kept is None else Speed(*kept)


def record(kind: str, speed: Speed) -> None:
    """Keep a speed for runs to come; what it does not tell stays as it was. A folder that cannot be written is left."""
    kept = _read()
    before = kept.pop(kind, None)
    if before is not None and speed.iteration is None:
        speed = speed._replace(iteration=before[2])
    kept[kind] = list(speed)
    file = _file()
    fresh = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(dict(list(kept.items())[-KEPT:]), indent=1), encoding="utf-8")
        fresh.replace(file)
    except OSError:
        pass


def _file() -> Path:
    return Path(folder_paths.get_user_directory()) / "stableanimator" / "speed.json"


def _read() -> dict[str, list[float | None]]:
    """All that is kept; nothing where the file is missing or spoilt."""
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = kept.items() if isinstance(kept, dict) else ()
    return {kind: speed for kind, speed in entries if _is_speed(speed)}


def _is_speed(value: object) -> bool:
    if not isinstance(value, list) or len(value) != len(Speed._fields):
        return False
    *known, last = value
    return all(isinstance(each, float) for each in known) and isinstance(last, float | None)
