"""The full-size networks give the recorded numbers from weights that follow from their names."""

import pytest
import torch
from accelerate import init_empty_weights
from golden import load_case
from procedural import fill_procedurally, procedural_tensor
from torch import Tensor

from stableanimator_core.models import AnimatorUNet, FaceEncoder, IResNet

TOLERANCE = 1e-3  # of the output's standard deviation
UNET_BYTES = 10 << 30  # float32 weights (6.2 GB), a tensor in the making, activations


@pytest.fixture(scope="module")
def case():
    return load_case("procedural_fullsize")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE * expected.std().item(), rtol=0)


def available_memory() -> int:
    """Bytes that a process can get without swapping; a lot where the system doesn't say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except OSError:
        return 1 << 40


def test_recipe(case):
    """The record's own check values; the names in front tell what the keys belong to."""
    with init_empty_weights():
        shapes = {
            "unet": AnimatorUNet(**case.config["unet_config"]).state_dict(),
            "iresnet100": IResNet().state_dict(),
        }
    checks = case.config["check_values"]
    assert checks
    for where, expected in checks.items():  # "unet conv_in.weight[0,0,0,:3]"
        network, _, place = where.partition(" ")
        key, _, index = place.rstrip("]").partition("[")
        tensor = procedural_tensor(key, tuple(shapes[network][key].shape))
        row = tensor[tuple(map(int, index.split(",")[:-1]))]
        torch.testing.assert_close(row[: len(expected)], torch.tensor(expected), rtol=1e-6, atol=0)


@torch.no_grad()
def test_iresnet100(case):
    with init_empty_weights():
        network = IResNet()
    assert_close(fill_procedurally(network)(case.inputs["iresnet100.x"]), case.outputs["iresnet100.y"])


@torch.no_grad()
def test_face_encoder(case):
    face, image = (case.inputs[f"face_encoder.{name}"] for name in ("id_embeds", "clip_embeds"))
    out = case.outputs["face_encoder.out"]
    with init_empty_weights():
        network = FaceEncoder(out.shape[-1], face.shape[-1], image.shape[-1], out.shape[-2])
    assert_close(fill_procedurally(network)(face, image), out)


@pytest.mark.slow
@torch.no_grad()
def test_unet(case):
    memory = available_memory()
    if memory < UNET_BYTES:
        pytest.skip(
            f"the full-size UNet needs {UNET_BYTES >> 30} GiB of memory, {memory / (1 << 30):.1f} are available"
        )
    with init_empty_weights():
        unet = AnimatorUNet(**case.config["unet_config"])
    fill_procedurally(unet)
    names = ("sample", "timestep", "encoder_hidden_states", "added_time_ids", "pose_latents")
    *inputs, pose = (case.inputs[f"unet.{name}"] for name in names)
    assert_close(unet(*inputs), case.outputs["unet.out_no_pose"])
    assert_close(unet(*inputs, pose), case.outputs["unet.out_pose"])
