"""Where models lie: the built-in ones and the folders under models/stableanimator (and extra_model_paths)."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..stableanimator_core.weights import BUILT_IN

FOLDER_KEY = "stableanimator"
EXTENSIONS = {".safetensors", ".pth", ".onnx"}


def register_model_folder() -> None:
    """Make `models/stableanimator` known to ComfyUI, beside what extra_model_paths.yaml already added."""
    folder_paths.add_model_folder_path(FOLDER_KEY, str(Path(folder_paths.models_dir) / FOLDER_KEY))
    folder_paths.folder_names_and_paths[FOLDER_KEY][1].update(EXTENSIONS)


def list_models() -> dict[str, str | Path]:
    """Name in the menu -> what the core loads: built-in models first, then every folder that holds a model."""
    models: dict[str, str | Path] = {name: name for name in BUILT_IN}
    for root in folder_paths.get_folder_paths(FOLDER_KEY):
        for config in sorted(Path(root).glob("*/config.json")):
            models.setdefault(config.parent.name, config.parent)
    return models
