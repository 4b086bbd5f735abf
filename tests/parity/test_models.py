"""The networks give the recorded numbers from the recorded weights, and have the published keys and shapes."""

import math
import re

import pytest
import torch
from diffusers.models.attention_processor import Attention
from golden import load_case, load_json
from torch import Tensor, nn

from stableanimator_core.models import AnimatorUNet, FaceEncoder, IDAdapterAttnProcessor, IResNet, PoseNet
from stableanimator_core.models.id_adapter import align_distribution, frame_statistics


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def assert_close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_pose_net():
    case = load_case("pose_net")
    net = PoseNet(case.config["noise_latent_channels"]).eval()
    net.load_state_dict(case.weights)
    images = case.inputs["x"]
    assert_close(net(images), case.outputs["y"], 1e-5)
    assert_close(net(images.flatten(0, -4)), case.outputs["y"], 1e-5)


def test_face_encoder():
    case = load_case("face_encoder")
    sizes = ("cross_attention_dim", "id_embeddings_dim", "clip_embeddings_dim", "num_tokens", "depth")
    encoder = FaceEncoder(**{size: case.config[size] for size in sizes}).eval()
    encoder.load_state_dict(case.weights)
    face, image = case.inputs["id_embeds"], case.inputs["clip_embeds"]
    assert_close(encoder(face, image), case.outputs["out"], 1e-5)
    assert_close(encoder(torch.zeros_like(face), image), case.outputs["out_zero_id"], 1e-5)
    assert_close(encoder.identity_tokens(face), case.outputs["latents_before_fusion"], 1e-5)
    shortcuts = [name for name in case.outputs if name.startswith("out_shortcut_scale_")]
    assert shortcuts
    for name in shortcuts:
        scale = float(name.removeprefix("out_shortcut_scale_").replace("p", "."))
        assert_close(encoder(face, image, shortcut=True, scale=scale), case.outputs[name], 1e-5)


class IDAttention:
    """diffusers' Attention with our processor and the recorded weights; keeps what goes into `to_out`."""

    def __init__(self, case, normalize: str, scale: float):
        config = case.config
        self.processor = IDAdapterAttnProcessor(
            config["heads"] * config["dim_head"], config["cross_attention_dim"], config["num_tokens"], normalize
        )
        self.processor.scale = scale
        self.layer = Attention(
            config["query_dim"],
            cross_attention_dim=config["cross_attention_dim"],
            heads=config["heads"],
            dim_head=config["dim_head"],
            bias=config["bias"],
            out_bias=config["out_bias"],
            processor=self.processor,
        ).eval()
        self.layer.load_state_dict(case.weights)
        self.layer.to_out[0].register_forward_pre_hook(self._keep)
        self.hidden_states = case.inputs["hidden_states"]

    def _keep(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self.to_out_input = args[0]

    def __call__(self, context: Tensor) -> Tensor:
        return self.layer(self.hidden_states, encoder_hidden_states=context)


@pytest.mark.parametrize(
    "normalize, suffix", [("distribution", "normalized"), ("none", "unnormalized")], ids=["aligned", "plain"]
)
def test_id_attention_output(normalize, suffix):
    case = load_case("id_attention")
    attention = IDAttention(case, normalize, case.config["scale"])
    assert_close(attention(case.inputs["encoder_hidden_states"]), case.outputs[f"out_{suffix}"], 1e-5)
    assert_close(attention.to_out_input, case.outputs[f"to_out_input_{suffix}"], 1e-5)


def test_id_attention_branches_and_statistics():
    case = load_case("id_attention")
    context = case.inputs["encoder_hidden_states"]
    image_only, plain = IDAttention(case, "none", 0.0), IDAttention(case, "none", 1.0)
    image_only(context)
    plain(context)
    z_img = image_only.to_out_input
    z_face = plain.to_out_input - z_img
    assert_close(z_img, case.outputs["z_img"], 1e-5)
    assert_close(z_face, case.outputs["z_face"], 1e-5)
    assert_close(align_distribution(z_face, z_img), case.outputs["z_face_aligned"], 1e-5)
    for branch, z in (("img", z_img), ("face", z_face)):
        mean, std = frame_statistics(z)
        assert_close(mean, case.outputs[f"mean_{branch}"], 1e-5)
        assert_close(std, case.outputs[f"std_{branch}"], 1e-5)


def test_id_attention_with_all_zero_context():
    case = load_case("id_attention")
    attention = IDAttention(case, "distribution", case.config["scale"])
    out = attention(torch.zeros_like(case.inputs["encoder_hidden_states"]))
    assert_close(out, case.outputs["out_normalized_all_zero_context"], 1e-5)


@pytest.fixture(scope="module")
def unet_case():
    case = load_case("unet_tiny")
    unet = AnimatorUNet(**case.config["config"]).eval()
    unet.load_state_dict(case.weights)
    return case, unet


@pytest.mark.parametrize("output", ["out_pose", "out_no_pose", "out_no_pose_zero_context"])
def test_unet(unet_case, output):
    case, unet = unet_case
    inputs = case.inputs
    context = inputs["encoder_hidden_states"]
    if output.endswith("zero_context"):
        context = torch.zeros_like(context)
    pose = inputs["pose_latents"] if output == "out_pose" else None
    timestep = inputs["timestep"].squeeze()
    out = unet(inputs["sample"], timestep, context, inputs["added_time_ids"], pose)
    assert_close(out, case.outputs[output], 5e-5)


def test_unet_adapters_sit_where_they_should(unet_case):
    case, unet = unet_case
    recorded = {name for name, kind in case.config["processors"].items() if "IDAttn" in kind}
    ours = {name for name, module in unet.named_modules() if isinstance(module, IDAdapterAttnProcessor)}
    assert ours == recorded


def build_unet(keys: dict[str, list[int]]) -> nn.Module:
    return AnimatorUNet(**load_json("state_dict_keys/summary.json")["unet"]["config"])


def build_pose_net(keys: dict[str, list[int]]) -> nn.Module:
    return PoseNet(keys["final_proj.weight"][0])


def build_face_encoder(keys: dict[str, list[int]]) -> nn.Module:
    width = keys["norm.weight"][0]
    depth = len([key for key in keys if key.endswith(".0.to_q.weight")])
    context = keys["fusion_model.proj_in.weight"][1]
    return FaceEncoder(width, keys["proj.0.weight"][1], context, keys["proj.2.weight"][0] // width, depth)


def build_iresnet(keys: dict[str, list[int]]) -> nn.Module:
    layers = [len([key for key in keys if re.fullmatch(rf"layer{i}\.\d+\.conv1\.weight", key)]) for i in (1, 2, 3, 4)]
    widths = [keys[f"layer{i}.0.conv2.weight"][0] for i in (1, 2, 3, 4)]
    embedding, flat = keys["fc.weight"]
    return IResNet(layers, widths, embedding, input_size=16 * math.isqrt(flat // widths[-1]))


@pytest.mark.parametrize(
    "name, build",
    [
        ("unet", build_unet),
        ("pose_net", build_pose_net),
        ("face_encoder", build_face_encoder),
        ("iresnet100", build_iresnet),
    ],
)
def test_full_size_keys_and_shapes(name, build):
    published = load_json(f"state_dict_keys/{name}.json")
    with torch.device("meta"):
        model = build(published)
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == published
    summary = load_json("state_dict_keys/summary.json")[name]
    assert len(published) == summary["num_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == summary["num_parameters"]
