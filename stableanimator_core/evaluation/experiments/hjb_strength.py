"""Experiment 3: how much of HJB, and in which denoising steps."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ...face.pictures import face_pictures
from ...hjb_settings import HJBConfig
from ...pipeline import model_hjb
from ...video import contact_sheet, spread
from ...video.curves import Curve, plot_curves, stacked
from .paper import beside
from .studio import OFF, Studio
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
    Row,
    Table,
    mean_row,
)

ITERATIONS = (4, 8, 10, 15)  # k, beside 0
PAPER_STEPS = 25
FIRST = (5, 10, 20)  # of PAPER_STEPS
USUAL_K, USUAL_FIRST = 10, 10  # the paper's
SHOWN, FACES = 2, 5

K, STEPS = Column("iterations", "k", 0), Column("steps", "steps")

SETUP = (
    "{clips} clips of {frames} frames, {steps} denoising steps, learning rate {lr:g}, the face's latents alone are "
    "decoded and moved. k: iterations in every step that is touched. The paper's ranges are the first 5, 10 and 20 of "
    "its 25 steps; here they are the same shares of the steps. The model's own range is {first} to {last}, its own k "
    "{own}. Sharpness: variance of the Laplacian of the face over that of the reference's face, at equal size; beyond "
    "the truth's own the face is over-sharpened."
)


class Setting(NamedTuple):
    """One setting of HJB, and the curve that it belongs to."""

    curve: str
    hjb: HJBConfig


def run(studio: Studio) -> Result:
    """k on the model's own range and on the paper's; the other ranges at the paper's k."""
    config, takes = studio.animator.models.config, studio.takes()
    own = model_hjb(config, config.steps)
    studio.animate(takes[0], hjb=own)  # what is done once only is not the first settings' time
    rows: list[Row] = []
    made: dict[str, list] = {}
    settings = [Setting("off", OFF), *settings_of(own, config.steps)]
    for place, (curve, hjb) in enumerate(settings):
        name = curve if not hjb.iterations else f"{curve}, k = {hjb.iterations}"
        scores = []
        for number, take in enumerate(studio.told(takes, f"clips, HJB {name} ({place + 1} of {len(settings)})")):
            animation = studio.animate(take, hjb=hjb)
            scores.append(studio.scores(take, animation.video) | {"seconds": animation.seconds})
            if number < SHOWN:
                made.setdefault(name, []).append(animation.video)
        steps = f"{hjb.first_step}:{hjb.last_step}" if hjb.iterations else ""
        rows.append(mean_row(name, scores, curve=curve, iterations=hjb.iterations, steps=steps))
    columns = (SETTING, K, STEPS, CSIM, CSIM_ERROR, PAPER_CSIM, SECONDS, SHARPNESS, L1, FACE_L1)
    places = studio.places(takes)
    table = Table("settings", "Iterations and steps", columns, (*beside("hjb", rows), *places))
    plots = [
        _plot(rows, SECONDS.key, CSIM.key, "seconds a clip; the numbers are k", "CSIM by the judge"),
        _plot(rows, CSIM.key, SHARPNESS.key, "CSIM by the judge; the numbers are k", _sharpness_title(places)),
    ]
    sheet = []
    for number, take in enumerate(takes[:SHOWN]):
        frames = spread(len(take.truth), FACES)
        sheet.append((f"{number + 1}: the truth", face_pictures(take.truth, take.boxes, frames)))
        for name, videos in made.items():
            sheet.append((f"{number + 1}: {name}", face_pictures(videos[number], take.boxes, frames)))
    setup = SETUP.format(
        clips=len(takes), frames=studio.extent.frames, steps=config.steps, lr=own.lr, first=own.first_step,
        last=own.last_step, own=own.iterations,
    )  # fmt: skip
    sheets = {"hjb": contact_sheet(sheet, FACES)}
    return Result("hjb", "HJB: iterations and steps", setup, (table,), {"hjb": stacked(*plots)}, sheets)


def settings_of(own: HJBConfig, steps: int) -> list[Setting]:
    """What is tried beside HJB off. own: the model's settings for this number of steps."""
    ranges = {f"first {count} of {PAPER_STEPS}": (0, max(round(count * steps / PAPER_STEPS), 1) - 1) for count in FIRST}
    own_range = {"own range": (own.first_step, own.last_step)}
    counts = sorted({*ITERATIONS, own.iterations} - {0})
    tried = []
    for curve, (first, last) in (own_range | ranges).items():
        whole = curve in own_range or curve == f"first {USUAL_FIRST} of {PAPER_STEPS}"
        for k in counts if whole else (USUAL_K,):
            tried.append(Setting(curve, replace(own, iterations=k, first_step=first, last_step=last)))
    return tried


def _plot(rows: list[Row], x: str, y: str, x_name: str, y_name: str):
    """Every range is a curve over k that begins with HJB off."""
    off = rows[0]
    curves = []
    for name in dict.fromkeys(row["curve"] for row in rows[1:]):
        points = [off, *(row for row in rows if row["curve"] == name)]
        curves.append(
            Curve(name, [p[x] for p in points], [p[y] for p in points], [str(p["iterations"]) for p in points])
        )
    return plot_curves(curves, x_name, y_name)


def _sharpness_title(places: list[Row]) -> str:
    return f"sharpness of the face over the reference's (the truth: {places[0][SHARPNESS.key]:.2f})"
