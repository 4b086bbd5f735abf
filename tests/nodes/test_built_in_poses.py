"""Extract Poses in a ComfyUI that has no DWPose: the estimator that ships finds drawn performers, and says so."""

from __future__ import annotations

from material import extract

from stableanimator_core.performers import make_clip
from stableanimator_core.video import write_image


def nodes(**given) -> dict:
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": "performer.png"}},
        "extract": extract(["image", 0], **given),
        "draw": {"class_type": "StableAnimatorDrawPoses", "inputs": {"poses": ["extract", 0], "width": 0, "height": 0}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["draw", 0], "filename_prefix": "pose"}},
    }


def test_a_performer_is_found_without_dwpose(server):
    clip = make_clip(90_001, size=160, frames=1, split="held_out")
    write_image(server.base / "input" / "performer.png", clip.frames[0])
    for detector in ("auto", "built-in"):
        run = server.run(nodes(detector=detector))
        assert run.succeeded, run.error
        assert any("built-in pose estimator" in text and "weights download poses" in text for text in run.notes)
    run = server.run(nodes(detector="dwpose"))
    assert not run.succeeded and "DWPose/yolox_l.onnx" in str(run.error)
