"""The page in Chinese: nodes and their help. In which language the views speak; their own tests have the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from desk import Desk

LOCALES = Path(__file__).resolve().parents[2] / "locales"
NODE = "StableAnimatorHJBOptions"
TEXT = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))[NODE]
# Every text of the views: as it is said, in the page's language, and in English.
SAY = """async (language) => {
    await window.app.extensionManager.setting.set("Comfy.Locale", language);
    const { TEXTS, say } = await import("/extensions/StableAnimator/texts.js");
    return Object.keys(TEXTS.en).map((key) => [say(key), TEXTS[language]?.[key] ?? null, TEXTS.en[key]]);
}"""


@pytest.fixture
def chinese(desk: Desk) -> Desk:
    """A page in Chinese with one node."""
    desk.speak("zh")
    desk.js("type => window.app.graph.add(window.LiteGraph.createNode(type))", NODE)
    return desk


def test_nodes_are_translated(chinese):
    shown = chinese.js(
        """type => {
            const node = window.app.graph.nodes.find((each) => each.type === type);
            return [node.title, node.outputs[0].localized_name, ...node.widgets.map((each) => each.label)];
        }""",
        NODE,
    )
    names = [text["name"] for text in TEXT["inputs"].values()]
    assert shown == [TEXT["display_name"], TEXT["outputs"]["0"]["name"], *names]


def test_a_help_page_is_translated(chinese):
    chinese.fit_view()
    chinese.js("type => app.canvas.selectItems(app.graph.nodes.filter((node) => node.type === type))", NODE)
    chinese.page.get_by_test_id("info-button").click()
    page = chinese.page.locator(".node-help-content")
    page.get_by_role("heading", level=1).wait_for()
    assert page.get_by_role("heading", level=1).inner_text() == TEXT["display_name"]
    assert set(page.locator("strong").all_inner_texts()) == {text["name"] for text in TEXT["inputs"].values()}


@pytest.mark.parametrize("language", ["zh", "en", "fr"])
def test_the_views_speak_the_pages_language_or_english(desk, language):
    for said, translated, english in desk.js(SAY, language):
        assert said == re.sub(r"\{\w+\}", "undefined", translated or english)
        assert (translated is None) == (language == "fr")
