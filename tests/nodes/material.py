"""A picture and poses for prompts: a stick person whose face is where the keypoints say."""

from __future__ import annotations

import numpy as np

from stableanimator_core.keypoints import Poses

CANVAS = 128

# OpenPose-18 of somebody who stands and faces the camera, in 1/128 of the canvas.
STANDING = np.array([
    (64, 30), (64, 46), (50, 47), (45, 64), (43, 80), (78, 47), (83, 64), (85, 80), (56, 80), (55, 98), (54, 118),
    (72, 80), (73, 98), (74, 118), (59, 26), (69, 26), (53, 28), (75, 28),
], dtype=float)  # fmt: skip


def standing(frames: int, *, face: bool = True, sway: float = 4.0) -> Poses:
    """Somebody who sways from side to side, face points on an oval."""
    phase = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    shift = np.stack([sway * np.sin(phase), np.zeros(frames)], axis=-1)  # [F, 2]
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    oval = np.array([64, 32]) + np.stack([11 * np.cos(angle), 13 * np.sin(angle)], axis=-1)  # [68, 2]
    body = STANDING[None, None] + shift[:, None, None]
    score = np.ones((frames, 1, 18))
    if not face:
        score[:, :, [0, 14, 15, 16, 17]] = 0
    return Poses(
        body=body,
        body_score=score,
        face=oval[None, None] + shift[:, None, None],
        face_score=np.full((frames, 1, 68), float(face)),
        hands=np.zeros((frames, 1, 2, 21, 2)),
        hands_score=np.zeros((frames, 1, 2, 21)),
        width=CANVAS,
        height=CANVAS,
    )


def picture() -> np.ndarray:
    """uint8 [H, W, 3] RGB: a face-coloured oval over a body-coloured block."""
    y, x = np.mgrid[:CANVAS, :CANVAS]
    image = np.full((CANVAS, CANVAS, 3), (90, 130, 160), dtype=np.uint8)
    image[(abs(x - 64) < 16) & (y > 44) & (y < 100)] = (180, 60, 70)
    image[((x - 64) / 12) ** 2 + ((y - 32) / 14) ** 2 < 1] = (230, 190, 160)
    image[(abs(x - 64) < 14) & (y < 24) & (y > 14)] = (60, 40, 20)
    return image


def literal(poses: Poses | list) -> dict:
    """POSE_KEYPOINT as a constant in a prompt (a bare list would be taken for a link)."""
    return {"__value__": poses.to_openpose() if isinstance(poses, Poses) else poses}


def extract(images: list, **given) -> dict:
    """An Extract Poses node in API form."""
    settings = {
        "detector": "dwpose", "person": 0, "everyone": False, "min_person_score": 0.3, "min_score": 0.3,
        "fill_gap": 8, "smooth": 0.5, "download": False,
    }  # fmt: skip
    return {"class_type": "StableAnimatorExtractPoses", "inputs": {"images": images} | settings | given}


def prompt(
    frames: int = 4, *, model: str = "tiny", driving=None, reference_pose=None, hjb: dict | None = None, **sample
):
    """A whole run in API form. sample: inputs of StableAnimatorSample; face=None leaves the identity path off."""
    reference_pose = standing(1) if reference_pose is None else reference_pose
    settings = {
        "seed": 1, "steps": 0, "guidance_first": 0.0, "guidance_last": 0.0, "width": 0, "height": 0,
        "context_frames": 0, "context_overlap": 0, "face": ["face", 0],
    } | sample  # fmt: skip
    nodes = {
        "load": ("StableAnimatorLoadModel", {"model": model, "dtype": "auto"}),
        "image": ("LoadImage", {"image": "person.png"}),
        "align": (
            "StableAnimatorAlignPoses",
            {
                "driving": literal(standing(frames) if driving is None else driving),
                "reference": literal(reference_pose),
                "method": "svd",
                "fit": "clip",
            },
        ),
        "face": (
            "StableAnimatorEncodeFace",
            {"model": ["load", 0], "reference": ["image", 0], "reference_pose": literal(reference_pose)},
        ),
        "sample": (
            "StableAnimatorSample",
            {"model": ["load", 0], "reference": ["image", 0], "poses": ["align", 0]}
            | {name: value for name, value in settings.items() if value is not None},
        ),
        "decode": ("StableAnimatorDecode", {"model": ["load", 0], "samples": ["sample", 0], "chunk": 4}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "test"}),
    }
    if hjb is not None:
        options = {
            "enabled": True, "iterations": 2, "first_step": 0, "last_step": 1, "learning_rate": 0.1, "decode": "face",
            "scope": "face", "chunk": 8,
        }  # fmt: skip
        nodes["hjb"] = ("StableAnimatorHJBOptions", options | hjb)
        nodes["sample"][1]["hjb"] = ["hjb", 0]
    if settings["face"] is None:
        del nodes["face"]
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}
