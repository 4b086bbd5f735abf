"""How much memory the nodes ask ComfyUI to keep free beside their networks: what Preflight's plan says."""

from __future__ import annotations

import pytest
from material import literal, prompt, standing

from stableanimator_core.alignment import align
from stableanimator_core.evaluation.plan import GIB, MemoryPlan, plan_decoding, plan_memory
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.pipeline import SamplingConfig, place_motion
from stableanimator_core.weights import load_models

FRAMES, WIDTH, HEIGHT = 6, 128, 96
FACE = ["face_embedder", "face_judge"]
ALL = sorted(["unet", "pose_net", "face_encoder", "vae", "image_encoder", *FACE])


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


def planned(models, iterations: int, frames: list[int] | None = None, **sampling) -> MemoryPlan:
    """The plan of a job with these nodes' own material, on a card as large as is wanted."""
    settings = SamplingConfig.for_model(models.config, width=WIDTH, height=HEIGHT, steps=2, **sampling)
    motion = align(standing(FRAMES), standing(1), "svd").poses
    faces = place_motion(models.config, motion, settings, range(FRAMES) if frames is None else frames)[2]
    return plan_memory(models, settings, HJBConfig(iterations, 0, 1, chunk=8), faces, None)


def job(seed: int, **given) -> dict:
    return prompt(frames=FRAMES, seed=seed, steps=2, width=WIDTH, height=HEIGHT, hjb={}, **given)


def asked(server, nodes: dict) -> list[list]:
    """(parts, bytes) of every call of load_models_gpu in a run."""
    server.get("/probe/asked")
    run = server.run(nodes)
    assert run.succeeded, run.error
    return server.get("/probe/asked")


def test_sample_asks_for_its_largest_stage_and_decode_for_a_chunk(server, models):
    told = asked(server, job(seed=601))
    plan = planned(models, iterations=2)
    room = plan_decoding(models.vae, WIDTH, HEIGHT, 4, float("inf"))[2]  # the node's chunk
    assert [parts for parts, _ in told] == [FACE, ALL, ["vae"]]
    assert [given for _, given in told] == pytest.approx([0, plan.sampling * GIB, room * GIB])
    assert plan.hjb > plan.unet, "a face is decoded"


def test_without_a_face_sample_asks_for_the_unet_alone(server, models):
    told = dict((len(parts), given) for parts, given in asked(server, job(seed=602, face=None, context_frames=4)))
    plan = planned(models, iterations=0, context_window=4)
    assert told[len(ALL)] == pytest.approx(plan.unet * GIB) and plan.hjb == 0


@pytest.mark.parametrize("most", [0, 1])
def test_sweep_asks_for_its_largest_setting_and_to_decode(server, models, most):
    nodes = job(seed=603)
    given = {name: nodes["sample"]["inputs"][name] for name in ("model", "reference", "poses", "face", "seed", "steps")}
    given |= {"hjb": ["hjb", 0], "width": WIDTH, "height": HEIGHT, "draft": 0}
    given |= {"iterations": f"0, {most}", "hjb_steps": ""}
    nodes["sweep"] = {"class_type": "StableAnimatorHJBSweep", "inputs": given}
    for other in ("sample", "decode", "save"):
        del nodes[other]
    told = asked(server, nodes)
    plan = planned(models, iterations=most)
    assert told[-1] == [ALL, pytest.approx(plan.beside * GIB)]
    assert plan.beside == (plan.hjb if most else plan.decode)


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
    assert asked(server, nodes) == [[ALL, pytest.approx(planned(models, iterations=0).decode * GIB)]]
