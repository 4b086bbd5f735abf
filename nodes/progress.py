"""Progress, previews, cancelling and downloads of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import latent_preview
import numpy as np
import torch
from comfy.latent_formats import SD15, LatentFormat
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from torch import Tensor

from ..stableanimator_core.conditioning import resize_picture
from ..stableanimator_core.errors import WeightsError
from ..stableanimator_core.evaluation.estimate import Speed, Work, time_left
from ..stableanimator_core.hjb import Likeness, OnIdentity
from ..stableanimator_core.hjb_settings import HJBConfig
from ..stableanimator_core.pipeline import Hooks
from ..stableanimator_core.trail import Plan, Trail
from ..stableanimator_core.vae import cell_size, encode_image
from ..stableanimator_core.video.pixels import from_uint8
from ..stableanimator_core.weights import Models
from ..stableanimator_core.weights.download import download
from ..stableanimator_core.weights.registry import WeightFile
from .desk import Notes
from .folders import places


def sampling_hooks(
    notes: Notes, preview: LatentFormat, device: torch.device, plan: Plan, work: Work, trail: Trail,
    known: Speed | None, on_left: Callable[[int, float, bool], None], on_identity: OnIdentity | None = None,
) -> Hooks:  # fmt: skip
    """Progress in steps and HJB iterations of what will be run, cancel, a preview and the time left after every step.

    trail: what times the steps. known: what earlier runs took. on_left(steps done, seconds for the
    others, whether with their face optimisation): after every step but the last. on_identity: also hears of the faces.
    """
    done = [0, *itertools.accumulate(1 + count for count in work.iterations[plan.first :])]  # up to each step
    bar = ProgressBar(done[-1], node_id=notes.node)
    previewer = latent_preview.get_previewer(device, preview)

    def heard(likeness: Likeness) -> None:
        throw_exception_if_processing_interrupted()
        if likeness.iteration:
            bar.update_absolute(done[likeness.step - plan.first] + likeness.iteration)
        if on_identity is not None:
            on_identity(likeness)

    def on_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        throw_exception_if_processing_interrupted()
        picture = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
        bar.update_absolute(done[step + 1 - plan.first], preview=picture)
        if step + 1 < total:
            on_left(step + 1, *time_left(trail.seconds[plan.first :], work, step + 1, known))

    return Hooks(
        on_step=on_step, on_identity=heard, on_forward=throw_exception_if_processing_interrupted, on_note=notes.say
    )


def sweep_hooks(notes: Notes, steps: int, variants: Sequence[HJBConfig]) -> tuple[Hooks, Callable[[int, int], None]]:
    """Progress in steps of all settings, and cancel: hooks for the sampling, and on_variant(done, all)."""
    bar, finished = ProgressBar(steps * len(variants), node_id=notes.node), 0

    def on_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(finished * steps + step + 1)

    def on_variant(done: int, of: int) -> None:
        nonlocal finished
        finished = done
        bar.update_absolute(done * steps)

    def cancel(*told: Any) -> None:
        throw_exception_if_processing_interrupted()

    hooks = Hooks(on_step=on_step, on_identity=cancel, on_forward=cancel, on_decode=cancel, on_note=notes.say)
    return hooks, on_variant


def provide(keys: Sequence[str], allowed: bool, notes: Notes) -> None:
    """Make sure that these published files are here: download what is missing, if that is allowed.

    With progress and cancel. Raises WeightsError where files are missing and may not, or cannot, be downloaded.
    """
    missing = [key for key in keys if places().find(key) is None]
    if not missing:
        return
    if not allowed:
        try:
            places().require(*missing)
        except WeightsError as error:
            raise WeightsError(f"{error}; or switch download on in this node") from None
    bar = ProgressBar(100, node_id=notes.node)
    shown = None

    def on_progress(file: WeightFile, done: int, total: int) -> None:
        nonlocal shown
        throw_exception_if_processing_interrupted()
        percent = 100 * done // max(total, 1)
        if shown != (file.key, percent):
            shown = file.key, percent
            bar.update_absolute(percent, 100)
            notes.status(f"downloading {file.path}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    done = download(missing, places(), on_progress=on_progress)
    notes.status(None)
    notes.say(f"downloaded {len(done.paths)} files", *done.notes)


def frame_progress(frames: int, node_id: str) -> Callable[[int], None]:
    """on_frames(frames done): progress and cancel."""
    bar = ProgressBar(frames, node_id=node_id)

    def on_frames(done: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    return on_frames


def decoding_progress(frames: int, node_id: str) -> Callable[[int, int], None]:
    """on_chunk(frames done, frames) for the decoder: progress and cancel."""
    bar = ProgressBar(frames, node_id=node_id)

    def on_chunk(done: int, total: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return on_chunk


def preview_format(models: Models, reference: np.ndarray, width: int, height: int) -> LatentFormat:
    """How previews turn latents into colours: Stable Diffusion's way, for other autoencoders fitted to the reference.

    reference: [H, W, 3] uint8. The fit is the least-squares affine map from its latent cells to its colours.
    """
    known, vae = SD15(), models.vae
    if abs(vae.config.scaling_factor - known.scale_factor) < 1e-5:
        return known
    picture = resize_picture(from_uint8(reference)[None], width, height)
    latents = encode_image(vae, picture)[0] * vae.config.scaling_factor  # [4, h, w]
    cell = cell_size(vae)
    colours = torch.nn.functional.avg_pool2d(picture, cell)[0].flatten(1).T  # [h * w, 3] in -1..1
    cells = torch.nn.functional.pad(latents.flatten(1).T.cpu(), (0, 1), value=1.0)  # [h * w, 5]
    factors = torch.linalg.lstsq(cells, colours).solution  # [5, 3]
    fitted = LatentFormat()
    fitted.latent_rgb_factors, fitted.latent_rgb_factors_bias = factors[:4].tolist(), factors[4].tolist()
    return fitted
