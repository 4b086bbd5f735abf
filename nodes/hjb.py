"""StableAnimatorHJBOptions."""

from __future__ import annotations

from comfy_api.latest import io

from ..stableanimator_core.hjb_settings import CURVES
from .wire import CATEGORY, HJB

OWN = -1  # of a number: the model's own value
MODELS_OWN = "model's own"  # of a list, likewise


class StableAnimatorHJBOptions(io.ComfyNode):
    """Settings of the face optimisation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StableAnimatorHJBOptions",
            display_name="StableAnimator++ HJB Options",
            category=CATEGORY,
            description="Face optimisation while sampling: pulls every frame's face towards the reference face. "
            "Change what you want to change: -1 and model's own stand for the model's value, as when Sample's hjb is "
            "unconnected.",
            inputs=[
                io.Boolean.Input(
                    "enabled", default=True, tooltip="Off: no optimisation. Faster, needs less memory, less alike."
                ),
                io.Int.Input(
                    "iterations", default=OWN, min=OWN, max=100,
                    tooltip="Adam iterations in every step that is optimised; each one decodes the faces. "
                    "0 = off, -1 = the model's own number.",
                ),
                io.Int.Input(
                    "first_step", default=OWN, min=OWN, max=199,
                    tooltip="First sampling step that is optimised, counted from 0. -1 = the model's own.",
                ),
                io.Int.Input(
                    "last_step", default=OWN, min=OWN, max=199,
                    tooltip="Last sampling step that is optimised (included). Early steps are mostly washed out again, "
                    "late ones change fine detail. -1 = the model's own.",
                ),
                io.Float.Input(
                    "learning_rate", default=OWN, min=OWN, max=1.0, step=0.005, round=0.001,
                    tooltip="How far one iteration may move a latent, 0.1 is usual; it falls over the steps. "
                    "Lower it when faces look over-sharpened. -1 = the model's own.",
                ),
                io.Combo.Input(
                    "decode", options=["face", "full", MODELS_OWN], default=MODELS_OWN,
                    tooltip="face: decode only the face's latents plus a margin (fits an 8 GB card). "
                    "full: decode whole frames as the published code does (needs tens of GB at 512x512). "
                    "model's own: face, unless the model says otherwise.",
                ),
                io.Combo.Input(
                    "scope", options=["face", "all", MODELS_OWN], default=MODELS_OWN,
                    tooltip="face: only latents inside the face box move, so the background stays. "
                    "all: every latent may move, as in the published code. model's own: face, unless the model says "
                    "otherwise.",
                ),
                io.Int.Input(
                    "chunk", default=0, min=0, max=64,
                    tooltip="Frames decoded at a time, the most: fewer where memory is short. 0 = as many as fit, up "
                    "to 8. Another number changes the result a little.",
                ),
                io.Combo.Input(
                    "stop", optional=True, options=["count", "adaptive", MODELS_OWN], default=MODELS_OWN,
                    tooltip="count: every frame gets all iterations. adaptive: each frame stops by itself, when it "
                    "gets no more alike or its face sharper than sharpest allows; iterations is then the most. "
                    "model's own: count, unless the model says otherwise.",
                ),
                io.Float.Input(
                    "sharpest", optional=True, default=OWN, min=OWN, max=10.0, step=0.05, round=0.01,
                    tooltip="adaptive: a face that is so many times as sharp as the reference's stops. Above 1 it is "
                    "sharper than the reference, which looks over-sharpened. HJB Sweep leaves such faces out, too. "
                    "-1 = the model's own, mostly 1.2.",
                ),
                io.Combo.Input(
                    "strength", optional=True, options=[*CURVES, MODELS_OWN], default=MODELS_OWN,
                    tooltip="How the learning rate changes over the sampling steps. falling: as in the paper, full at "
                    "the first step, nothing at the end. even: the same in all. rising: from nothing "
                    "to full. middle: full halfway. Shares are of all sampling steps, whichever are optimised: rising "
                    "reaches .36 at most where these are 0 to 9 of 25.",
                ),
            ],
            outputs=[HJB.Output("hjb", display_name="hjb", tooltip="For Sample.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, first_step: int | None, last_step: int | None) -> bool | str:
        given = None not in (first_step, last_step) and OWN not in (first_step, last_step)
        if given and last_step < first_step:
            return f"hjb-steps {first_step}:{last_step} run backwards; last_step must be {first_step} or more"
        return True

    @classmethod
    def execute(
        cls, enabled: bool, iterations: int, first_step: int, last_step: int, learning_rate: float, decode: str,
        scope: str, chunk: int, stop: str = MODELS_OWN, sharpest: float = OWN, strength: str = MODELS_OWN,
    ) -> io.NodeOutput:  # fmt: skip
        given = {
            "iterations": iterations if enabled else 0,
            "first_step": first_step,
            "last_step": last_step,
            "lr": learning_rate,
            "decode": decode,
            "scope": scope,
            "chunk": chunk or OWN,
            "stop": stop,
            "sharpest": sharpest,
            "strength": CURVES.get(strength, strength),
        }
        return io.NodeOutput({name: value for name, value in given.items() if value not in (OWN, MODELS_OWN)})
