"""`train mini`: the small built-in model on rendered performers; `train alignment`: the aligner on captured motion."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from . import train_clips, train_poses
from .arguments import SEED, add_json, existing, existing_file, given_of, positive, shapes_of, start_log, whole
from .report import Report

ADAPTERS = ("distribution", "own", "none", "off")  # of models.id_adapter, without torch


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("train", help="train models")
    recipes = group.add_subparsers(metavar="RECIPE", required=True)
    parser = recipes.add_parser("mini", help="the small built-in model, from scratch; wants a GPU for hours of clips")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="model folder to write")
    parser.add_argument(
        "--mocap", type=existing_file, metavar="FILE.npz", help="motion capture for a share of the clips"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="rendered clips; default: OUT/data")
    parser.add_argument("--start-from", type=existing, metavar="FOLDER", help="go on from this model's parts")
    parser.add_argument("--stages", default=None, metavar="A,B", help="faces, autoencoder, animator; default: all")
    parser.add_argument("--clips", type=whole(1), help="clips to render, each a new person")
    parser.add_argument("--size", type=whole(64), metavar="PX", help="side of the pictures, a multiple of 32")
    parser.add_argument("--identities", type=whole(1), help="people for the face embedder; the judge gets as many")
    parser.add_argument("--autoencoder-minutes", type=positive, metavar="M", help="cut this stage short")
    parser.add_argument("--autoencoder-rate", type=positive, metavar="R", help="peak of its learning rate (8e-4)")
    parser.add_argument(
        "--decoder-only", action="store_true",
        help="of the VAE of --start-from: the latents stay as they are, and so does an animator trained on them",
    )  # fmt: skip
    parser.add_argument("--animator-minutes", type=positive, metavar="M", help="cut this stage short")
    parser.add_argument("--animator-rate", type=positive, metavar="R", help="peak of its learning rate (5e-4)")
    parser.add_argument("--animator-steps", type=whole(1), metavar="N", help="of this stage at most (20000)")
    parser.add_argument("--batch", type=whole(1), metavar="B", help="the animator's clips a step, in each process (64)")
    parser.add_argument("--adapter", choices=ADAPTERS, help="another way of adding face tokens, to compare")
    parser.add_argument(
        "--fresh-identity", action="store_true",
        help="ID adapters and Face Encoder start fresh beside --start-from, to compare adapters",
    )  # fmt: skip
    parser.add_argument("--workers", type=whole(1), help="processes that render; default: all cores but one")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out, if there are any")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: does it run here?")
    add_json(parser)
    parser.set_defaults(run=train_mini_command)
    _register_alignment(recipes)
    train_poses.register(recipes)
    train_clips.register(recipes)


def _register_alignment(recipes) -> None:
    parser = recipes.add_parser("alignment", help="the learned alignment, on motion capture; minutes on a GPU")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder for weights and checkpoint")
    parser.add_argument("--mocap", required=True, type=existing_file, metavar="FILE.npz", help="motion to train on")
    parser.add_argument(
        "--val-mocap", type=existing_file, metavar="FILE.npz", help="motion to validate on; default: --mocap"
    )
    parser.add_argument(
        "--shapes", type=existing_file, metavar="FILE.npz", help="body shapes; default: adults as numbers"
    )
    parser.add_argument("--minutes", type=positive, metavar="M", help="stop after so long, over all resumed runs")
    parser.add_argument("--steps", type=whole(1), metavar="N", help="stop after so many steps")
    parser.add_argument("--batch", type=whole(1), metavar="B", help="pairs a step, in each process")
    parser.add_argument("--rate", type=positive, help="peak of the learning rate")
    parser.add_argument("--width", type=whole(1), metavar="D", help="of the network's tokens, a multiple of its heads")
    parser.add_argument("--layers", type=whole(1), metavar="N", help="of each of the network's encoders")
    parser.add_argument("--without", choices=("guidance", "motion"), help="leave a part of the network out, to compare")
    parser.add_argument("--start-from", metavar="FOLDER", help="go on from these weights, with a schedule of its own")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: does it run here?")
    add_json(parser)
    parser.set_defaults(run=train_alignment_command)


def train_alignment_command(args: argparse.Namespace, report: Report) -> dict:
    """Train the alignment network and say how good it is."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    from ..training.aligner import AlignerRecipe, describe_source, quick_recipe, train_aligner
    from ..training.loop import Budget
    from ..training.misaligned import Motions

    recipe = quick_recipe() if args.quick else AlignerRecipe()
    steps = recipe.budget.steps if args.steps is None else args.steps
    network = (recipe.network if args.start_from is None else {}) | given_of(args, "width", "layers")
    if args.without is not None:
        network[f"use_{args.without}"] = False
    given = given_of(args, "batch", "seed", "rate", "start_from")
    recipe = replace(recipe, budget=Budget(steps, args.minutes), network=network, **given)
    motions = Motions.load(args.mocap, "cpu")
    validation = motions if args.val_mocap is None else Motions.load(args.val_mocap, "cpu")
    shapes, validation_shapes = (shapes_of(args.shapes, split) for split in ("train", "val"))
    files = [path for path in (args.mocap, args.val_mocap, args.shapes) if path is not None]
    start_log()
    start = time.monotonic()
    scores = train_aligner(
        args.out, recipe, motions=motions, shapes=shapes, validation=validation, validation_shapes=validation_shapes,
        resume=args.resume, sources=tuple(map(describe_source, files)),
    )  # fmt: skip
    seconds = time.monotonic() - start
    for name, rows in scores.items():
        if isinstance(rows, dict):
            parts = [f"{method} {row['dis']:.4f}" for method, row in rows.items()]
            report.line(f"{name}: {', '.join(parts)} body heights from the truth")
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    report.line(f"measure it: python -m stableanimator_core evaluate alignment --mocap FILE.npz --aligner {args.out}")
    return {"out": args.out, "scores": scores, "seconds": round(seconds, 1)}


def train_mini_command(args: argparse.Namespace, report: Report) -> dict:
    """Train the small model and say what came out."""
    start = time.monotonic()
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    if args.fresh_identity and args.start_from is None:
        raise InputError("--fresh-identity: without --start-from everything starts fresh; give both, or neither")
    if args.decoder_only and args.start_from is None:
        raise InputError("--decoder-only: without --start-from the encoder stays untrained; give both, or neither")
    from ..training.mini import train_mini

    start_log()
    stages = {} if args.stages is None else {"stages": args.stages.split(",")}
    models = train_mini(
        args.out, _recipe(args), mocap=args.mocap, data=args.data, start_from=args.start_from,
        fresh_identity=args.fresh_identity, resume=args.resume, **stages,
    )  # fmt: skip
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
    given = given_of(args, "clips", "size", "identities", "adapter", "workers", "seed")
    for stage in ("autoencoder", "animator"):
        minutes = getattr(args, f"{stage}_minutes")
        if minutes is not None:
            given[stage] = replace(getattr(recipe, stage), minutes=minutes)
    if args.animator_steps is not None:
        given["animator"] = replace(given.get("animator", recipe.animator), steps=args.animator_steps)
    animation = {"clips": args.batch, "rate": args.animator_rate}
    reconstruction = {"rate": args.autoencoder_rate, "decoder_only": args.decoder_only or None}
    for part, settings in (("animation", animation), ("reconstruction", reconstruction)):
        chosen = {key: value for key, value in settings.items() if value is not None}
        given[part] = replace(getattr(recipe, part), **chosen)
    return replace(recipe, **given)
