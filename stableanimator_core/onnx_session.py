"""ONNX networks on the GPU or the CPU, and the plain truth about which of the two it is.

onnxruntime is imported when a session is opened: whoever brings their own poses never needs it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .errors import InputError, WeightsError, one_line
from .files import check_file, fetch_again

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FATAL_ONLY = 4  # onnxruntime's log severity; what goes wrong is raised or said in the session's note

INSTALL_GPU_BUILD = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"

Shape = tuple[int | None, ...]  # None: any size


class Session(NamedTuple):
    """An opened network. `inputs` and `outputs` are (name, shape) in the graph's order; None is a free dimension."""

    path: Path
    provider: str  # "CUDA" or "CPU": where it really runs
    note: str | None  # why it runs on the CPU although a GPU is there or was asked for, and how to mend it
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]
    runner: Any  # onnxruntime.InferenceSession

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the graph's order, of the inputs by name. Raises InputError when the network fails."""
        try:
            return self.runner.run(None, dict(feeds))
        except Exception as error:  # onnxruntime's errors have no common base
            where, fix = "CPU", fetch_again(self.path)
            if self.provider == "CUDA":
                where, fix = "GPU", "close what fills its memory, or use device cpu"
            raise InputError(f"{self.path}: failed on the {where} ({_shortened(error)}); {fix}") from error

    def expect(self, what: str, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
        """Raises WeightsError unless names and shapes are these. None matches any size; free dimensions match all."""
        fix = fetch_again(self.path)
        found = f"{_listed_all(self.inputs)} -> {_listed_all(self.outputs)}"
        wanted = f"{_listed_all(inputs.items())} -> {_listed_all(outputs.items())}"
        if not (_same_ports(self.inputs, inputs) and _same_ports(self.outputs, outputs)):
            raise WeightsError(f"{self.path}: not {what}: the graph is {found}, expected is {wanted}; {fix}")
        kinds = {port.type for port in self.runner.get_inputs()}
        if kinds != {"tensor(float)"}:
            raise WeightsError(f"{self.path}: takes {', '.join(sorted(kinds))}, expected is float32; {fix}")


def open_session(path: Path, device: str = "auto") -> Session:
    """Open an .onnx file. device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"; others mean the CPU.

    Raises WeightsError for a missing or damaged file, InputError without onnxruntime or for an unknown device.
    A session that could not be opened on the GPU runs on the CPU and says why in its note.
    """
    wanted = _gpu_index(device)
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"onnxruntime, which finds people and faces, cannot be imported ({error}); "
            "pip install onnxruntime-gpu (NVIDIA GPU) or pip install onnxruntime (all others)"
        ) from error
    check_file(path)
    if wanted is None:
        return _session(path, _runner(onnxruntime, path, [CPU]), None)
    if torch.version.hip:
        return _session(path, _runner(onnxruntime, path, [CPU]), "people and faces are found on the CPU on AMD GPUs")
    if not _nvidia_gpu():
        note = f"device {device}: torch sees no NVIDIA GPU, so people and faces are found on the CPU; "
        fix = "install NVIDIA's driver and torch for CUDA, or choose device cpu"
        return _session(path, _runner(onnxruntime, path, [CPU]), note + fix)
    if CUDA not in onnxruntime.get_available_providers():
        note = f"onnxruntime {onnxruntime.__version__} is the CPU build, so people and faces are found on the CPU; "
        return _session(path, _runner(onnxruntime, path, [CPU]), note + INSTALL_GPU_BUILD)

    # Without these onnxruntime searches cuDNN's kernels anew, for seconds, at every new batch size, and grows its
    # memory by doubling, which ComfyUI can't see.
    options = {"device_id": wanted, "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    complaint = _load_cuda_libraries(onnxruntime)
    try:
        runner = _runner(onnxruntime, path, [(CUDA, options), CPU])
    except WeightsError as error:
        runner = _runner(onnxruntime, path, [CPU])  # a damaged file raises again
        complaint = str(error.__cause__)
    if runner.get_providers()[0] == CUDA:
        return _session(path, runner, None)
    return _session(path, runner, _fallback_note(onnxruntime, complaint))


def _gpu_index(device: str) -> int | None:
    """Which GPU to try; None is the CPU."""
    if device == "auto":
        return 0 if _nvidia_gpu() else None
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device '{device}'; use auto, cpu, cuda or cuda:<number>") from error
    return (parsed.index or 0) if parsed.type == "cuda" else None


def _nvidia_gpu() -> bool:
    # AMD's GPUs are "cuda" to torch, too, but not to onnxruntime.
    return torch.cuda.is_available() and torch.version.cuda is not None


def _runner(onnxruntime: Any, path: Path, providers: list) -> Any:
    """onnxruntime's own session. Raises WeightsError with the reason as its cause."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():  # onnxruntime's own threads don't follow it
        options.intra_op_num_threads = int(threads)
    try:
        # Its own fallback prints to stdout, where the command line's JSON goes.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no common base
        reason = _shortened(error)
        raise WeightsError(f"{path}: damaged or not an ONNX network ({reason}); {fetch_again(path)}") from error


def _load_cuda_libraries(onnxruntime: Any) -> str:
    """Load CUDA and cuDNN from where pip put them for torch. Returns what onnxruntime has to say about it."""
    if not hasattr(onnxruntime, "preload_dlls"):  # before 1.21; torch, imported above, has loaded what it brings
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    return said.getvalue()


def _fallback_note(onnxruntime: Any, complaint: str) -> str:
    built_for = getattr(onnxruntime, "cuda_version", "") or "another CUDA"
    reason = f" ({_shortened(complaint)})" if complaint.strip() else " (the console has its message)"
    return (
        f"onnxruntime could not use the GPU, so people and faces are found on the CPU{reason}: onnxruntime "
        f"{onnxruntime.__version__} is built for CUDA {built_for}, torch brings {torch.version.cuda}; "
        f"{INSTALL_GPU_BUILD}, in a version for torch's CUDA"
    )


def _shortened(message: object) -> str:
    """A message of several lines in one, cut after 300 characters: graphs are listed in some."""
    return one_line(message)[:300]


def _session(path: Path, runner: Any, note: str | None) -> Session:
    provider = "CUDA" if runner.get_providers()[0] == CUDA else "CPU"
    return Session(path, provider, note, _ports(runner.get_inputs()), _ports(runner.get_outputs()), runner)


def _ports(nodes: list) -> tuple[tuple[str, Shape], ...]:
    """Names and shapes; onnxruntime gives free dimensions as None or as their names."""
    return tuple((node.name, tuple(n if isinstance(n, int) else None for n in node.shape)) for node in nodes)


def fits(found: Shape, wanted: Shape) -> bool:
    """Whether a shape is the wanted one; None on either side is any size."""
    return len(found) == len(wanted) and all(None in pair or pair[0] == pair[1] for pair in zip(found, wanted))


def listed(name: str, shape: Shape) -> str:
    """An input or output for a message: "images [any, 3, 640, 640]"."""
    return f"{name} [{', '.join('any' if n is None else str(n) for n in shape)}]"


def _same_ports(ports: tuple[tuple[str, Shape], ...], wanted: Mapping[str, Shape]) -> bool:
    # Exporters may leave a whole shape open, which reads as [].
    found = dict(ports)
    return found.keys() == wanted.keys() and all(not found[name] or fits(found[name], wanted[name]) for name in wanted)


def _listed_all(ports: Iterable[tuple[str, Shape]]) -> str:
    return ", ".join(listed(name, shape) for name, shape in ports)
