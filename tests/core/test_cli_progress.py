"""What `animate` shows while it works: steps that are done, faces, and the time left."""

from __future__ import annotations

import re

import torch

from stableanimator_core import cli
from stableanimator_core.cli import animate
from stableanimator_core.cli.report import Report
from stableanimator_core.evaluation.estimate import Work
from stableanimator_core.hjb import Likeness
from stableanimator_core.trail import StepSeconds, Trail

FRAMES = 4
X = torch.zeros(1)


def run(capsys, planned: list[int], taken: list[int], first: int = 0) -> list[str]:
    """What is shown of a run whose steps denoise in 10 s and optimise in 20 s a round."""
    trail = Trail()
    hooks = animate.progress_hooks(Report(), work=Work(tuple(planned), FRAMES, FRAMES), trail=trail)
    trail.seconds = [StepSeconds(10.0, 0.0, 0)] * first
    for step in range(first, len(planned)):
        for iteration in range(taken[step]):
            hooks.on_identity(seen(step, iteration))
        trail.seconds.append(StepSeconds(10.0, 20.0 * taken[step], taken[step]))
        hooks.on_step(step, X, X, len(planned))
    return capsys.readouterr().err.splitlines()


def seen(step: int, iteration: int) -> Likeness:
    csim = torch.tensor([0.5] * (FRAMES - 1) + [float("nan")])
    return Likeness(step, iteration, csim, torch.zeros(3, 3, 8, 8), [0, 1, 2], refined=True, last=False)


def test_the_time_left_is_reckoned_by_the_steps_that_were_run(capsys):
    assert run(capsys, [0] * 4, [0] * 4) == [
        "1/4 denoising steps done, about 30 s left",
        "2/4 denoising steps done, about 20 s left",
        "3/4 denoising steps done, about 10 s left",
        "4/4 denoising steps done",
    ]


def test_the_face_optimisation_is_reckoned_once_it_was_seen(capsys):
    assert run(capsys, [0, 2, 2, 0], [0, 2, 2, 0]) == [
        "1/4 denoising steps done, about 30 s left, plus the face optimisation",
        "2/4 denoising steps done, about 60 s left, face at 0.50 in step 1",
        "3/4 denoising steps done, about 10 s left, face at 0.50 in step 2",
        "4/4 denoising steps done, face at 0.50 in step 2",
    ]


def test_without_a_face_nothing_is_reckoned_for_it(capsys):
    assert run(capsys, [2, 2, 2], [0] * 3) == [
        "1/3 denoising steps done, about 20 s left",
        "2/3 denoising steps done, about 10 s left",
        "3/3 denoising steps done",
    ]


def test_steps_that_were_kept_are_no_measure(capsys):
    assert run(capsys, [0, 0, 1, 1], [0, 0, 1, 1], first=2) == [
        "3/4 denoising steps done, about 30 s left, face at 0.50 in step 2",
        "4/4 denoising steps done, face at 0.50 in step 3",
    ]


def test_it_is_a_passing_word_that_counts_rounds_from_one(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    hooks = animate.progress_hooks(Report(), "clip 1: ")
    hooks.on_identity(seen(3, 1))
    hooks.on_step(3, X, X, 5)
    err = capsys.readouterr().err
    assert "clip 1: step 3: face optimisation, round 2, similarity 0.50" in err
    assert err.endswith("4/5 clip 1: denoising steps done, face at 0.50 in step 3")


def test_animate_and_demo_say_it(material, tiny_model, tmp_path, capsys):
    given = ["--model", str(tiny_model), "--device", "cpu", "--hjb-iterations", "2"]
    pictures = ["--reference", str(material / "reference.png"), "--driving", str(material / "driving.json")]
    assert cli.main(["animate", *given, "--hjb-steps", "0:1", *pictures, "--out", str(tmp_path / "out.mp4")]) == 0
    assert re.search(r"^1/2 denoising steps done, about \d+ s left, face", capsys.readouterr().err, re.MULTILINE)
    assert cli.main(["demo", *given, "--frames", "3", "--out", str(tmp_path / "demo")]) == 0
    assert re.search(
        r"^1/2 without HJB: denoising steps done, about \d+ s left$", capsys.readouterr().err, re.MULTILINE
    )
