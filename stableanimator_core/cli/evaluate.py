"""`evaluate animation`: a model on performers that it has not seen; `evaluate alignment`: alignments on real motion."""

import argparse
from pathlib import Path
from typing import Any

from .animate import add_weights_options, hjb_settings, load_animator
from .arguments import ALIGN_FITS, add_json, align_fit, existing_folder, positive, shapes_of, step_range, whole
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


SPECIAL = {  # sets of pairs with a table of their own
    "plain": "adults before level cameras with long lenses",
    "perspective": "filmed steeply",
    "moving_camera": "moving camera",
}


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
    _register_alignment(subjects)


def _register_alignment(subjects) -> None:
    parser = subjects.add_parser("alignment", help="how far alignments are from the truth, on pairs of real motion")
    parser.add_argument("--mocap", required=True, type=Path, metavar="FILE.npz", help="motion capture, OpenPose-18")
    parser.add_argument("--shapes", type=Path, metavar="FILE.npz", help="body shapes; default: adults as numbers")
    parser.add_argument("--pairs", default=400, type=whole(1, 20_000), metavar="N", help="how many (400)")
    parser.add_argument("--frames", default=32, type=whole(1, 1_000), metavar="N", help="of every pair (32)")
    parser.add_argument("--seed", default=0, type=SEED, help="which pairs (0)")
    parser.add_argument("--aligner", type=Path, metavar="FOLDER", help="weights of the learned one; default: shipped")
    parser.add_argument("--fit", default="clip", type=align_fit, help=ALIGN_FITS)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the methods' curves")
    add_json(parser)
    parser.set_defaults(run=evaluate_alignment_command)


def evaluate_animation_command(args: argparse.Namespace, report: Report) -> dict:
    """Evaluate a model and print its numbers beside those that put them in place."""
    from ..evaluation.animation import evaluate_animation

    animator, device = load_animator(args)
    scores = evaluate_animation(
        animator,
        clips=args.clips,
        seed=args.seed,
        frames=args.frames,
        hjb=hjb_settings(animator.models.config, args),
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


def evaluate_alignment_command(args: argparse.Namespace, report: Report) -> dict:
    """Measure every alignment and print a table."""
    if args.plot is not None:
        existing_folder(args.plot, option="--plot")
    from ..evaluation.alignment import draw_curves, evaluate_alignment
    from ..training.misaligned import Motions
    from ..video import write_image
    from ..weights.aligner import BUILT_IN_ALIGNER, load_aligner

    motions, shapes = Motions.load(args.mocap, "cpu"), shapes_of(args.shapes, "val")
    folder = args.aligner or (BUILT_IN_ALIGNER if BUILT_IN_ALIGNER.is_dir() else None)
    note = "no learned alignment is installed: learned is left out; give --aligner FOLDER" if folder is None else None
    scores, distances = evaluate_alignment(
        motions, shapes, pairs=args.pairs, seed=args.seed, frames=args.frames, fit=args.fit,
        aligner=None if folder is None else load_aligner(folder),
        on_pairs=lambda done, total: report.progress(done, total, "fits"),
    )  # fmt: skip
    _print_alignment(scores, report)
    if note:
        report.note(note)
    if args.plot is not None:
        write_image(args.plot, draw_curves(distances))
        report.line(f"plot: {args.plot}")
    return {"mocap": args.mocap, "shapes": args.shapes, "aligner": folder, "note": note} | _rounded(scores)


def _print_alignment(scores: dict[str, Any], report: Report) -> None:
    """The tables that people read; distances in body heights."""
    report.line(f"{scores['pairs']} pairs of {scores['frames']} frames; distance from the truth in body heights")
    report.line(f"{'':55}    mean  median    95th  worse than none  failed  travel kept")
    for name, row in scores["methods"].items():
        if row is not None:
            report.line(
                f"{name:55} {row['dis']:7.4f} {row['dis_median']:7.4f} {row['dis_p95']:7.4f} "
                f"{row['worse_than_none']:16d} {row['failed']:7d} {_kept(scores['travel'][name])}"
            )
    methods = [name for name, row in scores["methods"].items() if row is not None]
    report.line(f"{'mean distance':55} {'pairs':>7} " + " ".join(f"{name:>8}" for name in methods))
    for group in ("kinds", "framings", "views"):
        for name, row in scores[group].items():
            title = f"reference: {name}" if group == "kinds" else name
            report.line(f"{title:55} {row['pairs']:7d} " + " ".join(f"{row[method]:8.4f}" for method in methods))
    for share, rows in scores["missing"].items():
        title = f"{100 * float(share):.0f} % of the joints missing"
        values = (f"{rows[name]['dis']:8.4f}" if rows.get(name) else 8 * " " for name in methods)
        report.line(f"{title:55} {scores['pairs']:7d} " + " ".join(values))
    for group, title in SPECIAL.items():
        special = scores[group]
        report.line(f"{title + ', ' + str(special['pairs']) + ' pairs':55}    mean  median    95th  travel kept")
        for name, row in special["methods"].items():
            report.line(
                f"  {name:53} {row['dis']:7.4f} {row['dis_median']:7.4f} {row['dis_p95']:7.4f} {_kept(row['travel'])}"
            )
    report.line(f"{scores['seconds_per_1000_frames']:.2f} s per 1000 frames")


def _kept(travel: dict[str, Any]) -> str:
    """How a path survives, for people; nothing where nobody goes anywhere."""
    return "" if travel["ratio"] is None else f"{travel['ratio']:7.2f} (corr. {travel['correlation']:.2f})"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value
