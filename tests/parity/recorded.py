"""Networks that only the golden files have."""

from __future__ import annotations

import re

from torch import Tensor, nn


class RecordedEmbedder(nn.Module):
    """The face network of the record: convolutions with SiLU, then one matrix; strides as its layout line says."""

    def __init__(self, layout: str, weights: dict[str, Tensor], input_size: int):
        super().__init__()
        self.input_size = input_size
        numbers = r"(\w+) = Conv2d\((\d+),\s*(\d+),\s*kernel (\d+),\s*stride (\d+),\s*pad (\d+)\)"
        self.convolutions = []
        for name, *sizes in re.findall(numbers, layout):
            channels, out_channels, kernel, stride, padding = map(int, sizes)
            self.add_module(name, nn.Conv2d(channels, out_channels, kernel, stride, padding))
            self.convolutions.append(name)
        out_features, in_features = weights["fc.weight"].shape
        self.fc = nn.Linear(in_features, out_features)
        self.load_state_dict(weights)

    def forward(self, faces: Tensor) -> Tensor:
        for name in self.convolutions:
            faces = nn.functional.silu(self.get_submodule(name)(faces))
        return self.fc(faces.flatten(1))
