"""Where the golden files are: the folder in STABLEANIMATOR_GOLDEN, by default the copy beside these tests."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(os.environ.get("STABLEANIMATOR_GOLDEN") or Path(__file__).parent / "golden")


def golden_path(name: str) -> Path:
    """Path of a golden file or folder, e.g. golden_path("pose_draw/index.json")."""
    return GOLDEN / name
