"""Plots of several curves with their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .charts import LIGHT, TEXT, Chart, Colour, ticks, widest, write

COLOURS: tuple[Colour, ...] = (
    (200, 30, 60), (30, 100, 200), (30, 140, 60), (200, 120, 0), (130, 60, 170), (110, 110, 110), (0, 150, 160),
    (160, 90, 60),
)  # fmt: skip
ROOM = 0.06  # of the range of the data, on either side


class Curve(NamedTuple):
    """Points of one name; a curve of one point is a dot. labels: of the points, or none."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


def plot_curves(
    curves: Sequence[Curve], x_name: str, y_name: str, *, log_x: bool = False, width: int = 960, height: int = 520
) -> np.ndarray:
    """A chart with a legend below it, uint8 RGB. Points without a number are left out; log_x: all x are above 0."""
    curves = [_known(curve, log_x) for curve in curves]
    xs, ys = ([value for curve in curves for value in getattr(curve, axis)] for axis in "xy")
    chart = Chart(width, height, _range(xs), _range(ys))
    for tick in ticks(*_range(xs), 8):
        chart.tick_x(tick, f"{10**tick:.2g}" if log_x else f"{tick:g}")
    for tick in ticks(*_range(ys), 6):
        chart.tick_y(tick, f"{tick:.4g}")
    chart.names(x_name, y_name)
    for curve, colour in zip(curves, _colours(len(curves))):
        chart.curve(np.array(curve.x), np.array(curve.y), colour)
        if len(curve.x) < 20:  # not in curves made of every pair
            for i, (x, y) in enumerate(zip(curve.x, curve.y)):
                chart.dot(x, y, colour, curve.labels[i] if curve.labels else "")
    return np.concatenate([chart.picture, _legend([curve.name for curve in curves], width)])


def stacked(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one width below one another."""
    return np.concatenate(pictures)


def _known(curve: Curve, log_x: bool) -> Curve:
    points = [(x, y) for x, y in zip(curve.x, curve.y) if math.isfinite(x) and math.isfinite(y)]
    return curve._replace(x=[math.log10(x) if log_x else x for x, _ in points], y=[y for _, y in points])


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Around all values; one that can be drawn, too, when they are all alike or there are none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = ROOM * (high - low) or 0.5 * abs(low) or 0.5
    return low - room, high + room


def _colours(count: int) -> list[Colour]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _legend(names: Sequence[str], width: int) -> np.ndarray:
    """The names in their curves' colours, in as many lines as they need."""
    line, gap = 2 * TEXT, 2 * TEXT
    places, x, y = [], gap, 0
    for name in names:
        needed = round(widest([name], TEXT)) + gap
        if x + needed > width and x > gap:
            x, y = gap, y + line
        places.append((x, y))
        x += needed
    strip = np.full((y + line, width, 3), LIGHT.paper, np.uint8)
    for name, (left, top), colour in zip(names, places, _colours(len(names))):
        write(strip, name, left, top + line - TEXT, colour=colour)
    return strip
