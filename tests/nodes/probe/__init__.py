"""A node pack for tests alone: shows what ComfyUI's memory management holds."""

import gc
import sys
from pathlib import Path

from aiohttp import web
from comfy import model_management
from server import PromptServer

NODE_CLASS_MAPPINGS: dict = {}
asked: list[tuple[list[str], float]] = []  # of ComfyUI: parts to load, and bytes to keep free beside them
load_models_gpu = model_management.load_models_gpu


def spying_load(models, memory_required=0, **given):
    parts = (getattr(patcher.model, "parts", {}) for patcher in models)
    asked.append((sorted(name for part in parts for name in part), memory_required))
    return load_models_gpu(models, memory_required, **given)


model_management.load_models_gpu = spying_load


@PromptServer.instance.routes.get("/probe/asked")
async def tell_asked(request: web.Request) -> web.Response:
    """What was asked of load_models_gpu since the last call."""
    told, asked[:] = asked[:], []
    return web.json_response(told)


@PromptServer.instance.routes.get("/probe/models")
async def models(request: web.Request) -> web.Response:
    """Class names of the loaded models, and how many of the pack's network groups are alive at all."""
    gc.collect()
    loaded = [type(patcher.model).__name__ for patcher in model_management.loaded_models() if patcher is not None]
    kind = next((m.StableAnimatorNetworks for n, m in sys.modules.items() if n.endswith("nodes.patchers")), None)
    alive = sum(isinstance(thing, kind) for thing in gc.get_objects()) if kind else 0
    return web.json_response({"loaded": loaded, "alive": alive})


@PromptServer.instance.routes.post("/probe/shrink_v1")
async def shrink_v1(request: web.Request) -> web.Response:
    """Give the published model the networks of a model folder, so that files of that size fit; None undoes it."""
    folder = (await request.json())["model"]
    weights = next(m for n, m in sys.modules.items() if n.endswith("stableanimator_core.weights"))
    if not hasattr(shrink_v1, "own"):
        shrink_v1.own = dict(vars(weights.V1_CONFIG))
    changed = shrink_v1.own
    if folder is not None:
        small = dict(vars(weights.read_config(Path(folder))))
        parts = {part: settings for part, settings in small["parts"].items() if part != "face_judge"}
        changed = {**small, "name": "v1", "face_crop": "arcface", "parts": parts}
    for name, value in changed.items():
        object.__setattr__(weights.V1_CONFIG, name, value)
    return web.json_response({})
