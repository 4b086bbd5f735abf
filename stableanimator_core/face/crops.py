"""Cut faces out of frames, differentiably."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FaceError
from .boxes import FaceBoxes
from .template import TEMPLATE_SIDE, template_side

MAX_SHRINK = 2  # px of a frame that a bilinear warp may make one of without leaving any out


def crop_faces(frames: Tensor, faces: FaceBoxes, size: int, *, antialias: bool = False) -> Tensor:
    """Cut out each frame's face, size x size, bilinear.

    frames: [F, C, H, W] in -1..1. faces: one for every frame (`FaceBoxes.picked`). Returns [F, C, size, size] in the
    frames' dtype; differentiable in frames. Upright boxes are rounded to whole pixels, clamped to the frame and
    resized. Templates are warped as ArcFace's own crops are: no antialiasing, black outside. With antialias faces that
    are large in all frames are shrunk before, to MAX_SHRINK px for one of the crop, so that a huge picture's grain
    doesn't become the face's. Raises FaceError when a face lies outside its frame.
    """
    height, width = frames.shape[-2:]
    areas = []
    for x0, y0, x1, y1 in faces.pixels().tolist():
        areas.append((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))
        if areas[-1][0] >= areas[-1][2] or areas[-1][1] >= areas[-1][3]:
            raise FaceError(
                f"face box {[x0, y0, x1, y1]} lies outside the {width}x{height} frame; check the aligned poses"
            )
    if faces.templates is not None:
        if antialias:
            frames, faces = _shrunk(frames, faces, size)
        return _warp(frames, faces.templates, size)
    crops = []
    for frame, (x0, y0, x1, y1) in zip(frames, areas):
        crop = frame[None, :, y0:y1, x0:x1]
        crops.append(F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias))
    return torch.cat(crops)


def _shrunk(frames: Tensor, faces: FaceBoxes, size: int) -> tuple[Tensor, FaceBoxes]:
    """Frames in which the smallest face has at most MAX_SHRINK px for one of its crop, and the faces in them."""
    factor = MAX_SHRINK * size / max(float(template_side(faces.templates).min()), 1.0)
    if factor >= 1:
        return frames, faces
    height, width = frames.shape[-2:]
    small = [max(round(side * factor), 1) for side in (height, width)]
    frames = F.interpolate(frames, size=small, mode="bilinear", align_corners=False, antialias=True)
    return frames, faces.scaled(small[1] / width, small[0] / height)


def _warp(frames: Tensor, templates: Tensor, size: int) -> Tensor:
    """cv2.warpAffine with a black border. frames: [F, C, H, W], templates: [F, 2, 3] -> [F, C, size, size]."""
    height, width = frames.shape[-2:]
    pixels = frames.to(torch.promote_types(frames.dtype, torch.float32))  # half precision can't count a frame's pixels
    templates = templates.to(pixels)
    along = torch.arange(size, dtype=pixels.dtype, device=pixels.device) * (TEMPLATE_SIDE / size)
    v, u = torch.meshgrid(along, along, indexing="ij")
    # Multiplied by hand: a matrix product would run in half precision under autocast.
    at = (templates[:, None, None] * torch.stack([u, v, torch.ones_like(u)], -1)[None, :, :, None]).sum(-1)
    x, y = (2 * at + 1).unbind(-1)
    grid = torch.stack([x / width, y / height], dim=-1) - 1  # [F, size, size, 2], -1..1 from edge to edge
    # Black is -1, and grid_sample puts 0 outside.
    crops = F.grid_sample(pixels + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    return crops.to(frames.dtype)
