"""PoseNet, FaceEncoder, ID adapter, UNet and IResNet on tiny tensors."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from stableanimator_core.models import (
    AnimatorUNet,
    FaceEncoder,
    IDAdapterAttnProcessor,
    ImageTokenAttnProcessor,
    IResNet,
    PoseNet,
)
from stableanimator_core.models.id_adapter import align_distribution, frame_statistics, normalized

THREE_LEVELS = {
    "down_block_types": (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    ),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
}
TINY = {**THREE_LEVELS, "block_out_channels": (32, 32, 32), "num_attention_heads": (1, 1, 1), "cross_attention_dim": 64}
SMALL = {
    **THREE_LEVELS,
    "block_out_channels": (96, 160, 224),
    "num_attention_heads": (3, 5, 7),
    "cross_attention_dim": 256,
}


def unet_inputs(batch=1, frames=2, size=8, width=64, tokens=5):
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(batch, frames, 8, size, size, generator=generator),
        "timestep": torch.full((batch,), 0.4),
        "encoder_hidden_states": torch.randn(batch, tokens, width, generator=generator),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1),
    }


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return AnimatorUNet(**TINY)


def test_pose_net_starts_neutral():
    features = PoseNet(32)(torch.randn(1, 2, 3, 16, 24))
    assert features.shape == (2, 32, 2, 3)
    assert features.eq(0).all()


def test_face_encoder_starts_at_the_bias_of_its_last_norm():
    encoder = FaceEncoder(64, id_embeddings_dim=8, clip_embeddings_dim=16, num_tokens=3, depth=1)
    face, image = torch.randn(2, 8), torch.randn(2, 1, 16)
    assert encoder(face, image).eq(0).all()
    assert encoder(face, image).shape == (2, 3, 64)
    torch.testing.assert_close(encoder(face, image, shortcut=True), encoder.identity_tokens(face))


def test_face_encoder_needs_one_head():
    with pytest.raises(ValueError, match="cross_attention_dim 32 leaves no head of 64"):
        FaceEncoder(32)


def test_align_distribution_takes_over_mean_and_spread():
    z_face, z_img = 5 * torch.randn(3, 40, 16) + 2, 0.3 * torch.randn(3, 40, 16) - 1
    aligned = align_distribution(z_face, z_img)
    torch.testing.assert_close(frame_statistics(aligned), frame_statistics(z_img), rtol=1e-4, atol=1e-5)


def test_align_distribution_of_constant_branches_has_a_gradient():
    """All-zero tokens, as in the unconditional half of guidance, have no spread at all."""
    z_face, z_img = torch.zeros(1, 4, 8, requires_grad=True), torch.zeros(1, 4, 8, requires_grad=True)
    align_distribution(z_face, z_img).sum().backward()
    assert z_face.grad.isfinite().all()
    assert z_img.grad.isfinite().all()


def test_align_distribution_works_in_float32_on_half_precision_input():
    z_face = 300 * torch.randn(1, 4096, 64)  # squares and sums overflow float16
    z_img = torch.randn(1, 4096, 64)
    aligned = align_distribution(z_face.half(), z_img.half())
    assert aligned.dtype == torch.float32
    torch.testing.assert_close(aligned, align_distribution(z_face, z_img), atol=5e-3, rtol=0)


def attention(processor) -> Attention:
    torch.manual_seed(0)
    return Attention(16, cross_attention_dim=8, heads=2, dim_head=8, processor=processor).eval()


def test_id_scale_per_frame():
    layer = attention(IDAdapterAttnProcessor(16, 8))
    hidden_states, context = torch.randn(2, 9, 16), torch.randn(2, 5, 8)
    outputs = {}
    for scale in (0.0, 1.0, torch.tensor([0.0, 1.0]).view(2, 1, 1)):
        layer.processor.scale = scale
        outputs[str(scale)[:6]] = layer(hidden_states, encoder_hidden_states=context)
    off, on, mixed = outputs.values()
    assert not torch.allclose(off[0], on[0])
    torch.testing.assert_close(mixed, torch.stack([off[0], on[1]]))


def test_id_adapter_without_alignment():
    layer = attention(IDAdapterAttnProcessor(16, 8))
    hidden_states, context = torch.randn(2, 9, 16), torch.randn(2, 5, 8)
    outputs = {}
    for how in ("distribution", "own", "none", "off"):
        layer.processor.normalize = how
        outputs[how] = layer(hidden_states, encoder_hidden_states=context)
    layer.processor.normalize = "distribution"
    layer.processor.scale = 0
    torch.testing.assert_close(outputs["off"], layer(hidden_states, encoder_hidden_states=context))
    for how, other in (("distribution", "own"), ("own", "none"), ("none", "off")):
        assert not torch.allclose(outputs[how], outputs[other])


def test_normalized_has_mean_0_and_deviation_1_in_each_frame():
    z = normalized(3 * torch.randn(2, 9, 16) + 5)
    mean, std = frame_statistics(z)
    torch.testing.assert_close(mean, torch.zeros(2, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(2, 1, 1), atol=1e-4, rtol=0)


def test_id_adapter_knows_four_ways():
    with pytest.raises(ValueError, match='normalize is "always", expected one of distribution, own, none, off'):
        IDAdapterAttnProcessor(16, 8, normalize="always")


@pytest.mark.parametrize("image_tokens", [1, 3])
def test_image_token_attention_equals_attention_without_face_tokens(image_tokens):
    layer = attention(ImageTokenAttnProcessor())
    hidden_states, context = torch.randn(2, 9, 16), torch.randn(2, image_tokens + 4, 8)
    ours = layer(hidden_states, encoder_hidden_states=context)
    layer.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(ours, layer(hidden_states, encoder_hidden_states=context[:, :image_tokens]))


def test_small_unet_learns_from_pose_and_face():
    torch.manual_seed(0)
    unet = AnimatorUNet(**SMALL)
    inputs = unet_inputs(frames=4, size=20, width=256)
    pose = torch.randn(4, 96, 20, 20, requires_grad=True)
    out = unet(**inputs, pose_features=pose)
    assert out.shape == (1, 4, 4, 20, 20)
    out.square().mean().backward()
    assert pose.grad.abs().max() > 0
    assert len(unet.id_adapters()) == 7
    for adapter in unet.id_adapters():
        assert adapter.id_to_k.weight.grad.abs().max() > 0
        assert adapter.id_to_v.weight.grad.abs().max() > 0


def test_unet_keeps_diffusers_keys(unet):
    keys = {key for key in unet.state_dict() if ".processor." not in key}
    assert keys == set(super(AnimatorUNet, AnimatorUNet).from_config(unet.config).state_dict()) - {
        key for key in unet.state_dict() if ".processor." in key
    }


def test_unet_is_rebuilt_from_its_config_and_files(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    again = AnimatorUNet.from_pretrained(tmp_path)
    inputs = unet_inputs()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs), unet.eval()(**inputs))


def test_pose_features_are_added_once_per_call(unet):
    inputs, pose = unet_inputs(), torch.randn(2, 32, 8, 8)
    with torch.inference_mode():
        without = unet(**inputs)
        assert not torch.allclose(unet(**inputs, pose_features=pose), without)
        torch.testing.assert_close(unet(**inputs), without)


def test_face_tokens_can_be_switched_off_per_sample(unet):
    inputs = unet_inputs(batch=2)
    with torch.no_grad():
        off, on = unet(**inputs, id_scale=0.0), unet(**inputs)
        mixed = unet(**inputs, id_scale=torch.tensor([0.0, 1.0]))
    assert not torch.allclose(off[0], on[0])
    torch.testing.assert_close(mixed, torch.stack([off[0], on[1]]))


def test_a_failed_call_leaves_no_trace(unet):
    inputs = unet_inputs()
    with torch.no_grad():
        before = unet(**inputs)
        with pytest.raises(RuntimeError):
            unet(**{**inputs, "encoder_hidden_states": torch.randn(1, 5, 63)}, pose_features=torch.ones(2, 32, 8, 8))
        with pytest.raises(ValueError, match=r"pose_features are \[1, 2, 32, 8, 8\], expected \[2, 32, 8, 8\]"):
            unet(**inputs, pose_features=torch.ones(1, 2, 32, 8, 8), id_scale=0.0)
        torch.testing.assert_close(unet(**inputs), before)


def test_context_needs_an_image_token(unet):
    with pytest.raises(ValueError, match="context of 4 tokens, need at least one image token and 4 face tokens"):
        unet(**unet_inputs(tokens=4))


def test_gradient_checkpointing_recomputes_with_pose_and_scale(unet):
    inputs, scale = unet_inputs(batch=2), torch.tensor([0.0, 0.7])
    gradients = []
    for model in (unet, copy.deepcopy(unet)):
        if model is not unet:
            model.enable_gradient_checkpointing()
        pose = torch.linspace(-1, 1, 4 * 32 * 64).view(4, 32, 8, 8).requires_grad_()
        first = model.train()(**inputs, pose_features=pose, id_scale=scale)
        second = model(**inputs)  # another scale before the first call's backward pass
        (first.square().mean() + second.square().mean()).backward()
        gradients.append([pose.grad, *(adapter.id_to_v.weight.grad for adapter in model.id_adapters())])
    torch.testing.assert_close(*gradients)


def test_small_embedder():
    embedder = IResNet((1, 1, 1, 1), (32, 64, 128, 256), input_size=40, head="depthwise")
    assert embedder.input_size == 40
    assert 1e6 < sum(parameter.numel() for parameter in embedder.parameters()) < 1.5e6
    assert embedder(torch.randn(2, 3, 40, 40)).shape == (2, 512)


def test_embedder_with_full_head():
    embedder = IResNet((1, 1, 1, 1), (8, 8, 8, 8), embedding_dim=16, input_size=32)
    assert embedder(torch.randn(2, 3, 32, 32)).shape == (2, 16)


def test_embedder_errors():
    with pytest.raises(ValueError, match="expected four of each"):
        IResNet((1, 1, 1))
    with pytest.raises(ValueError, match='head is "mean", expected "fc" or "depthwise"'):
        IResNet(head="mean")
