"""ComfyUI nodes: schema, conversion and one call of the core each. The only package that knows ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .example import StableAnimatorExample
from .extract import StableAnimatorExtractPoses
from .face import StableAnimatorEncodeFace
from .folders import register_model_folder
from .hjb import StableAnimatorHJBOptions
from .model import StableAnimatorLoadModel
from .poses import StableAnimatorAlignPoses, StableAnimatorDrawPoses
from .preflight import StableAnimatorPreflight
from .sample import StableAnimatorDecode, StableAnimatorSample
from .score import StableAnimatorIdentityScore
from .sweep import StableAnimatorHJBSweep


class StableAnimatorExtension(ComfyExtension):
    """The pack's nodes, in the order of the work."""

    def __init__(self) -> None:
        register_model_folder()

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            StableAnimatorLoadModel,
            StableAnimatorExample,
            StableAnimatorExtractPoses,
            StableAnimatorAlignPoses,
            StableAnimatorDrawPoses,
            StableAnimatorEncodeFace,
            StableAnimatorHJBOptions,
            StableAnimatorHJBSweep,
            StableAnimatorPreflight,
            StableAnimatorSample,
            StableAnimatorDecode,
            StableAnimatorIdentityScore,
        ]
