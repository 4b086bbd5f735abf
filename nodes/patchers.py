"""The core's networks as ComfyUI models, so that its eviction and its free-memory button see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..stableanimator_core.weights import Models

# What is moved together: the parts of one step of the work.
GROUPS = {
    "animator": ("unet", "pose_net", "face_encoder"),
    "vae": ("vae",),
    "image_encoder": ("image_encoder",),
    "face": ("face_embedder", "face_judge"),
}


class StableAnimatorNetworks(nn.Module):
    """Some networks of one model under a name that ComfyUI can log."""

    def __init__(self, parts: dict[str, nn.Module], device: torch.device) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.device = device  # ComfyUI keeps the current device here


class WholePatcher(ModelPatcher):
    """A network that is on the card as a whole or not at all.

    ComfyUI moves only its own layer classes in pieces; ours are diffusers'. Weights are moved outside of inference
    mode, since weights born in it cannot be differentiated through.
    """

    @torch.inference_mode(False)
    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, float("inf"), force_patch_weights=force_patch_weights)

    def partially_unload(self, device_to, memory_to_free=0):
        return 0  # ComfyUI then unloads the whole

    @torch.inference_mode(False)
    def unpatch_model(self, device_to=None, unpatch_weights=True):
        return super().unpatch_model(device_to, unpatch_weights)


@dataclass(frozen=True)
class AnimatorModel:
    """What travels as STABLEANIMATOR_MODEL."""

    models: Models
    patchers: dict[str, WholePatcher]

    @classmethod
    def of(cls, models: Models) -> AnimatorModel:
        """Wrap freshly loaded networks, which stay where they are until a node asks for them."""
        device, offload = model_management.get_torch_device(), model_management.unet_offload_device()
        parts = models.parts()

        def patcher(names: tuple[str, ...]) -> WholePatcher:
            there = {name: parts[name] for name in names if name in parts}  # not every model has a judge
            networks = StableAnimatorNetworks(there, models.device)
            return WholePatcher(networks, device, offload)

        return cls(models, {group: patcher(names) for group, names in GROUPS.items()})

    def load(self, *groups: str, room: float = 0) -> Models:
        """Bring groups of networks onto the device and return the model.

        room: bytes that the coming work takes beside them (room.py): ComfyUI unloads other models for that, too.
        """
        model_management.load_models_gpu([self.patchers[group] for group in groups], memory_required=room)
        return self.models
