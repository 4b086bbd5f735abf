"""A node pack for tests alone: shows what ComfyUI's memory management holds."""

import gc
import sys

from aiohttp import web
from comfy import model_management
from server import PromptServer

NODE_CLASS_MAPPINGS: dict = {}


@PromptServer.instance.routes.get("/probe/models")
async def models(request: web.Request) -> web.Response:
    """Class names of the loaded models, and how many of the pack's network groups are alive at all."""
    gc.collect()
    loaded = [type(patcher.model).__name__ for patcher in model_management.loaded_models() if patcher is not None]
    kind = next((m.StableAnimatorNetworks for n, m in sys.modules.items() if n.endswith("nodes.patchers")), None)
    alive = sum(isinstance(thing, kind) for thing in gc.get_objects()) if kind else 0
    return web.json_response({"loaded": loaded, "alive": alive})
