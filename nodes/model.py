"""StableAnimatorLoadModel."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy import model_management
from comfy_api.latest import io

from ..stableanimator_core.errors import WeightsError
from ..stableanimator_core.weights import find_model, load_models
from .errors import one_line_errors
from .folders import list_models
from .patchers import AnimatorModel
from .wire import CATEGORY, Model

DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SMALL = 512 << 20  # bytes of weights: below, half precision saves nothing that counts


class StableAnimatorLoadModel(io.ComfyNode):
    """Networks of one model, on the card only while a node uses them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        models = list(list_models())
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
                    tooltip="'mini' is built in: cartoon performers at 160x160. Folders under models/stableanimator "
                    "(extra_model_paths.yaml too) that hold a config.json are listed after it; press R to look again.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Precision of the weights. auto: fp32 for small models and on a CPU, "
                    "else what ComfyUI would choose for this card. fp32 takes twice the memory of fp16.",
                ),
            ],
            outputs=[Model.Output("model_out", display_name="model", tooltip="For EncodeFace, Sample and Decode.")],
        )

    @classmethod
    @one_line_errors
    def execute(cls, model: str, dtype: str) -> io.NodeOutput:
        found = list_models()
        if model not in found or dtype not in DTYPES:
            known = ", ".join(found if model not in found else DTYPES)
            raise WeightsError(f"'{model}' as {dtype} is not on the list; choose one of {known} (R looks again)")
        folder = find_model(found[model])
        return io.NodeOutput(AnimatorModel.of(load_models(folder, dtype=DTYPES[dtype] or _auto_dtype(folder))))


def _auto_dtype(folder: Path) -> torch.dtype:
    """fp32 for a small model, else ComfyUI's choice for this device."""
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    if size < SMALL:
        return torch.float32
    chosen = model_management.unet_dtype()
    return chosen if chosen in (torch.float16, torch.bfloat16, torch.float32) else torch.float16  # no float8 here
