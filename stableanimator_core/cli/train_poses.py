"""`train poses`: the pose estimator of the built-in model, on rendered performers."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .arguments import SEED, add_json, existing_file, given_of, positive, start_log, whole
from .report import Report, rounded


def register(recipes) -> None:
    """Add the recipe to `train`'s."""
    parser = recipes.add_parser("poses", help="the pose estimator for drawn performers; minutes on a GPU")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder for the ONNX files")
    parser.add_argument("--data", type=Path, metavar="CLIPS", help="rendered clips; default: rendered to OUT/data")
    parser.add_argument(
        "--mocap", type=existing_file, metavar="FILE.npz", help="motion capture for a share of the clips"
    )
    parser.add_argument("--clips", type=whole(1), help="clips to render, each a new person")
    parser.add_argument("--workers", type=whole(1), help="processes that render; default: all cores")
    parser.add_argument("--minutes", type=positive, metavar="M", help="stop after so long, over all resumed runs")
    parser.add_argument("--steps", type=whole(1), metavar="N", help="stop after so many steps")
    parser.add_argument("--batch", type=whole(1), metavar="B", help="pictures a step, in each process")
    parser.add_argument("--rate", type=positive, help="peak of the learning rate")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: does it run here?")
    add_json(parser)
    parser.set_defaults(run=train_poses_command)


def train_poses_command(args: argparse.Namespace, report: Report) -> dict:
    """Train person detector and keypoint network and say how good they are."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    if args.data is not None and (args.mocap is not None or args.clips is not None):
        raise InputError(f"--mocap and --clips are for rendering, and the clips of --data {args.data} are rendered")
    from ..training.loop import Budget
    from ..training.pose_estimator import STEPS, EstimatorRecipe, quick_recipe, train_estimator

    given = given_of(args, "clips", "batch", "rate", "seed")
    recipe = replace(quick_recipe() if args.quick else EstimatorRecipe(), **given)
    budget = Budget(args.steps or (2 if args.quick else STEPS), args.minutes)
    start_log()
    start = time.monotonic()
    scores = train_estimator(
        args.out, budget, recipe, data=args.data, mocap=args.mocap, workers=args.workers, resume=args.resume
    )
    seconds = time.monotonic() - start
    if scores:  # those of the first process
        report.line(f"performers it never saw are found in {scores['detected']:.1%} of the frames, their joints "
                    f"{scores['body']:.2f} % of their height off")  # fmt: skip
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    values = dict(zip(scores, rounded(list(scores.values()))))
    return {"out": args.out, "scores": values, "seconds": round(seconds, 1)}
