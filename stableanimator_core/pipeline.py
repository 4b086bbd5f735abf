"""One picture and a driving motion become a video: the paper's figure on one page (arXiv 2507.15064, Fig. 2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .alignment import WITH_ALIGNER, align
from .alignment.advice import doubt_notes
from .conditioning import Cover, build_conditioning, cover, cover_picture, cover_poses
from .denoiser import frame_guidance, make_denoiser, unet_bytes
from .errors import FaceError, InputError, WeightsError
from .face import (
    FaceBoxes,
    FaceDetector,
    ReferenceFace,
    embed_reference,
    face_boxes,
    locate_among,
    locate_in_pose,
    score_identity,
)
from .face.sharpness import reference_among
from .face_windows import CHUNK, hjb_bytes, largest_window
from .graphs import Graphs
from .hjb import OnIdentity, fitted_note, make_face_refiner, smaller_note, with_chunk
from .hjb_settings import HJBConfig
from .keypoints import Poses
from .parallel import ALONE, Processes
from .pose.draw import draw_poses
from .sampling import Callback, init_noise, karras_sigmas, sample_euler
from .trail import Course, Plan, Trail, key_of
from .vae import cell_size, decode_video
from .video.pixels import from_uint8, to_uint8
from .weights import ModelConfig, Models, Places, config_of, load_aligner, load_models
from .windows import context_windows

ASPECT_TOLERANCE = 0.02  # of width over height
BIG = 512  # px; a model trained at this size or more is too big for float32 on most GPUs


@dataclass(frozen=True)
class SamplingConfig:
    """How the clip is denoised. `for_model` fills in what the model was made for."""

    width: int
    height: int
    steps: int
    guidance: tuple[float, float]  # first frame, last frame
    context_window: int
    context_overlap: int
    seed: int = 0

    @property
    def halves(self) -> int:
        """Of guidance, that a step runs."""
        return 1 if self.guidance == (1, 1) else 2

    @classmethod
    def for_model(cls, config: ModelConfig, **given) -> SamplingConfig:
        """The model's defaults, except for what is given and not None. Raises InputError on a size that doesn't fit."""
        keys = ("width", "height", "steps", "guidance", "context_window", "context_overlap")
        settings = {key: getattr(config, key) for key in keys}
        given = {key: value for key, value in given.items() if value is not None}
        if "context_window" in given:  # the overlap keeps its share of the window
            share = config.context_overlap / config.context_window
            settings["context_overlap"] = min(round(given["context_window"] * share), given["context_window"] - 1)
        made = cls(**settings | given)
        multiple, sides = config.size_multiple, (made.width, made.height)
        if any(side < multiple or side % multiple for side in sides):
            near = " x ".join(str(max(multiple, round(side / multiple) * multiple)) for side in sides)
            raise InputError(
                f"size {made.width} x {made.height}: model '{config.name}' needs multiples of {multiple}; take {near}"
            )
        if made.steps < 1:
            raise InputError(f"steps {made.steps}: sampling needs at least 1 step")
        return made


@dataclass(frozen=True)
class Hooks:
    """Called while sampling; what they raise stops it."""

    on_step: Callback | None = None  # (step, x0, x, steps), after the face optimisation of the step
    on_identity: OnIdentity | None = None  # how alike the faces are, in every iteration of the face optimisation
    on_forward: Callable[[], None] | None = None  # before every UNet call
    on_decode: Callable[[int, int], None] | None = None  # (frames decoded, frames)
    on_note: Callable[[str], None] | None = None  # what the user should know at once: memory ran out


@dataclass(frozen=True)
class Animation:
    """What comes out, with what the user wants to know about it."""

    frames: np.ndarray  # [F, H, W, 3] uint8 RGB
    pose_images: np.ndarray  # [F, H, W, 3] uint8 RGB, what PoseNet saw
    poses: Poses  # aligned, on the output's canvas
    csim: np.ndarray  # [F], NaN where no face is visible
    judge: str  # which embedder gave csim
    notes: tuple[str, ...]
    seconds: float  # that it takes alone: with those of the steps that a trail had kept


class StableAnimator:
    """The library's front door: load once, animate often.

    processes: each with its own StableAnimator, call `animate` with the same arguments and get the same result; they
    share the work of the UNet and of HJB. See parallel.join_processes.
    """

    def __init__(self, models: Models, processes: Processes = ALONE):
        self.models = models
        self.processes = processes

    @classmethod
    def load(
        cls, model: str | Path = "mini", *, device: str = "auto", dtype: torch.dtype | None = None,
        places: Places | None = None, processes: Processes = ALONE,
    ) -> StableAnimator:  # fmt: skip
        """A built-in model's name, "v1" or a model folder. dtype: None is pick_dtype's. places: of published weights.

        Raises WeightsError, or InputError for an unknown device.
        """
        where = pick_device(device)
        dtype = dtype or pick_dtype(config_of(model), where)
        return cls(load_models(model, device=where, dtype=dtype, places=places).taking_turns(), processes)

    def animate(
        self, reference: np.ndarray, driving: Poses, reference_pose: Poses, *, align_method: str = "learned",
        align_fit: str = "clip", proportions: bool = False, hjb: HJBConfig | None = None, identity: bool = True,
        face_detector: FaceDetector | None = None, hooks: Hooks | None = None, trail: Trail | None = None, **sampling,
    ) -> Animation:  # fmt: skip
        """Animate the person of the reference picture.

        reference: [H, W, 3] uint8 RGB. driving: keypoints of the motion. reference_pose: of the picture.
        hjb: None takes the model's own settings; HJBConfig(iterations=0) is off. identity=False leaves the face out;
        so does a picture without a usable face, and a note says why. face_detector: see find_face. trail: see sample.
        sampling: fields of SamplingConfig, None or absent for the model's defaults.
        """
        start, models, hooks = time.monotonic(), self.models, hooks or Hooks()
        settings = SamplingConfig.for_model(models.config, **sampling)
        hjb = model_hjb(models.config, settings.steps) if hjb is None else hjb
        picture_pose = reference_pose.resized(reference.shape[1], reference.shape[0])
        aligner = load_aligner() if align_method in WITH_ALIGNER else None
        aligned = align(driving, picture_pose, align_method, fit=align_fit, aligner=aligner, proportions=proportions)
        doubts = doubt_notes(aligned.expected_error)
        notes = [*_aspect_notes(reference_pose, reference), *doubts, *aligned.notes]
        with torch.no_grad():
            face = None
            if identity:
                try:
                    face = find_face(models, reference, picture_pose, detector=face_detector)
                    if models.config.face_crop == "arcface" and face_detector is None:
                        notes.append("the reference's face was found through its pose: no face detector is here")
                except FaceError as error:
                    notes.append(str(error))
            made = sample(
                models, reference, aligned.poses, face, settings, hjb, hooks=hooks, trail=trail,
                processes=self.processes,
            )  # fmt: skip
            video = decode_video(models, made.latents, on_chunk=hooks.on_decode, on_note=notes.append)  # [F, 3, H, W]
            judge, csim = "no face", torch.full((len(video),), float("nan"))
            if face is not None:
                judge, csim = self.judge_identity(video, made.faces, reference, face)
        kept = [] if trail is None else trail.seconds[: made.resumed_at]
        saved = sum(took.denoise + took.refine for took in kept)
        return Animation(
            to_uint8(video), made.pose_images, made.poses, csim.cpu().numpy(), judge, (*notes, *made.notes),
            time.monotonic() - start + saved,
        )  # fmt: skip

    def judge_identity(
        self, video: Tensor, faces: FaceBoxes, reference: np.ndarray, face: ReferenceFace
    ) -> tuple[str, Tensor]:
        """CSIM per frame by an embedder that the optimisation never saw, if the model has one.

        video: [F, 3, H, W] in -1..1. face: what find_face found in the reference, [H, W, 3] uint8 RGB.
        """
        models = self.models
        name, judge, target = "embedder", models.face_embedder, face.embedding
        if models.face_judge is not None:
            name, judge = "judge", models.face_judge
            target = embed_reference(judge, from_uint8(reference), face.place).embedding
        return name, score_identity(judge, video.clamp(-1, 1), faces, target)


@dataclass(frozen=True)
class Sampled:
    """What `sample` makes: the latents, and where everything is in the output."""

    latents: Tensor  # [F, 4, h, w] scaled
    poses: Poses  # on the output's canvas
    pose_images: np.ndarray  # [F, H, W, 3] uint8 RGB
    faces: FaceBoxes  # px of the output
    notes: tuple[str, ...]  # what the user should know
    resumed_at: int = 0  # first step that was run; those before were kept


def sample(
    models: Models, reference: np.ndarray, poses: Poses, face: ReferenceFace | None, settings: SamplingConfig,
    hjb: HJBConfig, *, pose_images: np.ndarray | None = None, chosen: Sequence[int] | None = None,
    hooks: Hooks | None = None, measure: bool = False, trail: Trail | None = None, processes: Processes = ALONE,
) -> Sampled:  # fmt: skip
    """Aligned poses to latents.

    reference: [H, W, 3] uint8 RGB. poses: on a canvas with the reference's aspect; picture and poses are cropped alike
    to the output's aspect. pose_images: [F, H, W, 3] uint8, to use instead of the drawing.
    chosen: frames to make, ascending, all by default; crop, noise and guidance are those that they have in the whole.
    measure: on_identity is also called where the face optimisation itself needs no measurement, see make_face_refiner.
    trail: of a run before this one; what it kept is not run again, and it keeps this run. The latents are the same
    (on GPUs with HJB, as far as two runs are).
    processes: share the context windows, and the windows of faces that HJB decodes. Latents are the same in all, and
    the same as one process makes: bit for bit on CPUs where libraries and numbers of threads are alike, but for
    rounding on GPUs (52 frames on two H200 in fp16: at most 2 of 255 apart).
    Raises InputError without frames, ValueError for a trail in several processes, whose cards may be free of different
    amounts: they would not all go on from the same step.
    """
    if trail is not None and processes.count > 1:
        raise ValueError(f"sample: a trail in one of {processes.count} processes; give none, or run one process")
    if poses.frames < 1:
        raise InputError("driving poses: no frames; give at least one")
    hooks, size = hooks or Hooks(), (settings.width, settings.height)
    config, device = models.config, models.device
    chosen = list(range(poses.frames) if chosen is None else chosen)
    notes = [*_size_notes(config, settings), *_aspect_notes(poses, reference)]
    part, placed, faces = place_motion(config, poses, settings, chosen)
    if pose_images is None:
        drawn = draw_poses(placed, *size, canvas_short_side=config.pose_canvas)
    else:
        drawn = pose_images if len(chosen) == poses.frames else pose_images[chosen]
    generator = torch.Generator().manual_seed(settings.seed)
    picture = cover_picture(reference, part)
    cond = build_conditioning(models, picture, drawn, face=face, size=size, generator=generator)
    sigmas = karras_sigmas(settings.steps, config.sigma_min, config.sigma_max).to(device)
    windows = context_windows(len(chosen), settings.context_window, settings.context_overlap)
    guidance = frame_guidance(*settings.guidance, poses.frames, device=device)[chosen]
    smaller, refine, graphs = [], None, Graphs(device)

    def tell(note: str) -> None:
        if hooks.on_note is not None:
            hooks.on_note(note)

    def on_note(note: str) -> None:
        notes.append(note)
        tell(note)

    def make_room() -> bool:
        return models.make_room() or graphs.close()

    denoise = make_denoiser(
        models.unet, cond, guidance, windows, on_forward=hooks.on_forward, on_note=on_note, processes=processes,
        graphs=graphs, make_room=make_room,
    )  # fmt: skip
    shape = (poses.frames, 4, *_cells(models, settings))
    noise = init_noise(shape, config.sigma_max, generator=generator, device=device)[chosen]
    hjb, fitted = _for_memory(hjb, models, face, faces, settings, processes)
    notes += fitted

    def on_smaller(chunk: int) -> None:
        smaller.append(chunk)
        if trail is not None:
            trail.note_chunk(chunk)
        tell(smaller_note(chunk))

    if face is not None and faces.found.any() and (hjb.iterations > 0 or measure):
        refine = make_face_refiner(
            models.vae, models.face_embedder, face.embedding, faces, hjb, settings.steps,
            reference=reference_among(face, faces), on_identity=hooks.on_identity,
            on_taken=None if trail is None else trail.note_iterations, on_smaller=on_smaller, measure=measure,
            graphs=graphs, make_room=make_room, processes=processes,
        )  # fmt: skip
    course = None
    if trail is not None:
        course = _course(models, reference, poses, face, settings, hjb, pose_images, chosen)
    here = nullcontext()
    if course is None or trail.plan(course).first < settings.steps:
        room = sampling_bytes(models, settings, None if face is None else hjb, faces)
        here = models.on_device("unet", room=room)
    with here, closing(graphs):
        if course is None:
            latents, first = sample_euler(denoise, noise, sigmas, refine=refine, callback=hooks.on_step), 0
        else:
            latents, first = trail.sample(course, denoise, noise, sigmas, refine=refine, callback=hooks.on_step)
    notes += [*map(smaller_note, smaller[-1:]), *_face_notes(placed, face, faces)]
    return Sampled(latents, placed, drawn, faces, tuple(notes), first)


def place_motion(
    config: ModelConfig, poses: Poses, settings: SamplingConfig, chosen: Sequence[int]
) -> tuple[Cover, Poses, FaceBoxes]:  # fmt: skip
    """The crop that fits the whole motion, and the chosen frames' poses and faces on the output's canvas."""
    size = settings.width, settings.height
    part = cover(poses, *size)
    placed = cover_poses(poses, part, *size).picked(chosen)
    return part, placed, face_boxes(placed, scale=config.face_scale, crop=config.face_crop)


def plan_sampling(
    trail: Trail, models: Models, reference: np.ndarray, poses: Poses, face: ReferenceFace | None,
    settings: SamplingConfig, hjb: HJBConfig, *, pose_images: np.ndarray | None = None,
    chosen: Sequence[int] | None = None,
) -> Plan:  # fmt: skip
    """What `sample` would do with the same arguments; nothing is changed.

    The memory that is free decides with it: where that may change until then, give both what `fit_to_memory` says.
    """
    chosen = range(poses.frames) if chosen is None else chosen
    hjb, _ = fit_to_memory(models, poses, face, settings, hjb, chosen=chosen)
    return trail.plan(_course(models, reference, poses, face, settings, hjb, pose_images, chosen))


def fit_to_memory(
    models: Models, poses: Poses, face: ReferenceFace | None, settings: SamplingConfig, hjb: HJBConfig,
    *, chosen: Sequence[int] | None = None,
) -> tuple[HJBConfig, list[str]]:  # fmt: skip
    """What `sample` would make of hjb with the memory that is free now, and what the user should know of it.

    Arguments as in `sample`.
    """
    chosen = range(poses.frames) if chosen is None else chosen
    return _for_memory(hjb, models, face, place_motion(models.config, poses, settings, chosen)[2], settings)


def sampling_bytes(models: Models, settings: SamplingConfig, hjb: HJBConfig | None, faces: FaceBoxes) -> float:
    """What a denoising step takes beside the networks, or an iteration of HJB if that is more, about.

    hjb: with a number for chunk; None where there is no face to optimise. faces: as in Sampled.
    """
    frames, pixels = min(len(faces.found), settings.context_window), settings.width * settings.height
    step = settings.halves * unet_bytes(models.unet, frames, pixels, models.device)
    if hjb is None or not hjb.iterations:
        return step
    cell = cell_size(models.vae)
    window = largest_window(faces, _cells(models, settings), cell, chunk=hjb.chunk or CHUNK, margin=hjb.around)
    return max(step, hjb_bytes(models.vae, window))


def _cells(models: Models, settings: SamplingConfig) -> tuple[int, int]:
    """Rows and columns of the latents."""
    cell = cell_size(models.vae)
    return settings.height // cell, settings.width // cell


def _for_memory(
    hjb: HJBConfig, models: Models, face: ReferenceFace | None, faces: FaceBoxes, settings: SamplingConfig,
    processes: Processes = ALONE,
) -> tuple[HJBConfig, list[str]]:  # fmt: skip
    """With the chunk that fits into the memory that is free now, where there is a face; a note where that is less."""
    if hjb.chunk is not None or face is None or not faces.found.any():
        return hjb, []
    gain = models.gain("unet")
    hjb = with_chunk(hjb, models.vae, faces, _cells(models, settings), gain=gain, processes=processes)
    fewer = hjb.iterations > 0 and hjb.chunk < min(CHUNK, int(faces.found.sum()))
    return hjb, [fitted_note(hjb.chunk)] if fewer else []


def _course(
    models: Models, reference: np.ndarray, poses: Poses, face: ReferenceFace | None, settings: SamplingConfig,
    hjb: HJBConfig, pose_images: np.ndarray | None, chosen: Sequence[int],
) -> Course:  # fmt: skip
    steps = range(settings.steps)
    refined = tuple(None if face is None else hjb.at(i, settings.steps) for i in steps)
    return Course(key_of(models, reference, poses, face, settings, pose_images, tuple(chosen)), refined)


def _size_notes(config: ModelConfig, settings: SamplingConfig) -> list[str]:
    if (settings.width, settings.height) in config.trained_sizes:
        return []
    trained = " and ".join(f"{width}x{height}" for width, height in config.trained_sizes)
    return [f"model {config.name} was trained at {trained}; at {settings.width}x{settings.height} expect less"]


def _aspect_notes(poses: Poses, reference: np.ndarray) -> list[str]:
    """Poses that were not laid over the picture: their canvas has another shape."""
    height, width = reference.shape[:2]
    if abs(poses.width * height / (poses.height * width) - 1) < ASPECT_TOLERANCE:
        return []
    return [
        f"the poses' canvas is {poses.width}x{poses.height}, the picture {width}x{height}: bodies will be misplaced; "
        "give the picture's own pose, and align the motion with it"
    ]


def _face_notes(poses: Poses, face: ReferenceFace | None, faces: FaceBoxes) -> list[str]:
    notes = []
    if face is None:
        notes.append("identity path off: no face was given to the model and none was optimised")
    missing = int((~faces.found).sum())
    if missing:
        notes.append(f"{missing} of {poses.frames} frames show no face; they are neither optimised nor scored")
    if poses.people > 1:
        notes.append(
            f"up to {poses.people} people in a frame: alignment and face follow person 0, the first one of each frame"
        )
    return notes


def find_face(
    models: Models, reference: np.ndarray, reference_pose: Poses | None = None, *,
    detector: FaceDetector | None = None, choose: int | None = None,
) -> ReferenceFace:  # fmt: skip
    """The identity of the reference picture, for the Face Encoder and for HJB; locate_face says which face it is."""
    place = locate_face(models.config, reference, reference_pose, detector=detector, choose=choose)
    with models.on_device():
        return embed_reference(models.face_embedder, from_uint8(reference), place)


def locate_face(
    config: ModelConfig, reference: np.ndarray, reference_pose: Poses | None = None, *,
    detector: FaceDetector | None = None, choose: int | None = None,
) -> FaceBoxes:  # fmt: skip
    """Where the reference's face is in its picture, as a clip of one frame.

    reference: [H, W, 3] uint8 RGB. reference_pose: on any canvas; the face is that of its first person, the one that
    alignment and face boxes follow. detector: for models whose embedder takes aligned faces it finds the face, and a
    pose is needed only to know whose; without a pose that is the largest. Models trained on upright boxes find it
    through the pose alone. choose: the face with this number from the left, from 0, whoever the pose shows.
    Raises FaceError where there is no face to take an identity from: none, too small, in profile, not the pose's.
    """
    height, width = reference.shape[:2]
    if detector is not None and config.face_crop == "arcface":
        return locate_among(detector.detect(reference), (width, height), reference_pose, choose=choose)
    if reference_pose is not None:
        return locate_in_pose(
            reference_pose, (width, height), scale=config.face_scale, crop=config.face_crop, choose=choose
        )
    needed = "its pose or a face detector" if config.face_crop == "arcface" else "its pose"
    raise FaceError(
        f"reference_pose: not given, but model '{config.name}' finds the face through {needed}; give the picture's pose"
    )


def model_hjb(config: ModelConfig, steps: int, **given) -> HJBConfig:
    """The model's own HJB settings, its range of steps stretched to this number of steps; given values win."""
    settings, given = dict(config.hjb), {key: value for key, value in given.items() if value is not None}
    stretch = steps / config.steps
    first = min(round(settings["first_step"] * stretch), steps - 1)
    last = min(max(round((settings["last_step"] + 1) * stretch) - 1, first), steps - 1)
    if "last_step" not in given:  # one end alone was given: the other makes room
        last = max(last, given.get("first_step", first))
    elif "first_step" not in given:
        first = min(first, given["last_step"])
    try:
        return HJBConfig(**settings | {"first_step": first, "last_step": last} | given)
    except TypeError as error:
        raise WeightsError(f"model '{config.name}': its HJB settings are not known here ({error})") from error


def pick_device(device: str) -> torch.device:
    """`auto` is the first CUDA GPU, else Apple's GPU, else the CPU. Raises InputError when the device isn't there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{device}' can't be used: {reason}; try auto or cpu") from error
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # where fused kernels and graphs run
    return device


def pick_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """float16 for a model of 512 px or more on an NVIDIA GPU, float32 for small models and everywhere else."""
    big = max(config.width, config.height) >= BIG
    return torch.float16 if big and device.type == "cuda" else torch.float32
