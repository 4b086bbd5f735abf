"""A small hub on this machine: speaks as much of the Hugging Face hub's protocol as a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Request(NamedTuple):
    """What the server was asked for and sent."""

    path: str
    range: str | None
    sent: int  # bytes of the body


class Hub:
    """Its files, what it does wrong on purpose, and what it was asked for."""

    def __init__(self, repo: str):
        self.repo = repo
        self.files: dict[str, bytes] = {}
        self.sums: dict[str, str] = {}  # stated instead of the true SHA-256
        self.cut: dict[str, int] = {}  # close the connection after so many bytes of this file, once
        self.status: dict[str, int] = {}  # answer with this status; "": to every request
        self.requests: list[Request] = []
        self.endpoint = ""

    def asked_for(self, path: str) -> list[Request]:
        """The requests for one file's content."""
        return [request for request in self.requests if request.path.endswith(f"/resolve/{COMMIT}/{path}")]

    def describe(self) -> dict:
        """The answer to /api/models/REPO/revision/REVISION?blobs=true."""
        siblings = []
        for path, data in self.files.items():
            sha256 = self.sums.get(path) or hashlib.sha256(data).hexdigest()
            lfs = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append({"rfilename": path, "size": len(data), "blobId": "0" * 40, "lfs": lfs})
        return {"_id": "0" * 24, "id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = self.path.partition("?")[0]
            name = path.partition(f"/{hub.repo}/resolve/{COMMIT}/")[2]
            status = hub.status.get("") or hub.status.get(name)
            if status:
                self.answer(b"", status)
            elif re.fullmatch(rf"/api/models/{hub.repo}/revision/(main|{COMMIT})", path):
                self.answer(json.dumps(hub.describe()).encode())
            elif name in hub.files:
                self.send_file(name)
            else:
                code = "RevisionNotFound" if path.startswith(f"/api/models/{hub.repo}/") else "EntryNotFound"
                self.answer(b"", 404, {"X-Error-Code": code})

        def send_file(self, name: str) -> None:
            data, wanted = hub.files[name], self.headers.get("Range")
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            headers = {"ETag": f'"{hub.describe()["sha"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(data[start:], 206 if wanted else 200, headers, cut=hub.cut.pop(name, None))

        def answer(self, body: bytes, status: int = 200, headers: dict | None = None, cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            hub.requests.append(Request(self.path, self.headers.get("Range"), len(body[:cut])))
            self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *request: None  # a client that leaves early is part of the tests
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
