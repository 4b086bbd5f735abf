"""`train prepare` and `train finetune`: one's own clips, and a model of any size trained further on them."""

import argparse
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, WeightsError
from .arguments import (
    SEED,
    add_json,
    add_places,
    existing,
    first_process,
    frame_rate,
    given_of,
    number,
    places_of,
    positive,
    size,
    start_log,
    whole,
)
from .material import detector_of
from .report import Report

if TYPE_CHECKING:
    import numpy as np

    from ..face import DetectedFace
    from ..keypoints import Poses
    from ..weights.places import Places

V1 = "v1"  # the model that clips of people are for


def register(recipes) -> None:
    """Add the two to `train`'s recipes."""
    _register_prepare(recipes)
    _register_finetune(recipes)


def _register_prepare(recipes) -> None:
    parser = recipes.add_parser("prepare", help="make videos ready for finetune: poses, face masks, aligned faces")
    parser.add_argument(
        "--data", required=True, type=existing, metavar="FOLDER",
        help="videos, or clips as folders of images/, faces/, poses/ that video_rec_path.txt may list",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="clips are written here, and bad.txt")
    parser.add_argument("--model", default=V1, help="for whom: mini, v1 (default) or a model folder")
    parser.add_argument(
        "--poses", type=existing, metavar="FOLDER", help="the clips' POSES.json; default: found in them"
    )
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
    parser.add_argument(
        "--data", required=True, type=existing, nargs="+", metavar="FOLDER",
        help="what train prepare has written; clips of several sizes are in a folder each, and drawn in turn",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="model folder to write")
    parser.add_argument("--model", default=V1, help="mini, v1 (default) or a model folder")
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
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--validate-every", type=whole(0), metavar="N", help="look at a held-out clip (500; 0: never)")
    parser.add_argument(
        "--checkpoint-minutes", type=number(0), metavar="M", help="save what --resume goes on from (30; 0: never)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    parser.add_argument("--seed", type=SEED)
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=train_finetune_command)


def train_prepare_command(args: argparse.Namespace, report: Report) -> dict:
    """Write clips that finetune reads, and say what was wrong with the others."""
    if not args.out.parent.is_dir():
        raise InputError(f"output folder {args.out.parent} does not exist; create it or choose another --out")
    from ..training.prepare import PrepareSettings, prepare_clips
    from ..weights import config_of

    config = config_of(args.model)
    settings = PrepareSettings.for_model(config, args.size, fps=args.fps, least=args.least, most=args.frames)
    finders = _Finders(detector_of(config), places_of(args), args.device)
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

    def __init__(self, detector: str, places: "Places", device: str):
        self.detector, self.places, self.device = detector, places, device
        self._poses = self._faces = None

    def find_poses(self, frames: Iterable["np.ndarray"]) -> "Poses":
        """Everybody's poses in a clip. Raises WeightsError without DWPose."""
        from ..pose import PoseDetector, extract_poses

        if self._poses is None:
            try:
                self._poses = PoseDetector.choose(self.detector, self.places, self.device)
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
    from ..training.loop import Budget, start_processes
    from ..weights import config_of, load_models, random_models

    recipe = FinetuneRecipe()
    names = ("frames", "accumulate", "rate", "dtype", "gradient_checkpointing", "validate_every", "seed")
    given = given_of(args, *names) | ({} if args.batch is None else {"clips": args.batch})
    if args.train is not None:
        given["train"] = tuple(args.train.split(","))
    if args.checkpoint_minutes is not None:
        given["checkpoint_seconds"] = 60 * args.checkpoint_minutes or math.inf
    steps = recipe.budget.steps if args.steps is None else args.steps
    animation = replace(recipe.animation, **given)
    recipe = replace(recipe, budget=Budget(steps, args.minutes), animation=animation, **given_of(args, "stride"))
    start_log()
    start = time.monotonic()
    device = start_processes().device
    if args.random_weights:
        models = random_models(config_of(args.model), device=device)
    else:
        models = load_models(args.model, device=device, places=places_of(args))
    result = finetune(models, args.data, args.out, recipe, resume=args.resume)
    if not first_process():
        raise SystemExit  # one process answers
    seconds = time.monotonic() - start
    for name, value in result.items():
        report.line(f"{name:20} {'none' if value is None else f'{value:.6g}'}")
    report.line(f"trained in {seconds / 60:.1f} minutes: {args.out}")
    report.line(f"try it: python -m stableanimator_core animate --model {args.out} --reference IMAGE --driving VIDEO")
    return {"out": args.out, **result, "seconds": round(seconds, 1)}
