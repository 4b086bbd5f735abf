"""Are weight files whole: checksums, records of where they came from, and a look at each file's own structure."""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import WeightsError
from ..files import fault_of
from .places import Places
from .registry import FILES

RECORDS = "revisions.json"  # in a models folder: file -> repo, remote, revision, size, sha256
BLOCK = 1 << 22
LEGACY_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch files began before they were zip archives
ONNX_GRAPH = 7  # field number of the graph in an ONNX file's protobuf


class Verdict(NamedTuple):
    """What is known about one file."""

    path: Path
    ok: bool
    checksum: str  # "matches", "differs" or "unknown" (nothing to compare with)
    revision: str | None  # commit of the hub repository that it was fetched from
    problem: str | None  # what is wrong and what to do, in one line


def verify(key: str, path: Path, places: Places, on_progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Check the structure and the checksum of a file that Places.find gave for this registry key.

    The checksum is compared with the hub's, as recorded when the file was fetched; without a record with the
    registry's, where the file has the published name and size (another size is another revision or a conversion).
    on_progress(done, total): bytes read.
    """
    record = find_record(path, places) or {}
    known = FILES[key]
    expected = record.get("sha256")
    if expected is None and path.name == Path(known.path).name and path.stat().st_size == known.size:
        expected = known.sha256
    checksum, problem = "unknown", None
    try:
        check_structure(path)
    except WeightsError as error:
        problem = str(error)
    if expected and problem is None:
        found = file_sha256(path, on_progress)
        checksum = "matches" if found == expected else "differs"
        if found != expected:
            problem = f"{path}: damaged or altered, its SHA-256 is {found[:12]}..., published is {expected[:12]}..."
    if problem:
        problem += f"; delete it and run: {places.fetch_command([key])}"
    return Verdict(path, problem is None, checksum, record.get("revision"), problem)


def file_sha256(path: Path, on_progress: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            if on_progress:
                on_progress(done, total)
    return digest.hexdigest()


def read_records(folder: Path) -> dict[str, dict]:
    """What is recorded about a models folder's files, by their path below it; empty where nothing can be read."""
    try:
        files = json.loads((folder / RECORDS).read_text(encoding="utf-8"))["files"]
        return {str(name): dict(record) for name, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_record(folder: Path, name: str, record: dict) -> None:
    """Add or replace what is recorded about one file."""
    files = read_records(folder) | {name: record}
    temporary = folder / f"{RECORDS}.part"
    temporary.write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RECORDS)


def find_record(path: Path, places: Places) -> dict | None:
    """The record of a file, when it lies in a models folder and still has the size that was fetched."""
    for folder in places.models:
        if path.is_relative_to(folder):
            record = read_records(folder).get(path.relative_to(folder).as_posix())
            return record if record and record.get("size") == path.stat().st_size else None
    return None


def check_structure(path: Path) -> None:
    """Look whether a file is what its name says, whole by its own account; no tensor is read.

    Raises WeightsError for a truncated or foreign file, a Git LFS pointer or a web page saved under this name.
    """
    fault = fault_of(path)
    if fault:
        raise WeightsError(f"{path}: {fault}")
    check = {".safetensors": _check_safetensors, ".onnx": _check_onnx, ".pth": _check_pickle}.get(path.suffix.lower())
    if check is None:
        return
    try:
        with path.open("rb") as file:
            check(file, path.stat().st_size)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: no whole {path.suffix} file ({' '.join(str(error).split())})") from error


def _check_safetensors(file: BinaryIO, size: int) -> None:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise ValueError("its header is missing or cut off")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header lists no tensors")
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("its header lists no tensors") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"it has {size} bytes, its header speaks of {expected}")


def _check_pickle(file: BinaryIO, size: int) -> None:
    if file.read(len(LEGACY_PICKLE)) == LEGACY_PICKLE:
        return  # no table of contents: only a checksum or the loader can tell
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if not pickles:
            raise ValueError("an archive, but not one of torch's")
        asked = {".".join(words) for words in _asked_for(archive.read(pickles[0]))}
        code = sorted(name for name in asked if not name.startswith(("torch", "collections.OrderedDict")))
        if code:
            raise ValueError(f"it asks for code: {', '.join(code)}")


def _asked_for(pickle: bytes) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a pickle would import; nothing is executed."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name == "GLOBAL":
            yield tuple(argument.split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield tuple(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _check_onnx(file: BinaryIO, size: int) -> None:
    """Walk over the outermost protobuf fields: their lengths must lead exactly to the end of the file."""
    fields = set()
    while file.tell() < size:
        tag = _varint(file)
        fields.add(tag >> 3)
        if tag & 7 == 0:
            _varint(file)
        elif tag & 7 == 2:
            length = _varint(file)
            if file.tell() + length > size:
                raise ValueError(f"it is cut off after {size} bytes")
            file.seek(length, os.SEEK_CUR)
        else:
            raise ValueError("it holds no ONNX model")
    if ONNX_GRAPH not in fields:
        raise ValueError("it holds no ONNX graph")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut off")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("it holds no ONNX model")
