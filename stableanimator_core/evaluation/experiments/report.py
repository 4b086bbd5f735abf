"""The experiments as files: results.json, report.md, plots and contact sheets."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import __version__
from ...video import write_image
from .studio import Extent
from .tables import PAPER, Column, Result, Table, markdown

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python")


@dataclass(frozen=True)
class Circumstances:
    """How the experiments were made, for whoever repeats them."""

    command: str
    model: str
    device: str
    seed: int
    extent: Extent
    mocap: str | None
    date: str
    versions: Mapping[str, str]

    @classmethod
    def of(cls, *, command: str, model: str, device: torch.device, seed: int, extent: Extent, mocap: Path | None):
        """Now, here."""
        return cls(
            command, model, _name(device), seed, extent, None if mocap is None else mocap.name,
            datetime.now(timezone.utc).isoformat(timespec="minutes"), _versions(),
        )  # fmt: skip


def write_report(folder: Path, circumstances: Circumstances, results: Sequence[Result]) -> dict[str, Any]:
    """Write all files into the folder, which exists, and return what results.json holds.

    Other experiments that the folder holds already stay in the report if only command and time are different.
    Raises VideoError when a picture cannot be written.
    """
    found: dict[str, Any] = {**asdict(circumstances), "experiments": {}, "sections": {}} | _left(folder, circumstances)
    for result in results:
        found["experiments"][result.name] = {table.key: _plain(list(table.rows)) for table in result.tables}
        found["sections"][result.name] = {"command": circumstances.command, "text": "\n".join(_section(result))}
        for kind, pictures in _pictures(result):
            for stem, picture in pictures.items():
                write_image(folder / _file(stem, kind), picture)
    lines = [
        "# Experiments",
        "",
        f"`{circumstances.command}`",
        "",
        f"Model {circumstances.model} on {circumstances.device}, {circumstances.date}, seed {circumstances.seed}"
        f"{'' if circumstances.mocap is None else f', motion of {circumstances.mocap}'}. "
        + ", ".join(f"{name} {number}" for name, number in circumstances.versions.items())
        + ".",
        "",
        "Everybody is held out from training: people, choreographies. CSIM is by an embedder that neither the model "
        "nor HJB ever saw; ± is the standard error of its mean over the clips. Columns \"in the paper\" are of "
        "arXiv 2507.15064, on real people: another world, to be read for the order of things; they are empty where "
        "we know no figure.",
    ]  # fmt: skip
    for section in found["sections"].values():
        lines += ["", section["text"]]
        if section["command"] != circumstances.command:
            lines += ["", f"By `{section['command']}`."]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _left(folder: Path, circumstances: Circumstances) -> dict[str, Any]:
    """Experiments and sections of the folder's report, if its circumstances are these."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        left = {key: dict(found[key]) for key in ("experiments", "sections")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    own = asdict(replace(circumstances, command=found.get("command"), date=found.get("date")))
    return left if own == {key: found.get(key) for key in own} else {}


def _section(result: Result) -> list[str]:
    """An experiment's lines of the report."""
    lines = [f"## {result.title}", "", result.setup]
    for table in result.tables:
        lines += ["", f"### {table.title}", "", *markdown(replace(table, columns=_columns(table)))]
    for kind, pictures in _pictures(result):
        lines += [line for stem in pictures for line in ("", f"![{result.title}: {kind}]({_file(stem, kind)})")]
    return lines


def _pictures(result: Result) -> Iterable[tuple[str, Mapping[str, np.ndarray]]]:
    return ("plot", result.plots), ("sheet", result.sheets)


def _file(stem: str, kind: str) -> str:
    return f"{stem}_{kind}.png"


def _columns(table: Table) -> tuple[Column, ...]:
    """The columns that have something, and those of the paper: that we know no figure is to be seen."""

    def given(key: str) -> bool:
        values = (row.get(key) for row in table.rows)
        return any(value is not None and value == value for value in values)

    return tuple(column for column in table.columns if column.key.startswith(PAPER) or given(column.key))


def _plain(value: Any) -> Any:
    """Rows as JSON knows them: rounded, null for what is no number."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    """Of this pack, Python and what the numbers depend on."""
    found = {"stableanimator_core": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
