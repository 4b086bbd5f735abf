"""The core's networks as ComfyUI models, so that its eviction and its free-memory button see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..stableanimator_core.weights import Models
from ..stableanimator_core.weights.turns import HEAVY, Turns

ALL_BYTES = 1e30  # of a device, as ComfyUI asks for all of it


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


class ComfyTurns(Turns):
    """Networks take turns among all models that ComfyUI knows, and by its rules: what is wanted is asked for together
    with the room for its work, and ComfyUI unloads for it what nobody wants, other packs' models too."""

    def __init__(self, device: torch.device, patchers: dict[nn.Module, WholePatcher], others: WholePatcher) -> None:
        """others: the model's networks that are wanted by all that is done with it."""
        super().__init__(device, list(patchers))
        self.patchers, self.others = patchers, others

    def bring(self, wanted: Sequence[nn.Module], room: float) -> None:
        """`wanted`, and what blocks around this one want; ComfyUI looks what of it is missing."""
        model_management.load_models_gpu(self._needed(self._wanted), memory_required=room)

    def make_room(self) -> bool:
        """Unload every model that nobody wants; whether there were any."""
        needed = self._needed(self._wanted)
        kept = [loaded for loaded in model_management.current_loaded_models if loaded.model in needed]
        return bool(model_management.free_memory(ALL_BYTES, self.device, kept))

    def gain(self, wanted: Sequence[nn.Module]) -> int:
        """How many more bytes would be free if of all models `wanted` alone were on the device; may be below 0."""
        needed = self._needed(wanted)
        loaded = [patcher for patcher in model_management.loaded_models() if patcher is not None]
        leaving = [each for each in loaded if each.load_device == self.device and each not in needed]
        missing = sum(patcher.model_size() - patcher.loaded_size() for patcher in needed)
        return sum(patcher.loaded_size() for patcher in leaving) - missing

    def _needed(self, wanted: Sequence[nn.Module]) -> list[WholePatcher]:
        return [self.others, *(self.patchers[network] for network in wanted)]


@dataclass(frozen=True)
class AnimatorModel:
    """What travels as STABLEANIMATOR_MODEL: networks that take turns on ComfyUI's device."""

    models: Models

    @classmethod
    def of(cls, models: Models) -> AnimatorModel:
        """Wrap freshly loaded networks, which stay where they are until a node asks for them."""
        device, offload = model_management.get_torch_device(), model_management.unet_offload_device()
        parts = models.parts()

        def patcher(*names: str) -> WholePatcher:
            networks = StableAnimatorNetworks({name: parts[name] for name in names}, models.device)
            return WholePatcher(networks, device, offload)

        patchers = {parts[name]: patcher(name) for name in HEAVY}
        others = patcher(*(name for name in parts if name not in HEAVY))
        return cls(replace(models, turns=ComfyTurns(device, patchers, others)))

    def load(self) -> Models:
        """Bring onto the device what all work needs and return the model, whose large networks come when they are
        wanted."""
        with self.models.on_device():
            return self.models
