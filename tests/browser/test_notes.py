"""What nodes say in the page: readable below their widgets, to be copied, and still there after a reload."""

from __future__ import annotations

import pytest
from desk import Desk
from test_workflows import BLUEPRINTS, load_blueprint

PAGES_OWN = "Attempted to cleanup event listeners"  # it says so whenever somebody enters a subgraph
# The notes of the first node of a kind: text, seen, and the heights of what is seen of it and of all of it.
NOTES = """kind => {
    const graphs = [app.rootGraph ?? app.graph, ...(app.rootGraph ?? app.graph).subgraphs.values()];
    const node = graphs.flatMap((graph) => graph.nodes).find((each) => each.type === `StableAnimator${kind}`);
    const { element, hidden } = node.widgets.find(({ name }) => name === "notes");
    const scroller = element.firstChild;
    return {
        text: scroller.innerText, hidden: Boolean(hidden), height: scroller.clientHeight, full: scroller.scrollHeight,
        box: element.getBoundingClientRect().toJSON(), id: String(node.id),
    };
}"""
SETTLED = f"kind => {{ const found = ({NOTES})(kind); return found.hidden || found.box.height > 0; }}"
TELL = """([status, text, workflow]) => app.api.dispatchCustomEvent("stableanimator.text", {
    node: "2", workflow: workflow ?? app.graph.id, status, text, prompt_id: "p",
})"""


# The pictures that the page shows below the first node of a kind, and its own widget for them.
PICTURES = """kind => {
    const graphs = [app.rootGraph ?? app.graph, ...(app.rootGraph ?? app.graph).subgraphs.values()];
    const node = graphs.flatMap((graph) => graph.nodes).find((each) => each.type === `StableAnimator${kind}`);
    const own = node.widgets.filter(({ name }) => name === "$$canvas-image-preview");
    return [node.imgs?.length ?? 0, own.length];
}"""
# Identity Score of a picture against itself, by the smallest model, which finds faces through poses alone.
SCORE = """inside => {
    const [load, example, score] = ["LoadModel", "Example", "IdentityScore"].map((kind, i) => {
        const node = LiteGraph.createNode(`StableAnimator${kind}`);
        node.pos = [20 + 330 * i, 40];
        app.graph.add(node);
        return node;
    });
    load.widgets[0].value = "tiny";
    example.widgets[0].value = 1;
    load.connect(0, score, "model");
    for (const [slot, name] of [[0, "frames"], [0, "reference"], [1, "poses"], [1, "reference_pose"]]) {
        example.connect(slot, score, name);
    }
    if (inside) app.graph.convertToSubgraph(new Set([score]));
}"""
UNPLUG = """() => {
    const poses = ({ name }) => name === "poses";
    const { nodes } = app.rootGraph ?? app.graph;
    nodes.find(({ inputs }) => inputs.some(poses)).disconnectInput("poses");
}"""


def graph() -> dict:
    """Preflight of the smallest model, and nothing else."""
    model = {"name": "model", "type": "STABLEANIMATOR_MODEL"}
    common = {"flags": {}, "order": 0, "mode": 0, "properties": {}}
    load = {
        "id": 1, "type": "StableAnimatorLoadModel", "pos": [20, 20], "size": [270, 110], "inputs": [],
        "outputs": [{**model, "links": [1]}], "widgets_values": ["tiny", "fp32", False],
    }  # fmt: skip
    check = {
        "id": 2, "type": "StableAnimatorPreflight", "pos": [330, 20], "size": [440, 200],
        "inputs": [{**model, "link": 1}], "outputs": [], "widgets_values": [0, 72, 0, 0, False],
    }  # fmt: skip
    return {
        "last_node_id": 2, "last_link_id": 1, "nodes": [load | common, check | common],
        "links": [[1, 1, 0, 2, 0, "STABLEANIMATOR_MODEL"]], "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def decoder() -> dict:
    """A Decode that was never run."""
    node = {
        "id": 2, "type": "StableAnimatorDecode", "pos": [330, 120], "size": [300, 100], "flags": {}, "order": 0,
        "mode": 0, "properties": {}, "inputs": [], "outputs": [], "widgets_values": [8],
    }  # fmt: skip
    return {
        "last_node_id": 2, "last_link_id": 0, "nodes": [node], "links": [], "groups": [], "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


def notes(desk: Desk, kind: str) -> dict:
    desk.page.wait_for_function(SETTLED, arg=kind)  # text out of sight has no lines
    desk.settle()
    return desk.js(NOTES, kind)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def test_a_report_is_shown_in_lines_and_again_after_a_reload(desk):
    desk.load(graph())
    assert notes(desk, "Preflight")["text"] == "run once: the report comes here"
    run = desk.run()
    (report,) = run.outputs["2"]["text"]
    shown = lines(notes(desk, "Preflight")["text"])
    assert shown == lines(report)
    assert shown[0].startswith("not ready: ") and any(line.startswith("PROBLEM: size 72 x 64") for line in shown)
    sizes = "() => [app.graph.getNodeById(2).size[1], app.graph.getNodeById(2).computeSize()[1]]"
    height, least = desk.js(sizes)
    assert height >= least > 300, "the node grew to show it"
    desk.open()
    desk.page.wait_for_function("() => app.graph.getNodeById(2)")
    assert lines(notes(desk, "Preflight")["text"]) == shown


def test_notes_are_whole_apart_from_the_view_and_still_there_after_a_reload(desk):
    desk.open_template("built-in quick start")
    for node, widget, value in (("Example", "frames", 3), ("Sample", "steps", 2), ("LoadModel", "model", "tiny")):
        desk.set(f"StableAnimator{node}", widget, value)
    assert notes(desk, "AlignPoses")["hidden"], "nothing to say yet"
    run = desk.run()
    assert run.succeeded, run.error
    desk.fit_view()
    for kind in ("AlignPoses", "EncodeFace"):
        shown = notes(desk, kind)
        (said,) = run.outputs[shown["id"]]["text"]
        assert lines(shown["text"]) == lines(said), kind
        assert shown["height"] == shown["full"] > 20, f"{kind}: all of it is seen"
    assert notes(desk, "LoadModel")["hidden"], "it had nothing to say"
    align = notes(desk, "AlignPoses")
    assert align["text"].startswith("expected fit: ")
    view = desk.js("""id => app.graph.getNodeById(id).widgets.find(({ name }) => name === "alignment")
        .element.getBoundingClientRect().toJSON()""", align["id"])  # fmt: skip
    assert align["box"]["height"] > 10 and align["box"]["bottom"] <= view["top"] + 1 < view["bottom"]
    desk.open()
    desk.page.wait_for_function("() => app.graph.nodes.length > 3")
    assert notes(desk, "AlignPoses")["text"] == align["text"]


def test_notes_can_be_selected_and_copied(desk):
    desk.load(decoder())
    desk.js(TELL, [None, "memory ran out; frames were decoded one at a time"])
    desk.fit_view()
    box = notes(desk, "Decode")["box"]
    middle = box["y"] + box["height"] / 2
    desk.page.mouse.dblclick(box["x"] + box["width"] / 2, middle)
    word = desk.js("() => getSelection().toString().trim()")
    assert word and word in "memory ran out; frames were decoded one at a time"
    desk.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    desk.page.keyboard.press("Control+c")
    assert desk.js("() => navigator.clipboard.readText()").strip() == word


def test_long_notes_scroll(desk):
    desk.load(decoder())
    desk.js(TELL, [None, "\n".join(f"line {number}" for number in range(40))])
    desk.fit_view()
    shown = notes(desk, "Decode")
    assert 100 < shown["height"] < 200 < shown["full"]
    assert desk.js("() => app.graph.getNodeById(2).size[1]") < 320
    notes_of = "() => app.graph.getNodeById(2).widgets.find(({ name }) => name === 'notes')"
    assert desk.js(f"{notes_of}.element.style.minHeight") == "170px", "Vue nodes ask the element, not the widget"


def test_what_a_node_does_at_the_moment_goes_when_the_run_ends(desk):
    desk.load(decoder())
    desk.js(TELL, ["step 1 of 9", "a note"])
    assert lines(notes(desk, "Decode")["text"]) == ["step 1 of 9", "a note"]
    desk.js("() => app.api.dispatchCustomEvent('execution_interrupted', { prompt_id: 'p' })")
    assert lines(notes(desk, "Decode")["text"]) == ["a note"]
    desk.js("() => app.graph.getNodeById(2).onExecuted({ text: [] })")
    assert notes(desk, "Decode")["hidden"], "a run with nothing to say clears it"


def fail(desk: Desk) -> str:
    """Press Run and wait until the run has failed and the page has said so; what it is told."""
    message = desk.run().error["exception_message"].strip()
    desk.page.locator(".p-dialog").wait_for()
    desk.page.keyboard.press("Escape")
    desk.page.locator(".p-dialog").wait_for(state="hidden")
    return message


@pytest.mark.parametrize("inside", [False, True], ids=["in sight", "in a subgraph"])
def test_a_run_that_fails_takes_the_place_of_the_last_report(desk, inside):
    desk.js(SCORE, inside)
    assert desk.run().succeeded
    if inside:
        desk.js("() => app.canvas.openSubgraph(app.graph.nodes.find((node) => node.subgraph).subgraph)")
    desk.fit_view()
    desk.page.wait_for_function(f"kind => ({PICTURES})(kind).join() === '1,1'", arg="IdentityScore")
    assert "identity" in notes(desk, "IdentityScore")["text"].lower()
    desk.js(UNPLUG)
    message = fail(desk)
    assert "model 'tiny' finds" in message
    assert notes(desk, "IdentityScore")["text"] == f"PROBLEM: {message}"
    assert desk.js(PICTURES, "IdentityScore") == [0, 0]
    assert desk.js("() => Object.values(app.nodeOutputs).every(({ images }) => !images)"), "nor does the page keep any"
    desk.open()
    desk.page.wait_for_function("() => app.graph.nodes.length")
    told = desk.js(NOTES, "IdentityScore")["text"]  # one line, also where its subgraph is not in front
    assert told == f"PROBLEM: {message}", "the last report does not come back"
    desk.problems[:] = [problem for problem in desk.problems if PAGES_OWN not in problem]


def test_another_workflow_says_nothing_here(desk):
    desk.load(decoder())
    desk.js(TELL, [None, "from elsewhere", "another workflow"])
    assert notes(desk, "Decode")["hidden"]


def test_notes_inside_a_subgraph(desk):
    load_blueprint(desk, BLUEPRINTS[0])
    desk.js("() => { app.graph.getNodeById(1).widgets.find(({ name }) => name === 'model').value = 'tiny'; }")
    run = desk.run()
    assert run.succeeded, run.error
    desk.js("() => app.canvas.openSubgraph(app.graph.nodes.find((node) => node.subgraph).subgraph)")
    desk.fit_view()
    shown = notes(desk, "AlignPoses")
    desk.problems[:] = [problem for problem in desk.problems if PAGES_OWN not in problem]
    (said,) = run.outputs[f"1:{shown['id']}"]["text"]
    assert lines(shown["text"]) == lines(said) and shown["height"] == shown["full"] > 20


def test_addresses_are_links_on_mirrors_without_encryption_too(desk):
    desk.load(decoder())
    pages = ["https://hub.invalid/a/blob/main/b", "http://mirror.invalid/c"]
    desk.js(TELL, [None, "\n".join(f"file, 1 MB: {page}, but it is empty" for page in pages)])
    shown = "() => [...document.querySelectorAll('.dom-widget a')].map((link) => [link.href, link.textContent])"
    desk.page.wait_for_function(f"count => ({shown})().length === count", arg=len(pages))
    assert desk.js(shown) == [[page, page] for page in pages]


def test_only_a_verdict_is_green_or_red(desk):
    colours = desk.js("""async () => {
        const { looks } = await import("/extensions/StableAnimator/notes.js");
        const { COLOURS } = await import("/extensions/StableAnimator/common.js");
        const names = Object.fromEntries(Object.entries(COLOURS).map(([name, value]) => [value, name]));
        const firsts = [
            ["ready", "Preflight"], ["not ready: 1", "Preflight"], ["recommended: off", "HJBSweep"], ["x", "Decode"],
            ...["good", "fair", "doubtful"].map((grade) => [`expected fit: ${grade}, off by`, "AlignPoses"]),
        ];
        return firsts.map(([line, kind]) => names[looks(line, 0, `StableAnimator${kind}`).colour]);
    }""")
    assert colours == ["good", "bad", "ink", "faint", "good", "plain", "bad"]


def test_before_a_run_it_speaks_chinese(desk):
    desk.speak("zh")
    desk.load(graph())
    assert notes(desk, "Preflight")["text"] == "运行一次后，报告显示在这里"
