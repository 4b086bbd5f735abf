"""Networks take turns on a card too small for all: what is made stays the same, bit for bit.

The card is pretended: networks stay in main memory, are counted as if they were on it, and refuse to run elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stableanimator_core import hjb, memory, pipeline
from stableanimator_core.evaluation import bench
from stableanimator_core.evaluation.bench import run_bench
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.performers import make_clip
from stableanimator_core.pipeline import SamplingConfig, StableAnimator, fit_to_memory, sampling_bytes
from stableanimator_core.trail import Trail
from stableanimator_core.vae import decode_bytes, encode_bytes
from stableanimator_core.weights import Models, load_models, networks, random_models, read_config
from stableanimator_core.weights.turns import HEAVY, MAIN_MEMORY, SPARE_BYTES, Turns, bytes_of

HJB = HJBConfig(iterations=2, first_step=1, last_step=1, lr=0.3, chunk=4)
FRAMES = 6
GENERATOR = torch.Generator()


class Card(Turns):
    """A card of so many bytes beside what always stays there."""

    def __init__(self, size: float, names: dict[nn.Module, str]):
        super().__init__(torch.device("cpu"), list(names))
        self.size, self.names = size, names
        self.there: set[nn.Module] = set()
        self.told: list[str] = []  # what came and left

    def free(self) -> float:
        return self.size - sum(map(bytes_of, self.there))

    def holds(self, network: nn.Module) -> bool:
        return network in self.there

    def move(self, network: nn.Module, device: torch.device) -> nn.Module:
        (self.there.discard if device is MAIN_MEMORY else self.there.add)(network)
        assert self.free() >= 0, "the card is full"
        self.told.append(f"{'-' if device is MAIN_MEMORY else '+'}{self.names[network]}")
        return super().move(network, MAIN_MEMORY)


@pytest.fixture
def clip():
    return make_clip(0, size=(64, 64), frames=FRAMES, family="wave")


@pytest.fixture
def models(tiny_model):
    return load_models(tiny_model)


def on_card(models: Models, size: float, here: tuple[str, ...] = HEAVY) -> Models:
    """The same networks on a card of so many bytes; none of HEAVY runs elsewhere."""
    card = Card(size, {getattr(models, name): name for name in HEAVY})
    card.there |= {getattr(models, name) for name in here}

    def refuse(network: nn.Module, *given) -> None:
        assert card.holds(network), f"{card.names[network]} ran in main memory"

    for name in HEAVY:
        network = getattr(models, name)
        network._forward_pre_hooks.clear()  # of the card before
        network.register_forward_pre_hook(refuse)
    return replace(models, turns=card)


def needs(models: Models) -> dict[str, float]:
    """Bytes of both networks together, and beside the networks in every stage."""
    settings = SamplingConfig.for_model(models.config)
    pixels = settings.width * settings.height
    faces = pipeline.FaceBoxes(torch.zeros(FRAMES, 4), torch.zeros(FRAMES, dtype=torch.bool))
    return {
        "both": sum(bytes_of(getattr(models, name)) for name in HEAVY),
        "conditioning": encode_bytes(models.vae, pixels),
        "sampling": sampling_bytes(models, settings, None, faces),
        "decoding": FRAMES * decode_bytes(models.vae, pixels),
    }


def animate(models: Models, clip, hjb: HJBConfig = HJB, trail: Trail | None = None):
    return StableAnimator(models).animate(clip.reference, clip.poses, clip.reference_pose, hjb=hjb, trail=trail)


def test_nothing_moves_where_there_is_room(models, clip):
    there = on_card(models, 1 << 40)
    animate(there, clip)
    assert there.turns.told == [] and there.turns.moved == 0


def test_a_small_card_makes_what_a_large_one_makes(models, clip):
    """Pictures and scores are equal. Twice: the second job begins with what the first one left."""
    whole = animate(models, clip)
    small = on_card(models, bytes_of(models.unet) + SPARE_BYTES, here=())
    for _ in range(2):
        made = animate(small, clip)
        assert (made.frames == whole.frames).all() and (made.csim == whole.csim).all() and made.notes == whole.notes
        assert small.turns.told == ["+image_encoder", "-image_encoder", "+unet", "-unet"]
        small.turns.told.clear()
    assert small.turns.moved == 4 * needs(models)["both"]


def test_the_unet_stays_away_where_all_steps_are_kept(models, clip):
    small, trail = on_card(models, bytes_of(models.unet) + SPARE_BYTES, here=()), Trail()
    made = animate(small, clip, trail=trail)
    assert "+unet" in small.turns.told
    small.turns.told.clear()
    again = animate(small, clip, trail=trail)
    assert (again.frames == made.frames).all()
    assert "+image_encoder" in small.turns.told and "+unet" not in small.turns.told


def test_networks_leave_only_for_the_stage_that_lacks_room(models, clip):
    need, off = needs(models), HJBConfig(iterations=0)
    assert need["sampling"] < need["conditioning"] < need["decoding"], "of this model; its encoder computes in float32"
    for room, moves in (
        (need["decoding"], []),
        (need["decoding"] - 1, ["-unet", "-image_encoder"]),
        (need["conditioning"] - 1, ["-unet", "+unet", "-unet", "-image_encoder"]),
    ):
        card = on_card(models, need["both"] + SPARE_BYTES + room)
        animate(card, clip, off)
        assert card.turns.told == moves


def test_the_face_optimisation_counts_as_well(models, clip):
    need = needs(models)
    made = {}
    for iterations in (0, 1):
        hjb = HJBConfig(iterations=iterations, first_step=1, last_step=1, chunk=8, decode="full")
        card = on_card(models, need["both"] + SPARE_BYTES + need["decoding"])
        animate(card, clip, hjb)
        made[iterations] = card.turns.told
    assert made == {0: [], 1: ["-image_encoder"]}


def out_of_memory_once(monkeypatch, network: nn.Module, name: str, when) -> None:
    """The network's method runs out of memory when that is first true of its arguments."""
    method, waiting = getattr(network, name), [True]

    def limited(*given, **how):
        if waiting and when():
            waiting.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return method(*given, **how)

    monkeypatch.setattr(network, name, limited)


@pytest.mark.parametrize("stage", ["unet", "hjb", "decode"])
def test_memory_that_runs_out_sends_networks_away_before_anything_gets_smaller(models, clip, monkeypatch, stage):
    """More was free at the beginning of the stage than in the end: other programs need some, too."""
    whole = animate(models, clip)
    card = on_card(models, 1 << 40)
    if stage == "unet":
        out_of_memory_once(monkeypatch, models.unet, "forward", lambda: True)
    else:
        out_of_memory_once(monkeypatch, models.vae, "decode", lambda: torch.is_grad_enabled() == (stage == "hjb"))
    made = animate(card, clip)
    assert card.turns.told == {"decode": ["-unet", "-image_encoder"]}.get(stage, ["-image_encoder"])
    assert (made.frames == whole.frames).all() and made.notes == whole.notes


def test_faces_at_once_are_as_many_as_fit_when_others_have_left(models, clip, monkeypatch):
    """Though nothing has left yet when that is reckoned; where networks stay, fewer fit."""
    with torch.no_grad():
        face = pipeline.find_face(models, clip.reference, clip.reference_pose)
    settings, asked = SamplingConfig.for_model(models.config), replace(HJB, chunk=None)
    boxes = pipeline.place_motion(models.config, clip.poses, settings, range(FRAMES))[2]
    of_all = pipeline.hjb_bytes(models.vae, pipeline.largest_window(boxes, (8, 8), 8, chunk=8, margin=2))
    free = hjb.SPARE_BYTES + of_all - bytes_of(models.image_encoder)
    monkeypatch.setattr(hjb, "free_bytes", lambda device: free)
    card = on_card(models, needs(models)["both"] + free)
    assert fit_to_memory(card, clip.poses, face, settings, asked)[0].chunk == 8
    assert fit_to_memory(models, clip.poses, face, settings, asked)[0].chunk < 8
    monkeypatch.setattr(hjb, "free_bytes", lambda device: hjb.SPARE_BYTES + of_all + bytes_of(models.unet) - 1)
    away = on_card(models, 1 << 40, here=())
    assert fit_to_memory(away, clip.poses, face, settings, asked)[0].chunk < 8, "the UNet has still to come"


def test_what_a_block_wants_stays(models):
    card = on_card(models, needs(models)["both"] + SPARE_BYTES)
    with card.on_device("unet"):
        with card.on_device(room=1):
            assert card.turns.told == ["-image_encoder"] and not card.make_room()
        assert not card.make_room()
    assert card.make_room() and card.turns.told == ["-image_encoder", "-unet"]
    assert card.bytes_here() == sum(map(bytes_of, models.parts().values())) - needs(models)["both"]


def test_networks_that_take_turns_stay_with_their_device(models):
    card = on_card(models, float("inf"))
    with pytest.raises(ValueError, match="networks take turns on cpu and can't move to meta; load them there"):
        card.to("meta")
    assert {weight.device.type for part in card.parts().values() for weight in part.parameters()} == {"cpu"}


def test_networks_take_turns_on_a_card_alone(models):
    assert models.taking_turns() is models, "on a CPU"
    made = models.taking_turns(torch.device("cuda", 1))
    assert made.device == torch.device("cuda", 1) and made.turns.networks == [models.unet, models.image_encoder]


def test_without_turns_nothing_moves(models):
    with models.on_device("unet", room=float("inf")):
        assert not models.make_room() and models.gain("unet") == 0


# --- moving ---------------------------------------------------------------------------------------------------------


class Full(nn.Linear):
    """A network that fits on its device after so many attempts."""

    attempts = 0
    last = None  # device that it was sent to

    def to(self, device):
        self.last = device
        self.attempts -= device is not MAIN_MEMORY
        if self.attempts >= 0 and device is not MAIN_MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().to(device)


@pytest.fixture
def turns_of(monkeypatch):
    """Of some networks, on a device without memory, where there is always enough of it."""
    monkeypatch.setattr(Turns, "free", lambda self: float("inf"))
    return lambda *networks: Turns(torch.device("meta"), networks)


def test_a_network_is_there_when_all_of_it_is(turns_of):
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    network[0].to("meta")
    turns = turns_of(network)
    assert not turns.holds(network)
    with torch.inference_mode(), turns.holding([network], 0):
        assert turns.holds(network) and turns.moved == bytes_of(network) == 4 * (2 * 2 + 2 + 2 * 3 + 3)
    assert not any(weight.is_inference() for weight in network.parameters()), "HJB can differentiate through it"


def test_a_network_without_room_sends_the_others_away(turns_of, monkeypatch):
    network, turns = Full(2, 2), turns_of()
    network.attempts = 1
    monkeypatch.setattr(turns, "make_room", lambda: bool(gone.append("all")) or len(gone) == 1)
    gone: list = []
    with turns.holding([network], 0):
        assert turns.holds(network) and gone == ["all"]


def test_a_network_that_does_not_fit_says_so(turns_of):
    network = Full(2, 2)
    network.attempts, turns = 9, turns_of(network)
    with pytest.raises(torch.OutOfMemoryError, match="Full: its 0.0 GiB do not fit on meta; close what else uses the "):
        with turns.holding([network], 0):
            pass
    assert turns.make_room() is False and network.last == MAIN_MEMORY, "what had come of it goes back"


# --- loading, measuring, and how much is free -----------------------------------------------------------------------


def draw_models(folder, device: str) -> Models:
    return random_models(read_config(folder), device=device)


@pytest.mark.parametrize("make", [load_models, draw_models])
def test_large_networks_without_room_stay_in_main_memory_when_they_are_made(tiny_model, monkeypatch, make):
    """Loaded or drawn; the device is asked once the other networks are there."""
    asked = []
    monkeypatch.setattr(networks, "has_room", lambda device, network: asked.append(type(network).__name__))
    monkeypatch.setattr(torch, "Generator", lambda device: GENERATOR)  # "meta" has none
    models = make(tiny_model, device="meta")
    assert asked == ["AnimatorUNet", "CLIPVisionModelWithProjection"]
    where = {name: next(part.parameters()).device.type for name, part in models.parts().items()}
    assert where == {name: "cpu" if name in HEAVY else "meta" for name in where}


def test_bench_tells_what_is_held_and_moved(models):
    settings, all_of_it = SamplingConfig.for_model(models.config), sum(map(bytes_of, models.parts().values()))
    unet, encoder = bytes_of(models.unet), bytes_of(models.image_encoder)
    small = on_card(models, unet + SPARE_BYTES, here=())
    told = run_bench(small, settings, HJBConfig(iterations=1, last_step=0), frames=2, repeats=1)
    held = {stage: round(gib * bench.GIB) for stage, gib in told["held_gib"].items()}
    sampling = all_of_it - encoder
    assert held == {
        "unet_forward": sampling, "unet_step": sampling, "vae_encode": all_of_it - unet, "hjb_iteration": sampling,
        "vae_decode": all_of_it - unet - encoder,
    }  # fmt: skip
    assert told["moved_gib"] * bench.GIB == pytest.approx(2 * encoder + 3 * unet), "the UNet was there from HJB"


@pytest.fixture(params=["cuda:0", "cuda"])
def cuda(request, monkeypatch):
    """24 GiB, of which 20 are free; torch holds 3 more, 1 of them for tensors."""
    gib, share = memory.GIB, [1.0]

    def limit(part, device):
        assert device == 0, "torch takes no device without a number here"
        share.append(part)

    def limited(device):
        assert device == 0, "nor here"
        return share[-1]

    for name, value in {
        "mem_get_info": (20 * gib, 24 * gib), "memory_reserved": 3 * gib, "memory_allocated": gib,
        "get_device_properties": SimpleNamespace(total_memory=24 * gib),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", limited, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return torch.device(request.param)


def test_a_card_can_pass_for_a_smaller_one(cuda):
    assert memory.free_bytes(cuda) == 22 * memory.GIB and memory.card_gib(cuda) == 24
    memory.limit_card(cuda, 8)
    assert memory.free_bytes(cuda) == pytest.approx((8 - memory.CUDA_GIB - 1) * memory.GIB)
    assert memory.card_gib(cuda) == pytest.approx(8)
    memory.limit_card(cuda, 80)
    assert memory.free_bytes(cuda) == 22 * memory.GIB and memory.card_gib(cuda) == 24, "no larger than it is"
    assert memory.free_bytes(torch.device("cpu")) is None is memory.card_gib(torch.device("cpu"))


def test_an_older_torch_does_not_tell_of_its_share(cuda, monkeypatch):
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")
    assert memory.free_bytes(cuda) == 22 * memory.GIB and memory.card_gib(cuda) == 24
