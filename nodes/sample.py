"""StableAnimatorSample and StableAnimatorDecode."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io
from torch import Tensor

from ..stableanimator_core.errors import InputError
from ..stableanimator_core.evaluation.estimate import Speed, Work, say_left
from ..stableanimator_core.face import ReferenceFace
from ..stableanimator_core.hjb_settings import describe, resolve
from ..stableanimator_core.pipeline import (
    SamplingConfig,
    fit_to_memory,
    model_hjb,
    place_motion,
    plan_sampling,
    sample,
)
from ..stableanimator_core.pose.telling import telling_frames
from ..stableanimator_core.vae import decode_video
from ..stableanimator_core.weights import ModelConfig, Models
from .convert import (
    fill_size,
    frames_to_image,
    image_to_pixels,
    latents_to_samples,
    or_default,
    samples_to_latents,
    to_poses,
)
from .desk import HIDDEN, IdentityScope, Notes, memory_of, watched
from .errors import one_line_errors
from .patchers import AnimatorModel
from .progress import decoding_progress, preview_format, sampling_hooks
from .speed import kind_of, recall, record
from .wire import CATEGORY, HJB, Face, Model, PoseKeypoint


class StableAnimatorSample(io.ComfyNode):
    """The reference person in the given poses."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorSample",
            display_name="StableAnimator++ Sample",
            category=CATEGORY,
            description="Makes the video's latents: the reference person in the given poses. "
            "0 in a field stands for the model's own value.",
            inputs=[
                Model.Input("model", tooltip="From Load Model."),
                io.Image.Input("reference", tooltip="Picture of the person; of a batch the first one is used."),
                PoseKeypoint.Input(
                    "poses", tooltip="The motion, aligned to the reference; one frame of video for every frame of it."
                ),
                Face.Input(
                    "face", optional=True,
                    tooltip="From Encode Face. Unconnected: no identity path and no face optimisation.",
                ),
                HJB.Input(
                    "hjb", optional=True,
                    tooltip="From HJB Options. Unconnected: the face optimisation works with the model's own settings.",
                ),
                io.Image.Input(
                    "pose_images", optional=True,
                    tooltip="Skeleton pictures to use in place of those drawn from poses, one per frame "
                    "and at the output's size.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Start of the noise: another number, another video.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=200,
                    tooltip="Denoising steps; more is slower and finer. 0 = the model's own number.",
                ),
                io.Float.Input(
                    "guidance_first", default=0.0, min=0.0, max=20.0, step=0.1, round=0.01,
                    tooltip="How strictly the first frame follows reference and poses; 1 switches guidance off and "
                    "halves the time if guidance_last is 1, too. 0 = the model's own.",
                ),
                io.Float.Input(
                    "guidance_last", default=0.0, min=0.0, max=20.0, step=0.1, round=0.01,
                    tooltip="The same for the last frame; in between it changes evenly. 0 = the model's own.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=4096, step=32,
                    tooltip="Width of the video in pixels. 0 = what fits the reference's shape where height is given, "
                    "else the size the model was trained at, which works best.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=4096, step=32,
                    tooltip="Height of the video in pixels. 0 = what fits the reference's shape where width is given, "
                    "else the size the model was trained at, which works best.",
                ),
                io.Int.Input(
                    "context_frames", default=0, min=0, max=128,
                    tooltip="Longer videos are made in windows of so many frames. Fewer need less memory, more are "
                    "steadier. 0 = the model's own number, with its own overlap.",
                ),
                io.Int.Input(
                    "context_overlap", default=0, min=0, max=127,
                    tooltip="Frames that neighbouring windows share. 0 = the model's own share of context_frames.",
                ),
                io.Int.Input(
                    "draft", optional=True, default=0, min=0, max=999,
                    tooltip="Makes only so many frames, those that tell most about pose and identity, to tune with; "
                    "the latents are these frames alone. 0 = the whole video.",
                ),
                io.Boolean.Input(
                    "identity_scope", optional=True, default=True,
                    tooltip="Shows below how alike every frame's face is to the reference's, in every step. Costs one "
                    "decoding of the faces per step; off costs nothing.",
                ),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="One latent per frame, for Decode.")],
            hidden=HIDDEN,
            is_output_node=True,  # runs by itself while it is tuned, and tells the page again when nothing has changed
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(
        cls, model: AnimatorModel, reference: Tensor, poses: list[dict], seed: int, steps: int, guidance_first: float,
        guidance_last: float, width: int, height: int, context_frames: int, context_overlap: int,
        face: ReferenceFace | None = None, hjb: dict | None = None, pose_images: Tensor | None = None, draft: int = 0,
        identity_scope: bool = True,
    ) -> io.NodeOutput:  # fmt: skip
        config, notes = model.models.config, Notes(cls.hidden)
        picture, motion = image_to_pixels(reference[:1])[0], to_poses(poses, "poses")
        *size, sized = fill_size(width, height, picture.shape[1::-1], config.size_multiple)
        settings = _settings(
            config, seed, steps, (guidance_first, guidance_last), size, (context_frames, context_overlap)
        )
        options = model_hjb(config, settings.steps, **(hjb or {}))
        drawn = None if pose_images is None else _fitting(image_to_pixels(pose_images), motion.frames, settings)
        check_face(face, model.models)
        frames = telling_frames(motion, draft)
        models = model.load()
        # Once, since the memory that is free may change between the plan, by which the view counts, and the run.
        options, fitted = fit_to_memory(models, motion, face, settings, options, chosen=frames)
        given = models, picture, motion, face, settings, options
        measure = identity_scope and watched()
        memory = memory_of(model, notes.node)
        seen = face is not None and bool(place_motion(config, motion, settings, frames)[2].found.any())
        if measure and seen:
            memory.show_end(settings.steps)
        plan = plan_sampling(memory.trail, *given, pose_images=drawn, chosen=frames)
        memory.forget_from(plan.first)
        work = Work.of(settings, options if face else None, len(frames))
        kind = kind_of(config.name, models.dtype, settings, options)
        known = recall(kind)
        if plan.seconds is None and known is not None:
            plan = plan._replace(seconds=known.reckon(work.iterations[plan.first :], work.frames, work.windowed))
        scope, optimised = None, []
        if measure:
            resolved = resolve(options, settings.steps, face=seen)
            scope = IdentityScope(notes.sender, frames, face, resolved, plan, memory)
        else:
            optimised = [describe(options, settings.steps, face=seen)]
            notes.say(*optimised)
            notes.status(plan.text())

        def on_left(done: int, seconds: float, whole: bool) -> None:
            if scope:
                scope.left(done, seconds, whole)
            else:
                notes.status(f"{done} of {plan.steps} steps done, {say_left(seconds, whole)}")

        hooks = sampling_hooks(
            notes, preview_format(models, picture, settings.width, settings.height), models.device, plan,
            work, memory.trail, known, on_left, scope and scope.on_identity,
        )  # fmt: skip
        made = sample(*given, pose_images=drawn, chosen=frames, hooks=hooks, measure=measure, trail=memory.trail)
        if ran := memory.trail.seconds[plan.first + 1 :]:  # without the first one, which warms up
            record(kind, Speed.of(ran, work.frames, work.windowed))
        latent = latents_to_samples(made.latents, models.vae.config.scaling_factor)
        notes.lines = [*made.notes, *fitted, *sized, *draft_notes(frames, motion.frames), *optimised]
        return io.NodeOutput(latent, ui=notes.ui | ({"identity": scope.end()} if scope else {}))


class StableAnimatorDecode(io.ComfyNode):
    """Latents to frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorDecode",
            display_name="StableAnimator++ Decode",
            category=CATEGORY,
            description="Turns latents into frames with the model's own video decoder.",
            inputs=[
                Model.Input("model", tooltip="The model that made the latents."),
                io.Latent.Input("samples", tooltip="The latents of Sample."),
                io.Int.Input(
                    "chunk", default=8, min=1, max=128,
                    tooltip="Frames decoded at a time. More are steadier and need more memory; when it runs out, fewer "
                    "are taken, then parts of frames.",
                ),
            ],
            outputs=[io.Image.Output("frames", display_name="frames", tooltip="The video, one picture per frame.")],
            hidden=HIDDEN,
        )  # fmt: skip

    @classmethod
    @one_line_errors
    def execute(cls, model: AnimatorModel, samples: dict[str, Tensor], chunk: int) -> io.NodeOutput:
        latents = samples_to_latents(samples, model.models.vae.config.scaling_factor)
        notes = Notes(cls.hidden)
        frames = decode_video(
            model.load(), latents, chunk=chunk, on_chunk=decoding_progress(len(latents), notes.node), on_note=notes.say
        )
        return io.NodeOutput(frames_to_image(frames), ui=notes.ui)


def _settings(
    config: ModelConfig, seed: int, steps: int, guidance: tuple[float, float], size: tuple[int, int],
    context: tuple[int, int],
) -> SamplingConfig:  # fmt: skip
    """The widgets as the core wants them: 0 is the model's own value, an overlap counts with its window."""
    window, overlap = context
    return SamplingConfig.for_model(
        config,
        seed=seed,
        steps=or_default(steps),
        guidance=tuple(given or own for given, own in zip(guidance, config.guidance)),
        width=or_default(size[0]),
        height=or_default(size[1]),
        context_window=or_default(window),
        context_overlap=or_default(overlap) if window else None,
    )


def draft_notes(frames: list[int], of: int) -> list[str]:
    """Which frames a draft made."""
    if len(frames) == of:
        return []
    return [f"a draft of frames {', '.join(map(str, frames))} of 0 to {of - 1}; with draft 0 it is all of them"]


def check_face(face: ReferenceFace | None, models: Models) -> None:
    """Raises InputError when the face was measured by a network of another width than this model's."""
    if face is not None and len(face.embedding) != models.face_embedder.embedding_dim:
        raise InputError(
            f"face: {len(face.embedding)} numbers, model '{models.config.name}' works with "
            f"{models.face_embedder.embedding_dim}; connect Encode Face and Sample to the same model"
        )


def _fitting(pose_images: np.ndarray, frames: int, settings: SamplingConfig) -> np.ndarray:
    """The pictures themselves. Raises InputError when they are not one per frame at the output's size."""
    if pose_images.shape[:3] != (frames, settings.height, settings.width):
        count, height, width = pose_images.shape[:3]
        raise InputError(
            f"pose_images: {count} pictures of {width}x{height}, the video has {frames} frames of "
            f"{settings.width}x{settings.height}; draw them with the same model and size in Draw Poses"
        )
    return pose_images
