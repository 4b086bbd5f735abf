"""Experiment 5: what HJB costs in fidelity, and what decoding the face alone changes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...face.pictures import face_pictures
from ...face_windows import face_mask, find_face_cells, place_windows
from ...hjb import face_gradient, with_chunk
from ...hjb_settings import HJBConfig
from ...pipeline import Hooks, find_face, model_hjb
from ...vae import cell_size
from ...video import contact_sheet, spread
from ...video.curves import Curve, plot_curves
from ..bench import peak_gib
from ..metrics import NAN, l1, mean
from .paper import beside
from .studio import OFF, Studio, Take, background
from .tables import (
    CSIM,
    CSIM_ERROR,
    FACE_L1,
    L1,
    PAPER_CSIM,
    SECONDS,
    SETTING,
    SHARPNESS,
    Column,
    Result,
    Table,
    mean_row,
)

MARGINS = (0, 1, 2, 4)  # cells around the face
SHOWN, FACES = 2, 5

CHANGE = Column("background_change", "background moved")
OUTSIDE = Column("background_l1", "background L1")
PEAK = Column("peak_gib", "peak GiB", 2)
MARGIN, COSINE, SIMILARITY = (
    Column("margin", "margin in cells", 0), Column("cosine", "cosine of the gradients", 3),
    Column("csim_gap", "CSIM of the embedder apart by", 4),
)  # fmt: skip

SETUP = (
    "{clips} clips of {frames} frames, HJB as the model's own settings say (k = {k}, steps {first} to {last}) but for "
    "what a row names. Decode: the latents of the face's box and a margin of {margin} (in cells), or whole frames. "
    "Moved: the latents of the face's box, or, as Adam in the published code does, all that were decoded. Background: "
    "pixels outside of the face boxes; moved: mean difference from the video with HJB off, on a scale of 0..1. "
    "The cosine compares the gradient of a cropped decode in the face's latents with that of whole frames at the same "
    "x0, in every step that HJB touches."
)


def settings_of(own: HJBConfig) -> dict[str, HJBConfig]:
    """What is compared, by its name."""
    return {
        "HJB off": OFF,
        "decode the face, move the face": replace(own, decode="face", scope="face"),
        "decode all, move the face": replace(own, decode="full", scope="face"),
        "decode the face, move what is decoded": replace(own, decode="face", scope="all"),
        "decode all, move all (the published code)": replace(own, decode="full", scope="all"),
    }


def run(studio: Studio) -> Result:
    """HJB off and on, in all four ways, and the gradients of cropped decodes."""
    config, device, takes = studio.animator.models.config, studio.animator.models.device, studio.takes()
    own = model_hjb(config, config.steps)
    studio.animate(takes[0])  # what is done once only is not HJB's time
    plain: list[Tensor] = []
    rows, sheet = [], []
    for number, take in enumerate(takes[:SHOWN]):
        frames = spread(len(take.truth), FACES)
        sheet.append((f"{number + 1}: the truth", face_pictures(take.truth, take.boxes, frames)))
    settings = settings_of(own)
    for place, (name, hjb) in enumerate(settings.items()):
        scores = []
        for number, take in enumerate(studio.told(takes, f"clips, {name} ({place + 1} of {len(settings)})")):
            made, peak = peak_gib(lambda take=take, hjb=hjb: studio.animate(take, hjb=hjb), device)
            if hjb is OFF:
                plain.append(made.video)
            outside = background(take.boxes, take.truth).expand_as(take.truth)
            scores.append(
                studio.scores(take, made.video)
                | {
                    "background_change": l1(made.video[outside], plain[number][outside]),
                    "background_l1": l1(made.video[outside], take.truth[outside]),
                    "seconds": made.seconds,
                    "peak_gib": NAN if peak is None else peak,
                }
            )
            if number < SHOWN:
                frames = spread(len(made.video), FACES)
                sheet.append((f"{number + 1}: {name}", face_pictures(made.video, take.boxes, frames)))
        rows.append(mean_row(name, scores))
    columns = (SETTING, CSIM, CSIM_ERROR, PAPER_CSIM, L1, FACE_L1, OUTSIDE, CHANGE, SHARPNESS, SECONDS, PEAK)
    fidelity = Table("fidelity", "HJB off and on", columns, (*beside("hjb_cost", rows), *studio.places(takes)))
    found = [_gradients(studio, take, own) for take in studio.told(takes, "clips, gradients")]
    cosines = [
        {
            "setting": f"the face and {margin}",
            "margin": margin,
            "cosine": mean([value["cosine"] for values in found for value in values[margin]]),
            "csim_gap": mean([value["csim_gap"] for values in found for value in values[margin]]),
        }
        for margin in MARGINS
    ]
    gradients = Table("gradients", "Cropped decode against whole frames", (SETTING, COSINE, SIMILARITY), tuple(cosines))
    plot = plot_curves(
        [Curve("mean over clips, steps and frames", MARGINS, [row["cosine"] for row in cosines])],
        "cells decoded around the face", "cosine of the gradient with that of whole frames", height=400,
    )  # fmt: skip
    setup = SETUP.format(
        clips=len(takes), frames=studio.extent.frames, k=own.iterations, first=own.first_step, last=own.last_step,
        margin=own.margin,
    )  # fmt: skip
    sheets = {"hjb_cost": contact_sheet(sorted(sheet, key=lambda row: row[0][0]), FACES)}
    return Result("hjb_cost", "HJB: cost in fidelity", setup, (fidelity, gradients), {"hjb_cost": plot}, sheets)


def _gradients(studio: Studio, take: Take, hjb: HJBConfig) -> dict[int, list[dict[str, float]]]:
    """Of every margin, in every step that HJB touches: what compare_gradients says."""
    states: list[Tensor] = []

    def on_step(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        if hjb.first_step <= step <= hjb.last_step:
            states.append(x0.float())

    studio.animate(take, hooks=Hooks(on_step=on_step))
    models = studio.animator.models
    target = find_face(models, take.clip.reference, take.clip.reference_pose).embedding
    found: dict[int, list[dict[str, float]]] = {margin: [] for margin in MARGINS}
    for x0 in states:
        chunk = with_chunk(hjb, models.vae, take.boxes, x0.shape[-2:]).chunk
        for margin, values in compare_gradients(models, x0, take, target, chunk).items():
            found[margin].append(values)
    return found


def compare_gradients(models, x0: Tensor, take: Take, target: Tensor, chunk: int) -> dict[int, dict[str, float]]:
    """Cropped decodes of every margin against whole frames: cosine of the gradients in the face's latents, mean over
    the frames that have a face, and how far apart the embedder's CSIMs are. x0: [F, 4, h, w]."""
    size, cell = x0.shape[-2:], cell_size(models.vae)
    movable = face_mask(find_face_cells(take.boxes, size, cell), x0)
    frames = take.boxes.found.nonzero().flatten().tolist()

    def gradient(margin: int | None) -> tuple[Tensor, Tensor]:
        windows = place_windows(take.boxes, size, cell, chunk=chunk, margin=margin)
        with torch.enable_grad():
            look, grad = face_gradient(x0, windows, models.vae, models.face_embedder, target)
        return look.csim[frames], (grad * movable)[frames].flatten(1)

    whole_similarity, whole = gradient(None)
    values = {}
    for margin in MARGINS:
        similarity, cropped = gradient(margin)
        values[margin] = {
            "cosine": float(torch.cosine_similarity(cropped, whole, dim=1).mean()),
            "csim_gap": float((similarity - whole_similarity).abs().mean()),
        }
    return values
