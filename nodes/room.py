"""What a node's work takes of the card beside its networks, for ComfyUI to make room: as Preflight plans it.

Looking at faces takes less than the 0.8 GiB that ComfyUI keeps free by itself, so Encode Face and Identity Score ask
for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from comfy import model_management
from torch import Tensor

from ..stableanimator_core.evaluation.plan import SPARE_GIB, MemoryPlan, plan_decoding, plan_memory, weights_gib
from ..stableanimator_core.hjb_settings import HJBConfig
from ..stableanimator_core.keypoints import Poses
from ..stableanimator_core.memory import GIB
from ..stableanimator_core.pipeline import SamplingConfig, place_motion
from ..stableanimator_core.vae import cell_size
from ..stableanimator_core.weights import Models


def plan_here(
    models: Models, motion: Poses, settings: SamplingConfig, hjb: HJBConfig, frames: Sequence[int]
) -> MemoryPlan:
    """The plan of making these frames on the card that ComfyUI uses."""
    faces = place_motion(models.config, motion, settings, frames)[2]
    return plan_memory(models, settings, hjb, faces, card_gib(), device=model_management.get_torch_device())


def room_to_decode(models: Models, latents: Tensor, chunk: int) -> float:
    """Bytes for decoding latents, [F, 4, h, w], so many frames at once."""
    height, width = (cell_size(models.vae) * cells for cells in latents.shape[-2:])
    rest = (card_gib() - weights_gib(models.vae) - SPARE_GIB) * GIB
    device = model_management.get_torch_device()
    return plan_decoding(models.vae, width, height, min(chunk, len(latents)), rest, device=device)[2] * GIB


def card_gib() -> float:
    """All memory of the device that ComfyUI computes on; of a CPU, the machine's."""
    return model_management.get_total_memory(model_management.get_torch_device()) / GIB
