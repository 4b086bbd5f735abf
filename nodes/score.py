"""StableAnimatorIdentityScore."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..stableanimator_core.conditioning import cover, cover_poses
from ..stableanimator_core.errors import InputError
from ..stableanimator_core.evaluation.identity import (
    describe_identity,
    draw_identity,
    draw_worst,
    locate_faces,
    score_video,
)
from ..stableanimator_core.face import FaceDetector, ReferenceFace
from ..stableanimator_core.keypoints import Poses
from ..stableanimator_core.pipeline import ASPECT_TOLERANCE, find_face
from ..stableanimator_core.pose.telling import telling_frames
from ..stableanimator_core.video.curves import stacked
from ..stableanimator_core.weights import Models
from .convert import image_to_pixels, pixels_to_image, to_poses
from .desk import HIDDEN
from .errors import one_line_errors
from .face import face_detector
from .patchers import AnimatorModel
from .progress import frame_progress
from .upstream import above, links
from .wire import CATEGORY, Face, Model, PoseKeypoint

SAMPLER = "StableAnimatorSample"
UNCONNECTED = object()  # of `face`; None comes from an Encode Face that found no usable face
NO_FACE = "face: Encode Face found no usable face in its picture, and says why; connect it to another picture"
NO_FACE_IN_POSES = (
    "poses: no face in any of their {} frames: the nose and most face points must be there, inside the frame; "
    "connect poses with a face, or take a video that shows it"
)
OTHER_POSES = (
    "poses: Sample made these frames of other poses, so faces are looked for in the wrong places; connect the poses "
    "that Sample has"
)
NO_FACE_IN_FRAMES = (
    "frames: the face detector finds no usable face in any of {} frames; take a video that shows the face, large "
    "enough and not in profile"
)


class StableAnimatorIdentityScore(io.ComfyNode):
    """How much a video's faces are the reference's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorIdentityScore",
            display_name="StableAnimator++ Identity Score",
            category=CATEGORY,
            description="Compares the face in every frame of any video with that of a picture: 1 is the same face, "
            "around 0 is a stranger's. Shows the curve, the least alike frames and who judged.",
            inputs=[
                Model.Input(
                    "model", tooltip="Whose face network judges. A model with a judge of its own is fair to videos "
                    "made with HJB; without one the judge is the network that HJB optimises, and the report says so.",
                ),
                io.Image.Input("frames", tooltip="The video to score, wherever it comes from."),
                io.Image.Input(
                    "reference", tooltip="Picture of the person it should show; of a batch the first one is used."
                ),
                PoseKeypoint.Input(
                    "poses", optional=True,
                    tooltip="Poses of the frames: where the faces are. Aligned poses for what Sample made of them, in "
                    "a draft, too. Without them the face detector looks for the largest face, which 'mini' cannot use.",
                ),
                PoseKeypoint.Input(
                    "reference_pose", optional=True,
                    tooltip="Pose of the reference picture: where its face is. Not needed where face is connected.",
                ),
                Face.Input(
                    "face", optional=True,
                    tooltip="From Encode Face: whose face it should be; reference and reference_pose are then not "
                    "looked at. Unconnected: that of reference_pose, else the largest.",
                ),
                io.Int.Input(
                    "worst_frames", default=4, min=1, max=32,
                    tooltip="How many of the least alike frames are marked and shown beside the reference.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "score", display_name="score", tooltip="Mean similarity (CSIM) over the frames that show a face."
                ),
                io.Image.Output("plot", display_name="plot", tooltip="Similarity over the frames."),
                io.Image.Output(
                    "worst", display_name="worst",
                    tooltip="The reference's face beside those of the least alike frames, the worst first.",
                ),
                io.String.Output("report", display_name="report", tooltip="The numbers in words."),
            ],
            hidden=[*HIDDEN, io.Hidden.prompt],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel, frames: Tensor, reference: Tensor, worst_frames: int,
        poses: list[dict] | None = None, reference_pose: list[dict] | None = None,
        face: ReferenceFace | None = UNCONNECTED,
    ) -> io.NodeOutput:  # fmt: skip
        if face is None:
            return _unscored(NO_FACE)
        video, picture = image_to_pixels(frames), image_to_pixels(reference[:1])[0]
        motion, chosen, doubts = None, None, []
        if poses is not None:
            motion, chosen, doubts = _of_video(to_poses(poses, "poses"), video, cls.hidden)
        pose = None if reference_pose is None else to_poses(reference_pose, "reference_pose")
        models, detector = model.load(), face_detector(model.models.config)
        known, unsure = (face, []) if face is not UNCONNECTED else _face_of(models, picture, pose, detector)
        done = frame_progress(len(video), cls.hidden.unique_id)
        faces = locate_faces(models.config, video, motion, detector, on_frames=done)
        if not faces.found.any():
            return _unscored((NO_FACE_IN_FRAMES if motion is None else NO_FACE_IN_POSES).format(len(video)))
        identity = score_video(models, video, faces, known, on_frames=done)._replace(chosen=chosen)
        report = describe_identity(identity)
        if chosen is not None:
            report += f"\na draft: {len(chosen)} frames, called by their numbers in the whole motion"
        if motion is not None and (people := int(motion.visible().any(-1).sum(-1).max())) > 1:
            doubts.append(f"poses: up to {people} people in a frame; the first one's face is scored")
        report = "\n".join((report, *(f"note: {doubt}" for doubt in (*doubts, *unsure))))
        plot = draw_identity(identity, marked=worst_frames)
        sheet = draw_worst(identity, video, faces, known, worst_frames)
        shown = ui.PreviewImage(pixels_to_image(stacked(plot, sheet)[None])).as_dict()
        pictures = (pixels_to_image(made[None]) for made in (plot, sheet))
        return io.NodeOutput(identity.mean, *pictures, report, ui={"text": (report,), **shown})


def _of_video(
    poses: Poses, video: np.ndarray, hidden: io.HiddenHolder
) -> tuple[Poses, tuple[int, ...] | None, list[str]]:
    """The poses of a video's frames, [F, H, W, 3], and a doubt where Sample, above, made these of other poses. Where it
    made a draft of these very poses they are those that it chose, beside which these are; else all, as they are, and
    None."""
    prompt, node = hidden.prompt, hidden.unique_id
    behind = above(prompt, links(prompt, node).get("frames", ""))
    samples = [each["inputs"] for each in behind if each["class_type"] == SAMPLER]
    sampled = next((given for given in samples if given.get("poses") == prompt[node]["inputs"]["poses"]), None)
    frames, height, width = video.shape[:3]
    if sampled is None or not sampled.get("draft") == frames < poses.frames:
        return poses, None, [OTHER_POSES] if samples and sampled is None else []
    chosen = telling_frames(poses, frames)
    covering = cover_poses(poses, cover(poses, width, height), width, height)  # the crop is the whole motion's, too
    return covering.picked(chosen), tuple(chosen), []


def _face_of(
    models: Models, picture: np.ndarray, pose: Poses | None, detector: FaceDetector | None
) -> tuple[ReferenceFace, list[str]]:
    """The face of a picture, [H, W, 3], and what of its pose may not be what was meant. Raises InputError."""
    if pose is None and detector is None:
        raise InputError(
            f"face, reference_pose: neither is connected, and model '{models.config.name}' finds no face in reference "
            "without them; connect Encode Face to face, or the picture's pose to reference_pose"
        )
    found, doubts = find_face(models, picture, pose, detector=detector), []
    if pose is not None and pose.frames > 1:
        doubts.append(f"reference_pose: {pose.frames} frames; the first one is taken, is it that of reference?")
    if pose is not None and (people := int(pose.visible()[0].any(-1).sum())) > 1:
        doubts.append(f"reference_pose: it shows {people} people; the first one's face is compared with")
    height, width = picture.shape[:2]
    if pose is not None and abs(pose.width * height / (pose.height * width) - 1) > ASPECT_TOLERANCE:
        canvas = f"its canvas is {pose.width}x{pose.height}, reference {width}x{height}"
        doubts.append(f"reference_pose: {canvas}; connect the pose of this picture")
    return found, doubts


def _unscored(why: str) -> io.NodeOutput:
    """Nothing to score is no fault of the workflow: it goes on, without the nodes that wait for the score."""
    return io.NodeOutput(*[ExecutionBlocker(None)] * 4, ui={"text": (f"not scored: {why}",)})
