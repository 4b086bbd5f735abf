"""How long each stage of the pipeline takes and how much memory of the card it needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..conditioning import build_conditioning, resize_picture
from ..denoiser import frame_guidance, make_denoiser
from ..errors import InputError
from ..face import FaceBoxes
from ..face_windows import largest_window
from ..graphs import Graphs
from ..hjb import make_face_refiner, with_chunk
from ..hjb_settings import HJBConfig
from ..memory import GIB, card_gib
from ..performers import Clip, make_clip
from ..pipeline import SamplingConfig, find_face, from_uint8, place_motion, sample, sampling_bytes
from ..sampling import init_noise, karras_sigmas
from ..trail import synchronize
from ..vae import cell_size, decode_bytes, decode_video, encode_bytes, encode_image, frames_at_once
from ..weights import Models
from ..windows import context_windows
from .plan import is_published, plan_memory

STAGES = ("unet_forward", "unet_step", "vae_encode", "vae_decode", "hjb_iteration", "total")
Made = TypeVar("Made")


@torch.no_grad()
def run_bench(
    models: Models, settings: SamplingConfig, hjb: HJBConfig, *, frames: int, repeats: int = 3,
    face_px: int | None = None, others: Sequence[HJBConfig] = (), on_stage: Callable[[int, str], None] | None = None,
) -> dict:  # fmt: skip
    """Measure every stage on a drawn performer: the median of `repeats` calls after those that warm up.

    "total" is the whole way from picture and poses to frames, once, when everything is warm; the other stages are the
    same functions with the same arguments, one at a time. unet_forward: one context window, the conditional branch.
    unet_step: all windows, both branches where there is guidance. hjb_iteration: one of all frames.
    hjb_extra_peak_gib: what refining one sampling step needs on top of what is allocated before it. Both grow with the
    face: drawn performers have large heads, so that a person in full view costs less. face_px: px of the video that the
    face shall be wide, the median of all frames; the performer becomes smaller or larger. None: as drawn.
    hjb_window: frames, rows and columns of latent cells of the largest window that it decodes.
    hjb.chunk is told as it was in the end. extra_gib: the same need of every stage. estimate: what plan_memory says.
    held_gib: networks that are on the device in every stage, which on a card too small for all are not all of them;
    moved_gib: what came and left in "total" for that.
    warmup_s: the calls before that, and as "first_step" the very first: one sampling step of a model just loaded.
    notes: what the user of this run would be told, such as that it went on with less memory.
    hjb_variants: HJB with the settings of `others`, in the same run.
    None stands for what cannot be measured: memory where there is no CUDA, HJB where it is off.
    on_stage(stages done, name of the next) is called before each of STAGES.
    Raises InputError for frames or repeats below 1, for a face that leaves the picture, and when HJB is on and no frame
    shows a face.
    """
    if frames < 1 or repeats < 1:
        raise InputError(f"bench of {frames} frames, {repeats} repeats: give at least 1 of each")
    config, device, size = models.config, models.device, (settings.width, settings.height)
    clip = _draw(models, settings, frames, face_px)
    face = find_face(models, clip.reference, clip.reference_pose)
    start = time.perf_counter()
    first = sample(models, clip.reference, clip.poses, face, replace(settings, steps=1), HJBConfig(iterations=0))
    synchronize(device)
    warm, extra, held = {"first_step": time.perf_counter() - start}, {}, {}
    if hjb.iterations and not first.faces.found.any():
        raise InputError(f"no frame of the drawn performer of seed {settings.seed} shows a face; try another seed")

    picture, pixels = from_uint8(clip.reference), settings.width * settings.height
    generator = torch.Generator().manual_seed(settings.seed)
    cond = build_conditioning(models, picture, first.pose_images, face=face, size=size, generator=generator)
    sigmas = karras_sigmas(settings.steps, config.sigma_min, config.sigma_max).to(device)
    sigma = sigmas[settings.steps // 2]
    noise = init_noise(first.latents.shape, config.sigma_max, generator=generator, device=device)
    windows = context_windows(frames, settings.context_window, settings.context_overlap)
    guidance = frame_guidance(*settings.guidance, frames, device=device)

    def encode() -> Tensor:
        return encode_image(models.vae, resize_picture(picture[None], *size))

    with models.on_device(room=encode_bytes(models.vae, pixels)):
        still = encode() * models.vae.config.scaling_factor
    x0 = still.to(device).expand(first.latents.shape)

    def told(stage: str) -> None:
        if on_stage is not None:
            on_stage(STAGES.index(stage), stage)

    def measure(stage: str, work: Callable[[], object], *networks: str, room: float) -> tuple[float, float | None]:
        """Seconds, and GiB on top; what is told of a stage is its first measurement. networks, room: of on_device."""
        told(stage)
        with models.on_device(*networks, room=room):
            held.setdefault(stage, models.bytes_here() / GIB)
            (median, warming), memory = peak_gib(lambda: median_seconds(work, device, repeats), device, extra=True)
        warm.setdefault(stage, warming)
        extra.setdefault(stage, memory)
        return median, memory

    def unet_seconds(stage: str, guidance: Tensor, windows: list[list[int]]) -> float:
        with closing(Graphs(device)) as graphs:
            denoise = make_denoiser(models.unet, cond, guidance, windows, graphs=graphs)
            room = sampling_bytes(models, settings, None, first.faces)
            return measure(stage, lambda: denoise(noise, sigma), "unet", room=room)[0]

    def measure_hjb(hjb: HJBConfig) -> tuple[HJBConfig, dict]:
        """The settings with the chunk that fitted, and what an iteration takes."""
        hjb = with_chunk(hjb, models.vae, first.faces, x0.shape[-2:], gain=models.gain("unet"))
        chunks = [hjb.chunk]
        with closing(Graphs(device)) as graphs:
            refine = make_face_refiner(
                models.vae, models.face_embedder, face.embedding, first.faces, hjb, settings.steps,
                on_smaller=chunks.append, graphs=graphs,
            )  # fmt: skip
            room = sampling_bytes(models, settings, hjb, first.faces)
            took, memory = measure("hjb_iteration", lambda: refine(x0, hjb.first_step), "unet", room=room)
        return replace(hjb, chunk=chunks[-1]), {"hjb_iteration_s": took / hjb.iterations, "hjb_extra_peak_gib": memory}

    plan = plan_memory(models, settings, hjb, first.faces, card_gib(device)) if is_published(models) else None
    decoding = frames_at_once(frames) * decode_bytes(models.vae, pixels)
    measured = {
        "unet_forward_s": unet_seconds("unet_forward", torch.ones(frames, device=device), windows[:1]),
        "unet_step_s": unet_seconds("unet_step", guidance, windows),
        "vae_encode_s": measure("vae_encode", encode, "image_encoder", room=encode_bytes(models.vae, pixels))[0],
        "vae_decode_s": measure("vae_decode", lambda: decode_video(models, x0), room=decoding)[0],
        "hjb_iteration_s": None,
        "hjb_extra_peak_gib": None,
    }
    variants = []
    if hjb.iterations:
        hjb, of_hjb = measure_hjb(hjb)
        measured |= of_hjb
        for used, of_hjb in map(measure_hjb, others):
            variants.append({"chunk": used.chunk, "decode": used.decode, **of_hjb})
    cell = cell_size(models.vae)
    window = None
    if hjb.iterations:
        window = largest_window(first.faces, x0.shape[-2:], cell, chunk=hjb.chunk, margin=hjb.around)
    told("total")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    start, moved = time.perf_counter(), 0 if models.turns is None else models.turns.moved
    (latents, video, notes), peak = peak_gib(lambda: animate(models, clip, settings, hjb), device)
    return {
        **measured,
        "total_s": time.perf_counter() - start,
        "peak_gib": peak,
        "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None,
        "warmup_s": warm,
        "extra_gib": extra,
        "held_gib": held,
        "moved_gib": None if models.turns is None else (models.turns.moved - moved) / GIB,
        "estimate": None if plan is None else plan.record(),
        "hjb_variants": variants,
        "nan": not (latents.isfinite().all() and video.isfinite().all()),
        "notes": notes,
        "frames": frames,
        "size": list(size),
        "steps": settings.steps,
        "windows": len(windows),
        "guidance": list(settings.guidance),
        "hjb": asdict(hjb),
        "frames_with_face": int(first.faces.found.sum()),
        "face_px": round(_face_width(first.faces)) if first.faces.found.any() else None,
        "hjb_window": None if window is None else list(window.shape),
        "repeats": repeats,
    }


def _draw(models: Models, settings: SamplingConfig, frames: int, face_px: int | None) -> Clip:
    clip = make_clip(settings.seed, size=(settings.width, settings.height), frames=frames, family="wave")
    if face_px is None:
        return clip
    _, _, faces = place_motion(models.config, clip.poses, settings, range(frames))
    factor = face_px / _face_width(faces)
    middle = np.array([settings.width, settings.height]) / 2
    moved = clip.poses.transformed(lambda points: middle + factor * (points - middle))
    if not place_motion(models.config, moved, settings, range(frames))[2].found.all():
        raise InputError(
            f"bench: a face {face_px} px wide leaves a picture of {settings.width}x{settings.height}; give fewer px"
        )
    return replace(clip, poses=moved)


def _face_width(faces: FaceBoxes) -> float:
    """Px of the video, the median; NaN without a face."""
    boxes = faces.boxes[faces.found]
    return float((boxes[:, 2] - boxes[:, 0]).median()) if len(boxes) else float("nan")


def animate(
    models: Models, clip: Clip, settings: SamplingConfig, hjb: HJBConfig
) -> tuple[Tensor, Tensor, list[str]]:  # fmt: skip
    """Face, conditioning, sampling, HJB and decoding: latents [F, 4, h, w], frames [F, 3, H, W] and notes."""
    face = find_face(models, clip.reference, clip.reference_pose)
    made = sample(models, clip.reference, clip.poses, face, settings, hjb)
    notes = list(made.notes)
    return made.latents, decode_video(models, made.latents, on_note=notes.append), notes


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, float]:
    """Median wall time of `repeats` calls, and that of the calls before them, which warm up."""
    times, warming = [], 2 if device.type == "cuda" else 1  # at the second call CUDA graphs are recorded
    for _ in range(warming + repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warming:]), sum(times[:warming])


def peak_gib(work: Callable[[], Made], device: torch.device, *, extra: bool = False) -> tuple[Made, float | None]:
    """What the work returns, and the most memory that tensors took meanwhile; extra: beyond what they took before."""
    if device.type != "cuda":
        return work(), None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if extra else 0
    made = work()
    synchronize(device)
    return made, (torch.cuda.max_memory_allocated(device) - before) / GIB
