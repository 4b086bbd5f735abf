"""How long a run takes: told after its first step, remembered for Preflight, forgotten without harm."""

from __future__ import annotations

import json
import re

import pytest
from material import literal, prompt, standing


@pytest.fixture
def file(server):
    """Where speeds are kept; empty at first."""
    kept = server.base / "user" / "stableanimator" / "speed.json"
    kept.unlink(missing_ok=True)
    return kept


def check(steps: int) -> dict:
    """Preflight of the same job."""
    given = {"reference": ["image", 0], "reference_pose": literal(standing(1)), "driving": literal(standing(4))}
    sizes = {"steps": steps, "width": 0, "height": 0, "context_frames": 0, "measure": False}
    nodes = prompt()
    check = {"class_type": "StableAnimatorPreflight", "inputs": {"model": ["load", 0]} | given | sizes}
    return {"load": nodes["load"], "image": nodes["image"], "check": check}


def time_of(server, steps: int = 6) -> str:
    (report,) = server.run(check(steps)).outputs["check"]["text"]
    return next(line for line in report.split("\n") if line.startswith("time: "))


def test_sample_tells_what_is_left_after_every_step(server, file):
    run = server.run(prompt(steps=4, seed=901))
    assert run.succeeded, run.error
    told = run.of("stableanimator.left")
    assert [data["done"] for data in told] == [1, 2, 3] and all(data["seconds"] > 0 for data in told)
    run = server.run(prompt(steps=4, seed=904, identity_scope=False))
    told = [note for note in run.notes if " left" in note]
    assert [re.match(r"(\d) of 4 steps done, about \d+ s left", note)[1] for note in told] == ["1", "2", "3"]
    (ended,) = [data["output"]["text"] for data in run.of("executed") if data["node"] == "sample"]
    assert not any("left" in text for text in ended), "it does not stay"


def test_preflight_knows_earlier_runs(server, file):
    assert "not known before a first run; Sample tells after its first step" in time_of(server)
    run = server.run(prompt(steps=6, seed=902))
    assert run.succeeded, run.error
    assert "sampling takes about " in time_of(server) and "by the last run of this model at this size" in time_of(
        server
    )
    (kind,) = json.loads(file.read_text())
    assert kind.startswith("tiny float32 64x64 guidance 2 decode face on ")


def test_a_spoilt_file_is_no_fault(server, file):
    file.parent.mkdir(exist_ok=True)
    for spoilt in ("{", "[1]", '{"tiny": "fast"}'):
        file.write_text(spoilt)
        assert "not known before a first run" in time_of(server)
    assert server.run(prompt(steps=3, seed=903)).succeeded and len(json.loads(file.read_text())) == 1
