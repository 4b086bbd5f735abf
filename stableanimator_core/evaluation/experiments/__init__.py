"""The paper's experiments on the built-in world, each with the rows that put its figures in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import adapter, alignment, hjb_cost, hjb_strength, missing
from .report import Circumstances, write_report
from .studio import FULL, SMALL, Extent, Studio
from .tables import Column, Result, Table, markdown

__all__ = [
    "EXPERIMENTS", "FULL", "SMALL", "Circumstances", "Column", "Extent", "Result", "Studio", "Table", "markdown",
    "write_report",
]  # fmt: skip

EXPERIMENTS: Mapping[str, Callable[..., Result]] = {
    "alignment": alignment.run,
    "adapter": adapter.run,
    "hjb": hjb_strength.run,
    "missing": missing.run,
    "hjb_cost": hjb_cost.run,
}
