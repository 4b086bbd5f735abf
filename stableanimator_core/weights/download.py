"""Fetch published weights from the hub: only what is needed, resumed where it stopped, checked before it counts.

huggingface_hub lists the files (commit, sizes, checksums), knows tokens, mirrors and proxies, and streams. The rest
is done here, because its own downloads start anew after an interruption since version 1.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import WeightsError
from ..files import is_lfs_pointer
from .places import Places
from .registry import FILES, MB, WeightFile, size_text
from .verify import file_sha256, find_record, write_record

SPARE = 200 * MB  # bytes that stay free on the disk
LIST_TIMEOUT = 30  # seconds
MIRROR = "behind a firewall, name a mirror with --endpoint or HF_ENDPOINT"
TRANSPORTS = {"requests": "RequestException", "httpx": "HTTPError", "httpx2": "HTTPError"}  # by huggingface_hub's age

Progress = Callable[[WeightFile, int, int], None]  # file, bytes done, bytes in all; may raise to cancel


class Item(NamedTuple):
    """One file that was asked for, and what is to be done about it."""

    file: WeightFile
    target: Path
    remote: str  # path in the repository at this commit
    size: int  # bytes, the hub's
    sha256: str | None  # the hub's, or the registry's where the hub states none
    commit: str
    there: Path | None  # already complete: nothing to fetch
    part: Path  # what was fetched so far

    @property
    def aside(self) -> Path:
        """Where another file of the target's name goes: nothing of the user's is lost."""
        return self.target.with_name(f"{self.target.name}.before")

    @property
    def remaining(self) -> int:
        """Bytes still to fetch."""
        return 0 if self.there else max(self.size - _size(self.part), 0)


class Download(NamedTuple):
    """What a download did."""

    items: tuple[Item, ...]
    paths: dict[str, Path]  # key -> file
    notes: tuple[str, ...]


def plan_download(
    keys: Sequence[str], places: Places, *, revision: str = "main", endpoint: str | None = None
) -> tuple[Item, ...]:
    """What would be fetched for these registry keys, after asking the hub. Raises WeightsError."""
    commits: dict[str, tuple[str, dict[str, Any]]] = {}
    items = []
    for key in dict.fromkeys(keys):
        file = FILES[key]
        if file.repo not in commits:
            commits[file.repo] = _list_repository(file.repo, revision, endpoint)
        commit, listing = commits[file.repo]
        remote = _locate(file, listing, commit)
        sibling = listing[remote]
        sha256 = sibling.lfs.sha256 if sibling.lfs else file.sha256
        target = places.models[0] / file.path
        part = target.with_name(f"{target.name}.{(sha256 or commit)[:12]}.part")
        size = sibling.size or file.size
        there = _complete(key, target, places, size, sha256)
        items.append(Item(file, target, remote, size, sha256, commit, there, part))
    return tuple(items)


def download(
    keys: Sequence[str],
    places: Places,
    *,
    revision: str = "main",
    endpoint: str | None = None,
    on_progress: Progress | None = None,
) -> Download:
    """Fetch these registry keys into the first models folder; what is complete anywhere in `places` is left alone.

    An interrupted download leaves a .part beside its target and goes on from there. A file counts only when its
    SHA-256 is the hub's; its revision is then recorded in revisions.json. endpoint: None is HF_ENDPOINT or the hub.
    Raises WeightsError in one line: no huggingface_hub, network, permission, file, space, or a wrong checksum.
    """
    items = plan_download(keys, places, revision=revision, endpoint=endpoint)
    _check_space(items, places.models[0])
    notes = [note for item in items for note in notes_of(item)]
    paths = {}
    for item in items:
        if item.there is None:
            _fetch(item, endpoint, on_progress)
            _record(item, places)
        elif item.there == item.target and find_record(item.target, places) is None:
            _record(item, places)
        paths[item.file.key] = item.there or item.target
    return Download(items, paths, tuple(notes))


def _hub():
    """The huggingface_hub package. Raises WeightsError when it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        fix = f'"{sys.executable}" -m pip install huggingface_hub'
        raise WeightsError(f"downloads need huggingface_hub ({error}); run: {fix}") from error
    return huggingface_hub


def _list_repository(repo: str, revision: str, endpoint: str | None) -> tuple[str, dict[str, Any]]:
    """Commit hash of a revision, and its files (size, lfs.sha256) by path."""
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        raise WeightsError(
            "HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or copy the files into place by hand"
        )
    with _explained(f"{repo} at revision {revision}", endpoint):
        try:
            info = hub.HfApi(endpoint=endpoint).model_info(
                repo, revision=revision, files_metadata=True, timeout=LIST_TIMEOUT
            )
        except (ValueError, KeyError, TypeError) as error:  # no JSON, or not the hub's
            raise WeightsError(
                f"{_address(endpoint)} does not answer like a Hugging Face hub; check --endpoint and HF_ENDPOINT"
            ) from error
    return info.sha, {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _locate(file: WeightFile, listing: dict[str, Any], commit: str) -> str:
    """Path of a file in the repository, also where its folder was moved. Raises WeightsError."""
    if file.remote in listing:
        return file.remote
    for depth in (2, 1):  # antelopev2/x.onnx below any folder; else a file name that occurs once
        end = file.remote.split("/")[-depth:]
        moved = [path for path in listing if path.split("/")[-depth:] == end]
        if len(moved) == 1:
            return moved[0]
    raise WeightsError(
        f"{file.repo} at {commit[:12]} has no {file.remote} and no single {file.remote.rsplit('/')[-1]}; "
        "give another --revision"
    )


def _complete(key: str, target: Path, places: Places, size: int, sha256: str | None) -> Path | None:
    """Where this file already is, or None when it must be fetched. Files of other spellings are taken as they are."""
    if not target.is_file() or is_lfs_pointer(target):
        return places.find(key)
    if target.stat().st_size != size:
        return None
    record = find_record(target, places)
    known = record["sha256"] if record else None
    return target if sha256 is None or (known or file_sha256(target)) == sha256 else None


def notes_of(item: Item) -> Iterator[str]:
    """What the user should know before this file is fetched."""
    if item.there is None and _is_other_file(item.target):
        yield f"{item.target} is not the hub's file (another revision, your own, or damaged): kept as {item.aside.name}"
    if item.file.sha256 and item.sha256 != item.file.sha256:
        yield f"{item.remote}: the hub has a newer file than this version knows; it is checked against the hub's sum"


def _is_other_file(target: Path) -> bool:
    """Whether something is in a file's place that may be worth keeping."""
    return target.exists() and not is_lfs_pointer(target)


def _check_space(items: Sequence[Item], folder: Path) -> None:
    needed = sum(item.remaining for item in items)
    existing = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
    free = shutil.disk_usage(existing).free
    if needed and free < needed + SPARE:
        raise WeightsError(
            f"{folder}: {size_text(needed)} are still to fetch and {size_text(free)} are free; make room, or choose "
            "another folder with --models"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(item: Item, endpoint: str | None, on_progress: Progress | None) -> None:
    """Fetch the rest of one file, check it and move it to its place."""
    hub = _hub()
    url = hub.hf_hub_url(item.file.repo, item.remote, revision=item.commit, endpoint=endpoint)
    headers = hub.utils.build_hf_headers(library_name="stableanimator")
    headers["Accept-Encoding"] = "identity"  # some mirrors ignore a Range when they may compress

    def tell_length(done: int) -> None:
        if on_progress is not None:
            on_progress(item.file, done, item.size)

    with _explained(f"{item.file.repo}/{item.remote}", endpoint, item):
        item.target.parent.mkdir(parents=True, exist_ok=True)
        if _size(item.part) > item.size:
            item.part.unlink()
        with item.part.open("ab") as file, _without_bars(hub):
            hub.file_download.http_get(
                url,
                _Told(file, tell_length),
                resume_size=file.tell(),
                headers=headers,
                expected_size=item.size,
            )
        # The sum of gigabytes takes a while: it can be cancelled like the download.
        if item.sha256 and file_sha256(item.part, lambda done, total: tell_length(total)) != item.sha256:
            item.part.unlink()
            raise WeightsError(
                f"{item.remote}: what arrived does not have the hub's checksum and was removed; run the command again"
            )
        if _is_other_file(item.target):
            os.replace(item.target, item.aside)
        os.replace(item.part, item.target)
        for leftover in item.target.parent.glob(f"{item.target.name}.*.part"):
            leftover.unlink()


class _Told:
    """A file that tells its length whenever it grew."""

    def __init__(self, file: BinaryIO, tell_length: Callable[[int], None]):
        self._file = file
        self._tell_length = tell_length

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._tell_length(self._file.tell())
        return written

    def __getattr__(self, name: str):
        return getattr(self._file, name)


@contextmanager
def _without_bars(hub) -> Iterator[None]:
    """Progress is on_progress's: the hub's own bars stay away."""
    name = "huggingface_hub.http_get"
    shown = not hub.utils.are_progress_bars_disabled(name)
    transfer = getattr(hub.constants, "HF_HUB_ENABLE_HF_TRANSFER", False)
    hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False  # it writes past our progress and cannot resume
    if shown:
        hub.utils.disable_progress_bars(name)
    try:
        yield
    finally:
        hub.constants.HF_HUB_ENABLE_HF_TRANSFER = transfer
        if shown:
            hub.utils.enable_progress_bars(name)


def _record(item: Item, places: Places) -> None:
    record = {
        "repo": item.file.repo,
        "remote": item.remote,
        "revision": item.commit,
        "size": item.size,
        "sha256": item.sha256 or file_sha256(item.target),
    }
    write_record(places.models[0], item.file.path, record)


def _address(endpoint: str | None) -> str:
    return endpoint or _hub().constants.ENDPOINT


@contextmanager
def _explained(what: str, endpoint: str | None, item: Item | None = None) -> Iterator[None]:
    """Turn what the hub, the network or the disk raise into one line that says what to do."""
    hub = _hub()
    modules = ((sys.modules.get(name), error) for name, error in TRANSPORTS.items())
    network = tuple(getattr(module, error) for module, error in modules if module)
    again = "run the command again, it goes on where it stopped" if item else "run the command again"
    try:
        yield
    except hub.errors.HfHubHTTPError as error:
        raise WeightsError(_explain_status(error.response.status_code, what, endpoint, again)) from error
    except network as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise WeightsError(f"no connection to {_address(endpoint)} for {what} ({reason}); {again}; {MIRROR}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WeightsError(f"the disk is full while fetching {what}; make room and {again}") from error
        if error.errno is None:  # http_get's word for a stream that ended early
            raise WeightsError(f"{what} ended early; {again}") from error
        raise WeightsError(
            f"cannot write {error.filename or what} ({error.strerror}); choose another --models"
        ) from error


def _explain_status(status: int, what: str, endpoint: str | None, again: str) -> str:
    advice = {
        401: "there is no such repository, or it asks who you are: set HF_TOKEN to your access token",
        403: "access is refused: accept its terms on the web page and set HF_TOKEN to your access token",
        404: "there is no such repository, revision or file: check --revision, --endpoint and HF_ENDPOINT",
        416: "the part fetched so far does not fit: delete the .part file and run the command again",
        429: f"too many requests: wait a few minutes and {again}",
    }
    fallback = f"the server has a problem: later, {again}; {MIRROR}"
    return f"{_address(endpoint)} answered {status} for {what}; {advice.get(status, fallback)}"
