"""Networks come and leave through ComfyUI's memory management, under inference mode, and take turns on a small card."""

from __future__ import annotations

import pytest
from comfy_script import run_in
from material import literal, prompt, standing

from stableanimator_core.alignment import align
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.pipeline import SamplingConfig, place_motion, sampling_bytes
from stableanimator_core.vae import decode_bytes, encode_bytes
from stableanimator_core.weights import load_models

# Real moves need a GPU; here a move is a copy of every tensor, which is what counts: a tensor made under inference mode
# cannot be differentiated through. A CPU by another name passes for a card on which nothing but networks lies.
CARD = """
from comfy.model_patcher import ModelPatcher
from pack.stableanimator_core import hjb, pipeline, vae
from pack.stableanimator_core.hjb_settings import HJBConfig
from pack.stableanimator_core.performers import make_clip

card, size, told = torch.device("cpu:0"), [1 << 50], []  # bytes of the card, what came and left
model_management.get_torch_device = lambda: card

def free(device=None, torch_free_too=False):
    left = size[0] - sum(loaded.model_loaded_memory() for loaded in model_management.current_loaded_models)
    return (left, 0) if torch_free_too else left

model_management.get_free_memory = free

def watched(patcher, name):
    def move(device):
        assert torch.device(device) in (card, torch.device("cpu"))
        told.append(("+" if torch.device(device) == card else "-") + name)
        return patcher.model._apply(torch.clone)

    patcher.model.to = move
    return patcher

def needs_card(network, patcher):
    def refuse(*given):
        assert patcher.loaded_size() == patcher.model_size() > 0, "ran in main memory"

    network.register_forward_pre_hook(refuse)

def wrapped(models):
    heavy = torch.nn.Parameter(torch.zeros(1 << 20), requires_grad=False)
    models.image_encoder.register_parameter("heavy", heavy)  # as the UNet is
    model = AnimatorModel.of(models)
    turns = model.models.turns
    watched(turns.patchers[models.unet], "unet")
    watched(turns.patchers[models.image_encoder], "image_encoder")
    watched(turns.others, "others")
    for network, patcher in turns.patchers.items():
        needs_card(network, patcher)
    for part in turns.others.model.parts.values():
        needs_card(part, turns.others)
    return model

def moves():
    made, told[:] = list(told), []
    return made

clip = make_clip(0, size=(64, 64), frames=4, family="wave")
settings = pipeline.SamplingConfig.for_model(load_models(folder).config)
once = HJBConfig(1, 0, 0, chunk=4)

def job(models):
    face = pipeline.find_face(models, clip.reference, clip.reference_pose)
    made = pipeline.sample(models, clip.reference, clip.poses, face, settings, once)
    return vae.decode_video(models, made.latents), made.notes

def same(one, other):
    return (one[0] == other[0]).all() and one[1] == other[1]

with torch.no_grad():
    whole = job(load_models(folder))
"""


MOVE = """
with torch.inference_mode():
    model = wrapped(load_models(folder))
    turns = model.models.turns
    with model.load().on_device("unet", "image_encoder"):
        assert len(model_management.loaded_models()) == 3
    for patcher in (turns.others, *turns.patchers.values()):
        assert patcher.partially_unload(torch.device("cpu"), 1) == 0, "networks are moved whole"
        assert patcher.loaded_size() == patcher.model_size()
    weights = [weight for part in model.models.parts().values() for weight in part.parameters()]
    assert not any(weight.is_inference() for weight in weights)
    model_management.unload_all_models()
    assert not model_management.loaded_models() and patcher.loaded_size() == 0
    assert not any(weight.is_inference() for weight in weights)

print("done")
"""


TURNS = """
model = wrapped(load_models(folder))
turns = model.models.turns
unet, encoder = (turns.patchers[network] for network in (model.models.unet, model.models.image_encoder))

def loaded():
    there = model_management.loaded_models()
    return {name for name, patcher in (("unet", unet), ("image_encoder", encoder)) if patcher in there}

with torch.inference_mode():
    assert same(job(model.load()), whole)
    assert moves() == ["+others", "+image_encoder", "+unet"], "as they are needed"
    assert same(job(model.load()), whole)
    assert moves() == [], "nothing moves where there is room for all"

    model_management.unload_all_models()
    assert sorted(moves()) == ["-image_encoder", "-others", "-unet"]
    one = 1.2 * max(unet.model_size(), encoder.model_size())
    size[0] = turns.others.model_size() + one + model_management.minimum_inference_memory()
    assert same(job(model.load()), whole)
    assert moves() == ["+others", "+image_encoder", "-image_encoder", "+unet"] and loaded() == {"unet"}
    assert same(job(model.load()), whole)
    assert moves() == ["-unet", "+image_encoder", "-image_encoder", "+unet"] and loaded() == {"unet"}
    assert encoder.loaded_size() == 0 and unet.loaded_size() == unet.model_size()

    size[0] = sum(each.model_size() for each in (turns.others, unet, encoder))
    with model.models.on_device("unet"):
        with model.models.on_device("image_encoder"):
            assert loaded() == {"unet", "image_encoder"}, "what a block around this one wants stays"
print("done")
"""


# Another pack's model lies there, too.
OTHERS = """
model = wrapped(load_models(folder))
turns, models = model.models.turns, model.models
other = watched(ModelPatcher(torch.nn.Linear(999, 1000), card, torch.device("cpu")), "other")
bytes_of = lambda *networks: sum(weight.nbytes for network in networks for weight in network.parameters())

def all_there():
    model_management.load_models_gpu([other])
    with model.load().on_device("unet", "image_encoder"):
        moves()

def out_of_memory_once(method):
    waiting = [True]

    def limited(*given, **named):
        if waiting:
            waiting.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return method(*given, **named)

    return limited

with torch.inference_mode():
    assert abs(models.gain("unet") + bytes_of(*models.parts().values()) - bytes_of(models.image_encoder)) < 1e5
    all_there()
    leaving = bytes_of(models.image_encoder) + 4 * 1000 * 1000
    assert abs(models.gain("unet") - leaving) < 1e5, "ComfyUI would unload them for the UNet's work"
    assert abs(models.gain() - leaving - bytes_of(models.unet)) < 1e5

    forward, models.unet.forward = models.unet.forward, out_of_memory_once(models.unet.forward)
    assert same(job(model.load()), whole), "both halves of guidance in one call, and no note"
    assert sorted(moves()) == ["-image_encoder", "-other"]
    models.unet.forward = forward
    all_there()
    models.vae.decode = out_of_memory_once(models.vae.decode)
    latents = torch.zeros(4, 4, 8, 8)
    vae.decode_video(models, latents)
    assert sorted(moves()) == ["-image_encoder", "-other", "-unet"]
    assert model_management.loaded_models() == [turns.others] and not models.make_room()
    assert moves() == []

    all_there()
    size[0] = sum(each.model_size() for each in (other, turns.others, *turns.patchers.values())) + (3 << 30)
    with models.on_device("unet", room=2 << 30):
        assert moves() == [], "there is room for 2 GiB of work"
    with models.on_device("unet", room=3 << 30):
        assert sorted(moves()) == ["-image_encoder", "-other"], "not for 3"
print("done")
"""


# The card is only asked for its name.
PLANS = """
from types import SimpleNamespace
from pack.nodes import preflight, upstream
from pack.stableanimator_core.weights import Places

card = torch.device("cuda", 0)
preflight.get_torch_device = model_management.get_torch_device = lambda: card
model, node, given = AnimatorModel.of(load_models(folder)), preflight.StableAnimatorPreflight, []
preflight.places = upstream.places = Places.default
preflight.report_job = lambda models, *args, **named: given.append(models) or ""
loader = {"class_type": "StableAnimatorLoadModel", "inputs": {"model": "mini", "dtype": "auto"}}
node.hidden = SimpleNamespace(prompt={"1": {"inputs": {"model": ["2", 0]}}, "2": loader}, unique_id="1")
for each in (model, None):
    node.execute(each, 0, 0, 0, 0, False)
assert all(models.device == card and models.turns is not None for models in given) and len(given) == 2
print("done")
"""


def test_moved_weights_can_be_differentiated_through(comfyui, tiny_model):
    run_in(comfyui, CARD + MOVE, tiny_model)


def test_networks_take_turns_where_there_is_no_room_for_all(comfyui, tiny_model):
    """What is made is the same; with room nothing moves."""
    run_in(comfyui, CARD + TURNS, tiny_model)


def test_whatever_nobody_wants_leaves_before_anything_gets_smaller(comfyui, tiny_model):
    run_in(comfyui, CARD + OTHERS, tiny_model)


def test_plans_are_for_networks_that_take_turns_on_the_device_that_comfyui_computes_on(comfyui, tiny_model):
    run_in(comfyui, PLANS, tiny_model)


# --- what ComfyUI is asked for --------------------------------------------------------------------------------------

FRAMES, WIDTH, HEIGHT = 6, 128, 96
PIXELS = WIDTH * HEIGHT
OTHERS_PARTS = ["face_embedder", "face_encoder", "face_judge", "pose_net", "vae"]
WITH_ENCODER, WITH_UNET = (sorted([*OTHERS_PARTS, name]) for name in ("image_encoder", "unet"))


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


def sampling(models, iterations: int, frames: list[int] | None = None, **given) -> float:
    """Bytes of the sampling of a job with these nodes' own material."""
    settings = SamplingConfig.for_model(models.config, width=WIDTH, height=HEIGHT, steps=2, **given)
    motion = align(standing(FRAMES), standing(1), "svd").poses
    faces = place_motion(models.config, motion, settings, range(FRAMES) if frames is None else frames)[2]
    return sampling_bytes(models, settings, HJBConfig(iterations, 0, 1, chunk=8), faces)


def job(seed: int, **given) -> dict:
    return prompt(frames=FRAMES, seed=seed, steps=2, width=WIDTH, height=HEIGHT, hjb={}, **given)


def asked(server, nodes: dict) -> list[tuple]:
    """(parts, bytes) of every call of load_models_gpu in a run."""
    server.get("/probe/asked")
    run = server.run(nodes)
    assert run.succeeded, run.error
    return [(parts, pytest.approx(given)) for parts, given in server.get("/probe/asked")]


def stages(models, room: float) -> list[tuple]:
    """Of Sample."""
    return [(OTHERS_PARTS, 0), (WITH_ENCODER, encode_bytes(models.vae, PIXELS)), (WITH_UNET, room)]


def decoding(models, frames: int) -> tuple:
    return OTHERS_PARTS, frames * decode_bytes(models.vae, PIXELS)


def test_every_stage_asks_for_its_networks_and_its_room(server, models):
    face, decode = [(OTHERS_PARTS, 0)] * 2, [(OTHERS_PARTS, 0), decoding(models, 4)]  # the node's chunk
    server.free()  # nor is Encode Face's result kept
    assert asked(server, job(seed=601)) == [*face, *stages(models, sampling(models, 2)), *decode]
    assert sampling(models, 2) > sampling(models, 0), "a face is decoded"


def test_without_a_face_the_unet_alone_counts(server, models):
    told = asked(server, job(seed=602, face=None, context_frames=4))
    assert told[:3] == stages(models, sampling(models, 0, context_window=4))


def test_the_unet_stays_away_where_all_steps_are_kept(server, models):
    """Only that nobody looks on is new."""
    nodes = job(seed=605)
    asked(server, nodes)
    nodes["sample"]["inputs"]["identity_scope"] = False
    assert asked(server, nodes) == [*stages(models, 0)[:2], (OTHERS_PARTS, 0), decoding(models, 4)]


@pytest.mark.parametrize("most", [0, 1])
def test_sweep_asks_for_each_of_its_settings_and_to_decode(server, models, most):
    nodes = job(seed=610 + most)
    given = {name: nodes["sample"]["inputs"][name] for name in ("model", "reference", "poses", "face", "seed", "steps")}
    given |= {"hjb": ["hjb", 0], "width": WIDTH, "height": HEIGHT, "draft": 0}
    given |= {"iterations": f"0, {most}", "hjb_steps": ""}
    nodes["sweep"] = {"class_type": "StableAnimatorHJBSweep", "inputs": given}
    for other in ("sample", "decode", "save"):
        del nodes[other]
    expected = [(OTHERS_PARTS, 0)]
    for iterations in sorted({0, most}):
        expected += [*stages(models, sampling(models, iterations))[1:], decoding(models, FRAMES)]
    assert asked(server, nodes)[-len(expected) :] == expected


def test_preflight_asks_for_its_trial_what_sample_and_decode_would(server, models):
    nodes = job(seed=604)
    nodes["hjb"]["inputs"]["enabled"] = False
    nodes["check"] = {
        "class_type": "StableAnimatorPreflight",
        "inputs": {
            "model": ["load", 0], "reference": ["image", 0], "reference_pose": literal(standing(1)),
            "driving": literal(standing(FRAMES)), "hjb": ["hjb", 0], "steps": 2, "width": WIDTH, "height": HEIGHT,
            "context_frames": 0, "measure": True,
        },
    }  # fmt: skip
    for other in ("sample", "decode", "save", "face"):
        del nodes[other]
    first, *others = stages(models, sampling(models, 0))
    assert asked(server, nodes) == [first, (OTHERS_PARTS, 0), *others, decoding(models, FRAMES)]
