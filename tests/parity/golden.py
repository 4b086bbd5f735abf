"""Where the golden files are: the folder in STABLEANIMATOR_GOLDEN, by default the copy beside these tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("STABLEANIMATOR_GOLDEN") or Path(__file__).parent / "golden")


def golden_path(name: str) -> Path:
    """Path of a golden file or folder, e.g. golden_path("pose_draw/index.json")."""
    return GOLDEN / name


class Case(NamedTuple):
    """A recorded run: what went in, the weights, what came out, and the hyper-parameters beside it."""

    inputs: dict[str, Tensor]
    weights: dict[str, Tensor]
    outputs: dict[str, Tensor]
    config: dict[str, Any]


def load_json(name: str) -> Any:
    """Contents of a golden JSON file, e.g. load_json("state_dict_keys/summary.json")."""
    return json.loads(golden_path(name).read_text())


def load_case(name: str) -> Case:
    """The tensors of `<name>.safetensors` by their prefixes, and `<name>.json`."""
    tensors = load_file(golden_path(f"{name}.safetensors"))
    return Case(*(with_prefix(tensors, f"{part}.") for part in Case._fields[:3]), load_json(f"{name}.json"))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key starts with the prefix, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
