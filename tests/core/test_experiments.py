"""The paper's experiments: what is measured is what the names say, and the report holds it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from stableanimator_core import cli
from stableanimator_core.cli import experiments as command
from stableanimator_core.cli import train
from stableanimator_core.errors import InputError, PoseError, WeightsError
from stableanimator_core.evaluation.experiments import (
    EXPERIMENTS,
    FULL,
    SMALL,
    Circumstances,
    Column,
    Extent,
    Result,
    Studio,
    Table,
    adapter,
    alignment,
    hjb_cost,
    hjb_strength,
    markdown,
    missing,
    write_report,
)
from stableanimator_core.evaluation.experiments.studio import (
    background,
    face_detail,
    pose_distance,
    standing_height,
)
from stableanimator_core.evaluation.experiments.tables import CSIM, DIS, L1, PAPER_CSIM, SETTING, mean_row
from stableanimator_core.evaluation.material import FIRST_SEED
from stableanimator_core.face import FaceBoxes, score_identity
from stableanimator_core.hjb import Look
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.models.id_adapter import Adding
from stableanimator_core.performers import HELD_OUT, make_clip
from stableanimator_core.pipeline import StableAnimator, find_face
from stableanimator_core.training import mini
from stableanimator_core.video import read_image
from stableanimator_core.weights import build_models, load_models, random_models, read_config, save_models

ROOT = Path(__file__).parents[2]
EXTENT = Extent(pairs=2, clips=2, frames=2)
PLACES = ["the truth (ceiling)", "the truth through the VAE", "the reference copied", "somebody else (floor)"]


@pytest.fixture(scope="module")
def animator(tiny_model):
    """Of random weights throughout: fresh networks begin with zeros where poses and faces come in."""
    return StableAnimator(random_models(read_config(tiny_model)))


@pytest.fixture(scope="module")
def studio(animator):
    return Studio(animator, EXTENT)


@pytest.fixture(scope="module")
def takes(studio):
    return studio.takes()


@pytest.fixture(scope="module")
def pairs(studio):
    return studio.pairs(2)


def rows_of(result: Result, key: str | None = None) -> dict[str, dict]:
    table = result.tables[0] if key is None else next(table for table in result.tables if table.key == key)
    return {row["setting"]: row for row in table.rows}


def box(x0, y0, x1, y1, frames=1) -> FaceBoxes:
    return FaceBoxes(torch.tensor([[x0, y0, x1, y1]] * frames).float(), torch.ones(frames, dtype=torch.bool))


# ---------------------------------------------------------------- scores


def test_the_truth_has_no_error_and_the_judges_own_csim(studio, takes):
    take = takes[0]
    scores = studio.scores(take, take.truth)
    judged = score_identity(studio.animator.models.face_judge, take.truth, take.boxes, take.target)
    assert scores["l1"] == scores["face_l1"] == 0
    assert scores["csim"] == pytest.approx(float(judged.nanmean()), abs=1e-6)
    shifted = studio.scores(take, take.truth - 0.2)
    assert shifted["l1"] == pytest.approx(0.1, abs=1e-5)
    assert shifted["face_l1"] == pytest.approx(0.1, abs=1e-5)


def test_detail_tells_blur_from_sharpness():
    noise = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    boxes = box(8, 8, 72, 72, frames=2)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    assert face_detail(blurred, boxes) < 0.2 * face_detail(noise, boxes)
    assert face_detail(torch.full_like(noise, 0.3), boxes) == pytest.approx(0, abs=1e-9)
    assert face_detail(2 * noise, boxes) == pytest.approx(4 * face_detail(noise, boxes), rel=1e-4)
    assert math.isnan(face_detail(noise, boxes._replace(found=torch.zeros(2, dtype=torch.bool))))


def test_a_face_as_sharp_as_the_references_scores_one(studio, takes):
    take = takes[0]
    still = torch.from_numpy(take.clip.reference).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert studio.scores(take, still.expand_as(take.truth), studio.faces(take.clip.reference_pose)
                         .picked([0] * EXTENT.frames))["sharpness"] == pytest.approx(1, rel=1e-4)  # fmt: skip


def test_background_is_what_no_face_box_covers():
    video = torch.zeros(2, 3, 16, 16)
    outside = background(FaceBoxes(torch.tensor([[-3.0, 2, 5, 8], [0, 0, 0, 0]]), torch.tensor([True, False])), video)
    assert outside.shape == (2, 1, 16, 16)
    assert not outside[0, 0, 2:8, :5].any()
    assert int((~outside).sum()) == 6 * 5


@pytest.mark.parametrize("seed", [4, 5, 9])
def test_standing_height_is_that_of_somebody_who_stands(seed):
    clip = make_clip(seed, size=320, frames=4, family="idle")
    visible = clip.poses.visible()[:, 0]
    assert visible[:, [10, 13, 14]].all(), "this seed shows everything"
    feet, eyes = clip.poses.body[:, 0, [10, 13], 1].max(), clip.poses.body[:, 0, 14, 1].min()
    tall = standing_height(clip.person, clip.poses)
    assert 1.2 * (feet - eyes) < tall < 1.5 * (feet - eyes), "these heads are large"
    assert standing_height(clip.person, clip.poses.resized(640, 640)) == pytest.approx(2 * tall)
    pointing = clip.poses.body.copy()
    pointing[:, 0, [4, 7]] = pointing[:, 0, [3, 6]]  # forearms towards the camera show no length
    assert standing_height(clip.person, replace(clip.poses, body=pointing)) == pytest.approx(tall, rel=0.03)


def test_pose_distance_is_in_body_heights(pairs):
    take = pairs[0]
    tall = standing_height(take.clip.person, take.clip.poses)
    assert pose_distance(take, take.clip.poses) == 0
    aside = take.clip.poses.transformed(lambda points: points + [0.1 * tall, 0])
    hidden = take.clip.poses.body_score == 0
    assert not hidden[take.driver.visible() & take.clip.poses.visible()].any()
    assert pose_distance(take, aside) == pytest.approx(0.1)


def test_the_best_similarity_is_nearer_than_any_method(pairs):
    for take in pairs:
        best = pose_distance(take, alignment.best_similarity(take))
        for method in ("none", "v1", "svd"):
            assert best <= pose_distance(take, alignment.aligned(take, method, None)) + 0.01
        assert best < 0.6 * pose_distance(take, alignment.aligned(take, "none", None))


def test_the_performers_are_those_of_the_evaluation(animator):
    other = Studio(animator, EXTENT, seed=3)
    for made in (other.takes(), other.pairs(2)):
        assert [take.clip.seed for take in made] == [3 * FIRST_SEED, 3 * FIRST_SEED + 1]
        assert all(set(take.clip.motion.split("+")) <= set(HELD_OUT) for take in made)
    assert made[0].driver is not made[0].clip.poses and pose_distance(made[0], made[0].driver) > 0


def test_places_are_what_they_are_called(studio, takes):
    truth, decoded, still, floor = studio.places(takes)
    assert [row["setting"] for row in (truth, decoded, still, floor)] == PLACES
    assert truth["l1"] == 0 < still["l1"] and 0 < decoded["l1"]
    copies = [np.abs(take.clip.frames - take.clip.reference.astype(float)).mean() / 255 for take in takes]
    assert still["l1"] == pytest.approx(np.mean(copies), abs=1e-5)
    judge = studio.animator.models.face_judge
    judged = [score_identity(judge, b.truth, b.boxes, a.target).nanmean() for a, b in zip(takes, takes[::-1])]
    assert floor["csim"] == pytest.approx(float(np.mean(judged)), abs=1e-5)
    assert "l1" not in floor


def test_places_need_two_people(studio, takes):
    with pytest.raises(InputError, match="experiments with 1 performer: at least 2 are needed"):
        studio.places(takes[:1])


def test_a_model_without_a_judge(animator):
    alone = StableAnimator(replace(animator.models, face_judge=None))
    with pytest.raises(InputError, match="model 'tiny' has no judge of its own to score identity with"):
        Studio(alone, EXTENT)


# ---------------------------------------------------------------- the experiments


def test_alignment(studio, pairs):
    result = EXPERIMENTS["alignment"](studio)
    rows = rows_of(result)
    assert list(rows) == [*alignment.METHODS, alignment.PROPORTIONS, alignment.BEST, alignment.TRUTH, *PLACES]
    expected = np.mean([pose_distance(take, alignment.aligned(take, "svd", None)) for take in pairs])
    assert rows["svd"]["dis"] == pytest.approx(expected)
    assert rows[alignment.TRUTH]["dis"] == 0
    assert rows[alignment.TRUTH]["csim"] == pytest.approx(rows[alignment.TRUTH]["csim_in_place"])
    assert rows["none"]["l1"] != rows["svd"]["l1"], "the aligned poses reach the video"
    assert rows[alignment.PROPORTIONS]["l1"] != rows["learned"]["l1"], "so does the picture's body"
    assert rows["none"]["csim"] != rows["none"]["csim_in_place"], "the face is sought where the poses put it"
    assert [name for name, row in rows.items() if "paper_csim" in row] == ["learned"]
    assert set(result.plots) == set(result.sheets) == {"alignment"}


def test_a_method_that_fails_counts_with_none(studio, monkeypatch):
    whole = alignment.align

    def failing(driving, reference, method, **more):
        if method == "svd":
            raise PoseError("no fit")
        return whole(driving, reference, method, **more)

    monkeypatch.setattr(alignment, "align", failing)
    rows = rows_of(EXPERIMENTS["alignment"](studio))
    assert rows["svd"]["failed"] == 2 and rows["none"]["failed"] == 0
    for key in ("dis", "csim", "l1"):
        assert rows["svd"][key] == rows["none"][key]


def test_missing(studio):
    result = EXPERIMENTS["missing"](studio)
    found = [(row["setting"], row["missing"]) for row in result.tables[0].rows if "missing" in row]
    assert found == [("svd", 0), ("learned", 0)] + [
        (name, share) for share in (30, 50, 70) for name in ("svd", "learned", missing.FILLED)
    ]
    rows = result.tables[0].rows
    assert rows[0]["l1"] != rows[-len(PLACES) - 3]["l1"], "the missing joints reach the video"
    whole = np.mean(
        [pose_distance(take, alignment.aligned(take, "svd", None)) for take in studio.pairs(missing.FEWEST)]
    )
    assert rows[0]["dis"] == pytest.approx(whole)
    assert all(row["dis"] < 0.3 for row in rows[: -len(PLACES)]), "of the whole driver, not of what is left"


def test_adapter(studio, animator):
    twin = build_models(replace(animator.models.config, name="twin", id_adapter="none"))
    for part, module in twin.parts().items():
        module.load_state_dict(animator.models.parts()[part].state_dict())
        module.eval()
    result = EXPERIMENTS["adapter"](replace(studio, variants=(StableAnimator(twin),)))
    rows = rows_of(result)
    ways = ["distribution alignment", "plain addition", "normalisation only", "no face tokens"]
    assert list(rows) == [f"tiny: {ways[0]}", f"twin: {ways[1]}", *(f"tiny: {way}" for way in ways[1:]), *PLACES]
    assert [row.get("trained") for row in rows.values()] == ["yes", "yes", "no", "no", "no", *4 * [None]]
    assert len({rows[f"tiny: {way}"]["l1"] for way in ways}) == 4, "every way makes another video"
    base, other = rows["twin: plain addition"], rows["tiny: no face tokens"]
    assert base["csim_more"] == 0 == base["csim_more_error"], "the rest is compared with the first of the variants"
    assert other["csim_more"] == pytest.approx(other["csim"] - base["csim"], abs=1e-6) and other["csim_more"] != 0
    assert "CSIM above twin: plain addition" in [column.title for column in result.tables[0].columns]
    assert rows["twin: plain addition"]["l1"] == pytest.approx(rows["tiny: plain addition"]["l1"])
    assert {block.normalize for block in animator.models.unet.id_adapters()} == {"distribution"}


def test_without_variants_adapters_are_compared_with_the_model_as_it_is(studio):
    result = EXPERIMENTS["adapter"](studio)
    first, *others = list(rows_of(result).values())[:4]
    assert first["csim_more"] == 0
    for row in others:
        assert row["csim_more"] == pytest.approx(row["csim"] - first["csim"], abs=1e-6) and row["csim_more"] != 0
    assert "CSIM above tiny: distribution alignment" in [column.title for column in result.tables[0].columns]


def test_the_adapters_are_put_back_after_an_error(animator):
    with pytest.raises(RuntimeError), adapter.adding(animator.models.unet, "own"):
        assert {block.normalize for block in animator.models.unet.id_adapters()} == {"own"}
        raise RuntimeError
    assert {block.normalize for block in animator.models.unet.id_adapters()} == {"distribution"}


def test_a_model_folder_says_how_its_adapter_adds(tmp_path, animator):
    models = replace(animator.models, config=replace(animator.models.config, id_adapter="own"))
    save_models(models, tmp_path / "own")
    loaded = load_models(tmp_path / "own")
    assert {block.normalize for block in loaded.unet.id_adapters()} == {"own"}
    path = tmp_path / "own" / "config.json"
    path.write_text(path.read_text().replace('"own"', '"often"'))
    with pytest.raises(WeightsError, match="gives no valid id_adapter"):
        read_config(tmp_path / "own")


def test_variants_are_trained_by_name():
    assert train.ADAPTERS == get_args(Adding)
    for way in train.ADAPTERS:
        parsed = cli.build_parser().parse_args(["train", "mini", "--out", "x", "--quick", "--adapter", way])
        models = build_models(mini.config_of(train._recipe(parsed)))
        assert {block.normalize for block in models.unet.id_adapters()} == {way} == {models.config.id_adapter}


@pytest.mark.parametrize("steps, last", [(25, {5: 4, 10: 9, 20: 19}), (15, {5: 2, 10: 5, 20: 11}), (2, {5: 0, 20: 1})])
def test_the_papers_ranges_of_steps(steps, last):
    own = HJBConfig(iterations=3, first_step=steps // 2, last_step=steps - 1, lr=0.05, margin=1)
    settings = hjb_strength.settings_of(own, steps)
    for count, expected in last.items():
        ranges = {(s.hjb.first_step, s.hjb.last_step) for s in settings if s.curve == f"first {count} of 25"}
        assert ranges == {(0, expected)}
    of_curve = {curve: [s.hjb.iterations for s in settings if s.curve == curve] for curve, _ in settings}
    assert of_curve == {
        "own range": [3, 4, 8, 10, 15], "first 5 of 25": [10], "first 10 of 25": [3, 4, 8, 10, 15],
        "first 20 of 25": [10],
    }  # fmt: skip
    assert {(s.hjb.lr, s.hjb.margin) for s in settings} == {(0.05, 1)}


def test_hjb(studio, monkeypatch):
    monkeypatch.setattr(hjb_strength, "ITERATIONS", (2,))
    monkeypatch.setattr(hjb_strength, "USUAL_K", 3)
    animate, asked = Studio.animate, []

    def noting(studio, take, *more, hjb):
        asked.append(hjb)
        return animate(studio, take, *more, hjb=hjb)

    monkeypatch.setattr(Studio, "animate", noting)
    result = EXPERIMENTS["hjb"](studio)
    assert asked[0].iterations and not asked[1].iterations, "what is done once in a process is nobody's time"
    rows = rows_of(result)
    names = [f"{curve}, k = {k}" for curve in ("own range",) for k in (1, 2)]
    names += ["first 5 of 25, k = 3", "first 10 of 25, k = 1", "first 10 of 25, k = 2", "first 20 of 25, k = 3"]
    assert list(rows) == ["off", *names, *PLACES]
    assert rows["own range, k = 1"]["steps"] == "1:1" and rows["first 20 of 25, k = 3"]["steps"] == "0:1"
    assert rows["own range, k = 2"]["l1"] != rows["off"]["l1"], "HJB moved the latents"
    assert all(math.isfinite(rows[name][key]) for name in names for key in ("csim", "sharpness", "seconds", "face_l1"))
    assert set(result.plots) == set(result.sheets) == {"hjb"}


def test_hjb_cost(studio, monkeypatch):
    monkeypatch.setattr(hjb_cost, "MARGINS", (0, 8))
    result = EXPERIMENTS["hjb_cost"](studio)
    rows, gradients = rows_of(result, "fidelity"), rows_of(result, "gradients")
    off, face, full, _, everything = list(rows.values())[:5]
    assert off["background_change"] == 0
    assert 0 < face["background_change"] < everything["background_change"]
    assert full["csim"] != face["csim"]
    assert all(row["peak_gib"] is None or math.isnan(row["peak_gib"]) for row in (off, face)), "no CUDA here"
    assert gradients["the face and 8"]["cosine"] == pytest.approx(1, abs=1e-4), "8 cells more are the whole frame"
    assert gradients["the face and 8"]["csim_gap"] == pytest.approx(0, abs=1e-5)
    assert -1 <= gradients["the face and 0"]["cosine"] < 0.9999


def test_gradients_count_the_faces_latents_only(studio, takes, monkeypatch):
    monkeypatch.setattr(hjb_cost, "MARGINS", (0,))
    models, take = studio.animator.models, takes[0]
    x0 = torch.randn(EXTENT.frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    target = find_face(models, take.clip.reference, take.clip.reference_pose).embedding

    def gradients(x0, windows, *rest):
        inside = torch.zeros_like(x0)
        grad = torch.ones_like(x0)
        if windows[0].cells == (slice(0, 8), slice(0, 8)):  # whole frames: something else outside of the face
            for frame, (rows, columns) in hjb_cost.find_face_cells(take.boxes, (8, 8), 8).items():
                inside[frame, :, rows, columns] = 1
            grad = torch.where(inside == 1, grad, -7.0)
        return Look(x0.new_zeros(len(x0)), x0.new_zeros(len(x0), 3, 8, 8)), grad

    monkeypatch.setattr(hjb_cost, "face_gradient", gradients)
    assert hjb_cost.compare_gradients(models, x0, take, target, 8)[0]["cosine"] == pytest.approx(1)


# ---------------------------------------------------------------- tables, plots, report


def test_mean_row_leaves_out_what_is_no_number():
    scores = [{"csim": 0.5, "l1": 1.0}, {"csim": math.nan, "l1": 3.0}, {"csim": 0.7, "l1": 2.0}]
    row = mean_row("a", scores, k=4)
    assert row.pop("each") == scores
    assert row == {"setting": "a", "k": 4, "csim": 0.6, "l1": 2.0, "csim_error": pytest.approx(0.1)}
    lone = mean_row("b", [{"csim": math.nan}])
    assert math.isnan(lone["csim"]) and "csim_error" not in lone


def test_markdown():
    table = Table("t", "T", (SETTING, CSIM, Column("n", "count")), ({"setting": "a", "csim": 0.1239, "n": 12},
                                                                   {"setting": "bb", "csim": math.nan}))  # fmt: skip
    assert markdown(table) == [
        "| setting |  CSIM | count |", "| ------- | ----: | ----: |", "| a       | 0.124 |    12 |",
        "| bb      |       |       |",
    ]  # fmt: skip


def test_report(tmp_path):
    columns = (SETTING, DIS, L1, Column("peak", "peak"), PAPER_CSIM)
    rows = ({"setting": "a", "dis": 0.12345678, "l1": math.nan}, {"setting": "b", "dis": 1.0, "peak": None})
    picture = np.zeros((8, 8, 3), np.uint8)
    result = Result("x", "Title", "Setup.", (Table("t", "Rows", columns, rows),), {"p": picture}, {"s": picture})
    made = Circumstances.of(
        command="do it", model="tiny", device=torch.device("cpu"), seed=3, extent=EXTENT, mocap=tmp_path / "m.npz"
    )
    found = write_report(tmp_path, made, [result])
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert found["experiments"]["x"]["t"][0] == {"setting": "a", "dis": 0.12346, "l1": None}
    assert found["mocap"] == "m.npz" and found["extent"] == {"pairs": 2, "clips": 2, "frames": 2}
    text = (tmp_path / "report.md").read_text()
    for words in ("`do it`", "seed 3", "torch ", "## Title", "Setup.", "| a       | 0.123 |  ", "(p_plot.png)"):
        assert words in text
    assert "peak" not in text and " L1 " not in text, "empty columns are left out"
    assert "| CSIM in the paper |" in text, "that no figure of the paper is known is shown"
    assert read_image(tmp_path / "s_sheet.png").shape == (8, 8, 3)


def test_a_report_keeps_what_an_earlier_run_found(tmp_path):
    def write(name, seed=3, command="do it"):
        table = Table("t", "Rows", (SETTING, DIS), ({"setting": name, "dis": 1.0},))
        made = Circumstances.of(
            command=command, model="tiny", device=torch.device("cpu"), seed=seed, extent=EXTENT, mocap=None
        )
        found = write_report(tmp_path, made, [Result(name, f"Title of {name}", "Setup.", (table,))])
        return list(found["experiments"]), (tmp_path / "report.md").read_text()

    write("x", command="do x")
    names, text = write("y")
    assert names == ["x", "y"] and "## Title of x" in text and "## Title of y" in text
    assert text.count("By `do x`.") == 1 and "By `do it`." not in text
    assert write("x")[0] == ["x", "y"] and "do x" not in (tmp_path / "report.md").read_text()
    names, text = write("z", seed=4)
    assert names == ["z"] and "Title of x" not in text, "other performers"
    (tmp_path / "results.json").write_text("{")
    assert write("x", seed=4)[0] == ["x"]


def test_nothing_here_needs_pyav(tmp_path):
    """A GPU box without it runs the experiments and writes their report."""
    code = (
        "import sys; sys.modules['av'] = None; import numpy as np\n"
        "import stableanimator_core.evaluation.experiments, stableanimator_core.evaluation.alignment\n"
        "from stableanimator_core.video import write_image\n"
        f"write_image({str(tmp_path / 'x.png')!r}, np.zeros((4, 4, 3), np.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").is_file()


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(capsys):
    def command(*argv) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in ("experiments", *argv)])
        return status, *capsys.readouterr()

    return command


def test_the_command(run, tiny_model, tmp_path):
    few = ["--model", tiny_model, "--device", "cpu", "--clips", 2, "--frames", 2, "--only", "adapter", "--seed", 1]
    status, out, err = run(*few, "--variants", tiny_model, "--out", tmp_path / "made", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["extent"] == {"pairs": SMALL.pairs, "clips": 2, "frames": 2}, "small is the default on a CPU"
    assert found["command"].endswith(
        f"experiments --only adapter --small --seed 1 --model {tiny_model} --device cpu --clips 2 --frames 2 "
        f"--variants {tiny_model}"
    )
    assert len(found["experiments"]["adapter"]["ways"]) == 5 + len(PLACES)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"results.json", "report.md", "adapter_sheet.png"}
    status, out, _ = run(*few, "--no-small", "--out", tmp_path / "made")
    assert status == 0
    assert "ID adapter: Ways of adding the face tokens" in out and "| the truth (ceiling)" in out
    assert json.loads((tmp_path / "made" / "results.json").read_text())["extent"]["pairs"] == FULL.pairs


def test_the_commands_names_are_the_experiments():
    assert command.NAMES == tuple(EXPERIMENTS)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--only", "walks"], "invalid choice: 'walks'"),
        (["--pairs", "1"], "1 is not a whole number from 2"),
        (["--mocap", "{}/none.npz"], "none.npz does not exist; check the path"),
        (["--out", "{}/no/where"], "no does not exist; create it or choose another --out"),
        (["--out", "{}/file"], "file is a file; choose another --out"),
        (["--variants", "{}"], "config.json"),
        (["--model", "nobody"], "unknown model 'nobody'"),
    ],
)
def test_bad_input(run, tmp_path, argv, message):
    (tmp_path / "file").write_text("")
    words = [word.format(tmp_path) for word in argv]
    status, out, err = run("--device", "cpu", *([] if "--out" in argv else ["--out", tmp_path / "made"]), *words)
    assert status == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1
