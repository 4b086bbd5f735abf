"""Experiment 2: how the face tokens are added to the image's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ...face.pictures import face_pictures
from ...models import AnimatorUNet
from ...models.id_adapter import Adding
from ...pipeline import StableAnimator
from ...video import contact_sheet, spread
from ..metrics import NAN
from .paper import beside
from .studio import Studio
from .tables import CSIM, CSIM_ERROR, FACE_L1, L1, PAPER_CSIM, SETTING, SHARPNESS, Column, Result, Table, mean_row

WAYS: dict[Adding, str] = {
    "distribution": "distribution alignment",
    "none": "plain addition",
    "own": "normalisation only",
    "off": "no face tokens",
}
SHOWN, FACES = 2, 4  # takes on the sheet, faces of each
TRAINED = Column("trained", "trained that way")
MORE, MORE_ERROR = "csim_more", Column("csim_more_error", "±", 4)

SETUP = (
    "{clips} clips of {frames} frames, HJB off: identity comes from what the UNet sees of the picture and through the "
    "face tokens. Distribution alignment gives z_face the mean and deviation of z_img; normalisation only gives it "
    "mean 0 and deviation 1; plain addition adds it as it is. Only rows that are trained that way can be compared with "
    "one another, and only when they were trained alike: the others take networks that were trained with another "
    "addition, and show what those rely on. "
    '"CSIM above {base}": the mean over the clips of the difference, with its own standard error.'
)


def run(studio: Studio) -> Result:
    """The model as it is, changed without training, and variants that were trained with other additions."""
    takes, config = studio.takes(), studio.animator.models.config
    tried: list[tuple[StableAnimator, Adding]] = [(studio.animator, config.id_adapter)]
    tried += [(animator, animator.models.config.id_adapter) for animator in studio.variants]
    tried += [(studio.animator, way) for way in WAYS if way != config.id_adapter]
    rows, sheet, csims = [], [], []
    for place, (animator, way) in enumerate(tried):
        trained = animator.models.config.id_adapter == way
        label = f"{animator.models.config.name}: {WAYS[way]}"
        stage = replace(studio, animator=animator)
        scores = []
        with adding(animator.models.unet, way):
            for number, take in enumerate(studio.told(takes, f"clips, {label} ({place + 1} of {len(tried)})")):
                video = stage.animate(take).video
                scores.append(studio.scores(take, video))
                if number < SHOWN:
                    sheet.append((number, f"{label}{'' if trained else ', not trained'}", video))
        csims.append([score["csim"] for score in scores])
        rows.append(mean_row(label, scores, trained="yes" if trained else "no"))
    base = 1 if studio.variants else 0  # the variants are trained alike, the model as it is longer
    more = Column(MORE, f"CSIM above {rows[base][SETTING.key]}", 4)
    for row, each in zip(rows, csims):
        row |= _more(each, csims[base])
    pictures = []
    for number, take in enumerate(takes[:SHOWN]):
        frames = spread(len(take.truth), FACES)
        pictures.append((f"{number + 1}: the truth", face_pictures(take.truth, take.boxes, frames)))
        pictures += [
            (f"{number + 1}: {label}", face_pictures(video, take.boxes, frames))
            for which, label, video in sheet
            if which == number
        ]
    table = Table(
        "ways", "Ways of adding the face tokens",
        (SETTING, TRAINED, CSIM, CSIM_ERROR, more, MORE_ERROR, PAPER_CSIM, L1, FACE_L1, SHARPNESS),
        (*beside("adapter", rows), *studio.places(takes)),
    )  # fmt: skip
    setup = SETUP.format(clips=len(takes), frames=studio.extent.frames, base=rows[base][SETTING.key])
    return Result("adapter", "ID adapter", setup, (table,), sheets={"adapter": contact_sheet(pictures, FACES)})


def _more(csims: list[float], base: list[float]) -> dict[str, float]:
    """How far CSIMs lie above those of the same clips in another row; without the clips that have no face."""
    row = mean_row("", [{"csim": value - other} for value, other in zip(csims, base)])
    return {MORE: row["csim"], MORE_ERROR.key: row.get("csim_error", NAN)}


@contextmanager
def adding(unet: AnimatorUNet, way: Adding) -> Iterator[None]:
    """Within the block the UNet's adapters add face tokens this way."""
    adapters = unet.id_adapters()
    before = [adapter.normalize for adapter in adapters]
    try:
        for adapter in adapters:
            adapter.normalize = way
        yield
    finally:
        for adapter, normalize in zip(adapters, before):
            adapter.normalize = normalize
