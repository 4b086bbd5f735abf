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

SETUP = (
    "{clips} clips of {frames} frames, HJB off: identity comes through the face tokens alone. Distribution alignment "
    "gives z_face the mean and deviation of z_img; normalisation only gives it mean 0 and deviation 1; plain addition "
    "adds it as it is. Only rows that are trained that way can be compared with one another, and only when they were "
    "trained alike: the others take networks that were trained with another addition, and show what those rely on."
)


def run(studio: Studio) -> Result:
    """The model as it is, changed without training, and variants that were trained with other additions."""
    takes, config = studio.takes(), studio.animator.models.config
    tried: list[tuple[StableAnimator, Adding]] = [(studio.animator, config.id_adapter)]
    tried += [(animator, animator.models.config.id_adapter) for animator in studio.variants]
    tried += [(studio.animator, way) for way in WAYS if way != config.id_adapter]
    rows, sheet = [], []
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
        rows.append(mean_row(label, scores, trained="yes" if trained else "no"))
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
        (SETTING, TRAINED, CSIM, CSIM_ERROR, PAPER_CSIM, L1, FACE_L1, SHARPNESS),
        (*beside("adapter", rows), *studio.places(takes)),
    )  # fmt: skip
    setup = SETUP.format(clips=len(takes), frames=studio.extent.frames)
    return Result("adapter", "ID adapter", setup, (table,), sheets={"adapter": contact_sheet(pictures, FACES)})


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
