"""StableAnimatorLoadModel."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy import model_management
from comfy_api.latest import io

from ..stableanimator_core.errors import WeightsError
from ..stableanimator_core.weights import V1_CONFIG, available_models, find_model, load_models
from ..stableanimator_core.weights.registry import DOWNLOADS, V1, size_of
from .desk import HIDDEN, Notes
from .errors import one_line_errors
from .folders import places
from .patchers import AnimatorModel
from .progress import provide
from .wire import CATEGORY, Model

DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SMALL = 512 << 20  # bytes of weights: below, half precision saves nothing that counts


class StableAnimatorLoadModel(io.ComfyNode):
    """Networks of one model, on the card only while a node uses them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        models = list(available_models(places()))
        return io.Schema(
            node_id="StableAnimatorLoadModel",
            display_name="StableAnimator++ Load Model",
            category=CATEGORY,
            description="Loads the networks that animate. 'mini' is built in and needs no download.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=models,
                    default=models[0],
                    tooltip="'mini' is built in: cartoon performers at 192x192. 'v1' is the published StableAnimator, "
                    f"for people in photographs: {_published_state()}. Folders with a config.json under "
                    "models/stableanimator (extra_model_paths.yaml too) come after them; press R to look again.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Precision of the weights. auto: fp32 for small models and on a CPU, "
                    "else what ComfyUI would choose for this card. fp32 takes twice the memory of fp16.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip="On: the published files that are missing are downloaded before the first run. "
                    "Off: nothing is ever downloaded; an error names the files.",
                ),
            ],
            outputs=[Model.Output("model_out", display_name="model", tooltip="For EncodeFace, Sample and Decode.")],
            hidden=HIDDEN,
        )

    @classmethod
    @one_line_errors
    def execute(cls, model: str, dtype: str, download: bool = False) -> io.NodeOutput:
        found = available_models(places())
        if model not in found or dtype not in DTYPES:
            known = ", ".join(found if model not in found else DTYPES)
            raise WeightsError(f"'{model}' as {dtype} is not on the list; choose one of {known} (R looks again)")
        notes = Notes(cls.hidden)
        if model == V1_CONFIG.name:
            provide(DOWNLOADS["v1"] if download else V1, download, notes)
        chosen = found[model].model
        loaded = load_models(chosen, dtype=pick_dtype(dtype, chosen), places=places())
        return io.NodeOutput(AnimatorModel.of(loaded), ui=notes.ui)


def _published_state() -> str:
    """Whether the published weights are here, for the menu's tooltip."""
    missing = [key for key in V1 if places().find(key) is None]
    if not missing:
        return "all its files are here"
    return f"{len(missing)} of its {len(V1)} files are missing ({size_of(missing)} to download)"


def pick_dtype(dtype: str, model: str | Path) -> torch.dtype:
    """One of DTYPES; auto is fp32 for a small model, else ComfyUI's choice for this device."""
    if DTYPES[dtype] is not None:
        return DTYPES[dtype]
    if model != V1_CONFIG.name:
        size = sum(file.stat().st_size for file in find_model(model).rglob("*.safetensors"))
        if size < SMALL:
            return torch.float32
    chosen = model_management.unet_dtype()
    return chosen if chosen in (torch.float16, torch.bfloat16, torch.float32) else torch.float16  # no float8 here
