"""The networks of one model, and how they are built and filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..errors import WeightsError
from ..models.face_encoder import FaceEncoder
from ..models.frozen import freeze
from ..models.iresnet import IResNet
from ..models.pose_net import PoseNet
from ..models.unet import AnimatorUNet
from .config import ModelConfig
from .turns import HEAVY, MAIN_MEMORY, Turns, bytes_of, has_room


@dataclass(frozen=True)
class Models:
    """The networks of one model, in evaluation mode, frozen."""

    unet: AnimatorUNet
    pose_net: PoseNet
    face_encoder: FaceEncoder
    face_embedder: IResNet
    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection
    config: ModelConfig
    face_judge: IResNet | None = None  # scores identity; the optimisation never sees it
    turns: Turns | None = None  # of HEAVY on a card that may be too small for both; None: nothing moves by itself

    def parts(self) -> dict[str, nn.Module]:
        """Every network by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def to(self, device: str | torch.device) -> Models:
        """Move every network in place and return self. Raises ValueError where they take turns: those stay with their
        device."""
        if self.turns is not None:
            raise ValueError(f"networks take turns on {self.turns.device} and can't move to {device}; load them there")
        for module in self.parts().values():
            module.to(device)
        return self

    def taking_turns(self, device: torch.device | None = None) -> Models:
        """The same networks, on a CUDA device free to leave it for one another; elsewhere self. Not for training.

        device: that they will be on; None: where they are.
        """
        device = device or next(self.vae.parameters()).device
        heavy = [getattr(self, name) for name in HEAVY]
        return replace(self, turns=Turns(device, heavy)) if device.type == "cuda" else self

    @contextmanager
    def on_device(self, *names: str, room: float = 0.0) -> Iterator[None]:
        """Within the block these of HEAVY are on the device, beside about so many free bytes if that can be had.

        Where networks take turns, those that no block wants leave for main memory if there is no room for both, and
        come back by their next block. Raises torch.OutOfMemoryError for a network that does not fit.
        """
        if self.turns is None:
            yield
        else:
            with self.turns.holding([getattr(self, name) for name in names], room):
                yield

    def make_room(self) -> bool:
        """Give the device memory of networks that no block of `on_device` wants; whether there were any."""
        return self.turns is not None and self.turns.make_room()

    def gain(self, *names: str) -> int:
        """How many more bytes than now are free within `on_device(*names)` at most; may be below 0."""
        if self.turns is None:
            return 0
        return self.turns.gain([getattr(self, name) for name in names])

    def bytes_here(self) -> int:
        """What the networks take that are on the device now."""
        away = [] if self.turns is None else [part for part in self.turns.networks if not self.turns.holds(part)]
        return sum(bytes_of(part) for part in self.parts().values() if part not in away)

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        return next(self.unet.parameters()).device if self.turns is None else self.turns.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype


PARTS = {
    "unet": AnimatorUNet,
    "pose_net": PoseNet,
    "face_encoder": FaceEncoder,
    "face_embedder": IResNet,
    "face_judge": IResNet,
    "vae": AutoencoderKLTemporalDecoder,
    "image_encoder": lambda **config: CLIPVisionModelWithProjection(CLIPVisionConfig(**config)),
}
OPTIONAL = {"face_judge"}


def build_models(config: ModelConfig) -> Models:
    """The networks of `config` with fresh weights. Raises WeightsError naming the part whose settings are wrong."""
    networks: dict[str, nn.Module] = {}
    for part, settings in config.parts.items():
        try:
            networks[part] = PARTS[part](**settings)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
            reason = str(error).partition("\n")[0]
            where = f"model '{config.name}': the settings of its {part}"
            raise WeightsError(f"{where} make no network: {reason}") from error
    for adapter in networks["unet"].id_adapters():
        adapter.normalize = config.id_adapter
    return Models(config=config, **networks)


def fill(module: nn.Module, state: dict[str, Tensor], where: Path, dtype: torch.dtype) -> None:
    """Load a state dict strictly, in this dtype; say which keys or shapes are another model's.

    The state dict is used up: each tensor is converted in its place, so that never two whole copies are held.
    """
    own = module.state_dict()
    for key in own:  # BatchNorm's counters serve training alone; converted files often leave them out
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.tensor(0))
    wrong = [k for k in own if k not in state] + [k for k in state if k not in own]
    wrong += [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(
            f"{where}: {len(wrong)} of {len(own)} tensors are missing, unknown or of another shape "
            f"(first: {wrong[0]}); these weights belong to another model"
        )
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = tensor.to(_weight_dtype(module, key, dtype))
    module.load_state_dict(state, assign=True)  # the parameters are still without storage


def set_for_inference(module: nn.Module) -> nn.Module:
    """Frozen, in evaluation mode, and with the layers of `freeze` where it has some; returns the module."""
    module.requires_grad_(False).eval()
    if isinstance(module, AutoencoderKLTemporalDecoder):
        freeze(module.decoder)
    elif isinstance(module, (AnimatorUNet, IResNet)):
        freeze(module)
    return module


def fill_in_turn(models: Models, device: str | torch.device, fill: Callable[[str, nn.Module], None]) -> Models:
    """Networks that `fill(part, network)` fills in main memory, frozen, each on the device before the next is filled,
    which saves main memory; one of HEAVY for which there is no room stays there: see Models.taking_turns."""
    parts = models.parts()
    for part in sorted(parts, key=HEAVY.__contains__):  # the others must fit
        network = parts[part]
        fill(part, network)
        set_for_inference(network)
        if part not in HEAVY or has_room(device, network):
            network.to(device)
    return models


def random_models(
    config: ModelConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Models:
    """The networks of `config` with generated weights, frozen: for benchmarks, which need sizes and no sense.

    Drawn on the device, tensor by tensor, so that activations neither vanish nor overflow; placed as load_models does.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(part: str, network: nn.Module) -> None:
        drawn = {
            key: _draw(key, tensor, _weight_dtype(network, key, dtype), generator).to(MAIN_MEMORY)
            for key, tensor in network.state_dict().items()
        }
        network.load_state_dict(drawn, assign=True)

    with torch.inference_mode(False):
        with init_empty_weights():
            models = build_models(config)
        return fill_in_turn(models, device, draw)


def _draw(key: str, like: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Matrices keep the scale of what goes in; norms are near one, what is added near zero."""
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype, device=generator.device)
    normal = torch.randn(like.shape, dtype=dtype, device=generator.device, generator=generator)
    if like.ndim > 1:
        return normal.mul_(like[0].numel() ** -0.5)
    if key.endswith("running_var"):
        return normal.abs_().mul_(0.2).add_(1)
    if key.endswith("bn3.weight"):  # the residual branches of 49 blocks add up
        return normal.mul_(0.03).add_(0.3)
    return normal.mul_(0.1).add_(1) if key.endswith(("weight", "scale")) else normal.mul_(0.1)


def _weight_dtype(module: nn.Module, key: str, dtype: torch.dtype) -> torch.dtype:
    """Half precision overflows in the encoder of Stable Video Diffusion's VAE, whose settings say so."""
    upcast = isinstance(module, AutoencoderKLTemporalDecoder) and module.config.force_upcast
    return torch.float32 if dtype == torch.float16 and upcast and not key.startswith("decoder.") else dtype
