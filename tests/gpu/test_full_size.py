"""The full-size networks on a GPU: half precision stays near single, nothing overflows, and CUDA equals the CPU."""

from __future__ import annotations

import copy
import gc
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from golden import load_case
from procedural import fill_procedurally
from torch import Tensor

from stableanimator_core import cli
from stableanimator_core.conditioning import build_conditioning
from stableanimator_core.denoiser import frame_guidance, make_denoiser
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.models import AnimatorUNet
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import Hooks, SamplingConfig, StableAnimator, find_face, from_uint8, sample
from stableanimator_core.sampling import init_noise, karras_sigmas
from stableanimator_core.vae import cell_size, decode_latents
from stableanimator_core.weights import V1_CONFIG, Models, random_models

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
FRAMES = 8


@pytest.fixture(scope="module")
def half():
    return random_models(V1_CONFIG, device=DEVICE, dtype=torch.float16, seed=0)


@pytest.fixture(scope="module")
def single(half):
    """The same weights, in float32."""
    return replace(half, **{name: copy.deepcopy(module).float() for name, module in half.parts().items()})


@pytest.fixture(scope="module")
def clip():
    return make_clip(0, size=(V1_CONFIG.width, V1_CONFIG.height), frames=FRAMES, family="wave")


def off_by(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, in standard deviations of what is expected."""
    return ((found.float() - expected).square().mean().sqrt() / expected.std()).item()


@torch.no_grad()
def predict(models: Models, clip, sigma: float) -> Tensor:
    """x0 of noise at this level."""
    config = models.config
    generator = torch.Generator().manual_seed(0)
    cond = build_conditioning(
        models, from_uint8(clip.reference), np.zeros((FRAMES, config.height, config.width, 3), np.uint8),
        face=find_face(models, clip.reference, clip.reference_pose), size=(config.width, config.height),
        generator=generator,
    )  # fmt: skip
    cell = cell_size(models.vae)
    shape = (FRAMES, 4, config.height // cell, config.width // cell)
    x = init_noise(shape, sigma, generator=generator, device=models.device)
    guidance = frame_guidance(*config.guidance, FRAMES, device=models.device)
    return make_denoiser(models.unet, cond, guidance, [list(range(FRAMES))])(x, torch.tensor(sigma).to(x))


@torch.no_grad()
def run(models: Models, clip, hjb: HJBConfig, hooks: Hooks | None = None) -> tuple[Tensor, Tensor]:
    """Latents and frames of a short run."""
    settings = SamplingConfig.for_model(models.config, steps=4)
    face = find_face(models, clip.reference, clip.reference_pose)
    latents = sample(models, clip.reference, clip.poses, face, settings, hjb, hooks=hooks).latents
    return latents, decode_latents(models.vae, latents)


@pytest.mark.parametrize("step", [0, 12, 24])
def test_half_precision_of_one_step(half, single, clip, step):
    sigma = karras_sigmas(25, V1_CONFIG.sigma_min, V1_CONFIG.sigma_max)[step].item()
    drift = off_by(predict(half, clip, sigma), predict(single, clip, sigma))
    assert drift < 0.05, f"x0 is {drift:.4f} standard deviations off at sigma {sigma:.3g}"


def test_half_precision_of_a_short_run(half, single, clip):
    off = HJBConfig(iterations=0)
    (latents, video), (expected_latents, expected) = run(half, clip, off), run(single, clip, off)
    drift = off_by(latents, expected_latents)
    assert drift < 0.1, f"latents are {drift:.4f} standard deviations off"
    assert off_by(video.clamp(-1, 1), expected.clamp(-1, 1)) < 0.15


def test_face_optimisation_in_half_precision(half, clip):
    """No NaN, and the face comes nearer to the reference's from round to round."""
    seen = {}
    hooks = Hooks(on_identity=lambda like: seen.setdefault(like.step, []).append(like.csim.nanmean().item()))
    latents, video = run(half, clip, HJBConfig(iterations=3, first_step=1, last_step=3), hooks)
    assert latents.isfinite().all() and video.isfinite().all()
    assert sorted(seen) == [1, 2, 3]
    for step, csim in seen.items():
        assert np.isfinite(csim).all() and csim[-1] > csim[0], f"step {step}: {csim}"


def test_recorded_unet_on_the_gpu():
    """The numbers of the reference, in single and in half precision."""
    case = load_case("procedural_fullsize")
    with init_empty_weights():
        unet = AnimatorUNet(**case.config["unet_config"])
    fill_procedurally(unet).to(DEVICE)
    names = ("sample", "timestep", "encoder_hidden_states", "added_time_ids", "pose_latents")
    inputs = [case.inputs[f"unet.{name}"].to(DEVICE) for name in names]
    expected = case.outputs["unet.out_pose"].to(DEVICE)
    with torch.no_grad():
        found = unet(*inputs)
        torch.testing.assert_close(found, expected, atol=2e-3 * expected.std().item(), rtol=0)
        sample, timestep, *rest = inputs
        found = unet.half()(sample.half(), timestep, *(tensor.half() for tensor in rest))
    assert off_by(found, expected) < 0.02


@pytest.mark.parametrize("iterations", [0, 3])
def test_the_built_in_model_is_the_same_on_gpu_and_cpu(iterations):
    videos = []
    for device in ("cpu", DEVICE):
        animator = StableAnimator.load("mini", device=device)
        config = animator.models.config
        clip = make_clip(1, size=(config.width, config.height), frames=4, family="wave")
        made = animator.animate(
            clip.reference, clip.poses, clip.reference_pose, steps=6,
            hjb=HJBConfig(iterations=iterations, first_step=3, last_step=4, margin=1),
        )  # fmt: skip
        videos.append(made.frames.astype(float))
    off = np.abs(videos[0] - videos[1])
    assert off.mean() < (1.0 if iterations else 0.1), f"{off.mean():.3f} of 255 off"
    assert np.quantile(off, 0.999) <= (24 if iterations else 2)


def test_bench(capsys):
    gc.collect()
    argv = ["bench", "--model", "v1", "--random-weights", "--device", DEVICE, "--dtype", "fp16", "--json"]
    argv += ["--frames", "4", "--steps", "2", "--hjb-iterations", "1", "--repeats", "2"]
    status = cli.main(argv)
    out, err = capsys.readouterr()
    assert status == 0, err
    result = json.loads(out)
    assert not result["nan"]
    assert (result["device"].partition(":")[0], result["dtype"], result["size"]) == ("cuda", "fp16", [512, 512])
    assert result["unet_forward_s"] < result["unet_step_s"] < result["total_s"]
    assert 0 < result["hjb_extra_peak_gib"] < result["peak_gib"]
    assert result["peak_gib"] > 2 * sum([1_550_182_122, 65_156_160]) / (1 << 30), "less than the weights alone"
