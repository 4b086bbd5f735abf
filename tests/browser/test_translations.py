"""The page in Chinese: the pack's nodes are translated."""

from __future__ import annotations

import json
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[2] / "locales"
NODE = "StableAnimatorHJBOptions"


def test_nodes_are_translated(desk):
    desk.js("() => window.app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    desk.open()
    desk.js("type => window.app.graph.add(window.LiteGraph.createNode(type))", NODE)
    shown = desk.js(
        """type => {
            const node = window.app.graph.nodes.find((each) => each.type === type);
            return [node.title, node.outputs[0].localized_name, ...node.widgets.map((each) => each.label)];
        }""",
        NODE,
    )
    text = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))[NODE]
    names = [text["inputs"][name]["name"] for name in text["inputs"]]
    assert shown == [text["display_name"], text["outputs"]["0"]["name"], *names]
