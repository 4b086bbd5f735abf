"""Tuning of the face optimisation: settings side by side, what each costs and gives, and which one to take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import FaceError, InputError
from .face import ReferenceFace, crop_faces, score_identity
from .face.pictures import face_pictures
from .face.sharpness import reference_among, sharpness
from .hjb_settings import HJBConfig
from .keypoints import Poses
from .pipeline import Hooks, Sampled, SamplingConfig, fit_to_memory, place_motion, sample
from .trail import Trail
from .vae import decode_video
from .video import SheetRow, contact_sheet, spread
from .video.curves import Curve, plot_curves, stacked
from .video.pixels import to_uint8
from .weights import Models

CLOSE = 0.01  # of CSIM: no eye tells it apart
ALIKE = 1.05  # times as sharp: no eye tells that apart either
SHOWN = 8  # faces on a sheet


class SweepRow(NamedTuple):
    """One setting and what it gave, means over the frames that show a face."""

    hjb: HJBConfig
    csim: float  # by the embedder that HJB optimises
    csim_judge: float | None  # by the model's judge, which HJB never sees; None without one
    sharpness: float  # of the faces over the reference's
    seconds: float  # of the sampling from noise to latents
    faces: np.ndarray  # [n, S, S, 3] uint8 RGB, to look at

    @property
    def identity(self) -> float:
        """CSIM by whoever is the fairer judge."""
        return self.csim if self.csim_judge is None else self.csim_judge

    @property
    def measure(self) -> str:
        """What `identity` is called."""
        return "CSIM" if self.csim_judge is None else "judge's CSIM"


class Recommendation(NamedTuple):
    """The setting to take, and why."""

    row: SweepRow
    reason: str


@torch.no_grad()
def sweep_hjb(
    models: Models, reference: np.ndarray, poses: Poses, face: ReferenceFace | None, settings: SamplingConfig,
    variants: Sequence[HJBConfig], *, pose_images: np.ndarray | None = None, chosen: Sequence[int] | None = None,
    hooks: Hooks | None = None, trail: Trail | None = None, on_variant: Callable[[int, int], None] | None = None,
) -> list[SweepRow]:  # fmt: skip
    """The same clip with each of these settings, in their order; other arguments as in `sample`.

    All decode as many faces at once, as many as fit now, for else they would not compare.
    Steps that settings share are run once: off first, then settings that begin late. on_variant(done, all) is called
    after each. Raises InputError without a setting, FaceError where there is no face to optimise.
    """
    if not variants:
        raise InputError("sweep: no settings to compare; give at least one number of iterations")
    if face is None:
        raise FaceError("sweep: there is no reference face to compare with; connect Encode Face")
    trail, hooks = trail or Trail(), hooks or Hooks()
    chosen = list(range(poses.frames) if chosen is None else chosen)
    if not place_motion(models.config, poses, settings, chosen)[2].found.any():
        raise FaceError(f"sweep: none of {len(chosen)} frames shows a face; take poses that look at the camera")
    target = None
    if models.face_judge is not None:
        target = face.embedded_by(models.face_judge)
    largest = max(variants, key=lambda hjb: (hjb.iterations > 0, hjb.decode == "full", hjb.margin))
    fitted, notes = fit_to_memory(models, poses, face, settings, largest, chosen=chosen)
    if hooks.on_note is not None:
        for note in notes:
            hooks.on_note(note)
    rows: dict[int, SweepRow] = {}
    refining: dict[int, float] = {}
    order = sorted(range(len(variants)), key=lambda i: -variants[i].first_step if variants[i].iterations else -np.inf)
    for done, i in enumerate(order, 1):
        hjb = variants[i] if variants[i].chunk is not None else replace(variants[i], chunk=fitted.chunk)
        made = sample(
            models, reference, poses, face, settings, hjb, pose_images=pose_images, chosen=chosen, hooks=hooks,
            trail=trail,
        )  # fmt: skip
        refining[i] = sum(took.refine for took in trail.seconds)
        rows[i] = _row(models, variants[i], made, face, target, hooks)
        if on_variant is not None:
            on_variant(done, len(variants))
    plain = settings.steps * trail.denoise_seconds
    return [rows[i]._replace(seconds=plain + refining[i]) for i in range(len(variants))]


def _row(
    models: Models, hjb: HJBConfig, made: Sampled, face: ReferenceFace, judged: Tensor | None, hooks: Hooks
) -> SweepRow:  # fmt: skip
    """The measured row, its seconds still to come. judged: the judge's embedding of the reference."""
    video = decode_video(models, made.latents, on_chunk=hooks.on_decode, on_note=hooks.on_note).clamp(-1, 1)
    found = made.faces.found.nonzero().flatten().tolist()
    crops = crop_faces(video[found], made.faces.picked(found), models.face_embedder.input_size, antialias=True)
    among = reference_among(face, made.faces)

    def csim(network, target: Tensor) -> float:
        return float(score_identity(network, video, made.faces, target).nanmean())

    return SweepRow(
        hjb,
        csim=csim(models.face_embedder, face.embedding),
        csim_judge=None if judged is None else csim(models.face_judge, judged),
        sharpness=float("nan") if among is None else float(sharpness(crops, among).mean()),
        seconds=0.0,
        faces=face_pictures(video, made.faces, [found[i] for i in spread(len(found), SHOWN)]),
    )  # fmt: skip


def sweep_variants(
    base: HJBConfig, steps: int, iterations: Sequence[int], ranges: Sequence[tuple[int, int]] = ()
) -> list[HJBConfig]:
    """HJB off, and every number of iterations on every range of steps; base gives the rest, and the range without any.

    steps: sampling steps in all. Raises InputError for a range beyond them.
    """
    for first, last in ranges:
        if last >= steps:
            raise InputError(f"hjb-steps {first}:{last}: there are {steps} sampling steps, 0 to {steps - 1}")
    variants = [replace(base, iterations=0)]  # what all others are compared with
    for first, last in ranges or [(base.first_step, base.last_step)]:
        counts = dict.fromkeys(count for count in iterations if count)
        variants += [replace(base, iterations=count, first_step=first, last_step=last) for count in counts]
    for variant in variants:
        variant.check(steps)
    return variants


def parse_counts(text: str) -> list[int]:
    """Numbers of iterations, as in "0, 4, 8". Raises InputError."""
    parts = _parts(text)
    if not parts or not all(re.fullmatch(r"\d{1,3}", part) for part in parts):
        raise InputError(f'iterations "{text}": give whole numbers with commas between, as in 0, 4, 8')
    return list(map(int, parts))


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """Ranges of sampling steps, as in "0:9, 10:19"; none in an empty text. Raises InputError."""
    matches = [re.fullmatch(r"(\d{1,3}):(\d{1,3})", part) for part in _parts(text)]
    if not all(matches) or any(int(match[1]) > int(match[2]) for match in matches):
        raise InputError(f'hjb-steps "{text}": give FIRST:LAST with commas between, counted from 0, as in 0:9, 10:19')
    return [(int(match[1]), int(match[2])) for match in matches]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def mean_rows(clips: Sequence[Sequence[SweepRow]]) -> list[SweepRow]:
    """The same settings on several clips as one row each; faces of all clips side by side."""
    shown = max(SHOWN // len(clips), 1)
    means = []
    for rows in zip(*clips, strict=True):
        judged = [row.csim_judge for row in rows]
        means.append(rows[0]._replace(
            csim=float(np.nanmean([row.csim for row in rows])),
            csim_judge=None if None in judged else float(np.nanmean(judged)),
            sharpness=float(np.nanmean([row.sharpness for row in rows])),
            seconds=float(np.mean([row.seconds for row in rows])),
            faces=np.concatenate([row.faces[spread(len(row.faces), shown)] for row in rows]),
        ))  # fmt: skip
    return means


def recommend(rows: Sequence[SweepRow]) -> Recommendation:
    """The fastest row within CLOSE of the best CSIM among those whose faces are not over-sharpened.

    Over-sharpened is what is more than its setting's `sharpest` times as sharp as the reference and sharper than with
    HJB off. Where that is every row, the choice is among those that are ALIKE the least sharp one.
    """
    off = max((row.sharpness for row in rows if not row.hjb.iterations), default=0.0)
    sound, overdone = [], []
    for row in rows:
        (overdone if row.sharpness > max(row.hjb.sharpest, off) else sound).append(row)
    among = sound or [row for row in rows if row.sharpness <= ALIKE * min(other.sharpness for other in rows)]
    best = max(among, key=lambda row: row.identity)
    row = min((row for row in among if row.identity >= best.identity - CLOSE), key=lambda row: row.seconds)
    reason = f"{name_of(row.hjb)}: {row.measure} {row.identity:.3f} in {row.seconds:.0f} s"
    if row is best:
        reason += ", the best"
    else:
        reason += f", within {CLOSE:g} of the best, {best.identity:.3f} in {best.seconds:.0f} s ({name_of(best.hjb)})"
    if not sound:
        reason += "; all faces are over-sharpened, these are among the least"
    elif overdone:
        reason += f"; left out as over-sharpened: {'; '.join(name_of(other.hjb) for other in overdone)}"
    if overdone and not any(row.hjb.iterations for row in sound):
        reason += "; lower the learning rate, or raise sharpest if you like such faces"
    return Recommendation(row, reason)


def name_of(hjb: HJBConfig) -> str:
    """A setting in few words."""
    if not hjb.iterations:
        return "off"
    return f"{hjb.rounds}, steps {hjb.first_step}:{hjb.last_step}"


def sweep_table(rows: Sequence[SweepRow]) -> str:
    """The numbers as plain text."""
    wide = max(len(name_of(row.hjb)) for row in rows)
    judged = rows[0].csim_judge is not None
    columns = ["HJB's CSIM", "judge's CSIM"] if judged else ["CSIM "]
    lines = [f"{'':{wide}}  {'  '.join(columns)}  sharpness  seconds"]
    for row in rows:
        scores = [row.csim, row.csim_judge] if judged else [row.csim]
        told = "  ".join(f"{score:{len(column)}.3f}" for score, column in zip(scores, columns))
        lines.append(f"{name_of(row.hjb):{wide}}  {told}  {row.sharpness:9.2f}  {row.seconds:7.1f}")
    name = "HJB's CSIM" if judged else "CSIM"
    judge = "; judge's CSIM: by one it never sees" if judged else ""
    lines.append(f"{name}: by the embedder that the face optimisation works on{judge}")
    lines.append("sharpness: of the faces over the reference's")
    return "\n".join(lines)


def sweep_sheet(rows: Sequence[SweepRow], face: ReferenceFace | None = None) -> np.ndarray:
    """Faces of every setting below one another, after the reference's: uint8 [H, W, 3]."""
    sheet = [
        SheetRow(f"{name_of(row.hjb)}: {row.measure} {row.identity:.2f}, sharpness {row.sharpness:.2f}", row.faces)
        for row in rows
    ]
    if face is not None and face.crop is not None:
        sheet.insert(0, SheetRow("the reference", to_uint8(face.crop[None])))
    return contact_sheet(sheet, SHOWN)


def sweep_plot(rows: Sequence[SweepRow]) -> np.ndarray:
    """CSIM over seconds, and sharpness over CSIM: uint8 [H, W, 3]. Every range of steps is a curve from HJB off."""
    judge = "CSIM by the embedder that HJB optimises" if rows[0].csim_judge is None else "CSIM by the judge"
    ranges = dict.fromkeys((row.hjb.first_step, row.hjb.last_step) for row in rows if row.hjb.iterations)
    groups = {
        f"steps {first}:{last}": [
            row for row in rows if not row.hjb.iterations or (row.hjb.first_step, row.hjb.last_step) == (first, last)
        ]
        for first, last in ranges
    }  # fmt: skip

    def plot(x: str, y: str, x_name: str, y_name: str) -> np.ndarray:
        curves = [
            Curve(
                name, [getattr(row, x) for row in group], [getattr(row, y) for row in group],
                [str(row.hjb.iterations) for row in group],
            )
            for name, group in (groups or {"off": rows}).items()
        ]  # fmt: skip
        return plot_curves(curves, x_name, y_name, height=400)

    return stacked(
        plot("seconds", "identity", "seconds; the numbers are iterations", judge),
        plot("identity", "sharpness", f"{judge}; the numbers are iterations", "sharpness over the reference's face"),
    )
