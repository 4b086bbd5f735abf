"""`evaluate animation`: a model on performers or videos; `evaluate alignment`: alignments on real motion."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import sweep
from .animate import add_weights_options, hjb_settings, load_animator, load_face_detector
from .arguments import (
    ALIGN_FITS,
    ALIGN_METHODS,
    CLIPS_SEED,
    MOST_CLIPS,
    PROPORTIONS,
    add_json,
    align_fit,
    align_method,
    existing,
    existing_file,
    existing_folder,
    places_of,
    positive,
    prepare_folder,
    shapes_of,
    size,
    step_range,
    whole,
)
from .material import LONGEST, PoseFinder, detector_of, reference_pose_file
from .report import Report

if TYPE_CHECKING:
    from ..evaluation.animation import ClipResult
    from ..evaluation.material import MakeCase
    from ..keypoints import Poses
    from ..weights import ModelConfig

OUT = Path("output") / "evaluation"  # the one folder that is made with its parents
PERFORMERS = 8  # clips, unless told otherwise

MEASURES = (  # what is shown to people: title, key, digits
    ("identity (CSIM)", "csim", 4),
    ("  where poses put the face", "csim_placed", 4),
    ("  its drift in 16 frames", "drift", 4),
    ("  last quarter less first", "drift_ends", 4),
    ("L1 to the truth", "l1", 4),
    ("  of the face", "face_l1", 4),
    ("  of changes over time", "temporal_l1", 4),
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("LPIPS", "lpips", 4),
    ("FVD", "fvd", 1),
    ("faces' Fréchet distance", "face_frechet", 4),
)
COLUMNS = {  # of the table: what keys end in
    "with HJB": "", "without": "_without_hjb", "VAE": "_reconstruction", "copied": "_copy", "else": "_floor",
    "truth": "_ceiling",
}  # fmt: skip
LEGEND = (
    "VAE: the truth through the VAE; copied: the reference in every frame; else: somebody else; truth: the truth itself"
)


SPECIAL = {  # sets of pairs with a table of their own
    "plain": "adults before level cameras with long lenses",
    "cartoon": "cartoon bodies",
    "perspective": "filmed steeply",
    "moving_camera": "moving camera",
}


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("evaluate", help="measure models")
    subjects = group.add_subparsers(metavar="SUBJECT", required=True)
    parser = subjects.add_parser("animation", help="identity, error and steadiness where the truth is known")
    add_weights_options(parser)
    material = parser.add_mutually_exclusive_group()
    material.add_argument(
        "--videos", type=existing, metavar="FOLDER",
        help="your own videos, each of another person, with poses beside them (NAME.json), else found in them; "
        "default: rendered performers",
    )  # fmt: skip
    material.add_argument("--tiktok", type=existing, metavar="FOLDER", help="the TikTok dataset: NNNNN/images")
    parser.add_argument(
        "--sequences", type=sequences, metavar="FIRST:LAST", help="of --tiktok; the field tests on 335:340"
    )
    parser.add_argument("--misalign", action="store_true", help="drive everybody by a body of another size and place")
    parser.add_argument(
        "--align", type=align_method, metavar="METHOD", help=f"with --misalign: {ALIGN_METHODS}; else none"
    )
    parser.add_argument("--proportions", action="store_true", help=f"with --misalign: {PROPORTIONS}")
    parser.add_argument(
        "--clips", type=whole(2, MOST_CLIPS), metavar="N", help=f"each another person ({PERFORMERS}; all videos)"
    )
    parser.add_argument("--frames", default=16, type=whole(1), metavar="N", help="of every clip (16)")
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--seed", default=0, type=CLIPS_SEED, help="which performers, and the noise")
    parser.add_argument("--hjb-iterations", type=whole(0), metavar="K", help="face optimisation rounds a step")
    parser.add_argument("--hjb-steps", type=step_range, metavar="FIRST:LAST", help="denoising steps that it touches")
    parser.add_argument("--hjb-lr", type=positive, metavar="RATE", help="how far each round moves")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"write sheets of the clips and a chart, as {OUT}")
    add_json(parser)
    parser.set_defaults(run=evaluate_animation_command, steps=None)
    _register_alignment(subjects)
    sweep.register(subjects)


def _register_alignment(subjects) -> None:
    parser = subjects.add_parser("alignment", help="how far alignments are from the truth, on pairs of real motion")
    parser.add_argument(
        "--mocap", required=True, type=existing_file, metavar="FILE.npz", help="motion capture, OpenPose-18"
    )
    parser.add_argument(
        "--shapes", type=existing_file, metavar="FILE.npz", help="body shapes; default: adults as numbers"
    )
    parser.add_argument("--pairs", default=400, type=whole(1, 20_000), metavar="N", help="how many (400)")
    parser.add_argument("--frames", default=32, type=whole(1, 1_000), metavar="N", help="of every pair (32)")
    parser.add_argument("--seed", default=0, type=CLIPS_SEED, help="which pairs (0)")
    parser.add_argument(
        "--aligner", type=existing, metavar="FOLDER", help="weights of the learned one; default: shipped"
    )
    parser.add_argument("--fit", default="clip", type=align_fit, help=ALIGN_FITS)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the methods' curves")
    add_json(parser)
    parser.set_defaults(run=evaluate_alignment_command)


def sequences(text: str) -> tuple[int, int]:
    """An argparse type: FIRST:LAST, numbers of sequences."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text} is not FIRST:LAST, two numbers of sequences, as in 335:340")
    return int(match[1]), int(match[2])


def evaluate_animation_command(args: argparse.Namespace, report: Report) -> dict:
    """Evaluate a model and print its numbers beside those that put them in place."""
    from ..evaluation.animation import evaluate_cases
    from ..evaluation.metrics import Measures
    from ..pipeline import SamplingConfig
    from ..weights import V1_CONFIG, config_of
    from ..weights.registry import V1

    if args.sequences and not args.tiktok:
        raise InputError(f"--sequences {args.sequences[0]}:{args.sequences[1]} chooses from --tiktok; give that, too")
    align = args.align or ("learned" if args.misalign else "none")
    if args.proportions:
        _check_proportions(args.misalign, align)
    folder = None if args.out is None else prepare_folder(args.out, OUT)
    config, places = config_of(args.model), places_of(args)
    width, height = args.size or (config.width, config.height)
    SamplingConfig.for_model(config, width=width, height=height)  # refuses before the long work
    hjb = hjb_settings(config, args)
    if args.model == V1_CONFIG.name:
        places.require(*V1)
    finder = PoseFinder(places, args.device, report, detector_of(config))
    cases, notes = _cases(args, config, (width, height), finder)
    finder.close()  # before the model is loaded: both at once may not fit
    animator, device = load_animator(args)
    looks = _Looks(folder)
    scores = evaluate_cases(
        animator, cases,
        hjb=hjb,
        align=align,
        proportions=args.proportions,
        size=(width, height),
        measures=Measures.load(animator.models.device, places),
        face_detector=load_face_detector(animator, places, args.device),
        on_clip=lambda done, clips: report.progress(done, clips, "clips"),
        on_result=looks.add,
    )  # fmt: skip
    notes += scores.pop("notes")
    _print_animation(scores, report)
    for note in notes:
        report.note(f"note: {note}")
    report.line(f"{scores['seconds_per_clip']:.1f} s a clip with HJB on {device}")
    for path in looks.finish():
        report.line(f"  {path}")
    return {
        "model": config.name,
        "device": device,
        "seed": args.seed,
        "frames": args.frames,
        "size": [width, height],
        "material": str(args.videos or args.tiktok or "performers"),
        "misaligned": args.misalign,
        "align": align,
        "proportions": args.proportions,
        **_rounded(scores),
        "out": folder,
        "notes": notes,
    }


def _check_proportions(misalign: bool, align: str) -> None:
    """Raises InputError where they would change nothing, or what is driven by its own body."""
    from ..alignment import SIMILARITIES

    if not misalign:
        raise InputError("--proportions is for drivers of other bodies; give --misalign, too")
    if align not in SIMILARITIES:
        fix = f"take --align {' or '.join(SIMILARITIES)}"
        raise InputError(f"--proportions has no effect: --align {align} fits no similarity; {fix}")


def _cases(
    args: argparse.Namespace, config: "ModelConfig", size: tuple[int, int], finder: PoseFinder
) -> tuple[list["MakeCase"], list[str]]:
    """What is evaluated, and what there is to know about it."""
    if not (args.videos or args.tiktok):
        from ..evaluation.material import performer_cases

        clips = args.clips or PERFORMERS
        made = performer_cases(size, clips=clips, seed=args.seed, frames=args.frames, misaligned=args.misalign)
        return made, []
    from ..evaluation.videos import find_tiktok, find_videos, misaligned_cases, read_videos, video_cases

    paths = find_videos(args.videos) if args.videos else find_tiktok(args.tiktok, args.sequences)
    paths = dict(list(paths.items())[: args.clips])
    if any(reference_pose_file(path, None) is None for path in paths.values()):
        finder.check("put the poses beside each video: NAME.json (images.json beside images in the TikTok dataset)")
    videos, notes = read_videos(
        paths, config, frames=args.frames, poses_of=_pose_source(finder),
        on_video=lambda done, total: finder.report.progress(done, total, "videos read"),
    )  # fmt: skip
    if len(videos) < 2:
        found = "; ".join(notes) or "that is all that is there"
        raise InputError(f"{len(videos)} usable videos in {args.videos or args.tiktok}, need 2: {found}")
    make = misaligned_cases if args.misalign else video_cases
    return make(videos, size, seed=args.seed), notes


def _pose_source(finder: PoseFinder) -> Callable[[Path, int], "Poses"]:
    """Poses of a video's first frames: from the file beside it, else found."""
    from ..keypoints import Poses

    def poses_of(path: Path, most: int) -> Poses:
        file = reference_pose_file(path, None)
        if file is not None:
            return Poses.load(file).slice(0, most)
        return finder.in_video(path, fps=None, start=0.0, frames=most, longest=LONGEST).poses

    return poses_of


class _Looks:
    """Pictures of what is evaluated, written as it comes; nothing without a folder."""

    def __init__(self, folder: Path | None):
        self._folder, self._csim, self._written = folder, [], []

    def add(self, result: "ClipResult") -> None:
        """Write a clip's contact sheet."""
        if self._folder is None:
            return
        from ..evaluation.sheets import clip_sheet
        from ..video import write_image

        name = re.sub(r"[^\w-]+", "_", result.case.name)
        self._csim.append(result.csim)
        self._written.append(write_image(self._folder / f"{len(self._csim):03d}_{name}.png", clip_sheet(result)))

    def finish(self) -> list[Path]:
        """Write the chart; returns all that was written."""
        if self._folder is None:
            return []
        from ..evaluation.sheets import identity_chart
        from ..video import write_image

        return [*self._written, write_image(self._folder / "identity.png", identity_chart(self._csim))]


def _print_animation(scores: dict[str, Any], report: Report) -> None:
    """The table that people read."""
    report.line(f"{scores['clips']} clips; identity by the model's {scores['judge']}")
    report.line(f"{'':26}" + "".join(f"{title:>10}" for title in COLUMNS))
    for title, key, digits in MEASURES:
        values = (scores.get(key + row) for row in COLUMNS.values())
        report.line(f"{title:26}" + "".join(f"{'-':>10}" if v is None else f"{v:10.{digits}f}" for v in values))
    report.line(LEGEND)


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
    wide = max(map(len, methods))
    report.line(f"{'mean distance':55} {'pairs':>7} " + " ".join(f"{name:>{wide}}" for name in methods))
    for group in ("kinds", "framings", "views"):
        for name, row in scores[group].items():
            title = f"reference: {name}" if group == "kinds" else name
            report.line(f"{title:55} {row['pairs']:7d} " + " ".join(f"{row[method]:{wide}.4f}" for method in methods))
    for share, rows in scores["missing"].items():
        title = f"{100 * float(share):.0f} % of the joints missing"
        values = (f"{rows[name]['dis']:{wide}.4f}" if rows.get(name) else wide * " " for name in methods)
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
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
