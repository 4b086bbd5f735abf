"""What can be read and written, and what frames are."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from ..errors import VideoError

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
SOUND_CODECS = {".mp4": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}
FORMATS = (*CODECS, ".gif", ".webp", ".png")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FALLBACK_FPS = Fraction(7)  # what Stable Video Diffusion was trained at; for files that carry no rate


def check_frames(frames: np.ndarray) -> np.ndarray:
    """The frames themselves. Raises VideoError when they are not uint8 [F, H, W, 3]."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise VideoError(f"frames are {frames.dtype} {list(frames.shape)}, need uint8 [F, H, W, 3], none of them 0")
    return frames


def fitted(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a frame [H, W, 3] to the largest size of its own aspect inside width x height."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    if size == (frame.shape[1], frame.shape[0]):
        return frame
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4)
