"""`evaluate animation`: how well a model keeps identity and truth on performers that it never saw."""

import argparse

from .animate import load_animator
from .arguments import SEED, add_json, whole
from .report import Report

ROWS = (
    ("generated", "csim", "l1", "face_l1"),
    ("  without HJB", "csim_without_hjb", "l1_without_hjb", "face_l1_without_hjb"),
    ("truth through the VAE", "csim_reconstruction", "l1_reconstruction", "face_l1_reconstruction"),
    ("truth (ceiling)", "csim_ceiling", None, None),
    ("reference copied", "csim_copy", "l1_copy", "face_l1_copy"),
    ("somebody else (floor)", "csim_floor", None, None),
)


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("evaluate", help="measure quality")
    kinds = group.add_subparsers(metavar="WHAT", required=True)
    parser = kinds.add_parser("animation", help="identity and error against the truth, on rendered performers")
    parser.add_argument("--model", default="mini", help="mini (default, ships here) or a model folder")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--clips", default=8, type=whole(2), help="each a new person; default: 8")
    parser.add_argument("--frames", default=16, type=whole(1), help="of each clip; default: 16")
    parser.add_argument("--seed", default=0, type=SEED)
    add_json(parser)
    parser.set_defaults(run=evaluate_animation_command)


def evaluate_animation_command(args: argparse.Namespace, report: Report) -> dict:
    """Animate held-out performers and print the table."""
    animator, device = load_animator(args)
    from ..evaluation.animation import evaluate_animation

    measured = evaluate_animation(
        animator, clips=args.clips, seed=args.seed, frames=args.frames,
        on_clip=lambda done, total: report.progress(done, total, "clips"),
    )  # fmt: skip
    report.line(f"{'':24}{'CSIM':>8}{'L1':>9}{'face L1':>9}")
    for name, *keys in ROWS:
        cells = [f"{measured[key]:.3f}" if key else "" for key in keys]
        report.line(f"{name:24}{cells[0]:>8}{cells[1]:>9}{cells[2]:>9}")
    report.line(
        f"PSNR {measured['psnr']:.2f} dB, SSIM {measured['ssim']:.3f}, {measured['seconds_per_clip']:.1f} s a clip of "
        f"{args.frames} frames on {device}; CSIM is judged by an embedder that HJB never sees"
    )
    return {**measured, "model": animator.models.config.name, "device": device, "seed": args.seed}
