"""What a command says: lines on stdout, progress on stderr, or one JSON object."""

import json
import math
import os
import shutil
import sys
from typing import Any


class Report:
    """Lines go to stdout, or nowhere when quiet (the command then answers in JSON); progress goes to stderr."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self._shown = -1

    def line(self, text: str = "") -> None:
        """A line of the answer."""
        if not self.quiet:
            answer(text)

    def note(self, text: str) -> None:
        """Something to know that is not the answer; stderr."""
        print(text, file=sys.stderr, flush=True)

    def live(self, text: str) -> None:
        """A passing word between two steps of progress; only where somebody watches a terminal."""
        if sys.stderr.isatty():
            print(f"\r\033[K{_fitting(text)}", end="", file=sys.stderr, flush=True)

    def progress(self, done: int, total: int, text: str) -> None:
        """Progress on stderr: one line that moves on a terminal, a line for every fifth elsewhere."""
        if sys.stderr.isatty():
            end = "\n" if done >= total else ""
            print(f"\r\033[K{_fitting(f'{done}/{total} {text}')}", end=end, file=sys.stderr, flush=True)
        elif done * 5 // max(total, 1) != self._shown or done >= total:
            self._shown = done * 5 // max(total, 1)
            print(f"{done}/{total} {text}", file=sys.stderr, flush=True)


def _fitting(text: str) -> str:
    """As much as one row of the terminal holds: only that row can be written over."""
    return text[: shutil.get_terminal_size().columns - 1]


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on one line of stdout; NaN and infinity, which JSON lacks, become null."""
    answer(json.dumps(plain(value), allow_nan=False))


def answer(text: str) -> None:
    """A line on stdout. When nobody reads there any more, as behind `| head`, the command goes on in silence."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: Any) -> Any:
    """Nested data as JSON knows it: paths as text, arrays and tensors as lists, no NaN."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def rounded(values: Any, digits: int = 4) -> list[float | None]:
    """A row of numbers for JSON: rounded, null where there is none (NaN)."""
    return [None if math.isnan(value) else round(float(value), digits) for value in values]


def sparkline(values: list[float | None], low: float = 0.0, high: float = 1.0) -> str:
    """A row of block characters, one per value between low and high; a dot where there is none."""
    blocks = "▁▂▃▄▅▆▇█"
    scaled = [None if v is None else (min(max(v, low), high) - low) / (high - low) for v in values]
    return "".join("·" if s is None else blocks[min(int(s * len(blocks)), len(blocks) - 1)] for s in scaled)
