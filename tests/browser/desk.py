"""Does in ComfyUI's page what an artist does: opens workflows, changes widgets, queues, looks."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from comfy_client import ComfyServer, Run
from comfy_server import PACK

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

PATIENCE = 240  # s, for a machine that does other things as well
READY = "() => window.app?.graph && window.app.extensionManager && window.app.api?.clientId"
ALERTS = ".p-dialog, .p-toast-message"
SET = """([kind, name, value]) => {
    const nodes = window.app.graph.nodes.filter((node) => node.type === kind);
    for (const node of nodes) {
        const widget = node.widgets.find((each) => each.name === name);
        widget.value = value;
        widget.callback?.(value, window.app.canvas, node);
    }
    return nodes.length;
}"""
UNKNOWN = """() => {
    const graphs = [window.app.graph, ...window.app.graph.subgraphs.values()];
    const types = graphs.flatMap((graph) => graph.nodes.map((node) => node.type));
    return types.filter((type) => !(type in window.LiteGraph.registered_node_types));
}"""
# Resolves when the graph has been drawn where it is now, nothing glides any more and no view changes its size.
STILL = """() => new Promise((done) => {
    const { ds } = app.canvas;
    const box = (view) => JSON.stringify(view.getBoundingClientRect());
    const place = () => [ds.scale, ...ds.offset, ...[...document.querySelectorAll(".dom-widget")].map(box)].join();
    let [frame, before, same] = [app.canvas.frame, place(), 0];
    const look = () => {
        app.canvas.setDirty(true, true);
        if (app.canvas.frame > frame) {
            const now = place();
            same = now === before ? same + 1 : 0;
            [frame, before] = [app.canvas.frame, now];
        }
        if (same >= 3) done();
        else requestAnimationFrame(look);
    };
    look();
})"""

# Notes what is written on canvases that belong to a node.
LISTEN = """
    window.written = new Set();
    const own = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        if (this.canvas.closest(".dom-widget")) window.written.add(text);
        return own.call(this, text, ...rest);
    };
"""


class Desk:
    """One page of one server.

    events: (kind, data) of every JSON message that the server sent, in order. problems: errors of the
    console, requests that were refused among them, and exceptions that nobody caught.
    """

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page, self.server = page, server
        self.events: list[tuple[str, dict]] = []
        self.problems: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error.stack}"))
        page.on("websocket", lambda socket: socket.on("framereceived", self._received))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":  # refused requests among them
            self.problems.append(f"{message.text} ({message.location['url']})")

    def _received(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            message = json.loads(frame)
            self.events.append((message["type"], message["data"]))

    def open(self) -> None:
        """Load the page, or load it anew as F5 does."""
        self.page.goto(f"http://{self.server.address}")
        self.page.wait_for_function(READY)

    def speak(self, language: str) -> None:
        """Load the page anew in another language; what the views write is noted from now on."""
        self.js("language => window.app.extensionManager.setting.set('Comfy.Locale', language)", language)
        self.page.add_init_script(LISTEN)
        self.open()

    def written(self) -> set[str]:
        """What the views in sight have written since the page was loaded."""
        self.fit_view()
        return set(self.js("() => [...window.written]"))

    def command(self, name: str) -> None:
        """A command of the page, as its menus and keys give it."""
        self.page.evaluate("name => window.app.extensionManager.command.execute(name)", name)

    def open_template(self, name: str) -> None:
        """Choose one of the pack's workflows in the template browser.

        The pack is pressed again while its workflows do not come: what the browser loads last may deselect it.
        """
        self.command("Comfy.BrowseTemplates")
        workflow = self.page.get_by_text(name, exact=True).first
        deadline = time.monotonic() + PATIENCE
        while not workflow.is_visible() and time.monotonic() < deadline:
            self.page.get_by_text(PACK, exact=True).first.click()
            self.page.wait_for_timeout(500)
        workflow.click()
        self.page.wait_for_function("name => document.title.includes(name)", arg=name)

    def load(self, graph: dict) -> None:
        """Open a workflow as if its file were dropped on the page."""
        self.js("graph => window.app.loadGraphData(graph)", graph)

    def saved(self) -> dict:
        """The workflow as Save would write it."""
        return self.js("() => window.app.graph.serialize()")

    def set(self, kind: str, widget: str, value: Any) -> int:
        """Set a widget of every node of a kind, as a hand would; how many there are."""
        return self.js(SET, [kind, widget, value])

    def run(self, seconds: float = PATIENCE) -> Run:
        """Press Run and wait for the end: what the server did, as ComfyServer.run tells it without previews.

        A run that fails on its way ends too, whatever the page says of it and when: see Run.error. Raises
        TimeoutError when it does not end, or when the page says why it does not start.
        """
        before = len(self.events)
        self.page.get_by_role("button", name="Run", exact=True).click()
        deadline = time.monotonic() + seconds
        while ("executing", None) not in [(kind, data.get("node")) for kind, data in self.events[before:]]:
            if time.monotonic() > deadline or self._refused(before):
                self.page.screenshot(path=self.server.base / "page.png")
                raise TimeoutError(f"not done after {seconds} s, see {self.server.base}/page.png; {self.alerts()}")
            self.page.wait_for_timeout(100)
        events = [(kind, data) for kind, data in self.events[before:] if "prompt_id" in data]
        run = Run(events[0][1]["prompt_id"], events)
        run.outputs = self.server.get(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]
        return run

    def _refused(self, before: int) -> bool:
        """Whether the page speaks up in place of a run. The window of a run that failed at once may be seen before
        its events are."""
        if not self.alerts():
            return False
        self.page.wait_for_timeout(1000)
        return not any("prompt_id" in data for _, data in self.events[before:])

    def alerts(self) -> list[str]:
        """What windows and notices on the page say: missing nodes, refused prompts, errors."""
        return [text for found in self.page.locator(ALERTS).all() if (text := found.inner_text().strip())]

    def unknown_nodes(self) -> list[str]:
        """Node types that the page does not know, subgraphs included."""
        return self.js(UNKNOWN)

    def fit_view(self) -> None:
        """Show the whole graph: what is out of sight is not drawn."""
        self.command("Comfy.Canvas.FitView")
        self.settle()

    def settle(self) -> None:
        """Wait until the graph has been drawn and nothing on it moves: a busy machine takes its time."""
        self.page.wait_for_timeout(150)  # what was done just now begins to show
        self.js(STILL)

    def js(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression, or of a function of one argument."""
        return self.page.evaluate(expression, argument)
