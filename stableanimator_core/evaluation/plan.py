"""What a job takes of a card's memory, stage by stage, and how it is made to fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from ..denoiser import unet_bytes
from ..face import FaceBoxes
from ..face_windows import CHUNK as FACES
from ..face_windows import fitting_chunk, hjb_bytes, largest_window
from ..hjb_settings import HJBConfig, StepSettings
from ..memory import CUDA_GIB, GIB
from ..pipeline import SamplingConfig
from ..vae import LEAST_TILE, cell_size, decode_bytes, encode_bytes, frames_at_once, half
from ..weights import V1_CONFIG, ModelConfig, Models
from ..weights.networks import build_models
from ..weights.turns import HEAVY, SPARE_BYTES, bytes_of

SPARE_GIB = 1.0  # of a card, for everything else
TURNS_SPARE_GIB = CUDA_GIB + SPARE_BYTES / GIB  # of a card; where less is left, a network leaves
USUAL_FACE = 0.4  # of the picture's shorter side: the drawn performer of that record
USUAL_FRAMES = 16


class Held(NamedTuple):
    """GiB of networks on the card, by stage."""

    conditioning: float
    sampling: float
    decoding: float


class MemoryPlan(NamedTuple):
    """GiB that the stages of a job take, about, and what is done at once so that they fit."""

    networks: float  # all of them
    held: Held  # of them on the card
    encode: float  # the picture, beside the networks, as all that follows
    unet: float  # a denoising step
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
    def peak(self) -> float:
        """The most at any time."""
        held = self.held
        return max(held.conditioning + self.encode, held.sampling + self.sampling, held.decoding + self.decode)

    @property
    def turns(self) -> bool:
        """Whether networks leave the card for one another."""
        return min(self.held) < self.networks

    @property
    def exact(self) -> bool:
        """Whether the result is a large card's: what is decoded at once is what was asked for."""
        asked, made = (self.hjb_asked, self.decode_asked), (self.hjb_chunk, self.decode_chunk)
        return asked == made and self.tile is None

    @property
    def fits(self) -> bool:
        """Whether the card is large enough, with something to spare."""
        return self.card is None or self.peak <= self.card - SPARE_GIB

    def record(self) -> dict:
        """For JSON."""
        stages = ("networks", "encode", "unet", "hjb", "decode", "peak")
        return {f"{stage}_gib": round(getattr(self, stage), 2) for stage in stages} | {
            "held_gib": {stage: round(gib, 2) for stage, gib in self.held._asdict().items()},
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
    out; networks that take turns leave where they are not needed and room is. Right for the published model's sizes, in
    proportion to channels and precision for others.
    """
    vae, pixels, device = models.vae, settings.width * settings.height, models.device
    card = _Card(models, card_gib)
    encode = encode_bytes(vae, pixels)
    conditioning = card.enter("image_encoder", room=encode)

    frames = USUAL_FRAMES if faces is None else len(faces.found)
    unet = unet_bytes(models.unet, min(frames, settings.context_window), pixels, device)
    chunk, window, taken = hjb.chunk or FACES, None, 0.0
    if faces is not None and refined_steps(hjb, settings.steps):
        cell = cell_size(vae)
        size = settings.height // cell, settings.width // cell
        chunk = fitting_chunk(vae, faces, size, hjb.around, card.beside("unet"), most=chunk, device=device)
        window = largest_window(faces, size, cell, chunk=chunk, margin=hjb.around)
        taken = hjb_bytes(vae, window, device)
    sampling = card.enter("unet", room=max(settings.halves * unet, taken))
    together = settings.halves * unet <= card.rest(sampling)

    most = frames_at_once(frames)
    decoding = card.enter(room=most * decode_bytes(vae, pixels, device))
    rest = card.rest(decoding)
    at_once, tile, decode = plan_decoding(vae, settings.width, settings.height, frames, rest, device=device)
    return MemoryPlan(
        networks=networks_gib(models),
        held=Held(conditioning, sampling, decoding),
        encode=encode / GIB,
        unet=(settings.halves if together else 1) * unet / GIB,
        together=together,
        hjb=taken / GIB,
        window=None if window is None else window.shape,
        hjb_chunk=chunk,
        hjb_asked=hjb.chunk or FACES,
        decode=decode,
        decode_chunk=at_once,
        decode_asked=most,
        tile=tile,
        card=card_gib,
    )


class _Card:
    """Networks come and leave on paper, as Turns moves them."""

    def __init__(self, models: Models, gib: float | None):
        self.gib = gib
        self.turns = models.turns is not None
        self.all = networks_gib(models)
        self.heavy = {name: weights_gib(getattr(models, name)) for name in HEAVY}
        self.here = set(HEAVY)

    def held(self, here: Iterable[str]) -> float:
        """GiB of networks, with these of HEAVY."""
        return self.all - sum(gib for name, gib in self.heavy.items() if name not in here)

    def rest(self, held: float) -> float:
        """Bytes beside so many GiB of networks."""
        return math.inf if self.gib is None else (self.gib - held - SPARE_GIB) * GIB

    def beside(self, *names: str) -> float:
        """Bytes beside these of HEAVY at most."""
        return self.rest(self.held(names if self.turns else HEAVY))

    def enter(self, *names: str, room: float) -> float:
        """A stage that wants these of HEAVY and so many bytes: GiB of networks that are there."""
        here = self.here.union(names)
        if self.turns and self.gib is not None and self.held(here) + room / GIB > self.gib - TURNS_SPARE_GIB:
            here = set(names)
        self.here = here
        return self.held(here)


def plan_decoding(
    vae: AutoencoderKLTemporalDecoder, width: int, height: int, frames: int, rest: float,
    *, device: torch.device | None = None,
) -> tuple[int, int | None, float]:  # fmt: skip
    """How many of so many frames of this size are decoded at once, the tile's side in latent cells, and the GiB that
    they take: where decode_latents ends when so many bytes are left. device: as in decode_bytes."""
    frame, longer = decode_bytes(vae, width * height, device), max(width, height) // cell_size(vae)
    at_once = frames_at_once(frames)
    while at_once > 1 and at_once * frame > rest:
        at_once = frames_at_once(frames, half(at_once))
    tile, part = None, 1.0
    while at_once * part * frame > rest and tile != LEAST_TILE:
        tile = max(-(-(tile or longer) // 2), LEAST_TILE)
        part = min(1.0, (tile / longer) ** 2)
    return at_once, tile, at_once * part * frame / GIB


def plan_published(card_gib: float, device: torch.device) -> dict[tuple[int, int], MemoryPlan]:
    """The published model with its own settings, in half precision, on this device: plans for each size (width, height)
    that it was trained at, for USUAL_FRAMES frames of somebody whose face is USUAL_FACE of the shorter side."""
    models = outlined(V1_CONFIG, torch.float16, device)
    plans = {}
    for width, height in V1_CONFIG.trained_sizes:
        settings = SamplingConfig.for_model(V1_CONFIG, width=width, height=height)
        side = USUAL_FACE * min(width, height)
        box = torch.tensor([(width - side) / 2, height / 8, (width + side) / 2, height / 8 + side])
        faces = FaceBoxes(box.repeat(USUAL_FRAMES, 1), torch.ones(USUAL_FRAMES, dtype=torch.bool))
        plans[width, height] = plan_memory(models, settings, HJBConfig(**V1_CONFIG.hjb), faces, card_gib)
    return plans


def outlined(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Models:
    """A model's networks without any weights, in no memory, as they would be on this device: enough for plans."""
    with init_empty_weights():
        models = build_models(config)
    for part in models.parts().values():
        nn.Module.to(part, dtype)  # diffusers' own warns of what does not concern an outline
    return models.taking_turns(device)


def describe_plan(plan: MemoryPlan) -> list[str]:
    """What is done otherwise than on a large card, so that the job fits."""
    told = []
    if plan.turns:
        told.append("networks take turns on the card")
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
    if max(plan.held) > plan.card - SPARE_GIB:
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
    return bytes_of(network) / GIB


def refined_steps(hjb: HJBConfig, steps: int) -> dict[int, StepSettings]:
    """What HJB does, by sampling step; steps that it leaves alone are not among them."""
    settings = {step: hjb.at(step, steps) for step in range(steps)}
    return {step: done for step, done in settings.items() if done is not None}


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}{'s' * (number != 1)}"
