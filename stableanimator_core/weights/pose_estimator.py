"""The built-in pose estimator's folder: two ONNX files that take the place of DWPose's."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError
from ..models.pose_estimator import DETECTOR_SIZE, KEYPOINT_SIZE, PoseEstimator

if TYPE_CHECKING:
    import onnx

OPSET = 17  # what onnxruntime 1.16 and later read
IR_VERSION = 8
SMALLEST_HALVED = 64  # numbers; fewer are not worth a node
LICENCE = "Apache-2.0"


def save_estimator(net: PoseEstimator, folder: Path) -> None:
    """Write person_detector.onnx and keypoint_detector.onnx, with weights in half precision, for any batch.

    Names, shapes and meaning of inputs and outputs are those of yolox_l.onnx and dw-ll_ucoco_384.onnx; sizes are this
    estimator's own. net: on the CPU, in evaluation mode. Raises InputError when the package `onnx` is missing.
    """
    require_onnx()
    folder.mkdir(parents=True, exist_ok=True)
    graphs = (
        ("person_detector", net.detector, DETECTOR_SIZE, "images", ("output",)),
        ("keypoint_detector", net.keypoints, KEYPOINT_SIZE, "input", ("simcc_x", "simcc_y")),
    )
    for name, part, size, picture, outputs in graphs:
        model = _exported(part, size, picture, outputs)
        _halve(model)
        _describe(model, name)
        fresh = folder / f"{name}.partial"
        fresh.write_bytes(model.SerializeToString())
        fresh.replace(folder / f"{name}.onnx")


def require_onnx() -> None:
    """Raises InputError when the package that writes ONNX files is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise InputError("writing ONNX files takes one package more: pip install onnx") from error


def _exported(part: nn.Module, size: tuple[int, int], picture: str, outputs: tuple[str, ...]) -> onnx.ModelProto:
    import onnx

    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is to be replaced by one that takes another package
        torch.onnx.export(
            part, (torch.zeros(1, 3, *size),), written, dynamo=False, opset_version=OPSET, input_names=[picture],
            output_names=list(outputs), dynamic_axes={name: {0: "batch"} for name in (picture, *outputs)},
        )  # fmt: skip
    model = onnx.load_from_string(written.getvalue())
    model.ir_version = min(model.ir_version, IR_VERSION)
    _name_shapes(model, part, size, outputs)
    return model


def _name_shapes(model: onnx.ModelProto, part: nn.Module, size: tuple[int, int], outputs: tuple[str, ...]) -> None:
    """Outputs with their sizes: the exporter leaves open what it cannot follow."""
    from onnx import TensorProto, helper

    with torch.no_grad():
        made = part(torch.zeros(1, 3, *size))
    del model.graph.output[:]
    for name, tensor in zip(outputs, [made] if torch.is_tensor(made) else made):
        shape = ["batch", *tensor.shape[1:]]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _halve(model: onnx.ModelProto) -> None:
    """Weights in half precision, which onnxruntime widens once when it opens the file: it computes in float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST_HALVED:
            continue
        name, values = weight.name, numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _describe(model: onnx.ModelProto, name: str) -> None:
    import onnx

    from .. import __version__

    about: dict[str, Any] = {
        "name": f"StableAnimator++ built-in pose estimator: {name}",
        "description": "Finds people as this project's performers are drawn; trained on them alone",
        "licence": LICENCE,
        "version": __version__,
    }
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.doc_string = "stableanimator-pp", about["description"]
    onnx.checker.check_model(model)
