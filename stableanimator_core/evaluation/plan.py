"""What a job takes of a card's memory, stage by stage, and how it is made to fit."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLTemporalDecoder

from ..face import FaceBoxes
from ..face_windows import CHUNK as FACES
from ..face_windows import fitting_chunk, hjb_bytes, largest_window
from ..hjb import HJBConfig, StepSettings
from ..models import kernels
from ..pipeline import SamplingConfig
from ..vae import CHUNK, LEAST_TILE, WIDTH, cell_size, width_of
from ..weights import V1_CONFIG, Models
from ..weights.networks import build_models

GIB = 1 << 30
# What Stable Video Diffusion's networks take in half precision, beside their weights, for every pixel of the picture:
# tests/benchmarks/2026-11-23-v1-speed.md, with fused kernels and without them.
UNET_BYTES, PLAIN_UNET_BYTES = 255, 300  # a frame of one window and one half of guidance
UNET_WIDTH = 320 + 640 / 4 + 1280 / 16 + 1280 / 64
DECODE_BYTES, PLAIN_DECODE_BYTES = 1_800, 2_350  # a frame decoded at once
SPARE_GIB = 1.0  # of a card, for everything else
USUAL_FACE = 0.4  # of the picture's shorter side: the drawn performer of that record
USUAL_FRAMES = 16


class MemoryPlan(NamedTuple):
    """GiB that the stages of a job take, about, and what is done at once so that they fit."""

    networks: float
    unet: float  # a denoising step, beside the networks, as all that follows
    together: bool  # both halves of guidance in one call of the UNet
    hjb: float  # 0 where it is off or no face is known
    window: tuple[int, int, int] | None  # faces at once, and the rows and columns of latent cells around them
    hjb_chunk: int
    hjb_asked: int  # the most faces at once
    decode: float
    decode_chunk: int
    decode_asked: int
    tile: int | None  # latent cells; None: whole frames
    card: float | None  # None: as large as is wanted

    @property
    def sampling(self) -> float:
        """The most beside the networks until the latents are there: stages follow one another."""
        return max(self.unet, self.hjb)

    @property
    def beside(self) -> float:
        """The most beside the networks, with decoding."""
        return max(self.sampling, self.decode)

    @property
    def peak(self) -> float:
        """The most at any time."""
        return self.networks + self.beside

    @property
    def fits(self) -> bool:
        """Whether the card is large enough, with something to spare."""
        return self.card is None or self.peak <= self.card - SPARE_GIB

    def record(self) -> dict:
        """For JSON."""
        stages = ("networks", "unet", "hjb", "decode", "peak")
        return {f"{stage}_gib": round(getattr(self, stage), 2) for stage in stages} | {
            "card_gib": self.card,
            "fits": self.fits,
            "guidance_together": self.together,
            "hjb_chunk": self.hjb_chunk,
            "decode_chunk": self.decode_chunk,
            "decode_tile": self.tile,
        }


def plan_memory(
    models: Models, settings: SamplingConfig, hjb: HJBConfig, faces: FaceBoxes | None, card_gib: float | None
) -> MemoryPlan:
    """The plan of a job on a card with so much memory in all; None lets every stage take what it likes.

    faces: of the output, in its pixels; None where the motion is not known. It says what the run does by itself: the
    face optimisation decodes as many faces at once as fit, and both guidance and decoding step down when memory runs
    out. Right for the published model's sizes, in proportion to channels and precision for others.
    """
    vae, pixels = models.vae, settings.width * settings.height
    networks = networks_gib(models)
    rest = math.inf if card_gib is None else (card_gib - networks - SPARE_GIB) * GIB

    frames = USUAL_FRAMES if faces is None else len(faces.found)
    halves = 1 if settings.guidance == (1, 1) else 2
    fused = kernels.usable(models.device)
    unet = (UNET_BYTES if fused else PLAIN_UNET_BYTES) * _share(models.unet, UNET_WIDTH, models.unet.dtype)
    unet *= min(frames, settings.context_window)
    together = halves * unet * pixels <= rest

    chunk, window, taken = hjb.chunk or FACES, None, 0.0
    if faces is not None and refined_steps(hjb, settings.steps):
        cell = cell_size(vae)
        size = settings.height // cell, settings.width // cell
        chunk = fitting_chunk(vae, faces, size, hjb.around, rest, most=chunk)
        window = largest_window(faces, size, cell, chunk=chunk, margin=hjb.around)
        taken = hjb_bytes(vae, window)

    at_once, tile, decode = plan_decoding(vae, settings.width, settings.height, min(CHUNK, frames), rest)
    return MemoryPlan(
        networks=networks,
        unet=(halves if together else 1) * unet * pixels / GIB,
        together=together,
        hjb=taken / GIB,
        window=None if window is None else window.shape,
        hjb_chunk=chunk,
        hjb_asked=hjb.chunk or FACES,
        decode=decode,
        decode_chunk=at_once,
        decode_asked=min(CHUNK, frames),
        tile=tile,
        card=card_gib,
    )


def plan_decoding(
    vae: AutoencoderKLTemporalDecoder, width: int, height: int, most: int, rest: float
) -> tuple[int, int | None, float]:
    """Frames of this size decoded at once, the tile's side in latent cells, and the GiB that they take: where
    decode_latents ends when so many bytes are left. most: frames at once that are asked for."""
    frame = (DECODE_BYTES if kernels.usable(vae.device) else PLAIN_DECODE_BYTES) * width * height
    frame *= _share(vae, WIDTH, vae.decoder.conv_in.weight.dtype)
    longer = max(width, height) // cell_size(vae)
    while most > 1 and most * frame > rest:
        most //= 2
    tile, part = None, 1.0
    while most * part * frame > rest and tile != LEAST_TILE:
        tile = max(-(-(tile or longer) // 2), LEAST_TILE)
        part = min(1.0, (tile / longer) ** 2)
    return most, tile, most * part * frame / GIB


def plan_published(card_gib: float) -> dict[tuple[int, int], MemoryPlan]:
    """The published model with its own settings, in half precision: a plan for each size (width, height) that it was
    trained at, for USUAL_FRAMES frames of somebody whose face is USUAL_FACE of the shorter side."""
    with init_empty_weights():
        models = build_models(V1_CONFIG)
    for part in models.parts().values():
        part.half()
    plans = {}
    for width, height in V1_CONFIG.trained_sizes:
        settings = SamplingConfig.for_model(V1_CONFIG, width=width, height=height)
        side = USUAL_FACE * min(width, height)
        box = torch.tensor([(width - side) / 2, height / 8, (width + side) / 2, height / 8 + side])
        faces = FaceBoxes(box.repeat(USUAL_FRAMES, 1), torch.ones(USUAL_FRAMES, dtype=torch.bool))
        plans[width, height] = plan_memory(models, settings, HJBConfig(**V1_CONFIG.hjb), faces, card_gib)
    return plans


def describe_plan(plan: MemoryPlan) -> list[str]:
    """What is done in smaller pieces than is asked for, so that the job fits."""
    told = []
    if not plan.together:
        told.append("the halves of guidance are run one after the other")
    if plan.window is not None and plan.hjb_chunk < plan.hjb_asked:
        told.append(f"the face optimisation decodes {counted(plan.hjb_chunk, 'face')} at once")
    if plan.tile is not None:
        told.append(f"frames are decoded in tiles of {plan.tile}x{plan.tile} latent cells")
    elif plan.decode_chunk < plan.decode_asked:
        told.append(f"frames are decoded {plan.decode_chunk} at once")
    return told


def remedy(plan: MemoryPlan) -> str:
    """What helps where a plan does not fit."""
    if plan.networks > plan.card - SPARE_GIB:
        return "the networks alone do not fit, take a smaller model or a larger card"
    if plan.hjb > max(plan.unet, plan.decode):
        return "make a smaller video, or switch the face optimisation off"
    return "make a smaller video or lower context_frames"


def is_published(models: Models) -> bool:
    """Whether the networks have the published model's sizes: of others no memory was measured or reckoned."""
    return all(
        list(getattr(models, part).config.block_out_channels) == V1_CONFIG.parts[part]["block_out_channels"]
        for part in ("unet", "vae")
    )


def networks_gib(models: Models) -> float:
    """What the weights take, wherever they are."""
    return sum(map(weights_gib, models.parts().values()))


def weights_gib(network: torch.nn.Module) -> float:
    """What the weights of one network take."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters()) / GIB


def refined_steps(hjb: HJBConfig, steps: int) -> dict[int, StepSettings]:
    """What HJB does, by sampling step; steps that it leaves alone are not among them."""
    settings = {step: hjb.at(step, steps) for step in range(steps)}
    return {step: done for step, done in settings.items() if done is not None}


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}{'s' * (number != 1)}"


def _share(network: torch.nn.Module, width: float, dtype: torch.dtype) -> float:
    """Memory of a pixel, over that of Stable Video Diffusion's network of this width in half precision."""
    return width_of(network) / width * dtype.itemsize / 2
