"""One refined sampling step gives the recorded losses, gradients and latents, iteration by iteration."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from golden import load_case, with_prefix
from recorded import RecordedEmbedder

from stableanimator_core.denoiser import x0_from_v
from stableanimator_core.face import FaceBoxes, crop_faces
from stableanimator_core.face_windows import place_windows
from stableanimator_core.hjb import face_gradient, make_face_refiner
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.sampling import sample_euler
from stableanimator_core.vae import cell_size, decode_latents


@pytest.fixture(scope="module")
def recorded():
    case = load_case("hjb_step")
    config, outputs = case.config, case.outputs
    vae = AutoencoderKLTemporalDecoder(**config["vae_config"]).eval()
    vae.decoder.load_state_dict(with_prefix(case.weights, "vae.decoder."))
    size = outputs["crops_112_iter0"].shape[-1]
    embed = RecordedEmbedder(config["face_embedder"], with_prefix(case.weights, "face."), size).eval()
    y_min, y_max, x_min, x_max = torch.tensor(config["boxes_ymin_ymax_xmin_xmax_inclusive"]).float().unbind(1)
    boxes = FaceBoxes(torch.stack([x_min, y_min, x_max + 1, y_max + 1], 1), torch.ones(len(x_min), dtype=torch.bool))
    x, v = case.inputs["sample"][0], case.inputs["model_output"][0]
    return SimpleNamespace(
        config=config,
        outputs=outputs,
        vae=vae.requires_grad_(False),
        embed=embed.requires_grad_(False),
        boxes=boxes,
        target=case.inputs["refine_reference_face_embeddings"][0],
        reference=case.inputs["reference_face_112"],
        x=x,
        v=v,
        x0=x0_from_v(v, x, torch.tensor(config["sigma"])),
    )


def hjb_config(recorded, iterations: int) -> HJBConfig:
    step = recorded.config["step_index"]
    return HJBConfig(
        iterations=iterations,
        first_step=step,
        last_step=step,
        lr=recorded.config["eta_scheduler"],
        decode="full",
        scope="all",
        chunk=recorded.config["decode_chunk_size"],
    )


def refiner(recorded, iterations: int, on_identity=None):
    return make_face_refiner(
        recorded.vae,
        recorded.embed,
        recorded.target,
        recorded.boxes,
        hjb_config(recorded, iterations),
        recorded.config["num_inference_steps"],
        on_identity=on_identity,
    )


def iterations(recorded) -> range:
    return range(recorded.config["num_optimization_iter"])


@torch.no_grad()
def test_decoded_faces(recorded):
    outputs = recorded.outputs
    torch.testing.assert_close(recorded.x0, outputs["pred_original_sample_before"][0], atol=1e-5, rtol=0)
    chunk = recorded.config["decode_chunk_size"]
    frames = decode_latents(recorded.vae, recorded.x0, chunk=chunk, overlap=0).clamp(-1, 1)
    torch.testing.assert_close(frames, outputs["decoded_frames_iter0"], atol=1e-5, rtol=0)
    crops = crop_faces(frames, recorded.boxes, recorded.embed.input_size)
    torch.testing.assert_close(crops, outputs["crops_112_iter0"], atol=1e-5, rtol=0)
    torch.testing.assert_close(recorded.embed(crops), outputs["face_embeddings_iter0"], atol=1e-5, rtol=0)
    torch.testing.assert_close(recorded.embed(recorded.reference)[0], recorded.target, atol=1e-5, rtol=0)


def test_losses(recorded):
    losses = []
    refine = refiner(recorded, len(iterations(recorded)), lambda seen: losses.append((1 - seen.csim).mean()))
    refine(recorded.x0, recorded.config["step_index"])
    torch.testing.assert_close(torch.stack(losses), recorded.outputs["losses"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("inference", [False, True])
def test_latents_after_every_iteration(recorded, inference):
    for k in iterations(recorded):
        with torch.inference_mode(inference):
            x0 = refiner(recorded, k + 1)(recorded.x0.clone(), recorded.config["step_index"])
        torch.testing.assert_close(x0.clone(), recorded.outputs[f"z0_after_iter{k}"][0], atol=1e-3, rtol=0)
    torch.testing.assert_close(x0.clone(), recorded.outputs["pred_original_sample_after"][0], atol=1e-3, rtol=0)


def test_gradients(recorded):
    chunk, cell = recorded.config["decode_chunk_size"], cell_size(recorded.vae)
    windows = place_windows(recorded.boxes, recorded.x0.shape[-2:], cell, chunk=chunk, margin=None)
    x0 = recorded.x0
    for k in iterations(recorded):
        _, gradient = face_gradient(x0, windows, recorded.vae, recorded.embed, recorded.target)
        torch.testing.assert_close(gradient, recorded.outputs[f"grad_iter{k}"][0], atol=1e-6, rtol=1e-3)
        x0 = recorded.outputs[f"z0_after_iter{k}"][0]


@pytest.mark.parametrize("refined", [False, True])
def test_euler_step(recorded, refined):
    step, sigmas = recorded.config["step_index"], torch.tensor([recorded.config[k] for k in ("sigma", "sigma_next")])
    optimise = refiner(recorded, len(iterations(recorded)))
    refine = (lambda x0, _: optimise(x0, step)) if refined else None
    x = sample_euler(lambda x, sigma: x0_from_v(recorded.v, x, sigma), recorded.x, sigmas, refine=refine)
    expected = recorded.outputs["prev_sample" if refined else "prev_sample_no_refine"][0]
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)


def test_recorded_learning_rate(recorded):
    eta, step, steps = (recorded.config[key] for key in ("eta_scheduler", "step_index", "num_inference_steps"))
    moved = refiner(recorded, 1)(recorded.x0, step) - recorded.x0
    assert moved.abs().max().item() == pytest.approx(recorded.config["learning_rate"], rel=1e-4)
    assert recorded.config["learning_rate"] == pytest.approx(eta * (1 - step / steps))
