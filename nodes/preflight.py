"""StableAnimatorPreflight."""

from __future__ import annotations

from functools import partial

from comfy.model_management import get_torch_device, throw_exception_if_processing_interrupted
from comfy_api.latest import io
from torch import Tensor

from ..stableanimator_core.errors import InputError
from ..stableanimator_core.evaluation.estimate import Job, Speed, report_job
from ..stableanimator_core.evaluation.plan import outlined
from ..stableanimator_core.hjb_settings import HJBConfig
from ..stableanimator_core.pipeline import SamplingConfig
from ..stableanimator_core.weights import Models
from .convert import fill_size, image_to_pixels, or_default, to_poses
from .desk import HIDDEN, Notes
from .errors import one_line_errors
from .face import face_detector
from .folders import places
from .patchers import AnimatorModel
from .speed import kind_of, recall
from .upstream import chosen_model, lacking, links
from .wire import CATEGORY, HJB, Model, PoseKeypoint


class StableAnimatorPreflight(io.ComfyNode):
    """What would spoil a long run, before it is started."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorPreflight",
            display_name="StableAnimator++ Preflight",
            category=CATEGORY,
            description="One report before a long run: missing files with their paths, broken or wrong packages, a "
            "face too small or in profile, several people, gaps in the motion, size, memory and time. "
            "Connect what you have; what is not connected is not looked at.",
            inputs=[
                Model.Input(
                    "model", lazy=True,
                    tooltip="The model that Sample will use, from Load Model. It is only loaded to measure; its files "
                    "may be missing.",
                ),
                io.Image.Input(
                    "reference", optional=True, lazy=True,
                    tooltip="The picture of the person: is its face found, large enough and seen from the front?",
                ),
                PoseKeypoint.Input(
                    "reference_pose", optional=True, lazy=True,
                    tooltip="Pose of that picture: does it show one person, and does the motion fit over it?",
                ),
                PoseKeypoint.Input(
                    "driving", optional=True, lazy=True,
                    tooltip="The motion, aligned or not: is one person there, in every frame, with a face?",
                ),
                HJB.Input(
                    "hjb", optional=True, lazy=True,
                    tooltip="From HJB Options: how much memory and time the face optimisation will take.",
                ),
                io.Int.Input("steps", default=0, min=0, max=200, tooltip="As in Sample. 0 = the model's own number."),
                io.Int.Input(
                    "width", default=0, min=0, max=4096, step=32, tooltip="As in Sample, also what 0 means."
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=32, tooltip="As in Sample, also what 0 means."
                ),
                io.Int.Input(
                    "context_frames", default=0, min=0, max=128, tooltip="As in Sample. 0 = the model's own number."
                ),
                io.Boolean.Input(
                    "measure", default=False,
                    tooltip="On: three steps of the job are made, to say how long all of it takes on this machine "
                    "and how much of the card's memory. Needs reference and driving.",
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="The findings, each with what mends it.")
            ],
            hidden=[*HIDDEN, io.Hidden.prompt],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")  # never equal: files and packages change without an input

    @classmethod
    def check_lazy_status(cls, measure: bool, **_: object) -> list[str]:
        """What is connected and can be had: nothing that waits for missing files; the model only to measure."""
        prompt, node = cls.hidden.prompt, cls.hidden.unique_id
        given = links(prompt, node)
        missing = {name: lacking(prompt, source) for name, source in given.items()}
        if found := [finding for each in missing.values() for finding in each]:  # before another node stops the run
            Notes(cls.hidden).say(*(line for finding in found for line in finding.lines))
        named = "model" in given and chosen_model(prompt, given["model"]) is not None
        wanted = {name for name in given if not missing[name]}
        return sorted(wanted if measure or not named else wanted - {"model"})

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel | None, steps: int, width: int, height: int, context_frames: int, measure: bool,
        reference: Tensor | None = None, reference_pose: list[dict] | None = None, driving: list[dict] | None = None,
        hjb: dict | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        prompt, given = cls.hidden.prompt, links(cls.hidden.prompt, cls.hidden.unique_id)
        missing = {name: lacking(prompt, source) for name, source in given.items()}
        if model is None:
            chosen = chosen_model(prompt, given["model"])
            if chosen is None:
                raise InputError("model: no Load Model is above this node; connect one")
            models = outlined(*chosen, get_torch_device())
        else:
            models = model.load() if measure else model.models
        picture, sized = None if reference is None else image_to_pixels(reference[:1])[0], []
        if picture is not None:
            width, height, sized = fill_size(width, height, picture.shape[1::-1], models.config.size_multiple)
        job = Job(
            sampling={
                "steps": or_default(steps), "width": or_default(width), "height": or_default(height),
                "context_window": or_default(context_frames),
            },
            hjb=hjb or {},
            reference=picture,
            reference_pose=None if reference_pose is None else to_poses(reference_pose, "reference_pose"),
            driving=None if driving is None else to_poses(driving, "driving"),
            detector=face_detector(models.config),
            waiting=tuple(name for name, found in missing.items() if found),
        )  # fmt: skip
        cancel = throw_exception_if_processing_interrupted
        report = report_job(
            models,
            job,
            places(),
            measure=measure,
            on_forward=cancel,
            missing=[finding for found in missing.values() for finding in found],
            remarks=sized,
            speed=partial(_speed_of, models),
        )
        return io.NodeOutput(report, ui={"text": (report,)})


def _speed_of(models: Models, settings: SamplingConfig, hjb: HJBConfig) -> Speed | None:
    return recall(kind_of(models.config.name, models.dtype, settings, hjb))
