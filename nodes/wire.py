"""What travels between the nodes. Poses, frames and latents are ComfyUI's own types."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "StableAnimator++"

Model = io.Custom("STABLEANIMATOR_MODEL")
Face = io.Custom("STABLEANIMATOR_FACE")
HJB = io.Custom("STABLEANIMATOR_HJB")
PoseKeypoint = io.Custom("POSE_KEYPOINT")
