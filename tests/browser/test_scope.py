"""The identity scope in the page: what it draws while Sample runs, and what of it stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest
from desk import Desk

from stableanimator_core.hjb_settings import CURVES, HJBConfig, describe, resolve

EVENT = "stableanimator.identity"
SAMPLE = "StableAnimatorSample"
KEPT = """async () => {
    const { remembered } = await import("/extensions/StableAnimator/common.js");
    return remembered(app.graph.nodes.find((node) => node.type === "StableAnimatorSample"), "identity");
}"""
OUTCOME = """async (history) => {
    const { outcome } = await import("/extensions/StableAnimator/scope.js");
    return outcome(history);
}"""
IN_WORDS = """async (told) => {
    const { optimised } = await import("/extensions/StableAnimator/runs.js");
    return told.map(optimised);
}"""
# The run that each history is compared with, the one before it being the history before.
COMPARED = """async (histories) => {
    const { earlier, lastRun } = await import("/extensions/StableAnimator/runs.js");
    return histories.map((history, i) => {
        history.last = earlier(histories[i - 1] ?? null, history);
        return lastRun(history)?.means ?? null;
    });
}"""
COMPARISON = """async (history) => {
    const { comparison } = await import("/extensions/StableAnimator/runs.js");
    return comparison(history);
}"""
SENTENCES = """async ([history, places]) => {
    const { sentence } = await import("/extensions/StableAnimator/scope.js");
    return places.map(([step, frame]) => sentence(history, { step, frame }));
}"""
WIDE = "() => app.graph.getNodeById(5).setSize([440, 900])"
HEIGHT = "() => app.graph.nodes.find((node) => node.type === 'StableAnimatorSample').size[1]"
UNDO_STEPS = """() => {
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    changeTracker.checkState();
    return changeTracker.undoQueue.length;
}"""
# Queues what is on the page as if it were another workflow, with another seed.
QUEUE_FOREIGN = """async () => {
    const prompt = await app.graphToPrompt();
    prompt.workflow.id = "another";
    prompt.output["5"].inputs.seed += 1;
    await app.api.queuePrompt(0, prompt);
}"""
# Which events of the server are listened to once more when a graph is loaded.
LISTENED = """async (graph) => {
    const [heard, own] = [[], app.api.addEventListener];
    app.api.addEventListener = (kind, ...rest) => {
        heard.push(kind);
        return own.call(app.api, kind, ...rest);
    };
    await app.loadGraphData(graph);
    delete app.api.addEventListener;
    return heard;
}"""
PAGES_OWN = "Attempted to cleanup event listeners"  # it says so whenever somebody enters a subgraph
STEPS = 5
PLACES = [(0, 20), (0, 200), (0, 400), (340, 20), (680, 20)]
MODEL, POSE, FACE, HJB = "STABLEANIMATOR_MODEL", "POSE_KEYPOINT", "STABLEANIMATOR_FACE", "STABLEANIMATOR_HJB"
# What Sample gives when it is done, from now on, is not looked at: what is drawn came while it ran.
LIVE_ALONE = """() => {
    const graphs = [app.graph, ...app.graph.subgraphs.values()];
    for (const graph of graphs) for (const node of graph.nodes) node.onExecuted = undefined;
}"""
# Which share of the width has a colour of the heat strip's scale, in the rows that have any, the legend left out; 0 if
# those are less than a tenth of the canvas. How tall the page makes the node does not change it.
HEAT = """async () => {
    const { heat } = await import("/extensions/StableAnimator/common.js");
    const scale = new Set(Array.from({ length: 1001 }, (_, i) => heat(i / 1000)));
    const canvas = [...document.querySelectorAll(".dom-widget canvas")].find((each) => each.title.startsWith("Cosine"));
    if (!canvas?.width) return 0;
    const width = Math.floor(canvas.width * 0.85);
    const data = canvas.getContext("2d").getImageData(0, 0, width, canvas.height).data;
    const rows = Array(canvas.height).fill(0);
    for (let i = 0; i < data.length; i += 4) {
        rows[Math.floor(i / 4 / width)] += scale.has(`rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`);
    }
    const coloured = rows.filter((count) => count > 0);
    if (coloured.length < canvas.height / 10) return 0;
    return coloured.reduce((sum, count) => sum + count, 0) / (width * coloured.length);
}"""


def graph() -> dict:
    """The built-in example on the smallest model; 5 steps, the face optimised twice in steps 2 and 3."""
    nodes = [
        ("StableAnimatorLoadModel", [], [MODEL], ["tiny", "fp32", False]),
        ("StableAnimatorExample", [], ["IMAGE", POSE, POSE], [3]),
        (
            "StableAnimatorEncodeFace", [("model", MODEL), ("reference", "IMAGE"), ("reference_pose", POSE)],
            [FACE], [-1],
        ),
        ("StableAnimatorHJBOptions", [], [HJB], [True, 2, 2, 3, 0.1, "face", "face", 8]),
        (
            SAMPLE, [("model", MODEL), ("reference", "IMAGE"), ("poses", POSE), ("face", FACE), ("hjb", HJB)],
            ["LATENT"], [1, "fixed", STEPS, 1, 1, 0, 0, 0, 0],
        ),
    ]  # fmt: skip
    ways = [
        (1, 0, 3, 0), (2, 0, 3, 1), (2, 1, 3, 2), (1, 0, 5, 0), (2, 0, 5, 1), (2, 2, 5, 2), (3, 0, 5, 3), (4, 0, 5, 4),
    ]  # fmt: skip
    links = [[i, *way, nodes[way[0] - 1][2][way[1]]] for i, way in enumerate(ways, 1)]
    made = []
    for number, (kind, inputs, outputs, values) in enumerate(nodes, 1):
        into = {way[4]: way[0] for way in links if way[3] == number}
        away = [[way[0] for way in links if way[1:3] == [number, slot]] for slot in range(len(outputs))]
        made.append({
            "id": number, "type": kind, "pos": PLACES[number - 1], "size": [300, 100],
            "inputs": [{"name": n, "type": t, "link": into[slot]} for slot, (n, t) in enumerate(inputs)],
            "outputs": [{"name": t, "type": t, "links": away[slot]} for slot, t in enumerate(outputs)],
            "flags": {}, "order": number, "mode": 0, "properties": {}, "widgets_values": values,
        })  # fmt: skip
    return {
        "last_node_id": 5, "last_link_id": len(links), "nodes": made, "links": links, "groups": [], "config": {},
        "extra": {}, "version": 0.4,
    }  # fmt: skip


@pytest.fixture
def sampled(desk: Desk) -> Desk:
    """A graph that has run once in this page; other tests may have left its result in ComfyUI's cache."""
    desk.load(graph())
    run = desk.run()
    assert run.succeeded, run.error
    desk.fit_view()
    return desk


def heat(desk: Desk) -> float:
    """Share of its width that the heat strip shows, once it is in sight (what is not is not drawn) and stays as it is:
    the page makes room for its own previews after a run, when it comes to it."""
    desk.fit_view()
    seen = [desk.js(HEAT)]
    while seen[-5:] != [seen[-1]] * 5 and len(seen) < 100:
        desk.page.wait_for_timeout(200)
        desk.fit_view()
        seen.append(desk.js(HEAT))
    return seen[-1]


def test_it_draws_what_the_server_tells(desk):
    desk.load(graph())
    assert heat(desk) == 0 and desk.js(KEPT) is None
    desk.set(SAMPLE, "seed", 501)
    run = desk.run()
    assert run.succeeded, run.error
    assert len(run.of(EVENT)) == 2 + 3 + 2 * 3, "start, end, a measurement in 3 plain steps, 3 in 2 refined ones"
    kept = desk.js(KEPT)
    assert kept["state"] == "done" and desk.js(OUTCOME, kept) == f"steps 0 to 4 ran in {kept['seconds']} s"
    assert [len(row["means"]) for row in kept["rows"].values()] == [1, 1, 3, 3, 1]
    assert [len(row.get("after", [])) for row in kept["rows"].values()] == [0, 0, 3, 3, 0]
    assert kept["face"].startswith("data:image/jpeg") and kept["worst"]["face"].startswith("data:image/jpeg")
    assert 0.7 < heat(desk) < 0.95
    assert "data:" not in json.dumps(desk.saved()), "no face gets into a file"
    values = next(node for node in desk.saved()["nodes"] if node["type"] == SAMPLE)["widgets_values"]
    assert [value for value in values if value is not None] == [501, "fixed", STEPS, 1, 1, 0, 0, 0, 0, 0, True]


def test_a_change_of_the_face_optimisation_runs_the_tail_alone(sampled):
    sampled.set("StableAnimatorHJBOptions", "iterations", 1)
    sampled.run()
    sampled.set("StableAnimatorHJBOptions", "iterations", 3)
    sampled.js(LIVE_ALONE)
    run = sampled.run()
    start, *told, _ = run.of(EVENT)
    assert start["first"] == 2 and {event["step"] for event in told} == {2, 3, 4}
    kept = sampled.js(KEPT)
    assert sorted(kept["rows"]) == ["0", "1", "2", "3", "4"]
    assert len(kept["rows"]["2"]["means"]) == 4


def ends(history: dict) -> list[int]:
    """The mean at each step's end."""
    return [history["rows"][str(step)]["means"][-1] for step in range(history["steps"])]


def test_two_runs_are_compared_and_the_cached_one_is_the_same_run(desk):
    desk.speak("en")
    desk.load(graph())
    desk.set(SAMPLE, "seed", 506)
    runs = []
    for iterations in (2, 4):
        desk.set("StableAnimatorHJBOptions", "iterations", iterations)
        assert desk.run().succeeded
        runs.append(desk.js(KEPT))
    first, second = runs
    assert first["last"] is None
    assert second["last"]["means"] == ends(first) and second["last"]["csim"] == first["rows"]["4"]["before"]
    now, last = (f"{history['rows']['4']['means'][-1] / 1000:.2f}" for history in runs[::-1])
    said = f"now {now}, last run {last} (2 iterations)"
    assert desk.js(COMPARISON, second) == said
    desk.js(WIDE)
    assert {said, "last run", "HJB: 4 iterations, steps 2 to 3, rate 0.1, falling"} <= desk.written()
    assert "means" not in json.dumps(desk.saved()), "nothing of it gets into a file"
    assert "5" in desk.run().of("execution_cached")[0]["nodes"]
    assert desk.js(KEPT)["last"] == second["last"], "told again, it is no other run"
    desk.open()
    desk.page.wait_for_selector(".dom-widget canvas", state="attached")
    assert {said, "last run"} <= desk.written()


OLDER = """async () => {
    const { remember } = await import("/extensions/StableAnimator/common.js");
    const { hjb, ...older } = %s;
    const node = app.graph.nodes.find((each) => each.type === "StableAnimatorSample");
    remember(node, "identity", older);
    node.onConfigure({});
}"""


def test_what_an_earlier_version_remembered_is_not_drawn(desk):
    desk.load(graph())
    desk.js(OLDER % json.dumps(HISTORY))
    assert heat(desk) == 0 and not desk.problems


HISTORY = {
    "state": "done", "steps": 2, "frames": [0, 5], "step": 1, "rows": {"0": {"means": [100], "before": [90, 110]}},
    "hjb": {"iterations": 3, "steps": [1, 1], "lr": 0.1, "strength": "even", "stop": "count"},
}  # fmt: skip


def ended(*means: int, before: tuple = (200, None), after: tuple = (300, None), **other) -> dict:
    """The history of a run of two steps and two frames, one without a face."""
    row = {"refined": True, "means": list(means), "before": list(before), "after": list(after)}
    return HISTORY | {"rows": HISTORY["rows"] | {"1": row}} | other


def test_the_last_run_is_the_last_finished_one_of_the_same_frames_and_steps(desk):
    one, two, draft = ended(200, 300), ended(200, 400), ended(200, 350, frames=[0])
    assert desk.js(COMPARED, [one, two]) == [None, [100, 300]]
    assert desk.js(COMPARED, [one, two, two, two])[1:] == [[100, 300]] * 3, "a run that is told again is the same"
    assert desk.js(COMPARED, [one, two, one]) == [None, [100, 300], [100, 400]]
    assert desk.js(COMPARED, [one, draft, two]) == [None, None, [100, 300]]
    assert desk.js(COMPARED, [one, ended(200, 500, state="stopped"), two])[1:] == [[100, 300]] * 2
    unmeasured = HISTORY | {"rows": {}}
    assert desk.js(COMPARED, [one, unmeasured, two])[2] == [100, 300]
    changed = one | {"hjb": HISTORY["hjb"] | {"lr": 0.2}}
    assert desk.js(COMPARED, [one, changed])[1] == [100, 300], "a change that did nothing is shown, too"


@pytest.mark.parametrize(
    "last, how",
    [
        ({}, "same HJB"),
        ({"lr": 0.05, "steps": [0, 1]}, "steps 0 to 1, rate 0.05"),
        ({"stop": "adaptive", "sharpest": 1.2}, "up to 3 iterations, sharpest 1.2"),
        ({"off": "settings"}, "HJB: off"),
    ],
)
def test_a_comparison_says_what_was_different(desk, last, how):
    hjb = last if "off" in last else HISTORY["hjb"] | last
    other = {"means": [100, 890], "frames": [0, 5], "csim": [890, None], "hjb": hjb}
    now = ended(200, 930, last=other)
    assert desk.js(COMPARISON, now) == f"now 0.93, last run 0.89 ({how})"
    running = now | {"state": "running", "step": 0}
    assert desk.js(COMPARISON, running) == f"last run 0.10 after it ({how})"


def test_pointing_at_a_frame_tells_what_it_came_to_in_the_last_run(desk):
    history = ended(200, 930, after=(930, None), last={"means": [100, 890], "frames": [0, 5], "csim": [890, None]})
    assert desk.js(SENTENCES, [history, [(1, 0), (1, 1), (0, 0), (1, None)]]) == [
        "step 1, frame 0: 0.20 before HJB, 0.93 after; last run 0.89",
        "step 1, frame 5: no face",
        "step 0, frame 0: 0.09",
        "step 1, mean: 0.20 before HJB, 0.93 after; last run 0.89",
    ]


SETTINGS = [
    {}, {"iterations": 1, "last_step": 2}, {"stop": "adaptive", "decode": "full", "scope": "all"},
    {"strength": ((0, 0.5),)}, *({"strength": points} for points in CURVES.values()),
    {"iterations": 0}, {"first_step": 0, "last_step": 0, "strength": CURVES["rising"]},
]  # fmt: skip


def test_it_words_settings_as_notes_do_and_in_chinese(desk):
    """What notes say of HJB without the scope, nodes/sample.py."""
    given = [HJBConfig(**{"iterations": 3, "first_step": 2, "last_step": 4} | each) for each in SETTINGS]
    told = [*(resolve(hjb, STEPS) for hjb in given), resolve(given[0], STEPS, face=False)]
    words = [*(describe(hjb, STEPS) for hjb in given), describe(given[0], STEPS, face=False)]
    assert desk.js(IN_WORDS, told) == words
    desk.speak("zh")
    chinese = desk.js(IN_WORDS, told)
    assert chinese[0] == "HJB：迭代 3 次，第 2 到 4 步，学习率 0.1，逐步减弱"
    assert len(set(chinese)) == len(set(words)) and latin(chinese) == {"HJB", "Latent"}


def test_kept_steps_without_a_measurement_are_said_to_be_so(desk):
    desk.speak("en")
    desk.load(graph())
    desk.set(SAMPLE, "seed", 505)
    desk.set(SAMPLE, "identity_scope", False)
    assert not desk.run().of(EVENT)
    desk.set(SAMPLE, "identity_scope", True)
    desk.set("StableAnimatorHJBOptions", "iterations", 3)
    assert desk.run().of(EVENT)[0]["first"] == 2
    assert "not measured" in desk.written() and sorted(desk.js(KEPT)["rows"]) == ["2", "3", "4"]


UNMEASURED = """async ([first, measured]) => {
    const { unmeasured } = await import("/extensions/StableAnimator/scope.js");
    return unmeasured({ first, rows: Object.fromEntries(measured.map((step) => [step, {}])) });
}"""


def test_measured_steps_are_not_said_to_be_unmeasured(desk):
    """Kept steps without a measurement are told run by run, where measured ones lie between them."""
    assert desk.js(UNMEASURED, [5, [2, 3]]) == [[0, 2], [4, 5]]
    assert desk.js(UNMEASURED, [5, [0, 1, 2, 3, 4]]) == [] == desk.js(UNMEASURED, [0, []])
    assert desk.js(UNMEASURED, [2, []]) == [[0, 2]]


OUTCOMES = [
    ({"state": "running", "first": 0, "seconds": None}, "steps 0 to 4 will be run"),
    ({"state": "running", "first": 2, "seconds": 7}, "steps 0 to 1 are kept, 2 to 4 will be run, about 7 s"),
    ({"state": "running", "first": 5, "seconds": 0}, "all 5 steps are kept, nothing is run"),
    (
        {"state": "running", "first": 0, "seconds": None, "left": {"done": 2, "seconds": 7, "whole": True}},
        "2 of 5 steps done, about 7 s left",
    ),
    (
        {"state": "running", "first": 0, "seconds": None, "left": {"done": 2, "seconds": 179, "whole": False}},
        "2 of 5 steps done, about 3 min left, plus the face optimisation",
    ),
    ({"state": "stopped", "first": 0, "step": 3}, "stopped in step 3; steps that were done are kept"),
    ({"state": "done", "first": 2, "seconds": 7}, "steps 2 to 4 ran in 7 s, steps 0 to 1 were kept"),
    ({"state": "done", "first": 5, "seconds": 0}, "all 5 steps were kept, nothing was run"),
    (
        {"state": "done", "first": 0, "seconds": 7, "face": None},
        "steps 0 to 4 ran in 7 s; without a face there is no identity to follow",
    ),
]


def test_it_says_what_a_run_does_and_came_to(desk):
    common = {"steps": 5, "face": "data:"}
    assert [desk.js(OUTCOME, common | history) for history, _ in OUTCOMES] == [text for _, text in OUTCOMES]


def test_it_is_drawn_again_after_a_reload_and_from_the_cache(sampled):
    share, kept = heat(sampled), sampled.js(KEPT)
    assert share > 0.7
    sampled.open()
    sampled.page.wait_for_selector(".dom-widget canvas", state="attached")
    sampled.fit_view()
    assert sampled.js(KEPT) == kept and heat(sampled) == pytest.approx(share, abs=0.02)
    sampled.load(graph())
    assert sampled.js(KEPT) is None
    again = sampled.run()
    assert "5" in again.of("execution_cached")[0]["nodes"] and not again.of(EVENT)
    assert sampled.js(KEPT)["rows"] == kept["rows"] and heat(sampled) > 0.7


def test_it_works_inside_a_subgraph(desk):
    desk.load(graph())
    desk.set(SAMPLE, "seed", 502)
    desk.js("""() => {
        const node = app.graph.nodes.find((each) => each.type === "StableAnimatorSample");
        app.graph.convertToSubgraph(new Set([node]));
    }""")
    desk.js(LIVE_ALONE)
    run = desk.run()
    assert run.succeeded and ":" in run.of(EVENT)[0]["node"], run.error
    desk.js("() => app.canvas.openSubgraph(app.graph.nodes.find((node) => node.subgraph).subgraph)")
    assert heat(desk) > 0.7
    desk.problems[:] = [problem for problem in desk.problems if PAGES_OWN not in problem]


def test_the_switch_hides_it(sampled):
    tall = sampled.js(HEIGHT)
    sampled.set(SAMPLE, "identity_scope", False)
    sampled.settle()
    assert sampled.js(HEIGHT) < tall - 250
    assert not sampled.page.locator(".dom-widget canvas").is_visible()
    sampled.set(SAMPLE, "identity_scope", True)
    assert heat(sampled) > 0.7


def test_a_saved_height_is_kept(desk):
    for scope in (True, False):
        tall = graph()
        tall["nodes"][4] |= {"size": [420, 900], "widgets_values": [*tall["nodes"][4]["widgets_values"], 0, scope]}
        desk.load(tall)
        desk.settle()
        assert desk.js(HEIGHT) == 900


def test_a_run_is_nothing_to_undo_and_undo_does_not_wipe_the_scope(sampled):
    sampled.set(SAMPLE, "seed", 503)
    sampled.run()  # ComfyUI's own previews make the node grow once, which can be undone
    sampled.set(SAMPLE, "seed", 504)
    steps, kept = sampled.js(UNDO_STEPS), sampled.js(KEPT)
    assert steps > 0
    sampled.run()
    assert sampled.js(UNDO_STEPS) == steps and sampled.js(KEPT) != kept
    sampled.command("Comfy.Undo")
    sampled.settle()
    assert sampled.saved()["nodes"][4]["widgets_values"][0] == 503
    assert heat(sampled) > 0.7


def test_another_workflow_with_nodes_of_the_same_id_is_not_drawn(sampled):
    kept, before = sampled.js(KEPT), len(sampled.events)
    sampled.js(QUEUE_FOREIGN)
    while ("executing", None) not in [(kind, data.get("node")) for kind, data in sampled.events[before:]]:
        sampled.page.wait_for_timeout(100)
    told = [data for kind, data in sampled.events[before:] if kind == EVENT]
    assert {event["node"] for event in told} == {"5"} and {event["workflow"] for event in told} == {"another"}
    assert sampled.js(KEPT) == kept


def test_nodes_leave_no_listeners_behind(desk):
    assert desk.js(LISTENED, graph()) == []


def test_only_pictures_that_are_ours_are_asked_for(desk):
    asked = []
    desk.page.on("request", lambda request: asked.append(request.url))
    desk.js(
        """async (urls) => {
            const { picture } = await import("/extensions/StableAnimator/common.js");
            for (const url of urls) picture(url, () => {});
        }""",
        ["https://elsewhere.invalid/a.jpg", "/extensions/a.jpg", "data:image/svg+xml,a.jpg"],
    )
    desk.page.wait_for_timeout(300)
    assert not any(url.endswith("a.jpg") for url in asked)


def test_it_speaks_chinese(sampled):
    sampled.set("StableAnimatorHJBOptions", "iterations", 1)
    sampled.run()
    sampled.speak("zh")
    sampled.page.wait_for_selector(".dom-widget canvas", state="attached")
    sampled.js(WIDE)
    written = sampled.written()
    assert latin(written) == {"HJB"} and {"参考", "相似度", "HJB 之后", "上次运行"} <= written
    hint = sampled.page.locator(".dom-widget canvas").get_attribute("title")
    assert latin([hint]) == {"HJB"}
    sampled.load(graph())
    sampled.js("() => window.written.clear()")
    assert latin(sampled.written()) == set() and "身份示波器" in sampled.written()


def latin(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall("[A-Za-z]{2,}", text)}
