"""StableAnimator++ as a ComfyUI node pack."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import StableAnimatorExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> StableAnimatorExtension:
    """ComfyUI calls this once; the nodes need ComfyUI and are imported only here."""
    from .nodes import StableAnimatorExtension

    return StableAnimatorExtension()
