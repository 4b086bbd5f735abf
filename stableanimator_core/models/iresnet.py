"""IResNet: the face embedder of ArcFace, in InsightFace's published layout, and a small variant of it."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


class _Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN, plus the input (projected when it changes shape)."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + identity


def _stage(channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """The first block halves the size."""
    return nn.Sequential(
        _Block(channels, out_channels, stride=2),
        *(_Block(out_channels, out_channels, stride=1) for _ in range(blocks - 1)),
    )


class IResNet(nn.Module):
    """Face crop to embedding; the defaults are iresnet100 with its published keys.

    head: "fc" is one matrix over the whole last map (most of a small network's weights); "depthwise" is a depthwise
    convolution of the map's size, BatchNorm and a matrix over channels.
    Attribute input_size: S, the side in pixels of the crops that the network takes.
    Deng et al., ArcFace (arXiv 1801.07698).
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 13, 30, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        embedding_dim: int = 512,
        input_size: int = 112,
        head: Literal["fc", "depthwise"] = "fc",
    ):
        super().__init__()
        if len(layers) != 4 or len(widths) != 4:
            raise ValueError(f"layers {tuple(layers)} and widths {tuple(widths)}: expected four of each")
        if head not in ("fc", "depthwise"):
            raise ValueError(f'head is "{head}", expected "fc" or "depthwise"')
        self.input_size = input_size
        self.embedding_dim = embedding_dim
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        channels = widths[0]
        for number, (blocks, width) in enumerate(zip(layers, widths), start=1):
            self.add_module(f"layer{number}", _stage(channels, width, blocks))
            channels = width
        self.bn2 = nn.BatchNorm2d(channels)
        map_size = -(-input_size // 16)  # four halvings, each rounded up
        if head == "depthwise":
            self.pool = nn.Sequential(
                nn.Conv2d(channels, channels, map_size, groups=channels, bias=False), nn.BatchNorm2d(channels)
            )
            map_size = 1
        else:
            self.pool = nn.Identity()
        self.fc = nn.Linear(channels * map_size**2, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)
        nn.init.ones_(self.features.weight)
        self.features.weight.requires_grad_(False)  # ArcFace fixes the scale of the embedding's coordinates

    def forward(self, faces: Tensor) -> Tensor:
        """faces: [N, 3, S, S] RGB in -1..1 -> [N, D], not normalised."""
        x = self.prelu(self.bn1(self.conv1(faces)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [N, C, S / 16, S / 16]
        x = self.pool(self.bn2(x))
        return self.features(self.fc(x.flatten(1)))
