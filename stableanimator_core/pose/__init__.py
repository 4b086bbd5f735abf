"""Poses as pictures: drawing keypoints the way the pose network was trained to see them."""

from .draw import draw_poses

__all__ = ["draw_poses"]
