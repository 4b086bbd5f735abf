"""Translations: English says what the schemas say, every other language has all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOCALES, WEB = REPOSITORY / "locales", REPOSITORY / "web"
DOCS = WEB / "docs"
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


def shape(page: str) -> list[str]:
    """How a help page is built: its headings, list items with their depth, and rows of tables."""
    return re.findall(r"^(#+ | *- |\|)", page, re.MULTILINE)


def code(page: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", page))


def help_page(node: str, language: str) -> str:
    return (DOCS / node / f"{language}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", nodes_in("en"))
def test_a_language_has_every_help_page(node, language):
    english, page = (DOCS / f"{node}.md").read_text(encoding="utf-8"), help_page(node, language)
    names, marked = nodes_in(language)[node], words(page)
    assert page.startswith(f"# {names['display_name']}\n")
    assert shape(page) == shape(english), "built like the English page"
    assert not code(english) - code(page), "named in English alone"
    called = {name: {f"`{name}`", f"**{text['name']}**"} for name, text in names["inputs"].items()}
    unnamed = [name for name, both in called.items() if not both <= marked]
    assert not unnamed, "inputs are called as on the node, with the name that workflows have"


def words(page: str) -> set[str]:
    """What a page sets apart as code or in bold, with its marks."""
    return set(re.findall(r"`[^`]+`|\*\*[^*]+\*\*", page))


def test_no_help_page_is_left_over():
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.*")}
    ends = [".md", *(f"/{language}.md" for language in LANGUAGES)]
    assert there == {node + end for node in nodes_in("en") for end in ends}


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_pages_are_served_where_the_page_looks_for_a_language(server, language):
    for node in nodes_in("en"):
        assert server.text(f"/extensions/StableAnimator/docs/{node}/{language}.md") == help_page(node, language)


def view_texts() -> dict[str, dict[str, str]]:
    """By language and key what the views say, as it is written in JavaScript."""
    source = (WEB / "texts.js").read_text(encoding="utf-8")
    blocks = re.findall(r"^  (\w+): \{\n(.*?)^  \},$", source, re.MULTILINE | re.DOTALL)
    entry = re.compile(r"^    (\w+):\s+(.*(?:\n      .*)*)", re.MULTILINE)
    return {language: dict(entry.findall(block)) for language, block in blocks}


def test_the_views_have_every_text_in_every_language():
    said = view_texts()
    english = said.pop("en")
    assert sorted(said) == LANGUAGES and len(english) > 40
    for translated in said.values():
        assert list(translated) == list(english)
        same = [key for key, text in translated.items() if text == english[key]]
        assert not same, "left in English"
        filled = [key for key, text in translated.items() if braces(text) != braces(english[key])]
        assert not filled, "other values than in English"


def braces(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def test_the_views_say_what_there_is_to_say():
    sources = "".join(path.read_text(encoding="utf-8") for path in WEB.glob("*.js") if path.name != "texts.js")
    asked = re.findall(r"\bsay\((.*?)[,)]", sources)
    assert {key.strip('"') for key in asked} == set(view_texts()["en"]), "a key without a text, or a text without use"
    written = re.findall(r"\bwrite\(context, [\"`](.*?)[\"`],", sources)
    assert set(written) == {"HJB", "→ ${said(now)}", "0", "1"}, "in English alone"
