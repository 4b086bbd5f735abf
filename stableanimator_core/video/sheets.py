"""Frames side by side, and poses laid over them: to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import VideoError
from .formats import check_frames, fitted


def overlay(frames: np.ndarray, pose_images: np.ndarray, *, opacity: float = 0.75) -> np.ndarray:
    """Lay drawn poses over frames, both uint8 [F, H, W, 3]: black of the pose picture stays transparent.

    Raises VideoError when the two have different shapes.
    """
    frames, pose_images = check_frames(frames), check_frames(pose_images)
    if frames.shape != pose_images.shape:
        raise VideoError(f"frames {list(frames.shape)} and pose pictures {list(pose_images.shape)} differ in shape")
    drawn = pose_images.max(axis=-1, keepdims=True).astype(np.float32) / 255  # [F, H, W, 1], 0 where nothing is drawn
    alpha = opacity * np.minimum(2 * drawn, 1)
    return (frames * (1 - alpha) + pose_images * alpha).round().astype(np.uint8)


class SheetRow(NamedTuple):
    label: str
    frames: np.ndarray  # uint8 [F, H, W, 3]
    captions: Sequence[str] = ()  # one per frame, or none


def contact_sheet(rows: Sequence[SheetRow | tuple], columns: int = 8, *, cell: int | None = None) -> np.ndarray:
    """One picture, uint8 [H, W, 3], of rows of frames spread evenly over time, each row with its label.

    rows: SheetRow or (label, frames) or (label, frames, captions); rows may differ in length and frame size, every
    frame is fitted into the same cell. cell: its height in px, by default that of the tallest frame.
    Raises VideoError when there is nothing to show.
    """
    sheet = [SheetRow(*row) for row in rows]
    if not sheet or columns < 1:
        raise VideoError(f"a contact sheet of {len(sheet)} rows and {columns} columns shows nothing")
    for row in sheet:
        check_frames(row.frames)
    height = cell or max(row.frames.shape[1] for row in sheet)
    width = max(round(height * row.frames.shape[2] / row.frames.shape[1]) for row in sheet)
    columns = min(columns, max(len(row.frames) for row in sheet))
    font = ImageFont.load_default(max(11, round(height / 11)))
    line = font.getbbox("Ag")[3] + 4
    gap = max(3, height // 40)
    margin = max(math.ceil(font.getlength(row.label)) for row in sheet) + 3 * gap
    heights = [height + (line if len(row.captions) else 0) + gap for row in sheet]
    image = Image.new("RGB", (margin + columns * (width + gap), sum(heights) + gap), "white")
    pen = ImageDraw.Draw(image)
    top = gap
    for row, row_height in zip(sheet, heights):
        pen.text((gap, top + height / 2), row.label, fill="black", font=font, anchor="lm")
        for column, index in enumerate(spread(len(row.frames), columns)):
            left = margin + column * (width + gap)
            picture = Image.fromarray(fitted(row.frames[index], width, height))
            image.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            if index < len(row.captions):
                place = (left + width / 2, top + height + line / 2)
                pen.text(place, row.captions[index], fill="black", font=font, anchor="mm")
        top += row_height
    return np.array(image)


def spread(count: int, columns: int) -> list[int]:
    """At most `columns` distinct indices of 0..count-1, evenly spread, first and last included."""
    return sorted({round(float(position)) for position in np.linspace(0, count - 1, min(count, columns))})
