"""What an experiment returns: rows under columns, plots and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..metrics import mean

Row = Mapping[str, Any]  # "setting" and values by their column's key; a value that there is not is left out or None

PAPER = "paper_"  # before a column's key: the same as the paper gives it


class Column(NamedTuple):
    """A column of a table; numbers are written with so many digits."""

    key: str
    title: str
    digits: int = 4


SETTING = Column("setting", "setting")
CSIM = Column("csim", "CSIM", 3)
CSIM_ERROR = Column("csim_error", "±", 3)
L1 = Column("l1", "L1")
FACE_L1 = Column("face_l1", "face L1")
SHARPNESS = Column("sharpness", "sharpness of the face", 2)
SECONDS = Column("seconds", "s a clip", 1)
DIS = Column("dis", "Dis", 3)
PAPER_CSIM = Column(PAPER + CSIM.key, "CSIM in the paper", 3)


@dataclass(frozen=True)
class Table:
    """Rows of an experiment."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """All that an experiment found. plots, sheets: uint8 pictures [H, W, 3] by their file's stem."""

    name: str
    title: str
    setup: str  # what was done, in sentences
    tables: tuple[Table, ...]
    plots: Mapping[str, np.ndarray] = field(default_factory=dict)
    sheets: Mapping[str, np.ndarray] = field(default_factory=dict)


def mean_row(setting: str, scores: Sequence[Mapping[str, float]], **more: Any) -> dict[str, Any]:
    """Means of the scores of several clips, NaN where a clip has none left out; csim_error is CSIM's standard error.

    each: the scores themselves, which no table shows, for whoever compares clip by clip.
    """
    row: dict[str, Any] = {"setting": setting, **more, "each": [dict(score) for score in scores]}
    for key in scores[0]:
        row[key] = mean([score[key] for score in scores])
    known = [score["csim"] for score in scores if "csim" in score and math.isfinite(score["csim"])]
    if len(known) > 1:
        row["csim_error"] = float(np.std(known, ddof=1) / math.sqrt(len(known)))
    return row


def markdown(table: Table) -> list[str]:
    """The table's lines, padded so that it also reads well as plain text."""
    cells = [[column.title for column in table.columns]]
    cells += [[_text(row.get(column.key), column.digits) for column in table.columns] for row in table.rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(table.columns))]
    numeric = [i > 0 for i in range(len(table.columns))]
    lines = []
    for line in cells:
        padded = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(line, widths, numeric))
        lines.append(f"| {' | '.join(padded)} |")
    rule = ("-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric))
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]


def _text(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
