"""`poses extract`, `poses align` and `poses draw`: what the pipeline does to keypoints, step by step."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .arguments import (
    ALIGN_FITS,
    ALIGN_METHODS,
    PROPORTIONS,
    add_json,
    add_places,
    align_fit,
    align_method,
    existing,
    existing_file,
    existing_folder,
    frame_rate,
    number,
    places_of,
    size,
    whole,
)
from .material import PoseFinder, add_detector_option, add_extraction_options
from .report import Report, rounded

if TYPE_CHECKING:
    import numpy as np

SUMMARIES = (".png", ".jpg", ".jpeg")  # an overlay of this ending is one picture


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("poses", help="find, align and draw poses (POSE_KEYPOINT JSON)")
    actions = group.add_subparsers(metavar="ACTION", required=True)

    parser = actions.add_parser("extract", help="find the poses of people in a video or picture")
    parser.add_argument(
        "--video", required=True, type=existing, metavar="FILE", help="video, picture or folder of them"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="POSES.json")
    add_detector_option(parser, "auto (default): DWPose if it is here")
    add_extraction_options(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=extract_command)

    parser = actions.add_parser("align", help="fit a driving motion to the body in the reference picture")
    parser.add_argument("--driving", required=True, type=existing_file, metavar="POSES.json")
    parser.add_argument(
        "--reference", required=True, type=existing_file, metavar="POSES.json", help="pose of the picture"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="POSES.json")
    parser.add_argument("--method", default="learned", type=align_method, help=ALIGN_METHODS)
    parser.add_argument("--fit", default="clip", type=align_fit, help=ALIGN_FITS)
    parser.add_argument("--proportions", action="store_true", help=PROPORTIONS)
    parser.add_argument("--min-score", default=0.3, type=number(0), help="joints below it do not count (0.3)")
    parser.add_argument(
        "--overlay", type=Path, metavar="FILE|FOLDER",
        help="show how it went: all frames as a video or folder, or a few with the joints' distance as a .png or .jpg",
    )  # fmt: skip
    parser.add_argument(
        "--picture", type=existing_file, metavar="FILE", help="the reference's picture, below the overlay"
    )
    parser.add_argument("--fps", default=15.0, type=frame_rate, help="of the overlay's video (15)")
    add_json(parser)
    parser.set_defaults(run=align_command)

    parser = actions.add_parser("draw", help="draw poses as skeleton pictures")
    parser.add_argument("--poses", required=True, type=existing_file, metavar="POSES.json")
    parser.add_argument("--out", required=True, type=Path, help="a video, or a picture when there is one frame")
    parser.add_argument("--size", type=size, metavar="WxH", help="default: the canvas of the poses")
    parser.add_argument("--over", type=existing, metavar="FILE", help="picture or video to draw over")
    parser.add_argument("--fps", type=frame_rate, help="default: that of --over, else 15")
    parser.add_argument(
        "--canvas", type=whole(64), metavar="PX",
        help="short side drawn at: smaller gives thicker limbs; default: 2160, as the published weights see them, "
        "with --over that of the output",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=draw_command)


def extract_command(args: argparse.Namespace, report: Report) -> dict:
    """Find the poses in a video and save them."""
    existing_folder(args.out)
    finder = PoseFinder(places_of(args), args.device, report, args.detector or "auto")
    finder.check("find them in ComfyUI with any DWPose or OpenPose node and save POSE_KEYPOINT as JSON")
    poses, fps, notes, _ = finder.in_video(
        args.video,
        fps=args.fps,
        start=args.start,
        frames=args.frames,
        longest=args.longest,
        person=args.person,
        everyone=args.everyone,
        min_person_score=args.min_person_score,
        min_score=args.min_score,
        fill_gap=args.fill_gap,
        smooth=args.smooth,
    )
    poses.save(args.out)
    for note in notes:
        report.note(f"note: {note}")
    people = "1 person" if poses.people == 1 else f"{poses.people} people"
    report.line(
        f"{poses.frames} frames of {poses.width}x{poses.height} at {float(fps):g} a second, {people}: {args.out}"
    )
    return {
        "out": args.out,
        "frames": poses.frames,
        "people": poses.people,
        "size": [poses.width, poses.height],
        "fps": float(fps),
        "frames_with_anybody": int(poses.visible().any(axis=(1, 2)).sum()),
        "notes": notes,
    }


def align_command(args: argparse.Namespace, report: Report) -> dict:
    """Align one pose file to another."""
    from ..alignment import WITH_ALIGNER, align
    from ..alignment.advice import fit_note
    from ..keypoints import Poses
    from ..pose.overlay import body_height, draw_alignment, draw_summary, residual_sentence, shape_note
    from ..video import write_image, write_video
    from ..weights import load_aligner

    existing_folder(args.out)
    picture = _overlay_picture(args)
    driving, reference = Poses.load(args.driving), Poses.load(args.reference)
    result = align(
        driving,
        reference,
        args.method,
        fit=args.fit,
        aligner=load_aligner() if args.method in WITH_ALIGNER else None,
        proportions=args.proportions,
        min_score=args.min_score,
    )
    result.poses.save(args.out)
    notes = (*result.notes, *shape_note(picture, reference))
    for note in notes:
        report.note(note)
    report.line(f"{result.poses.frames} frames aligned by {result.method}: {args.out}")
    if result.expected_error is not None:
        report.line(fit_note(result.expected_error))
    report.line(residual_sentence(result.residual))
    overlay = args.overlay
    if overlay is not None:
        draw = draw_summary if _is_summary(overlay) else draw_alignment
        drawn = draw(result.poses, driving, reference, result.residual, picture=picture, min_score=args.min_score)
        overlay = write_image(overlay, drawn) if _is_summary(overlay) else write_video(overlay, drawn, args.fps)
        report.line(f"overlay: {overlay}")
    return {
        "out": args.out,
        "frames": result.poses.frames,
        "size": [result.poses.width, result.poses.height],
        "method": result.method,
        "residual_px": rounded(result.residual, 2),
        "body_height_px": round(body_height(reference, args.min_score), 1),
        "expected_error": None if result.expected_error is None else round(result.expected_error, 4),
        "overlay": overlay,
        "notes": notes,
    }


def _overlay_picture(args: argparse.Namespace) -> "np.ndarray | None":
    """The picture below the overlay; what can be known to be wrong with --overlay is found here. Raises InputError."""
    from ..video import check_output, read_image

    if args.overlay is None and args.picture is not None:
        raise InputError(f"--picture {args.picture} lies below the overlay: give --overlay, too")
    if args.overlay is not None:
        (existing_folder if _is_summary(args.overlay) else check_output)(args.overlay, "--overlay")
    return None if args.picture is None else read_image(args.picture)


def _is_summary(overlay: Path) -> bool:
    """Whether an overlay is to be one picture."""
    return overlay.suffix.lower() in SUMMARIES


def draw_command(args: argparse.Namespace, report: Report) -> dict:
    """Draw a pose file as a video, a folder of frames or one picture."""
    from ..conditioning import cover, cover_poses
    from ..keypoints import Poses
    from ..pose.draw import draw_poses
    from ..video import PICTURES, check_output, overlay, read_image, read_video, write_image, write_video

    poses = Poses.load(args.poses)
    picture = poses.frames == 1 and args.out.suffix.lower() in PICTURES
    (existing_folder if picture else check_output)(args.out)
    background, fps = None, 15.0
    width, height = args.size or (poses.width, poses.height)
    canvas = args.canvas or 2160
    if args.over is not None and args.size is not None:
        raise InputError("--size and --over: over a picture or video, drawings have its size; leave one of them out")
    if args.over is not None:
        if args.over.suffix.lower() in PICTURES:
            background = read_image(args.over)[None]
        else:
            background, fps = read_video(args.over, max_frames=poses.frames)
        height, width = background.shape[1:3]
        canvas = args.canvas or min(height, width)
        poses = poses.slice(0, len(background)) if len(background) > 1 else poses
    poses = cover_poses(poses, cover(poses, width, height), width, height)
    drawn = draw_poses(poses, width, height, canvas_short_side=canvas)
    if background is not None:
        drawn = overlay(background.repeat(len(drawn), axis=0) if len(background) == 1 else background, drawn)
    written = write_image(args.out, drawn[0]) if picture else write_video(args.out, drawn, args.fps or fps)
    report.line(f"{len(drawn)} frames of {width}x{height} drawn: {written}")
    return {"out": written, "frames": len(drawn), "size": [width, height]}
