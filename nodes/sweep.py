"""StableAnimatorHJBSweep."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..stableanimator_core.errors import InputError
from ..stableanimator_core.face import ReferenceFace
from ..stableanimator_core.pipeline import SamplingConfig, model_hjb
from ..stableanimator_core.pose.telling import telling_frames
from ..stableanimator_core.sweep import (
    parse_counts,
    parse_ranges,
    recommend,
    sweep_hjb,
    sweep_plot,
    sweep_sheet,
    sweep_table,
    sweep_variants,
)
from .convert import fill_size, image_to_pixels, or_default, pixels_to_image, to_poses
from .desk import HIDDEN, Notes, memory_of
from .errors import one_line_errors
from .patchers import AnimatorModel
from .progress import sweep_hooks
from .sample import check_face, draft_notes
from .wire import CATEGORY, HJB, Face, Model, PoseKeypoint


class StableAnimatorHJBSweep(io.ComfyNode):
    """Which settings of the face optimisation to take."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorHJBSweep",
            display_name="StableAnimator++ HJB Sweep",
            category=CATEGORY,
            description="Tries settings of the face optimisation on a few telling frames, shows faces, similarity, "
            "sharpness and time of each side by side and recommends one. Steps that settings share are run once.",
            inputs=[
                Model.Input("model", tooltip="From Load Model."),
                io.Image.Input("reference", tooltip="Picture of the person; of a batch the first one is used."),
                PoseKeypoint.Input("poses", tooltip="The motion, aligned to the reference, as Sample gets it."),
                Face.Input("face", tooltip="From Encode Face."),
                HJB.Input(
                    "hjb", optional=True,
                    tooltip="From HJB Options: everything that is not swept. Unconnected: the model's own settings.",
                ),
                io.String.Input(
                    "iterations", default="0, 4, 8, 10, 15",
                    tooltip="Numbers of iterations to try, with commas between. 0, without face optimisation, "
                    "is always tried.",
                ),
                io.String.Input(
                    "hjb_steps", default="",
                    tooltip="Ranges of sampling steps to try, counted from 0, as in 0:9, 10:19. Empty = those of hjb, "
                    "else the model's own.",
                ),
                io.Int.Input(
                    "draft", default=4, min=0, max=999,
                    tooltip="Tries the settings on so many frames, those that tell most about pose and identity. "
                    "0 = all frames.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Start of the noise, the same for every setting.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=200,
                    tooltip="Denoising steps, as in Sample. 0 = the model's own number.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=4096, step=32,
                    tooltip="Width in pixels, as in Sample, also what 0 means.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=32,
                    tooltip="Height in pixels, as in Sample, also what 0 means.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", display_name="sheet", tooltip="The faces of every setting below one another."),
                io.Image.Output(
                    "plot", display_name="plot", tooltip="Similarity over seconds, sharpness over similarity."
                ),
                HJB.Output(
                    "recommended", display_name="hjb", tooltip="The recommended setting, for Sample with equal steps."
                ),
                io.String.Output("report", display_name="report", tooltip="The recommendation and all numbers."),
            ],
            hidden=HIDDEN,
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, iterations: str | None, hjb_steps: str | None) -> bool | str:
        try:
            if iterations is not None:  # None: linked
                parse_counts(iterations)
            if hjb_steps is not None:
                parse_ranges(hjb_steps)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel, reference: Tensor, poses: list[dict], face: ReferenceFace, iterations: str,
        hjb_steps: str, draft: int, seed: int, steps: int, width: int, height: int, hjb: dict | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        config, notes, motion = model.models.config, Notes(cls.hidden), to_poses(poses, "poses")
        check_face(face, model.models)
        picture = image_to_pixels(reference[:1])[0]
        width, height, sized = fill_size(width, height, picture.shape[1::-1], config.size_multiple)
        settings = SamplingConfig.for_model(
            config, seed=seed, steps=or_default(steps), width=or_default(width), height=or_default(height)
        )
        base = model_hjb(config, settings.steps, **(hjb or {}))
        variants = sweep_variants(base, settings.steps, parse_counts(iterations), parse_ranges(hjb_steps))
        frames = telling_frames(motion, draft)
        hooks, on_variant = sweep_hooks(notes, settings.steps, variants)
        rows = sweep_hjb(
            model.load(), picture, motion, face, settings, variants, chosen=frames, hooks=hooks, on_variant=on_variant,
            trail=memory_of(model, notes.node).trail,
        )  # fmt: skip
        chosen = recommend(rows)
        report = "\n".join(
            (
                f"recommended: {chosen.reason}",
                *notes.lines,
                *sized,
                *draft_notes(frames, motion.frames),
                "",
                sweep_table(rows),
            )
        )
        sheet, plot = pixels_to_image(sweep_sheet(rows, face)[None]), pixels_to_image(sweep_plot(rows)[None])
        shown = [picture for image in (sheet, plot) for picture in ui.PreviewImage(image).as_dict()["images"]]
        return io.NodeOutput(sheet, plot, dict(vars(chosen.row.hjb)), report, ui={"text": (report,), "images": shown})
