"""What the paper publishes (StableAnimator++, arXiv 2507.15064), to stand beside our figures.

On real people, and with HJB wherever the paper has it: read the order of things, not the numbers. What is not listed is
not known here; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .tables import PAPER, Row

FIGURES: Mapping[tuple[str, str], Mapping[str, float]] = {  # (experiment, row) -> column -> the paper's figure
    ("alignment", "learned"): {"csim": 0.80},  # on MisAlign100, the whole method
}


def beside(experiment: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows with the paper's figures."""
    return tuple(
        {**row, **{PAPER + key: value for key, value in FIGURES.get((experiment, row["setting"]), {}).items()}}
        for row in rows
    )
