"""`doctor` plans the memory of this machine's card."""

import json
import sys

import pytest

from stableanimator_core import cli
from stableanimator_core.cli import doctor
from stableanimator_core.cli.doctor import plan_for
from stableanimator_core.evaluation import plan
from stableanimator_core.models import kernels
from stableanimator_core.preflight import Installation


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Kernels are fused on the card, and on no other device."""
    monkeypatch.setattr(kernels, "usable", lambda device: device.type == "cuda")


@pytest.fixture
def told(capsys, monkeypatch):
    """What doctor says on a machine with such a device, as text and as JSON."""

    def run(device: dict) -> tuple[str, dict]:
        installation = Installation((), device, None, {}, {}, {})
        monkeypatch.setattr(doctor, "check_installation", lambda places: installation)
        assert cli.main(["doctor"]) == cli.main(["doctor", "--json"]) == 0
        text, _, record = capsys.readouterr().out.rpartition("\n{")
        return text, json.loads("{" + record)

    return run


def card(gib: float) -> dict:
    return {"name": "cuda", "torch": "2.11", "gpu": "a card", "gpu_memory_gib": gib, "gpu_memory_free_gib": gib}


def test_without_a_gpu_nothing_is_planned(told):
    text, record = told({"name": "cpu", "torch": "2.11"})
    assert "memory of a GPU: not planned, none is here that torch can use" in text
    assert record["memory_plans"] == []


def test_the_published_model_is_planned_for_the_card(told):
    text, record = told(card(8.0))
    small, large = record["memory_plans"]
    assert small["size"] == [512, 512] and large["size"] == [576, 1024]
    assert small["fits"] and large["fits"] and small["card_gib"] == 8.0 and large["hjb_chunk"] < small["hjb_chunk"] == 8
    lines = [line for line in text.splitlines() if line.startswith("model v1 at ")]
    needed = f"about {small['peak_gib']:.1f} of the card's 8.0 GiB; networks take turns on the card"
    assert lines[0] == f"model v1 at 512x512: {needed}"
    assert f"the face optimisation decodes {large['hjb_chunk']} faces at once" in lines[1]


def test_the_model_is_built_once(told, monkeypatch):
    built = []
    build = plan.build_models
    monkeypatch.setattr(plan, "build_models", lambda config: built.append(config.name) or build(config))
    told(card(8.0))
    assert built == ["v1", "v1"], "told runs doctor twice"


def test_networks_that_take_turns_are_planned_for(told):
    """On 6 GB 512x512 is made; on 24 GB nothing has to leave and nothing is told of it."""
    text, record = told(card(6.0))
    small = record["memory_plans"][0]
    assert small["fits"] and small["peak_gib"] == pytest.approx(4.85, abs=0.01)
    assert small["held_gib"]["sampling"] < small["networks_gib"]
    needed = "about 4.9 of the card's 6.0 GiB; networks take turns on the card; "
    assert f"model v1 at 512x512: {needed}" in text
    assert "turns" not in told(card(24.0))[0]


def test_a_card_that_is_too_small(told):
    text, record = told(card(4.0))
    assert not any(plan["fits"] for plan in record["memory_plans"])
    assert text.count("at least: too much; the networks alone do not fit, take a smaller model or a larger card") == 2


def test_what_helps_where_denoising_does_not_fit(told):
    """Without the face optimisation, which takes less, it would not fit either."""
    text, _ = told(card(5.2))
    lines = [line for line in text.splitlines() if line.startswith("model v1 at ")]
    assert len(lines) == 2
    assert all("at least: too much; make a smaller video or lower context_frames" in line for line in lines)


def test_a_large_card_needs_no_pieces(told):
    text, _ = told(card(80.0))
    assert all(line.endswith("of the card's 80.0 GiB") for line in text.splitlines() if line.startswith("model v1 at "))


def test_broken_packages_are_not_planned_with(monkeypatch):
    monkeypatch.setitem(sys.modules, "stableanimator_core.evaluation.plan", None)
    assert plan_for(card(8.0)) == {}
