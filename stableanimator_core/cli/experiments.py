"""`experiments`: the paper's experiments on performers with known truth, as tables, plots and contact sheets."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .animate import add_weights_options, dtype_of, load_animator
from .arguments import CLIPS_SEED, add_json, existing, existing_file, places_of, prepare_folder, whole
from .report import Report

if TYPE_CHECKING:
    from ..pipeline import StableAnimator

NAMES = ("alignment", "adapter", "hjb", "missing", "hjb_cost")  # without torch
OUT = Path("output") / "experiments"


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("experiments", help="the paper's experiments: minutes on a GPU, a small form on a CPU")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"of report and pictures ({OUT})")
    parser.add_argument(
        "--small", action=argparse.BooleanOptionalAction, help="few, short clips; default on a CPU and there alone"
    )
    parser.add_argument("--pairs", type=whole(2, 10_000), metavar="N", help="misaligned pairs, each a new person")
    parser.add_argument("--clips", type=whole(2, 10_000), metavar="N", help="clips of the other experiments")
    parser.add_argument("--frames", type=whole(1), metavar="N", help="of every clip")
    parser.add_argument("--seed", default=0, type=CLIPS_SEED, help="which performers (0)")
    parser.add_argument(
        "--mocap", type=existing_file, metavar="FILE.npz", help="motion capture for a share of the clips"
    )
    parser.add_argument(
        "--variants", nargs="+", type=existing, default=(), metavar="FOLDER",
        help="models trained with other ID adapters (train mini --adapter), for the experiment `adapter`",
    )  # fmt: skip
    add_weights_options(parser)
    add_json(parser)
    parser.set_defaults(run=experiments_command)


def experiments_command(args: argparse.Namespace, report: Report) -> dict:
    """Run the experiments one after the other; files are written after each."""
    prepare_folder(args.out, OUT)
    from ..evaluation.experiments import EXPERIMENTS, FULL, SMALL, Circumstances, Studio, markdown, write_report
    from ..performers import load_mocap

    mocap = None if args.mocap is None else load_mocap(args.mocap)
    animator, device = load_animator(args)
    small = device == "cpu" if args.small is None else args.small
    given = {key: getattr(args, key) for key in ("pairs", "clips", "frames") if getattr(args, key) is not None}
    extent = replace(SMALL if small else FULL, **given)
    studio = Studio(
        animator, extent, seed=args.seed, mocap=mocap, variants=_variants(args),
        on_item=lambda what, done, total: report.progress(done, total, what),
    )  # fmt: skip
    circumstances = Circumstances.of(
        command=_command(args, small), model=animator.models.config.name, device=animator.models.device,
        seed=args.seed, extent=extent, mocap=args.mocap,
    )  # fmt: skip
    results, found = [], {}
    for name in dict.fromkeys(args.only):
        results.append(EXPERIMENTS[name](studio))
        found = write_report(args.out, circumstances, results)
        for table in results[-1].tables:
            report.line(f"{results[-1].title}: {table.title}")
            for line in markdown(table):
                report.line(line)
            report.line()
    report.line(f"report, plots and contact sheets: {args.out}")
    return {"out": args.out, **found}


def _variants(args: argparse.Namespace) -> "tuple[StableAnimator, ...]":
    """The models of --variants, each named after its folder. Raises InputError."""
    from ..pipeline import StableAnimator

    variants = []
    for folder in args.variants:
        loaded = StableAnimator.load(folder, device=args.device, dtype=dtype_of(args), places=places_of(args))
        named = replace(loaded.models, config=replace(loaded.models.config, name=folder.name))
        variants.append(StableAnimator(named))
    return tuple(variants)


def _command(args: argparse.Namespace, small: bool) -> str:
    """What to type to get the same."""
    words = ["python", "-m", "stableanimator_core", "experiments"]
    if tuple(args.only) != NAMES:
        words += ["--only", *args.only]
    words += ["--small" if small else "--no-small", "--seed", args.seed, "--model", args.model, "--device", args.device]
    for key in ("pairs", "clips", "frames", "mocap"):
        if getattr(args, key) is not None:
            words += [f"--{key}", getattr(args, key)]
    words += ["--variants", *args.variants] if args.variants else []
    return shlex.join(map(str, words))
