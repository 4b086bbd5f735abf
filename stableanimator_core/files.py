"""Weight files at first sight, and the command that fetches them."""

from __future__ import annotations

import sys
from pathlib import Path

from .errors import WeightsError

PACKAGE = Path(__file__).absolute().parent  # not resolved: a linked pack still lies in its ComfyUI
# Inside ComfyUI nobody stands in the pack's folder, and the Python of the Windows portable build looks in no folder.
INSIDE_COMFYUI = PACKAGE.parents[1].name == "custom_nodes"
PROGRAM = f'"{sys.executable}" "{PACKAGE}"' if INSIDE_COMFYUI else "python -m stableanimator_core"
FOLDERS = ("Animation", "DWPose", "SVD", "antelopev2")  # of the published weights

LFS_POINTER = b"version https://git-lfs"
LFS_POINTER_BYTES = 1024  # pointers are about 130 bytes


def check_file(path: Path) -> None:
    """Raises WeightsError for a file that is absent, or whose first bytes are not those of weights."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{path}: cannot be read ({reason}); fetch it with: {fetch_command(path)}") from error
    fault = fault_of(path)
    if fault:
        raise WeightsError(f"{path}: {fault}; {fetch_again(path)}")


def fault_of(path: Path) -> str | None:
    """What a file is instead of weights, where its first bytes give it away."""
    if is_lfs_pointer(path):
        return "is a Git LFS pointer, not the weights"
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if not start:
        return "is empty"
    return "is a web page, not the weights" if start.startswith(b"<") else None


def fetch_again(path: Path) -> str:
    """What to do about a file that is no use."""
    return f"delete it, then: {fetch_command(path)}"


def fetch_command(path: Path) -> str:
    """The command that fetches what is missing into the models folder that this file lies in."""
    folder = next((parent.parent for parent in reversed(path.parents) if parent.name in FOLDERS), None)
    where = "" if folder is None else f' --models "{folder}"'
    return f"{PROGRAM} weights download all{where}"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the small text that Git leaves in place of a large file that it has not fetched."""
    try:
        if path.stat().st_size > LFS_POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False
