"""The networks of standard measures: AlexNet for LPIPS, I3D for FVD. Both are others' files, never fetched unasked."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import WeightsError, one_line
from ..files import fault_of
from .places import Places

I3D_FILE = "Metrics/i3d_torchscript.pt"  # below a models folder
I3D_PUBLISHED = (
    "published with StyleGAN-V, https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt, "
    "and on the hub as flateon/FVD-I3D-torchscript"
)
I3D_FEATURES = 400  # Kinetics-400's classes before the softmax
I3D_FRAMES = 10  # fewer don't survive its pooling
# What reading a damaged file raises, or one of another network.
DAMAGED = (RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError, pickle.UnpicklingError)


def alexnet_file() -> Path:
    """Where torchvision keeps AlexNet's weights; TORCH_HOME moves it. Raises WeightsError without torchvision."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_alexnet_url()).name


def load_lpips(device: torch.device) -> nn.Module:
    """LPIPS with AlexNet by torchmetrics: two pictures [N, 3, H, W] in -1..1 -> their mean distance, a scalar.

    Zhang et al. 2018 (arXiv 1801.03924). Raises WeightsError with the file that is missing or damaged.
    """
    path = _usable(alexnet_file(), f"published by torchvision, {_alexnet_url()}")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex").to(device).eval()
    except DAMAGED as error:
        raise WeightsError(f"{path}: damaged, or not AlexNet ({one_line(error)}); fetch it again") from error


def load_i3d(places: Places, device: torch.device) -> Callable[[Tensor], Tensor]:
    """FVD's network: videos uint8 [N, F, 3, H, W] RGB -> features [N, 400]; I3D_FRAMES or more each.

    StyleGAN-V's TorchScript of the I3D in Unterthiner et al. 2018 (arXiv 1812.01717); it resizes and rescales itself.
    Raises WeightsError with the file that is missing or of another network.
    """
    found = (folder / I3D_FILE for folder in places.models)
    path = next((file for file in found if file.is_file()), places.models[0] / I3D_FILE)
    _usable(path, I3D_PUBLISHED)
    try:
        network = torch.jit.load(str(path), map_location=device).eval()

        @torch.no_grad()
        def features(videos: Tensor) -> Tensor:
            given = videos.to(device).transpose(1, 2)  # [N, 3, F, H, W]
            return network(given, rescale=True, resize=True, return_features=True).float()

        shape = tuple(features(torch.zeros(1, I3D_FRAMES, 3, 32, 32, dtype=torch.uint8)).shape)
    except (*DAMAGED, AttributeError) as error:
        raise WeightsError(f"{path}: damaged, or not FVD's I3D ({one_line(error)}); fetch it again") from error
    if shape != (1, I3D_FEATURES):
        raise WeightsError(f"{path}: gives {list(shape)} for a video, FVD's I3D [1, {I3D_FEATURES}]; take the latter")
    return features


def _alexnet_url() -> str:
    try:
        from torchvision.models import AlexNet_Weights
    except ImportError as error:
        raise WeightsError("AlexNet needs torchvision: pip install torchvision") from error
    return AlexNet_Weights.IMAGENET1K_V1.url


def _usable(path: Path, published: str) -> Path:
    """The file itself. Raises WeightsError when it is absent or no weights at first sight."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing ({published}); put the file there")
    fault = fault_of(path)
    if fault:
        raise WeightsError(f"{path} {fault} ({published}); put the file itself there")
    return path
