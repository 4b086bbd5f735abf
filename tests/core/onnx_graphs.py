"""A drawn world and tiny ONNX networks that see it, with the names, shapes and meaning of DWPose's two networks.

A person is a rectangle in one of four dark colours (the clothes) with 133 bright dots on it, each joint in a colour
of its own. The detector finds the rectangles, the keypoint network the dots, both by colour: with the channels
swapped, normalised wrongly or read in another order they find other things or nothing.

People stay out of one another's crops (1.25 x the box, widened to 3 : 4): of two dots of a joint the network sees
the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx, which builds the tests' networks, is not installed")

JOINTS = 133
CLOTHES_RGB = np.array([(100, 20, 50), (20, 60, 100), (60, 100, 0), (0, 100, 100)])
CLASSES = (0, 0, 0, 16)  # the fourth is a dog
# The brightest channel is always 255: a dot's edge, blended with the dark around it, is no other joint's colour.
LEVELS = np.linspace(0, 255, 8).round().astype(int)
DOTS_RGB = np.array([colour for colour in product(LEVELS, repeat=3) if max(colour) == 255])[:JOINTS]
MEAN_RGB, STD_RGB = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
TOLERANCE = 15.0  # distance of two colours that count as one; blends of clothes and dots come no closer to others


def spread_joints(box: Sequence[float], seed: int = 0) -> np.ndarray:
    """133 places in a box (x0 y0 x1 y1 px), on a grid so that no dots touch, shuffled. Returns [133, 2] px."""
    x, y = np.meshgrid((np.arange(10) + 0.5) / 10, (np.arange(14) + 0.5) / 14)
    places = np.random.default_rng(seed).permutation(np.stack([x.ravel(), y.ravel()], axis=-1))[:JOINTS]
    low, high = np.array(box[:2], dtype=np.float64), np.array(box[2:], dtype=np.float64)
    return (low + places * (high - low)).round()


def draw_person(
    frame_rgb: np.ndarray, box: Sequence[float], joints: np.ndarray, *, who: int = 0, seen: Sequence[int] | None = None
) -> None:
    """Draw somebody into a frame: clothes over the box, whole px x0 y0 x1 y1, then the dots of the seen joints."""
    x0, y0, x1, y1 = (int(side) for side in box)
    frame_rgb[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = CLOTHES_RGB[who]
    radius = max(2, (x1 - x0) // 50)
    for joint in range(JOINTS) if seen is None else seen:
        x, y = joints[joint].round().astype(int).tolist()
        cv2.circle(frame_rgb, (x, y), radius, DOTS_RGB[joint].tolist(), thickness=-1)


class Graph:
    """Builds a graph node by node; constants are arrays."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def __call__(self, kind: str, *inputs: str | np.ndarray, name: str | None = None, **attributes) -> str:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = name or f"{kind}{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def sum(self, value: str, axis: int, keepdims: int = 0) -> str:
        return self("ReduceSum", value, np.array([axis]), keepdims=keepdims)

    def cast(self, value: str) -> str:
        return self("Cast", value, to=onnx.TensorProto.FLOAT)

    def colour_distance(self, picture: str, colours: np.ndarray) -> str:
        """Squared distance of every pixel to every colour: [N, 3, H, W], [C, 3] -> [N, C, H, W]."""
        squares = self.sum(self("Mul", picture, picture), 1, keepdims=1)
        colours = colours.astype(np.float64)
        products = self("Conv", picture, 2 * colours[:, :, None, None], -(colours**2).sum(axis=1))
        return self("Sub", squares, products)

    def save(self, path: Path, inputs: dict[str, Sequence], outputs: dict[str, Sequence]) -> Path:
        def ports(shapes: dict[str, Sequence]) -> list:
            kind = onnx.TensorProto.FLOAT
            return [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]

        graph = onnx.helper.make_graph(self.nodes, path.stem, ports(inputs), ports(outputs), self.constants)
        opset = onnx.helper.make_opsetid("", 17)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def save_person_detector(
    path: Path,
    *,
    batch: int | str = 1,
    size: tuple[int, int] = (640, 640),
    scores: Sequence[float] = (0.9, 0.8, 0.7, 0.6),
) -> Path:
    """Like yolox_l.onnx: "images" [batch, 3, H, W], BGR 0..255 -> "output" [batch, 8400 at 640 x 640, 85].

    Every rectangle of a colour of CLOTHES_RGB gives one box on each of the three grids, in the cell of its centre,
    with that colour's score. batch: a number, or a name for a free dimension. size: height and width.
    """
    g, (height, width) = Graph(), size
    bgr = CLOTHES_RGB[:, ::-1]
    mask = g.cast(g("Less", g.colour_distance("images", bgr), np.array(TOLERANCE**2)))  # [N, C, H, W]

    def extent(axis: int, length: int) -> tuple[str, str, str]:
        """Centre and size [N, C, 1] px of every mask along x (axis 2 summed away) or y (axis 3), and if it is there."""
        seen = g.cast(g("Greater", g.sum(mask, axis), np.array(2.5)))  # [N, C, length]; 2.5: more than a blend
        index = np.arange(length, dtype=np.float32)
        last = g("ReduceMax", g("Mul", seen, index + 1), axes=[2])
        before_first = g("Sub", np.array(float(length)), g("ReduceMax", g("Mul", seen, length - index), axes=[2]))
        centre = g("Mul", g("Add", before_first, last), np.array(0.5))
        size = g("Max", g("Sub", last, before_first), np.array(1.0))
        return centre, size, g("ReduceMax", seen, axes=[2])

    x, w, there = extent(2, width)
    y, h, _ = extent(3, height)

    strides = (8, 16, 32)
    cells = [np.mgrid[: height // stride, : width // stride].reshape(2, -1) for stride in strides]
    stride = np.concatenate([np.full(grid.shape[1], s) for grid, s in zip(cells, strides)]).astype(np.float32)  # [A]
    cell_y, cell_x = np.concatenate(cells, axis=1).astype(np.float32)
    u = g("Sub", g("Div", x, stride), cell_x)  # [N, C, A], in cells from this one's corner
    v = g("Sub", g("Div", y, stride), cell_y)
    inside = there
    for offset in (u, v):
        not_before, not_after = g("GreaterOrEqual", offset, np.array(0.0)), g("Less", offset, np.array(1.0))
        inside = g("Mul", inside, g.cast(g("And", not_before, not_after)))
    objectness = g("Mul", inside, np.array(scores, dtype=np.float32)[:, None])
    values = (u, v, g("Log", g("Div", w, stride)), g("Log", g("Div", h, stride)))
    columns = [g.sum(g("Mul", inside, value), 1) for value in values] + [g.sum(objectness, 1)]  # [N, A]
    columns = [g("Unsqueeze", column, np.array([2])) for column in columns]
    classes = g("MatMul", g("Transpose", inside, perm=[0, 2, 1]), np.eye(80)[list(CLASSES)])  # [N, A, 80]
    g("Concat", *columns, classes, name="output", axis=2)
    return g.save(path, {"images": [batch, 3, height, width]}, {"output": [batch, len(stride), 85]})


def save_keypoint_network(
    path: Path, *, batch: int | str = "batch", size: tuple[int, int] = (384, 288), gain: float = 1.0
) -> Path:
    """Like dw-ll_ucoco_384.onnx: "input" [batch, 3, H, W], normalised RGB -> "simcc_x" [batch, 133, 2 W], "simcc_y".

    Each joint's peak lies at its dot's centre, to half a pixel, `gain` high when the colour is met exactly; all zeros
    without a dot. size: height and width.
    """
    g, (height, width) = Graph(), size
    rgb = g("Add", g("Mul", "input", STD_RGB[:, None, None]), MEAN_RGB[:, None, None])
    distance = g.colour_distance(rgb, DOTS_RGB)
    match = g("Relu", g("Sub", np.array(1.0), g("Div", distance, np.array(TOLERANCE**2))))  # [N, 133, H, W]
    peak = g("Mul", g("ReduceMax", match, axes=[2, 3], keepdims=0), np.array(gain))  # [N, 133]
    total = g("Max", g("ReduceSum", match, np.array([2, 3]), keepdims=0), np.array(1e-6))

    for axis, length, name in ((2, width, "simcc_x"), (3, height, "simcc_y")):
        profile = g.sum(match, axis)  # [N, 133, length]
        mean = g("Div", g.sum(g("Mul", profile, np.arange(length, dtype=np.float32)), 2), total)
        away = g("Abs", g("Sub", g("Unsqueeze", mean, np.array([2])), np.arange(2 * length) / 2))
        hill = g("Relu", g("Sub", np.array(1.0), g("Mul", away, np.array(0.01))))
        g("Mul", hill, g("Unsqueeze", peak, np.array([2])), name=name)
    outputs = {"simcc_x": [batch, JOINTS, 2 * width], "simcc_y": [batch, JOINTS, 2 * height]}
    return g.save(path, {"input": [batch, 3, height, width]}, outputs)
