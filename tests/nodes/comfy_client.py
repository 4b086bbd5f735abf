"""Talks to a ComfyUI server as its own page does: prompts over HTTP, progress over the websocket."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from websocket import WebSocket

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PREVIEWS = 1, 4  # binary websocket messages
PAGE_ONLY = {"Note", "MarkdownNote"}  # node types that exist in the page alone


@dataclass
class Run:
    """What one prompt did."""

    prompt_id: str
    events: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)

    def of(self, kind: str) -> list[dict]:
        """The data of every event of a kind, in order."""
        return [data for name, data in self.events if name == kind]

    @property
    def notes(self) -> list[str]:
        """Every line that nodes said below their widgets, live and in the end."""
        texts = [text for data in self.of("stableanimator.text") for text in (data["status"], data["text"]) if text]
        texts += [text for data in self.of("executed") for text in (data["output"] or {}).get("text", ())]
        return list(dict.fromkeys(line for text in texts for line in text.split("\n")))

    @property
    def error(self) -> dict | None:
        """Data of execution_error, when the run failed."""
        return next(iter(self.of("execution_error")), None)

    @property
    def succeeded(self) -> bool:
        return bool(self.of("execution_success"))


@dataclass
class ComfyServer:
    """A running server and where it writes."""

    address: str
    process: subprocess.Popen
    base: Path
    log: Path

    def wait_until_up(self, seconds: float) -> None:
        """Return once it answers. Raises RuntimeError with the end of its log when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not start; the end of its log:\n{self.log.read_text()[-4000:]}")

    def get(self, path: str) -> Any:
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return answer.read().decode()

    def post(self, path: str, data: dict) -> tuple[int, Any]:
        """Status and decoded body, for refusals too."""
        request = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, body = refusal.code, refusal.read()
        return status, json.loads(body) if body else None

    def node_errors(self, prompt: dict) -> dict:
        """Queue a prompt of which something must be refused; its node_errors. Outputs without errors run."""
        _, body = self.post("/prompt", {"prompt": prompt})
        assert body["node_errors"], f"expected a refusal, got {body}"
        return body["node_errors"]

    def run(self, prompt: dict, *, on_event: Callable[[str, dict], None] | None = None, seconds: float = 180) -> Run:
        """Queue a prompt, listen until it ends, collect everything. on_event: sees every text event of this prompt."""
        with self._socket(seconds) as (socket, client):
            status, body = self.post("/prompt", {"prompt": prompt, "client_id": client})
            assert status == 200, f"refused: {json.dumps(body)[:2000]}"
            run = Run(body["prompt_id"])
            for message in self._messages(socket, seconds):
                if isinstance(message, bytes):
                    kind = int.from_bytes(message[:4], "big")
                    if kind in PREVIEWS:
                        run.previews.append(message)
                    continue
                kind, data = message["type"], message["data"]
                if data.get("prompt_id") != run.prompt_id:
                    continue
                run.events.append((kind, data))
                if on_event is not None:
                    on_event(kind, data)
                if kind == "executing" and data["node"] is None:
                    break
        history = self.get(f"/history/{run.prompt_id}")[run.prompt_id]
        run.outputs = history["outputs"]
        return run

    @contextmanager
    def _socket(self, seconds: float) -> Iterator[tuple[WebSocket, str]]:
        import websocket  # only installed where ComfyUI is

        client = uuid.uuid4().hex
        socket = websocket.create_connection(f"ws://{self.address}/ws?clientId={client}", timeout=seconds)
        try:
            yield socket, client
        finally:
            socket.close()

    @staticmethod
    def _messages(socket: WebSocket, seconds: float) -> Iterator[dict | bytes]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            received = socket.recv()
            yield received if isinstance(received, bytes) else json.loads(received)
        raise TimeoutError(f"the prompt did not end within {seconds} s")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """The free-memory button: models out, cache emptied. Returns once no network is left, or after 20 seconds.

        It is pressed again while nothing happens: ComfyUI misses it between looking for it and going to sleep.
        """
        for _ in range(20):
            self.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(1.0)
            if self.get("/probe/models") == {"loaded": [], "alive": 0}:
                break

    def resident_mib(self) -> float:
        import psutil  # comes with ComfyUI

        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def saved(self, run: Run) -> list[Path]:
        """Files that a run's nodes wrote into the output folder, in order."""
        return [path for node in run.outputs for path in self.shown(run, node, "output")]

    def shown(self, run: Run, node: str, folder: str = "temp") -> list[Path]:
        """Pictures and videos of one folder that a node of a run shows."""
        files = [file for file in run.outputs[node].get("images", []) if file["type"] == folder]
        return [self.base / folder / file["subfolder"] / file["filename"] for file in files]


def graph_to_prompt(graph: dict, object_info: dict) -> dict:
    """A workflow file as the page saves it -> the prompt that the page would queue.

    Widget values are positional: one for every widget input in the schema's order, and one more after an INT that
    has control_after_generate.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in PAGE_ONLY:
            continue
        schema = object_info[node["type"]]
        linked = {slot["name"]: slot["link"] for slot in node.get("inputs", []) if slot.get("link") is not None}
        values = iter(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for category in ("required", "optional"):
            for name, (kind, *options) in schema["input"].get(category, {}).items():
                options = options[0] if options else {}
                if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
                    inputs[name] = next(values)
                    if options.get("control_after_generate") or (kind == "INT" and name in ("seed", "noise_seed")):
                        next(values)
                if name in linked:
                    inputs[name] = list(links[linked[name]])
        left = list(values)
        assert not left, f"node {node['id']} {node['type']}: {len(left)} widget values too many: {left}"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
