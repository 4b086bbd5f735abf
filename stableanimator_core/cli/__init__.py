"""The command line: parse, run one command, answer in one line when something is wrong.

Exit status: 0 done, 2 the user's input is wrong, 1 a fault of ours, 130 cancelled. With --json, stdout carries
exactly one JSON object, {"error": ..., "status": ...} when the command failed; everything else goes to stderr.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout

from .. import __version__
from ..errors import GRACE, InputError
from . import animate, bench, demo, doctor, evaluate, experiments, poses, train, weights
from .arguments import first_process
from .report import Report, print_json

PROGRAM = "stableanimator_core"
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's newer name and the older one
COMMANDS = (animate, demo, doctor, weights, poses, evaluate, experiments, train, bench)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors of one line."""

    def error(self, message: str):
        if not first_process():
            time.sleep(GRACE)  # the first process says it and ends; then the launcher ends this one
            raise SystemExit(2)
        command = self.prog.removeprefix(PROGRAM).strip()
        raise InputError(f"{command + ': ' if command else ''}{message} (--help explains)")


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(
        prog=PROGRAM,
        description="StableAnimator++: one picture of a person and a driving motion become a video of that person.",
    )
    parser.add_argument("--version", action="version", version=f"StableAnimator++ {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] != ["train"]:  # training was never tried with them
        let_segments_grow()
    stdout, as_json = sys.stdout, "--json" in argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console without block characters shows "?" instead of failing
            stream.reconfigure(errors="replace")
    try:
        args = build_parser().parse_args(argv)
        with redirect_stdout(sys.stderr if as_json else stdout):
            result = args.run(args, Report(quiet=as_json))
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)
    except InputError as error:
        return _failed(" ".join(str(error).split()), 2, as_json)
    except KeyboardInterrupt:
        return _failed("cancelled", 130, as_json)
    except Exception as error:  # the last resort: a fault of ours must end in one line too
        return _failed(_describe_fault(error), 1, as_json)
    if as_json:
        print_json(result)
    return 0


def let_segments_grow() -> None:
    """Have torch take a GPU's memory in segments that grow and shrink, unless the user has set its allocator.

    In segments of fixed sizes a third of a small card is lost in gaps once networks have taken turns and graphs were
    recorded. For a process in which CUDA is not in use yet; torch can do it on Linux alone.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR):
        os.environ.update(dict.fromkeys(ALLOCATOR, "expandable_segments:True"))


def _failed(message: str, status: int, as_json: bool) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": message, "status": status})
    return status


def _describe_fault(error: Exception) -> str:
    """One line about an unexpected exception; the traceback goes to a log file, or to stderr when debugging."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU ran out of memory ({what}); try a smaller --size or --hjb-iterations 0"
    if os.environ.get("STABLEANIMATOR_DEBUG") == "1":
        traceback.print_exc()
        return f"a fault of ours: {what}"
    with tempfile.NamedTemporaryFile(
        "w", prefix="stableanimator-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        traceback.print_exc(file=log)
    return f"a fault of ours: {what}; please report it with {log.name} (STABLEANIMATOR_DEBUG=1 shows the traceback)"
