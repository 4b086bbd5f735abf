"""Pickles and the ONNX embedder become state dicts, once, and files that are no weights are named."""

from __future__ import annotations

import builtins
import os
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stableanimator_core.errors import InputError, WeightsError
from stableanimator_core.models import IResNet
from stableanimator_core.weights import convert
from stableanimator_core.weights.convert import SPARE, read_kept, read_pickle, read_safetensors, read_weights
from stableanimator_core.weights.onnx_embedder import read_embedder

FETCH_AGAIN = "delete it, then: python -m stableanimator_core weights download all"  # of a file in no models folder
STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2, dtype=torch.float16)}


def assert_equal(state: dict, expected: dict) -> None:
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert state[key].dtype == tensor.dtype and state[key].equal(tensor), key


@pytest.fixture
def pth(tmp_path) -> Path:
    path = tmp_path / "unet.pth"
    torch.save(STATE, path)
    return path


def test_a_copy_takes_no_orders_from_foreign_metadata(tmp_path):
    """Other programs write a source into their files, too."""
    for number, source in enumerate(("https://example.com/x", "../../etc/passwd", "", "a.safetensors")):
        for key in ("source", "stableanimator_source"):
            path = tmp_path / f"{number}{key}.safetensors"
            save_file({"w": torch.ones(2)}, path, {key: source, f"{key}_bytes": "3"})
            assert read_weights(path)["w"].tolist() == [1, 1]


def test_no_copy_is_kept_where_the_disk_is_nearly_full(tmp_path, monkeypatch, caplog):
    path = tmp_path / "unet.pth"
    torch.save({"w": torch.ones(2)}, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SPARE + 7))
    assert read_weights(path)["w"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["unet.pth"]
    assert "are needed on the disk" in caplog.text


# --- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_pickle(tmp_path, zipped):
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_equal(read_pickle(tmp_path / "a.pth"), STATE)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": OrderedDict((f"module.{key}", tensor) for key, tensor in state.items())},
        lambda state: {key: nn.Parameter(tensor) for key, tensor in state.items()},
    ],
    ids=["state_dict", "with an epoch", "module.", "both", "parameters"],
)
def test_pickle_with_something_around_it(tmp_path, wrap):
    torch.save(wrap(STATE), tmp_path / "a.pth")
    state = read_pickle(tmp_path / "a.pth")
    assert_equal(state, STATE)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_prefix_that_only_some_keys_have_stays(tmp_path):
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(mixed, tmp_path / "a.pth")
    assert_equal(read_pickle(tmp_path / "a.pth"), mixed)


class Hostile:
    def __init__(self, victim: Path):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_code_in_a_pickle_is_refused(tmp_path, zipped):
    victim = tmp_path / "victim"
    path = tmp_path / "unet.pth"
    torch.save({**STATE, "x": Hostile(victim)}, path, _use_new_zipfile_serialization=zipped)
    name = f"{os.mkdir.__module__}.mkdir"
    with pytest.raises(WeightsError) as error:
        read_weights(path)
    assert str(error.value) == (
        f"{path}: refused: it asks for code ({name}), and weights are tensors alone; {FETCH_AGAIN}"
    )
    assert not victim.exists() and not path.with_suffix(".safetensors").exists()
    assert path.exists(), "the user's file is never deleted"


def test_code_in_a_bare_pickle_does_not_run(tmp_path):
    victim = tmp_path / "victim"
    path = tmp_path / "unet.pth"
    path.write_bytes(pickle.dumps({"x": Hostile(victim)}, protocol=2))
    with pytest.raises(WeightsError, match=r"unet\.pth: ") as error:
        read_pickle(path)
    assert not victim.exists() and "\n" not in str(error.value)


def test_a_whole_network_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: refused: it asks for code \(torch\.nn.*Linear\), and"):
        read_pickle(tmp_path / "a.pth")


@pytest.mark.parametrize("keep", [3, 60, 0.5, -1], ids=str)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_truncated_pickle(tmp_path, zipped, keep):
    path = tmp_path / "unet.pth"
    torch.save({"a": torch.arange(5000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError, match=r"unet\.pth: damaged, or no file of torch\.save \(") as error:
        read_weights(path)
    assert str(error.value).endswith(f"; {FETCH_AGAIN}") and "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path)), "torch's explanations are cut"


def test_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(WeightsError, match=r"a\.pth: damaged, or no file of torch\.save \("):
        read_pickle(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "data, message",
    [
        ([1, 2], "holds a list, not a network's tensors by name"),
        (torch.ones(2), "holds a Tensor, not a network's tensors by name"),
        ({}, "holds nothing, not a network's tensors by name"),
        ({"state_dict": {}}, "holds nothing, not a network's tensors by name"),
        ({"a": torch.ones(1), "b": 3}, r"1 of 2 entries are no tensors by name \(first: 'b', a int\)"),
        ({"a": {"b": torch.ones(1)}}, r"1 of 1 entries are no tensors by name \(first: 'a', a dict\)"),
        ({1: torch.ones(1)}, r"1 of 1 entries are no tensors by name \(first: 1, a Tensor\)"),
    ],
    ids=["list", "tensor", "empty", "empty inside", "number", "nested", "numbered"],
)
def test_pickle_of_something_else(tmp_path, data, message):
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"a\.pth: {message}.*; delete it"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "a.safetensors").exists()


NOT_WEIGHTS = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
        "is a Git LFS pointer, not the weights",
    ),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page, not the weights"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_downloads_leave_instead_of_weights(tmp_path, suffix, kind):
    content, message = NOT_WEIGHTS[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_embedder(path, (1, 1, 1, 1)) if suffix == ".onnx" else read_weights(path)
    assert str(error.value) == f"{path}: {message}; {FETCH_AGAIN}"


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors"])
def test_file_that_is_gone(tmp_path, name):
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        read_weights(tmp_path / name)


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=rf"a\.safetensors: damaged \(.*\); {FETCH_AGAIN}"):
        read_weights(path)


# --- kept as safetensors --------------------------------------------------------------------------------------------


def counted(monkeypatch) -> list[Path]:
    """The pickles that are read from now on."""
    read = []
    monkeypatch.setattr(convert, "read_pickle", lambda path: read.append(path) or read_pickle(path))
    return read


def test_a_pickle_is_read_once(pth, monkeypatch):
    read = counted(monkeypatch)
    assert_equal(read_weights(pth), STATE)
    copy = pth.with_suffix(".safetensors")
    assert sorted(pth.parent.iterdir()) == [pth, copy], "nothing else is left, and the pickle stays"
    with safe_open(copy, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt", "stableanimator_source": "unet.pth",
            "stableanimator_source_bytes": str(pth.stat().st_size),
        }  # fmt: skip
    assert_equal(load_file(copy), STATE)
    assert_equal(read_weights(pth), STATE)
    assert_equal(read_weights(copy), STATE)
    assert read == [pth]
    pth.unlink()
    assert_equal(read_weights(copy), STATE)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_copy_can_be_read_by_whom_the_pickle_can_be_read(pth):
    pth.chmod(0o640)
    read_weights(pth)
    assert pth.with_suffix(".safetensors").stat().st_mode == pth.stat().st_mode


@pytest.mark.parametrize("ask", [".pth", ".safetensors"])
def test_a_pickle_of_another_size_is_read_again(pth, monkeypatch, ask):
    read_weights(pth)
    read = counted(monkeypatch)
    other = {**STATE, "more": torch.ones(100)}
    torch.save(other, pth)
    assert_equal(read_weights(pth.with_suffix(ask)), other)
    assert_equal(load_file(pth.with_suffix(".safetensors")), other)
    assert_equal(read_weights(pth.with_suffix(ask)), other)
    assert read == [pth]


def test_a_foreign_file_is_not_overwritten(pth):
    foreign = pth.with_suffix(".safetensors")
    save_file({"mine": torch.ones(1)}, foreign)
    assert_equal(read_weights(pth), STATE)
    assert_equal(load_file(foreign), {"mine": torch.ones(1)})
    assert_equal(read_weights(foreign), {"mine": torch.ones(1)})


@pytest.mark.parametrize("stage", ["save_file", "replace"])
def test_where_nothing_can_be_written_the_tensors_are_used(pth, monkeypatch, caplog, stage):
    def fail(*args, **kwargs):
        if stage == "save_file":
            Path(args[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((convert, "save_file", fail) if stage == "save_file" else (Path, "replace", fail)))
    assert_equal(read_weights(pth), STATE)
    assert list(pth.parent.iterdir()) == [pth], "no half file is left"
    assert "unet.pth is not kept as" in caplog.text and "No space left on device" in caplog.text


def test_names_that_share_a_tensor(tmp_path, caplog):
    """safetensors refuses those; the weights are used all the same."""
    shared = torch.ones(4)
    torch.save({"a": shared, "b": shared}, tmp_path / "a.pth")
    assert_equal(read_weights(tmp_path / "a.pth"), {"a": shared, "b": shared})
    assert "a.pth is not kept as" in caplog.text


def test_any_reader_is_kept(tmp_path):
    path = tmp_path / "a.other"
    path.write_bytes(b"12")
    calls = []
    for _ in range(2):
        assert_equal(read_kept(path, lambda file: calls.append(file) or STATE), STATE)
    assert calls == [path]
    assert_equal(read_safetensors(tmp_path / "a.safetensors"), STATE)


# --- the ONNX embedder ----------------------------------------------------------------------------------------------

LAYERS = (1, 2, 1, 1)
SIZE = {"layers": LAYERS, "widths": (8, 16, 16, 24), "embedding_dim": 32, "input_size": 32}


def trained_like(net: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorm statistics and slopes as after training, not as at the start."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.05, 0.5)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def embedder() -> IResNet:
    return trained_like(IResNet(**SIZE))


def export(net: nn.Module, path: Path, *, fused: bool, size: int = 32) -> Path:
    """As InsightFace exported it (fused: BatchNorms are folded into convolutions), or node by node."""
    pytest.importorskip("onnx")
    mode = torch.onnx.TrainingMode.EVAL if fused else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        net, (torch.zeros(1, 3, size, size),), path, dynamo=False, opset_version=13, training=mode,
        do_constant_folding=fused, input_names=["input.1"], dynamic_axes={"input.1": {0: "n"}},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "unfused"])
def exported(request, embedder, tmp_path_factory) -> Path:
    return export(embedder, tmp_path_factory.mktemp("onnx") / "glintr100.onnx", fused=request.param)


def embed_with_onnxruntime(path: Path, faces: torch.Tensor) -> torch.Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: faces.numpy()})[0])


def filled(state: dict, **settings) -> IResNet:
    net = IResNet(**SIZE | settings).eval().requires_grad_(False)
    net.load_state_dict(state, strict=True)
    return net


def test_embedder_from_onnx(exported, embedder):
    faces = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    out = filled(read_embedder(exported, LAYERS))(faces)
    torch.testing.assert_close(out, embedder(faces), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(out, embed_with_onnxruntime(exported, faces), atol=2e-5, rtol=1e-4)


def test_fused_graph_is_really_fused(embedder, tmp_path):
    import onnx

    kinds = {}
    for fused in (True, False):
        graph = onnx.load(export(embedder, tmp_path / "a.onnx", fused=fused)).graph
        kinds[fused] = sum(node.op_type == "BatchNormalization" for node in graph.node)
    blocks = sum(LAYERS)
    assert kinds == {True: blocks + 2, False: 3 * blocks + 4 + 3}


def test_unfused_tensors_are_the_same(embedder, tmp_path):
    state = read_embedder(export(embedder, tmp_path / "a.onnx", fused=False), LAYERS)
    for key, tensor in embedder.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(state[key], tensor, msg=key)


def edit_onnx(path: Path, change) -> Path:
    import onnx

    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def test_another_epsilon_and_untransposed_matrix(embedder, tmp_path):
    """Both are written differently and mean the same network, or another one that is followed."""
    from onnx import numpy_helper

    def change(graph):
        for node in graph.node:
            if node.op_type == "BatchNormalization":
                next(a for a in node.attribute if a.name == "epsilon").f = 0.1
            if node.op_type == "Gemm":
                next(a for a in node.attribute if a.name == "transB").i = 0
                weight = next(t for t in graph.initializer if t.name == node.input[1])
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))

    path = edit_onnx(export(embedder, tmp_path / "a.onnx", fused=True), change)
    faces = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    out = filled(read_embedder(path, LAYERS))(faces)
    torch.testing.assert_close(out, embed_with_onnxruntime(path, faces), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(out, embedder(faces), atol=1e-2)


def test_a_bias_before_an_unfused_norm(tmp_path):
    """The bias moves into the running mean."""
    net = trained_like(IResNet(**SIZE))
    with_bias = nn.Conv2d(3, 8, 3, padding=1)
    net.conv1 = with_bias.requires_grad_(False)
    nn.init.normal_(with_bias.bias)
    path = export(net, tmp_path / "a.onnx", fused=False)
    faces = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(filled(read_embedder(path, LAYERS))(faces), net(faces), atol=2e-5, rtol=1e-4)


class WithoutLastNorm(nn.Module):
    def __init__(self, net: IResNet):
        super().__init__()
        self.net = net
        self.net.features = nn.Identity()

    def forward(self, faces):
        return self.net(faces)


def test_no_norm_at_the_end(tmp_path):
    net = WithoutLastNorm(trained_like(IResNet(**SIZE))).eval()
    path = export(net, tmp_path / "a.onnx", fused=True)
    faces = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(filled(read_embedder(path, LAYERS))(faces), net(faces), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "layers, missing",
    [((1, 2, 1, 2), "Conv where layer4.1.conv1"), ((1, 1, 1, 1), "Gemm where fc")],
    ids=["deeper", "shallower"],
)
def test_onnx_of_another_depth(embedder, tmp_path, layers, missing):
    path = export(embedder, tmp_path / "w600k.onnx", fused=True)
    with pytest.raises(WeightsError) as error:
        read_embedder(path, layers)
    assert str(error.value) == (f"{path}: not the face embedder: no {missing} should be; {FETCH_AGAIN}")


def test_onnx_of_another_network(tmp_path):
    path = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), tmp_path / "det.onnx", fused=True)
    with pytest.raises(WeightsError) as error:
        read_embedder(path, LAYERS)
    assert str(error.value) == (f"{path}: not the face embedder: no PRelu where prelu should be; {FETCH_AGAIN}")


def test_slopes_that_are_computed(embedder, tmp_path):
    def change(graph):
        node = next(node for node in graph.node if node.op_type == "PRelu")
        node.input[1] = "nowhere"

    path = edit_onnx(export(embedder, tmp_path / "a.onnx", fused=True), change)
    with pytest.raises(WeightsError, match="not the face embedder: input 1 of a PRelu is no constant; delete it"):
        read_embedder(path, LAYERS)


@pytest.mark.parametrize("keep", [40, 0.5], ids=str)
def test_truncated_onnx(exported, tmp_path, keep):
    data = exported.read_bytes()
    path = tmp_path / "glintr100.onnx"
    path.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
    with pytest.raises(WeightsError, match=r"glintr100\.onnx: (damaged, or no ONNX file|not the face embedder)") as e:
        read_embedder(path, LAYERS)
    assert "\n" not in str(e.value)


def test_package_onnx_is_missing(exported, tmp_path, monkeypatch):
    path = Path(shutil.copy(exported, tmp_path))
    real = builtins.__import__

    def without_onnx(name, *args):
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return real(name, *args)

    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(InputError) as error:
        read_embedder(path, LAYERS)
    fix = "pip install onnx; or: python -m stableanimator_core weights download face_embedder"
    assert str(error.value) == f"{path}: reading it takes one package more: {fix}"
