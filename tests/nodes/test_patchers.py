"""Moving networks on and off a device as ComfyUI does, under inference mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs inside ComfyUI's folder.
START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
import utils.install_util  # before anything else that is called utils, as main.py does
from comfy.cli_args import args
args.cpu = True
import torch

pack, folder = sys.argv[1:]
spec = spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
from comfy import model_management
from pack.nodes.patchers import AnimatorModel
from pack.stableanimator_core.weights import load_models
"""
# Real moves need a GPU; here a move is a copy of every tensor, which is what counts: a tensor made under inference mode
# cannot be differentiated through.
MOVE = """
with torch.inference_mode():
    model = AnimatorModel.of(load_models(folder))
    for patcher in model.patchers.values():
        networks = patcher.model
        networks.to = lambda device, networks=networks: networks._apply(torch.clone)
    models = model.load(*model.patchers)
    assert len(model_management.loaded_models()) == len(model.patchers)
    patcher = model.patchers["vae"]
    assert patcher.partially_unload(torch.device("cpu"), 1) == 0, "networks are moved whole"
    assert patcher.loaded_size() == patcher.model_size()
    assert not any(weight.is_inference() for part in models.parts().values() for weight in part.parameters())
    model_management.unload_all_models()
    assert not model_management.loaded_models() and patcher.loaded_size() == 0
    assert not any(weight.is_inference() for part in models.parts().values() for weight in part.parameters())
print("moved")
"""


# A CPU by another name passes for a card of 4 GiB, on which nothing but networks lies.
MAKE_ROOM = """
GIB = 1 << 30
card = torch.device("cpu:0")
model_management.get_torch_device = lambda: card

def free(device=None, torch_free_too=False):
    left = 4 * GIB - sum(loaded.model_loaded_memory() for loaded in model_management.current_loaded_models)
    return (left, 0) if torch_free_too else left

model_management.get_free_memory = free
one, other = (AnimatorModel.of(load_models(folder)) for _ in range(2))

def held(model):
    return sum(patcher.loaded_size() > 0 for patcher in model.patchers.values())

one.load(*one.patchers)
other.load("vae")
assert (held(one), held(other)) == (4, 1), "there is room for all of them"
other.load("vae", room=2 * GIB)
assert (held(one), held(other)) == (4, 1), "and for 2 GiB of work"
other.load("vae", room=3.999 * GIB)
assert held(one) < 4 and held(other) == 1, "not for all of the card: what is not needed goes"
print("moved")
"""


# Networks lie in main memory before they are loaded; the card, which is only asked for its name, has fused kernels.
PLANS = """
from types import SimpleNamespace
from pack.nodes import preflight, room
from pack.stableanimator_core import vae
from pack.stableanimator_core.hjb_settings import HJBConfig
from pack.stableanimator_core.models import kernels
from pack.stableanimator_core.performers import make_clip
from pack.stableanimator_core.pipeline import SamplingConfig

model, card = AnimatorModel.of(load_models(folder)), torch.device("cuda", 0)
preflight.get_torch_device = model_management.get_torch_device = lambda: card
model_management.get_total_memory = lambda device: 24 << 30
kernels.usable = lambda device: device == card
models, frames = model.models, 4
latents = torch.zeros(frames, 4, 8, 8)
pixels = 64 * 64
wanted = frames * vae.decode_bytes(models.vae, pixels, card)
assert wanted < frames * vae.decode_bytes(models.vae, pixels)
assert room.room_to_decode(models, latents, 8) == wanted
motion = make_clip(0, size=(64, 64), frames=frames, family="wave").poses
plan = room.plan_here(models, motion, SamplingConfig.for_model(models.config), HJBConfig(0), range(frames))
assert abs(plan.decode * (1 << 30) - wanted) < 1

node, given = preflight.StableAnimatorPreflight, {}
preflight.places = lambda: None
preflight.report_job = lambda *args, **named: given.update(named) or ""
node.hidden = SimpleNamespace(prompt={"1": {"inputs": {}}}, unique_id="1")
node.execute(model, 0, 0, 0, 0, False)
assert given["device"] == card
print("moved")
"""


def run_in(comfyui: Path, script: str, model: Path) -> None:
    command = [sys.executable, "-c", START + script, str(REPOSITORY), str(model)]
    result = subprocess.run(command, cwd=comfyui, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "moved" in result.stdout, result.stderr[-3000:]


def test_moved_weights_can_be_differentiated_through(comfyui, tiny_model):
    run_in(comfyui, MOVE, tiny_model)


def test_other_models_leave_for_the_room_that_is_asked_for(comfyui, tiny_model):
    run_in(comfyui, MAKE_ROOM, tiny_model)


def test_plans_are_for_the_device_that_comfyui_computes_on(comfyui, tiny_model):
    run_in(comfyui, PLANS, tiny_model)
