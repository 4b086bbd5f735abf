"""Frugal layers give the plain ones' numbers and gradients, and keep little of what went through them."""

from __future__ import annotations

import copy
import functools
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from stableanimator_core.models import AnimatorUNet, IResNet, PoseNet, frozen, kernels, operations
from stableanimator_core.models.frozen import FrozenConv2d, FrozenTimeConv, freeze
from stableanimator_core.weights import build_models, config_of, load_models, random_models, save_models


def randomized(network: nn.Module) -> nn.Module:
    """With norms, blends and slopes that differ between channels and blocks."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and tensor.ndim < 2:
            noise = 0.3 * torch.randn(tensor.shape, generator=generator)
            tensor.data = noise.abs() + 0.5 if name.endswith("running_var") else tensor.data + noise
    return network.double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def plain_vae():
    torch.manual_seed(0)
    return randomized(
        AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 3, block_out_channels=(32, 64, 96), layers_per_block=2
        )
    )


@pytest.fixture
def vae(plain_vae):
    vae = copy.deepcopy(plain_vae)
    freeze(vae.decoder)
    return vae


@pytest.fixture(scope="module", params=["fc", "depthwise"])
def plain_embedder(request):
    torch.manual_seed(0)
    return randomized(IResNet([1, 2, 1, 1], [8, 12, 16, 20], 16, 45, head=request.param))


@pytest.fixture
def embedder(plain_embedder):
    embedder = copy.deepcopy(plain_embedder)
    freeze(embedder)
    return embedder


def faces(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 45, 45, generator=torch.Generator().manual_seed(1)).double()


def latents(frames: int = 3, height: int = 5, width: int = 3) -> Tensor:
    return torch.randn(frames, 4, height, width, generator=torch.Generator().manual_seed(2)).double()


def decode(vae: AutoencoderKLTemporalDecoder, z: Tensor, frames: int | None = None) -> Tensor:
    return vae.decode(z, num_frames=frames or len(z)).sample


def value_and_gradient(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A call's result and the gradient of the mean of its squares by x."""
    x = x.clone().requires_grad_()
    y = call(x)
    return y.detach(), torch.autograd.grad(y.square().mean(), x)[0]


def kept_bytes(call: Callable[[Tensor], Tensor], x: Tensor, network: nn.Module) -> int:
    """What autograd keeps for the backward pass, weights and buffers aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict(keep_vars=True).values()}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is used again

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = call(x.clone().requires_grad_())
    assert y.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames, clip, size",
    [(1, 1, (4, 4)), (3, 3, (5, 3)), (8, 8, (1, 7)), (6, 3, (3, 2)), (4, 1, (2, 2)), (2, 2, (1, 1))],
)
def test_decoder_gives_the_plain_values_and_gradients(plain_vae, vae, frames, clip, size):
    z = latents(frames, *size)
    plain, frugal = (value_and_gradient(lambda x, v=v: decode(v, x, clip), z) for v in (plain_vae, vae))
    torch.testing.assert_close(frugal, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_embedder_gives_the_plain_values_and_gradients(plain_embedder, embedder, count):
    plain, frugal = (value_and_gradient(network, faces(count)) for network in (plain_embedder, embedder))
    torch.testing.assert_close(frugal, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_without_gradients(plain_vae, vae, plain_embedder, embedder, mode):
    with mode():
        torch.testing.assert_close(decode(vae, latents()), decode(plain_vae, latents()))
        torch.testing.assert_close(embedder(faces()), plain_embedder(faces()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_accurate_as_before(plain_vae, vae, dtype):
    z = latents(4, 4, 4)
    true = value_and_gradient(lambda x: decode(plain_vae, x), z)
    errors = []
    for each in (copy.deepcopy(plain_vae), vae):
        each.to(dtype)
        half = value_and_gradient(lambda x, v=each: decode(v, x.to(dtype)).float(), z.float())
        errors.append([distance(a, b) for a, b in zip(half, true)])
    plain, frugal = errors
    assert frugal[0] < 1.05 * plain[0] and frugal[1] < 1.05 * plain[1], errors


def test_autocast_is_as_accurate_as_before(plain_vae, vae):
    z = latents()
    true = value_and_gradient(lambda x: decode(plain_vae, x), z)

    def call(x: Tensor, each: AutoencoderKLTemporalDecoder) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return decode(each, x).float()

    errors = []
    for each in (copy.deepcopy(plain_vae), vae):
        each.float()
        half = value_and_gradient(lambda x, v=each: call(x, v), z.float())
        errors.append([distance(a, b) for a, b in zip(half, true)])
    plain, frugal = errors
    assert frugal[0] < 1.25 * plain[0] and frugal[1] < 1.25 * plain[1], errors  # rounding falls as the CPU has it


def test_dtype_changes_there_and_back(vae):
    assert decode(vae.half(), latents().half()).dtype == torch.float16
    vae.float()
    weight = vae.decoder.up_blocks[0].resnets[0].spatial_res_block.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert decode(vae, latents().float()).dtype == torch.float32


def test_layout_stays_channels_last(vae, monkeypatch):
    """Of activations and of their gradients, to the stride of a batch of one, by which torch chooses its kernels."""
    seen = []

    def look(name: str, call: Callable[..., Tensor], *given, **how) -> Tensor:
        y = call(*given, **how)
        seen.append((name, y))
        y.register_hook(lambda g: seen.append((f"gradient of {name}", g)))
        return y

    for name in ("conv", "norm_silu", "blend"):
        monkeypatch.setattr(operations, name, functools.partial(look, name, getattr(operations, name)))
    z = latents(3, 6, 5).float().requires_grad_()  # torch convolves float64 in a layout of its own
    decode(vae.float(), z).square().sum().backward()
    for name, y in seen:
        assert y.stride() == y.movedim(1, -1).contiguous().movedim(-1, 1).stride(), name
    assert len(seen) > 150


# --- the UNet -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_unet():
    torch.manual_seed(0)
    return randomized(
        AnimatorUNet(
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 64), num_attention_heads=(2, 4), cross_attention_dim=16, layers_per_block=1,
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
        )
    )  # fmt: skip


@pytest.fixture
def unet(plain_unet):
    unet = copy.deepcopy(plain_unet)
    freeze(unet)
    return unet


def predict(unet: AnimatorUNet, *, frames: int = 3, tokens: int = 1, clips: int = 2, **how) -> Tensor:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(unet.dtype)

    sample, context = draw(clips, frames, 8, 6, 4), draw(clips, tokens + 4, 16)
    return unet(sample, torch.full((clips,), 0.3), context, draw(clips, 3), draw(clips * frames, 32, 6, 4), **how)


@pytest.mark.parametrize("how", [{}, {"tokens": 3}, {"frames": 1}, {"clips": 1}, {"id_scale": 0.4}])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_unet_gives_the_plain_values(plain_unet, unet, how, mode):
    with mode():
        torch.testing.assert_close(predict(unet, **how), predict(plain_unet, **how), rtol=1e-6, atol=1e-7)


def test_unet_computes_frozen_layers_in_its_own_way(unet, monkeypatch):
    """Otherwise the test above compares diffusers with itself."""
    for kind in (frozen.SpatioTemporalResBlock, frozen.TransformerSpatioTemporalModel):
        monkeypatch.setattr(kind, "forward", None)
    monkeypatch.setattr(frozen.TemporalBasicTransformerBlock, "forward", None)
    with torch.no_grad():
        assert predict(unet).isfinite().all()


def test_unet_with_weights_that_train_again(plain_unet, unet):
    plain = copy.deepcopy(plain_unet)
    expected, actual = (weight_gradients(each, predict(each.requires_grad_(True).train())) for each in (plain, unet))
    assert actual.keys() == expected.keys() and len(actual) > 100
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "layer", ["time_embedding.linear_2", "down_blocks.0.resnets.0.spatial_res_block.conv1", "conv_in"]
)
def test_one_layer_of_the_unet_that_trains(plain_unet, unet, layer):
    gradients = []
    for each in (copy.deepcopy(plain_unet), unet):
        each.get_submodule(layer).weight.requires_grad_(True)
        gradients.append(weight_gradients(each, predict(each)))
    assert list(gradients[1]) == [f"{layer}.weight"]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_unet_keeps_its_state_dict(plain_unet, unet):
    before, after = plain_unet.state_dict(), unet.state_dict()
    assert list(after) == list(before) and all(after[key].equal(before[key]) for key in before)


# --- through the fused kernels --------------------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """The kernels in use, run by Triton's interpreter on the CPU; names of those that were called."""
    if kernels.triton is None or torch.cuda.is_available():
        pytest.skip("Triton's interpreter isn't on: tests/gpu compares the kernels")
    names = set()

    def noted(name: str, kernel: Callable, *given, **how):
        names.add(name)
        return kernel(*given, **how)

    for name in ("norm_silu", "norm_silu_backward", "blend", "geglu", "affine", "batch_norm", "layer_norm"):
        monkeypatch.setattr(kernels, name, functools.partial(noted, name, getattr(kernels, name)))
    monkeypatch.setattr(kernels, "usable", lambda device: True)
    return names


def agree(found: tuple[Tensor, ...], true: tuple[Tensor, ...]) -> bool:
    return max(distance(*pair) for pair in zip(found, true)) < 1e-5


def pair_of(network: nn.Module, part: str | None = None) -> tuple[nn.Module, nn.Module]:
    """The plain network in float64 and the frozen one in float32. Few groups: the interpreter takes 10 ms for each."""
    plain = randomized(network)
    for module in plain.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 4
    frugal = copy.deepcopy(plain).float()
    freeze(getattr(frugal, part) if part else frugal)
    return plain, frugal


def test_decoder_through_the_kernels(called):
    """With gradients and without, which takes other ways."""
    torch.manual_seed(0)
    plain, vae = pair_of(
        AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 64), layers_per_block=1
        ),
        "decoder",
    )
    z = latents(2, 3, 2)
    true = value_and_gradient(lambda x: decode(plain, x), z)
    assert agree(value_and_gradient(lambda x: decode(vae, x), z.float()), true)
    assert called == {"norm_silu", "norm_silu_backward", "blend"}
    with torch.inference_mode():
        assert agree((decode(vae, z.float()),), true)


def test_embedder_through_the_kernels(plain_embedder, embedder, called):
    true = value_and_gradient(plain_embedder, faces(2))
    assert agree(value_and_gradient(embedder.float(), faces(2).float()), true)
    assert "batch_norm" in called
    with torch.inference_mode():
        assert agree((embedder(faces(2).float()),), true)


@pytest.mark.parametrize("tokens, own", [(1, {"affine"}), (3, set())])
def test_unet_through_the_kernels(called, monkeypatch, tokens, own):
    torch.manual_seed(0)
    plain, unet = pair_of(
        AnimatorUNet(
            down_block_types=("CrossAttnDownBlockSpatioTemporal",), up_block_types=("CrossAttnUpBlockSpatioTemporal",),
            block_out_channels=(32,), num_attention_heads=(2,), cross_attention_dim=16, layers_per_block=1,
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
        )
    )  # fmt: skip
    how = {"tokens": tokens, "frames": 2, "id_scale": 0.4}
    with torch.inference_mode():
        found = predict(unet, **how)
        monkeypatch.setattr(kernels, "usable", lambda device: False)  # the ID adapter of both asks for it
        assert agree((found,), (predict(plain, **how),))
    assert called == {"norm_silu", "blend", "geglu", "layer_norm"} | own


def test_rows_that_lie_apart_are_not_given_to_the_kernel(called):
    norm = randomized(nn.LayerNorm(6)).float()
    norm.__class__ = frozen.FrozenLayerNorm
    x = latents(2, 6, 3).float().mT
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), nn.LayerNorm.forward(norm, x))
        assert not called
        norm(x.contiguous())
    assert called == {"layer_norm"}


# --- memory ---------------------------------------------------------------------------------------------------------


def test_decoder_keeps_less_than_half(plain_vae, vae):
    z = latents(4, 8, 8)
    plain, frugal = (kept_bytes(lambda x, v=v: decode(v, x), z, v) for v in (plain_vae, vae))
    assert 0 < frugal < 0.36 * plain


def test_embedder_keeps_a_byte_per_slope(plain_embedder, embedder):
    plain, frugal = (kept_bytes(network, faces(), network) for network in (plain_embedder, embedder))
    assert 0 < frugal < 0.06 * plain


def test_inputs_of_convolutions_are_let_go(vae, monkeypatch):
    blocks = {module for name, module in vae.decoder.named_modules() if name.endswith(("conv1", "conv2"))}
    inputs, conv = [], operations.conv

    def look(x: Tensor, layer: nn.Module, **how) -> Tensor:
        if layer in blocks:
            inputs.append(weakref.ref(x))
        return conv(x, layer, **how)

    monkeypatch.setattr(operations, "conv", look)
    y = decode(vae, latents().requires_grad_())
    assert y.requires_grad and len(inputs) > 30 and not any(each() is not None for each in inputs)


def test_nothing_is_kept_without_gradients(vae):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x), torch.no_grad():
        decode(vae, latents())
    assert not kept


# --- use ------------------------------------------------------------------------------------------------------------


def test_several_passes_before_their_gradients(plain_vae, vae):
    first, second = latents(2, 4, 4), latents(3, 2, 5)
    gradients = []
    for each in (plain_vae, vae):
        a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
        loss = decode(each, a).square().sum() + decode(each, b).sum() * decode(each, a).mean()
        gradients.append([torch.autograd.grad(loss, (a, b), retain_graph=True) for _ in range(2)])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_second_derivatives_are_refused(vae):
    z = latents(1).requires_grad_()
    (gradient,) = torch.autograd.grad(decode(vae, z).square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_are_frugal_too(vae, embedder, copied):
    for network, call, x in ((vae, decode, latents()), (embedder, nn.Module.__call__, faces())):
        twin = copied(network)
        assert [type(module) for module in twin.modules()] == [type(module) for module in network.modules()]
        pair = (value_and_gradient(lambda x, n=n, call=call: call(n, x), x) for n in (network, twin))
        torch.testing.assert_close(*pair)
        kept = (kept_bytes(lambda x, n=n, call=call: call(n, x), x, n) for n in (network, twin))
        assert len(set(kept)) == 1


def test_state_dict_stays(plain_vae, vae, plain_embedder, embedder):
    for plain, frugal in ((plain_vae, vae), (plain_embedder, embedder)):
        before, after = plain.state_dict(), frugal.state_dict()
        assert list(after) == list(before)
        assert all(after[key].equal(before[key]) for key in before)
        frugal.load_state_dict(before)


def test_frugal_models_are_written_as_before(tiny_model, tmp_path):
    """Files want contiguous tensors."""
    models = load_models(tiny_model)
    save_models(models, tmp_path)
    again = load_models(tmp_path)
    for part, module in models.parts().items():
        state = getattr(again, part).state_dict()
        assert all(tensor.equal(state[key]) for key, tensor in module.state_dict().items())


def test_freezing_twice(plain_vae, vae):
    kinds = [type(module) for module in vae.modules()]
    freeze(vae.decoder)
    assert [type(module) for module in vae.modules()] == kinds
    torch.testing.assert_close(decode(vae, latents()), decode(plain_vae, latents()))


# --- training -------------------------------------------------------------------------------------------------------


def weight_gradients(network: nn.Module, y: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    y.square().mean().backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("through_input", [True, False])
def test_decoder_that_trains_again(plain_vae, vae, through_input):
    plain = copy.deepcopy(plain_vae)
    expected, actual = (
        weight_gradients(each.decoder, decode(each.requires_grad_(True).train(), z.requires_grad_(through_input)))
        for each, z in ((plain, latents()), (vae, latents()))
    )
    assert actual.keys() == expected.keys() == dict(vae.decoder.named_parameters()).keys()
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_one_layer_that_trains(plain_vae, vae, part):
    """Of every kind of layer one, between others that stay frozen."""
    layers = (
        "conv_in", "up_blocks.0.resnets.0.spatial_res_block.norm1", "mid_block.resnets.0.temporal_res_block.conv2",
        "up_blocks.1.resnets.1.temporal_res_block.norm2", "conv_norm_out", "time_conv_out",
    )  # fmt: skip
    for layer in layers:
        gradients = []
        for each in (copy.deepcopy(plain_vae), copy.deepcopy(vae)):
            getattr(each.decoder.get_submodule(layer), part).requires_grad_(True)
            gradients.append(weight_gradients(each.decoder, decode(each, latents().requires_grad_())))
        assert list(gradients[1]) == [f"{layer}.{part}"]
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("training", [True, False])
def test_embedder_that_trains_again(plain_embedder, embedder, training):
    plain = copy.deepcopy(plain_embedder)
    expected, actual = (
        weight_gradients(each, each.requires_grad_(True).train(training)(faces().requires_grad_()))
        for each in (plain, embedder)
    )
    assert actual.keys() == expected.keys() == dict(embedder.named_parameters()).keys()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(embedder.state_dict(), plain.state_dict())  # running statistics went along


def test_batch_statistics_of_frozen_weights(plain_embedder, embedder):
    """train() alone, with frozen weights, normalises by the batch."""
    plain = copy.deepcopy(plain_embedder)
    pair = (value_and_gradient(network.train(), faces()) for network in (embedder, plain))
    torch.testing.assert_close(*pair)


# --- errors ---------------------------------------------------------------------------------------------------------


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="PoseNet has no frozen layers; freeze an AnimatorUNet, a Temp"):
        freeze(PoseNet(32).requires_grad_(False).eval())


def test_networks_in_training_mode_are_refused(plain_embedder):
    with pytest.raises(ValueError, match=r"IResNet is in training mode; call eval\(\)"):
        freeze(copy.deepcopy(plain_embedder).train())


def test_weights_that_require_grad_are_refused(plain_vae):
    decoder = copy.deepcopy(plain_vae).decoder
    decoder.conv_out.bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"TemporalDecoder: conv_out.bias requires grad; call requires_grad_\(False\)"):
        freeze(decoder)
    assert not any(isinstance(module, FrozenConv2d) for module in decoder.modules())


# --- the gradient of SiLU(GroupNorm(x)) -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 64, 5, 7), (1, 32, 4, 3, 2), (2, 32, 1, 1)])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_gradient_of_norm_and_silu(shape, layout):
    generator = torch.Generator().manual_seed(3)
    x, g = (torch.randn(shape, generator=generator).double() + 2 for _ in range(2))
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    weight, bias = (torch.randn(shape[1], generator=generator).double() for _ in range(2))
    how = (weight, bias, 32, 1e-5)
    x.requires_grad_()
    y = F.silu(F.group_norm(x, 32, weight, bias, 1e-5))
    (expected,) = torch.autograd.grad(y, x, g)
    with torch.no_grad():
        torch.testing.assert_close(operations.norm_silu_backward(g, x, *how), expected)


def test_statistics_are_float32_where_half_precision_overflows():
    generator = torch.Generator().manual_seed(4)
    x = (300 + torch.randn(1, 32, 64, 64, generator=generator)).half()
    g = torch.randn(x.shape, generator=generator).half()
    how = torch.ones(32).half(), torch.zeros(32).half(), 32, 1e-6
    exact = x.double().requires_grad_()
    (true,) = torch.autograd.grad(F.silu(F.group_norm(exact, 32, eps=1e-6)), exact, g.double())
    assert x.square().isinf().any() and distance(operations.norm_silu_backward(g, x, *how), true) < 1e-3


# --- models as they are loaded --------------------------------------------------------------------------------------


def frugal_layers(network: nn.Module) -> int:
    return sum(type(module).__module__ == frozen.__name__ for module in network.modules())


def test_loaded_models_are_frugal(tiny_model):
    with torch.inference_mode():
        models = load_models(tiny_model)
    generated = random_models(config_of(tiny_model))
    for each in (models, generated):
        assert frugal_layers(each.vae.decoder) > 50 and frugal_layers(each.vae.encoder) == 0
        assert frugal_layers(each.face_embedder) > 30 and frugal_layers(each.face_judge) > 30
        assert frugal_layers(each.unet) > 100 and frugal_layers(each.pose_net) == 0
    z = latents().float().requires_grad_()
    decode(models.vae, z).sum().backward()
    assert z.grad.isfinite().all()
    assert not any(weight.is_inference() for part in models.parts().values() for weight in part.parameters())


def test_models_for_training_are_plain(tiny_model):
    assert not any(frugal_layers(part) for part in build_models(config_of(tiny_model)).parts().values())


def test_time_convolutions_over_several_clips():
    conv = nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)).requires_grad_(False).double()
    frugal = copy.deepcopy(conv)
    frugal.__class__ = FrozenTimeConv
    x = torch.randn(2, 4, 5, 3, 2).double()
    torch.testing.assert_close(value_and_gradient(frugal, x), value_and_gradient(conv, x))
