"""Where published weights lie: folders, accepted spellings, and what to say when a file is missing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError
from ..files import PROGRAM, fault_of
from .registry import FILES, GROUPS, size_text

PACK = Path(__file__).absolute().parents[2]  # not resolved: a linked pack still lies in its ComfyUI
ENVIRONMENT = "STABLEANIMATOR_MODELS"

SVD_FOLDERS = ("SVD", "SVD/stable-video-diffusion-img2vid-xt", "stable-video-diffusion-img2vid-xt")
ANTELOPE_FOLDERS = ("antelopev2", "antelopev2/antelopev2", "models/antelopev2", "models/antelopev2/antelopev2")
SINGLE_FILE = "svd_xt.safetensors"
FROM_SINGLE_FILE = ("vae", "image_encoder")


def _spellings(key: str) -> tuple[str, ...]:
    """Every accepted path of a file below a models folder, the preferred first."""
    path = FILES[key].path
    if key in FROM_SINGLE_FILE:
        below = path.removeprefix("SVD/")
        halved = below.replace(".safetensors", ".fp16.safetensors")
        diffusers = [f"{folder}/{name}" for folder in SVD_FOLDERS for name in (below, halved)]
        return (*diffusers, *(f"{folder}/{SINGLE_FILE}" for folder in SVD_FOLDERS), SINGLE_FILE)
    if key == "face_detector":
        return tuple(f"{folder}/{Path(path).name}" for folder in ANTELOPE_FOLDERS)
    converted = (path.replace(".pth", ".safetensors"), path) if path.endswith(".pth") else (path,)
    return converted + _insightface_spellings(key)


def _insightface_spellings(key: str) -> tuple[str, ...]:
    """Accepted paths below ComfyUI's models/insightface; the nested folder is a classic of broken downloads."""
    names = {"face_detector": ["scrfd_10g_bnkps.onnx"], "face_embedder": ["glintr100.safetensors"]}
    if importlib.util.find_spec("onnx"):  # without that package it cannot be read, only what was made of it before
        names["face_embedder"].append("glintr100.onnx")
    return tuple(f"{folder}/{name}" for folder in ANTELOPE_FOLDERS for name in names.get(key, ()))


@dataclass(frozen=True)
class Places:
    """Folders that may hold published weights."""

    models: tuple[Path, ...]  # like ComfyUI/models/stableanimator; the first one receives downloads
    insightface: tuple[Path, ...] = ()  # like ComfyUI/models/insightface
    checkpoints: tuple[Path, ...] = ()  # like ComfyUI/models/checkpoints, for svd_xt.safetensors
    notes: tuple[str, ...] = ()  # what was wrong with the settings that name the folders

    @classmethod
    def default(cls, folder: Path | None = None) -> Places:
        """The given folder; else that of STABLEANIMATOR_MODELS; else those of the ComfyUI that the pack lies in; else
        stableanimator/models in the user's cache. Raises WeightsError when the folder is a file."""
        given = folder or os.environ.get(ENVIRONMENT)
        if given:
            path = Path(given).expanduser()
            if path.exists() and not path.is_dir():
                source = "--models" if folder else ENVIRONMENT
                raise WeightsError(f"{path} is no folder; {source} takes the folder that holds Animation/, SVD/, ...")
            return cls((path,))
        comfy = PACK.parent.parent
        if PACK.parent.name == "custom_nodes" and (comfy / "folder_paths.py").is_file():
            return _comfy_places(comfy)
        return cls((_cache_home() / "stableanimator" / "models",))

    def find(self, key: str) -> Path | None:
        """The file of this registry key in any accepted spelling, or None. Folders in their order, first hit wins;
        what is no weights at first sight (empty, a web page, a Git LFS pointer) is no hit."""
        return next((path for path in self._candidates(key) if path.is_file() and not fault_of(path)), None)

    def require(self, *keys: str) -> dict[str, Path]:
        """The files of these keys. Raises WeightsError, in one line: what is missing, where it belongs, the command."""
        found = {key: self.find(key) for key in keys}
        missing = [key for key, path in found.items() if path is None]
        if missing:
            raise WeightsError(f"{self.describe_missing(missing)}; fetch with: {self.fetch_command(missing)}")
        return {key: path for key, path in found.items() if path is not None}

    def describe_missing(self, keys: list[str]) -> str:
        """Half a line: these files are missing and where they belong."""
        names = ", ".join(FILES[key].path for key in keys)
        text = f"missing in {self.models[0]}: {names}"
        faults = [fault for key in keys for fault in self._faults(key)]
        return f"{text} ({', '.join(faults)})" if faults else text

    def describe_each(self, keys: list[str]) -> tuple[str, ...]:
        """A line for each of these missing files: where it belongs in the folder, its size, its page on the hub."""
        return tuple(
            ", but ".join((f"{file.path}, {size_text(file.size)}: {file.page}", *self._faults(file.key)))
            for file in (FILES[key] for key in keys)
        )

    def fetch_command(self, keys: list[str]) -> str:
        """The command that fetches these files into the first models folder."""
        groups = [name for name, members in GROUPS.items() if set(members) & set(keys)]
        command = f"{PROGRAM} weights download {' '.join(groups)}"
        return command if self.models == Places.default().models else f'{command} --models "{self.models[0]}"'

    def _faults(self, key: str) -> list[str]:
        """What lies in places of a missing file and is none."""
        return [f"{path} {fault_of(path)}" for path in self._candidates(key) if path.is_file()]

    def _candidates(self, key: str) -> Iterator[Path]:
        for folder in self.models:
            yield from (folder / spelling for spelling in _spellings(key))
        for folder in self.insightface:
            yield from (folder / spelling for spelling in _insightface_spellings(key))
        if key in FROM_SINGLE_FILE:
            for folder in self.checkpoints:
                yield folder / SINGLE_FILE
                yield from sorted(folder.glob(f"*/{SINGLE_FILE}"))


def _cache_home() -> Path:
    """The user's folder for files that can be fetched again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _comfy_places(comfy: Path) -> Places:
    """The model folders of a ComfyUI, with what its extra_model_paths.yaml adds."""
    keys = ("stableanimator", "insightface", "checkpoints")
    folders = {key: [comfy / "models" / key] for key in keys}
    settings = comfy / "extra_model_paths.yaml"
    notes = []
    if settings.is_file():
        try:
            for key, path, first in _extra_paths(settings):
                if key in folders and path not in folders[key]:
                    folders[key].insert(0 if first else len(folders[key]), path)
        except (OSError, ValueError, ImportError) as error:
            notes = [f"{settings} cannot be read and is ignored ({' '.join(str(error).split())})"]
    return Places(*(tuple(folders[key]) for key in keys), notes=tuple(notes))


def _extra_paths(settings: Path) -> Iterator[tuple[str, Path, bool]]:
    """(key, folder, whether it goes first) of an extra_model_paths.yaml, by ComfyUI's rules. Raises ValueError."""
    import yaml

    try:
        sections = yaml.safe_load(settings.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if sections is None:
        return
    if not isinstance(sections, dict):
        raise ValueError(f"it holds a {type(sections).__name__}, not sections")
    for section in sections.values():
        if not isinstance(section, dict):
            continue
        base = os.path.expandvars(os.path.expanduser(str(section.get("base_path") or "")))
        for key, lines in section.items():
            if key in ("base_path", "is_default") or not isinstance(lines, str):
                continue
            for line in filter(None, map(str.strip, lines.splitlines())):
                path = Path(os.path.normpath(settings.parent.absolute() / base / line))
                yield key, path, bool(section.get("is_default"))
