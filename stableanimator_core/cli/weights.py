"""`weights list`, `download` and `verify`: the published files, what is here, and whether it is whole."""

import argparse
from typing import TYPE_CHECKING

from ..errors import InputError, WeightsError
from .arguments import add_json, add_places, places_of
from .report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from ..weights.places import Places
    from ..weights.registry import WeightFile

CHECKSUM = {"matches": "ok, its checksum too", "unknown": "its structure is whole; no checksum to compare with"}


def register(commands) -> None:
    """Add the commands to the parser."""
    group = commands.add_parser("weights", help="list, download and verify the published weights")
    actions = group.add_subparsers(metavar="ACTION", required=True)

    parser = actions.add_parser("list", help="what there is, what is here, and how much is still to download")
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=list_command)

    parser = actions.add_parser("download", help="fetch what is missing; goes on where it was interrupted")
    parser.add_argument("what", nargs="*", default=["v1"], help="v1 (default), poses, faces, all, or names of files")
    add_places(parser)
    parser.add_argument("--revision", default="main", help="of the hub repository: branch, tag or commit (main)")
    parser.add_argument("--endpoint", metavar="URL", help="a mirror of the hub; default: HF_ENDPOINT, else the hub")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    add_json(parser)
    parser.set_defaults(run=download_command)

    parser = actions.add_parser("verify", help="look whether the files that are here are whole")
    parser.add_argument("what", nargs="*", default=["all"], help="all (default), v1, poses, faces, or names of files")
    add_places(parser)
    add_json(parser)
    parser.set_defaults(run=verify_command)


def list_command(args: argparse.Namespace, report: Report) -> dict:
    """What there is and where it lies; nothing is asked of the network."""
    from ..weights.registry import FILES, GROUPS, size_text

    places = places_of(args)
    files = {key: describe_file(file, places) for key, file in FILES.items()}
    groups = {}
    for name, keys in GROUPS.items():
        missing = [key for key in keys if files[key]["found"] is None]
        to_download = sum(FILES[key].size for key in missing)
        groups[name] = {"files": keys, "missing": missing, "to_download_bytes": to_download}
        report.line(f"{name}: {f'{size_text(to_download)} to download' if missing else 'complete'}")
        for key in keys:
            _print_file(files[key], report)
    missing = [key for group in groups.values() for key in group["missing"]]
    command = places.fetch_command(missing) if missing else None
    for note in places.notes:
        report.note(f"note: {note}")
    total = sum(group["to_download_bytes"] for group in groups.values())
    report.line(f"{size_text(total)} to download: {command}" if command else "everything is here")
    return {
        "models": places.models,
        "files": list(files.values()),
        "groups": groups,
        "to_download_bytes": total,
        "command": command,
        "notes": places.notes,
    }


def describe_file(file: "WeightFile", places: "Places") -> dict:
    """One file for JSON: what it is, where it belongs, where it was found and of which revision."""
    from ..weights.verify import find_record

    found, belongs = places.find(file.key), places.models[0] / file.path
    known = (find_record(path, places) for path in (found, belongs) if path and path.is_file())  # also of a conversion
    record = next(filter(None, known), {})
    return {
        "key": file.key,
        "file": file.path,
        "purpose": file.purpose,
        "licence": file.licence,
        "size": found.stat().st_size if found else file.size,
        "found": found,
        "belongs": belongs,
        "page": file.page,
        "revision": record.get("revision"),
        "sha256": record.get("sha256"),
    }


def download_command(args: argparse.Namespace, report: Report) -> dict:
    """Fetch what is missing of the files that were asked for."""
    from ..weights.download import download, notes_of, plan_download
    from ..weights.registry import size_text

    places = places_of(args)
    asked = {"revision": args.revision, "endpoint": args.endpoint}
    if args.dry_run:
        items = plan_download(files_named(args.what), places, **asked)
        notes = [note for item in items for note in notes_of(item)]
    else:

        def on_progress(file: "WeightFile", done: int, total: int) -> None:
            report.progress(_megabytes(done), _megabytes(total), f"MB of {file.path}")

        items, _, notes = download(files_named(args.what), places, **asked, on_progress=on_progress)
    for item in items:
        if item.there:
            report.line(f"{item.file.key}: {item.there} was here already")
        else:
            done = f"to fetch, {size_text(item.remaining)}" if args.dry_run else f"{size_text(item.size)} fetched"
            report.line(f"{item.file.key}: {done}: {item.target}")
            report.line(f"    licence: {item.file.licence}")
    for note in notes:
        report.note(f"note: {note}")
    files = [
        {
            "key": item.file.key,
            "path": item.there or item.target,
            "fetched": item.there is None and not args.dry_run,
            "size": item.size,
            "revision": item.commit,
            "sha256": item.sha256,
            "licence": item.file.licence,
        }
        for item in items
    ]
    return {
        "files": files,
        "revision": items[0].commit,
        "to_download_bytes": sum(item.size for item in items if item.there is None) if args.dry_run else 0,
        "dry_run": args.dry_run,
        "notes": notes,
    }


def verify_command(args: argparse.Namespace, report: Report) -> dict:
    """Check every file that is here. Raises WeightsError, in one line, when any is bad."""
    from ..weights.registry import FILES
    from ..weights.verify import Verdict, verify

    places = places_of(args)
    missing = []
    verdicts: list[tuple[str, Verdict]] = []
    for key in files_named(args.what):
        found = (places.find(key), places.models[0] / FILES[key].path)  # a conversion, and what it was made from
        paths = list(dict.fromkeys(path for path in found if path and path.is_file()))
        if not paths:
            missing.append(key)
            report.line(f"{key}: missing")
        for path in paths:

            def on_progress(done: int, total: int, path: "Path" = path) -> None:
                report.progress(_megabytes(done), _megabytes(total), f"MB read of {path.name}")

            verdict = verify(key, path, places, on_progress)
            verdicts.append((key, verdict))
            report.line(f"{key}: {CHECKSUM[verdict.checksum] if verdict.ok else 'BAD'}: {path}")
            if verdict.problem:
                report.line(f"    {verdict.problem}")
    bad = [(key, verdict.path) for key, verdict in verdicts if not verdict.ok]
    if bad:
        names, files = " ".join(key for key, _ in bad), ", ".join(str(path) for _, path in bad)
        command = places.fetch_command([key for key, _ in bad])
        raise WeightsError(f"{len(bad)} of {len(verdicts)} files are bad ({names}): delete {files}, then: {command}")
    return {"files": [{"key": key, **verdict._asdict()} for key, verdict in verdicts], "missing": missing}


def files_named(names: list[str]) -> list[str]:
    """Registry keys of group and file names. Raises InputError naming what exists."""
    from ..weights.registry import DOWNLOADS, FILES

    keys = []
    for name in names:
        if name not in (*DOWNLOADS, *FILES):
            raise InputError(f"no weights called '{name}'; there are {', '.join((*DOWNLOADS, *FILES))}")
        keys += DOWNLOADS.get(name, (name,))
    return list(dict.fromkeys(keys))


def _megabytes(size: int) -> int:
    """Rounded up, so that the last word of a small file is 1/1."""
    from ..weights.registry import MB

    return -(-size // MB)


def _print_file(file: dict, report: Report) -> None:
    from ..weights.registry import size_text

    revision = f" (revision {file['revision'][:12]})" if file["revision"] else ""
    state = f"{file['found']}{revision}" if file["found"] else f"MISSING, belongs at {file['belongs']}"
    report.line(f"  {file['key']:18} {size_text(file['size']):>9}  {state}")
    report.line(f"  {'':18} {'':9}  {file['purpose']}; {file['licence']}")
    if not file["found"]:
        report.line(f"  {'':18} {'':9}  {file['page']}")
