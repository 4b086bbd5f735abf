"""Weight files at first sight, and the command that fetches them."""

from __future__ import annotations

import sys
from pathlib import Path

from .errors import WeightsError

PACKAGE = Path(__file__).absolute().parent  # not resolved: a linked pack still lies in its ComfyUI
# Inside ComfyUI nobody stands in the pack's folder, and the Python of the Windows portable build looks in no folder.
INSIDE_COMFYUI = PACKAGE.parents[1].name == "custom_nodes"
PROGRAM = f'"{sys.executable}" "{PACKAGE}"' if INSIDE_COMFYUI else "python -m stableanimator_core"
FETCH = f"fetch it with: {PROGRAM} weights download all"
FETCH_AGAIN = f"delete it, then: {PROGRAM} weights download all"

LFS_POINTER = b"version https://git-lfs"
LFS_POINTER_BYTES = 1024  # pointers are about 130 bytes


def check_file(path: Path) -> None:
    """Raises WeightsError for a file that is absent, or whose first bytes are not those of weights."""
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); {FETCH}") from error
    if is_lfs_pointer(path):
        raise WeightsError(f"{path}: is a Git LFS pointer, not the weights; {FETCH_AGAIN}")
    if not start:
        raise WeightsError(f"{path}: is empty; {FETCH_AGAIN}")
    if start.startswith(b"<"):
        raise WeightsError(f"{path}: is a web page, not the weights; {FETCH_AGAIN}")


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the small text that Git leaves in place of a large file that it has not fetched."""
    try:
        if path.stat().st_size > LFS_POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False
