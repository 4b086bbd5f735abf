"""StableAnimatorExample."""

from __future__ import annotations

from itertools import cycle, islice

from comfy_api.latest import io

from ..stableanimator_core.keypoints import Poses
from ..stableanimator_core.video import read_image
from ..stableanimator_core.weights import ASSETS
from .convert import pixels_to_image
from .errors import one_line_errors
from .wire import CATEGORY, PoseKeypoint

DEMO = ASSETS / "demo"


class StableAnimatorExample(io.ComfyNode):
    """Something to animate before the artist has prepared anything."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorExample",
            display_name="StableAnimator++ Example",
            category=CATEGORY,
            description="A picture, its pose and a motion that come with the pack. Replace it with Load Image and a "
            "pose detector (DWPose or any other that gives POSE_KEYPOINT) on your picture and on your video.",
            inputs=[
                io.Int.Input(
                    "frames", default=0, min=0, max=999,
                    tooltip="How many frames of the motion; 0 = all of them. More than there are: it goes back and "
                    "forth.",
                ),
            ],
            outputs=[
                io.Image.Output("reference", display_name="reference", tooltip="Instead: Load Image with your person."),
                PoseKeypoint.Output(
                    "reference_pose", display_name="reference_pose", tooltip="Instead: a pose detector on your picture."
                ),
                PoseKeypoint.Output(
                    "driving_poses", display_name="driving_poses", tooltip="Instead: a pose detector on your video."
                ),
            ],
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(cls, frames: int) -> io.NodeOutput:
        picture = pixels_to_image(read_image(DEMO / "reference.png")[None])
        pose, driving = Poses.load(DEMO / "reference.json"), Poses.load(DEMO / "driving.json")
        there_and_back = [*range(driving.frames), *range(driving.frames - 2, 0, -1)]
        chosen = islice(cycle(there_and_back), frames or driving.frames)
        return io.NodeOutput(picture, pose.to_openpose(), driving.picked(list(chosen)).to_openpose())
