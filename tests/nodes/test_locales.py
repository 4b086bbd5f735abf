"""Translations: English says what the schemas say, every other language has all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
MADE_AT_RUN_TIME = {("StableAnimatorLoadModel", "model")}  # tooltips: a translation would hide what this one found
SYNTAX = set("@|{}")  # of the page's messages: text that holds these is not shown as it is


def nodes_in(language: str) -> dict:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def said_by_schemas(info: dict) -> dict:
    """nodeDefs.json as the page would fill it in from the nodes' own schemas."""
    said = {}
    for node, schema in info.items():
        if not node.startswith("StableAnimator"):
            continue
        inputs, given = {}, schema["input"]
        for name, (_, options) in (given.get("required", {}) | given.get("optional", {})).items():
            inputs[name] = {"name": options.get("display_name") or name}
            if (node, name) not in MADE_AT_RUN_TIME:
                inputs[name]["tooltip"] = options["tooltip"]
        outputs = zip(schema["output_name"], schema["output_tooltips"])
        said[node] = {
            "display_name": schema["display_name"],
            "description": schema["description"],
            "inputs": inputs,
            "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in enumerate(outputs)},
        }
    return said


def texts(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text of a nested dict by its path."""
    found = {}
    for key, value in tree.items():
        found |= texts(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def test_english_says_what_the_schemas_say(server):
    said = said_by_schemas(server.get("/object_info"))
    fresh = server.base / "nodeDefs.json"
    fresh.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    assert nodes_in("en") == said, f"copy {fresh} to locales/en"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text(language):
    english, translated = texts(nodes_in("en")), texts(nodes_in(language))
    assert list(translated) == list(english)
    same = [path for path, text in translated.items() if text == english[path] and path[-1] != "name"]
    assert not same, "left in English"
    numbers = [path for path, text in translated.items() if digits(text) != digits(english[path])]
    assert not numbers, "another number than in English"


def digits(text: str) -> list[str]:
    """The digits of a text in order of size: languages may put them in another place."""
    return sorted(letter for letter in text if letter.isdigit())


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_page_shows_every_text_as_it_is(server, language):
    assert not [path for path, text in texts(nodes_in(language)).items() if SYNTAX & set(text) or not text.strip()]
    assert server.get("/i18n")[language]["nodeDefs"] == nodes_in(language)
