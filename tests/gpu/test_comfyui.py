"""Networks take turns on a GPU through ComfyUI's memory management: the same frames, and 512x512 on a small card."""

from __future__ import annotations

import pytest
from comfy_script import run_in

pytestmark = pytest.mark.gpu

JOB = """
import gc
from pack.stableanimator_core import pipeline, vae
from pack.stableanimator_core.hjb_settings import HJBConfig
from pack.stableanimator_core.performers import make_clip

card = model_management.get_torch_device()
assert card.type == "cuda"

def job(model, clip, steps, on_step=None):
    config, hjb = model.models.config, HJBConfig(2, 1, 3)
    settings = pipeline.SamplingConfig.for_model(config, width=clip.poses.width, height=clip.poses.height, steps=steps)
    with torch.inference_mode():
        models = model.load()
        face = pipeline.find_face(models, clip.reference, clip.reference_pose)
        hjb, fitted = pipeline.fit_to_memory(models, clip.poses, face, settings, hjb)
        hooks, notes = pipeline.Hooks(on_step=on_step), []
        made = pipeline.sample(models, clip.reference, clip.poses, face, settings, hjb, hooks=hooks)
        return vae.decode_video(models, made.latents, on_note=notes.append), [*fitted, *made.notes, *notes]
"""

# Five steps, so that CUDA graphs are recorded.
SAME = """
model = AnimatorModel.of(load_models(folder))
turns = model.models.turns
config = model.models.config
clip = make_clip(1, size=(config.width, config.height), frames=4, family="wave")
whole, notes = job(model, clip, 5)
patchers = [turns.others, *turns.patchers.values()]
assert all(patcher in model_management.loaded_models() for patcher in patchers)
model_management.get_free_memory = lambda device=None, torch_free_too=False: (0, 0) if torch_free_too else 0

def on_step(*_):
    assert set(model_management.loaded_models()) == {turns.others, turns.patchers[model.models.unet]}

for _ in range(2):
    made, told = job(model, clip, 5, on_step)
    assert torch.equal(made, whole) and told == notes
    assert model_management.loaded_models() == [turns.others]
print("done")
"""

# `gib` is the card's size: all of it but that, and what CUDA itself takes, is occupied.
SMALL = """
from pack.stableanimator_core.evaluation.plan import plan_published
from pack.stableanimator_core.memory import CUDA_GIB, GIB
from pack.stableanimator_core.weights import V1_CONFIG, random_models

models = random_models(V1_CONFIG, device=card, dtype=torch.float16).to("cpu")
model = AnimatorModel.of(models)
turns, there = model.models.turns, []
gc.collect()
torch.cuda.empty_cache()
free = model_management.get_free_memory(card)
occupied = torch.empty(int(free - (gib - CUDA_GIB) * GIB), dtype=torch.uint8, device=card)

def on_step(*_):
    there.append({name for name in ("unet", "image_encoder") if turns.holds(getattr(models, name))})

for _ in range(2):
    clip = make_clip(1, size=(512, 512), frames=16, family="wave")
    made, notes = job(model, clip, 5, on_step)
    assert made.isfinite().all() and there == [{"unet"}] * len(there)
    assert gib < 8 or not any("ran out" in note or "one half" in note for note in notes), notes
assert plan_published(gib, card)[512, 512].fits and len(there) == 10
print("done")
"""


def test_what_is_made_is_the_same(comfyui):
    """Of the built-in model, as if there were no room at all."""
    run_in(comfyui, JOB + SAME, "mini", "cuda")


@pytest.mark.parametrize("gib", [6, 8])
def test_the_published_size_on_a_small_card(comfyui, gib):
    run_in(comfyui, f"gib = {gib}\n{JOB}{SMALL}", "v1", "cuda")
