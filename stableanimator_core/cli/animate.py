"""`animate`: the main job, from a picture and pose files to a video."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FaceError, InputError, PoseError
from .arguments import SEED, add_json, frame_rate, guidance, positive, size, step_range, whole
from .report import Report, rounded, sparkline

if TYPE_CHECKING:
    from ..hjb import HJBConfig
    from ..keypoints import Poses
    from ..pipeline import Animation, Hooks, StableAnimator


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("animate", help="one picture and a driving motion become a video")
    parser.add_argument("--reference", required=True, type=Path, metavar="IMAGE", help="picture of the person")
    parser.add_argument(
        "--driving", required=True, type=Path, metavar="POSES.json", help="the motion: POSE_KEYPOINT frames as JSON"
    )
    parser.add_argument(
        "--reference-poses",
        type=Path,
        metavar="POSES.json",
        help="pose of the picture; default: IMAGE's name with .json or _pose.json",
    )
    parser.add_argument("--out", required=True, type=Path, help="NAME.mp4 .webm .gif .webp, or .png for a folder")
    add_model_options(parser)
    parser.add_argument("--size", type=size, metavar="WxH", help="default: what the model was trained at")
    parser.add_argument("--frames", type=whole(1), metavar="N", help="only the first N driving frames")
    parser.add_argument("--fps", type=frame_rate, help="of the video; default: the model's")
    parser.add_argument("--guidance", type=guidance, metavar="G[:LAST]", help="default: the model's")
    parser.add_argument("--align", default="svd", metavar="METHOD", help="svd (default) or none")
    parser.add_argument("--hjb-steps", type=step_range, metavar="FIRST:LAST", help="denoising steps that it touches")
    parser.add_argument("--hjb-lr", type=positive, metavar="RATE", help="how far each round moves")
    add_json(parser)
    parser.set_defaults(run=animate_command)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a model understands."""
    parser.add_argument("--model", default="mini", help="mini (default, ships here) or a model folder")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--steps", type=whole(1), help="denoising steps; default: the model's")
    parser.add_argument("--seed", default=0, type=SEED)
    parser.add_argument("--hjb-iterations", type=whole(0), metavar="K", help="face optimisation rounds a step, 0: off")


def animate_command(args: argparse.Namespace, report: Report) -> dict:
    """Animate a picture and write the video."""
    from ..video import check_output, read_image, write_video

    check_output(args.out)
    reference = read_image(args.reference)
    driving = read_driving(args.driving, args.frames)
    reference_pose = read_reference_pose(args.reference, args.reference_poses)
    animator, device = load_animator(args)
    hjb = hjb_settings(animator, args)
    width, height = args.size or (None, None)
    result = animator.animate(
        reference,
        driving,
        reference_pose,
        align_method=args.align,
        hjb=hjb,
        hooks=progress_hooks(report),
        width=width,
        height=height,
        steps=args.steps,
        guidance=args.guidance,
        seed=args.seed,
    )
    fps = args.fps or animator.models.config.fps
    written = write_video(args.out, result.frames, fps)
    print_identity(report, result)
    frames, height, width = result.frames.shape[:3]
    for note in result.notes:
        report.note(f"note: {note}")
    report.line(f"{frames} frames of {width}x{height} in {result.seconds:.1f} s on {device}: {written}")
    return {
        "out": written,
        "frames": frames,
        "size": [width, height],
        "fps": float(fps),
        "model": animator.models.config.name,
        "device": device,
        "seed": args.seed,
        "seconds": round(result.seconds, 2),
        **identity_of(result),
        "notes": result.notes,
    }


def read_driving(path: Path, frames: int | None = None) -> "Poses":
    """The driving motion from a JSON file, all of it or its first frames. Raises InputError."""
    from ..keypoints import Poses

    if not path.is_file():
        raise PoseError(f"{path} does not exist; check --driving")
    if path.suffix.lower() != ".json":
        raise PoseError(
            f"{path}: finding poses in a video is not in this version; extract them in ComfyUI (any DWPose or OpenPose "
            "node), save POSE_KEYPOINT as JSON and give that file"
        )
    poses = Poses.load(path)
    if frames is not None and frames > poses.frames:
        raise PoseError(f"--frames {frames}: {path} has {poses.frames} frames")
    poses = poses.slice(0, frames)
    if not poses.visible().any():
        raise PoseError(f"{path}: no person in any of its {poses.frames} frames")
    return poses


def read_reference_pose(picture: Path, given: Path | None) -> "Poses":
    """The pose of the reference picture, from the given file or from one beside the picture. Raises InputError."""
    from ..keypoints import Poses

    beside = (picture.with_suffix(".json"), picture.with_name(f"{picture.stem}_pose.json"))
    path = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if path is None:
        raise PoseError(
            f"no pose of the reference picture: give --reference-poses, or put {beside[0].name} or {beside[1].name} "
            "beside it (finding it in the picture is not in this version)"
        )
    if not path.is_file():
        raise PoseError(f"{path} does not exist; check --reference-poses")
    poses = Poses.load(path)
    if not poses.visible()[:1].any():
        raise FaceError(f"{path}: no person in its first frame, which should be the pose of {picture.name}")
    return poses


def load_animator(args: argparse.Namespace) -> tuple["StableAnimator", str]:
    """The model of --model on --device, and the device's name. Raises InputError."""
    from ..pipeline import StableAnimator

    animator = StableAnimator.load(args.model, device=args.device)
    return animator, str(animator.models.device)


def hjb_settings(animator: "StableAnimator", args: argparse.Namespace) -> "HJBConfig":
    """The model's HJB settings with what the options say instead. Raises InputError."""
    from ..pipeline import model_hjb

    config = animator.models.config
    steps = args.steps or config.steps
    first, last = args.hjb_steps or (None, None)
    if last is not None and first <= last and last >= steps:
        raise InputError(f"--hjb-steps {first}:{last}: there are {steps} denoising steps, 0 to {steps - 1}")
    return model_hjb(config, steps, iterations=args.hjb_iterations, first_step=first, last_step=last, lr=args.hjb_lr)


def progress_hooks(report: Report, label: str = "") -> "Hooks":
    """Hooks that show denoising, face optimisation and decoding on stderr."""
    from ..pipeline import Hooks

    shown = {"identity": ""}

    def on_step(step, x0, x, steps):
        report.progress(step + 1, steps, f"{label}denoising steps{shown['identity']}")

    def on_iteration(step, iteration, csim):
        value = csim[csim.isfinite()].mean().item()
        shown["identity"] = f", face optimised to {value:.2f} in step {step}"
        report.live(f"{label}step {step}: face optimisation, round {iteration + 1}, similarity {value:.2f}")

    def on_decode(done, total):
        report.progress(done, total, f"{label}frames decoded")

    return Hooks(on_step=on_step, on_iteration=on_iteration, on_decode=on_decode)


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
