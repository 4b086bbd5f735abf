"""The whole pipeline on tiny networks gives the recorded UNet inputs, latents after every step, and frames."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from golden import load_case, load_json
from procedural import fill_procedurally, procedural_tensor
from recorded import RecordedEmbedder
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from stableanimator_core import pipeline
from stableanimator_core.conditioning import build_conditioning
from stableanimator_core.denoiser import frame_guidance, make_denoiser
from stableanimator_core.face import FaceBoxes, ReferenceFace
from stableanimator_core.hjb import make_face_refiner
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.keypoints import Poses
from stableanimator_core.models import AnimatorUNet, FaceEncoder, PoseNet
from stableanimator_core.pipeline import SamplingConfig, from_uint8, sample
from stableanimator_core.sampling import karras_sigmas, sample_euler
from stableanimator_core.vae import cell_size, decode_latents
from stableanimator_core.weights import ModelConfig, Models
from stableanimator_core.windows import context_windows


def model_config(record: dict) -> ModelConfig:
    """What the reference was called with, as a model's configuration."""
    call, schedule = record["call"], record["scheduler_config"]
    return ModelConfig(
        name="recorded", description="", width=call["width"], height=call["height"], size_multiple=8,
        pose_canvas=call["height"], face_scale=1.5, context_window=call["tile_size"],
        context_overlap=call["tile_overlap"], fps=call["fps"], motion_bucket=int(call["motion_bucket_id"]),
        noise_augmentation=call["noise_aug_strength"], sigma_min=schedule["sigma_min"], sigma_max=schedule["sigma_max"],
        steps=call["num_inference_steps"], guidance=(call["min_guidance_scale"], call["max_guidance_scale"]),
        hjb={"first_step": 0, "last_step": 0},
    )  # fmt: skip


def face_network(embedding_dim: int, size: int) -> RecordedEmbedder:
    """The recorded face network; its layout line stands beside the HJB record."""
    layout = load_json("hjb_step.json")["face_embedder"]
    in_features = int(re.search(r"Linear\((\d+)", layout)[1])
    shapes = {"fc.weight": (embedding_dim, in_features), "fc.bias": (embedding_dim,)}
    for name, *sizes in re.findall(r"(\w+) = Conv2d\((\d+),\s*(\d+),\s*kernel (\d+)", layout):
        channels, out_channels, kernel = map(int, sizes)
        shapes |= {f"{name}.weight": (out_channels, channels, kernel, kernel), f"{name}.bias": (out_channels,)}
    weights = {key: procedural_tensor(key, shape) for key, shape in shapes.items()}
    return RecordedEmbedder(layout, weights, size).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def recorded():
    case = load_case("pipeline_tiny")
    record, inputs = case.config, case.inputs
    models = Models(
        unet=fill_procedurally(AnimatorUNet(**record["unet_config"])),
        pose_net=fill_procedurally(PoseNet(**record["pose_net"])),
        face_encoder=fill_procedurally(FaceEncoder(**record["face_encoder"])),
        face_embedder=face_network(
            inputs["reference_face_embedding"].shape[-1], inputs["reference_face_112"].shape[-1]
        ),
        vae=fill_procedurally(AutoencoderKLTemporalDecoder(**record["vae_config"])),
        image_encoder=fill_procedurally(
            CLIPVisionModelWithProjection(CLIPVisionConfig(**record["clip_vision_config"]))
        ),
        config=model_config(record),
    )
    return SimpleNamespace(
        models=models, inputs=inputs, outputs=case.outputs, call=record["call"],
        boxes=torch.tensor(record["boxes_ymin_ymax_xmin_xmax_inclusive"]), hjb=hjb_settings(record),
        timestep=record["first"]["plain"]["timestep0"], clip_keys=record["clip_state_dict_keys"],
    )  # fmt: skip


def hjb_settings(record: dict) -> HJBConfig:
    said = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", record["cases"]["hjb"])}
    return HJBConfig(
        iterations=said["num_optimization_iter"], first_step=said["start_refine_step"],
        last_step=said["end_refine_step"], lr=record["call"]["eta_scheduler"], decode="full", scope="all",
        chunk=record["call"]["decode_chunk_size"],
    )  # fmt: skip


def generator(recorded) -> torch.Generator:
    return torch.Generator().manual_seed(recorded.call["generator_seed_cpu"])


def repeated_noise(recorded, generator: torch.Generator) -> Tensor:
    """The reference draws its start noise for one window and repeats it over the clip."""
    call, cell = recorded.call, cell_size(recorded.models.vae)
    shape = (call["tile_size"], 4, call["height"] // cell, call["width"] // cell)
    noise = torch.randn(shape, generator=generator)
    times = math.ceil(call["num_frames"] / call["tile_size"])
    config = recorded.models.config
    return noise.repeat(times, 1, 1, 1)[: call["num_frames"]] * math.sqrt(config.sigma_max**2 + 1)


def in_unit_range(recorded, latents: Tensor) -> Tensor:
    frames = decode_latents(recorded.models.vae, latents, chunk=recorded.call["decode_chunk_size"], overlap=0)
    return (frames / 2 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def plain(recorded):
    """`pipeline.sample` as it is, but for the noise to start from: ours differs in every frame of a clip."""
    inputs, config, calls, after = recorded.inputs, recorded.models.config, [], []
    width, height, frames = config.width, config.height, recorded.call["num_frames"]
    sigmas = karras_sigmas(config.steps, config.sigma_min, config.sigma_max)

    def on_step(i, x0, x, steps):
        after.append(x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i]))

    def noise(shape, sigma_max, *, generator, device):
        made = repeated_noise(recorded, generator)
        assert (made.shape, sigma_max) == (shape, config.sigma_max)
        return made

    listener = recorded.models.unet.register_forward_pre_hook(lambda module, args: calls.append(args))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(pipeline, "init_noise", noise)
        made = sample(
            recorded.models, inputs["image_uint8_hwc"].numpy(), Poses.empty(frames, width, height, people=1),
            ReferenceFace(inputs["id_embedding"], torch.zeros(4)),
            SamplingConfig.for_model(config, seed=recorded.call["generator_seed_cpu"]), HJBConfig(iterations=0),
            pose_images=inputs["poses_uint8_fhwc"].numpy(), hooks=pipeline.Hooks(on_step=on_step),
        )  # fmt: skip
    listener.remove()
    return SimpleNamespace(first=calls[0], after=after, latents=made.latents)


@pytest.fixture(scope="module")
def refined(recorded):
    """The same parts with face optimisation. The record's face network is not that of its face tokens."""
    models, inputs, after = recorded.models, recorded.inputs, []
    config, random, frames = models.config, generator(recorded), recorded.call["num_frames"]
    y_min, y_max, x_min, x_max = recorded.boxes.float().unbind(1)
    boxes = FaceBoxes(torch.stack([x_min, y_min, x_max + 1, y_max + 1], 1), torch.ones(frames, dtype=torch.bool))
    with torch.no_grad():
        cond = build_conditioning(
            models, from_uint8(inputs["image_uint8_hwc"].numpy()), inputs["poses_uint8_fhwc"].numpy(),
            face=ReferenceFace(inputs["id_embedding"], torch.zeros(4)), size=(config.width, config.height),
            generator=random,
        )  # fmt: skip
        sigmas = karras_sigmas(config.steps, config.sigma_min, config.sigma_max)
        windows = context_windows(frames, config.context_window, config.context_overlap)
        denoise = make_denoiser(models.unet, cond, frame_guidance(*config.guidance, frames), windows)
        target = inputs["reference_face_embedding"][0]
        refine = make_face_refiner(models.vae, models.face_embedder, target, boxes, recorded.hjb, config.steps)

        def on_step(i, x0, x, steps):
            after.append(x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i]))

        latents = sample_euler(denoise, repeated_noise(recorded, random), sigmas, refine=refine, callback=on_step)
    return SimpleNamespace(after=after, latents=latents)


def test_networks_are_the_recorded_ones(recorded):
    with torch.no_grad():
        embedding = recorded.models.face_embedder(recorded.inputs["reference_face_112"])
    torch.testing.assert_close(embedding, recorded.inputs["reference_face_embedding"], atol=1e-4, rtol=0)
    ours = {key: list(tensor.shape) for key, tensor in recorded.models.image_encoder.state_dict().items()}
    assert ours == recorded.clip_keys


def test_first_unet_call(recorded, plain):
    """Unconditional and conditional half, in one call of ours and two of theirs."""
    sample, timestep, context, time_ids, pose = plain.first
    outputs, frames = recorded.outputs, sample.shape[1]

    def recorded_output(name: str) -> Tensor:
        return outputs[f"plain.{name}"]

    torch.testing.assert_close(sample[:1], recorded_output("first_unet_call_uncond_sample"), atol=1e-4, rtol=0)
    torch.testing.assert_close(sample[1:], recorded_output("first_unet_call_cond_sample"), atol=1e-4, rtol=0)
    torch.testing.assert_close(context[:1], recorded_output("first_uncond_context"), atol=1e-4, rtol=0)
    torch.testing.assert_close(context[1:], recorded_output("first_cond_context"), atol=1e-4, rtol=0)
    torch.testing.assert_close(pose[frames:], recorded_output("first_cond_pose_latents"), atol=1e-4, rtol=0)
    torch.testing.assert_close(time_ids, recorded_output("added_time_ids").expand(2, -1), atol=1e-5, rtol=0)
    assert not pose[:frames].any(), "the unconditional half sees no pose"
    assert timestep.tolist() == pytest.approx([recorded.timestep] * 2, rel=1e-6)


def test_latents_after_every_step(recorded, plain):
    for i, latents in enumerate(plain.after):
        expected = recorded.outputs[f"plain.latents_after_step{i}"][0]
        torch.testing.assert_close(latents, expected, atol=2e-3, rtol=0, msg=lambda text, i=i: f"step {i}: {text}")
    assert len(plain.after) == recorded.call["num_inference_steps"]
    torch.testing.assert_close(plain.latents, plain.after[-1], atol=1e-5, rtol=0)


def test_frames(recorded, plain):
    frames = in_unit_range(recorded, plain.latents)
    torch.testing.assert_close(frames, recorded.outputs["plain.frames"], atol=1e-3, rtol=0)


def test_refined_latents(recorded, refined):
    """Adam's first step is the gradient's sign, so single latents may flip; nearly all must not, and the mean not."""
    hjb = recorded.hjb
    for i, latents in enumerate(refined.after):
        expected = recorded.outputs[f"hjb.latents_after_step{i}"][0]
        off = (latents - expected).abs()
        if i < hjb.first_step:
            assert off.max() < 2e-3
        else:
            moved = (expected - recorded.outputs[f"plain.latents_after_step{i}"][0]).abs().mean()
            assert off.mean() < 0.02 * moved, f"step {i}"
            assert np.quantile(off, 0.99) < 0.2 * moved, f"step {i}"


def test_refined_frames(recorded, refined):
    off = (in_unit_range(recorded, refined.latents) - recorded.outputs["hjb.frames"]).abs().numpy()
    assert off.mean() < 1e-3
    assert np.quantile(off, 0.999) < 2e-2
    plain = (recorded.outputs["plain.frames"] - recorded.outputs["hjb.frames"]).abs().mean()
    assert off.mean() < 0.1 * plain, "closer to the refined clip than the plain one is"
