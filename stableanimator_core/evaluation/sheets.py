"""Evaluated clips to look at: contact sheets, and how identity runs over the frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..video import SheetRow, contact_sheet
from ..video.charts import Chart, ticks
from .animation import CEILING, COPY, FLOOR, MADE, PLAIN, ClipResult
from .metrics import mean

DIFFERENCE_GAIN = 3  # differences are shown so many times as large: small ones would look black
LINES = (  # row, title, colour; the last lies on top
    (FLOOR, "somebody else", (150, 150, 150)),
    (COPY, "the reference copied", (200, 120, 0)),
    (CEILING, "the truth", (30, 140, 60)),
    (PLAIN, "made, without HJB", (30, 100, 200)),
    (MADE, "made, with HJB", (200, 30, 60)),
)
THICK = (-0.002, 0.0, 0.002)  # of CSIM: a line drawn so often is thick
LEGEND = 0.3  # of CSIM: room below the lines for their names


def clip_sheet(result: ClipResult) -> np.ndarray:
    """Reference, truth, what was made and |difference|, frame by frame with CSIM: uint8 [H, W, 3].

    Where the truth is unknown, the person's own video stands in its place and there is no difference.
    """
    case = result.case
    rows = [
        SheetRow("reference", case.reference[None]),
        SheetRow("truth" if case.known else "own video", case.own.frames, _captions(result.csim[CEILING])),
        SheetRow("poses", result.pose_images),
        SheetRow("without HJB", result.plain, _captions(result.csim[PLAIN])),
    ]
    if result.made is not result.plain:
        rows.append(SheetRow("with HJB", result.made, _captions(result.csim[MADE])))
    if case.known:
        difference = np.abs(result.made.astype(int) - case.own.frames)
        gained = (DIFFERENCE_GAIN * difference).clip(0, 255).astype(np.uint8)
        rows.append(SheetRow(f"difference x{DIFFERENCE_GAIN}", gained))
    return contact_sheet(rows, cell=max(result.made.shape[1], 128))


def identity_chart(results: Sequence[dict[str, np.ndarray]], *, width: int = 960, height: int = 600) -> np.ndarray:
    """CSIM over the frames: every clip as a thin line, their mean as a thick one. uint8 [H, W, 3].

    results: of every clip, row -> CSIM per frame, NaN where there is no face.
    """
    frames = max(len(line) for rows in results for line in rows.values())
    known = [line[~np.isnan(line)] for rows in results for line in rows.values()]
    lowest = min(0.0, np.concatenate(known).min(initial=0.0))
    last = max(frames - 1, 1)
    chart = Chart(width, height, (0, last), (lowest - LEGEND, 1.0))
    for tick in ticks(0, last, 8):
        chart.tick_x(tick, f"{tick:g}")
    for tick in ticks(lowest, 1.0, 6):
        chart.tick_y(tick, f"{tick:.1f}")
    chart.names("frame", f"identity (CSIM) of {len(results)} clips; thick: their mean")
    for place, (row, title, colour) in enumerate(LINES):
        lines = [rows[row] for rows in results]
        pale = tuple((value + 3 * 255) // 4 for value in colour)
        for line in lines:
            chart.curve(np.arange(len(line)), line, pale)
        over_clips = np.array([mean([line[f] for line in lines if f < len(line)]) for f in range(frames)])
        for shift in THICK:
            chart.curve(np.arange(frames), over_clips + shift, colour)
        text = f"{title}: mean {mean(np.concatenate(lines)):.3f}"
        chart.text(text, chart.left + 15, chart.bottom - 12 - 20 * place, colour=colour)
    return chart.picture


def _captions(csim: np.ndarray) -> list[str]:
    return ["" if value != value else f"{value:.2f}" for value in csim.tolist()]
