"""The performers of the experiments, what the model makes of them, and how that is scored.

They are the ones of `evaluate animation` of the same seed: held-out people in held-out motions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...face import FaceBoxes, crop_faces, encode_reference_face, face_boxes, score_identity
from ...face.sharpness import detail
from ...hjb_settings import HJBConfig
from ...keypoints import Poses
from ...performers import Clip, MotionClip, make_clip, make_pair
from ...performers.person import Person
from ...pipeline import Hooks, StableAnimator, from_uint8
from ...vae import decode_latents, encode_image
from ..material import FIRST_SEED
from ..metrics import NAN, face_l1, l1
from .tables import Row, mean_row

OFF = HJBConfig(iterations=0)
CROP = 64  # px of the faces that are compared
FULL_LENGTH = 0.95  # quantile: so many of a bone's views are shorter, for they are from an angle
BONES = {  # of Bones, with the joints at their ends
    "thigh": ((8, 9), (11, 12)), "shank": ((9, 10), (12, 13)), "upper_arm": ((2, 3), (5, 6)),
    "forearm": ((3, 4), (6, 7)),
}  # fmt: skip
Item = TypeVar("Item")


@dataclass(frozen=True)
class Extent:
    """How much is made: misaligned pairs, clips of the other experiments, and frames of each."""

    pairs: int
    clips: int
    frames: int


FULL = Extent(pairs=100, clips=16, frames=16)
SMALL = Extent(pairs=6, clips=2, frames=4)


@dataclass(frozen=True, eq=False)
class Take:
    """A clip with what all that is made of it is compared with."""

    clip: Clip
    driver: Poses  # of the clip itself or, in a misaligned pair, of somebody else who does the same
    truth: Tensor  # [F, 3, H, W] in -1..1
    boxes: FaceBoxes  # of the truth
    target: Tensor  # [D], the judge's embedding of the reference
    grain: float  # detail of the reference's face, see `face_detail`


class Made(NamedTuple):
    """What the model made."""

    video: Tensor  # [F, 3, H, W] in -1..1
    seconds: float


@dataclass(frozen=True)
class Studio:
    """A model, the performers of a seed and the scores.

    mocap: recorded motion for some of the clips. variants: models to compare, trained with other ID adapters.
    on_item(what, done, all) is told about progress.
    """

    animator: StableAnimator
    extent: Extent
    seed: int = 0
    mocap: Sequence[MotionClip] | None = None
    variants: Sequence[StableAnimator] = ()
    on_item: Callable[[str, int, int], None] | None = None

    def __post_init__(self) -> None:
        config = self.animator.models.config
        if self.animator.models.face_judge is None:
            raise InputError(f"model '{config.name}' has no judge of its own to score identity with")

    def takes(self) -> list[Take]:
        """Performers whose own motion drives them."""
        return [self._take(clip, clip.poses) for clip in self._drawn(make_clip, self.extent.clips)]

    def pairs(self, count: int) -> list[Take]:
        """Performers who are driven by other bodies at other places, nearer or farther."""
        return [self._take(pair.clip, pair.driver_poses) for pair in self._drawn(make_pair, count)]

    def told(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """The items one after the other, with progress."""
        for done, item in enumerate(items, 1):
            yield item
            if self.on_item is not None:
                self.on_item(what, done, len(items))

    def animate(
        self, take: Take, poses: Poses | None = None, *, hjb: HJBConfig = OFF, identity: bool = True,
        hooks: Hooks | None = None,
    ) -> Made:  # fmt: skip
        """The reference does what the poses show, which are where they belong; None: what its own do."""
        clip = take.clip
        made = self.animator.animate(
            clip.reference, clip.poses if poses is None else poses, clip.reference_pose, align_method="none", hjb=hjb,
            identity=identity, hooks=hooks, seed=clip.seed,
        )  # fmt: skip
        return Made(self._video(made.frames), made.seconds)

    def faces(self, poses: Poses) -> FaceBoxes:
        """Where faces are, as the model's embedder wants them."""
        config = self.animator.models.config
        return face_boxes(poses, scale=config.face_scale, crop=config.face_crop)

    @torch.no_grad()
    def scores(self, take: Take, video: Tensor, boxes: FaceBoxes | None = None) -> dict[str, float]:
        """csim by the judge, l1 and face_l1 from the truth on a scale of 0..1, sharpness of the face.

        boxes: where the faces are, if not where the truth has them; face_l1 stays at the truth's place.
        sharpness: mean detail of the faces over that of the reference's; above that of the truth it is overdone.
        """
        boxes = take.boxes if boxes is None else boxes
        csim = score_identity(self.animator.models.face_judge, video, boxes, take.target)
        return {
            "csim": float(csim.nanmean()),
            "l1": l1(video, take.truth),
            "face_l1": face_l1(video, take.truth, take.boxes),
            "sharpness": face_detail(video, boxes) / take.grain,
        }

    @torch.no_grad()
    def places(self, takes: Sequence[Take]) -> list[Row]:
        """Rows that put the others in their place: the truth, also through the VAE, a still, and somebody else.

        Raises InputError for one take: there is nobody else.
        """
        if len(takes) < 2:
            raise InputError(f"experiments with {len(takes)} performer: at least 2 are needed, to compare them")
        rows: dict[str, list[dict[str, float]]] = {}
        for take, other in zip(takes, [*takes[1:], takes[0]]):
            vae = self.animator.models.vae
            decoded = decode_latents(vae, encode_image(vae, take.truth) * vae.config.scaling_factor).clamp(-1, 1)
            still = from_uint8(take.clip.reference).to(take.truth).expand_as(take.truth)
            for name, video, boxes in (
                ("the truth (ceiling)", take.truth, take.boxes),
                ("the truth through the VAE", decoded, take.boxes),
                ("the reference copied", still, take.boxes),
                ("somebody else (floor)", other.truth, other.boxes),
            ):
                rows.setdefault(name, []).append(self.scores(take, video, boxes))
        floor = rows["somebody else (floor)"]
        rows["somebody else (floor)"] = [{"csim": score["csim"]} for score in floor]  # the rest compares nothing
        return [mean_row(name, scores) for name, scores in rows.items()]

    def _drawn(self, make: Callable[..., Any], count: int) -> Iterable[Any]:
        config = self.animator.models.config
        how = dict(size=(config.width, config.height), frames=self.extent.frames, mocap=self.mocap, split="held_out")
        return (make(self.seed * FIRST_SEED + i, **how) for i in range(count))

    def _take(self, clip: Clip, driver: Poses) -> Take:
        models = self.animator.models
        how = {"scale": models.config.face_scale, "crop": models.config.face_crop}
        reference = from_uint8(clip.reference).to(models.device)
        with torch.no_grad():
            target = encode_reference_face(models.face_judge, reference, clip.reference_pose, **how).embedding
        grain = face_detail(reference[None], self.faces(clip.reference_pose))
        return Take(clip, driver, self._video(clip.frames), self.faces(clip.poses), target, grain)

    def _video(self, frames: np.ndarray) -> Tensor:
        return torch.stack([from_uint8(frame) for frame in frames]).to(self.animator.models.device)


def face_detail(video: Tensor, boxes: FaceBoxes) -> float:
    """Mean detail of the faces, all of them at CROP px; NaN without a face."""
    found = boxes.found.nonzero().flatten().tolist()
    if not found:
        return NAN
    return float(detail(crop_faces(video[found], boxes.picked(found), CROP, antialias=True)).mean())


def background(boxes: FaceBoxes, video: Tensor) -> Tensor:
    """Where there is no face: bool [F, 1, H, W]."""
    outside = torch.ones_like(video[:, :1], dtype=torch.bool)
    for frame in boxes.found.nonzero().flatten().tolist():
        ((x0, y0, x1, y1),) = boxes.picked([frame]).pixels().clamp(min=0).tolist()
        outside[frame, :, y0:y1, x0:x1] = False
    return outside


def standing_height(person: Person, poses: Poses) -> float:
    """How tall a performer stands in px: its height in metres, times px per metre of its limbs where they show most."""
    body, bones = person.body, person.body.bones
    tall = bones.ankle + bones.shank + bones.thigh + bones.torso + body.neck + 1.93 * person.head.half_height
    scales = []
    for bone, ends in BONES.items():
        for a, b in ends:
            shown = (poses.visible()[:, 0, a] & poses.visible()[:, 0, b]).nonzero()[0]
            length = np.linalg.norm(poses.body[shown, 0, a] - poses.body[shown, 0, b], axis=-1)
            scales.extend(length / getattr(bones, bone))
    return tall * float(np.quantile(scales, FULL_LENGTH)) if scales else NAN


def pose_distance(take: Take, aligned: Poses) -> float:
    """Dis: mean distance of joints from the truth over those that driver and truth show, in heights of the body."""
    shown = (take.driver.visible() & take.clip.poses.visible())[:, 0]
    if not shown.any():
        return NAN
    distance = np.linalg.norm(aligned.body[:, 0] - take.clip.poses.body[:, 0], axis=-1)[shown]
    return float(distance.mean() / standing_height(take.clip.person, take.clip.poses))
