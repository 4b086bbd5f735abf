"""A motion file of a stick figure that walks and swings its arms, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def walk(frames: int, *, speed: float = 0.8, fps: float = 15.0) -> np.ndarray:
    """Joints [frames, 18, 3] in metres, y up, of a person who walks towards +z."""
    phase = 2 * np.pi * np.arange(frames) / fps
    joints = np.zeros((frames, 18, 3))
    joints[:, 1] = (0, 1.42, 0)
    joints[:, 0], joints[:, 14], joints[:, 15] = (0, 1.6, 0.12), (-0.032, 1.64, 0.08), (0.032, 1.64, 0.08)
    joints[:, 16], joints[:, 17] = (-0.072, 1.62, 0), (0.072, 1.62, 0)
    for side, shoulder, hip in ((-1, 2, 8), (1, 5, 11)):
        swing = 0.5 * side * np.sin(phase)
        down, ahead = -np.cos(swing), np.sin(swing)
        joints[:, shoulder], joints[:, hip] = (0.18 * side, 1.42, 0), (0.1 * side, 0.92, 0)
        limb = np.stack([np.zeros(frames), down, ahead], 1)
        for start, length, way in ((shoulder, 0.28, 1), (hip, 0.41, -1)):
            joints[:, start + 1] = joints[:, start] + length * limb * (1, 1, way)
            joints[:, start + 2] = joints[:, start + 1] + 0.9 * length * limb * (1, 1, way)
    joints[..., 2] += (speed * np.arange(frames) / fps)[:, None]
    return joints


def write_walk(path: Path) -> Path:
    """Two clips of a few seconds at different speeds; returns the path."""
    clips = [walk(70), walk(90, speed=0.1)]
    starts = np.cumsum([0, *map(len, clips)]).astype(np.int32)
    np.savez(path, joints=np.concatenate(clips).astype(np.float32), clip_start=starts, fps=np.int32(15))
    return path
