"""`animate`: the main job, from a picture and a driving video or pose file to a video."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, VideoError
from .arguments import (
    ALIGN_FITS,
    ALIGN_METHODS,
    PROPORTIONS,
    SEED,
    add_json,
    add_places,
    align_fit,
    align_method,
    frame_rate,
    guidance,
    places_of,
    positive,
    size,
    step_range,
    whole,
)
from .material import (
    PoseFinder,
    add_detector_option,
    add_driving_options,
    check_material,
    detector_of,
    read_driving,
    read_driving_sound,
    read_reference_pose,
)
from .report import Report, rounded, sparkline

if TYPE_CHECKING:
    import torch

    from ..evaluation.estimate import Work
    from ..face import FaceDetector
    from ..hjb_settings import HJBConfig
    from ..parallel import Processes
    from ..pipeline import Animation, Hooks, StableAnimator
    from ..trail import Trail
    from ..weights import ModelConfig, Places

OUT = "NAME.mp4 .mov .mkv .webm (with the driving video's sound) .gif .webp, or .png for a folder"
FPS = "of the result, else the driving video's, or the model's; another than its own changes its speed: no sound then"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("animate", help="one picture and a driving motion become a video")
    add_driving_options(parser)
    add_detector_option(parser, "default: auto (DWPose if it is here) for mini, dwpose for other models")
    parser.add_argument("--out", required=True, type=Path, help=OUT)
    add_model_options(parser)
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--frames", type=whole(1), metavar="N", help="only the first N driving frames")
    parser.add_argument("--fps", type=frame_rate, help=FPS)
    parser.add_argument("--mute", action="store_true", help="leave the driving video's sound out")
    parser.add_argument("--guidance", type=guidance, metavar="G[:LAST]", help="default: the model's")
    parser.add_argument("--align", default="learned", type=align_method, metavar="METHOD", help=ALIGN_METHODS)
    parser.add_argument("--fit", default="clip", type=align_fit, help=ALIGN_FITS)
    parser.add_argument("--proportions", action="store_true", help=PROPORTIONS)
    parser.add_argument("--hjb-steps", type=step_range, metavar="FIRST:LAST", help="denoising steps that it touches")
    parser.add_argument("--hjb-lr", type=positive, metavar="RATE", help="how far each round moves")
    add_json(parser)
    parser.set_defaults(run=animate_command)


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where it is and how it runs: what load_animator reads."""
    parser.add_argument(
        "--model", default="mini", help="mini (default, ships here), v1 (the published weights) or a model folder"
    )
    add_places(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", *DTYPES],
        help="of the weights; auto (default): fp16 for large models on CUDA, else fp32",
    )  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a model understands."""
    add_weights_options(parser)
    parser.add_argument("--steps", type=whole(1), help="denoising steps; default: the model's")
    parser.add_argument("--seed", default=0, type=SEED)
    parser.add_argument("--hjb-iterations", type=whole(0), metavar="K", help="face optimisation rounds a step, 0: off")


def animate_command(args: argparse.Namespace, report: Report) -> dict:
    """Animate a picture and write the video, in as many processes as were launched; the first one answers."""
    from ..parallel import join_processes

    with join_processes(args.device) as (processes, args.device):
        result = _animate(args, report, processes)
    if not processes.first:
        raise SystemExit
    return result


def _animate(args: argparse.Namespace, report: Report, processes: "Processes") -> dict:
    from ..evaluation.estimate import Work
    from ..pipeline import SamplingConfig
    from ..trail import Trail
    from ..video import check_output, read_image, write_video
    from ..weights import V1_CONFIG, config_of
    from ..weights.registry import V1

    check_output(args.out)
    picture = read_image(args.reference)
    places = places_of(args)
    config = config_of(args.model)
    finder = PoseFinder(places, args.device, report, args.detector or detector_of(config))
    check_material(args, finder)
    hjb = hjb_settings(config, args)
    width, height = args.size or (None, None)
    settings = SamplingConfig.for_model(config, width=width, height=height, steps=args.steps)
    if args.model == V1_CONFIG.name:
        places.require(*V1)
    reference_pose = processes.from_first(lambda: read_reference_pose(args, picture, finder))
    driving = processes.from_first(lambda: read_driving(args, finder))
    fps = args.fps or driving.fps or config.fps
    sound, sound_notes = None, ()
    if processes.first and not args.mute:
        sound, sound_notes = read_driving_sound(args.driving, driving, args.out, fps)
    finder.close()  # before the model is loaded: both at once may not fit
    animator, device = load_animator(args, processes)
    face_detector = load_face_detector(animator, places, args.device)
    trail = Trail(0) if processes.count == 1 else None  # keeps no latents; it times the steps
    result = animator.animate(
        picture,
        driving.poses,
        reference_pose.poses,
        align_method=args.align,
        align_fit=args.fit,
        proportions=args.proportions,
        hjb=hjb,
        face_detector=face_detector,
        hooks=progress_hooks(report, work=Work.of(settings, hjb, driving.poses.frames), trail=trail),
        trail=trail,
        width=width,
        height=height,
        steps=args.steps,
        guidance=args.guidance,
        seed=args.seed,
    )
    if not processes.first:
        return {}
    try:
        written = write_video(args.out, result.frames, fps, sound=sound)
    except VideoError as error:
        if sound is None:
            raise
        sound, sound_notes = None, (*sound_notes, f"with sound {error}, so it was written without")
        written = write_video(args.out, result.frames, fps)
    print_identity(report, result)
    frames, height, width = result.frames.shape[:3]
    detector_notes = face_detector.notes if face_detector else ()
    notes = list(dict.fromkeys((*driving.notes, *reference_pose.notes, *detector_notes, *result.notes, *sound_notes)))
    for note in notes:
        report.note(f"note: {note}")
    heard = ", with the driving video's sound" if sound is not None else ""
    report.line(f"{frames} frames of {width}x{height} in {result.seconds:.1f} s on {device}{heard}: {written}")
    return {
        "out": written,
        "frames": frames,
        "size": [width, height],
        "fps": float(fps),
        "sound": sound is not None,
        "model": animator.models.config.name,
        "device": device,
        "seed": args.seed,
        "seconds": round(result.seconds, 2),
        **identity_of(result),
        "notes": notes,
    }


def load_animator(
    args: argparse.Namespace, processes: "Processes | None" = None
) -> tuple["StableAnimator", str]:  # fmt: skip
    """The model of --model on --device, and the device's name. Raises InputError."""
    from ..parallel import ALONE
    from ..pipeline import StableAnimator

    animator = StableAnimator.load(
        args.model, device=args.device, dtype=dtype_of(args), places=places_of(args), processes=processes or ALONE
    )
    return animator, str(animator.models.device)


def dtype_of(args: argparse.Namespace) -> "torch.dtype | None":
    """The type of --dtype; None for auto, which the pipeline decides."""
    import torch

    return None if args.dtype == "auto" else getattr(torch, DTYPES[args.dtype])


def load_face_detector(animator: "StableAnimator", places: "Places", device: str) -> "FaceDetector | None":
    """For models that take aligned faces, when its file is there; without it the pose's face points serve."""
    from ..face import FaceDetector

    if animator.models.config.face_crop != "arcface" or places.find("face_detector") is None:
        return None
    return FaceDetector.load(places, device)


def hjb_settings(config: "ModelConfig", args: argparse.Namespace) -> "HJBConfig":
    """The model's HJB settings with what the options say instead. Raises InputError."""
    from ..pipeline import model_hjb

    steps = args.steps or config.steps
    first, last = args.hjb_steps or (None, None)
    if last is not None and first <= last and last >= steps:
        raise InputError(f"--hjb-steps {first}:{last}: there are {steps} denoising steps, 0 to {steps - 1}")
    return model_hjb(config, steps, iterations=args.hjb_iterations, first_step=first, last_step=last, lr=args.hjb_lr)


def progress_hooks(
    report: Report, label: str = "", *, work: "Work | None" = None, trail: "Trail | None" = None
) -> "Hooks":
    """Hooks that show denoising, face optimisation and decoding on stderr.

    work, trail: of the job and of its run, for the time left; without them nothing is said of it.
    """
    from ..pipeline import Hooks

    identity = ""

    def on_step(step, x0, x, steps):
        left = "" if work is None or trail is None or step + 1 == steps else f", {_left(work, trail, step + 1)}"
        report.progress(step + 1, steps, f"{label}denoising steps done{left}{identity}")

    def on_identity(likeness):
        nonlocal identity
        value = likeness.csim.nanmean().item()
        identity = f", face at {value:.2f} in step {likeness.step}"
        report.live(
            f"{label}step {likeness.step}: face optimisation, round {likeness.iteration + 1}, similarity {value:.2f}"
        )

    def on_decode(done, total):
        report.progress(done, total, f"{label}frames decoded")

    return Hooks(on_step=on_step, on_identity=on_identity, on_decode=on_decode)


def _left(work: "Work", trail: "Trail", first: int) -> str:
    """How long the steps from `first` on will take, in words."""
    from ..evaluation.estimate import say_left, time_left

    if any(planned and not took.iterations for planned, took in zip(work.iterations, trail.seconds)):
        work = work._replace(iterations=(0,) * len(work.iterations))  # there is no face
    return say_left(*time_left(trail.seconds, work, first))


def identity_of(result: "Animation") -> dict:
    """Identity for JSON: CSIM of every frame (null: no face) and the mean."""
    csim = rounded(result.csim)
    known = [value for value in csim if value is not None]
    mean = round(sum(known) / len(known), 4) if known else None
    return {"csim": csim, "csim_mean": mean, "judge": result.judge}


def print_identity(report: Report, result: "Animation", label: str = "identity (CSIM)") -> None:
    """Identity for people: a sparkline, mean and the weakest frame."""
    identity = identity_of(result)
    if identity["csim_mean"] is None:
        report.line(f"{label}: no frame shows a face")
        return
    known = [(value, frame) for frame, value in enumerate(identity["csim"]) if value is not None]
    worst, frame = min(known)
    report.line(
        f"{label}: {sparkline(identity['csim'])}  mean {identity['csim_mean']:.3f}, lowest {worst:.3f} in frame {frame}"
    )
