"""The alignment view in the page: what it draws, what a hand does with it, and what of that is saved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import numpy as np
import pytest
from desk import LISTEN, Desk

from stableanimator_core.alignment import align
from stableanimator_core.alignment.nudge import Nudge, nudged
from stableanimator_core.keypoints import Poses
from stableanimator_core.pose.overlay import REFERENCE, RESULT
from stableanimator_core.weights import ASSETS

ALIGN = "StableAnimatorAlignPoses"
VIEW = "canvas[data-capture-wheel]"
NEUTRAL = [0, 0, 1, 0]
BELOW, RATIO = 190, 2  # px of the page below the stage, px of the canvas for one of the page at least
PAGES_OWN = "Attempted to cleanup event listeners"  # it says so whenever somebody enters a subgraph
NUDGE = """() => app.graph.nodes.find((node) => node.type === "StableAnimatorAlignPoses").widgets
    .filter((widget) => widget.name.startsWith("nudge_")).map((widget) => widget.value)"""
METHOD = """() => app.graph.nodes.find((node) => node.type === "StableAnimatorAlignPoses").widgets[0].value"""
# Which intervals of 90 ms run, from now on.
PLAYERS = """() => {
    window.players = new Set();
    const [start, stop] = [window.setInterval, window.clearInterval];
    window.setInterval = (action, ms) => {
        const id = start(action, ms);
        if (ms === 90) window.players.add(id);
        return id;
    };
    window.clearInterval = (id) => {
        window.players.delete(id);
        stop(id);
    };
}"""
SETTING = """name => app.graph.nodes.find((node) => node.type === "StableAnimatorAlignPoses").widgets
    .find((widget) => widget.name === name).value"""
# How clearly what the last run said is to be read.
CLEAR = """() => app.graph.nodes.find((node) => node.type === "StableAnimatorAlignPoses").widgets
    .find(({ name }) => name === "notes").element.style.opacity"""
ROOM = """() => {
    const { widgets, size } = app.graph.getNodeById(2);
    const { clientHeight } = document.querySelector("canvas[data-capture-wheel]");
    return [widgets.slice(-3).map(({ name }) => name), size[1], clientHeight];
}"""
CHOICES = """() => app.graph.nodes.find((node) => node.type === "StableAnimatorAlignPoses").widgets[0].options.values"""
PLACES = """([selector, colour, below, ratio]) => {
    const canvas = document.querySelector(selector);
    const rows = canvas.height - below * ratio;
    const data = canvas.getContext("2d").getImageData(0, 26 * ratio, canvas.width, rows - 26 * ratio).data;
    const places = [];
    for (let i = 0; i < data.length; i += 4) {
        if (colour.every((value, c) => data[i + c] === value)) {
            places.push([(i / 4) % canvas.width, Math.floor(i / 4 / canvas.width)]);
        }
    }
    return places;
}"""

# What the server answers when the page asks for the picture that it remembers.
PICTURE = """async () => {
    const { remembered } = await import("/extensions/StableAnimator/common.js");
    const node = app.graph.nodes.find((each) => each.type === "StableAnimatorAlignPoses");
    const { picture } = remembered(node, "alignment");
    return picture && (await fetch(app.api.apiURL(`/view?${new URLSearchParams(picture)}`))).status;
}"""


def graph(frames: int = 4) -> dict:
    """The built-in example, aligned."""

    def slot(name: str, kind: str, **link) -> dict:
        return {"name": name, "type": kind, **link}

    outputs = [("reference", "IMAGE", [3]), ("reference_pose", "POSE_KEYPOINT", [2]), ("driving", "POSE_KEYPOINT", [1])]
    inputs = [("driving", "POSE_KEYPOINT", 1), ("reference", "POSE_KEYPOINT", 2), ("picture", "IMAGE", 3)]
    example = {
        "id": 1, "type": "StableAnimatorExample", "pos": [20, 20], "size": [270, 110], "inputs": [],
        "outputs": [slot(name, kind, links=links) for name, kind, links in outputs], "widgets_values": [frames],
    }  # fmt: skip
    align = {
        "id": 2, "type": ALIGN, "pos": [330, 20], "size": [440, 960],
        "inputs": [slot(name, kind, link=link) for name, kind, link in inputs],
        "outputs": [slot("poses", "POSE_KEYPOINT", links=[]), slot("overlay", "IMAGE", links=[])],
        "widgets_values": ["svd", "clip", False],
    }  # fmt: skip
    common = {"flags": {}, "order": 0, "mode": 0, "properties": {}}
    links = [[1, 1, 2, 2, 0, "POSE_KEYPOINT"], [2, 1, 1, 2, 1, "POSE_KEYPOINT"], [3, 1, 0, 2, 2, "IMAGE"]]
    return {
        "last_node_id": 2, "last_link_id": 3, "nodes": [example | common, align | common], "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


@pytest.fixture
def aligned(desk: Desk) -> Desk:
    """The example, aligned once; the view in full sight."""
    desk.load(graph())
    run = desk.run()
    assert run.succeeded, run.error
    desk.fit_view()
    return desk


def drawn(desk: Desk, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the view's stage shows a colour, [n, 2] px of the canvas."""
    desk.settle()
    return np.array(desk.js(PLACES, [VIEW, list(colour), BELOW, RATIO])).reshape(-1, 2)


def box(desk: Desk) -> dict:
    return desk.page.locator(VIEW).bounding_box()


def at(desk: Desk, x: float, up: float) -> tuple[float, float]:
    """A point of the window: x in shares of the view's width, `up` px of the page above its bottom."""
    canvas = box(desk)
    zoom = canvas["width"] / desk.js("selector => document.querySelector(selector).clientWidth", VIEW)
    return canvas["x"] + x * canvas["width"], canvas["y"] + canvas["height"] - up * zoom


def drag(desk: Desk, start: tuple[float, float], by: tuple[float, float]) -> None:
    mouse = desk.page.mouse
    mouse.move(*start)
    mouse.down()
    mouse.move(start[0] + by[0], start[1] + by[1], steps=3)
    mouse.up()


def stage(desk: Desk) -> tuple[float, float]:
    """A point on the result."""
    canvas = box(desk)
    return canvas["x"] + canvas["width"] / 2, canvas["y"] + 0.35 * canvas["height"]


def test_it_draws_and_a_drag_moves_the_result_with_the_pointer(aligned):
    before = drawn(aligned, RESULT)
    assert len(before) > 300 and len(drawn(aligned, REFERENCE)) > 500
    assert aligned.js(NUDGE) == NEUTRAL
    drag(aligned, stage(aligned), (30, 15))
    x, y, *rest = aligned.js(NUDGE)
    assert x > 5 and y == pytest.approx(x / 2, abs=0.11) and rest == [1, 0]
    canvas = box(aligned)
    across = RATIO * aligned.js("selector => document.querySelector(selector).clientWidth", VIEW) / canvas["width"]
    moved = drawn(aligned, RESULT).mean(0) - before.mean(0)
    np.testing.assert_allclose(moved, [30 * across, 15 * across], atol=4 * across)
    assert aligned.js(CLEAR) == "0.4", "what the last run said is not of what is seen"
    aligned.page.mouse.click(*at(aligned, 0.93, 12))
    assert aligned.js(NUDGE) == NEUTRAL, "reset"
    aligned.settle()
    assert aligned.js(CLEAR) == "1"


def test_a_cached_run_draws_in_a_fresh_graph_and_the_server_nudges_as_the_page_does(aligned):
    aligned.load(graph())
    assert not len(drawn(aligned, RESULT))
    again = aligned.run()
    assert "2" in again.of("execution_cached")[0]["nodes"]
    assert len(drawn(aligned, RESULT)) > 300

    nudge = {"nudge_x": 7.5, "nudge_y": -3.0, "nudge_scale": 1.25, "nudge_rotate": -20.0}
    for name, value in nudge.items():
        aligned.set(ALIGN, name, value)
    run = aligned.run()
    (view,) = run.outputs["2"]["alignment"]
    assert view["nudge"] == list(nudge.values()) and aligned.js(NUDGE) == view["nudge"]
    told = aligned.js(
        """async (view) => {
            const { nudged, distance } = await import("/extensions/StableAnimator/alignment.js");
            const { joints, pivot } = view.methods.svd;
            return joints.map((each) => distance(nudged(each, view.nudge, pivot, view.unit), view.reference));
        }""",
        view,
    )
    motion, body = Poses.load(ASSETS / "demo" / "driving.json"), Poses.load(ASSETS / "demo" / "reference.json")
    motion = motion.slice(0, 4)
    expected = nudged(align(motion, body, "svd"), body, Nudge(*nudge.values())).residual
    np.testing.assert_allclose(told, expected, atol=0.1)


@pytest.mark.parametrize(("widget", "other"), [("method", "none"), ("fit", "smooth"), ("proportions", True)])
def test_what_the_last_run_said_fades_while_the_settings_are_others(aligned, widget, other):
    ran = aligned.js(SETTING, widget)
    for value, clear in ((other, "0.4"), (ran, "1")):
        aligned.set(ALIGN, widget, value)
        aligned.page.wait_for_function(f"clear => ({CLEAR})() === clear", arg=clear)
    aligned.set(ALIGN, widget, other)
    assert aligned.run().succeeded
    aligned.page.wait_for_function(f"() => ({CLEAR})() === '1'")


def test_the_recommended_method_comes_first_and_distances_rank_nothing(aligned):
    aligned.js(f"() => {{ {LISTEN} }}")
    aligned.js("() => app.graph.getNodeById(2).setSize([560, 900])")
    written = aligned.written()
    assert {"recommended", "as published", "no network", "as filmed"} <= written
    distances = [text for text in written if re.fullmatch(r"[\d.]+ px", text)]
    assert len(distances) == 1, "the curve's alone"
    assert not any("%" in text for text in written), "the one percentage is the expected error, in the notes"
    hints = []
    for across in (0.08, 0.75):
        aligned.page.mouse.move(*at(aligned, across, 70))
        hints.append(aligned.page.locator(VIEW).get_attribute("title"))
    assert hints[0].startswith("learned: joints are ") and hints[1].startswith("v1: joints are ")
    assert all("Nearer is not better" in hint for hint in hints)


def test_methods_frames_wheel_and_keys(aligned):
    first = drawn(aligned, RESULT)
    drag(aligned, at(aligned, 0.2, 150), (200, 0))
    last = drawn(aligned, RESULT)
    assert len(last) > 300 and (len(first) != len(last) or (first != last).any()), "another frame"
    aligned.page.mouse.click(*at(aligned, 0.92, 70))
    assert aligned.js(METHOD) == "none"
    assert abs(drawn(aligned, RESULT).mean(0) - last.mean(0)).max() > 4, "what was not aligned lies elsewhere"
    assert aligned.run().outputs["2"]["alignment"][0]["method"] == "none"

    mouse, keyboard = aligned.page.mouse, aligned.page.keyboard
    mouse.move(*stage(aligned))
    mouse.wheel(0, -100)
    assert aligned.js(NUDGE) == NEUTRAL, "before it is touched the wheel zooms the graph"
    aligned.fit_view()
    drag(aligned, stage(aligned), (0, 0))
    mouse.wheel(0, -100)
    aligned.settle()
    keyboard.down("Shift")
    mouse.wheel(0, 100)
    keyboard.up("Shift")
    aligned.settle()
    keyboard.press("ArrowRight")
    keyboard.press("Shift+ArrowUp")
    assert aligned.js(NUDGE) == [0.5, -5, 1.02, 1]


def test_a_nudge_is_saved_and_survives_a_reload_with_the_view(aligned):
    drag(aligned, stage(aligned), (25, 10))
    nudge = aligned.js(NUDGE)
    saved = json.loads(aligned.js("() => JSON.stringify(window.app.graph.serialize())"))
    node = next(node for node in saved["nodes"] if node["type"] == ALIGN)
    assert node["widgets_values"][3:7] == nudge and nudge[0] > 5
    assert "alignment" not in str(node["properties"]), "what was run is no part of the workflow"
    aligned.load(saved)
    assert aligned.js(NUDGE) == nudge and len(drawn(aligned, RESULT)) > 300
    aligned.open()
    aligned.page.wait_for_selector(VIEW)
    assert aligned.js(NUDGE) == nudge and len(drawn(aligned, RESULT)) > 300
    assert aligned.js(PICTURE) == 200, "the picture below it is there as well"
    run = aligned.run()
    assert run.outputs["2"]["alignment"][0]["nudge"] == nudge
    assert "nudged by hand" in run.outputs["2"]["text"][0]


def test_a_run_leaves_the_room_to_the_view(aligned):
    """No picture of the page's pushes it together, and a height that was saved stays."""

    def room() -> list:
        aligned.settle()
        return aligned.js(ROOM)

    widgets, height, view = room()
    assert widgets == ["nudge_rotate", "notes", "alignment"] and height == 960 and view > 550
    aligned.js("() => app.graph.getNodeById(2).setSize([440, 1100])")
    tall = [widgets, 1100, view + 140]
    assert room() == tall
    aligned.set(ALIGN, "nudge_x", 1)
    assert aligned.run().succeeded
    _, height, view = room()
    assert height == 1100 and tall[2] - 80 < view < tall[2], "the note on the nudge has its room"
    aligned.open()
    aligned.page.wait_for_selector(VIEW)
    assert room() == [widgets, height, view]


def test_it_works_inside_a_subgraph(desk):
    desk.load(graph())
    desk.js("""() => {
        const node = app.graph.nodes.find((each) => each.type === "StableAnimatorAlignPoses");
        app.graph.convertToSubgraph(new Set([node]));
    }""")
    run = desk.run()
    assert run.succeeded and [node for node in run.outputs if ":" in node], run.error
    desk.js("() => app.canvas.openSubgraph(app.graph.nodes.find((node) => node.subgraph).subgraph)")
    desk.fit_view()
    assert len(drawn(desk, RESULT)) > 300
    desk.js(PLAYERS)
    desk.page.mouse.click(*at(desk, 0.045, 152))
    desk.page.wait_for_function("() => players.size === 1")
    desk.js("() => app.canvas.setGraph(app.graph)")
    desk.page.wait_for_function("() => players.size === 0")  # it stops when it is left
    desk.problems[:] = [problem for problem in desk.problems if PAGES_OWN not in problem]


def test_it_speaks_chinese(aligned):
    drag(aligned, stage(aligned), (25, 10))
    aligned.speak("zh")
    aligned.page.wait_for_selector(VIEW)
    written = aligned.written()
    assert {"参考", "驱动", "结果", "重置", "运行后显示"} <= written
    assert latin(written) == latin(aligned.js(CHOICES))
    aligned.page.mouse.move(*stage(aligned))
    assert latin([aligned.page.locator(VIEW).get_attribute("title")]) == {"Shift"}


def latin(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall("[A-Za-z]{2,}", text)}
