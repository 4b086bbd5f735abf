"""What HJB decodes at once: windows of latent cells around the faces of a few frames, as many as fit into memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from .errors import FaceError
from .face import FaceBoxes
from .models import kernels
from .vae import WIDTH, cell_size, width_of

CHUNK = 8  # frames decoded at once where they fit
# What Stable Video Diffusion's decoder takes with gradients for every pixel that is decoded at once, in half precision:
# tests/benchmarks/2026-11-23-v1-speed.md, with fused kernels and without them.
HJB_BYTES, PLAIN_HJB_BYTES = 7_250, 9_400
SPARE_BYTES = 1 << 29  # of what is free, for workspaces and gaps

Cells = tuple[slice, slice]  # rows, columns of latent cells


class Window(NamedTuple):
    """What is decoded at once: the same latent cells of a few frames."""

    frames: list[int]
    cells: Cells
    faces: FaceBoxes  # one for each of these frames, in px of the window

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns of latent cells."""
        rows, columns = self.cells
        return len(self.frames), rows.stop - rows.start, columns.stop - columns.start


def find_face_cells(boxes: FaceBoxes, size: tuple[int, int], cell: int) -> dict[int, Cells]:
    """Latent cells that the face touches, of every frame that has one. size: h, w of the latents; cell: its pixels.

    Raises FaceError when a box lies outside its frame.
    """
    h, w = size
    found = {}
    frames = boxes.found.nonzero().flatten().tolist()
    for frame, box in zip(frames, boxes.picked(frames).pixels().tolist()):
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], w * cell), min(box[3], h * cell)
        if x1 <= x0 or y1 <= y0:
            raise FaceError(
                f"frame {frame}: face box {box} lies outside the {w * cell}x{h * cell} frame; check the aligned poses"
            )
        found[frame] = slice(y0 // cell, -(-y1 // cell)), slice(x0 // cell, -(-x1 // cell))
    return found


def place_windows(
    boxes: FaceBoxes, size: tuple[int, int], cell: int, *, chunk: int, margin: int | None
) -> list[Window]:
    """Windows of `chunk` frames with a face, holding all their faces and `margin` cells around; None is whole frames.

    The window stays in place within a chunk: the temporal layers compare a cell with the same cell of other frames.
    On random decoders the gradient of windows that follow the face had a cosine of .5 with that of whole frames,
    windows that stay .8 (margin 2).
    """
    h, w = size
    faces = find_face_cells(boxes, size, cell)
    frames = list(faces)
    windows = []
    for part in (frames[start : start + chunk] for start in range(0, len(frames), chunk)):
        rows, columns = slice(0, h), slice(0, w)
        if margin is not None:
            rows = _around([faces[frame][0] for frame in part], margin, h)
            columns = _around([faces[frame][1] for frame in part], margin, w)
        shown = boxes.picked(part).shifted(-columns.start * cell, -rows.start * cell)
        windows.append(Window(part, (rows, columns), shown))
    return windows


def _around(runs: list[slice], margin: int, limit: int) -> slice:
    """The run of cells that holds all runs and a margin, inside 0..limit."""
    start, stop = min(run.start for run in runs), max(run.stop for run in runs)
    return slice(max(start - margin, 0), min(stop + margin, limit))


def fitting_chunk(
    vae: AutoencoderKLTemporalDecoder, boxes: FaceBoxes, size: tuple[int, int], margin: int | None, free: float,
    *, most: int = CHUNK, device: torch.device | None = None,
) -> int:  # fmt: skip
    """`most`, halved until decoding so many frames with gradients fits into so many free bytes; 1 fits always.

    Halved, so that a little more memory or less seldom changes the result. device: as in hjb_bytes; other arguments as
    in place_windows.
    """

    def taken(chunk: int) -> float:
        return hjb_bytes(vae, largest_window(boxes, size, cell_size(vae), chunk=chunk, margin=margin), device)

    while most > 1 and taken(most) > free:
        most //= 2
    return most


def hjb_bytes(vae: AutoencoderKLTemporalDecoder, window: Window | None, device: torch.device | None = None) -> float:
    """What decoding a window with gradients takes, about: measured for the published decoder, in proportion to the
    channels and the precision for others. device: to decode on; None: where the VAE is."""
    if window is None:
        return 0.0
    share = width_of(vae) / WIDTH * vae.decoder.conv_in.weight.element_size() / 2
    each = HJB_BYTES if kernels.usable(device or vae.device) else PLAIN_HJB_BYTES
    return math.prod(window.shape) * cell_size(vae) ** 2 * each * share


def largest_window(
    boxes: FaceBoxes, size: tuple[int, int], cell: int, *, chunk: int, margin: int | None
) -> Window | None:
    """The largest of what is decoded at once; a face that moves makes it wider. None where no frame shows a face."""
    windows = place_windows(boxes, size, cell, chunk=chunk, margin=margin)
    return max(windows, key=lambda window: math.prod(window.shape), default=None)


def face_mask(faces: dict[int, Cells], like: Tensor) -> Tensor:
    """1 in the cells of each frame's face, 0 elsewhere: [F, 4, h, w]."""
    mask = torch.zeros_like(like)
    for frame, (rows, columns) in faces.items():
        mask[frame, :, rows, columns] = 1
    return mask
