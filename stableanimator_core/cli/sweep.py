"""`evaluate hjb-sweep`: settings of the face optimisation side by side, and which one to take."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import FaceError, InputError
from .animate import add_weights_options, load_animator, load_face_detector, progress_hooks
from .arguments import (
    ALIGN_METHODS,
    CLIPS_SEED,
    MOST_CLIPS,
    add_json,
    align_method,
    places_of,
    positive,
    prepare_folder,
    size,
    whole,
)
from .material import (
    PoseFinder,
    add_detector_option,
    add_driving_options,
    check_material,
    detector_of,
    read_driving,
    read_reference_pose,
)
from .report import Report

if TYPE_CHECKING:
    import numpy as np

    from ..face import ReferenceFace
    from ..keypoints import Poses
    from ..pipeline import SamplingConfig
    from ..sweep import SweepRow
    from ..weights import ModelConfig

OUT = Path("output") / "hjb-sweep"  # the one folder that is made with its parents
ITERATIONS = "0,4,8,10,15"  # the paper's
CURVES = ("falling", "even", "rising", "middle")  # of hjb, without torch
CLIPS, FRAMES = 4, 16  # of performers, unless told otherwise


class Subject(NamedTuple):
    """Whose face is tuned, in which motion."""

    picture: "np.ndarray"  # [H, W, 3] uint8 RGB
    pose: "Poses"  # of the picture, on its canvas
    motion: "Poses"  # laid over the picture
    frames: list[int]  # of it that are made
    seed: int


def register(subjects) -> None:
    """Add the command to those of `evaluate`."""
    parser = subjects.add_parser("hjb-sweep", help="settings of the face optimisation: what each costs and gives")
    parser.add_argument("--clips", type=whole(1, MOST_CLIPS), metavar="N", help=f"of rendered performers ({CLIPS})")
    add_driving_options(parser, required=False)
    add_detector_option(parser, "as for animate")
    parser.add_argument("--align", type=align_method, metavar="METHOD", help=f"learned (default), {ALIGN_METHODS}")
    parser.add_argument("--iterations", default=ITERATIONS, metavar="K[,K]", help=f"rounds a step ({ITERATIONS})")
    parser.add_argument("--hjb-steps", default="", metavar="A:B[,C:D]", help="denoising steps; default: the model's")
    parser.add_argument("--adaptive", action="store_true", help="every frame stops by itself, after K rounds at most")
    parser.add_argument("--strength", choices=CURVES, help="of the learning rate, over the steps; default: the model's")
    parser.add_argument("--hjb-lr", type=positive, metavar="RATE", help="how far each round moves")
    parser.add_argument("--frames", type=whole(1), metavar="N", help=f"the first N; {FRAMES} of performers, else all")
    parser.add_argument("--draft", default=0, type=whole(0), metavar="N", help="only the N frames that tell most")
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--steps", type=whole(1), help="denoising steps; default: the model's")
    parser.add_argument("--seed", default=0, type=CLIPS_SEED, help="which performers, and the noise")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"write faces.png and plot.png, as {OUT}")
    add_weights_options(parser)
    add_json(parser)
    parser.set_defaults(run=sweep_command)


def sweep_command(args: argparse.Namespace, report: Report) -> dict:
    """Animate the same clips with every setting, print a table and recommend one."""
    from ..hjb_settings import CURVES as POINTS
    from ..pipeline import SamplingConfig, find_face, model_hjb
    from ..sweep import mean_rows, parse_counts, parse_ranges, recommend, sweep_hjb, sweep_table, sweep_variants
    from ..weights import V1_CONFIG, config_of
    from ..weights.registry import V1

    if (args.reference is None) != (args.driving is None) or (args.clips and args.reference):
        raise InputError("hjb-sweep: give --reference and --driving, or --clips for rendered performers")
    if args.reference is None:
        _refuse_what_needs_a_picture(args)
    folder = None if args.out is None else prepare_folder(args.out, OUT)
    config, places = config_of(args.model), places_of(args)
    width, height = args.size or (None, None)
    settings = SamplingConfig.for_model(config, width=width, height=height, steps=args.steps)
    stop = "adaptive" if args.adaptive else None
    base = model_hjb(config, settings.steps, lr=args.hjb_lr, stop=stop, strength=POINTS.get(args.strength))
    variants = sweep_variants(base, settings.steps, parse_counts(args.iterations), parse_ranges(args.hjb_steps))
    if args.model == V1_CONFIG.name:
        places.require(*V1)
    subjects, notes = _given(args, config, report) if args.reference else (_performers(args, settings), [])
    animator, device = load_animator(args)
    detector = load_face_detector(animator, places, args.device)
    clips, faces, frames, faceless = [], [], [], []
    for number, subject in enumerate(subjects, 1):
        hooks = replace(progress_hooks(report, f"clip {number} of {len(subjects)}: "), on_note=notes.append)
        seeded = replace(settings, seed=subject.seed)
        try:
            face = find_face(animator.models, subject.picture, subject.pose, detector=detector)
            clips.append(
                sweep_hjb(
                    animator.models, subject.picture, subject.motion, face, seeded, variants, chosen=subject.frames,
                    hooks=hooks,
                )
            )  # fmt: skip
            faces.append(face)
            frames.append(len(subject.frames))
        except FaceError as error:
            faceless.append(f"clip {number} of {len(subjects)} is left out: {error}")
    if not clips:
        raise FaceError(f"hjb-sweep: no clip has a face to work on; {faceless[0]}")
    notes = list(dict.fromkeys((*notes, *faceless)))
    rows = mean_rows(clips)
    advice = recommend(rows)
    for line in sweep_table(rows).splitlines():
        report.line(line)
    report.line(f"{len(clips)} clip{'s' * (len(clips) > 1)} on {device}")
    report.line(f"recommended: {advice.reason}")
    for note in notes:
        report.note(f"note: {note}")
    for path in _write(folder, rows, faces):
        report.line(f"  {path}")
    return {
        "model": config.name,
        "device": device,
        "seed": args.seed,
        "clips": len(clips),
        "frames": frames,
        "rows": [_numbers(row) for row in rows],
        "recommended": rows.index(advice.row),
        "reason": advice.reason,
        "out": folder,
        "notes": notes,
    }


def _performers(args: argparse.Namespace, settings: "SamplingConfig") -> list[Subject]:
    """Rendered people of the seed, each in a motion of its own."""
    from ..evaluation.material import performer_cases

    frame, clips = (settings.width, settings.height), args.clips or CLIPS
    cases = (make() for make in performer_cases(frame, clips=clips, seed=args.seed, frames=args.frames or FRAMES))
    return [_subject(args, case.reference, case.reference_pose, case.driving, case.seed) for case in cases]


def _given(args: argparse.Namespace, config: "ModelConfig", report: Report) -> tuple[list[Subject], list[str]]:
    """The user's picture and motion, and what there is to know about them."""
    from ..alignment import WITH_ALIGNER, align
    from ..alignment.advice import doubt_notes
    from ..video import read_image
    from ..weights import load_aligner

    method = args.align or "learned"
    picture = read_image(args.reference)
    finder = PoseFinder(places_of(args), args.device, report, args.detector or detector_of(config))
    check_material(args, finder)
    found = read_reference_pose(args, picture, finder)
    driving = read_driving(args, finder)
    finder.close()  # before the model is loaded: both at once may not fit
    pose = found.poses.resized(picture.shape[1], picture.shape[0])
    aligned = align(driving.poses, pose, method, aligner=load_aligner() if method in WITH_ALIGNER else None)
    subject = _subject(args, picture, pose, aligned.poses, args.seed)
    doubts = doubt_notes(aligned.expected_error)
    return [subject], list(dict.fromkeys((*driving.notes, *found.notes, *doubts, *aligned.notes)))


def _subject(args: argparse.Namespace, picture: "np.ndarray", pose: "Poses", motion: "Poses", seed: int) -> Subject:
    from ..pose.telling import telling_frames

    return Subject(picture, pose, motion, telling_frames(motion, args.draft), seed)


def _refuse_what_needs_a_picture(args: argparse.Namespace) -> None:
    """Raises InputError for an option that means nothing to rendered performers, whose poses are known."""
    given = {
        option: getattr(args, option) for option in ("align", "detector", "reference_poses", "driving_fps", "person")
    }
    given["reference_person"] = args.reference_person or None
    for option, value in given.items():
        if value is not None:
            name = option.replace("_", "-")
            raise InputError(f"--{name} is for --reference and --driving, not for rendered performers; leave it out")


def _numbers(row: "SweepRow") -> dict:
    """A row for JSON."""
    measured = {key: getattr(row, key) for key in ("csim", "csim_judge", "sharpness", "seconds")}
    rounded = {key: None if value is None else round(value, 4) for key, value in measured.items()}
    return rounded | {"hjb": asdict(row.hjb)}


def _write(folder: Path | None, rows: "list[SweepRow]", faces: "list[ReferenceFace]") -> list[Path]:
    """The faces and a plot, if there is a folder for them."""
    if folder is None:
        return []
    from ..sweep import sweep_plot, sweep_sheet
    from ..video import write_image

    sheet = sweep_sheet(rows, faces[0] if len(faces) == 1 else None)
    return [write_image(folder / "faces.png", sheet), write_image(folder / "plot.png", sweep_plot(rows))]
