"""Which frames of a motion tell most about a clip, for a quick look before the whole is made."""

from __future__ import annotations

import numpy as np

from ..keypoints import Poses
from ..skeleton import HEAD

FACE = HEAD[:3]  # nose and eyes: where they are seen, so is the face
MISSING = 0.5  # body heights: how far apart a seen and an unseen joint count


def telling_frames(poses: Poses, count: int) -> list[int]:
    """The first frame, then always the one whose pose is farthest from all chosen ones; ascending.

    Bodies are compared in their own heights, wherever they stand. Frames that show the face of person 0 come before
    all others. count: below 1, or as many as there are, is all frames.
    """
    if count < 1 or count >= poses.frames:
        return list(range(poses.frames))
    if not poses.people:
        return sorted(set(np.linspace(0, poses.frames - 1, count).round().astype(int).tolist()))
    shown = poses.visible()[:, 0]  # [F, K]
    bodies = _normalised(poses.body[:, 0], shown)  # [F, K, 2]
    hidden = ~shown[:, FACE].all(1)  # [F]
    chosen = [0]
    nearest = _distances(bodies, shown, 0)
    while len(chosen) < count:
        order = np.lexsort((np.arange(poses.frames), -nearest, hidden, np.isin(np.arange(poses.frames), chosen)))
        chosen.append(int(order[0]))
        nearest = np.minimum(nearest, _distances(bodies, shown, chosen[-1]))
    return sorted(chosen)


def _normalised(bodies: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Joints from the middle of those that are seen, over the largest extent of any frame. bodies: [F, K, 2] px."""
    known = np.where(shown[..., None], bodies, np.nan)
    moved, extent = np.zeros_like(bodies), 1e-6
    for frame, body in enumerate(known):
        if shown[frame].any():
            low, high = np.nanmin(body, axis=0), np.nanmax(body, axis=0)
            moved[frame] = np.nan_to_num(body - (low + high) / 2)
            extent = max(extent, float((high - low).max()))
    return moved / extent


def _distances(bodies: np.ndarray, shown: np.ndarray, frame: int) -> np.ndarray:
    """Mean distance of the joints from those of one frame, [F]."""
    apart = np.linalg.norm(bodies - bodies[frame], axis=-1)
    both = shown & shown[frame]
    return np.where(both, apart, np.where(shown | shown[frame], MISSING, 0.0)).mean(1)
