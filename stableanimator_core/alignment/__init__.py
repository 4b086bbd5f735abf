"""Alignment: gives the driving poses the place and size of the reference picture's person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, PoseError
from ..keypoints import Poses
from ..skeleton import BODY_POINTS
from .advice import SHOULDERS, body_notes, head_note, result_notes
from .fits import FITS, fit_clip, fittable_frames, follow_frames, idle_note, repeated, shared_trust
from .guidance import place_of
from .learned import NOTED_DEGREES, doubt_note, fit_learned
from .network import AlignmentNet
from .perspective import chained_affine, chained_homography, fit_alike, fit_upright
from .polyfit import JOINTS, fit_line
from .projective import Affine, Homography, fit_affine, fit_homography
from .retarget import retarget
from .similarity import Similarity, fit_similarity, fit_similarity_robust

__all__ = [
    "FITS", "METHODS", "SIMILARITIES", "WITH_ALIGNER", "Affine", "Alignment", "AlignmentNet", "Homography",
    "Similarity", "align", "distance_from_reference", "fit_similarity", "fit_similarity_robust",
]  # fmt: skip

# Methods that use an aligner; all but "learned" do without one, too.
WITH_ALIGNER = ("learned", "affine", "homography")
# Methods that fit a similarity, which proportions go with.
SIMILARITIES = ("svd", "learned")

# Stretch of v1's bodies beyond which the user is told.
NOTED_STRETCH = 0.02
# Share of the body that homography's view may move joints by before the user is told where it comes from.
NOTED_VIEW = 0.03


@dataclass(frozen=True, eq=False)
class Alignment:
    """Driving poses on the reference's canvas and how they got there.

    residual is the root mean square distance in px of person 0's joints from the reference's, per frame; NaN where
    no joint is visible in both. It holds the difference in posture, too.
    expected_error is the mean distance of joints from where they belong that the aligner expects of method "learned"
    with fit "clip", in heights of the reference's body; None elsewhere, and where the aligner was not believed.
    """

    poses: Poses
    transform: Similarity | Affine | Homography | None  # of F frames, float64; None for "none" and "v1"
    residual: np.ndarray  # [F] px
    method: str
    notes: tuple[str, ...]
    expected_error: float | None = None


def align(
    driving: Poses, reference: Poses, method: str = "svd", *, fit: str = "clip", min_score: float = 0.3,
    aligner: AlignmentNet | None = None, proportions: bool = False,
) -> Alignment:  # fmt: skip
    """Moves the driving poses onto the reference's canvas by one of METHODS, fitted as one of FITS says.

    "svd": one similarity transform for the whole clip (Umeyama's fit, robust), after which person 0 stands where the
    reference's person 0 stands when the clip begins, in the same size; the driver's own travel survives, scaled.
    "learned": svd's fit as `aligner`, a trained AlignmentNet, corrects it: two bodies of other proportions, seen from
    elsewhere, in other postures. It needs no shared joints.
    "affine": what learned finds, or svd without an aligner; stretched on top of that as frames in the reference's
    posture say, if there are any. For videos that are squeezed, but not so much that the posture is not recognised.
    "homography": the same with perspective, of which what the driver's bones show, as of adults, is taken out before.
    For drivers filmed from steeply above, from below or close up.
    "v1": the fit of the published StableAnimator v1 code, to compare with: one line through the heights of all frames
    that show one person alone. It stretches a body when the canvases differ in aspect, knows no rotation, and weak or
    wrong driving joints count as much as good ones.
    "none": one scale and centring that fit the driving canvas into the reference's.
    fit: "clip" is the one transform for the clip. "frames" follows every frame's own svd fit, and so pins the person
    to the reference's place. "smooth" follows them smoothed over about a second, for moving cameras: half of
    every slow travel and zoom is taken out, as the camera's share (see fits.CAMERA_SHARE); quick motion stays.
    Body joints above min_score count. Everybody, with face and hands, gets the transform of person 0.
    proportions=True then gives person 0 the reference's bone lengths and shape of the face (see retarget), for
    SIMILARITIES.
    Raises InputError for a method or fit that there is not and for "learned" without an aligner, PoseError when
    person 0 cannot be fitted.
    """
    if method not in METHODS:
        raise InputError(f"alignment '{method}' is unknown; use {' or '.join(METHODS)}")
    if fit not in FITS:
        raise InputError(f"alignment fit '{fit}' is unknown; use {' or '.join(FITS)}")
    network = (aligner,) if method in WITH_ALIGNER else ()
    aligned = METHODS[method](driving, reference, fit, min_score, *network)
    aligned = _with_advice(aligned, driving, reference, min_score, proportions)
    return _with_proportions(aligned, driving, reference, min_score) if proportions else aligned


def _with_proportions(aligned: Alignment, driving: Poses, reference: Poses, min_score: float) -> Alignment:
    if aligned.method not in SIMILARITIES:
        note = f"proportions have no effect: method {aligned.method} fits no similarity"
        return replace(aligned, notes=(*aligned.notes, note))
    poses, _, notes = retarget(driving, reference, aligned.transform, min_score=min_score)
    residual = distance_from_reference(poses, reference, min_score)
    return replace(aligned, poses=poses, residual=residual, notes=(*aligned.notes, *notes))


def _with_advice(
    aligned: Alignment, driving: Poses, reference: Poses, min_score: float, proportions: bool
) -> Alignment:
    """Says first what is off about the two bodies, last what is off about the result."""
    if any(not poses.people or not _visible(poses, min_score).any() for poses in (driving, reference)):
        return aligned  # method none alone comes here
    people = int(reference.visible(min_score)[reference.first_shown(min_score)].any(-1).sum())
    several = [f"the reference shows {people} people: the first one counts"] if people > 1 else []
    body, seen, there = _body(driving), _visible(driving, min_score), _reference_person(reference, min_score)
    moved = _body(aligned.poses)
    after = result_notes(moved, body, seen, (reference.width, reference.height))
    head = head_note(moved, seen, *there) if aligned.method != "none" else None
    if head is not None:
        helps = aligned.method in SIMILARITIES and not proportions and bool(there[1][list(SHOULDERS)].any())
        after.append(f"{head}: try proportions" if helps else head)
    return replace(aligned, notes=(*several, *body_notes(body, seen, *there), *aligned.notes, *after))


def _align_none(driving: Poses, reference: Poses, fit: str, min_score: float) -> Alignment:
    poses = driving.fitted(reference.width, reference.height)
    residual = distance_from_reference(poses, reference, min_score)
    notes = (f"fit {fit} has no effect: method none fits nothing",) if fit != "clip" else ()
    return Alignment(poses, None, residual, "none", notes)


def _align_svd(driving: Poses, reference: Poses, fit: str, min_score: float) -> Alignment:
    _require_somebody(driving, reference, min_score)
    target, shown = _reference_person(reference, min_score)  # [18, 2], [18]
    body, shared = _body(driving), _visible(driving, min_score) & shown  # [F, 18, 2], [F, 18]
    trust = shared_trust(shared, shown)  # [F, 18]
    good = fittable_frames(body, target, trust)  # [F]
    if not good.any():
        frame = int(shared.sum(1).argmax())
        raise PoseError(
            f"frame {frame}: {int(shared[frame].sum())} of {BODY_POINTS} joints above min_score {min_score:g} in both "
            "the driving and the reference pose, need 2 at distinct places; lower min_score or trim the clip"
        )
    clip = fit_clip(body, target, trust, good)
    if fit == "clip":
        transform, doubtful = repeated(clip, len(body)), 0
    else:
        transform, doubtful = follow_frames(clip, clip, body, target, trust, good, fit)
    poses = _transformed(driving, transform, reference)
    notes = (*_notes(transform, shared, good, fit), *doubt_note(doubtful, len(body)), *idle_note(len(body), fit))
    return Alignment(poses, transform, distance_from_reference(poses, reference, min_score), "svd", notes)


def _align_learned(
    driving: Poses, reference: Poses, fit: str, min_score: float, aligner: AlignmentNet | None
) -> Alignment:
    if aligner is None:
        raise InputError("alignment 'learned' needs a trained network, none was given; load one or use svd")
    _require_somebody(driving, reference, min_score)
    target, shown = _reference_person(reference, min_score)  # [18, 2], [18]
    seen = _visible(driving, min_score)  # [F, 18]
    found = fit_learned(aligner, _body(driving), seen, target, shown, fit)
    poses = _transformed(driving, found.transform, reference)
    residual = distance_from_reference(poses, reference, min_score)
    return Alignment(poses, found.transform, residual, "learned", found.notes, found.error if fit == "clip" else None)


def _align_beyond(
    method: str, driving: Poses, reference: Poses, fit: str, min_score: float, aligner: AlignmentNet | None
) -> Alignment:
    """ "affine" and "homography": a similarity's place, and what is left to a richer fit."""
    _require_somebody(driving, reference, min_score)
    target, shown = _reference_person(reference, min_score)  # [18, 2], [18]
    body, seen = _body(driving), _visible(driving, min_score)  # [F, 18, 2], [F, 18]
    upright, view = driving, None
    if method == "homography":
        view = fit_upright(body, seen)
        upright = _transformed(driving, view, driving)
    if aligner is None:
        placed = _align_svd(upright, reference, fit, min_score)
    else:
        placed = _align_learned(upright, reference, fit, min_score, aligner)
    place = placed.transform
    fit_rest = fit_affine if method == "affine" else fit_homography
    rest = fit_alike(place.apply(_body(upright)), seen, target, shown, fit_rest)
    if method == "affine":
        transform = chained_affine(place, rest)
    else:
        transform = chained_homography(view, place, rest, place_of(body[None], seen[None]).centre[0])
    poses = _transformed(driving, transform, reference)
    notes = placed.notes
    if rest is None:
        notes = (*notes, f"no frame has the reference's posture and shape: {method} compares nothing with it")
    if view is not None and _size_change(view, body, seen) > NOTED_VIEW:
        notes = (*notes, "perspective is read off the driver's bones, as of adults of usual proportions")
    residual = distance_from_reference(poses, reference, min_score)
    return Alignment(poses, transform, residual, method, notes)


def _size_change(view: Homography, body: Tensor, seen: Tensor) -> float:
    """How far a view moves the seen joints, at most, as a share of the body's extent in the clip."""
    points = body[seen]
    extent = (points.amax(0) - points.amin(0)).amax()
    return float((view.apply(points[None])[0] - points).norm(dim=-1).amax() / extent)


def _align_v1(driving: Poses, reference: Poses, fit: str, min_score: float) -> Alignment:
    if not reference.people or not reference.visible(min_score)[:, 0].any():
        raise _nobody(reference, "reference", min_score)
    target, shown = (part.numpy() for part in _reference_person(reference, min_score))  # [18, 2] px, [18]
    present = (driving.body_score > 0).any(-1)  # [F, P]
    alone = present.sum(1) == 1  # [F]
    if not alone.any():
        raise PoseError(
            f"v1 alignment: none of {driving.frames} driving frames shows exactly one person; "
            "keep one person's poses, or use method svd"
        )
    canvases = [np.array([poses.width, poses.height]) for poses in (driving, reference)]
    rows, slots = alone.nonzero()[0], present[alone].argmax(1)
    body, score = driving.body[rows, slots], driving.body_score[rows, slots]  # [A, 18, 2], [A, 18]
    used = np.isin(np.arange(BODY_POINTS), JOINTS) & shown & (score > 0)  # the published fit counts weak joints, too
    line = fit_line(body / canvases[0], target / canvases[1], used)
    poses = driving.transformed(
        lambda points: (points / canvases[0] * line.scale + line.shift) * canvases[1],
        width=reference.width,
        height=reference.height,
    )
    notes = [f"fit {fit} has no effect: method v1 fits one transform for the clip"] if fit != "clip" else []
    if missed := int((~alone).sum()):
        notes.append(f"{missed} of {driving.frames} frames do not show exactly one person: left out of the fit")
    stretch = (reference.width / driving.width) / (reference.height / driving.height)
    if abs(stretch - 1) > NOTED_STRETCH:
        notes.append(f"method v1 draws bodies {stretch:.2f} times as wide for their height; svd keeps proportions")
    residual = distance_from_reference(poses, reference, min_score)
    return Alignment(poses, None, residual, "v1", tuple(notes))


METHODS: dict[str, Callable[..., Alignment]] = {
    "svd": _align_svd,
    "learned": _align_learned,
    "affine": partial(_align_beyond, "affine"),
    "homography": partial(_align_beyond, "homography"),
    "v1": _align_v1,
    "none": _align_none,
}


def _require_somebody(driving: Poses, reference: Poses, min_score: float) -> None:
    for poses, whose in ((reference, "reference"), (driving, "driving")):
        if not poses.people or not poses.visible(min_score)[:, 0].any():
            raise _nobody(poses, whose, min_score)


def _transformed(driving: Poses, transform: Similarity | Affine | Homography, reference: Poses) -> Poses:
    """Everybody, moved by one transform per frame onto the reference's canvas."""
    return driving.transformed(
        lambda points: transform.apply(torch.from_numpy(points)).numpy(),
        width=reference.width,
        height=reference.height,
    )


def _nobody(poses: Poses, whose: str, min_score: float) -> PoseError:
    return PoseError(
        f"{whose} poses: no body joint of person 0 above min_score {min_score:g} in {poses.frames} frames; "
        "lower min_score or use a picture or clip that shows a person"
    )


def _body(poses: Poses) -> Tensor:
    """Person 0's joints, [F, 18, 2] px."""
    return torch.from_numpy(poses.body[:, 0])


def _visible(poses: Poses, min_score: float) -> Tensor:
    """Person 0's visible joints, bool [F, 18]."""
    return torch.from_numpy(poses.visible(min_score)[:, 0])


def _reference_person(reference: Poses, min_score: float) -> tuple[Tensor, Tensor]:
    """Person 0 in the frame that shows the reference: [18, 2] px and visible [18]."""
    frame = reference.first_shown(min_score)
    return _body(reference)[frame], _visible(reference, min_score)[frame]


def distance_from_reference(poses: Poses, reference: Poses, min_score: float = 0.3) -> np.ndarray:
    """Root mean square distance of person 0's joints from the reference's on its canvas, [F] px.

    NaN where no joint is visible in both.
    """
    if not poses.people or not reference.people or not reference.frames:
        return np.full(poses.frames, np.nan)
    target, shown = _reference_person(reference, min_score)
    shared = _visible(poses, min_score) & shown  # [F, 18]
    distance2 = (_body(poses) - target).square().sum(-1)
    return ((distance2 * shared).sum(1) / shared.sum(1)).sqrt().numpy()


def _notes(transform: Similarity, shared: Tensor, good: Tensor, fit: str) -> tuple[str, ...]:
    """What the user should know about a fit, one sentence each."""
    notes = []
    missed = int((~good).sum())
    first = int(good.nonzero()[0])
    if missed and fit != "clip":
        notes.append(f"{missed} of {len(good)} frames share too few joints with the reference: they follow the others")
    elif first:
        notes.append(f"frames 0 to {first - 1} share too few joints with the reference: placed by frame {first}")
    degrees = float(torch.rad2deg(transform.angle[transform.angle.abs().argmax()]))
    if abs(degrees) > NOTED_DEGREES:
        notes.append(f"{'single frames are' if fit == 'frames' else 'the clip is'} turned by {degrees:.0f} degrees")
    return tuple(notes)
