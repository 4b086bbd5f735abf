"""StableAnimatorEncodeFace."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..stableanimator_core.errors import FaceError
from ..stableanimator_core.pipeline import find_face
from .convert import image_to_pixels, to_poses
from .errors import one_line_errors
from .patchers import AnimatorModel
from .progress import show_text
from .wire import CATEGORY, Face, Model, PoseKeypoint


class StableAnimatorEncodeFace(io.ComfyNode):
    """Who the reference is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorEncodeFace",
            display_name="StableAnimator++ Encode Face",
            category=CATEGORY,
            description="Finds the reference's face and measures who it is. Sample follows it and, with the face "
            "optimisation, pulls every frame towards it.",
            inputs=[
                Model.Input("model", tooltip="The model that Sample uses: each has its own face network."),
                io.Image.Input("reference", tooltip="Picture of the person; of a batch the first one is used."),
                PoseKeypoint.Input(
                    "reference_pose",
                    optional=True,
                    tooltip="Pose of that picture; its head and face points say where the face is. "
                    "This version finds no face without it.",
                ),
            ],
            outputs=[
                Face.Output("face", display_name="face", tooltip="For Sample; leave it unconnected to do without.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel, reference: Tensor, reference_pose: list[dict] | None = None
    ) -> io.NodeOutput:
        if reference_pose is None:
            raise FaceError("reference_pose is not connected, so the face cannot be found; connect the picture's pose")
        pose = to_poses(reference_pose, "reference_pose")
        face = find_face(model.load("face"), image_to_pixels(reference[:1])[0], pose)
        show_text(cls.hidden.unique_id, f"face found, {face.box[2] - face.box[0]:.0f} px wide in the picture")
        return io.NodeOutput(face._replace(embedding=face.embedding.cpu()))
