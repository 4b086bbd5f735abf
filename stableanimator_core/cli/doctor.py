"""`doctor`: what is installed, found and missing, what would spoil a job, and the exact step that mends it."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import InputError
from ..files import PROGRAM
from ..preflight import Finding, Installation, check_installation, describe_system, distinct
from .arguments import add_json, add_places, places_of, size
from .report import Report

if TYPE_CHECKING:
    from ..evaluation.plan import MemoryPlan
    from ..weights import Places

Result = TypeVar("Result")


def register(commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="what is installed, found, missing, and the exact fix")
    job = parser.add_argument_group("a job to look at before it is started")
    job.add_argument("--reference", type=Path, metavar="IMAGE", help="picture of the person")
    job.add_argument(
        "--reference-poses", type=Path, metavar="POSES.json", help="default: IMAGE's name with .json or _pose.json"
    )
    job.add_argument("--driving", type=Path, metavar="VIDEO|POSES.json", help="the motion")
    job.add_argument("--model", help="mini (default), v1 or a model folder")
    job.add_argument("--size", type=size, metavar="WxH")
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=doctor_command, frames=None, person=None, reference_person=0)


def doctor_command(args: argparse.Namespace, report: Report) -> dict:
    """Examine this installation, and the job if one is given. A finding is no failure: the exit status is 0, `ok`
    tells."""
    places = _places(args)
    installation = check_installation(places)
    asked = any((args.reference, args.reference_poses, args.driving, args.model, args.size))
    job = examine_job(args, places, report) if asked else []
    plans = plan_for(installation.device)
    findings = distinct((*installation.findings, *job))
    named = {
        f"{level}s": [finding.record() for finding in findings if finding.level == level]
        for level in ("problem", "note")
    }
    result = {
        "ok": not named["problems"],
        **describe_system(),
        "device": installation.device,
        "memory_gib": installation.memory_gib,
        "memory_plans": [{"size": list(size), **plan.record()} for size, plan in plans.items()],
        "packages": installation.packages,
        "models": installation.models,
        "weights": installation.weights,
        "weights_folders": places.models if places else (),
        **named,
    }
    _print(result, installation, findings, plans, report)
    return result


def plan_for(device: dict) -> "dict[tuple[int, int], MemoryPlan]":
    """What the published model takes of this machine's card, by size, as plan_published says; nothing where torch can
    use no GPU.

    device: of check_installation.
    """
    if "gpu" not in device:
        return {}
    try:
        import torch

        from ..evaluation.plan import plan_published
    except Exception:  # a broken package raises anything; check_installation has named it
        return {}
    return plan_published(device["gpu_memory_gib"], torch.device("cuda"))


def examine_job(args: argparse.Namespace, places: "Places | None", report: Report) -> list[Finding]:
    """What would spoil the job that the options describe; a file that cannot be read is a problem of its own."""
    findings: list[Finding] = []

    def attempt(read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except InputError as error:
            findings.append(Finding.of(error))
        return None

    try:
        from ..face import FaceDetector
        from ..preflight import check_job
        from ..video import read_image
        from ..weights import V1_CONFIG, Places, config_of
        from .material import PoseFinder, detector_of, is_pose_file, read_driving, read_reference_pose
    except Exception as error:  # a broken package raises anything; check_installation has named it
        return [Finding("problem", f"the job cannot be examined ({error})", "first mend what is named above")]
    places = places or Places.default()
    config = attempt(lambda: config_of(args.model or "mini"))
    reference = attempt(lambda: read_image(args.reference)) if args.reference else None
    pose, driving, detector = None, None, None
    finder = PoseFinder(places, "auto", report, "dwpose" if config is None else detector_of(config))
    if reference is not None:
        pose = attempt(lambda: read_reference_pose(args, reference, finder).poses)
    if args.driving and is_pose_file(args.driving):
        driving = attempt(lambda: read_driving(args, finder).poses)
    elif args.driving and not args.driving.exists():
        findings.append(Finding("problem", f"{args.driving} does not exist", "check --driving"))
    elif args.driving:
        attempt(lambda: finder.check("give --driving POSES.json"))
        what = f"{args.driving}: a video is not examined until its poses are found"
        fix = f'{PROGRAM} poses extract --video "{args.driving}" --out driving.json'
        findings.append(Finding("note", what, fix))
    if config is None:
        return findings
    if config is V1_CONFIG and args.model != V1_CONFIG.name:  # a folder laid out like the published weights
        places = replace(places, models=(Path(args.model),))
    if reference is not None and config.face_crop == "arcface" and places.find("face_detector"):
        detector = attempt(lambda: FaceDetector.load(places))
    given = {"reference": reference, "reference_pose": pose, "driving": driving, "size": args.size}
    return findings + check_job(config, **given, detector=detector, places=places)


def _places(args: argparse.Namespace) -> "Places | None":
    """Where weights lie, or None when the package that knows cannot be imported (check_installation names it)."""
    try:
        return places_of(args)
    except InputError:
        raise
    except Exception:  # a broken package raises anything
        return None


def _print(
    result: dict, installation: Installation, findings: Sequence[Finding],
    plans: "dict[tuple[int, int], MemoryPlan]", report: Report,
) -> None:  # fmt: skip
    device = result["device"]
    report.line(f"StableAnimator++ {result['version']}, Python {result['python']}, {result['platform']}")
    computes = device["name"] or "nothing: torch is missing"
    if "gpu" in device:
        computes += f" ({device['gpu']}, {device['gpu_memory_free_gib']} of {device['gpu_memory_gib']} GiB free)"
    memory = f", {result['memory_gib']} GiB of main memory" if result["memory_gib"] else ""
    report.line(f"computes on {computes}{memory}")
    packages = (f"{name} {version or 'MISSING'}" for name, version in result["packages"].items())
    report.line(f"packages: {', '.join(packages)}")
    for name, model in installation.models.items():
        report.line(f"model {name}: {'complete' if model['ok'] else 'NOT USABLE'} in {model['folder']}")
    for name, group in installation.weights.items():
        count = f"{len(group['found'])} of {len(group['found']) + len(group['missing'])} files are here"
        report.line(f"weights {name}: {'complete' if group['complete'] else count}")
    if "gpu" not in device:
        report.line("memory of a GPU: not planned, none is here that torch can use")
    for (width, height), plan in plans.items():
        report.line(f"model v1 at {width}x{height}: {_needed(plan)}")
    for finding in sorted(findings, key=lambda finding: finding.level):  # problems last, where one looks
        for line in finding.lines:
            report.line(line)
    if result["ok"]:
        report.line(f"everything that is needed is here; try: {PROGRAM} demo")


def _needed(plan: "MemoryPlan") -> str:
    """A plan in one line."""
    from ..evaluation.plan import describe_plan, remedy

    told = f"about {plan.peak:.1f} of the card's {plan.card:.1f} GiB"
    if not plan.fits:
        return f"{told} at least: too much; {remedy(plan)}"
    return f"{told}{''.join(f'; {piece}' for piece in describe_plan(plan))}"
