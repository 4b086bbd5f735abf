"""The networks of one model, and how they are built and filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..errors import WeightsError
from ..models.face_encoder import FaceEncoder
from ..models.iresnet import IResNet
from ..models.pose_net import PoseNet
from ..models.unet import AnimatorUNet
from .config import ModelConfig


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

    def parts(self) -> dict[str, nn.Module]:
        """Every network by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def to(self, device: str | torch.device) -> Models:
        """Move every network in place and return self."""
        for module in self.parts().values():
            module.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

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
    return Models(config=config, **networks)


def fill(module: nn.Module, state: dict[str, torch.Tensor], where: Path, dtype: torch.dtype) -> None:
    """Load a state dict strictly, in this dtype; say which keys or shapes are another model's."""
    own = module.state_dict()
    wrong = [k for k in own if k not in state] + [k for k in state if k not in own]
    wrong += [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(
            f"{where}: {len(wrong)} of {len(own)} tensors are missing, unknown or of another shape "
            f"(first: {wrong[0]}); these weights belong to another model"
        )
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    module.load_state_dict(state, assign=True)  # the parameters are still without storage
