"""PoseNet: pose drawings to features of the UNet's first feature map."""

import torch
from torch import Tensor, nn

# out channels, kernel, stride; three strides of 2 bring pixels to latent cells
_CONVOLUTIONS = ((3, 3, 1), (16, 4, 2), (16, 3, 1), (32, 4, 2), (32, 3, 1), (64, 4, 2), (64, 3, 1), (128, 3, 1))


class PoseNet(nn.Module):
    """Eight convolutions with SiLU, one 1x1 projection, one learned scale.

    noise_latent_channels: width of the UNet's first feature map.
    The projection starts at zero and the scale at 2, so an untrained PoseNet leaves the UNet as it is.
    """

    def __init__(self, noise_latent_channels: int = 320):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out_channels, kernel, stride in _CONVOLUTIONS:
            layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding=1), nn.SiLU()]
            channels = out_channels
        self.conv_layers = nn.Sequential(*layers)
        self.final_proj = nn.Conv2d(channels, noise_latent_channels, 1)
        nn.init.zeros_(self.final_proj.weight)
        nn.init.zeros_(self.final_proj.bias)
        self.scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, pose_images: Tensor) -> Tensor:
        """pose_images: [B, F, 3, H, W] or [N, 3, H, W] in -1..1 -> [B * F, C, H / 8, W / 8]."""
        if pose_images.ndim == 5:
            pose_images = pose_images.flatten(0, 1)  # [B * F, 3, H, W]
        return self.final_proj(self.conv_layers(pose_images)) * self.scale
