"""The published v1: its full-size networks have the published keys, and its files load from everywhere they may lie."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from golden import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stableanimator_core import weights
from stableanimator_core.conditioning import build_conditioning
from stableanimator_core.errors import WeightsError
from stableanimator_core.vae import decode_latents, encode_image
from stableanimator_core.weights import (
    V1_CONFIG,
    Places,
    available_models,
    build_models,
    load_models,
    load_published,
    random_models,
    read_config,
    save_models,
    single_file,
)
from stableanimator_core.weights.registry import FILES, V1
from stableanimator_core.weights.single_file import convert_image_encoder, convert_vae, read_single_file

# --- the full-size networks -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size():
    with init_empty_weights():
        return build_models(V1_CONFIG)


@pytest.mark.parametrize(
    "part, name",
    [("unet", "unet"), ("pose_net", "pose_net"), ("face_encoder", "face_encoder"), ("face_embedder", "iresnet100")],
)
def test_published_keys_and_shapes(full_size, part, name):
    published = json.loads((GOLDEN / "state_dict_keys" / f"{name}.json").read_text())
    assert {key: list(t.shape) for key, t in getattr(full_size, part).state_dict().items()} == published


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_sizes_of_stable_video_diffusions_files(full_size, part):
    """float32 tensors fill the published files up to the header, which is under 1 % of them."""
    tensors = sum(tensor.nbytes for tensor in getattr(full_size, part).state_dict().values())
    assert 0 < FILES[part].size - tensors < 100_000


def test_settings_of_v1():
    assert V1_CONFIG.trained_sizes == ((512, 512), (576, 1024))
    assert set(V1_CONFIG.parts) == set(V1)
    assert V1_CONFIG.face_crop == "arcface"


# --- tiny networks in the published layout --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tiny_model):
    """The tiny model with InsightFace's head and without a judge, as in v1."""
    tiny = read_config(tiny_model)
    parts = {part: settings for part, settings in tiny.parts.items() if part != "face_judge"}
    parts["face_embedder"] = parts["face_embedder"] | {"head": "fc"}
    parts["vae"] = parts["vae"] | {"layers_per_block": 2}  # the middle of the original has two blocks
    return replace(tiny, parts=parts)


@pytest.fixture(scope="module")
def models(config):
    return random_models(config, seed=3)


@pytest.fixture
def folder(models, tmp_path) -> Path:
    """A models folder with every file of v1 where it belongs."""
    for part, module in models.parts().items():
        path = tmp_path / FILES[part].path
        path.parent.mkdir(parents=True, exist_ok=True)
        save = torch.save if path.suffix == ".pth" else save_file
        save({key: tensor.contiguous() for key, tensor in module.state_dict().items()}, path)
    return tmp_path


@pytest.fixture
def as_v1(config, monkeypatch):
    """Make the tiny networks be v1."""
    tiny = replace(config, name="v1")
    monkeypatch.setattr(weights, "V1_CONFIG", tiny)
    return tiny


def assert_same(models, expected, dtype=None) -> None:
    assert models.parts().keys() == expected.parts().keys()
    for part, module in models.parts().items():
        own, other = module.state_dict(), expected.parts()[part].state_dict()
        assert own.keys() == other.keys()
        for key, tensor in own.items():
            assert tensor.equal(other[key].to(dtype) if dtype and tensor.is_floating_point() else other[key]), key


def test_v1_from_a_models_folder(folder, models, as_v1):
    loaded = load_models("v1", places=Places((folder,)))
    assert loaded.config == as_v1
    assert_same(loaded, models)
    assert loaded.dtype == torch.float32 and loaded.face_judge is None
    for part, module in loaded.parts().items():
        assert not module.training, part
        assert not any(weight.requires_grad or weight.is_meta for weight in module.parameters()), part
    kept = sorted(path.name for path in (folder / "Animation").glob("*.safetensors"))
    assert kept == [f"{part}.safetensors" for part in ("face_encoder", "glintr100_torch", "pose_net", "unet")]
    assert_same(load_models("v1", places=Places((folder,))), models)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_in_the_published_layout(folder, models, as_v1, kind, tmp_path):
    elsewhere = Places((tmp_path / "nothing here",))
    assert_same(load_models(kind(folder), places=elsewhere), models)
    assert_same(load_models(kind(folder)), models)


def test_the_single_file_among_the_checkpoints_serves(folder, models, as_v1, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    save_file(as_single_file(models), checkpoints / "svd_xt.safetensors")
    for part in ("vae", "image_encoder"):
        (folder / FILES[part].path).unlink()
    assert_same(load_models("v1", places=Places((folder,), checkpoints=(checkpoints,))), models)


def test_embedder_from_insightfaces_onnx(folder, models, as_v1, tmp_path):
    pytest.importorskip("onnx")
    (folder / FILES["face_embedder"].path).unlink()
    path = tmp_path / "insightface" / "models" / "antelopev2" / "antelopev2" / "glintr100.onnx"
    path.parent.mkdir(parents=True)
    size = models.face_embedder.input_size
    torch.onnx.export(models.face_embedder, (torch.zeros(1, 3, size, size),), path, dynamo=False)
    places = Places((folder,), insightface=(tmp_path / "insightface",))
    faces = torch.randn(2, 3, size, size)
    for _ in range(2):  # from the ONNX file, then from its copy
        loaded = load_models("v1", places=places)
        out, expected = loaded.face_embedder(faces), models.face_embedder(faces)
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        assert path.with_suffix(".safetensors").is_file()
        path.write_bytes(b"x" * path.stat().st_size)


def test_image_encoder_of_an_earlier_transformers(folder, models, as_v1):
    path = folder / FILES["image_encoder"].path
    state = load_file(path)
    save_file(state | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}, path)
    assert_same(load_models("v1", places=Places((folder,))), models)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder, models, as_v1, dtype):
    loaded = load_models("v1", dtype=dtype, places=Places((folder,)))
    assert loaded.dtype == dtype
    for part, module in loaded.parts().items():
        for key, tensor in module.state_dict().items():
            upcast = dtype == torch.float16 and part == "vae" and not key.startswith("decoder.")
            expected = torch.float32 if upcast else dtype
            assert tensor.dtype == (expected if tensor.is_floating_point() else torch.int64), f"{part}.{key}"


def test_float16_without_force_upcast(config):
    parts = config.parts | {"vae": config.parts["vae"] | {"force_upcast": False}}
    vae = random_models(replace(config, parts=parts), dtype=torch.float16).vae
    assert {tensor.dtype for tensor in vae.state_dict().values()} == {torch.float16}


@torch.no_grad()
def test_a_float32_encoder_beside_a_float16_decoder(folder, models, as_v1):
    loaded = load_models("v1", dtype=torch.float16, places=Places((folder,)))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = encode_image(loaded.vae, images)
    assert latents.equal(encode_image(models.vae, images)), "computed in float32"
    frames, expected = decode_latents(loaded.vae, latents), decode_latents(models.vae, latents)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, expected, atol=0.05, rtol=0.05)
    poses = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    made = build_conditioning(loaded, images[0], poses, face=None, size=(64, 64), generator=generator)
    assert made.image_latents.dtype == made.context.dtype == torch.float16
    assert made.image_latents.isfinite().all()


def test_loading_inside_inference_mode(folder, as_v1):
    with torch.inference_mode():
        loaded = load_models("v1", places=Places((folder,)))
        tensors = [tensor for module in loaded.parts().values() for tensor in module.state_dict().values()]
        assert not any(tensor.is_inference() for tensor in tensors)


def test_files_by_part(folder, models, config):
    files = {part: folder / FILES[part].path for part in V1}
    assert_same(load_published(config, files, device="cpu", dtype=None), models)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_v1_without_files(tmp_path):
    with pytest.raises(WeightsError) as error:
        load_models("v1", places=Places((tmp_path,)))
    message = str(error.value)
    assert message.startswith(f"missing in {tmp_path}: ") and "weights download v1" in message and "\n" not in message
    assert all(FILES[part].path in message for part in V1)


def test_a_missing_file_is_named(folder, as_v1):
    (folder / FILES["pose_net"].path).unlink()
    with pytest.raises(WeightsError, match=r"missing in .*: Animation/pose_net\.pth; fetch with: "):
        load_models(folder)


def change(path: Path, edit) -> None:
    state = torch.load(path) if path.suffix == ".pth" else {key: t.clone() for key, t in load_file(path).items()}
    edit(state)
    (torch.save if path.suffix == ".pth" else save_file)(state, path)


@pytest.mark.parametrize("part", V1)
@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_weights_of_another_model(folder, as_v1, models, part, fault):
    key = next(iter(getattr(models, part).state_dict()))
    edits = {
        "missing": lambda state: state.pop(key),
        "unknown": lambda state: state.update(colour=torch.ones(1)),
        "shape": lambda state: state.update({key: torch.ones(7)}),
    }
    path = folder / FILES[part].path
    change(path, edits[fault])
    with pytest.raises(WeightsError) as error:
        load_models(folder)
    total = len(getattr(models, part).state_dict())
    first = "colour" if fault == "unknown" else key
    assert str(error.value) == (
        f"{path}: 1 of {total} tensors are missing, unknown or of another shape (first: {first}); "
        "these weights belong to another model"
    )


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_a_damaged_file_is_named(folder, as_v1, part):
    path = folder / FILES[part].path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError) as error:
        load_models(folder)
    assert str(error.value).startswith(f"{path}: damaged") and "\n" not in str(error.value)


# --- Stable Video Diffusion's single file ---------------------------------------------------------------------------

CONDITIONER, FIRST_STAGE = "conditioner.embedders.3.encoder.", "first_stage_model."
VISUAL = "conditioner.embedders.0.open_clip.model.visual."


class Original:
    """A state dict under the original's names, written module by module."""

    def __init__(self):
        self.state: dict[str, Tensor] = {}

    def put(self, prefix: str, module: nn.Module) -> None:
        self.state |= {f"{prefix}.{key}": tensor for key, tensor in module.state_dict().items()}

    def resnet(self, prefix: str, block: nn.Module) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            self.put(f"{prefix}.{name}", getattr(block, name))
        if block.conv_shortcut is not None:
            self.put(f"{prefix}.nin_shortcut", block.conv_shortcut)

    def video(self, prefix: str, block: nn.Module) -> None:
        self.resnet(prefix, block.spatial_res_block)
        time = block.temporal_res_block
        for name, layer in (("in", (time.norm1, time.conv1)), ("out", (time.norm2, time.conv2))):
            self.put(f"{prefix}.time_stack.{name}_layers.0", layer[0])
            self.put(f"{prefix}.time_stack.{name}_layers.{2 if name == 'in' else 3}", layer[1])
        self.state[f"{prefix}.mix_factor"] = block.time_mixer.mix_factor

    def attention(self, prefix: str, layer: nn.Module) -> None:
        self.put(f"{prefix}.norm", layer.group_norm)
        for name, linear in (("q", layer.to_q), ("k", layer.to_k), ("v", layer.to_v), ("proj_out", layer.to_out[0])):
            self.state[f"{prefix}.{name}.weight"] = linear.weight[:, :, None, None].clone()
            self.state[f"{prefix}.{name}.bias"] = linear.bias

    def encoder(self, prefix: str, encoder: nn.Module) -> None:
        for level, block in enumerate(encoder.down_blocks):
            for number, resnet in enumerate(block.resnets):
                self.resnet(f"{prefix}.down.{level}.block.{number}", resnet)
            if block.downsamplers is not None:
                self.put(f"{prefix}.down.{level}.downsample.conv", block.downsamplers[0].conv)
        for number, resnet in enumerate(encoder.mid_block.resnets, 1):
            self.resnet(f"{prefix}.mid.block_{number}", resnet)
        self.attention(f"{prefix}.mid.attn_1", encoder.mid_block.attentions[0])
        for ours, name in ((encoder.conv_in, "conv_in"), (encoder.conv_norm_out, "norm_out")):
            self.put(f"{prefix}.{name}", ours)
        self.put(f"{prefix}.conv_out", encoder.conv_out)

    def decoder(self, prefix: str, decoder: nn.Module) -> None:
        for level, block in enumerate(reversed(decoder.up_blocks)):
            for number, resnet in enumerate(block.resnets):
                self.video(f"{prefix}.up.{level}.block.{number}", resnet)
            if block.upsamplers is not None:
                self.put(f"{prefix}.up.{level}.upsample.conv", block.upsamplers[0].conv)
        for number, resnet in enumerate(decoder.mid_block.resnets, 1):
            self.video(f"{prefix}.mid.block_{number}", resnet)
        self.attention(f"{prefix}.mid.attn_1", decoder.mid_block.attentions[0])
        for ours, name in ((decoder.conv_in, "conv_in"), (decoder.conv_norm_out, "norm_out")):
            self.put(f"{prefix}.{name}", ours)
        self.put(f"{prefix}.conv_out", decoder.conv_out)
        self.put(f"{prefix}.conv_out.time_mix_conv", decoder.time_conv_out)

    def image_encoder(self, prefix: str, clip: nn.Module) -> None:
        tower, embeddings = clip.vision_model, clip.vision_model.embeddings
        self.state[f"{prefix}.class_embedding"] = embeddings.class_embedding
        self.state[f"{prefix}.positional_embedding"] = embeddings.position_embedding.weight
        self.state[f"{prefix}.proj"] = clip.visual_projection.weight.T
        self.put(f"{prefix}.conv1", embeddings.patch_embedding)
        self.put(f"{prefix}.ln_pre", tower.pre_layrnorm)
        self.put(f"{prefix}.ln_post", tower.post_layernorm)
        for number, layer in enumerate(tower.encoder.layers):
            block, attention = f"{prefix}.transformer.resblocks.{number}", layer.self_attn
            three = (attention.q_proj, attention.k_proj, attention.v_proj)
            for kind in ("weight", "bias"):
                self.state[f"{block}.attn.in_proj_{kind}"] = torch.cat([getattr(proj, kind) for proj in three])
            self.put(f"{block}.attn.out_proj", attention.out_proj)
            self.put(f"{block}.mlp.c_fc", layer.mlp.fc1)
            self.put(f"{block}.mlp.c_proj", layer.mlp.fc2)
            self.put(f"{block}.ln_1", layer.layer_norm1)
            self.put(f"{block}.ln_2", layer.layer_norm2)


def as_single_file(models) -> dict[str, Tensor]:
    """What svd_xt.safetensors holds: both encoders (the first stage's differs here, to tell them apart), the UNet."""
    original = Original()
    original.encoder(f"{FIRST_STAGE}encoder", models.vae.encoder)
    original.state = {key: tensor + 1 for key, tensor in original.state.items()}
    original.encoder(f"{CONDITIONER}encoder", models.vae.encoder)
    original.put(f"{CONDITIONER}quant_conv", models.vae.quant_conv)
    original.put(f"{CONDITIONER}post_quant_conv", nn.Conv2d(4, 4, 1))
    original.put(f"{CONDITIONER}decoder.conv_in", models.vae.decoder.conv_in)
    original.decoder(f"{FIRST_STAGE}decoder", models.vae.decoder)
    original.image_encoder(VISUAL.rstrip("."), models.image_encoder)
    original.state["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(3)
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in original.state.items()}


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_single_file_gives_the_same_tensors(models, tmp_path, part):
    path = tmp_path / "svd_xt.safetensors"
    save_file(as_single_file(models), path)
    state, expected = read_single_file(path, part), getattr(models, part).state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert state[key].equal(tensor), key


def test_only_the_wanted_tensors_are_read(models, tmp_path, monkeypatch):
    read = []

    class Spy:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, key):
            read.append(key)
            return self.file.get_tensor(key)

    save_file(as_single_file(models), tmp_path / "svd_xt.safetensors")
    monkeypatch.setattr(single_file, "safe_open", Spy)
    read_single_file(tmp_path / "svd_xt.safetensors", "image_encoder")
    assert read and all(key.startswith(VISUAL) for key in read)


@torch.no_grad()
def test_an_encoder_without_quant_conv(models):
    """A file that lacks the conditioner: the first stage's own encoder gives the moments itself."""
    original = Original()
    original.encoder(f"{FIRST_STAGE}encoder", models.vae.encoder)
    original.decoder(f"{FIRST_STAGE}decoder", models.vae.decoder)
    vae = deepcopy(models.vae)
    vae.load_state_dict(convert_vae(original.state), strict=True)
    images = torch.rand(1, 3, 64, 64)
    moments = vae.quant_conv(vae.encoder(images))
    assert moments.equal(models.vae.encoder(images))


def test_a_single_file_without_the_image_encoder(models, folder, as_v1, tmp_path):
    state = {key: tensor for key, tensor in as_single_file(models).items() if not key.startswith(VISUAL)}
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    save_file(state, checkpoints / "svd_xt.safetensors")
    (folder / FILES["image_encoder"].path).unlink()
    with pytest.raises(WeightsError, match=r"svd_xt\.safetensors: \d+ of \d+ tensors are missing, unknown"):
        load_models("v1", places=Places((folder,), checkpoints=(checkpoints,)))


def test_an_unknown_tensor_in_the_image_encoder_is_named(models):
    original = Original()
    original.image_encoder(VISUAL.rstrip("."), models.image_encoder)
    original.state[f"{VISUAL}colour"] = torch.ones(1)
    assert "colour" in convert_image_encoder(original.state)


# --- the menu -------------------------------------------------------------------------------------------------------


def test_available_models(folder, models, tiny_model, tmp_path):
    root = tmp_path / "more"
    save_models(models, root / "mine")
    save_models(models, root / "half")
    (root / "half" / "unet.safetensors").unlink()
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    (root / "no model").mkdir()
    (folder / FILES["pose_net"].path).unlink()
    found = available_models(Places((folder, root)))
    assert list(found) == ["mini", "v1", "broken", "half", "mine"]
    assert found["mini"].complete and found["mini"].model == "mini"
    assert found["v1"].missing == ("Animation/pose_net.pth",) and not found["v1"].complete
    assert found["v1"].model == "v1" and found["v1"].description == V1_CONFIG.description
    assert found["mine"].complete and found["mine"].model == root / "mine"
    assert found["mine"].description == models.config.description
    assert found["half"].missing == ("unet.safetensors",)
    assert found["broken"].missing == ("config.json",)
    assert "not a model configuration" in found["broken"].description


def test_available_models_where_all_is_there(folder, tmp_path):
    assert available_models(Places((folder,)))["v1"].complete
    empty = available_models(Places((tmp_path / "nothing",)))
    assert list(empty) == ["mini", "v1"]
    assert set(empty["v1"].missing) == {FILES[part].path for part in V1}


# --- generated weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_models(config, dtype):
    with torch.inference_mode():
        first, again, other = (random_models(config, dtype=dtype, seed=seed) for seed in (1, 1, 2))
    assert_same(first, again)
    assert not first.unet.conv_in.weight.equal(other.unet.conv_in.weight)
    assert first.dtype == dtype and first.config == config
    for part, module in first.parts().items():
        assert not module.training, part
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            assert not tensor.is_meta and not tensor.requires_grad and not tensor.is_inference(), f"{part}.{key}"


@torch.no_grad()
def test_random_activations_neither_vanish_nor_overflow(config):
    models = random_models(config)
    latents = torch.randn(2, 4, 8, 8)
    sample = torch.cat([latents, latents], dim=1)[None]  # [1, F, 8, h, w]
    context = torch.randn(1, 5, config.parts["unet"]["cross_attention_dim"])
    outputs = {
        "unet": models.unet(sample, 1.0, context, torch.ones(1, 3)),
        "pose_net": models.pose_net(torch.rand(1, 3, 64, 64) * 2 - 1),
        "vae": decode_latents(models.vae, latents * models.vae.config.scaling_factor),
        "latents": encode_image(models.vae, torch.rand(1, 3, 64, 64) * 2 - 1),
        "face_embedder": models.face_embedder(torch.rand(2, 3, 32, 32) * 2 - 1),
        "image_encoder": models.image_encoder(torch.randn(1, 3, 32, 32)).image_embeds,
    }
    for part, out in outputs.items():
        assert 0.02 < out.std() < 50, part
