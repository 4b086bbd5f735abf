"""A tiny ONNX network with SCRFD's nine outputs, and pictures in which it finds faces: red blocks, each shade its own.

With the channels swapped it finds blue blocks; every number that it gives depends on the colour that it is fed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx, which builds the tests' networks, is not installed")

SIZES = {"landscape": (320, 240), "panorama": (900, 333), "portrait": (217, 640), "square": (640, 640)}  # width, height


ENDS = {"score": "Sigmoid", "box": "Abs", "points": "Identity"}


def save_scrfd(path: Path, *, side: int | None = None, batched: bool = False, outputs: int = 9) -> Path:
    """Write the network.

    side: of its input in px, None leaves it open. batched: outputs [1, N, k] in place of [N, k]. outputs: how many.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.RandomState(5)
    nodes, weights, values = [], [], []
    kinds = {"score": 1, "box": 4, "points": 10}
    for stride in (8, 16, 32):
        pooled = f"pooled{stride}"
        nodes.append(
            helper.make_node("AveragePool", ["input"], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for kind, width in kinds.items():
            weight = 0.4 * rng.standard_normal((2 * width, 3, 1, 1))
            bias = 0.4 * rng.standard_normal(2 * width) + {"score": 0, "box": 4, "points": 0}[kind]
            if kind == "score":  # red, and neither green nor blue
                weight[:, :, 0, 0], bias = (4, -4, -4), np.array([-7.5, -8.5])
            name = f"{kind}{stride}"
            weights += [
                numpy_helper.from_array(weight.astype(np.float32), f"{name}_weight"),
                numpy_helper.from_array(bias.astype(np.float32), f"{name}_bias"),
                numpy_helper.from_array(np.array([1, -1, width] if batched else [-1, width]), f"{name}_shape"),
            ]
            nodes += [
                helper.make_node("Conv", [pooled, f"{name}_weight", f"{name}_bias"], [f"{name}_map"]),
                helper.make_node(ENDS[kind], [f"{name}_map"], [f"{name}_set"]),
                helper.make_node("Transpose", [f"{name}_set"], [f"{name}_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [name]),
            ]
    for kind, width in kinds.items():
        for stride in (8, 16, 32):
            shape = [1, None, width] if batched else [None, width]
            values.append(helper.make_tensor_value_info(f"{kind}{stride}", TensorProto.FLOAT, shape))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, "scrfd", [picture], values[:outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def picture_of(name: str) -> np.ndarray:
    """[H, W, 3] uint8 RGB: blocks in shades of red and of blue on a dark, patterned ground."""
    width, height = SIZES[name]
    rng = np.random.RandomState(len(name))
    picture = rng.randint(0, 40, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    picture = picture.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    for i in range(8):
        side = int(rng.randint(8, 16) * max(width, height) / 160)
        x, y = rng.randint(0, max(width - side, 1)), rng.randint(0, max(height - side, 1))
        shade = (rng.randint(215, 256), rng.randint(0, 30), rng.randint(0, 30))
        block = np.array(shade if i % 2 else shade[::-1]) + rng.randint(-20, 21, (side, side, 3))  # no two places alike
        picture[y : y + side, x : x + side] = block.clip(0, 255)
    return np.ascontiguousarray(picture)
