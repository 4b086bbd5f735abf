"""Argument types and checks shared by the commands; every error names the value and what to give instead."""

import argparse
import logging
import math
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..training.misaligned import Shapes
    from ..weights.places import Places


def whole(low: int, high: int | None = None):
    """An argparse type: a whole number of `low` or more, at most `high`."""
    limits = f"of {low} or more" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,20}", text) else low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number {limits}")
        return value

    return parse


SEED = whole(0, 2**63 - 1)
MOST_CLIPS = 10_000  # of one seed: as far as its clips' own seeds are from the next one's
CLIPS_SEED = whole(0, 2**63 // MOST_CLIPS - 1)  # every clip's own seed has 63 bits
FRAME_RATES = (0.1, 240.0)  # frames per second
ALIGN_METHODS = (  # without torch
    "learned (default), svd, affine (also stretches, for squeezed videos), homography (also takes out perspective, for "
    "drivers filmed from above, below or close up), v1 (the published rule, to compare with) or none"
)
ALIGN_FITS = "clip (default): one transform; smooth: follows a moving camera; frames: pins every frame by itself"
PROPORTIONS = "give the motion the picture's bone lengths and shape of the face, too: for bodies and faces that differ"


def existing(text: str) -> Path:
    """An argparse type: a file or folder that is there. So it is said at once, and not when torch is imported."""
    path = Path(text)
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from None
    if not there:
        raise argparse.ArgumentTypeError(f"{path} does not exist; check the path")
    return path


def existing_file(text: str) -> Path:
    """An argparse type: a file that is there."""
    path = existing(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file")
    return path


def number(low: float):
    """An argparse type: a finite number of `low` or more."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= low):
            raise argparse.ArgumentTypeError(f"{text} is not a number of {low:g} or more")
        return value

    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = number(0)(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def frame_rate(text: str) -> float:
    """An argparse type: frames per second that videos can have."""
    low, high = FRAME_RATES
    value = number(0)(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} is not a frame rate from {low:g} to {high:g}")
    return value


def size(text: str) -> tuple[int, int]:
    """An argparse type: WIDTHxHEIGHT in pixels."""
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text)
    if not match or min(map(int, match.groups())) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a size; write WIDTHxHEIGHT in pixels, for example 512x512")
    return int(match[1]), int(match[2])


def step_range(text: str) -> tuple[int, int]:
    """An argparse type: FIRST:LAST, whole numbers from 0."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not FIRST:LAST, two denoising steps counted from 0, as in 8:17")
    return int(match[1]), int(match[2])


def guidance(text: str) -> tuple[float, float]:
    """An argparse type: one guidance scale for all frames, or FIRST:LAST frame."""
    first, _, last = text.partition(":")
    return number(1)(first), number(1)(last or first)


def align_method(text: str) -> str:
    """An argparse type: one of alignment.METHODS."""
    from ..alignment import METHODS  # here: it needs torch, which `doctor` and --help may lack

    if text not in METHODS:
        raise argparse.ArgumentTypeError(f"alignment '{text}' is unknown; use {' or '.join(METHODS)}")
    return text


def align_fit(text: str) -> str:
    """An argparse type: one of alignment.FITS."""
    from ..alignment import FITS

    if text not in FITS:
        raise argparse.ArgumentTypeError(f"alignment fit '{text}' is unknown; use {' or '.join(FITS)}")
    return text


def add_json(parser: argparse.ArgumentParser) -> None:
    """The flag that every command has."""
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")


def add_places(parser: argparse.ArgumentParser) -> None:
    """The option of every command that reads published weights."""
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of the published weights (Animation/, SVD/, DWPose/, antelopev2/); default: "
        "STABLEANIMATOR_MODELS, else ComfyUI's models/stableanimator, else a folder in the user's cache",
    )


def places_of(args: argparse.Namespace) -> "Places":
    """Where --models says that weights lie. Raises WeightsError."""
    from ..weights.places import Places

    return Places.default(args.models)


def shapes_of(path: Path | None, split: str) -> "Shapes":
    """Body shapes of a file's split, train or val, or of the one that it holds; built-in adults without a file.

    Raises InputError.
    """
    from ..training.misaligned import Shapes

    if path is None:
        return Shapes.adults()
    held = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    other = "train" if split == "val" else "val"
    return Shapes.load(path, other if f"{other}.npy" in held and f"{split}.npy" not in held else split)


def prepare_folder(folder: Path, default: Path) -> Path:
    """Make the output folder: the default one with its parents, another only in a folder that exists.

    Raises InputError.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another --out")
    if folder != default and not folder.parent.is_dir():
        raise InputError(f"output folder {folder.parent} does not exist; create it or choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); choose another --out") from None
    return folder


def existing_folder(path: Path, option: str = "--out") -> Path:
    """The folder into which a file of this path goes exists; returns the path. Raises InputError."""
    if not path.parent.is_dir():
        raise InputError(f"output folder {path.parent} does not exist; create it or choose another {option}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; choose another {option}")
    return path


def given_of(args: argparse.Namespace, *names: str) -> dict:
    """The options of these names that the user gave."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def first_process() -> bool:
    """Whether this is the first of the processes that accelerate launch has started: the one that answers."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def start_log() -> None:
    """On stderr the first process tells how a training goes, the others what goes wrong."""
    level = logging.INFO if first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
