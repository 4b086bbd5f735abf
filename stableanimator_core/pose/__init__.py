"""Poses: found in frames, followed and repaired; drawn the way the pose network was trained to see them."""

from .detector import Person, PoseDetector
from .draw import draw_poses
from .extract import Extraction, extract_poses
from .repair import repair_poses

__all__ = ["Extraction", "Person", "PoseDetector", "draw_poses", "extract_poses", "repair_poses"]
