"""Every shipped workflow in the page: chosen in the template browser, queued where its files ship here, done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from desk import Desk

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
SHIPPED = [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]
BUILT_IN = [name for name in SHIPPED if '"v1"' not in (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")]
SHORTER = (
    ("StableAnimatorExample", "frames", 3),
    ("StableAnimatorSample", "steps", 2),
)


def opened(desk: Desk, name: str) -> dict:
    """The shipped workflow, after the page has opened it from the template browser."""
    desk.open_template(name)
    shipped = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    desk.page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(shipped["nodes"]))
    return shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_workflow_opens_without_a_missing_node_or_a_warning(desk, name):
    shipped = opened(desk, name)
    assert desk.unknown_nodes() == [] and desk.alerts() == []
    kept = {node["id"]: node.get("widgets_values") for node in desk.saved()["nodes"]}
    for node in shipped["nodes"]:  # the page adds values of its own behind ours, as for an upload's button
        values = node.get("widgets_values") or []
        assert (kept[node["id"]] or [])[: len(values)] == values, f"{node['id']} {node['type']}"


@pytest.mark.parametrize("name", BUILT_IN)
def test_workflow_of_built_in_files_runs(desk, name):
    opened(desk, name)
    for node, widget, value in SHORTER:
        desk.set(node, widget, value)
    run = desk.run()
    assert run.succeeded, run.error
    assert desk.alerts() == []
