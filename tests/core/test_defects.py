"""The list of the published code's defects is whole, and what it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = (ROOT / "tests/parity/DEFECTS.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^(\d+)\. (.*)$", LIST, re.MULTILINE)
DEFECTS = 38


def find(name: str) -> tuple[Path, str]:
    """File and test of `path` or `path::test`; core and parity are the folders of tests."""
    path, _, test = name.partition("::")
    folder = ROOT / "tests" if path.startswith(("core/", "parity/")) else ROOT
    return folder / path, test


def test_every_defect_is_listed_once():
    assert [int(number) for number, _ in ENTRIES] == list(range(1, DEFECTS + 1))


@pytest.mark.parametrize("number, entry", ENTRIES, ids=[number for number, _ in ENTRIES])
def test_what_an_entry_names_exists(number, entry):
    text, bracket, shown = entry.rpartition(" [")
    names = re.findall(r"`([^`]+)`", shown)
    assert bracket and names and len(text) > 40, "each entry says what is done and where that is shown"
    for name in names:
        path, test = find(name)
        assert path.is_file(), f"{name}: no such file"
        if test:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert test in defined, f"{name}: no such test"
        else:
            assert path.suffix != ".py" or "open**" in text.lower(), f"{name}: name a test, not a module"


def test_a_name_that_is_gone_is_noticed():
    path, test = find("core/test_defects.py::test_every_defect_is_listed_once")
    assert path == Path(__file__).resolve() and test == "test_every_defect_is_listed_once"
    assert not find("core/test_of_nothing.py::test_nothing")[0].is_file()
