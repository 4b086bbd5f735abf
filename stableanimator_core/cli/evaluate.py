"""`evaluate animation`: how good a model is, on performers that it has not seen."""

import argparse

from .animate import add_weights_options, hjb_settings, load_animator
from .arguments import add_json, positive, step_range, whole
from .report import Report

MOST_CLIPS = 10_000  # of one seed: as far as its clips' own seeds are from the next one's
SEED = whole(0, 2**63 // MOST_CLIPS - 1)  # every clip's own seed has 63 bits

ROWS = (  # what is shown to people: title, key, key without HJB
    ("identity (CSIM)", "csim", "csim_without_hjb"),
    ("L1 to the truth", "l1", "l1_without_hjb"),
    ("L1 of the face", "face_l1", "face_l1_without_hjb"),
)
PLACES = (  # rows that put the identity in place
    ("the truth itself", "csim_ceiling"),
    ("the truth through the VAE", "csim_reconstruction"),
    ("the reference copied", "csim_copy"),
    ("somebody else", "csim_floor"),
)


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("evaluate", help="measure models")
    subjects = group.add_subparsers(metavar="SUBJECT", required=True)
    parser = subjects.add_parser("animation", help="identity and error on rendered performers with known truth")
    add_weights_options(parser)
    parser.add_argument("--clips", default=8, type=whole(2, MOST_CLIPS), metavar="N", help="each a new person (8)")
    parser.add_argument("--frames", default=16, type=whole(1), metavar="N", help="of every clip (16)")
    parser.add_argument("--seed", default=0, type=SEED, help="which performers")
    parser.add_argument("--hjb-iterations", type=whole(0), metavar="K", help="face optimisation rounds a step")
    parser.add_argument("--hjb-steps", type=step_range, metavar="FIRST:LAST", help="denoising steps that it touches")
    parser.add_argument("--hjb-lr", type=positive, metavar="RATE", help="how far each round moves")
    add_json(parser)
    parser.set_defaults(run=evaluate_animation_command, steps=None)


def evaluate_animation_command(args: argparse.Namespace, report: Report) -> dict:
    """Evaluate a model and print its numbers beside those that put them in place."""
    from ..evaluation.animation import evaluate_animation

    animator, device = load_animator(args)
    scores = evaluate_animation(
        animator,
        clips=args.clips,
        seed=args.seed,
        frames=args.frames,
        hjb=hjb_settings(animator, args),
        on_clip=lambda done, clips: report.progress(done, clips, "clips"),
    )
    report.line(f"{'':26} with HJB  without")
    for title, key, plain in ROWS:
        report.line(f"{title:26} {scores[key]:8.4f} {scores[plain]:8.4f}")
    report.line(f"{'PSNR, SSIM':26} {scores['psnr']:8.2f} {scores['ssim']:8.4f}")
    report.line("identity, to compare:")
    for title, key in PLACES:
        report.line(f"  {title:24} {scores[key]:8.4f}")
    report.line(f"{scores['seconds_per_clip']:.1f} s a clip with HJB on {device}")
    numbers = {key: round(value, 5) if isinstance(value, float) else value for key, value in scores.items()}
    return {"model": animator.models.config.name, "device": device, "seed": args.seed, **numbers}
