"""Every shipped workflow in the page: chosen in the template browser, queued where its files ship here, done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from desk import Desk

from stableanimator_core.weights import ASSETS

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = REPOSITORY / "workflows"
SHIPPED = [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]
BLUEPRINTS = sorted((REPOSITORY / "subgraphs").glob("*.json"))
SHORTER = (
    ("StableAnimatorExample", "frames", 3),
    ("StableAnimatorSample", "steps", 2),
    ("StableAnimatorHJBSweep", "steps", 2),
    ("StableAnimatorHJBSweep", "draft", 2),
    ("StableAnimatorHJBSweep", "iterations", "0, 1"),
)
TITLE = 30  # px, of a node, above its box
PUBLISHED = "published weights"  # neither they nor an artist's video are here
NO_VIDEO = "none yet, choose your driving video"  # what its Load Video holds
VIDEO = ASSETS / "demo" / "driving.mp4"
UPLOAD = """() => {
    const node = window.app.graph.nodes.find((each) => each.type === "LoadVideo");
    node.widgets.find((each) => each.name === "upload").callback();
}"""
AS_SHIPPED = "built-in quick start"  # with the built-in model; the others run with a smaller one, for time's sake


def open_shipped(desk: Desk, name: str) -> None:
    """Choose a workflow in the template browser; all of it must be there, with its values, and no warning."""
    shipped = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    desk.open_template(name)
    desk.page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(shipped["nodes"]))
    assert desk.unknown_nodes() == [] and desk.alerts() == []
    kept = {node["id"]: node.get("widgets_values") for node in desk.saved()["nodes"]}
    for node in shipped["nodes"]:  # the page adds values of its own behind ours, as for an upload's button
        values = node.get("widgets_values") or []
        assert (kept[node["id"]] or [])[: len(values)] == values, f"{node['id']} {node['type']}"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != PUBLISHED])
def test_workflow_opens_without_a_warning_and_runs(desk, name):
    open_shipped(desk, name)
    for node, widget, value in SHORTER:
        desk.set(node, widget, value)
    if name != AS_SHIPPED:
        desk.set("StableAnimatorLoadModel", "model", "tiny")
    run = desk.run()
    assert run.succeeded, run.error
    assert desk.alerts() == []


def test_published_workflow_asks_for_a_video_and_then_for_the_weights(desk):
    """The first two presses of Run in a ComfyUI that has neither: each says what to do."""
    open_shipped(desk, PUBLISHED)
    with pytest.raises(TimeoutError, match=f"LoadVideo.*{NO_VIDEO}"):
        desk.run()
    page_says = (f"/api/view?type=input&filename={quote_plus(NO_VIDEO)}&", "/api/prompt", "Prompt execution failed")
    others = [problem for problem in desk.problems if not any(said in problem for said in page_says)]
    assert not others
    desk.problems.clear()

    desk.page.keyboard.press("Escape")
    with desk.page.expect_file_chooser() as chooser:
        desk.js(UPLOAD)
    chooser.value.set_files(VIDEO)
    desk.page.wait_for_function(
        "name => app.graph.nodes.find((each) => each.type === 'LoadVideo').widgets[0].value === name", arg=VIDEO.name
    )
    run = desk.run()
    assert "weights download" in run.error["exception_message"]
    for file in ("Animation/unet.pth", "DWPose/yolox_l.onnx"):  # Preflight has said both before
        assert desk.page.locator(f"a[href$='/blob/main/{file}']").count() == 1, "a page that can be opened"


def test_a_template_opened_again_is_another_workflow(desk):
    """Views are remembered, and the server's events sorted, by the workflow's id."""
    shipped, names = json.loads((WORKFLOWS / f"{AS_SHIPPED}.json").read_text(encoding="utf-8")), []
    for _ in range(2):
        desk.load(shipped)
        names.append(desk.saved()["id"])
    assert names[0] != names[1]


def test_nodes_of_a_workflow_lie_apart_and_inside_their_groups():
    for name in SHIPPED:
        graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        boxes = {node["id"]: (*node["pos"], *node["size"]) for node in graph["nodes"]}
        for one, (x, y, width, height) in boxes.items():
            inside = [
                left <= x and x + width <= left + wide and top <= y and y + height <= top + tall
                for left, top, wide, tall in (group["bounding"] for group in graph["groups"])
            ]
            assert sum(inside) == 1, f"{name}: node {one} belongs to {sum(inside)} groups"
            for other, (left, top, wide, tall) in boxes.items():
                apart = x + width <= left or left + wide <= x or y + height <= top - TITLE or top + tall <= y - TITLE
                assert one == other or apart, f"{name}: nodes {one} and {other} overlap"


def around(blueprint: dict) -> dict:
    """A workflow that uses a blueprint: a picture and two frames of a video go in, what comes out is looked at."""
    (subgraph,) = blueprint["nodes"]
    steps = [
        ("StableAnimatorExample", [], ["IMAGE"], [0]),
        ("LoadVideo", [], ["VIDEO"], [VIDEO.name]),
        ("GetVideoComponents", ["VIDEO"], ["IMAGE"], []),
        ("ImageFromBatch", ["IMAGE"], ["IMAGE"], [0, 2]),
        ("PreviewImage", ["IMAGE"], [], []),
    ]
    names = {"StableAnimatorExample": "reference", "GetVideoComponents": "video", "ImageFromBatch": "image"}
    nodes = [
        {
            "id": number, "type": kind, "pos": [400 * number, 300], "size": [300, 200], "flags": {}, "order": number,
            "mode": 0, "properties": {}, "widgets_values": values,
            "inputs": [{"name": names.get(kind, "images"), "type": each, "link": None} for each in inputs],
            "outputs": [{"name": names.get(kind, each), "type": each, "links": []} for each in outputs],
        }
        for number, (kind, inputs, outputs, values) in enumerate(steps, 2)
    ]  # fmt: skip
    every = {node["id"]: node for node in [subgraph, *nodes]}
    links = [(2, 0, 1, 0), (3, 0, 4, 0), (4, 0, 5, 0), (5, 0, 1, 1), (1, 0, 6, 0)]
    for number, (source, slot, target, into) in enumerate(links, 1):
        every[source]["outputs"][slot]["links"].append(number)
        every[target]["inputs"][into]["link"] = number
    kinds = [every[source]["outputs"][slot]["type"] for source, slot, *_ in links]
    listed = [[number, *link, kind] for number, (link, kind) in enumerate(zip(links, kinds), 1)]
    return blueprint | {"nodes": list(every.values()), "links": listed, "last_node_id": 6, "last_link_id": len(links)}


def load_blueprint(desk: Desk, path: Path) -> None:
    """Open a workflow around a blueprint, and give its artist the video."""
    shutil.copy(VIDEO, desk.server.base / "input")
    desk.load(around(json.loads(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", BLUEPRINTS, ids=[path.stem for path in BLUEPRINTS])
def test_blueprint_animates_a_picture(desk, path):
    load_blueprint(desk, path)
    assert desk.unknown_nodes() == [] and desk.alerts() == []
    desk.js("() => { window.app.graph.getNodeById(1).widgets.find(({ name }) => name === 'model').value = 'tiny'; }")
    run = desk.run()
    assert run.succeeded, run.error
    assert len(run.outputs["6"]["images"]) == 2
