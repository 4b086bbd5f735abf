"""Poses: found in frames, followed and repaired; drawn the way the pose network was trained to see them."""

from .detector import DETECTORS, Person, PoseDetector, which_detector
from .draw import draw_poses
from .extract import Extraction, extract_poses
from .repair import repair_poses

__all__ = [
    "DETECTORS", "Extraction", "Person", "PoseDetector", "draw_poses", "extract_poses", "repair_poses",
    "which_detector",
]  # fmt: skip
