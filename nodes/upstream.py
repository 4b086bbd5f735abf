"""What the nodes above a node will load, read from the prompt before any of them has run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ..stableanimator_core.errors import WeightsError
from ..stableanimator_core.preflight import Finding, check_missing
from ..stableanimator_core.weights import V1_CONFIG, ModelConfig, available_models, config_of
from ..stableanimator_core.weights.registry import DOWNLOADS, POSES, V1, size_of
from .folders import places
from .model import DTYPES, pick_dtype

LOADER, EXTRACTOR = "StableAnimatorLoadModel", "StableAnimatorExtractPoses"


class Chosen(NamedTuple):
    """The model that a Load Model names."""

    config: ModelConfig
    dtype: torch.dtype


def links(prompt: dict, node: str) -> dict[str, str]:
    """A node's linked inputs: the ids of the nodes behind them."""
    given = prompt.get(node, {}).get("inputs", {})
    return {name: str(value[0]) for name, value in given.items() if isinstance(value, list) and len(value) == 2}


def above(prompt: dict, node: str) -> Iterator[dict]:
    """A node and all that it waits for, the nearest first: {"class_type": ..., "inputs": {...}} of each."""
    waiting, seen = [node], {node}
    for each in waiting:
        if each in prompt:
            yield prompt[each]
        behind = [source for source in links(prompt, each).values() if source not in seen]
        seen.update(behind)
        waiting += dict.fromkeys(behind)


def chosen_model(prompt: dict, node: str) -> Chosen | None:
    """What the nearest Load Model from here on names; None without one, or where its widgets are linked or wrong."""
    given = next((each["inputs"] for each in above(prompt, node) if each["class_type"] == LOADER), {})
    name, dtype = given.get("model"), given.get("dtype")
    known = available_models(places())
    if not isinstance(name, str) or name not in known or not isinstance(dtype, str) or dtype not in DTYPES:
        return None
    model = known[name].model
    try:
        return Chosen(config_of(model), pick_dtype(dtype, model))
    except WeightsError:  # Load Model says why
        return None


def lacking(prompt: dict, node: str) -> list[Finding]:
    """A finding for each node from here on that will not find its files: what is missing, where it belongs, how to
    get it. A note where the node downloads them."""
    return [finding for each in above(prompt, node) for finding in _lacking(each["class_type"], each["inputs"])]


def _lacking(kind: str, given: dict) -> list[Finding]:
    download = given.get("download") is True
    if kind == LOADER and given.get("model") == V1_CONFIG.name:
        return _published(V1, DOWNLOADS["v1"], "Load Model", download)
    if kind == LOADER and (info := available_models(places()).get(str(given.get("model")))) and not info.complete:
        what = f"model {given['model']}: missing in {info.model}: {', '.join(info.missing)}"
        return [Finding("problem", what, "copy these files there, or choose another model in Load Model")]
    if kind == EXTRACTOR and (given.get("detector") == "dwpose" or (download and given.get("detector") == "auto")):
        return _published(POSES, POSES, "Extract Poses", download)
    return []


def _published(needed: Sequence[str], wanted: Sequence[str], node: str, download: bool) -> list[Finding]:
    problems = check_missing(places(), needed, node)
    if not problems or not download:
        return [problem._replace(fix=f"{problem.fix}; or switch download on in {node}") for problem in problems]
    missing = [key for key in wanted if places().find(key) is None]
    what = f"{node} downloads {len(missing)} files first, {size_of(missing)} in all"
    return [Finding("note", what, f"none is needed; they go to {places().models[0]}")]
