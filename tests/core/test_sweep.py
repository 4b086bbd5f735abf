"""Settings of the face optimisation side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stableanimator_core import cli
from stableanimator_core.cli import sweep as sweep_command
from stableanimator_core.errors import FaceError, InputError
from stableanimator_core.hjb import fitted_note
from stableanimator_core.hjb_settings import CURVES, HJBConfig
from stableanimator_core.keypoints import Poses
from stableanimator_core.pipeline import Hooks, SamplingConfig, StableAnimator, find_face, sample
from stableanimator_core.sweep import (
    SweepRow,
    mean_rows,
    name_of,
    parse_counts,
    parse_ranges,
    recommend,
    sweep_hjb,
    sweep_plot,
    sweep_sheet,
    sweep_table,
    sweep_variants,
)
from stableanimator_core.trail import Trail
from stableanimator_core.vae import decode_latents
from stableanimator_core.video import read_image
from stableanimator_core.weights import load_models

BASE = HJBConfig(iterations=1, first_step=2, last_step=3, lr=0.3)
STEPS = 4


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture
def clip(models, material):
    """Arguments of `sweep_hjb` before the variants."""
    reference, pose = read_image(material / "reference.png"), Poses.load(material / "reference.json")
    with torch.no_grad():
        face = find_face(models, reference, pose)
    settings = SamplingConfig.for_model(models.config, steps=STEPS)
    return models, reference, Poses.load(material / "driving.json"), face, settings


@torch.no_grad()
def test_rows_are_what_sampling_gives(clip):
    """In the order of the variants, whatever the order of the work; CSIM by the embedder and by the judge."""
    models, reference, poses, face, settings = clip
    variants = sweep_variants(BASE, STEPS, [3, 0], [(0, 1), (2, 3)])
    done = []
    rows = sweep_hjb(*clip, variants, on_variant=lambda *count: done.append(count))
    assert [row.hjb for row in rows] == variants
    assert done == [(1, 3), (2, 3), (3, 3)]
    for row in rows:
        made = sample(models, reference, poses, face, settings, row.hjb)
        video = decode_latents(models.vae, made.latents).clamp(-1, 1)
        name, csim = StableAnimator(models).judge_identity(video, made.faces, reference, face)
        assert name == "judge" and row.csim_judge == pytest.approx(float(csim.mean()), abs=1e-5)
        alone = StableAnimator(replace(models, face_judge=None))
        _, csim = alone.judge_identity(video, made.faces, reference, face)
        assert row.csim == pytest.approx(float(csim.mean()), abs=1e-5)
        assert row.sharpness > 0 and row.seconds > 0
        assert row.faces.shape == (3, 96, 96, 3)
    off, *on = rows
    assert max(row.csim for row in on) > off.csim
    assert all(row.seconds > off.seconds for row in on), "seconds are those of a whole run"


@torch.no_grad()
def test_a_face_of_another_picture_is_judged_as_itself(clip):
    models, reference, poses, face, settings = clip
    moved = np.roll(reference, 40, axis=0)
    (row,) = sweep_hjb(models, moved, poses, face, settings, [BASE])
    made = sample(models, moved, poses, face, settings, BASE)
    video = decode_latents(models.vae, made.latents).clamp(-1, 1)
    _, csim = StableAnimator(models).judge_identity(video, made.faces, reference, face)
    assert row.csim_judge == pytest.approx(float(csim.mean()), abs=1e-5)
    _, wrong = StableAnimator(models).judge_identity(video, made.faces, moved, face)
    assert abs(float(wrong.mean()) - row.csim_judge) > 1e-4


def test_shared_steps_are_run_once(clip):
    """Off is run as a whole; then what begins late, from there; what begins at step 0 shares nothing."""
    ran, trail = [], Trail()
    hooks = Hooks(on_step=lambda i, x0, x, n: ran.append(i))
    variants = sweep_variants(BASE, STEPS, [0, 1, 2], [(0, 0), (3, 3)])
    sweep_hjb(*clip, variants, hooks=hooks, trail=trail)
    assert ran == [0, 1, 2, 3, 3, 3, 0, 1, 2, 3, 0, 1, 2, 3]


def test_a_model_without_a_judge(clip):
    models, *rest = clip
    (row,) = sweep_hjb(replace(models, face_judge=None), *rest, [BASE])
    assert row.csim_judge is None and row.identity == row.csim
    assert "judge" not in sweep_table([row])


def test_the_chunk_that_fits_is_told_though_hjb_off_comes_first(clip, monkeypatch):
    """Once, with that of the largest setting; all settings take it."""
    told, taken = [], []
    monkeypatch.setattr("stableanimator_core.hjb.free_bytes", lambda device: 0)

    def noted(models, reference, poses, face, settings, hjb, **more):
        taken.append((hjb.iterations, hjb.chunk))
        return sample(models, reference, poses, face, settings, hjb, **more)

    monkeypatch.setattr("stableanimator_core.sweep.sample", noted)
    variants = sweep_variants(BASE, STEPS, [1, 2])
    assert [variant.iterations for variant in variants] == [0, 1, 2]
    sweep_hjb(*clip, variants, hooks=Hooks(on_note=told.append))
    assert [note for note in told if "at once" in note] == [fitted_note(1)]
    assert taken == [(0, 1), (1, 1), (2, 1)]


def test_nothing_to_compare(clip):
    models, reference, poses, face, settings = clip
    with pytest.raises(InputError, match="sweep: no settings to compare; give at least one number of iterations"):
        sweep_hjb(*clip, [])
    with pytest.raises(FaceError, match="sweep: there is no reference face to compare with; connect Encode Face"):
        sweep_hjb(models, reference, poses, None, settings, [BASE])


def test_hidden_faces_are_noticed_before_anything_is_sampled(clip):
    """Of the chosen frames, not of the whole motion."""
    models, reference, poses, face, settings = clip
    ran = []
    hooks = Hooks(on_forward=lambda: ran.append(1))
    poses.body_score[1:, 0, 0] = 0
    with pytest.raises(FaceError, match="sweep: none of 2 frames shows a face"):
        sweep_hjb(*clip, [BASE], chosen=[1, 2], hooks=hooks)
    assert not ran
    (row,) = sweep_hjb(*clip, [BASE], chosen=[0, 2])
    assert len(row.faces) == 1


def test_a_cancelled_sweep_stops(clip):
    def cancel(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sweep_hjb(*clip, [BASE], hooks=Hooks(on_step=cancel))


# --- what is compared -------------------------------------------------------------------------------------------------


def test_variants():
    expected = [replace(BASE, iterations=0), replace(BASE, iterations=2)]
    assert sweep_variants(BASE, STEPS, [0, 2, 2]) == sweep_variants(BASE, STEPS, [2]) == expected, "off always"
    made = [(v.iterations, v.first_step, v.last_step) for v in sweep_variants(BASE, 9, [4, 0, 8], [(0, 3), (5, 8)])]
    assert made == [(0, 2, 3), (4, 0, 3), (8, 0, 3), (4, 5, 8), (8, 5, 8)]
    with pytest.raises(InputError, match="hjb-steps 2:4: there are 4 sampling steps, 0 to 3"):
        sweep_variants(BASE, STEPS, [1], [(2, 4)])
    with pytest.raises(InputError, match="hjb-steps 2:3 start after the last sampling step, 1"):
        sweep_variants(BASE, 2, [1])
    assert len(sweep_variants(BASE, 2, [1], [(0, 1)])) == 2


def test_numbers_in_a_text():
    assert parse_counts("0, 4,8 ,") == [0, 4, 8]
    assert parse_ranges("0:9, 10:19") == [(0, 9), (10, 19)]
    assert parse_ranges(" ") == []


@pytest.mark.parametrize("text", ["", "4;5", "-1", "4.5", "many"])
def test_counts_that_are_none(text):
    with pytest.raises(InputError) as error:
        parse_counts(text)
    assert str(error.value) == f'iterations "{text}": give whole numbers with commas between, as in 0, 4, 8'


@pytest.mark.parametrize("text", ["4", "9:0", "0:9:3", "a:b", "0-9"])
def test_ranges_that_are_none(text):
    with pytest.raises(InputError) as error:
        parse_ranges(text)
    assert str(error.value).startswith(f'hjb-steps "{text}": give FIRST:LAST with commas between')


# --- which to take ----------------------------------------------------------------------------------------------------


def row(k, csim, seconds, sharpness=1.0, judge=None, **more) -> SweepRow:
    faces = np.full((2, 8, 8, 3), k, np.uint8)
    return SweepRow(replace(BASE, iterations=k, **more), csim, judge, sharpness, seconds, faces)


def test_the_fastest_near_the_best_is_recommended():
    rows = [row(0, 0.5, 10), row(4, 0.795, 20), row(8, 0.8, 30), row(15, 0.792, 15)]
    found = recommend(rows)
    assert found.row is rows[3]
    assert found.reason == (
        "15 iterations, steps 2:3: CSIM 0.792 in 15 s, within 0.01 of the best, 0.800 in 30 s (8 iterations, steps 2:3)"
    )
    assert recommend(rows[:3]).row is rows[1]
    assert recommend(rows[:1]).reason == "off: CSIM 0.500 in 10 s, the best"


def test_the_judge_has_the_word():
    rows = [row(4, 0.7, 20, judge=0.66), row(8, 0.9, 30, judge=0.6)]
    assert recommend(rows).row is rows[0]
    assert recommend(rows).reason == "4 iterations, steps 2:3: judge's CSIM 0.660 in 20 s, the best"


def test_over_sharpened_faces_are_not_recommended():
    rows = [row(0, 0.5, 10, 0.9), row(4, 0.7, 20, 1.05), row(8, 0.9, 30, 1.3)]
    found = recommend(rows)
    assert found.row is rows[1]
    assert found.reason.endswith("; left out as over-sharpened: 8 iterations, steps 2:3")
    rows[0] = row(0, 0.5, 10, 1.4)
    assert recommend(rows).row is rows[2], "as sharp without it"


def test_the_settings_own_limit_of_sharpness_counts():
    rows = [row(0, 0.2, 10, 1.0), row(4, 0.5, 20, 1.3, sharpest=2.0), row(8, 0.9, 30, 1.6, sharpest=2.0)]
    found = recommend(rows)
    assert found.row is rows[2] and found.reason.endswith(": CSIM 0.900 in 30 s, the best")


def test_where_all_faces_are_over_sharpened_similarity_still_counts():
    rows = [row(4, 0.5, 20, 1.5), row(8, 0.8, 30, 1.54), row(15, 0.9, 40, 1.8)]
    found = recommend(rows)
    assert found.row is rows[1], "the more alike of the least sharp ones"
    assert "; all faces are over-sharpened, these are among the least; lower the learning rate, or " in found.reason
    found = recommend([row(0, 0.2, 10), *rows])
    assert found.row.hjb.iterations == 0
    assert "; left out as over-sharpened: 4 iterations" in found.reason and "; lower the learning rate" in found.reason


def test_several_clips_are_one_row_each():
    one = [row(0, 0.5, 10, 1.0, 0.4), row(4, 0.7, 20, 1.0, 0.6)]
    other = [row(0, 0.7, 20, 2.0, 0.6), row(4, 0.8, 40, 1.0, 0.8)]
    off, on = mean_rows([one, other])
    assert (off.csim, off.csim_judge, off.sharpness, off.seconds) == pytest.approx((0.6, 0.5, 1.5, 15))
    assert (on.csim, on.csim_judge, on.seconds, on.hjb.iterations) == pytest.approx((0.75, 0.7, 30, 4))
    assert len(on.faces) == 4


def test_names():
    assert name_of(replace(BASE, iterations=0)) == "off"
    assert name_of(replace(BASE, iterations=4, stop="adaptive")) == "up to 4 iterations, steps 2:3"
    assert name_of(replace(BASE, iterations=1)) == "1 iteration, steps 2:3"


def test_what_there_is_to_look_at(clip):
    rows = [row(0, 0.5, 10), row(4, 0.7, 20), row(4, 0.8, 25, first_step=0)]
    lines = sweep_table(rows).splitlines()
    assert lines[1].split() == ["off", "0.500", "1.00", "10.0"]
    assert len(lines) == 6
    assert lines[0].split() == ["CSIM", "sharpness", "seconds"]
    judged = sweep_table([row(4, 0.7, 20, judge=0.6)]).splitlines()
    assert " ".join(judged[0].split()) == "HJB's CSIM judge's CSIM sharpness seconds"
    assert judged[1].split()[-4:-2] == ["0.700", "0.600"]
    plain, beside = sweep_sheet(rows), sweep_sheet(rows, clip[3])
    assert beside.dtype == np.uint8 and beside.shape[0] > plain.shape[0]
    assert sweep_plot(rows).shape[1] == sweep_plot(rows[:1]).shape[1] == 960


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys, tiny_model):
    """`evaluate hjb-sweep` on the tiny model: exit status, stdout, stderr."""

    def run(*argv):
        argv = ["evaluate", "hjb-sweep", "--model", tiny_model, "--device", "cpu", *argv]
        status = cli.main([str(argument) for argument in argv])
        return status, *capsys.readouterr()

    return run


def test_command_on_performers(command, tmp_path):
    folder = tmp_path / "made"
    argv = ["--clips", 2, "--frames", 6, "--draft", 2, "--iterations", "0,2", "--out", folder]
    status, out, err = command(*argv, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["clips"], result["frames"], result["model"]) == (2, [2, 2], "tiny")
    assert [row["hjb"]["iterations"] for row in result["rows"]] == [0, 2]
    assert all(row["csim"] <= 1 and row["seconds"] > 0 for row in result["rows"])
    assert (
        result["rows"][result["recommended"]]["csim_judge"] >= max(row["csim_judge"] for row in result["rows"]) - 0.01
    )
    assert read_image(folder / "faces.png").ndim == read_image(folder / "plot.png").ndim == 3
    status, out, _ = command(*argv)
    assert status == 0 and "recommended: " in out and "2 iterations, steps 1:1" in out and "faces.png" in out


def test_command_on_ones_own_material(command, material):
    argv = ["--reference", material / "reference.png", "--driving", material / "driving.json", "--steps", 3, "--json"]
    status, out, err = command(*argv, "--iterations", 1, "--hjb-steps", "0:1, 2:2", "--adaptive", "--strength", "even")
    assert status == 0, err
    off, *settings = [row["hjb"] for row in json.loads(out)["rows"]]
    assert off["iterations"] == 0
    assert [(hjb["first_step"], hjb["last_step"]) for hjb in settings] == [(0, 1), (2, 2)]
    assert all((hjb["stop"], hjb["strength"]) == ("adaptive", [[0, 1]]) for hjb in settings)


def test_command_takes_the_models_own_strength(command, monkeypatch):
    asked = []

    def own(config, steps, **given):
        asked.append({name: value for name, value in given.items() if value is not None})
        raise InputError("enough")

    monkeypatch.setattr("stableanimator_core.pipeline.model_hjb", own)
    command()
    command("--strength", "falling", "--hjb-lr", 0.2, "--adaptive")
    assert asked == [{}, {"lr": 0.2, "stop": "adaptive", "strength": CURVES["falling"]}]


def test_clips_without_a_face_are_left_out(command, monkeypatch):
    """The others count, and a note says so; only where no clip is left is there nothing to report."""
    told = []

    def blind(*args, **settings):
        told.append(args)
        if len(told) != 2:
            raise FaceError("sweep: none of 2 frames shows a face")
        return sweep_hjb(*args, **settings)

    monkeypatch.setattr("stableanimator_core.sweep.sweep_hjb", blind)
    argv = ["--frames", 2, "--iterations", "1", "--json"]
    status, out, err = command("--clips", 3, *argv)
    assert status == 0, err
    result = json.loads(out)
    assert (result["clips"], result["frames"]) == (1, [2]) and len(result["notes"]) == 2
    assert result["notes"][1] == "clip 3 of 3 is left out: sweep: none of 2 frames shows a face"
    status, out, err = command("--clips", 1, *argv)
    assert status != 0 and "hjb-sweep: no clip has a face to work on; clip 1 of 1 is left out" in err


def test_command_knows_the_curves():
    assert sweep_command.CURVES == tuple(CURVES)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--reference", __file__], "hjb-sweep: give --reference and --driving, or --clips for rendered performers"),
        (
            ["--reference", __file__, "--driving", __file__, "--clips", 2],
            "hjb-sweep: give --reference and --driving, or",
        ),
        (["--align", "v1"], "--align is for --reference and --driving, not for rendered performers; leave it out"),
        (["--detector", "dwpose"], "--detector is for --reference and --driving"),
        (["--reference-poses", __file__], "--reference-poses is for --reference and --driving"),
        (["--driving-fps", 8], "--driving-fps is for --reference and --driving"),
        (["--person", 0], "--person is for --reference and --driving"),
        (["--reference-person", 1], "--reference-person is for --reference and --driving"),
        (["--iterations", "4;5"], 'iterations "4;5": give whole numbers with commas between'),
        (["--hjb-steps", "1:7"], "hjb-steps 1:7: there are 2 sampling steps, 0 to 1"),
        (["--hjb-steps", "1"], 'hjb-steps "1": give FIRST:LAST with commas between'),
    ],
)
def test_command_errors(command, argv, message):
    status, out, err = command(*argv)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
