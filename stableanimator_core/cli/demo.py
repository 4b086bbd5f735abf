"""`demo`: the main job on the picture and the driving video that ship with the package."""

import argparse
import time
from pathlib import Path

from ..errors import InputError
from .animate import add_model_options, identity_of, load_animator, print_identity, progress_hooks
from .arguments import add_json, prepare_folder, whole
from .report import Report

DEMO = Path(__file__).resolve().parents[1] / "assets" / "demo"
DEFAULT_OUT = Path("output") / "demo"


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="animate the picture that ships here; no download, no GPU needed")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help=f"default: {DEFAULT_OUT}")
    add_model_options(parser)
    parser.add_argument("--frames", type=whole(1), metavar="N", help="default: as many as the model sees at once")
    add_json(parser)
    parser.set_defaults(run=demo_command)


def demo_command(args: argparse.Namespace, report: Report) -> dict:
    """Animate the demo picture without and with the face optimisation; write the videos and a contact sheet."""
    from ..evaluation.estimate import Work
    from ..hjb_settings import HJBConfig
    from ..keypoints import Poses
    from ..pipeline import SamplingConfig, model_hjb
    from ..pose import PoseDetector, draw_poses, extract_poses
    from ..trail import Trail
    from ..video import contact_sheet, overlay, read_image, read_video, write_image, write_video

    folder = prepare_folder(args.out, DEFAULT_OUT)
    reference = read_image(DEMO / "reference.png")
    reference_pose = Poses.load(DEMO / "reference.json")
    video, _ = read_video(DEMO / "driving.mp4")
    if (args.frames or 0) > len(video):
        raise InputError(f"--frames {args.frames}: the demo's driving video has {len(video)} frames")
    animator, device = load_animator(args)
    config = animator.models.config
    video = video[: args.frames or config.context_window]
    start = time.monotonic()
    driving = extract_poses(PoseDetector.built_in(), video).poses
    seconds = time.monotonic() - start
    report.line(f"poses of the driving video's {len(video)} frames found by the built-in estimator in {seconds:.1f} s")

    plan = SamplingConfig.for_model(config, steps=args.steps)
    trail = Trail()  # both runs are the same up to the first step with HJB

    def run(hjb: HJBConfig, label: str):
        hooks = progress_hooks(report, label, work=Work.of(plan, hjb, driving.frames), trail=trail)
        sampling = {"steps": args.steps, "seed": args.seed, "trail": trail}
        return animator.animate(reference, driving, reference_pose, hjb=hjb, hooks=hooks, **sampling)

    plain = run(HJBConfig(iterations=0), "without HJB: ")
    settings = model_hjb(config, args.steps or config.steps, iterations=args.hjb_iterations)
    result = run(settings, "with HJB: ") if settings.iterations else plain

    driver = driving.fitted(result.poses.width, result.poses.height)
    height, width = result.frames.shape[1:3]
    driver_images = draw_poses(driver, width, height, canvas_short_side=config.pose_canvas)
    poses_over = overlay(result.frames, result.pose_images)
    rows = [
        ("reference", reference[None]),
        ("driving video", video, [f"frame {number}" for number in range(len(video))]),
        ("its poses", driver_images),
        ("without HJB", plain.frames, captions(plain.csim)),
        ("with HJB", result.frames, captions(result.csim)),
        ("pose over it", poses_over),
    ]
    files = {
        "animation": write_video(folder / "animation.mp4", result.frames, config.fps),
        "pose_overlay": write_video(folder / "pose_overlay.mp4", poses_over, config.fps),
        "contact_sheet": write_image(folder / "contact_sheet.png", contact_sheet(rows, cell=max(height, 128))),
    }

    report.line("identity of every frame: cosine similarity of the face with the reference's, 1 is the same")
    for label, made in (("  without HJB", plain), ("  with HJB   ", result)):
        print_identity(report, made, label)
        report.line(f"{'':{len(label)}}  {' '.join(text or '-' for text in captions(made.csim))}")
    for note in result.notes:
        report.note(f"note: {note}")
    report.line(f"{len(result.frames)} frames of {width}x{height} on {device}: {plain.seconds:.1f} s without HJB, "
                f"{result.seconds:.1f} s with it, each with the steps that both share")  # fmt: skip
    for path in files.values():
        report.line(f"  {path}")
    return {
        **{name: str(path) for name, path in files.items()},
        "frames": len(result.frames),
        "size": [width, height],
        "model": config.name,
        "device": device,
        "seed": args.seed,
        "seconds": round(result.seconds, 2),
        "seconds_poses": round(seconds, 2),
        "seconds_without_hjb": round(plain.seconds, 2),
        **identity_of(result),
        "csim_without_hjb": identity_of(plain)["csim"],
        "csim_without_hjb_mean": identity_of(plain)["csim_mean"],
        "notes": result.notes,
    }


def captions(csim) -> list[str]:
    """CSIM of every frame as a caption; empty where no face is visible."""
    return ["" if value != value else f"{value:.2f}" for value in csim.tolist()]
