"""`train mini`: the small built-in model on rendered performers; `train alignment`: the aligner on captured motion."""

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from . import train_poses
from .arguments import SEED, add_json, positive, shapes_of, whole
from .report import Report

ADAPTERS = ("distribution", "own", "none", "off")  # of models.id_adapter, without torch


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
    parser.add_argument("--adapter", choices=ADAPTERS, help="another way of adding face tokens, to compare")
    parser.add_argument("--workers", type=whole(1), help="processes that render; default: all cores but one")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out, if there are any")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: does it run here?")
    add_json(parser)
    parser.set_defaults(run=train_mini_command)
    _register_alignment(recipes)
    train_poses.register(recipes)


def _register_alignment(recipes) -> None:
    parser = recipes.add_parser("alignment", help="the learned alignment, on motion capture; minutes on a GPU")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder for weights and checkpoint")
    parser.add_argument("--mocap", required=True, type=Path, metavar="FILE.npz", help="motion to train on")
    parser.add_argument("--val-mocap", type=Path, metavar="FILE.npz", help="motion to validate on; default: --mocap")
    parser.add_argument("--shapes", type=Path, metavar="FILE.npz", help="body shapes; default: adults as numbers")
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


def _register_prepare(recipes) -> None:
    parser = recipes.add_parser("prepare", help="make videos ready for finetune: poses, face masks, aligned faces")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="FOLDER",
        help="videos, or clips as folders of images/, faces/, poses/ that video_rec_path.txt may list",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="clips are written here, and bad.txt")
    parser.add_argument("--model", default=FOR_PEOPLE, help="mini, v1 (default) or a model folder: whom the clips are for")
    parser.add_argument("--poses", type=Path, metavar="FOLDER", help="the clips' POSES.json; default: found by DWPose")
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--fps", type=frame_rate, help="take videos at this rate; default: every frame")
    parser.add_argument("--least", default=16, type=whole(2), metavar="N", help="shorter clips are bad (16 frames)")
    parser.add_argument("--frames", type=whole(2), metavar="N", help="take at most N frames of a clip")
    parser.add_argument("--device", default="auto", help="for finding poses and faces: auto (default), cpu, cuda")
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=train_prepare_command)


def _register_finetune(recipes) -> None:
    parser = recipes.add_parser("finetune", help="train a model further on prepared clips; wants a GPU")
    parser.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="what train prepare has written")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="model folder to write")
    parser.add_argument("--model", default=FOR_PEOPLE, help="mini, v1 (default) or a model folder")
    parser.add_argument("--random-weights", action="store_true", help="the model's sizes without its files: to measure")
    parser.add_argument("--train", metavar="A,B", help="of unet, id_adapters, pose_net, face_encoder; default: all")
    parser.add_argument("--frames", type=whole(1), metavar="N", help="of a run that is learned at once (16)")
    parser.add_argument("--stride", type=whole(1), metavar="K", help="take every K-th frame of a clip (1)")
    parser.add_argument("--steps", type=whole(1), metavar="N", help="stop after so many steps (10000)")
    parser.add_argument("--minutes", type=positive, metavar="M", help="stop after so long, over all resumed runs")
    parser.add_argument("--batch", type=whole(1), metavar="B", help="runs at once, in each process (1)")
    parser.add_argument("--accumulate", type=whole(1), metavar="K", help="batches in a step (1)")
    parser.add_argument("--rate", type=positive, help="peak of the learning rate (1e-5)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="of the arithmetic on a GPU (bf16)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--validate-every", type=whole(0), metavar="N", help="look at a held-out clip (500 steps; 0 off)")
    parser.add_argument("--checkpoint-minutes", type=positive, metavar="M", help="save to go on from after a kill (30)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--seed", type=SEED)
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=train_finetune_command)


def train_alignment_command(args: argparse.Namespace, report: Report) -> dict:
    """Train the alignment network and say how good it is."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    from ..training.aligner import AlignerRecipe, describe_source, quick_recipe, train_aligner
    from ..training.loop import Budget
    from ..training.misaligned import Motions

    recipe = quick_recipe() if args.quick else AlignerRecipe()
    steps = recipe.budget.steps if args.steps is None else args.steps
    network = (recipe.network if args.start_from is None else {}) | _given(args, "width", "layers")
    if args.without is not None:
        network[f"use_{args.without}"] = False
    given = _given(args, "batch", "seed", "rate", "start_from")
    recipe = replace(recipe, budget=Budget(steps, args.minutes), network=network, **given)
    motions = Motions.load(args.mocap, "cpu")
    validation = motions if args.val_mocap is None else Motions.load(args.val_mocap, "cpu")
    shapes, validation_shapes = (shapes_of(args.shapes, split) for split in ("train", "val"))
    files = [path for path in (args.mocap, args.val_mocap, args.shapes) if path is not None]
    _start_log()
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
    for name in ("mocap", "start_from"):
        path = getattr(args, name)
        if path is not None and not path.exists():
            raise InputError(f"{path} does not exist; check --{name.replace('_', '-')}")
    from ..training.mini import train_mini

    _start_log()
    stages = {} if args.stages is None else {"stages": args.stages.split(",")}
    models = train_mini(
        args.out, _recipe(args), mocap=args.mocap, data=args.data, start_from=args.start_from, resume=args.resume,
        **stages,
    )  # fmt: skip
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in models.parts().items()}
    seconds = time.monotonic() - start
    for name, count in parameters.items():
        report.line(f"{name:15} {count / 1e6:6.2f} M parameters")
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    report.line(f"try it: python -m stableanimator_core demo --model {args.out}")
    return {"out": args.out, "parameters": parameters, "seconds": round(seconds, 1)}


def train_prepare_command(args: argparse.Namespace, report: Report) -> dict:
    """Write clips that finetune reads, and say what was wrong with the others."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    from ..training.prepare import PrepareSettings, prepare_clips
    from ..weights import config_of

    config = config_of(args.model)
    settings = PrepareSettings.for_model(config, args.size, fps=args.fps, least=args.least, most=args.frames)
    finders = _Finders(config, places_of(args), args.device)
    prepared = prepare_clips(
        args.data, args.out, settings, poses=args.poses, find_poses=finders.find_poses, find_faces=finders.find_faces,
        on_clip=lambda done, clips, name: report.progress(done, clips, f"clips prepared, last {name}"),
    )  # fmt: skip
    for source, reason in prepared.bad.items():
        report.line(f"bad: {source}: {reason}")
    report.line(f"{prepared.clips} clips, {prepared.frames} frames, {len(prepared.bad)} bad ones: {args.out}")
    if prepared.clips:
        report.line(f"train on them: python -m stableanimator_core train finetune --data {args.out} --out FOLDER")
    return {"out": args.out, "clips": prepared.clips, "frames": prepared.frames, "bad": prepared.bad}


class _Finders:
    """What finds poses and faces, each loaded when the first clip needs it."""

    def __init__(self, config: "ModelConfig", places: "Places", device: str):
        self.config, self.places, self.device = config, places, device
        self._poses = self._faces = None

    def find_poses(self, frames: Iterable["np.ndarray"]) -> "Poses":
        """Everybody's poses in a clip. Raises WeightsError without DWPose."""
        from ..pose import PoseDetector, extract_poses

        if self._poses is None:
            try:
                self._poses = PoseDetector.load(self.places, self.device)
            except WeightsError as error:
                raise WeightsError(f"finding poses needs DWPose, {error}; or give --poses FOLDER") from None
        return extract_poses(self._poses, frames, everyone=True).poses

    def find_faces(self, frame: "np.ndarray") -> list["DetectedFace"]:
        """All faces of a frame. Raises WeightsError without the detector."""
        from ..face import FaceDetector

        if self._faces is None:
            self._faces = FaceDetector.load(self.places, self.device)
        return self._faces.detect(frame)


def train_finetune_command(args: argparse.Namespace, report: Report) -> dict:
    """Train a model further and say how it went."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    from ..training.finetune import FinetuneRecipe, finetune
    from ..training.loop import Budget
    from ..weights import config_of, load_models, random_models

    recipe = FinetuneRecipe()
    names = ("frames", "accumulate", "rate", "dtype", "gradient_checkpointing", "validate_every", "seed")
    given = _given(args, *names) | ({} if args.batch is None else {"clips": args.batch})
    if args.train is not None:
        given["train"] = tuple(args.train.split(","))
    if args.checkpoint_minutes is not None:
        given["checkpoint_seconds"] = 60 * args.checkpoint_minutes
    steps = recipe.budget.steps if args.steps is None else args.steps
    recipe = replace(
        recipe, budget=Budget(steps, args.minutes), animation=replace(recipe.animation, **given), **_given(args, "stride")
    )
    _start_log()
    start = time.monotonic()
    models = random_models(config_of(args.model)) if args.random_weights else load_models(
        args.model, places=places_of(args)
    )  # fmt: skip
    result = finetune(models, args.data, args.out, recipe, resume=args.resume)
    if not _first_process():
        raise SystemExit  # one process answers
    seconds = time.monotonic() - start
    for name, value in result.items():
        report.line(f"{name:20} {'none' if value is None else f'{value:.6g}'}")
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    report.line(f"try it: python -m stableanimator_core animate --model {args.out} --reference IMAGE --driving VIDEO")
    return {"out": args.out, **result, "seconds": round(seconds, 1)}


def _first_process() -> bool:
    """Whether this is the first of the processes that accelerate launch, or torchrun, has started."""
    return os.environ.get("RANK", "0") == "0"


def _start_log() -> None:
    """The first process tells how it goes, the others what goes wrong."""
    level = logging.INFO if _first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)


def _given(args: argparse.Namespace, *names: str) -> dict:
    """The options of these names that the user gave."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _recipe(args: argparse.Namespace):
    """The recipe with what the options say instead."""
    from ..training.mini import MiniRecipe, quick_recipe

    recipe = quick_recipe() if args.quick else MiniRecipe()
    given = _given(args, "clips", "identities", "adapter", "workers", "seed")
    for stage in ("autoencoder", "animator"):
        minutes = getattr(args, f"{stage}_minutes")
        if minutes is not None:
            given[stage] = replace(getattr(recipe, stage), minutes=minutes)
    return replace(recipe, **given)
