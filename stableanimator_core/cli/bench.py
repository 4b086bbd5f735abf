"""`bench`: how fast a model runs on this machine and how much memory it takes."""

import argparse
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError
from .animate import DTYPES, add_model_options, dtype_of, hjb_settings
from .arguments import add_json, places_of, positive, size, step_range, whole
from .report import Report

if TYPE_CHECKING:
    import torch

    from ..hjb_settings import HJBConfig
    from ..weights import Models

ROWS = (  # what is shown to people: title, key
    ("UNet, one window, one branch", "unet_forward_s"),
    ("UNet, one denoising step", "unet_step_s"),
    ("HJB, one round", "hjb_iteration_s"),
    ("VAE, encode the picture", "vae_encode_s"),
    ("VAE, decode the clip", "vae_decode_s"),
    ("everything", "total_s"),
)
MEMORY = (("memory at its peak", "peak_gib", "peak_gib"), ("HJB's share of it", "hjb_extra_peak_gib", "hjb_gib"))


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure speed and memory on a drawn performer")
    add_model_options(parser)
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--frames", default=16, type=whole(1), metavar="N", help="of the clip (16)")
    parser.add_argument("--face", type=whole(16, 4096), metavar="PX", help="how wide the face is; default: as drawn")
    parser.add_argument("--hjb-steps", type=step_range, metavar="FIRST:LAST", help="denoising steps that it touches")
    parser.add_argument(
        "--hjb-chunk", default="", metavar="N[,N]", help="frames decoded at once, the most; several are compared"
    )
    parser.add_argument(
        "--decode", default="", metavar="face|full[,...]", help="what HJB decodes; several are compared"
    )
    parser.add_argument("--repeats", default=3, type=whole(1), metavar="N", help="medians are over this many (3)")
    parser.add_argument(
        "--random-weights", action="store_true", help="networks of the model's sizes with random weights: no download"
    )
    parser.add_argument(
        "--card", type=positive, metavar="GIB", help="as on a card of so much memory: no more than that of this one"
    )
    add_json(parser)
    parser.set_defaults(run=bench_command, hjb_lr=None)


def bench_command(args: argparse.Namespace, report: Report) -> dict:
    """Measure a model and print the seconds and gigabytes of each stage."""
    from ..evaluation.bench import STAGES, run_bench
    from ..pipeline import SamplingConfig

    models = load_models(args)
    width, height = args.size or (None, None)
    settings = SamplingConfig.for_model(models.config, width=width, height=height, steps=args.steps, seed=args.seed)
    hjb, *others = hjb_variants(hjb_settings(models.config, args), args.hjb_chunk, args.decode)
    result = run_bench(
        models, settings, hjb, frames=args.frames, repeats=args.repeats, face_px=args.face, others=others,
        on_stage=lambda done, stage: report.progress(done, len(STAGES), f"stages measured, next: {stage}"),
    )  # fmt: skip
    for title, key in ROWS:
        report.line(f"{title:30} " + ("      off" if result[key] is None else f"{result[key]:8.3f} s"))
    for variant in result["hjb_variants"]:
        memory = variant["hjb_extra_peak_gib"]
        told = f", {memory:.3f} GiB more" if memory is not None else ""
        title = f"HJB, {variant['decode']}, chunk {variant['chunk']}"
        report.line(f"{title:30} {variant['hjb_iteration_s']:8.3f} s{told}")
    for title, key, guessed in MEMORY:
        if result[key] is not None:
            estimate = f", estimated {result['estimate'][guessed]:.1f}" if result["estimate"] else ""
            report.line(f"{title:30} {result[key]:8.3f} GiB{estimate}")
    if result["moved_gib"]:
        report.line(f"networks took turns on the card: {result['moved_gib']:.1f} GiB came and left")
    dtype = next(short for short, name in DTYPES.items() if str(models.dtype) == f"torch.{name}")
    report.line(
        f"{result['frames']} frames of {settings.width}x{settings.height}, {settings.steps} steps, {dtype}, "
        f"model {models.config.name} on {device_name(models.device)}"
    )
    if result["nan"]:
        report.line("the result holds NaN or infinity: take --dtype bf16 or fp32")
    return {
        **result,
        "dtype": dtype,
        "device": str(models.device),
        "device_name": device_name(models.device),
        "model": models.config.name,
        "random_weights": args.random_weights,
        "seed": args.seed,
    }


def hjb_variants(base: "HJBConfig", chunks: str, decodes: str) -> "list[HJBConfig]":
    """All combinations of what two lists with commas say; an empty one leaves what base says. Raises InputError."""
    if not all(chunk.isdecimal() for chunk in chunks.split(",") if chunks):
        raise InputError(f'--hjb-chunk "{chunks}": give whole numbers with commas between, as in 2,4,8')
    numbers = map(int, chunks.split(",")) if chunks else [base.chunk]
    ways = decodes.split(",") if decodes else [base.decode]
    return [replace(base, chunk=chunk, decode=decode) for decode, chunk in itertools.product(ways, numbers)]


def load_models(args: argparse.Namespace) -> "Models":
    """The networks of --model, with its weights or with random ones. Raises InputError."""
    from ..memory import CUDA_GIB, limit_card
    from ..pipeline import StableAnimator, pick_device, pick_dtype
    from ..weights import V1_CONFIG, find_model, random_models, read_config

    dtype, device = dtype_of(args), pick_device(args.device)
    if args.card is not None:
        if device.type != "cuda":
            raise InputError(f"--card {args.card:g}: device '{device}' is no NVIDIA GPU; leave it out")
        if args.card <= CUDA_GIB:
            raise InputError(f"--card {args.card:g}: CUDA itself takes {CUDA_GIB:g} GiB of a card; give more than that")
        limit_card(device, args.card)
    if not args.random_weights:
        return StableAnimator.load(args.model, device=args.device, dtype=dtype, places=places_of(args)).models
    config = V1_CONFIG if args.model == V1_CONFIG.name else read_config(find_model(args.model))
    dtype = dtype or pick_dtype(config, device)
    return random_models(config, device=device, dtype=dtype, seed=args.seed).taking_turns()


def device_name(device: "torch.device") -> str:
    """What the GPU is called; other devices by their type."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
