"""Sessions: where they run, what they say about it, and files that are no networks."""

import sys

import numpy as np
import pytest
import torch

from stableanimator_core.errors import InputError, WeightsError
from stableanimator_core.onnx_session import CPU, CUDA, open_session

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """ "x" [2, any] -> "y" = x + 1."""
    from onnx_graphs import Graph

    graph = Graph()
    graph("Add", "x", np.ones(1), name="y")
    return graph.save(tmp_path_factory.mktemp("networks") / "plus_one.onnx", {"x": [2, "n"]}, {"y": [2, "n"]})


@pytest.fixture
def gpu_machine(monkeypatch):
    """torch sees an NVIDIA GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")


@pytest.fixture
def gpu_build(monkeypatch, gpu_machine):
    """onnxruntime's GPU build on that machine. Returns the list of the providers asked for, and how it answers."""
    real, asked = onnxruntime.InferenceSession, []

    class Recorder:
        answer = "CUDA"  # or "CPU", or an error to raise

        def __init__(self, path, options, providers, enable_fallback):
            asked.append(providers)
            self.on_gpu = providers[0] != CPU
            if self.on_gpu and isinstance(Recorder.answer, Exception):
                raise Recorder.answer
            self.real = real(path, options, providers=[CPU])

        def get_providers(self):
            return [CUDA, CPU] if self.on_gpu and Recorder.answer == "CUDA" else [CPU]

        def __getattr__(self, name):
            return getattr(self.real, name)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorder)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False)
    return asked, Recorder


def test_a_network_runs_on_the_cpu_and_tells_its_shapes(network):
    session = open_session(network, "cpu")

    assert (session.provider, session.note) == ("CPU", None)
    assert session.inputs == (("x", (2, None)),)
    assert session.outputs == (("y", (2, None)),)
    (y,) = session.run({"x": np.zeros((2, 3), dtype=np.float32)})
    np.testing.assert_array_equal(y, np.ones((2, 3)))


def test_without_a_gpu_auto_means_the_cpu_and_is_no_note(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_session(network)[1:3] == ("CPU", None)


@pytest.mark.parametrize("device", ["mps", "cpu", "cpu:0"])
def test_other_devices_mean_the_cpu(network, device, gpu_build):
    assert open_session(network, device)[1:3] == ("CPU", None)
    assert gpu_build[0] == [[CPU]]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_cpu_build_on_a_gpu_machine_is_noted_with_the_fix(network, device, gpu_machine, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", CPU])
    session = open_session(network, device)
    assert session.provider == "CPU"
    assert "is the CPU build" in session.note
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu" in session.note


def test_an_amd_gpu_is_not_tried(network, gpu_build, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert open_session(network)[1:3] == ("CPU", None)
    assert "device cuda: torch sees no NVIDIA GPU" in open_session(network, "cuda").note
    assert gpu_build[0] == [[CPU], [CPU]]


def test_asking_for_a_gpu_that_is_not_there_is_noted(network, gpu_build, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session = open_session(network, "cuda:1")
    assert session.provider == "CPU"
    assert "device cuda:1: torch sees no NVIDIA GPU" in session.note and "choose device cpu" in session.note
    assert gpu_build[0] == [[CPU]]


@pytest.mark.parametrize(("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_the_gpu_is_used_when_it_is_there(network, device, index, gpu_build, capsys):
    session = open_session(network, device)
    (provider, options), fallback = gpu_build[0][0]
    assert (session.provider, session.note) == ("CUDA", None)
    assert (provider, options["device_id"], fallback) == (CUDA, index, CPU)
    assert capsys.readouterr().out == ""  # where the command line's JSON goes


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("CPU", "Failed to load libcudnn.so.9"), (RuntimeError("CUDA failure 101:\n invalid device"), "CUDA failure 101")],
)
def test_falling_back_to_the_cpu_is_said_with_reason_and_fix(network, answer, reason, gpu_build, capsys):
    asked, recorder = gpu_build
    recorder.answer = answer
    session = open_session(network, "cuda:7")
    assert session.provider == "CPU"
    assert session.run({"x": np.zeros((2, 1), dtype=np.float32)})[0].tolist() == [[1], [1]]
    assert reason in session.note and "torch brings 12.8" in session.note and "pip install" in session.note
    assert "\n" not in session.note
    assert capsys.readouterr().out == ""


def test_a_gpu_that_fails_at_work_is_one_line(network, gpu_build, monkeypatch):
    session = open_session(network, "cuda")

    def run(*_):
        raise RuntimeError("Failed to allocate memory\nfor requested buffer")

    monkeypatch.setattr(session.runner, "run", run, raising=False)
    with pytest.raises(
        InputError, match=r"plus_one.onnx: failed on the GPU \(Failed to allocate memory for.*device cpu"
    ):
        session.run({})


@pytest.mark.parametrize(("setting", "threads"), [("1", 1), ("3", 3), ("", 0), ("2,1", 0)])
def test_threads_follow_omp_num_threads(network, setting, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert open_session(network, "cpu").runner.get_session_options().intra_op_num_threads == threads


def test_onnxruntime_keeps_its_warnings_to_itself(network):
    assert open_session(network, "cpu").runner.get_session_options().log_severity_level == 4


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_an_unknown_device(network, device):
    with pytest.raises(InputError, match=f"unknown device '{device}'; use auto, cpu, cuda"):
        open_session(network, device)


def test_without_onnxruntime_the_message_says_what_to_install(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime-gpu .* or pip install onnxruntime"):
        open_session(network)


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="nothing.onnx: cannot be read .*weights download"):
        open_session(tmp_path / "nothing.onnx")


def test_a_git_lfs_pointer(tmp_path):
    path = tmp_path / "yolox_l.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 216746733\n")
    with pytest.raises(WeightsError, match="yolox_l.onnx: is a Git LFS pointer.*weights download"):
        open_session(path)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("keep", [0, 30, -20])
def test_a_damaged_file_is_one_line(network, tmp_path, keep, device, gpu_machine, capfd):
    path = tmp_path / "half.onnx"
    path.write_bytes(network.read_bytes()[:keep])
    what = "half.onnx: (is empty|damaged or not an ONNX network).*weights download"
    with pytest.raises(WeightsError, match=what) as error:
        open_session(path, device)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_on_the_gpu_build(gpu_build, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(b"no network")
    gpu_build[1].answer = RuntimeError("no network")
    with pytest.raises(WeightsError, match="half.onnx: damaged"):
        open_session(path, "cuda")


def test_expected_names_and_shapes_pass(network):
    session = open_session(network, "cpu")
    session.expect("a sum", {"x": (2, None)}, {"y": (2, None)})
    session.expect("a sum", {"x": (None, 5)}, {"y": (2, 5)})  # the file's free dimension may be 5


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"z": (2, None)}, {"y": (2, None)}),
        ({"x": (2, None)}, {"z": (2, None)}),
        ({"x": (2, None)}, {"y": (2, None), "z": (2, None)}),
        ({"x": (3, None)}, {"y": (2, None)}),
        ({"x": (2, None)}, {"y": (2, None, None)}),
    ],
)
def test_another_network_is_told_with_both_shapes(network, inputs, outputs):
    session = open_session(network, "cpu")
    message = r"plus_one.onnx: not a sum: the graph is x \[2, any\] -> y \[2, any\], expected is "
    with pytest.raises(WeightsError, match=message):
        session.expect("a sum", inputs, outputs)


def test_a_half_precision_network_is_told(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    helper, half = onnx.helper, onnx.TensorProto.FLOAT16
    ports = [helper.make_tensor_value_info(name, half, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "half", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "h.onnx")
    with pytest.raises(WeightsError, match=r"h.onnx: takes tensor\(float16\), expected is float32"):
        open_session(tmp_path / "h.onnx", "cpu").expect("half", {"x": (1,)}, {"y": (1,)})


@pytest.mark.gpu
def test_a_real_gpu_is_used_or_the_note_says_why(network):
    session = open_session(network, "cuda")
    assert session.provider == "CUDA" or session.note
