"""Where the published v1 code fails and no module's own test shows that ours does not: see tests/parity/DEFECTS.md."""

import ast
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from stableanimator_core import hjb, pipeline
from stableanimator_core.conditioning import resize_picture
from stableanimator_core.errors import InputError
from stableanimator_core.face import FaceBoxes, csim
from stableanimator_core.hjb import make_face_refiner
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.keypoints import Poses
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import SamplingConfig, find_face, from_uint8, sample, to_uint8
from stableanimator_core.sampling import init_noise
from stableanimator_core.weights import V1_CONFIG, load_models

PACKAGE = Path(__file__).parents[2] / "stableanimator_core"
OFF = HJBConfig(iterations=0)


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture
def driving(stick_figure):
    return Poses.from_openpose(stick_figure(6, 128, 128, step=2))


@pytest.fixture
def picture():
    return np.full((128, 128, 3), 90, np.uint8)


def clip_of(models, picture, poses, face=None, hjb=OFF, **settings):
    with torch.no_grad():
        return sample(models, picture, poses, face, SamplingConfig.for_model(models.config, **settings), hjb)


def test_the_size_of_the_reference_picture_hardly_matters_to_the_face():
    """2: training saw faces at its own size, inference at the picture's."""
    models = load_models("mini")
    clip = make_clip(3, size=160, frames=1)
    large = to_uint8(resize_picture(from_uint8(clip.reference)[None], 480, 480))[0]
    faces = [find_face(models, reference, clip.reference_pose).embedding for reference in (clip.reference, large)]
    other = make_clip(4, size=160, frames=1)
    stranger = find_face(models, other.reference, other.reference_pose).embedding
    assert csim(*faces) > 0.97 > 0.5 > csim(faces[0], stranger)


def test_face_boxes_are_those_of_the_output_and_follow_the_alignment(models, driving, picture):
    """10: boxes of the driving frames were neither scaled nor moved with the poses."""
    moved = driving.transformed(lambda points: points * 0.9 + (12, 6))
    boxes = [clip_of(models, picture, poses).faces.boxes for poses in (driving, moved)]
    torch.testing.assert_close(boxes[1], boxes[0] * 0.9 + torch.tensor([12, 6, 12, 6]) * 0.5, atol=1e-3, rtol=0)
    larger = clip_of(models, picture, driving, width=128, height=128).faces.boxes
    torch.testing.assert_close(larger, boxes[0] * 2, atol=1e-3, rtol=0)


class Embedder(nn.Module):
    input_size = 16

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 8)

    def forward(self, faces):
        return self.fc(faces.flatten(1))


def test_one_graph_at_a_time(monkeypatch):
    """13: the old graph lived until the new decode had finished. Here nothing of it is left when a decode starts."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32))
    boxes = FaceBoxes(torch.tensor([[2.0, 2.0, 14.0, 14.0]]).repeat(4, 1), torch.ones(4, dtype=torch.bool))
    config = HJBConfig(iterations=3, last_step=0, chunk=2)
    vae, embed = (network.eval().requires_grad_(False) for network in (vae, Embedder()))
    refine = make_face_refiner(vae, embed, torch.randn(8), boxes, config, 1)
    kept, alive, decode = [], [], hjb.decode_latents

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def keep(tensor):
        holder = Kept(tensor)
        kept.append(weakref.ref(holder))
        return holder

    def counting(*args, **kwargs):
        alive.append(sum(holder() is not None for holder in kept))
        return decode(*args, **kwargs)

    monkeypatch.setattr(hjb, "decode_latents", counting)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
        refine(torch.randn(4, 4, 8, 8), 0)
    assert alive == [0] * 6, "3 rounds of 2 chunks"
    assert len(kept) > 100, "graphs were built"


def test_start_noise_never_repeats(models, driving, picture, monkeypatch):
    """21: noise was drawn for one window and repeated over the clip."""
    drawn = []

    def listening(*args, **kwargs):
        drawn.append(init_noise(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(pipeline, "init_noise", listening)
    clip_of(models, picture, driving, context_window=2, context_overlap=1)
    frames = drawn[0].flatten(1)
    assert len(frames) == driving.frames
    alike = torch.corrcoef(frames) - torch.eye(len(frames))
    assert alike.abs().max() < 0.3, "independent in every frame"


def test_sizes_of_v1_are_those_that_its_unet_takes():
    """23: multiples of 8 passed the check, of which the UNet cannot halve most often enough."""
    halvings = len(V1_CONFIG.parts["unet"]["block_out_channels"]) - 1
    cell = 2 ** (len(V1_CONFIG.parts["vae"]["block_out_channels"]) - 1)
    assert V1_CONFIG.size_multiple == cell * 2**halvings
    for width, height in V1_CONFIG.trained_sizes:
        SamplingConfig.for_model(V1_CONFIG, width=width, height=height)
    with pytest.raises(InputError, match="size 520 x 1000: model 'v1' needs multiples of 64; take 512 x 1024"):
        SamplingConfig.for_model(V1_CONFIG, width=520, height=1000)


def test_pose_features_are_made_once_for_a_clip(models, driving, picture):
    """25: PoseNet ran again for every window in every step."""
    seen = []
    listener = models.pose_net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    clip_of(models, picture, driving, steps=4, context_window=3, context_overlap=1)
    listener.remove()
    assert sum(seen) == driving.frames


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_errors_are_raised_on_purpose(path):
    """31: guards were divisions by zero, and some were assertions that `python -O` removes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno} asserts"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            assert node.right.value != 0, f"{path.name}:{node.lineno} divides by zero"


def test_nothing_is_loaded_by_an_import():
    """37: networks were opened on CUDA when a module was imported."""
    modules = [f"stableanimator_core.{name}" for name in ("pipeline", "pose.detector", "face.detect", "cli")]
    code = (
        f"import json, sys, torch, {', '.join(modules)}; "
        "print(json.dumps([name in sys.modules for name in ('onnxruntime', 'insightface')] "
        "+ [torch.cuda.is_initialized()]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [False, False, False]
