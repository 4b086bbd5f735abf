"""What an animation will take: its work in words, memory by a plan, and time from a short trial."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from ..alignment import align
from ..errors import FaceError, InputError
from ..face import FaceDetector, ReferenceFace
from ..hjb import Likeness
from ..hjb_settings import HJBConfig
from ..keypoints import Poses
from ..memory import GIB
from ..pipeline import Hooks, SamplingConfig, find_face, model_hjb, place_motion, sample
from ..preflight import Finding, check_files, check_installation, check_job, distinct
from ..trail import StepSeconds
from ..vae import CHUNK, cell_size, decode_video
from ..weights import V1_CONFIG, ModelConfig, Models, Places
from ..windows import context_windows
from .bench import peak_gib, synchronize
from .plan import MemoryPlan, counted, describe_plan, is_published, plan_memory, refined_steps, remedy

TRIAL_STEPS = 3  # one to warm up, a plain one, one with a face iteration
IMAGE_BYTES = 3 * 4  # of a pixel, as ComfyUI keeps it
DECODED = CHUNK  # frames that the trial decodes


@dataclass(frozen=True, eq=False)
class Job:
    """An animation that is to be made; None is what nobody has given yet."""

    sampling: dict = field(default_factory=dict)  # fields of SamplingConfig, None for the model's own
    hjb: dict = field(default_factory=dict)  # fields of HJBConfig
    reference: np.ndarray | None = None  # [H, W, 3] uint8 RGB
    reference_pose: Poses | None = None
    driving: Poses | None = None
    detector: FaceDetector | None = None
    waiting: tuple[str, ...] = ()  # names of these, or "model": given, and not to be had before missing files are here

    @property
    def placed(self) -> Poses | None:
        """The motion about where it will be in the picture; as it came where that cannot be told."""
        if self.driving is None or self.reference_pose is None:
            return self.driving
        try:
            return align(self.driving, self.reference_pose, "svd").poses
        except InputError:  # check_driving says why
            return self.driving


class Speed(NamedTuple):
    """Seconds for one frame, as a run at one size took them."""

    denoise: float  # a denoising step, for one frame of a window
    look: float  # measuring the face in a step that HJB leaves alone
    iteration: float | None  # one HJB iteration; None where there was none

    @classmethod
    def of(cls, steps: Sequence[StepSeconds], frames: int, windowed: int) -> Speed:
        """What steps of a clip say. windowed: frames of all its context windows together."""
        looks = [step.refine for step in steps if not step.iterations] or [0.0]
        refined = [step.refine / step.iterations / frames for step in steps if step.iterations]
        denoise = statistics.median(step.denoise for step in steps) / windowed
        return cls(denoise, statistics.median(looks) / frames, statistics.median(refined) if refined else None)

    def reckon(self, iterations: Sequence[int], frames: int, windowed: int) -> float | None:
        """Seconds of steps with so many HJB iterations each; None where those were never timed."""
        if any(iterations) and self.iteration is None:
            return None
        refining = sum(iterations) * (self.iteration or 0.0) + self.look * sum(not count for count in iterations)
        return len(iterations) * self.denoise * windowed + frames * refining


class Work(NamedTuple):
    """What there is to do in a job, for its time."""

    iterations: tuple[int, ...]  # of HJB, by sampling step
    frames: int
    windowed: int  # frames of all context windows together

    @classmethod
    def of(cls, settings: SamplingConfig, hjb: HJBConfig | None, frames: int) -> Work:
        """hjb: None where there is no face."""
        refined = {} if hjb is None else refined_steps(hjb, settings.steps)
        iterations = (refined[step].iterations if step in refined else 0 for step in range(settings.steps))
        windows = context_windows(frames, settings.context_window, settings.context_overlap)
        return cls(tuple(iterations), frames, sum(len(window) for window in windows))


def time_left(steps: Sequence[StepSeconds], work: Work, first: int, known: Speed | None = None) -> tuple[float, bool]:
    """Seconds of the steps from `first` on by those that were run, and whether with their face optimisation, which
    only steps that had it, or earlier runs, tell."""
    speed = Speed.of(steps, work.frames, work.windowed)
    if speed.iteration is None and known is not None:
        speed = speed._replace(iteration=known.iteration)
    rest = work.iterations[first:]
    seconds = speed.reckon(rest, work.frames, work.windowed)
    if seconds is not None:
        return seconds, True
    return speed.reckon([0] * len(rest), work.frames, work.windowed), False


def say_left(seconds: float, whole: bool) -> str:
    """What time_left reckons, in words."""
    return f"about {duration(seconds)} left{'' if whole else ', plus the face optimisation'}"


class Estimate(NamedTuple):
    """Seconds and memory of a job, from a trial on its own material."""

    setup_s: float
    step_s: float  # of one sampling step, all windows; with a face, one look at it for the identity scope
    iteration_s: float  # of one HJB iteration, all frames; 0 without HJB
    decode_s: float  # of all frames
    total_s: float
    peak_gib: float | None  # the most that tensors took on the card; None where there is no CUDA


def report_job(
    models: Models, job: Job, places: Places, *, measure: bool = False,
    on_forward: Callable[[], None] | None = None, missing: Sequence[Finding] | None = None,
    remarks: Sequence[str] = (), speed: Callable[[SamplingConfig, HJBConfig], Speed | None] | None = None,
) -> str:  # fmt: skip
    """Everything that an artist should know before a long run: what stands in its way, its work, memory and time.

    measure: make a short trial for the time, unless something waits for missing files; on_forward is called before
    every UNet call of it. Else models may be `outlined`.
    missing: what is known of files that are not here; None: those of the model are looked for.
    remarks: on the job, told as they are. speed: what earlier runs with such settings took.
    """
    config = models.config
    installation = check_installation(places if config == V1_CONFIG else None)  # others need no published file
    size = job.sampling.get("width") or config.width, job.sampling.get("height") or config.height
    material = {key: getattr(job, key) for key in ("reference", "reference_pose", "driving", "detector")}
    if "reference_pose" in job.waiting and job.detector is None:
        material["reference"] = None  # its face is looked for through the pose
    own = check_files(config, places) if missing is None else missing
    findings = [*own, *installation.findings, *check_waiting(job), *check_job(config, **material, size=size)]
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
        card = installation.device.get("gpu_memory_gib")
        plan = plan_memory(models, settings, hjb, faces, card)
        pixels = 0 if motion is None else motion.frames * settings.width * settings.height
        ahead = [describe_work(config, settings, hjb, motion), describe_memory(models, plan, pixels)]
        findings += check_memory(models, plan)
        if measure and job.waiting:
            told = "not measured before the missing files are here"
        elif measure:
            told, found = _measured(models, job, settings, hjb, motion, on_forward)
            findings += found
        else:
            told = _remembered(job, settings, hjb, motion, speed and speed(settings, hjb))
        ahead.append(f"time: {told}")
    findings = distinct(findings)
    lines = [line for finding in findings for line in finding.lines]
    return "\n".join((_verdict(findings), *ahead, *remarks, *lines))


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
        decode_video(models, made.latents[:DECODED])
        synchronize(models.device)
        return (time.perf_counter() - start) * poses.frames / min(DECODED, poses.frames)

    now()
    decode_s, peak = peak_gib(work, models.device)
    start, ready, warm, plain, end = times
    step_s = plain - warm
    iteration_s = max(0.0, end - plain - step_s) if iterations else 0.0
    total_s = ready - start + settings.steps * step_s + iterations * iteration_s + decode_s
    return Estimate(ready - start, step_s, iteration_s, decode_s, total_s, peak)


def check_waiting(job: Job) -> list[Finding]:
    """A note where material is given and yet could not be had."""
    unseen = [name for name in job.waiting if name != "model"]
    if not unseen:
        return []
    what = f"{' and '.join(unseen)}: could not be found without the missing files, so what they show was not checked"
    return [Finding("note", what, "get the files that are named here, then run Preflight again")]


def check_memory(models: Models, plan: MemoryPlan) -> list[Finding]:
    """A note where the card is too small for the job, or for doing it as on a large one."""
    if not is_published(models) or plan.card is None:
        return []
    otherwise = describe_plan(plan)
    what = f"memory: the job takes about {plan.peak:.1f} GiB at least, the card has {plan.card:.1f} GiB"
    if not plan.fits:
        return [Finding("note", what, remedy(plan))]
    if not otherwise:
        return []
    what = f"memory: as the card has {plan.card:.1f} GiB, {' and '.join(otherwise)}"
    result = "the result is the same" if plan.exact else "fewer frames at once change the result a little"
    return [Finding("note", what, f"none is needed, the run does so by itself; {result}")]


def describe_work(config: ModelConfig, settings: SamplingConfig, hjb: HJBConfig, motion: Poses | None) -> str:
    """How much there is to do."""
    clip = ""
    if motion is not None:
        windows = len(context_windows(motion.frames, settings.context_window, settings.context_overlap))
        clip = f"{counted(motion.frames, 'frame')} in {counted(windows, 'window')}, "
    face = "no face optimisation"
    refined = list(refined_steps(hjb, settings.steps))
    if refined:
        face = f"{hjb.iterations} face iterations in each of the steps {refined[0]} to {refined[-1]}"
    steps = counted(settings.steps, "denoising step")
    return f"work: model '{config.name}', {settings.width}x{settings.height}, {clip}{steps}, {face}"


def describe_memory(models: Models, plan: MemoryPlan, pixels: int) -> str:
    """What the parts take; beside the networks only for the published model's sizes. pixels: of the whole video."""
    told = [f"memory: networks {_size(plan.networks)}"]
    if is_published(models):
        told.append(f"denoising about {_size(plan.unet)} more")
        if plan.window is not None:
            frames, rows, columns = plan.window
            cell = cell_size(models.vae)
            at_once = f"{counted(frames, 'face')} in {columns * cell}x{rows * cell} px at once"
            told.append(f"face optimisation about {_size(plan.hjb)} more for {at_once}")
        told.append(f"decoding about {_size(plan.decode)} more")
    if pixels:
        told.append(f"finished frames {_size(pixels * IMAGE_BYTES / GIB)} of main memory")
    return ", ".join(told)


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
        fix = "lower context_frames, make a smaller video, or switch the face optimisation off"
        return "not measured", [Finding("problem", "memory: a trial of this job ran out of the card's memory", fix)]
    rounds = f", {tried.iteration_s:.2g} s a face iteration" if tried.iteration_s else ""
    peak = f"; at most {tried.peak_gib:.1f} GiB of the card" if tried.peak_gib is not None else ""
    looked = " with the identity scope on" if face is not None else ""
    each = f"{tried.step_s:.2g} s a denoising step{looked}{rounds}, as just tried"
    return f"about {duration(tried.total_s)}: {each}{peak}", []


def _remembered(job: Job, settings: SamplingConfig, hjb: HJBConfig, motion: Poses | None, speed: Speed | None) -> str:
    """The time in words, by earlier runs."""
    if speed is None:
        return "not known before a first run; Sample tells after its first step, or switch measure on for a short trial"
    if "driving" in job.waiting:
        return "not reckoned before the files that find the motion are here"
    if motion is None:
        return "connect driving to reckon it by earlier runs"
    seconds = speed.reckon(*Work.of(settings, hjb, motion.frames))
    if seconds is None:
        return "not known with the face optimisation, which earlier runs did without"
    return f"sampling takes about {duration(seconds)}, by the last run of this model at this size"


def _verdict(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level == "problem" for finding in findings)
    notes = counted(len(findings) - problems, "note")
    return f"not ready: {counted(problems, 'problem')}, {notes}" if problems else f"ready to run, {notes}"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{1024 * gib:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
