"""StableAnimatorAlignPoses and StableAnimatorDrawPoses."""

from __future__ import annotations

from typing import Any

import numpy as np
from comfy_api.latest import io, ui
from torch import Tensor

from ..stableanimator_core.alignment import FITS, METHODS, align
from ..stableanimator_core.alignment.advice import fit_note
from ..stableanimator_core.alignment.nudge import Nudge, nudged
from ..stableanimator_core.alignment.view import view_alignment
from ..stableanimator_core.conditioning import cover, cover_poses
from ..stableanimator_core.pose.draw import draw_poses
from ..stableanimator_core.pose.overlay import draw_alignment, shape_note
from ..stableanimator_core.video.formats import fitted
from ..stableanimator_core.weights import load_aligner
from .convert import fill_size, image_to_pixels, pixels_to_image, to_poses
from .desk import HIDDEN, Notes
from .errors import one_line_errors
from .patchers import AnimatorModel
from .wire import CATEGORY, Model, PoseKeypoint

OVERLAY_SIDE, OVERLAY_FRAMES = 512, 200  # px and frames, the most: floats of 0.7 GB at worst; longer clips get smaller
VIEW_SIDE = 768  # px, the most of the picture below the page's skeletons

METHOD_TIP = (
    "learned: a network that corrects svd's fit where bodies or postures differ; the best. "
    "svd: one rotation, scale and shift that fits the driving body to the reference body. "
    "affine: learned's result, stretched as well; undoes a moderate squeeze, adds little elsewhere. "
    "homography: learned's result with perspective, for a driver filmed from steeply above or below; adds little. "
    "v1: the fit of the published code, to compare with; it knows no rotation and heeds outliers. "
    "none: only the canvas is fitted; use it when the poses already match."
)
FIT_TIP = (
    "clip: one transform for the whole clip, the motion is untouched. "
    "smooth: for a camera that pans, zooms or walks; half of all slow travel is taken out, quick motion stays. "
    "frames: every frame is fitted anew, which removes all travel and can jitter."
)


class StableAnimatorAlignPoses(io.ComfyNode):
    """The driving motion on the reference's body."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorAlignPoses",
            display_name="StableAnimator++ Align Poses",
            category=CATEGORY,
            description="Moves and scales the driving poses so that their body lies over the reference's, and shows "
            "how well it does. Faces that are not kept are mostly poses that were not aligned.",
            inputs=[
                PoseKeypoint.Input("driving", tooltip="Poses of the driving video, one per frame."),
                PoseKeypoint.Input(
                    "reference", tooltip="Pose of the reference picture; the first frame that shows a person is used."
                ),
                io.Combo.Input("method", options=list(METHODS), default="learned", tooltip=METHOD_TIP),
                io.Combo.Input("fit", options=list(FITS), default="clip", tooltip=FIT_TIP),
                io.Boolean.Input(
                    "proportions",
                    default=False,
                    optional=True,
                    tooltip="On: the motion also gets the bone lengths of the reference's body, and the size and shape "
                    "of its face, where the driver's face points would carry the driver's own into the video. For "
                    "cartoon figures, children and faces that differ much; bodies of ordinary build gain nothing.",
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="The reference picture, to see the skeletons over it. The result does not depend on it.",
                ),
                io.Float.Input(
                    "nudge_x", optional=True, default=0.0, min=-200.0, max=200.0, step=0.5, round=0.01,
                    tooltip="Moves the result to the right by so many percent of the reference body's height. "
                    "Dragging the skeleton in the view below writes it.",
                ),
                io.Float.Input(
                    "nudge_y", optional=True, default=0.0, min=-200.0, max=200.0, step=0.5, round=0.01,
                    tooltip="Moves the result down, in percent of the reference body's height.",
                ),
                io.Float.Input(
                    "nudge_scale", optional=True, default=1.0, min=0.1, max=10.0, step=0.01, round=0.001,
                    tooltip="Makes the result so many times as large, about its neck and hips in the first frame.",
                ),
                io.Float.Input(
                    "nudge_rotate", optional=True, default=0.0, min=-180.0, max=180.0, step=0.5, round=0.01,
                    tooltip="Turns the result by so many degrees, clockwise, about the same point.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("aligned", display_name="poses", tooltip="On the reference's canvas, for Sample."),
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="To look at: reference, driver and result over one another, one picture per frame.",
                ),
            ],
            hidden=HIDDEN,
            is_output_node=True,  # runs by itself, and shows its view again when nothing has changed
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(
        cls, driving: list[dict], reference: list[dict], method: str, fit: str, proportions: bool = False,
        picture: Tensor | None = None, nudge_x: float = 0.0, nudge_y: float = 0.0, nudge_scale: float = 1.0,
        nudge_rotate: float = 0.0,
    ) -> io.NodeOutput:  # fmt: skip
        motion, body, aligner = to_poses(driving, "driving"), to_poses(reference, "reference"), load_aligner()
        fitting = {"fit": fit, "aligner": aligner, "proportions": proportions}
        found = align(motion, body, method, **fitting)
        nudge = Nudge(nudge_x, nudge_y, nudge_scale, nudge_rotate)
        aligned = nudged(found, body, nudge)
        below = None if picture is None else image_to_pixels(picture[:1])[0]
        notes = Notes(cls.hidden)
        expected = () if aligned.expected_error is None else (fit_note(aligned.expected_error),)
        notes.say(*expected, *shape_note(below, body), *aligned.notes)
        side = round(OVERLAY_SIDE * min(1, OVERLAY_FRAMES / motion.frames) ** 0.5)
        drawn = draw_alignment(aligned.poses, motion, body, aligned.residual, picture=below, longest=side)
        view = view_alignment(found, motion, body, **fitting)
        view |= {"fit": fit, "proportions": proportions, "nudge": nudge, "picture": _stored(below)}
        shown = {**notes.ui, "alignment": (view,)}
        return io.NodeOutput(aligned.poses.to_openpose(), pixels_to_image(drawn), ui=shown)


def _stored(picture: np.ndarray | None) -> dict[str, Any] | None:
    """A copy of a picture, [H, W, 3] uint8, for the page: where it can be fetched."""
    if picture is None:
        return None
    height, width = picture.shape[:2]
    small = fitted(picture, min(VIEW_SIDE, width), min(VIEW_SIDE, height))
    return ui.PreviewImage(pixels_to_image(small[None])).as_dict()["images"][0]


class StableAnimatorDrawPoses(io.ComfyNode):
    """The skeleton pictures that the model sees."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorDrawPoses",
            display_name="StableAnimator++ Draw Poses",
            category=CATEGORY,
            description="Draws poses as skeletons in the published style. Sample draws its own; "
            "use this one to look at poses, or to edit the pictures and hand them to Sample's pose_images.",
            inputs=[
                PoseKeypoint.Input("poses", tooltip="Poses to draw, one picture per frame."),
                Model.Input(
                    "model", optional=True,
                    tooltip="With a model, lines are as thick as it was trained on and 0 means its own size. "
                    "Without one they are drawn as for the published weights.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=4096, step=8,
                    tooltip="Width in pixels. 0 = what fits the poses' canvas where height is given, else "
                    "the model's width or, without a model, the canvas's.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=8,
                    tooltip="Height in pixels. 0 = what fits the poses' canvas where width is given, else "
                    "the model's height or, without a model, the canvas's.",
                ),
            ],
            outputs=[io.Image.Output("pose_images", display_name="pose_images", tooltip="One picture per frame.")],
            hidden=HIDDEN,
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(cls, poses: list[dict], width: int, height: int, model: AnimatorModel | None = None) -> io.NodeOutput:
        found = to_poses(poses, "poses")
        own = found if model is None else model.models.config
        multiple = 8 if model is None else own.size_multiple
        width, height, sized = fill_size(width, height, (found.width, found.height), multiple)
        size = width or own.width, height or own.height
        notes = Notes(cls.hidden)
        notes.say(*sized)
        canvas = {} if model is None else {"canvas_short_side": own.pose_canvas}
        covering = cover_poses(found, cover(found, *size), *size)  # as Sample crops them
        return io.NodeOutput(pixels_to_image(draw_poses(covering, *size, **canvas)), ui=notes.ui)
