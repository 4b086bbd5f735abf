"""Distances of alignments: known truths, failures that count, the command's keys and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from walking import write_walk

from stableanimator_core import cli
from stableanimator_core.alignment import FITS, Similarity
from stableanimator_core.alignment.network import AlignmentNet
from stableanimator_core.errors import InputError
from stableanimator_core.evaluation import alignment as evaluation
from stableanimator_core.training.misaligned import KINDS, Handheld, Motions, Pairs, Shapes, Steep
from stableanimator_core.weights.aligner import save_aligner

FEW = dict(pairs=8, frames=6)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_walk(tmp_path_factory.mktemp("walk") / "walk.npz")


@pytest.fixture(scope="module")
def motions(walk):
    return Motions.load(walk, "cpu")


@pytest.fixture(scope="module")
def shapes():
    return Shapes.adults()


@pytest.fixture(scope="module")
def pairs(motions, shapes):
    return evaluation.misaligned_pairs(motions, shapes, 12, frames=6, seed=0)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return AlignmentNet(width=32, layers=1, heads=2).eval()


def easy(pairs: Pairs) -> Pairs:
    """The truth is a known similarity of clean joints that are all seen, and the reference its first frame."""
    batch = len(pairs.clean)
    scale, angle = torch.linspace(0.5, 2, batch), torch.linspace(-0.2, 0.2, batch)
    shift = torch.linspace(-50, 50, 2 * batch).view(batch, 2)
    known = Similarity.through(scale, angle, torch.zeros(batch, 2), shift)
    truth = evaluation.moved_by(known, pairs)
    everything = torch.ones_like(pairs.driving_seen)
    return pairs._replace(
        driving=pairs.clean, driving_seen=everything, truth=truth, reference=truth[:, 0],
        reference_seen=everything[:, 0],
    )  # fmt: skip


def test_the_oracle_finds_a_known_similarity(pairs):
    known = easy(pairs)
    distance = evaluation.pair_distance(evaluation.moved_by(evaluation.best_similarity(known), known), known)
    assert distance.max() < 1e-4


def test_no_similarity_beats_the_oracle(pairs):
    best = evaluation.best_similarity(pairs)
    least = evaluation.pair_distance(evaluation.moved_by(best, pairs), pairs)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        factor = 1 + 0.02 * torch.randn(len(least), generator=generator)
        shift = pairs.height[:, None] * 0.02 * torch.randn(len(least), 2, generator=generator)
        other = Similarity(best.scale * factor, best.rotation, best.translation + shift)
        assert (evaluation.pair_distance(evaluation.moved_by(other, pairs), pairs) >= least - 1e-5).all()


def test_the_oracle_is_below_every_method(motions, shapes, net):
    _, distances = evaluation.evaluate_alignment(motions, shapes, aligner=net, pairs=16, frames=6)
    for name in ("svd", "learned"):
        assert (distances["oracle"] <= distances[name] + 1e-5).all(), name


def test_distance_is_in_body_heights_over_what_the_driver_shows(pairs):
    off = torch.zeros_like(pairs.truth)
    off[..., 0] = 3.0
    off[:, :, 4] = 1e6
    shown = pairs.driving_seen.clone()
    shown[:, :, 4] = False
    given = pairs._replace(driving_seen=shown)
    assert torch.allclose(evaluation.pair_distance(pairs.truth + off, given), 3 / pairs.height, rtol=1e-3)


def test_svd_solves_what_a_similarity_can(pairs, motions, shapes, monkeypatch):
    still = easy(pairs)
    still = still._replace(clean=still.clean[:, :1].expand_as(still.clean).contiguous())
    monkeypatch.setattr(evaluation, "misaligned_pairs", lambda *args, **options: easy(still))
    scores, distances = evaluation.evaluate_alignment(motions, shapes, pairs=12, frames=6)
    assert distances["svd"].max() < 1e-4
    assert distances["none"].min() > 1e-3
    assert scores["methods"]["svd"]["worse_than_none"] == 0
    assert scores["travel"]["svd"] == {"correlation": None, "ratio": None, "pairs": 0}, "nobody moves"


def test_a_method_that_raises_counts_as_none(pairs, motions, shapes, monkeypatch):
    seen = pairs.reference_seen.clone()
    seen[3] = False
    monkeypatch.setattr(evaluation, "misaligned_pairs", lambda *args, **options: pairs._replace(reference_seen=seen))
    scores, distances = evaluation.evaluate_alignment(motions, shapes, pairs=12, frames=6)
    assert scores["methods"]["svd"]["failed"] == scores["methods"]["v1"]["failed"] == 1
    assert scores["methods"]["none"]["failed"] == 0
    assert distances["svd"][3] == distances["none"][3] == distances["v1"][3]
    assert len(distances["svd"]) == 12


def test_lost_joints_leave_the_pairs_as_they_are(pairs, motions, shapes):
    poorer = evaluation.misaligned_pairs(motions, shapes, 12, frames=6, seed=0, missing=(0.7, 0.7))
    assert torch.equal(poorer.clean, pairs.clean)
    assert torch.equal(poorer.truth, pairs.truth)
    assert poorer.driving_seen.sum() < 0.5 * pairs.driving_seen.sum()
    assert not (poorer.driving_seen & ~pairs.driving_seen).any()


def test_lost_joints_are_still_measured(motions, shapes, net):
    """dis of the harder rows counts the joints that were there before: a method cannot gain by seeing less."""
    scores, distances = evaluation.evaluate_alignment(motions, shapes, aligner=net, **FEW)
    made = evaluation.misaligned_pairs(motions, shapes, 8, frames=6, seed=0)
    poorer = evaluation.misaligned_pairs(motions, shapes, 8, frames=6, seed=0, missing=(0.7, 0.7))
    given = (poorer.driving, poorer.driving_seen, poorer.reference, poorer.reference_seen)
    with torch.no_grad():
        moved = evaluation.moved_by(net(*given).transform, made)
    expected = evaluation.pair_distance(moved, made).mean()
    assert scores["missing"]["0.7"]["learned"]["dis"] == pytest.approx(float(expected), rel=0.02)


def test_batched_distances_are_those_of_align(pairs, motions, shapes, net, monkeypatch):
    monkeypatch.setattr(evaluation, "misaligned_pairs", lambda *args, **options: pairs)
    _, distances = evaluation.evaluate_alignment(motions, shapes, aligner=net, pairs=12, frames=6)
    batched = evaluation.evaluate_batched(net, pairs)
    np.testing.assert_allclose(batched["oracle"], distances["oracle"], rtol=1e-4)
    np.testing.assert_allclose(np.median(batched["learned"]), np.median(distances["learned"]), rtol=0.05)


def test_summary_of_known_distances():
    distance = np.append(np.zeros(11), np.arange(1, 11))
    assert evaluation.summary(distance) == {"dis": pytest.approx(55 / 21), "dis_median": 0, "dis_p95": 9}


def test_side_views_are_told_by_the_heading(pairs):
    yaw = torch.tensor([0, 40, -40, 50, -50, 90, 130, 140, 180, -90.0, 30, 60]).deg2rad()
    found = evaluation.is_side_view(pairs._replace(yaw=yaw))
    assert found.tolist() == [False] * 3 + [True] * 4 + [False] * 2 + [True, False, True]


def test_special_bodies_and_cameras_have_pairs_of_their_own(motions, shapes, net):
    """A quarter as many, the same ones for a seed, filmed as their name says; fits are compared where cameras move."""
    scores, _ = evaluation.evaluate_alignment(motions, shapes, aligner=net, pairs=9, frames=6, fit="frames")
    for group, options in (
        ("plain", evaluation.PLAIN), ("cartoon", evaluation.CARTOON), ("perspective", dict(steep=Steep())),
        ("moving_camera", dict(handheld=Handheld())),
    ):  # fmt: skip
        made = evaluation.misaligned_pairs(motions, shapes, 3, frames=6, seed=0, **options)
        assert scores[group]["pairs"] == 3
        best = evaluation.pair_distance(evaluation.moved_by(evaluation.best_similarity(made), made), made)
        assert scores[group]["methods"]["oracle"]["dis"] == pytest.approx(float(best.mean()), rel=1e-5)
        for row in scores[group]["methods"].values():
            assert set(row) == {"dis", "dis_median", "dis_p95", "travel"}
    moving = scores["moving_camera"]["methods"]
    assert list(moving) == ["none", *(f"{name}, {fit}" for name in ("svd", "learned") for fit in FITS), "oracle"]
    assert list(scores["perspective"]["methods"]) == [*evaluation.ALIGNED, "oracle"]
    assert len({row["dis"] for row in moving.values()}) == len(moving)


def test_travel_of_the_truth_is_perfect_and_pinning_loses_it(pairs):
    path = torch.zeros_like(pairs.truth)
    path[..., 0] = torch.linspace(0, 1, path.shape[1])[:, None] * pairs.height[:, None, None]
    given = pairs._replace(truth=pairs.truth[:, :1] + path)
    kept = evaluation.travel(given.truth, given)
    assert (kept["correlation"], kept["ratio"]) == (pytest.approx(1), pytest.approx(1))
    assert kept["pairs"] == len(path)
    half = evaluation.travel(pairs.truth[:, :1] + path / 2, given)
    assert (half["correlation"], half["ratio"]) == (pytest.approx(1), pytest.approx(0.5))
    assert evaluation.travel(pairs.truth[:, :1].expand_as(path), given)["ratio"] == pytest.approx(0, abs=1e-6)


def test_a_seed_repeats_itself(motions, shapes):
    runs = [evaluation.evaluate_alignment(motions, shapes, seed=seed, **FEW) for seed in (3, 3, 4)]
    for scores, _ in runs:
        del scores["seconds_per_1000_frames"]
    assert runs[0][0] == runs[1][0]
    assert runs[0][0]["methods"] != runs[2][0]["methods"]


def test_a_transform_per_frame_pins_the_person(motions, shapes):
    clip, frame = (evaluation.evaluate_alignment(motions, shapes, fit=fit, **FEW)[0] for fit in ("clip", "frames"))
    assert frame["travel"]["svd"]["ratio"] < 0.8 * clip["travel"]["svd"]["ratio"]
    assert frame["methods"]["none"] == clip["methods"]["none"]


def test_rows_hold_every_pair_once(motions, shapes):
    scores, _ = evaluation.evaluate_alignment(motions, shapes, pairs=20, frames=4)
    for group in ("kinds", "framings", "views"):
        assert sum(row["pairs"] for row in scores[group].values()) == 20, group
    assert set(scores["kinds"]) <= set(KINDS)
    mean = sum(row["pairs"] * row["svd"] for row in scores["kinds"].values()) / 20
    assert mean == pytest.approx(scores["methods"]["svd"]["dis"])


def test_rows_of_framings_are_named_after_driver_and_reference(pairs, motions, shapes, monkeypatch):
    framing = torch.tensor([[0, 2]]).repeat(len(pairs.clean), 1)
    framing[:3] = torch.tensor([1, 0])
    monkeypatch.setattr(evaluation, "misaligned_pairs", lambda *args, **options: pairs._replace(framing=framing))
    scores, distances = evaluation.evaluate_alignment(motions, shapes, pairs=12, frames=6)
    rows = scores["framings"]
    assert list(rows) == [
        "driver full body, reference head and shoulders", "driver half body, reference full body"
    ]  # fmt: skip
    assert rows["driver half body, reference full body"]["svd"] == pytest.approx(distances["svd"][:3].mean())


def test_time_is_that_of_align_per_frame(motions, shapes, net, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: next(ticks))
    scores, _ = evaluation.evaluate_alignment(motions, shapes, aligner=net, pairs=8, frames=4)
    assert scores["seconds_per_1000_frames"] == 1000 / 4, "a tick for each clip of 4 frames"


def test_progress_ends_at_all(motions, shapes):
    told = []
    evaluation.evaluate_alignment(motions, shapes, on_pairs=lambda *told_now: told.append(told_now), **FEW)
    assert told[-1][0] == told[-1][1] == 8 * (5 + 3) + 2 * (3 * 5 + 4)


def test_at_least_one_pair(motions, shapes):
    with pytest.raises(InputError, match="evaluation of 0 pairs of 32 frames: give at least 1 of each"):
        evaluation.evaluate_alignment(motions, shapes, pairs=0)


def test_curves_reach_the_top_where_all_pairs_are_within():
    picture = evaluation.draw_curves({"svd": np.full(10, 0.1), "oracle": np.full(10, 0.01)})
    assert picture.dtype == np.uint8
    blue = (picture == (30, 100, 200)).all(-1)
    green = (picture == (30, 140, 60)).all(-1)
    right = 400  # past the legend
    assert blue[:, right:].any()
    assert not green[:, right:].any(), "0.01 lies left of the middle"


@pytest.fixture
def run(capsys):
    def call(*argv) -> str:
        status = cli.main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return call


@pytest.fixture
def refused(capsys):
    def call(*argv) -> str:
        status = cli.main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.count("\n") == 1, err
        return err

    return call


def test_command_without_weights(run, walk, monkeypatch, tmp_path):
    from stableanimator_core.weights import aligner

    monkeypatch.setattr(aligner, "BUILT_IN_ALIGNER", tmp_path / "nothing")
    argv = ["evaluate", "alignment", "--mocap", walk, "--pairs", 6, "--frames", 4]
    result = json.loads(run(*argv, "--json"))
    for name in ("none", "v1", "svd", "oracle"):
        for key in ("dis", "dis_median", "dis_p95"):
            assert isinstance(result["methods"][name][key], float), (name, key)
    assert result["methods"]["learned"] is None
    assert result["worse_than_none"] is None
    for share in ("0.3", "0.5", "0.7"):
        assert isinstance(result["missing"][share]["svd"]["dis"], float)
        assert result["missing"][share]["learned"] is None
    assert (result["pairs"], result["seed"], result["frames"]) == (6, 0, 4)
    assert result["seconds_per_1000_frames"] > 0
    assert "learned is left out" in result["note"]


def test_command_with_weights_and_a_plot(run, walk, net, tmp_path):
    save_aligner(net, tmp_path / "aligner")
    argv = ["evaluate", "alignment", "--mocap", walk, "--pairs", 6, "--frames", 4, "--aligner", tmp_path / "aligner"]
    text = run(*argv, "--plot", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    words = ("learned", "oracle", "70 % of the joints missing", "plot:", "reference: ", "homography")
    sets = [f"{name}, 2 pairs" for name in ("cartoon bodies", "filmed steeply", "moving camera")]
    for word in (*words, *sets, "learned, smooth"):
        assert word in text
    result = json.loads(run(*argv, "--json"))
    assert isinstance(result["missing"]["0.7"]["learned"]["dis"], float)
    assert isinstance(result["worse_than_none"], int)
    assert result["note"] is None


def test_refusals(refused, walk, tmp_path):
    command = ["evaluate", "alignment", "--mocap"]
    assert "no.npz does not exist" in refused(*command, tmp_path / "no.npz")
    (tmp_path / "bad.npz").write_bytes(b"nonsense")
    assert "is no readable .npz" in refused(*command, tmp_path / "bad.npz")
    np.savez(tmp_path / "flat.npz", joints=np.zeros((9, 18, 2)), clip_start=[0, 9], fps=15)
    assert "joints has shape [9, 18, 2], need [N, 18, 3]" in refused(*command, tmp_path / "flat.npz")
    assert "no-shapes.npz" in refused(*command, walk, "--shapes", tmp_path / "no-shapes.npz")
    np.savez(tmp_path / "shapes.npz", train=np.ones((5, 3)), val=np.ones((5, 3)))
    assert "shapes.npz" in refused(*command, walk, "--shapes", tmp_path / "shapes.npz")
    assert "no-aligner" in refused(*command, walk, "--aligner", tmp_path / "no-aligner")
    assert "choose another --plot" in refused(*command, walk, "--plot", tmp_path / "nowhere" / "plot.png")
    assert "0 is not a whole number from 1" in refused(*command, walk, "--pairs", 0)
