"""Reports in the page: readable below their node, and still there after a reload."""

from __future__ import annotations

from desk import Desk

REPORT = "xpath=//div[contains(@style, 'pre-wrap')]"


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


def shown(desk: Desk) -> list[str]:
    desk.page.wait_for_timeout(300)
    return desk.page.locator(REPORT).inner_text().split("\n")


def test_a_report_is_shown_in_lines_and_again_after_a_reload(desk):
    desk.load(graph())
    assert shown(desk) == ["run once: the report comes here"]
    run = desk.run()
    (report,) = run.outputs["2"]["text"]
    lines = [line.strip() for line in shown(desk) if line.strip()]
    assert lines == [line.strip() for line in report.split("\n")]
    assert lines[0].startswith("not ready: ") and any(line.startswith("PROBLEM: size 72 x 64") for line in lines)
    sizes = "() => [app.graph.getNodeById(2).size[1], app.graph.getNodeById(2).computeSize()[1]]"
    height, least = desk.js(sizes)
    assert height >= least > 300, "the node grew to show it"
    desk.open()
    desk.page.wait_for_selector(REPORT)
    assert [line.strip() for line in shown(desk) if line.strip()] == lines


def test_only_a_verdict_is_green_or_red(desk):
    colours = desk.js("""async () => {
        const { looks } = await import("/extensions/StableAnimator/report.js");
        const { COLOURS } = await import("/extensions/StableAnimator/common.js");
        const names = Object.fromEntries(Object.entries(COLOURS).map(([name, value]) => [value, name]));
        const firsts = [["ready", "Preflight"], ["not ready: 1", "Preflight"], ["recommended: off", "HJBSweep"]];
        return firsts.map(([line, kind]) => names[looks(line, 0, `StableAnimator${kind}`).colour]);
    }""")
    assert colours == ["good", "bad", "ink"]


def test_before_a_run_it_speaks_chinese(desk):
    desk.speak("zh")
    desk.load(graph())
    assert shown(desk) == ["运行一次后，报告显示在这里"]
