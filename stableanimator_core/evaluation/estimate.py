"""What an animation will take: its work in words, the memory of its face optimisation, and time from a short trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from ..alignment import align
from ..errors import FaceError, InputError
from ..face import FaceBoxes, FaceDetector, ReferenceFace
from ..hjb import HJBConfig, Likeness, StepSettings, Window, place_windows
from ..keypoints import Poses
from ..pipeline import Hooks, SamplingConfig, find_face, model_hjb, place_motion, sample
from ..preflight import Finding, check_installation, check_job
from ..vae import cell_size, decode_latents
from ..weights import V1_CONFIG, ModelConfig, Models, Places
from ..windows import context_windows
from .bench import GIB, peak_gib, synchronize

# Stable Video Diffusion's decoder with gradients takes so much for every pixel that is decoded at once, in half
# precision: both records of tests/benchmarks/2026-11-22-v1-full-size.md over the largest window of their motion.
HJB_BYTES, HJB_DTYPES = 21_500, (torch.float16, torch.bfloat16)
SPARE_GIB = 1.0  # of a card, for everything else
TRIAL_STEPS = 3  # one to warm up, a plain one, one with a face iteration
IMAGE_BYTES = 3 * 4  # of a pixel, as ComfyUI keeps it
DECODED = 8  # frames that the trial decodes


@dataclass(frozen=True, eq=False)
class Job:
    """An animation that is to be made; None is what nobody has given yet."""

    sampling: dict = field(default_factory=dict)  # fields of SamplingConfig, None for the model's own
    hjb: dict = field(default_factory=dict)  # fields of HJBConfig
    reference: np.ndarray | None = None  # [H, W, 3] uint8 RGB
    reference_pose: Poses | None = None
    driving: Poses | None = None
    detector: FaceDetector | None = None

    @property
    def placed(self) -> Poses | None:
        """The motion about where it will be in the picture; as it came where that cannot be told."""
        if self.driving is None or self.reference_pose is None:
            return self.driving
        try:
            return align(self.driving, self.reference_pose, "svd").poses
        except InputError:  # check_driving says why
            return self.driving


class Estimate(NamedTuple):
    """Seconds and memory of a job, from a trial on its own material."""

    setup_s: float
    step_s: float  # of one sampling step, all windows; with a face, one look at it for the identity scope
    iteration_s: float  # of one HJB iteration, all frames; 0 without HJB
    decode_s: float  # of all frames
    total_s: float
    peak_gib: float | None  # the most that tensors took on the card; None where there is no CUDA


def report_job(
    models: Models, job: Job, places: Places, *, measure: bool = False, on_forward: Callable[[], None] | None = None
) -> str:
    """Everything that an artist should know before a long run: what stands in its way, its work, memory and time.

    measure: make a short trial for the time; on_forward is called before every UNet call of it.
    """
    config = models.config
    installation = check_installation(places if config == V1_CONFIG else None)  # others need no published file
    size = job.sampling.get("width") or config.width, job.sampling.get("height") or config.height
    material = {key: getattr(job, key) for key in ("reference", "reference_pose", "driving", "detector")}
    findings = [*installation.findings, *check_job(config, **material, size=size, places=places)]
    ahead: list[str] = []
    try:
        settings = SamplingConfig.for_model(config, **job.sampling)
        hjb = model_hjb(config, settings.steps, **job.hjb)
        hjb.check(settings.steps)
    except InputError as error:
        findings.append(Finding.of(error))
    else:
        motion = job.placed
        faces = None if motion is None else place_motion(config, motion, settings, range(motion.frames))[2]
        ahead = [describe_work(config, settings, hjb, motion), describe_memory(models, settings, hjb, faces)]
        if "gpu" in installation.device:
            findings += check_hjb_memory(models, settings, hjb, faces, installation.device["gpu_memory_gib"])
        told = "not known for this machine; switch measure on for a short trial"
        if measure:
            told, found = _measured(models, job, settings, hjb, motion, on_forward)
            findings += found
        ahead.append(f"time: {told}")
    findings = list(dict.fromkeys(findings))  # a size that cannot be made was found twice
    lines = [line for level in ("problem", "note") for f in findings if f.level == level for line in f.lines]
    return "\n".join((_verdict(findings), *ahead, *lines))


@torch.no_grad()
def try_job(
    models: Models, reference: np.ndarray, poses: Poses, face: ReferenceFace | None, settings: SamplingConfig,
    hjb: HJBConfig, *, on_forward: Callable[[], None] | None = None,
) -> Estimate:  # fmt: skip
    """Make TRIAL_STEPS steps with one HJB iteration on the job's own material, and reckon what all of it takes.

    Arguments as in `sample`, which measures the face for the identity scope. Adaptive HJB is reckoned at its most.
    """
    trial = replace(settings, steps=TRIAL_STEPS)
    refined = refined_steps(hjb, settings.steps) if face is not None else {}
    iterations = sum(step.iterations for step in refined.values())
    times = []

    def now() -> None:
        synchronize(models.device)
        times.append(time.perf_counter())

    def before_forward() -> None:
        if on_forward is not None:
            on_forward()
        if len(times) == 1:
            now()

    def heard(_: Likeness) -> None:
        if on_forward is not None:
            on_forward()

    def work() -> float:
        hooks = Hooks(on_forward=before_forward, on_step=lambda *_: now(), on_identity=heard)
        last = TRIAL_STEPS - 1
        once = HJBConfig(min(1, iterations), last, last, decode=hjb.decode, margin=hjb.margin, chunk=hjb.chunk)
        made = sample(models, reference, poses, face, trial, once, hooks=hooks, measure=True)
        start = time.perf_counter()
        decode_latents(models.vae, made.latents[:DECODED], chunk=DECODED, keep_on="cpu")
        synchronize(models.device)
        return (time.perf_counter() - start) * poses.frames / min(DECODED, poses.frames)

    now()
    decode_s, peak = peak_gib(work, models.device)
    start, ready, warm, plain, end = times
    step_s = plain - warm
    iteration_s = max(0.0, end - plain - step_s) if iterations else 0.0
    total_s = ready - start + settings.steps * step_s + iterations * iteration_s + decode_s
    return Estimate(ready - start, step_s, iteration_s, decode_s, total_s, peak)


def refined_steps(hjb: HJBConfig, steps: int) -> dict[int, StepSettings]:
    """What HJB does, by sampling step; steps that it leaves alone are not among them."""
    settings = {step: hjb.at(step, steps) for step in range(steps)}
    return {step: done for step, done in settings.items() if done is not None}


def networks_gib(models: Models) -> float:
    """What the weights take, wherever they are."""
    weights = (weight for part in models.parts().values() for weight in part.parameters())
    return sum(weight.numel() * weight.element_size() for weight in weights) / GIB


def largest_window(models: Models, settings: SamplingConfig, hjb: HJBConfig, faces: FaceBoxes) -> Window | None:
    """The largest of what HJB decodes at once; a face that moves makes it wider. None where no frame shows a face.

    faces: of the output, in its pixels.
    """
    cell = cell_size(models.vae)
    size, margin = (settings.height // cell, settings.width // cell), hjb.margin if hjb.decode == "face" else None
    windows = place_windows(faces, size, cell, chunk=hjb.chunk, margin=margin)
    return max(windows, key=lambda window: math.prod(_shape(window)), default=None)


def hjb_gib(models: Models, settings: SamplingConfig, hjb: HJBConfig, window: Window | None) -> float | None:
    """What HJB takes for this window, on top of the weights.

    None where it is off, and where it was never measured: other autoencoders than the published model's, full
    precision, whole frames.
    """
    cell, config = cell_size(models.vae), models.vae.config
    published = (cell, list(config.block_out_channels)) == (8, [128, 256, 512, 512])
    measured = published and models.vae.dtype in HJB_DTYPES and hjb.decode == "face"
    if not measured or not refined_steps(hjb, settings.steps) or window is None:
        return None
    return math.prod(_shape(window)) * cell**2 * HJB_BYTES / GIB


def check_hjb_memory(
    models: Models, settings: SamplingConfig, hjb: HJBConfig, faces: FaceBoxes | None, card_gib: float
) -> list[Finding]:
    """A note where HJB will not fit beside the networks on a card with so much memory. faces: of the output."""
    if faces is None:
        return []

    def needed_at(chunk: int) -> float | None:
        smaller = replace(hjb, chunk=chunk)
        return hjb_gib(models, settings, smaller, largest_window(models, settings, smaller, faces))

    needed, rest = needed_at(hjb.chunk), card_gib - networks_gib(models) - SPARE_GIB
    if needed is None or needed <= rest:
        return []
    fitting = next((chunk for chunk in range(hjb.chunk - 1, 0, -1) if needed_at(chunk) <= rest), None)
    if fitting is not None:
        fix = f"set chunk to {fitting} in HJB Options; the result differs a little"
    else:
        one = f"chunk 1 still takes {needed_at(1):.1f} GiB"
        fix = f"{one}: make a smaller video, or switch the face optimisation off"
    what = (
        f"memory: the face optimisation takes about {needed:.1f} GiB, the networks {networks_gib(models):.1f} GiB; "
        f"the card has {card_gib:.1f} GiB"
    )
    return [Finding("note", what, fix)]


def describe_work(config: ModelConfig, settings: SamplingConfig, hjb: HJBConfig, motion: Poses | None) -> str:
    """How much there is to do."""
    clip = ""
    if motion is not None:
        windows = len(context_windows(motion.frames, settings.context_window, settings.context_overlap))
        clip = f"{_counted(motion.frames, 'frame')} in {_counted(windows, 'window')}, "
    face = "no face optimisation"
    refined = list(refined_steps(hjb, settings.steps))
    if refined:
        face = f"{hjb.iterations} face iterations in each of the steps {refined[0]} to {refined[-1]}"
    steps = _counted(settings.steps, "denoising step")
    return f"work: model '{config.name}', {settings.width}x{settings.height}, {clip}{steps}, {face}"


def describe_memory(models: Models, settings: SamplingConfig, hjb: HJBConfig, faces: FaceBoxes | None) -> str:
    """What the parts take that can be told beforehand. faces: of the output, None without a motion."""
    told = [f"memory: networks {_size(networks_gib(models))}"]
    if faces is not None:
        window = largest_window(models, settings, hjb, faces)
        needed = hjb_gib(models, settings, hjb, window)
        if needed is not None:
            frames, rows, columns = _shape(window)
            cell = cell_size(models.vae)
            at_once = f"{_counted(frames, 'face')} in {columns * cell}x{rows * cell} px at once"
            told.append(f"face optimisation about {_size(needed)} more for {at_once}")
        pixels = len(faces.found) * settings.width * settings.height
        told.append(f"finished frames {_size(pixels * IMAGE_BYTES / GIB)} of main memory")
    return ", ".join(told)


def _shape(window: Window) -> tuple[int, int, int]:
    """Frames, rows and columns of latent cells."""
    rows, columns = window.cells
    return len(window.frames), rows.stop - rows.start, columns.stop - columns.start


def _measured(
    models: Models, job: Job, settings: SamplingConfig, hjb: HJBConfig, motion: Poses | None,
    on_forward: Callable[[], None] | None,
) -> tuple[str, list[Finding]]:  # fmt: skip
    """The time in words, and what the trial ran into."""
    if job.reference is None or motion is None:
        return "not measured", [Finding("note", "time: a trial needs a picture and a motion", "connect both")]
    try:
        face = find_face(models, job.reference, job.reference_pose, detector=job.detector)
    except FaceError:  # check_reference says why
        face = None
    try:
        tried = try_job(models, job.reference, motion, face, settings, hjb, on_forward=on_forward)
    except torch.cuda.OutOfMemoryError:
        fix = "lower chunk in HJB Options and context_frames, or make a smaller video"
        return "not measured", [Finding("problem", "memory: a trial of this job ran out of the card's memory", fix)]
    rounds = f", {tried.iteration_s:.2g} s a face iteration" if tried.iteration_s else ""
    peak = f"; at most {tried.peak_gib:.1f} GiB of the card" if tried.peak_gib is not None else ""
    looked = " with the identity scope on" if face is not None else ""
    each = f"{tried.step_s:.2g} s a denoising step{looked}{rounds}, as just tried"
    return f"about {duration(tried.total_s)}: {each}{peak}", []


def _verdict(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level == "problem" for finding in findings)
    notes = _counted(len(findings) - problems, "note")
    return f"not ready: {_counted(problems, 'problem')}, {notes}" if problems else f"ready to run, {notes}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{1024 * gib:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
