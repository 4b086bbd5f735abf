"""StableAnimatorEncodeFace."""

from __future__ import annotations

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..stableanimator_core.errors import FaceError
from ..stableanimator_core.face.detect import FaceDetector
from ..stableanimator_core.pipeline import find_face
from ..stableanimator_core.weights import ModelConfig
from .convert import image_to_pixels, to_poses
from .desk import HIDDEN, Notes
from .errors import one_line_errors
from .folders import places
from .patchers import AnimatorModel
from .wire import CATEGORY, Face, Model, PoseKeypoint

FOLLOWED = -1  # of `choose`: the pose's person, else the largest face


class StableAnimatorEncodeFace(io.ComfyNode):
    """Who the reference is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorEncodeFace",
            display_name="StableAnimator++ Encode Face",
            category=CATEGORY,
            description="Finds the reference's face and measures who it is. Sample follows it and, with the face "
            "optimisation, pulls every frame towards it. Without a usable face the video is made without it, "
            "and the node says why.",
            inputs=[
                Model.Input("model", tooltip="The model that Sample uses: each has its own face network."),
                io.Image.Input("reference", tooltip="Picture of the person; of a batch the first one is used."),
                PoseKeypoint.Input(
                    "reference_pose",
                    optional=True,
                    tooltip="Pose of that picture: says whose face it is and, without a face detector, where. "
                    "'mini' finds no face without it.",
                ),
                io.Int.Input(
                    "choose",
                    optional=True,
                    default=FOLLOWED,
                    min=FOLLOWED,
                    max=31,
                    tooltip="Which face, counted from 0 at the left. -1 = that of the pose's first person, "
                    "without a pose the largest.",
                ),
            ],
            outputs=[
                Face.Output("face", display_name="face", tooltip="For Sample; leave it unconnected to do without.")
            ],
            hidden=HIDDEN,
        )

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel, reference: Tensor, reference_pose: list[dict] | None = None, choose: int = FOLLOWED
    ) -> io.NodeOutput:
        notes, picture = Notes(cls.hidden), image_to_pixels(reference[:1])[0]
        pose = None if reference_pose is None else to_poses(reference_pose, "reference_pose")
        detector = face_detector(model.models.config)
        if pose is None and detector is None:
            raise FaceError("reference_pose is not connected, so the face cannot be found; connect the picture's pose")
        index = None if choose == FOLLOWED else choose
        try:
            found = find_face(model.load(), picture, pose, detector=detector, choose=index)
        except FaceError as error:
            notes.say(f"identity path off: {error}")
            return io.NodeOutput(None, ui=notes.ui)
        through = "" if detector else " through the pose"
        notes.say(
            f"face found{through}, {found.box[2] - found.box[0]:.0f} px wide in the picture",
            *(detector.notes if detector else ()),
        )
        return io.NodeOutput(found._replace(embedding=found.embedding.cpu()), ui=notes.ui)


def face_detector(config: ModelConfig) -> FaceDetector | None:
    """The face detector, where it is installed and the model's faces are ones that it was trained on."""
    if config.face_crop != "arcface" or places().find("face_detector") is None:
        return None
    return FaceDetector.load(places(), str(model_management.get_torch_device()))
