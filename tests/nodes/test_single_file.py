"""The conversion of Stable Video Diffusion's single file, against the code that ComfyUI itself runs such files with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs inside ComfyUI's folder: builds its networks at a small size with random weights, hands their state dicts to our
# conversion under the names of the single file, and compares what both compute.
SCRIPT = """
import utils.install_util  # before anything else that is called utils, as main.py does
from comfy.cli_args import args
args.cpu = True
import comfy.clip_model, comfy.clip_vision, comfy.ops, torch
from comfy.ldm.modules.diffusionmodules.model import Encoder
from comfy.ldm.modules.temporal_ae import VideoDecoder
from diffusers import AutoencoderKLTemporalDecoder
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from stableanimator_core.vae import decode_latents, encode_image
from stableanimator_core.weights.single_file import convert_image_encoder, convert_vae

def randomise(module):
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
        shift = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
        weight.data = torch.randn(weight.shape, generator=generator) * scale + shift
    return module.eval()

def under(prefix, module):
    return {prefix + key: tensor for key, tensor in module.state_dict().items()}

def assert_close(actual, expected, what):
    assert expected.std() > 0.05, (what, expected.std())
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=2e-4, msg=lambda text: what + ": " + text)

with torch.no_grad():
    settings = dict(double_z=True, z_channels=4, resolution=32, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 2, 4],
                    num_res_blocks=2, attn_resolutions=[], dropout=0.0)
    encoder = randomise(Encoder(**settings))
    decoder = randomise(VideoDecoder(**settings, video_kernel_size=[3, 1, 1], alpha=0.0))
    factors = [name for name in decoder.state_dict() if name.endswith("mix_factor")]
    assert len(factors) == 2 + 3 * 3 and len({float(decoder.state_dict()[name]) for name in factors}) > 9
    quant_conv = randomise(torch.nn.Conv2d(8, 8, 1))
    single = under("first_stage_model.decoder.", decoder)
    single |= under("conditioner.embedders.3.encoder.encoder.", encoder)
    single |= under("conditioner.embedders.3.encoder.quant_conv.", quant_conv)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=["DownEncoderBlock2D"] * 3, block_out_channels=[32, 64, 128], layers_per_block=2,
        sample_size=32, scaling_factor=1.0,
    ).eval()
    vae.load_state_dict(convert_vae(single), strict=True)
    latents = torch.randn(5, 4, 4, 4)
    assert_close(decode_latents(vae, latents), decoder(latents), "frames")
    assert_close(decode_latents(vae, latents[:1]), decoder(latents[:1]), "one frame")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert_close(encode_image(vae, images), quant_conv(encoder(images))[:, :4], "latents")

    # OpenCLIP's names around random values: ComfyUI's own conversion and network, and ours
    width, layers = 64, 3
    config = dict(hidden_size=width, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
                  image_size=28, patch_size=14, projection_dim=32, hidden_act="gelu")
    shapes = {"class_embedding": [width], "positional_embedding": [5, width], "proj": [width, 32],
              "conv1.weight": [width, 3, 14, 14]}
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{i}.ln_{n}" for i in range(layers) for n in (1, 2))):
        shapes |= {norm + ".weight": [width], norm + ".bias": [width]}
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        shapes |= {block + "attn.in_proj_weight": [3 * width, width], block + "attn.in_proj_bias": [3 * width]}
        for name, out, into in (("attn.out_proj", width, width), ("mlp.c_fc", 128, width), ("mlp.c_proj", width, 128)):
            shapes |= {f"{block}{name}.weight": [out, into], f"{block}{name}.bias": [out]}
    generator = torch.Generator().manual_seed(1)
    values = {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}

    theirs = comfy.clip_model.CLIPVisionModelProjection(
        config | {"num_channels": 3, "model_type": "clip_vision_model"}, torch.float32, "cpu", comfy.ops.manual_cast
    ).eval()
    converted = comfy.clip_vision.convert_to_transformers({"visual." + key: v for key, v in values.items()}, "visual.")
    missing, unknown = theirs.load_state_dict(converted, strict=False)
    assert not missing and not unknown, (missing, unknown)
    ours = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    prefix = "conditioner.embedders.0.open_clip.model.visual."
    state = convert_image_encoder({prefix + key: value for key, value in values.items()})
    ours.load_state_dict(state, strict=True)
    assert state.keys() == converted.keys() and all(state[key].equal(converted[key]) for key in state)
    pictures = torch.randn(2, 3, 28, 28, generator=generator)
    assert_close(ours(pictures).image_embeds, theirs(pictures)[2], "image embedding")
print("equal")
"""


def test_both_parts_compute_what_comfyui_computes(comfyui):
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
    }  # after ComfyUI's own folder
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=comfyui, env=environment, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-3000:]
