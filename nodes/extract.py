"""StableAnimatorExtractPoses."""

from __future__ import annotations

from comfy import model_management
from comfy_api.latest import io
from torch import Tensor

from ..stableanimator_core.pose.detector import DETECTORS, PoseDetector, which_detector
from ..stableanimator_core.pose.extract import extract_poses
from ..stableanimator_core.weights.registry import POSES
from .convert import image_to_pixels
from .desk import HIDDEN, Notes
from .errors import one_line_errors
from .folders import places
from .progress import frame_progress, provide
from .wire import CATEGORY, PoseKeypoint

BYTES = 3 << 30  # on the card while both networks run


class StableAnimatorExtractPoses(io.ComfyNode):
    """Where body, face and hands are in every frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorExtractPoses",
            display_name="StableAnimator++ Extract Poses",
            category=CATEGORY,
            description="Finds a person's body, face and hands in every frame and follows that person through the "
            "clip. Frames that show nobody stay empty.",
            inputs=[
                io.Image.Input("images", tooltip="The driving video's frames, or the reference picture."),
                io.Combo.Input(
                    "detector", options=list(DETECTORS), default=DETECTORS[0],
                    tooltip="dwpose: for people in photographs and films, what the published weights were trained "
                    "with; its files belong into models/stableanimator/DWPose. built-in: ships here, for drawn "
                    "performers alone, as the built-in model makes them. auto: dwpose if it is here or may be "
                    "downloaded, else built-in, which a note says.",
                ),
                io.Int.Input(
                    "person", default=0, min=0, max=31,
                    tooltip="Whom to follow: 0 is the main person (large, in the middle and there for long), "
                    "1 the next, and so on.",
                ),
                io.Boolean.Input(
                    "everyone", default=False,
                    tooltip="On: the poses hold everybody, the chosen person first. Off: the chosen person alone.",
                ),
                io.Float.Input(
                    "min_person_score", default=0.3, min=0.0, max=1.0, step=0.05, round=0.01,
                    tooltip="How sure the detector must be that there is a person. Lower it when somebody is missed, "
                    "as in drawings; raise it when posters and mirrors count as people.",
                ),
                io.Float.Input(
                    "min_score", default=0.3, min=0.0, max=1.0, step=0.05, round=0.01,
                    tooltip="Joints below this score count as not seen.",
                ),
                io.Int.Input(
                    "fill_gap", default=8, min=0, max=120,
                    tooltip="A joint that is missing for at most so many frames is filled in from both sides. "
                    "0 fills nothing.",
                ),
                io.Float.Input(
                    "smooth", default=0.5, min=0.0, max=1.0, step=0.05, round=0.01,
                    tooltip="Takes the jitter out; fast motion stays. 0 leaves every point where it was found.",
                ),
                io.Boolean.Input(
                    "download", default=False,
                    tooltip="On: files that are missing (351 MB in all) are downloaded before the first run. "
                    "Off: nothing is ever downloaded; an error names the files.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("poses", display_name="poses", tooltip="One entry per frame, for Align Poses.")
            ],
            hidden=HIDDEN,
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(
        cls, images: Tensor, detector: str, person: int, everyone: bool, min_person_score: float, min_score: float,
        fill_gap: int, smooth: float, download: bool,
    ) -> io.NodeOutput:  # fmt: skip
        notes = Notes(cls.hidden)
        device = model_management.get_torch_device()
        detector = "dwpose" if download and detector == "auto" else which_detector(detector, places())
        if detector == "dwpose":
            provide(POSES, download, notes)
            model_management.free_memory(BYTES, device)
        found = extract_poses(
            PoseDetector.choose(detector, places(), str(device)),
            (image_to_pixels(image[None])[0] for image in images),
            person=person,
            everyone=everyone,
            min_person_score=min_person_score,
            min_score=min_score,
            fill_gap=fill_gap,
            smooth=smooth,
            on_frames=frame_progress(len(images), notes.node),
        )
        notes.say(*found.notes)
        return io.NodeOutput(found.poses.to_openpose(), ui=notes.ui)
