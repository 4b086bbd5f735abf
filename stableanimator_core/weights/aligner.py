"""The alignment network's folder: config.json (how the network is built) and aligner.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..alignment.network import AlignmentNet
from ..errors import WeightsError
from .folder import ASSETS, FORMAT, read_part, save_part
from .networks import fill

PART = "aligner"
BUILT_IN_ALIGNER = ASSETS / PART


def save_aligner(net: AlignmentNet, folder: Path) -> None:
    """Write a folder that load_aligner reads. Weights are stored in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    save_part(net, folder, PART)
    text = json.dumps({"format": FORMAT, **net.config}, indent=1)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def load_aligner(folder: str | Path | None = None) -> AlignmentNet:
    """The network of a folder, or the one that is shipped: on the CPU, in float32, frozen and in evaluation mode.

    Raises WeightsError with the file that is missing, damaged or of another network.
    """
    folder = BUILT_IN_ALIGNER if folder is None else Path(folder)
    # Weights created in inference mode serve nowhere else; drawing them anew moves nobody's generator.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        net = _build(folder / "config.json")
        fill(net, read_part(folder, PART), folder / f"{PART}.safetensors", torch.float32)
    return net.requires_grad_(False).eval()


def _build(path: Path) -> AlignmentNet:
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
        version = settings.pop("format")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: missing; give the folder of an alignment network") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not the configuration of an alignment network ({error!r})") from error
    if version != FORMAT:
        raise WeightsError(f"{path}: format {version}, this version reads {FORMAT}; update StableAnimator++")
    try:
        return AlignmentNet(**settings)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its settings make no alignment network: {error}") from error
