"""Stable Video Diffusion's single file (svd_xt.safetensors): its VAE and image encoder under diffusers' names.

Only the tensors of the wanted part are read from the 9.5 GB.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import WeightsError
from .convert import State, check_file

# The picture is encoded by the conditioner's VAE, which has the quant_conv of diffusers' layout; frames are decoded by
# the first stage, whose own encoder has none.
CONDITIONER, FIRST_STAGE = "conditioner.embedders.3.encoder.", "first_stage_model."
VISUAL = "conditioner.embedders.0.open_clip.model.visual."
PREFIX = {"vae": f"{FIRST_STAGE}decoder.", "image_encoder": VISUAL}

_VAE_NAMES = {
    ".mid.block_1.": ".mid_block.resnets.0.",
    ".mid.block_2.": ".mid_block.resnets.1.",
    ".mid.attn_1.": ".mid_block.attentions.0.",
    ".block.": ".resnets.",
    ".downsample.": ".downsamplers.0.",
    ".upsample.": ".upsamplers.0.",
    ".nin_shortcut.": ".conv_shortcut.",
    ".norm_out.": ".conv_norm_out.",
    ".conv_out.time_mix_conv.": ".time_conv_out.",
    ".attentions.0.norm.": ".attentions.0.group_norm.",
    ".attentions.0.q.": ".attentions.0.to_q.",
    ".attentions.0.k.": ".attentions.0.to_k.",
    ".attentions.0.v.": ".attentions.0.to_v.",
    ".attentions.0.proj_out.": ".attentions.0.to_out.0.",
    ".time_stack.in_layers.0.": ".temporal_res_block.norm1.",
    ".time_stack.in_layers.2.": ".temporal_res_block.conv1.",
    ".time_stack.out_layers.0.": ".temporal_res_block.norm2.",
    ".time_stack.out_layers.3.": ".temporal_res_block.conv2.",
    ".mix_factor": ".time_mixer.mix_factor",
}
_VISUAL_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.": "vision_model.embeddings.patch_embedding.",
    "ln_pre.": "vision_model.pre_layrnorm.",
    "ln_post.": "vision_model.post_layernorm.",
    "transformer.resblocks.": "vision_model.encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def is_single_file(path: Path, part: str) -> bool:
    """Whether a safetensors file holds this part under the names of Stable Video Diffusion's single file.

    Raises WeightsError when the file is damaged.
    """
    return any(key.startswith(PREFIX[part]) for key in _keys(path))


def read_single_file(path: Path, part: str) -> State:
    """State dict of the "vae" or the "image_encoder". Raises WeightsError when the file is damaged."""
    wanted = (CONDITIONER, FIRST_STAGE) if part == "vae" else (VISUAL,)
    keys = [key for key in _keys(path) if key.startswith(wanted)]
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in keys}
    return convert_vae(state) if part == "vae" else convert_image_encoder(state)


def convert_vae(state: State) -> State:
    """The VAE of a single file as diffusers' AutoencoderKLTemporalDecoder names it."""
    decoder = _below(state, f"{FIRST_STAGE}decoder.")
    encoder = _below(state, f"{CONDITIONER}encoder.") or _below(state, f"{FIRST_STAGE}encoder.")
    found = {f"decoder.{key}": tensor for key, tensor in decoder.items()}
    found |= {f"encoder.{key}": tensor for key, tensor in encoder.items()}
    levels = len({key.split(".")[1] for key in decoder if key.startswith("up.")})
    made = {_vae_name(key, levels): _unconvolved(key, tensor) for key, tensor in found.items()}
    quant_conv = _below(state, f"{CONDITIONER}quant_conv.") or _below(state, f"{FIRST_STAGE}quant_conv.")
    if not quant_conv and "conv_out.bias" in encoder:  # an encoder that has it folded into its last convolution
        channels = len(encoder["conv_out.bias"])
        quant_conv = {"weight": torch.eye(channels)[:, :, None, None], "bias": torch.zeros(channels)}
    return made | {f"quant_conv.{key}": tensor for key, tensor in quant_conv.items()}


def convert_image_encoder(state: State) -> State:
    """OpenCLIP's vision tower of a single file as transformers' CLIPVisionModelWithProjection names it."""
    made: State = {}
    for key, tensor in _below(state, VISUAL).items():
        if key == "proj":
            made["visual_projection.weight"] = tensor.T.contiguous()  # [hidden, D] -> [D, hidden]
            continue
        name = _renamed(key, _VISUAL_NAMES)
        layer, joined, kind = name.partition(".attn.in_proj_")
        if joined:
            thirds = zip("qkv", tensor.chunk(3))  # [3 * hidden, ...]
            made |= {f"{layer}.self_attn.{letter}_proj.{kind}": third for letter, third in thirds}
        else:
            made[name] = tensor
    return made


def _keys(path: Path) -> list[str]:
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged ({error}); download it again") from error


def _below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _renamed(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        key = key.replace(old, new)
    return key


def _vae_name(key: str, levels: int) -> str:
    """The decoder's levels are counted from the other end; its blocks are a spatial and a temporal one each."""
    key = _renamed(key, _VAE_NAMES)
    key = re.sub(r"^encoder\.down\.", "encoder.down_blocks.", key)
    key = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}", key)
    return re.sub(r"^(decoder\..*\.resnets\.\d+)\.(norm|conv)", r"\1.spatial_res_block.\2", key)


def _unconvolved(key: str, tensor: Tensor) -> Tensor:
    """Attention's 1x1 convolutions are matrices in diffusers."""
    return tensor[:, :, 0, 0] if ".attn_1." in key and tensor.ndim == 4 else tensor
