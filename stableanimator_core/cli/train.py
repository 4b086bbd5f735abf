"""`train mini`: the small built-in model from nothing, on performers that this package renders."""

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .arguments import SEED, add_json, positive, whole
from .report import Report


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("train", help="train models")
    recipes = group.add_subparsers(metavar="RECIPE", required=True)
    parser = recipes.add_parser("mini", help="the small built-in model, from scratch; wants a GPU for hours of clips")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="model folder to write")
    parser.add_argument("--mocap", type=Path, metavar="FILE.npz", help="motion capture for a share of the clips")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="rendered clips; default: OUT/data")
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="go on from this model's parts")
    parser.add_argument("--stages", default=None, metavar="A,B", help="faces, autoencoder, animator; default: all")
    parser.add_argument("--clips", type=whole(1), help="clips to render, each a new person")
    parser.add_argument("--identities", type=whole(1), help="people for the face embedder; the judge gets as many")
    parser.add_argument("--autoencoder-minutes", type=positive, metavar="M", help="cut this stage short")
    parser.add_argument("--animator-minutes", type=positive, metavar="M", help="cut this stage short")
    parser.add_argument("--workers", type=whole(1), help="processes that render; default: all cores but one")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: does it run here?")
    add_json(parser)
    parser.set_defaults(run=train_mini_command)


def train_mini_command(args: argparse.Namespace, report: Report) -> dict:
    """Train the small model and say what came out."""
    start = time.monotonic()
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    for name in ("mocap", "start_from"):
        path = getattr(args, name)
        if path is not None and not path.exists():
            raise InputError(f"{path} does not exist; check --{name.replace('_', '-')}")
    from ..training.mini import train_mini

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    stages = {} if args.stages is None else {"stages": args.stages.split(",")}
    models = train_mini(
        args.out, _recipe(args), mocap=args.mocap, data=args.data, start_from=args.start_from, **stages
    )
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in models.parts().items()}
    seconds = time.monotonic() - start
    for name, count in parameters.items():
        report.line(f"{name:15} {count / 1e6:6.2f} M parameters")
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    report.line(f"try it: python -m stableanimator_core demo --model {args.out}")
    return {"out": args.out, "parameters": parameters, "seconds": round(seconds, 1)}


def _recipe(args: argparse.Namespace):
    """The recipe with what the options say instead."""
    from ..training.mini import MiniRecipe, quick_recipe

    recipe = quick_recipe() if args.quick else MiniRecipe()
    names = ("clips", "identities", "workers", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for stage in ("autoencoder", "animator"):
        minutes = getattr(args, f"{stage}_minutes")
        if minutes is not None:
            given[stage] = replace(getattr(recipe, stage), minutes=minutes)
    return replace(recipe, **given)
