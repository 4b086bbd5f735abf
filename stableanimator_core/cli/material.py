"""What a command works on: motions and the pose of a picture, read from pose files or found in pixels."""

import argparse
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import FaceError, InputError, PoseError, VideoError, WeightsError
from .arguments import existing, existing_file, frame_rate, number, whole
from .report import Report

if TYPE_CHECKING:
    import numpy as np

    from ..keypoints import Poses
    from ..pose import Extraction, PoseDetector
    from ..weights import ModelConfig
    from ..weights.places import Places

DETECTORS = ("auto", "dwpose", "built-in")  # pose.DETECTORS, which takes seconds to import
OUT_OF_STEP = 0.1  # s, from where on sound is
LONGEST = 1920  # px: larger frames are scaled down; the networks look at less anyway


class Motion(NamedTuple):
    """Poses of a clip and what is known about them."""

    poses: "Poses"
    fps: Fraction | None  # None: a pose file carries no rate
    notes: tuple[str, ...]
    times: Sequence[float] = ()  # of the frames, in seconds since the video begins; a pose file has none


class PoseFinder:
    """A pose detector: loaded when the first picture or video needs it, and kept until it is closed.

    detector: "dwpose", "built-in" or "auto", see which_detector.
    """

    def __init__(self, places: "Places", device: str, report: Report, detector: str = "dwpose"):
        self.places, self.device, self.report, self.detector = places, device, report, detector
        self._detector: PoseDetector | None = None

    @property
    def name(self) -> str:
        """Whose poses they are, for a note."""
        from ..pose import which_detector

        return "DWPose" if which_detector(self.detector, self.places) == "dwpose" else "the built-in pose estimator"

    def close(self) -> None:
        """Let the networks go: they would hold GPU memory while the animation needs it."""
        self._detector = None

    def check(self, alternative: str) -> None:
        """The files are there. Raises WeightsError, in one line: what is missing, how to get it, what to do instead."""
        from ..pose import which_detector
        from ..weights.registry import POSES

        if which_detector(self.detector, self.places) == "built-in":
            return
        try:
            self.places.require(*POSES)
        except WeightsError as error:
            raise WeightsError(f"finding poses needs DWPose, {error}; or {alternative}") from None

    def in_video(
        self, path: Path, *, fps: float | None, start: float, frames: int | None, longest: int, **settings
    ) -> Motion:  # fmt: skip
        """The motion in a video, a picture or a folder of pictures. settings: of extract_poses. Raises InputError."""
        from ..video import open_video

        with open_video(path, fps=fps, start=start, max_frames=frames, longest=longest) as reader:
            try:
                poses, notes = self._extract(reader, reader.count, **settings)
            except PoseError as error:
                raise PoseError(f"{path}: {error}") from None
            if frames is not None and poses.frames < frames:
                notes = (*notes, f"{path.name} gives {poses.frames} frames, {frames} were asked for")
            return Motion(poses, reader.fps, notes, reader.times)

    def in_picture(self, picture: "np.ndarray", person: int) -> "Extraction":
        """The pose of somebody in a picture, [H, W, 3] uint8 RGB. Raises PoseError when there is nobody."""
        return self._extract([picture], 1, person=person)

    def _extract(self, frames: Iterable["np.ndarray"], count: int | None, **settings) -> "Extraction":
        from ..pose import PoseDetector, extract_poses

        if self._detector is None:
            self._detector = PoseDetector.choose(self.detector, self.places, self.device)

        def show(done: int) -> None:
            if count is None:
                self.report.live(f"{done} frames searched for people")
            else:
                self.report.progress(min(done, count), count, "frames searched for people")

        return extract_poses(self._detector, frames, on_frames=show, **settings)


def add_driving_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where the motion and the picture's pose come from."""
    parser.add_argument(
        "--reference", required=required, type=existing_file, metavar="IMAGE", help="picture of the person"
    )
    parser.add_argument(
        "--driving", required=required, type=existing, metavar="VIDEO|POSES.json",
        help="the motion: a video, a folder of pictures, or POSE_KEYPOINT frames as JSON",
    )  # fmt: skip
    parser.add_argument(
        "--reference-poses", type=existing_file, metavar="POSES.json",
        help="pose of the picture; default: IMAGE's name with .json or _pose.json, else found in it",
    )  # fmt: skip
    parser.add_argument(
        "--driving-fps", type=frame_rate, metavar="FPS", help="take frames of the video at this rate; its speed stays"
    )
    who = "0 is the main one; default: the main one of a video, everybody in a pose file"
    parser.add_argument("--person", type=whole(0), metavar="N", help=f"whose motion: {who}")
    parser.add_argument("--reference-person", default=0, type=whole(0), metavar="N", help="who in the picture (0)")


def add_detector_option(parser: argparse.ArgumentParser, default: str) -> None:
    """What finds poses. default: in words, for the help."""
    parser.add_argument(
        "--detector", choices=DETECTORS, metavar="|".join(DETECTORS),
        help=f"dwpose: as published, after weights download poses; built-in: for drawn performers; {default}",
    )  # fmt: skip


def detector_of(config: "ModelConfig") -> str:
    """What finds poses for this model: its figures are drawn performers, or people, for whom there is DWPose alone."""
    from ..weights import BUILT_IN

    return "auto" if config.name in BUILT_IN else "dwpose"


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """How poses are found in a video; the settings of extract_poses and open_video."""
    parser.add_argument("--person", default=0, type=whole(0), metavar="N", help="0 (default): the main one, 1 the next")
    parser.add_argument("--everyone", action="store_true", help="keep everybody, the chosen person first")
    parser.add_argument("--min-person-score", default=0.3, type=number(0), help="how sure a person must be (0.3)")
    parser.add_argument("--min-score", default=0.3, type=number(0), help="how sure a point must be (0.3)")
    parser.add_argument("--fill-gap", default=8, type=whole(0), metavar="N", help="fill gaps of up to N frames (8)")
    parser.add_argument("--smooth", default=0.5, type=number(0), help="against jitter: 0 off to 1 most (0.5)")
    parser.add_argument("--fps", type=frame_rate, help="take the video at this rate; default: every frame")
    parser.add_argument("--start", default=0.0, type=number(0), metavar="SECONDS", help="where to begin (0)")
    parser.add_argument("--frames", type=whole(1), metavar="N", help="at most N frames")
    parser.add_argument("--longest", default=LONGEST, type=whole(64), metavar="PX",
                        help=f"scale larger frames down to this long side ({LONGEST})")  # fmt: skip


def check_material(args: argparse.Namespace, finder: PoseFinder) -> None:
    """What can be known to be missing before any model is loaded. Raises InputError."""
    if is_pose_file(args.driving):
        if args.driving_fps is not None:
            raise InputError(f"--driving-fps is for videos, and {args.driving} is a pose file; leave it out")
    else:
        finder.check("give --driving POSES.json (POSE_KEYPOINT from any DWPose or OpenPose node)")
    pose_file = reference_pose_file(args.reference, args.reference_poses)
    if pose_file is None:
        beside = " or ".join(path.name for path in _beside(args.reference))
        finder.check(f"give --reference-poses POSES.json, or put {beside} beside the picture")


def read_driving(args: argparse.Namespace, finder: PoseFinder) -> Motion:
    """The driving motion, all of it or its first --frames. Raises InputError."""
    from ..keypoints import Poses

    path, frames = args.driving, args.frames
    if not is_pose_file(path):
        motion = finder.in_video(
            path, fps=args.driving_fps, start=0.0, frames=frames, longest=LONGEST, person=args.person or 0
        )
        rate = f"{float(motion.fps):g} frames a second"
        found = f"poses of {motion.poses.frames} driving frames were found by {finder.name}, at {rate}"
        return motion._replace(notes=(found, *motion.notes))
    poses = Poses.load(path)
    if frames is not None and frames > poses.frames:
        raise PoseError(f"--frames {frames}: {path} has {poses.frames} frames")
    poses = chosen(poses.slice(0, frames), args.person, path)
    if not poses.visible().any():
        raise PoseError(f"{path}: no person in any of its {poses.frames} frames")
    return Motion(poses, None, ())


def read_driving_sound(
    driving: Path, motion: Motion, out: Path, fps: float | Fraction
) -> tuple["np.ndarray | None", tuple[str, ...]]:
    """The driving video's sound for frames of its motion at this rate, float32 [2, n] for write_video, and notes.

    None where there is none or `out` takes none, and, with a note, where it would be out of step with the motion.
    """
    from ..video import carries_sound, read_sound

    if not motion.times or not carries_sound(out):
        return None, ()
    frames, begin = len(motion.times), motion.times[0]
    try:
        sound = read_sound(driving, frames / float(fps), start=begin)
    except VideoError as error:
        return None, (f"{error}; the result is without it",)
    if sound is None:
        return None, ()
    late = max(abs(time - begin - number / float(fps)) for number, time in enumerate(motion.times))
    if late > OUT_OF_STEP:
        why = f"at {float(fps):g} frames a second the motion changes its speed, up to {late:.1f} s against the sound"
        fix = f"--driving-fps {float(fps):g} keeps both"
        return None, (f"the sound of {driving.name} was left out: {why}; {fix}",)
    lost = f"{sound.damaged} packets of the sound of {driving.name} are damaged, and silent in the result"
    return sound.samples, (lost,) if sound.damaged else ()


def read_reference_pose(args: argparse.Namespace, picture: "np.ndarray", finder: PoseFinder) -> "Extraction":
    """The pose of the reference picture: from the given file, one beside the picture, or found. Raises InputError."""
    from ..keypoints import Poses
    from ..pose import Extraction

    path = reference_pose_file(args.reference, args.reference_poses)
    if path is None:
        try:
            found = finder.in_picture(picture, args.reference_person)
        except PoseError as error:
            raise PoseError(f"{args.reference}: {error}") from None
        return Extraction(found.poses, (f"the pose of the picture was found by {finder.name}", *found.notes))
    poses = chosen(Poses.load(path), args.reference_person or None, path)
    if not poses.visible()[:1].any():
        raise FaceError(f"{path}: no person in its first frame, which should be the pose of {args.reference.name}")
    return Extraction(poses, ())


def chosen(poses: "Poses", person: int | None, path: Path) -> "Poses":
    """One person of a pose file alone; None: everybody. Raises PoseError."""
    if person is None:
        return poses
    try:
        return poses.person(person)
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None


def is_pose_file(path: Path) -> bool:
    """Whether a path is taken for poses and not for a video."""
    return path.suffix.lower() == ".json" and not path.is_dir()


def reference_pose_file(picture: Path, given: Path | None) -> Path | None:
    """The given file, or the one beside the picture."""
    return given or next((candidate for candidate in _beside(picture) if candidate.is_file()), None)


def _beside(picture: Path) -> tuple[Path, Path]:
    return picture.with_suffix(".json"), picture.with_name(f"{picture.stem}_pose.json")
