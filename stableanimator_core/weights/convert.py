"""Weight files as state dicts: safetensors, and pickles, which are read once and kept as safetensors."""

from __future__ import annotations

import logging
import os
import re
import shutil
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import WeightsError
from ..files import check_file, fetch_again

log = logging.getLogger(__name__)

State = dict[str, Tensor]
SOURCE, SOURCE_BYTES = "stableanimator_source", "stableanimator_source_bytes"  # in a copy's metadata
SPARE = 1 << 30  # bytes that stay free on the disk


def read_weights(path: Path) -> State:
    """State dict of a .safetensors file, else of a pickle. Raises WeightsError naming the file and its fault.

    A safetensors file that was made from a pickle beside it is made again when that pickle has another size.
    """
    if path.suffix != ".safetensors":
        return read_kept(path, read_pickle)
    check_file(path)
    origin = _origin(path)
    source = path.with_name(Path(origin.get(SOURCE, "")).name or path.name)
    if source != path and source.is_file() and _describe(source) != origin:
        return read_kept(source, read_pickle)
    return read_safetensors(path)


def read_safetensors(path: Path) -> State:
    """State dict of a safetensors file, mapped into memory. Raises WeightsError."""
    check_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged ({error}); {fetch_again(path)}") from error


def read_kept(path: Path, read: Callable[[Path], State]) -> State:
    """`read(path)`, kept as safetensors beside the file so that it is done once.

    The copy is made again when the file has another size, and never takes the place of a file that is not such a copy.
    Where it cannot be written, the tensors are used all the same.
    """
    copy = path.with_suffix(".safetensors")
    check_file(path)
    if _origin(copy) == _describe(path):
        return read_safetensors(copy)
    state = read(path)
    foreign = copy.exists() and not _origin(copy)
    return read_safetensors(copy) if not foreign and _keep(state, copy, _describe(path)) else state


def read_pickle(path: Path) -> State:
    """State dict of a file of torch.save; nothing in it is executed. Raises WeightsError naming the file's fault.

    Accepts {"state_dict": ...} around it and "module." before every key.
    """
    check_file(path)
    mappable = zipfile.is_zipfile(path)  # files from before torch 1.6 can only be read as a whole
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            fault = f"refused: it asks for code ({code[1]}), and weights are tensors alone"
        else:
            fault = f"damaged, or no file of torch.save ({_first_line(error)})"
        raise WeightsError(f"{path}: {fault}; {fetch_again(path)}") from error
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict) or not data:
        what = "nothing" if data == {} else f"a {type(data).__name__}"
        raise WeightsError(f"{path}: holds {what}, not a network's tensors by name; {fetch_again(path)}")
    others = [key for key, value in data.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        kind = type(data[others[0]]).__name__
        raise WeightsError(
            f"{path}: {len(others)} of {len(data)} entries are no tensors by name (first: {others[0]!r}, a {kind}); "
            f"these are no weights of a network; {fetch_again(path)}"
        )
    prefix = "module." if all(key.startswith("module.") for key in data) else ""
    return {key.removeprefix(prefix): tensor.detach() for key, tensor in data.items()}


def _describe(source: Path) -> dict[str, str]:
    """What a copy says about the file that it was made from."""
    return {SOURCE: source.name, SOURCE_BYTES: str(source.stat().st_size)}


def _origin(copy: Path) -> dict[str, str]:
    """`_describe` of the file that this one was made from; empty when it is absent, damaged or no copy."""
    try:
        with safe_open(copy, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
    return {key: metadata[key] for key in (SOURCE, SOURCE_BYTES)} if SOURCE in metadata else {}


def _keep(state: State, copy: Path, origin: dict[str, str]) -> bool:
    """Write a copy, whole or not at all; say whether there is one now."""
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        needed = sum(tensor.nbytes for tensor in state.values())
        if shutil.disk_usage(copy.parent).free < needed + SPARE:
            raise OSError(f"{needed / 1e9:.1f} GB are needed on the disk")
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, part, {"format": "pt", **origin})
        shutil.copymode(copy.with_name(origin[SOURCE]), part)  # safetensors writes for the owner's eyes alone
        part.replace(copy)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: names that share one tensor
        log.warning("%s is not kept as %s (%s)", origin[SOURCE], copy, _first_line(error))
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _first_line(error: Exception) -> str:
    """The part of a message that says what is wrong: torch explains for several paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Unsupported")] or lines
    return textwrap.shorten(told[0], 200, placeholder=" ...") if told else type(error).__name__
