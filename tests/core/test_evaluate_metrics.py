"""Measures of known errors, and what is said when a standard network's file is not here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stableanimator_core.errors import WeightsError
from stableanimator_core.evaluation import metrics
from stableanimator_core.evaluation.metrics import Measures, frechet_distance, identity_drift, l1, temporal_l1
from stableanimator_core.face import FaceBoxes, embed_faces, face_boxes
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import from_uint8
from stableanimator_core.weights import BUILT_IN, Places, load_models
from stableanimator_core.weights.measures import I3D_FEATURES, I3D_FRAMES, alexnet_file, load_i3d, load_lpips

CPU = torch.device("cpu")
NOWHERE = FaceBoxes(torch.zeros(2, 4), torch.zeros(2, dtype=torch.bool))


@pytest.fixture
def no_networks(tmp_path, monkeypatch):
    """A machine without the files; returns where they would be looked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return Places((tmp_path / "models",))


@pytest.fixture
def measures(no_networks):
    return Measures.load(CPU, no_networks)


def test_the_truth_has_no_error(measures):
    video = torch.rand(2, 3, 32, 32) * 2 - 1
    scores = measures.pictures(video, video, NOWHERE)
    assert scores["l1"] == scores["temporal_l1"] == 0
    assert scores["psnr"] == float("inf") or scores["psnr"] > 80
    assert scores["ssim"] == pytest.approx(1)
    assert np.isnan(scores["face_l1"]), "no frame has a face"
    assert l1(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)) == 1
    assert set(scores) == set(metrics.PICTURE_MEASURES)


def test_psnr_and_ssim_of_a_known_error(measures):
    video = torch.zeros(2, 3, 32, 32)
    scores = measures.pictures(video, video + 0.2, NOWHERE)  # 0.1 on a scale of 0..1
    assert scores["psnr"] == pytest.approx(20, abs=1e-3)
    assert 0.9 < scores["ssim"] < 1
    assert scores["temporal_l1"] == pytest.approx(0, abs=1e-6), "a steady error does not flicker"


def test_flicker_is_the_error_of_the_changes():
    steady, flickering = torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)
    flickering[::2] += 0.2
    assert temporal_l1(flickering, steady) == pytest.approx(0.1)
    assert np.isnan(temporal_l1(steady[:1], steady[:1]))


def test_frechet_distance_of_known_gaussians():
    """Means apart and spreads apart, in closed form; and torchmetrics agrees on what has no closed form."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    draw = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whitened = (draw - draw.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(draw.T.cov())).mT
    assert frechet_distance(whitened, whitened) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(whitened + torch.tensor([3.0, 4.0, 0.0]), whitened) == pytest.approx(25)
    assert frechet_distance(3 * whitened, whitened) == pytest.approx(3 * (3 - 1) ** 2)
    few, more = draw[:40] @ torch.rand(3, 3, dtype=torch.float64), draw[40:100] + 1

    class Given(nn.Module):
        num_features = 3

        def forward(self, features: Tensor) -> Tensor:
            return features

    other = fid.FrechetInceptionDistance(feature=Given())
    other.update(few, real=True)
    other.update(more, real=False)
    assert frechet_distance(few, more) == pytest.approx(float(other.compute()), rel=1e-4)
    assert np.isnan(frechet_distance(draw[:1], draw))


def test_drift_of_a_known_line():
    falling = 0.9 - 0.01 * np.arange(32)
    drift = identity_drift(falling)
    assert drift.slope == pytest.approx(-0.16)
    assert drift.ends == pytest.approx(-0.01 * 24)
    gaps = falling.copy()
    gaps[[0, 5, 9, 31]] = np.nan
    assert identity_drift(gaps).slope == pytest.approx(-0.16), "frames without a face leave no hole in time"
    assert identity_drift(np.full(8, 0.5)) == pytest.approx((0, 0), abs=1e-9)
    assert np.isnan(identity_drift(np.array([0.5]))).all()
    assert np.isnan(identity_drift(np.full(8, np.nan))).all()


@pytest.fixture(scope="module")
def faces():
    """The built-in model's judge on two performers: embed(video, of=index), and their true videos."""
    models = load_models("mini")
    config = models.config
    size = (config.width, config.height)
    clips = [make_clip(seed, size=size, frames=12, split="held_out") for seed in (11, 12)]
    boxes = [face_boxes(clip.poses, scale=config.face_scale, crop=config.face_crop) for clip in clips]

    @torch.no_grad()
    def embed(video, of=0):
        return embed_faces(models.face_judge, video, boxes[of])

    return embed, [torch.stack([from_uint8(frame) for frame in clip.frames]) for clip in clips]


@pytest.mark.skipif(not (BUILT_IN["mini"] / "face_judge.safetensors").is_file(), reason="the built-in model is away")
def test_faces_distance_grows_with_blur_flicker_and_another_person(faces):
    embed, (video, other) = faces
    truth = embed(video)

    def distance(changed, of=0):
        return metrics.face_frechet(embed(changed, of), truth)

    def blurred(size):
        return F.avg_pool2d(video, size, stride=1, padding=size // 2, count_include_pad=False)

    def flickering(amount):
        noise = torch.randn(len(video), 3, 5, 5, generator=torch.Generator().manual_seed(0))
        coarse = F.interpolate(noise, video.shape[-2:], mode="bilinear")
        return (video + amount * coarse).clamp(-1, 1)

    assert distance(video) == pytest.approx(0, abs=1e-9)
    blur, flicker = [distance(blurred(s)) for s in (3, 5, 9)], [distance(flickering(a)) for a in (0.05, 0.1, 0.3)]
    assert 0.001 < blur[0] < blur[1] < blur[2]
    assert 0.001 < flicker[0] < flicker[1] < flicker[2]
    assert distance(other, of=1) > max(*blur, *flicker)


def test_missing_files_are_named_and_nothing_is_fetched(no_networks, measures, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download began"))
    assert measures.lpips is None
    assert measures.i3d is None
    lpips, fvd = measures.notes
    alexnet = no_networks.models[0].parent / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert lpips.startswith(f"no LPIPS: {alexnet} is missing (published by torchvision, https://download.pytorch.org/")
    assert fvd.startswith(f"no FVD: {no_networks.models[0] / 'Metrics' / 'i3d_torchscript.pt'} is missing (published")
    assert all(note.endswith("put the file there") and "\n" not in note for note in measures.notes)
    assert np.isnan(measures.pictures(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), NOWHERE)["lpips"])
    assert measures.video_features(torch.zeros(16, 3, 32, 32)) is None


def test_lpips_without_torchvision(no_networks, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.raises(WeightsError, match="AlexNet needs torchvision: pip install torchvision"):
        load_lpips(CPU)


def test_lpips_reads_torchvisions_file(no_networks):
    """With random weights in AlexNet's place: still 0 for the same picture, more for a worse one, and one number."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).features.state_dict(prefix="features.")
    with torch.device("meta"):
        whole = torchvision.models.alexnet(weights=None).state_dict()
    state |= {k: torch.zeros(1).expand(v.shape) for k, v in whole.items() if k.startswith("classifier")}
    alexnet_file().parent.mkdir(parents=True)
    torch.save(state, alexnet_file())
    lpips = load_lpips(CPU)
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    worse = [float(lpips(picture, (picture + a * torch.randn_like(picture)).clamp(-1, 1))) for a in (0.1, 0.5)]
    assert float(lpips(picture, picture)) == 0
    assert 0 < worse[0] < worse[1]
    measured = Measures(*metrics._picture_measures(), lpips=lpips)
    assert measured.pictures(picture, picture.flip(3), NOWHERE)["lpips"] > 0


def test_damaged_weights_are_no_measure(no_networks):
    alexnet_file().parent.mkdir(parents=True)
    alexnet_file().write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="is a Git LFS pointer, not the weights .published by torchvision"):
        load_lpips(CPU)
    alexnet_file().write_bytes(b"nonsense" * 99)
    with pytest.raises(WeightsError, match="alexnet.*damaged, or not AlexNet .* fetch it again"):
        load_lpips(CPU)
    i3d = no_networks.models[0] / "Metrics" / "i3d_torchscript.pt"
    i3d.parent.mkdir(parents=True)
    i3d.write_bytes(b"nonsense" * 99)
    with pytest.raises(WeightsError, match="i3d_torchscript.pt: damaged, or not FVD's I3D .* fetch it again"):
        load_i3d(no_networks, CPU)


class StandIn(nn.Module):
    """A network with the call of StyleGAN-V's I3D."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if x.shape[1] != 3 or not (rescale and resize and return_features):
            raise ValueError("videos are [N, 3, F, H, W]")
        return x.float().mean(dim=[1, 3, 4])[:, :1].expand(-1, self.features)


def save_i3d(places: Places, features: int) -> None:
    path = places.models[0] / "Metrics" / "i3d_torchscript.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(StandIn(features)).save(str(path))


def test_i3d_is_given_whole_colour_levels(no_networks):
    save_i3d(no_networks, I3D_FEATURES)
    measured = Measures.load(CPU, no_networks)
    assert len(measured.notes) == 1
    video = torch.full((I3D_FRAMES, 3, 16, 16), -1.0)
    video[0] = 1
    assert measured.video_features(video)[0, 0] == 255
    assert measured.video_features(video).shape == (1, I3D_FEATURES)
    assert measured.video_features(video[1:]) is None, "too short for its pooling"


def test_another_network_in_i3ds_place(no_networks):
    save_i3d(no_networks, 10)
    with pytest.raises(WeightsError, match=r"gives \[1, 10\] for a video, FVD's I3D \[1, 400\]"):
        load_i3d(no_networks, CPU)
    torch.jit.script(nn.Linear(2, 2)).save(str(no_networks.models[0] / "Metrics" / "i3d_torchscript.pt"))
    with pytest.raises(WeightsError, match="damaged, or not FVD's I3D"):
        load_i3d(no_networks, CPU)
