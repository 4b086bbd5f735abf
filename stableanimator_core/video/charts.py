"""Text on pictures, and curves over axes: to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


class Theme(NamedTuple):
    """Colours of a picture with text."""

    paper: Colour
    grid: Colour
    ink: Colour


LIGHT = Theme((255, 255, 255), (225, 225, 225), (60, 60, 60))
DARK = Theme((32, 34, 40), (64, 67, 76), (225, 225, 225))

TEXT = 14  # px, letters; larger on charts wider than 960 px
STEPS = (1, 2, 5)  # times a power of ten: what people count in


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, letters of about `size` px."""
    return ImageFont.load_default(size)


def write(
    picture: np.ndarray, text: str, x: float, y: float, *, colour: Colour, size: int = TEXT, anchor: str = "ls"
) -> None:
    """Write on a picture, uint8 [H, W, 3]. anchor: which point of the text lies at x, y (Pillow's letters)."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((x, y), text, fill=colour, font=font(size), anchor=anchor)
    picture[:] = np.asarray(image)


def widest(texts: Sequence[str], size: int) -> float:
    """Width in px of the widest of some texts."""
    return max(font(size).getlength(text) for text in texts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = min((power * factor for factor in (*STEPS, 10)), key=lambda step: abs((high - low) / step - count))
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Chart:
    """A picture with axes, uint8 [H, W, 3]; letters and lines are sized for its width.

    x and y: the range of each, in the units of the data.
    """

    def __init__(
        self, width: int, height: int, x: tuple[float, float], y: tuple[float, float], theme: Theme = LIGHT
    ) -> None:
        self.picture = np.full((height, width, 3), theme.paper, np.uint8)
        self._em = TEXT * max(1, width / 960)  # px, a letter
        left, top, right, bottom = (round(letters * self._em) for letters in (5, 2.5, 4.6, 4.3))
        self.left, self.top, self.right, self.bottom = left, top, width - right, height - bottom
        self._x, self._y, self._theme = x, y, theme

    def place(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        """Where data lie, int32 px [..., 2]."""
        across = (np.asarray(x, float) - self._x[0]) / (self._x[1] - self._x[0])
        up = (np.asarray(y, float) - self._y[0]) / (self._y[1] - self._y[0])
        px = self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)
        return np.stack(np.broadcast_arrays(*px), -1).round().astype(np.int32)

    def text(self, text: str, x: float, y: float, anchor: str = "ls", colour: Colour | None = None) -> None:
        """Text at a place in px; anchor as in `write`."""
        write(self.picture, text, x, y, colour=colour or self._theme.ink, size=round(self._em), anchor=anchor)

    def tick_x(self, x: float, label: str) -> None:
        """A line from the bottom to the top, with its number."""
        column = int(self.place(x, self._y[0])[0])
        cv2.line(self.picture, (column, self.top), (column, self.bottom), self._theme.grid, 1)
        self.text(label, column, self.bottom + 1.4 * self._em, "ms")

    def tick_y(self, y: float, label: str) -> None:
        """A line from left to right, with its number."""
        row = int(self.place(self._x[0], y)[1])
        cv2.line(self.picture, (self.left, row), (self.right, row), self._theme.grid, 1)
        self.text(label, self.left - 0.7 * self._em, row, "rm")

    def names(self, x: str, y: str = "") -> None:
        """What the axes show: below the chart and above it."""
        self.text(x, (self.left + self.right) / 2, self.bottom + 3.2 * self._em, "ms")
        self.text(y, self.left, self.top - 0.8 * self._em)

    def curve(self, x: np.ndarray, y: np.ndarray, colour: Colour) -> None:
        """A line through points [N]; broken where y is NaN."""
        known = ~np.isnan(y)
        width = round(self._em / 7)
        for part in np.split(np.arange(len(y)), np.flatnonzero(np.diff(known)) + 1):
            if known[part[:1]].any():
                cv2.polylines(self.picture, [self.place(x[part], y[part])], False, colour, width, cv2.LINE_AA)

    def dot(self, x: float, y: float, colour: Colour, label: str = "") -> None:
        """One point that stands out, with its label above."""
        column, row = self.place(x, y).tolist()
        cv2.circle(self.picture, (column, row), round(0.35 * self._em), colour, -1, cv2.LINE_AA)
        half = widest([label], round(self._em)) / 2
        self.text(label, min(max(column, self.left + half), self.right - half), row - 0.8 * self._em, "ms", colour)
