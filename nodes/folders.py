"""Where models lie: built in, under models/stableanimator (and extra_model_paths), and in other packs' folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..stableanimator_core.errors import WeightsError
from ..stableanimator_core.weights import Places

FOLDER_KEY = "stableanimator"
EXTENSIONS = {".safetensors", ".pth", ".onnx"}


def register_model_folder() -> None:
    """Make `models/stableanimator` known to ComfyUI, beside what extra_model_paths.yaml already added."""
    folder_paths.add_model_folder_path(FOLDER_KEY, str(Path(folder_paths.models_dir) / FOLDER_KEY))
    folder_paths.folder_names_and_paths[FOLDER_KEY][1].update(EXTENSIONS)


def places() -> Places:
    """Where the published files may lie, as ComfyUI is set up now; downloads go into the first models folder."""
    insightface = [Path(folder_paths.models_dir) / "insightface"]
    if "insightface" in folder_paths.folder_names_and_paths:  # registered by packs that use it
        insightface += [Path(path) for path in folder_paths.get_folder_paths("insightface")]
    models = [Path(path) for path in folder_paths.get_folder_paths(FOLDER_KEY)]
    try:
        models += Places.default().models  # where the command line downloads
    except WeightsError:  # its variable names a file, as the command line says; menus must open all the same
        pass
    return Places(
        models=tuple(dict.fromkeys(models)),
        insightface=tuple(dict.fromkeys(insightface)),
        checkpoints=tuple(Path(path) for path in folder_paths.get_folder_paths("checkpoints")),
    )
