"""HJB's settings in words: what whoever left them to the model reads."""

import pytest

from stableanimator_core.hjb_settings import CURVES, HJBConfig, describe, resolve

STEPS = 10
BASE = {"iterations": 3, "first_step": 5, "last_step": 7, "strength": CURVES["even"]}


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "3 iterations, steps 5 to 7, rate 0.1, even"),
        ({"iterations": 1, "last_step": 5}, "1 iteration, step 5, rate 0.1, even"),
        ({"last_step": 99, "lr": 0.05}, "3 iterations, steps 5 to 9, rate 0.05, even"),
        ({"first_step": 0, "strength": CURVES["rising"]}, "3 iterations, steps 1 to 7, rate 0.1, rising"),
        ({"strength": ((0.1, 0.5),)}, "3 iterations, steps 5 to 7, rate 0.1, a curve of its own"),
        ({"stop": "adaptive", "sharpest": 1.5}, "up to 3 iterations, steps 5 to 7, rate 0.1, even, sharpest 1.5"),
        (
            {"decode": "full", "scope": "all"},
            "3 iterations, steps 5 to 7, rate 0.1, even, whole frames decoded, all latents move",
        ),
        ({"iterations": 0}, "off"),
        ({"first_step": 0, "last_step": 0, "strength": CURVES["rising"]}, "off, its strength is 0 in its steps"),
    ],
)
def test_settings_in_words(given, words):
    assert describe(HJBConfig(**BASE | given), STEPS) == f"HJB: {words}"


def test_without_a_face_nothing_is_optimised():
    assert describe(HJBConfig(**BASE), STEPS, face=False) == "HJB: off, there is no face to work on"
    assert describe(HJBConfig(iterations=0), STEPS, face=False) == "HJB: off", "whatever the face"


def test_what_the_page_is_told_leaves_out_the_usual():
    usual = {"iterations": 3, "steps": [5, 7], "lr": 0.1, "strength": "even", "stop": "count"}
    assert resolve(HJBConfig(**BASE), STEPS) == usual
    other = {"stop": "adaptive", "sharpest": 1.5, "decode": "full", "scope": "all"}
    assert resolve(HJBConfig(**BASE | other), STEPS) == usual | other
