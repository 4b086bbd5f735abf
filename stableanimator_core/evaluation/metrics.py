"""What is measured on videos, each [F, 3, H, W] in -1..1 RGB: error, sharpness, flicker, and how identity drifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..face import FaceBoxes, crop_faces
from ..weights import Places
from ..weights.measures import I3D_FEATURES, I3D_FRAMES, load_i3d, load_lpips

DRIFT_FRAMES = 16  # the slope of identity is told over so many
NAN = math.nan


@dataclass(frozen=True)
class Measures:
    """What libraries and networks measure, loaded once. None: the network's file is missing, and a note says where."""

    psnr: Callable[..., Tensor]
    ssim: Callable[..., Tensor]
    lpips: nn.Module | None = None
    i3d: Callable[[Tensor], Tensor] | None = None  # uint8 [N, F, 3, H, W] -> [N, 400]
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, device: torch.device, places: Places | None = None) -> Measures:
        """All that can be had. places: where I3D is looked for. Raises InputError without torchmetrics."""
        psnr, ssim = _picture_measures()
        networks, notes = {}, []
        loaders = {"lpips": load_lpips, "i3d": lambda device: load_i3d(places or Places.default(), device)}
        for name, load in loaders.items():
            try:
                networks[name] = load(device)
            except WeightsError as error:
                notes.append(f"no {'LPIPS' if name == 'lpips' else 'FVD'}: {error}")
        return cls(psnr, ssim, **networks, notes=tuple(notes))

    def pictures(self, video: Tensor, truth: Tensor, faces: FaceBoxes) -> dict[str, float]:
        """Every measure of a video against the truth that needs no other video. faces: in both."""
        a, b = (video + 1) / 2, (truth + 1) / 2
        return {
            "l1": l1(video, truth),
            "face_l1": face_l1(video, truth, faces),
            "temporal_l1": temporal_l1(video, truth),
            "psnr": float(self.psnr(a, b, data_range=1.0)),
            "ssim": float(self.ssim(a, b, data_range=1.0)),
            "lpips": NAN if self.lpips is None else float(self.lpips(video.clamp(-1, 1), truth.clamp(-1, 1))),
        }

    def video_features(self, video: Tensor) -> Tensor | None:
        """I3D's features of one video, [1, 400]; None without the network, or when the video is too short for it."""
        if self.i3d is None or len(video) < I3D_FRAMES:
            return None
        return self.i3d(((video.clamp(-1, 1) + 1) * 127.5).round().byte()[None])


PICTURE_MEASURES = ("l1", "face_l1", "temporal_l1", "psnr", "ssim", "lpips")  # keys of Measures.pictures


def l1(video: Tensor, truth: Tensor) -> float:
    """Mean absolute error on a scale of 0..1."""
    return float((video - truth).abs().mean() / 2)


def face_l1(video: Tensor, truth: Tensor, faces: FaceBoxes) -> float:
    """L1 inside the face boxes, on a scale of 0..1; NaN when no frame has one."""
    found = faces.found.nonzero().flatten().tolist()
    if not found:
        return NAN
    picked = faces.picked(found)
    return l1(crop_faces(video[found], picked, 64), crop_faces(truth[found], picked, 64))


def temporal_l1(video: Tensor, truth: Tensor) -> float:
    """L1 between the changes from frame to frame, on a scale of 0..1: flicker, and motion that is not the truth's.

    A still picture has the truth's own motion as its error. NaN for a single frame.
    """
    return l1(video.diff(dim=0), truth.diff(dim=0)) if len(video) > 1 else NAN


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of Gaussians fitted to features [N, D] and [M, D].

    With A and B the centred features over sqrt(N - 1), the last trace is the sum of the singular values of A B^T: no
    root of a singular matrix is needed. NaN with less than two of either. Dowson and Landau 1982; so are FID and FVD.
    """
    if min(len(a), len(b)) < 2:
        return NAN
    a, b = a.cpu().double(), b.cpu().double()  # Apple's GPUs know no double precision
    means = (a.mean(0) - b.mean(0)).square().sum()
    a, b = ((part - part.mean(0)) / math.sqrt(len(part) - 1) for part in (a, b))
    spread = a.square().sum() + b.square().sum()
    a, b = (torch.linalg.qr(part, mode="r").R for part in (a, b))  # of many, as few as there are features
    spread = spread - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return max(float(means + spread), 0.0)


def face_frechet(embedded: Tensor, truth: Tensor) -> float:
    """Fréchet distance between the faces of a video and those of the truth, as the judge embeds them: [F, D] both.

    Embeddings are normalised; rows of NaN are frames without a face. Between the frames of one clip, so that it grows
    when faces are blurred, flicker, or are another person's. It needs no file that is not here; it is not FVD.
    """
    return frechet_distance(*(F.normalize(part[~part.isnan().any(1)], dim=1) for part in (embedded, truth)))


class Drift(NamedTuple):
    """How identity changes over a clip."""

    slope: float  # of a straight line through CSIM, per DRIFT_FRAMES frames
    ends: float  # mean of the last quarter minus mean of the first


def identity_drift(csim: np.ndarray) -> Drift:
    """Drift of CSIM per frame, [F], NaN where there is no face; below 0 the face is lost with time.

    NaN when there are less than two frames with faces, or none in an end quarter.
    """
    frames = np.flatnonzero(~np.isnan(csim))
    slope = np.polyfit(frames, csim[frames], 1)[0] * DRIFT_FRAMES if len(frames) > 1 else NAN
    quarter = max(1, len(csim) // 4)
    ends = mean(csim[-quarter:]) - mean(csim[:quarter]) if len(csim) > 1 else NAN
    return Drift(float(slope), ends)


def mean(values: np.ndarray | list[float]) -> float:
    """The mean of what is not NaN; NaN when nothing is."""
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else NAN


def fvd_note(clips: int) -> str:
    """How to read an FVD over so few clips."""
    return (
        f"FVD over {clips} clips: with less than some thousand it is too high, as I3D has {I3D_FEATURES} features; "
        "compare it only with FVD over equally many clips of equal length"
    )


def _picture_measures() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """PSNR and SSIM. Raises InputError when torchmetrics, which nothing else needs, is missing."""
    try:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    except ImportError as error:
        raise InputError("evaluation needs torchmetrics: pip install torchmetrics") from error
    return peak_signal_noise_ratio, structural_similarity_index_measure
