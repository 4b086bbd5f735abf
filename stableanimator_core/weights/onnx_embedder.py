"""The face embedder from InsightFace's ONNX file (glintr100.onnx), whose convolutions may have swallowed BatchNorms.

Its tensors have names that mean nothing, so the graph is walked along the network that it must be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, WeightsError
from ..files import PROGRAM, check_file, fetch_again
from .convert import State

_EPSILON = 1e-5  # of IResNet's BatchNorms
_PASSED_OVER = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast"}


def read_embedder(path: Path, layers: Sequence[int]) -> State:
    """State dict of an IResNet with the "fc" head and `layers` blocks in its stages.

    A BatchNorm that the exporter folded into a convolution becomes one that adds the folded bias: the same function.
    Raises WeightsError when the file is damaged or another network, InputError when the package `onnx` is missing.
    """
    check_file(path)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        other = f"{PROGRAM} weights download face_embedder"
        raise InputError(f"{path}: reading it takes one package more: pip install onnx; or: {other}") from error
    try:
        graph = onnx.load(path).graph
    except (DecodeError, OSError) as error:
        raise WeightsError(f"{path}: damaged, or no ONNX file ({error}); {fetch_again(path)}") from error
    try:
        return _Walk(graph).embedder(layers)
    except _UnexpectedError as error:
        raise WeightsError(f"{path}: not the face embedder: {error}; {fetch_again(path)}") from error


class _UnexpectedError(Exception):
    """The graph goes on in another way than the network."""


class _Operation(NamedTuple):
    kind: str
    inputs: list[str]
    output: str
    settings: dict


class _Walk:
    """Goes along a graph by what uses a tensor, and collects a state dict on the way."""

    def __init__(self, graph):
        from onnx import helper, numpy_helper

        self.state: State = {}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.users: dict[str, list[_Operation]] = defaultdict(list)
        for node in graph.node:
            settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            operation = _Operation(node.op_type, list(node.input), node.output[0], settings)
            if node.op_type == "Constant" and "value" in settings:
                self.constants[operation.output] = numpy_helper.to_array(settings["value"])
            elif node.op_type in _PASSED_OVER and node.input[0] in self.constants:  # shared, or a slope's [C, 1, 1]
                self.constants[operation.output] = self.constants[node.input[0]]
            for name in node.input:
                self.users[name].append(operation)
        self.start = next((value.name for value in graph.input if value.name not in self.constants), "")

    def embedder(self, layers: Sequence[int]) -> State:
        x = self.convolution(self.start, "conv1", "bn1")
        x = self.prelu(x, "prelu")
        for stage, blocks in enumerate(layers, 1):
            for block in range(blocks):
                x = self.block(x, f"layer{stage}.{block}")
        x = self.matrix(self.norm(x, "bn2"), "fc")
        if self.find(x, "BatchNormalization"):
            self.norm(x, "features")
        else:
            self.identity_norm("features", torch.zeros(len(self.state["fc.bias"])))
        return self.state

    def block(self, x: str, name: str) -> str:
        """The name of the tensor in which a residual block ends."""
        y = self.convolution(self.norm(x, f"{name}.bn1"), f"{name}.conv1", f"{name}.bn2")
        y = self.convolution(self.prelu(y, f"{name}.prelu"), f"{name}.conv2", f"{name}.bn3")
        if self.find(x, "Conv"):
            self.convolution(x, f"{name}.downsample.0", f"{name}.downsample.1")
        return self.take(y, "Add", f"the end of {name}").output

    def convolution(self, x: str, name: str, norm: str) -> str:
        """A convolution and its BatchNorm, which may be folded into it."""
        conv = self.take(x, "Conv", name)
        self.state[f"{name}.weight"] = weight = self.values(conv, 1)
        bias = self.values(conv, 2) if len(conv.inputs) > 2 else torch.zeros(len(weight))
        if self.find(conv.output, "BatchNormalization") is None:
            self.identity_norm(norm, bias)
            return conv.output
        output = self.norm(conv.output, norm)
        self.state[f"{norm}.running_mean"] -= bias
        return output

    def norm(self, x: str, name: str) -> str:
        norm = self.take(x, "BatchNormalization", name)
        for position, part in enumerate(("weight", "bias", "running_mean", "running_var"), 1):
            self.state[f"{name}.{part}"] = self.values(norm, position)
        self.state[f"{name}.running_var"] += norm.settings.get("epsilon", _EPSILON) - _EPSILON
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(0)
        return norm.output

    def identity_norm(self, name: str, bias: Tensor) -> None:
        """A BatchNorm that only adds `bias`."""
        ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
        parts = {"weight": ones, "bias": bias, "running_mean": zeros, "running_var": ones - _EPSILON}
        self.state |= {f"{name}.{part}": values for part, values in parts.items()}
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    def prelu(self, x: str, name: str) -> str:
        prelu = self.take(x, "PRelu", name)
        self.state[f"{name}.weight"] = self.values(prelu, 1).flatten()  # [C, 1, 1] -> [C]
        return prelu.output

    def matrix(self, x: str, name: str) -> str:
        gemm = self.take(x, "Gemm", name)
        weight = self.values(gemm, 1)
        self.state[f"{name}.weight"] = weight if gemm.settings.get("transB") else weight.T.contiguous()  # [out, in]
        self.state[f"{name}.bias"] = self.values(gemm, 2) if len(gemm.inputs) > 2 else torch.zeros(weight.shape[0])
        return gemm.output

    def find(self, x: str, kind: str) -> _Operation | None:
        """The operation of this kind that uses a tensor, also after operations that leave the values as they are."""
        for user in self.users[x]:
            found = user if user.kind == kind else None
            if user.kind in _PASSED_OVER:
                found = self.find(user.output, kind)
            if found is not None:
                return found
        return None

    def take(self, x: str, kind: str, name: str) -> _Operation:
        found = self.find(x, kind)
        if found is None:
            raise _UnexpectedError(f"no {kind} where {name} should be")
        return found

    def values(self, operation: _Operation, position: int) -> Tensor:
        """A constant input, [...] float32."""
        name = operation.inputs[position] if position < len(operation.inputs) else ""
        if name not in self.constants:
            raise _UnexpectedError(f"input {position} of a {operation.kind} is no constant")
        return torch.tensor(self.constants[name], dtype=torch.float32)
