"""Training the aligner: the loss, the draws, a run that was killed, the command."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from walking import write_walk

from stableanimator_core import cli
from stableanimator_core.alignment import Similarity
from stableanimator_core.alignment.network import Placement
from stableanimator_core.errors import InputError
from stableanimator_core.evaluation.alignment import best_similarity, moved_by
from stableanimator_core.training import aligner as training
from stableanimator_core.training.loop import Budget, MovingAverage, Progress
from stableanimator_core.training.misaligned import Motions, PairSettings, Shapes
from stableanimator_core.weights.aligner import load_aligner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_walk(tmp_path_factory.mktemp("walk") / "walk.npz")


@pytest.fixture(scope="module")
def data(walk):
    motions = Motions.load(walk, "cpu")
    return dict(motions=motions, shapes=Shapes.adults(), validation=motions)


@pytest.fixture
def recipe():
    return replace(training.quick_recipe(), budget=Budget(6))


@pytest.fixture
def pairs(data, recipe):
    return training.draw_pool(data["motions"], data["shapes"], recipe, 0, process=0, device=CPU)


def of(data):
    return {name: data[name] for name in ("motions", "shapes")}


def placed(transform, error=None):
    return Placement(transform, torch.ones(len(transform.scale)) if error is None else error)


def weights(folder):
    return load_file(folder / "aligner.safetensors")


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, data, recipe, monkeypatch):
    often = replace(recipe, checkpoint_seconds=0.0)
    whole = training.train_aligner(tmp_path / "whole", often, **data)
    draw = training.draw_batches

    def die_at_step_3(*args, **rest):
        yield from islice(draw(*args, **rest), 3)
        raise KeyboardInterrupt

    assert (recipe.pool, recipe.passes) == (2, 2), "the run dies in the middle of a pool's second pass"
    monkeypatch.setattr(training, "draw_batches", die_at_step_3)
    with pytest.raises(KeyboardInterrupt):
        training.train_aligner(tmp_path / "killed", often, **data)
    monkeypatch.setattr(training, "draw_batches", draw)
    resumed = training.train_aligner(tmp_path / "killed", often, resume=True, **data)
    assert resumed == whole
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "killed").items():
        assert torch.equal(tensor, expected[name]), name
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert "goes on from step 3" in log


def test_training_changes_the_weights(tmp_path, data, recipe):
    torch.manual_seed(recipe.seed)
    fresh = training.AlignmentNet(**recipe.network).state_dict()
    training.train_aligner(tmp_path / "out", recipe, **data)
    changed = [not torch.equal(tensor, fresh[name]) for name, tensor in weights(tmp_path / "out").items()]
    assert np.mean(changed) > 0.5


def test_it_learns(tmp_path, data, recipe):
    """References that sit mislead the closed-form fit; a tiny network learns far better in a few seconds."""
    sitting = PairSettings(
        p_same_pose=0, p_other_pose=0, p_sit=1, p_crouch=0, p_kneel=0, p_turn=0, yaw=20, p_any_yaw=0,
        driver_framing=(1, 0, 0), reference_framing=(1, 0, 0),
    )  # fmt: skip
    longer = replace(
        recipe, budget=Budget(120), batch=24, pool=16, frames=(4,), rate=2e-3, average=0.9, validate_every=120,
        validation_pairs=256, network=dict(width=48, layers=1, heads=2), pairs=sitting,
    )  # fmt: skip
    scores = training.train_aligner(tmp_path / "out", longer, device="cpu", **data)  # the same pairs on every machine
    rows = [scores[f"missing {share:g}"] for share in training.VALIDATION_MISSING]
    oracle, learned, svd = (np.mean([row[name]["dis"] for row in rows]) for name in ("oracle", "learned", "svd"))
    assert oracle < learned < 0.6 * svd, (oracle, learned, svd)


def test_the_loss_is_the_distance_in_body_heights(pairs, recipe):
    best = best_similarity(pairs)
    off = Similarity(best.scale, best.rotation, best.translation + 1e3 * pairs.height[:, None])
    loss, parts = training.aligner_loss(placed(off), pairs, replace(recipe, error_weight=0.0))
    assert float(parts["distance"]) == pytest.approx(1e3 * 2**0.5, rel=0.01)
    assert float(loss) == pytest.approx(float(parts["distance"] + recipe.scale_weight * parts["scale"]))


def test_pairs_count_as_the_network_is_sure_of_them(pairs, recipe):
    """With all the focus a pair's weight goes with one over the error expected of it; without, all are alike."""
    best = best_similarity(pairs)
    error = torch.linspace(0.05, 0.5, len(pairs.clean))
    for focus, weight in ((0.0, torch.ones_like(error)), (1.0, (1 / error) / (1 / error).mean())):
        settings = replace(recipe, focus=focus, error_weight=0.0, scale_weight=0.0, soft=1e-6)
        distance = (moved_by(best, pairs) - pairs.truth).norm(dim=-1).mean((1, 2)) / pairs.height
        loss, _ = training.aligner_loss(placed(best, error), pairs, settings)
        assert float(loss) == pytest.approx(float((weight * distance).mean()), rel=1e-3)


def test_the_expected_error_is_best_where_it_is_the_distance(pairs, recipe):
    best = best_similarity(pairs)
    settings = replace(recipe, focus=0.0)
    distance = (moved_by(best, pairs) - pairs.truth).norm(dim=-1).mean((1, 2)) / pairs.height
    right, *wrong = (training.aligner_loss(placed(best, distance * k), pairs, settings)[0] for k in (1, 0.7, 1.4))
    assert all(float(right) < float(loss) for loss in wrong)


def test_the_loss_at_the_truth_is_nothing_and_has_a_gradient(pairs, recipe):
    exact = pairs._replace(truth=pairs.clean)
    batch = len(pairs.clean)
    scale = torch.ones(batch, requires_grad=True)
    same = Similarity(scale, torch.eye(2).expand(batch, 2, 2), torch.zeros(batch, 2))
    loss, _ = training.aligner_loss(placed(same), exact, replace(recipe, error_weight=0.0))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert scale.grad.isfinite().all()


def test_the_scale_counts(pairs, recipe):
    larger = pairs._replace(truth=3 * pairs.clean)
    batch = len(pairs.clean)
    twice = Similarity(torch.full((batch,), 2.0), torch.eye(2).expand(batch, 2, 2), torch.zeros(batch, 2))
    _, parts = training.aligner_loss(placed(twice), larger, recipe)
    assert float(parts["scale"]) == pytest.approx(np.log(1.5), rel=1e-4)


def test_every_step_and_process_draws_its_own_pairs(data, recipe):
    def drawn(step, process, seed=1):
        fixed = replace(recipe, seed=seed, frames=(4,))
        net = training.AlignmentNet(**recipe.network)
        return next(training.draw_batches(net, **of(data), recipe=fixed, first=step, process=process, device=CPU))[0]

    assert len(drawn(5, 1).clean) == recipe.batch
    assert torch.equal(drawn(5, 1).clean, drawn(5, 1).clean)
    for other in (drawn(4, 1), drawn(6, 1), drawn(5, 0), drawn(5, 1, seed=2)):
        assert not torch.equal(drawn(5, 1).clean, other.clean)


def test_a_pool_is_drawn_once_and_guides_as_its_parts_do(data, recipe, monkeypatch):
    torch.manual_seed(0)
    net = training.AlignmentNet(**recipe.network)
    torch.nn.init.normal_(net.to_correction[-1].weight)
    drawn, draw = [], training.draw_pool

    def counted(motions, shapes, recipe, pool, **rest):
        drawn.append(pool)
        return draw(motions, shapes, recipe, pool, **rest)

    monkeypatch.setattr(training, "draw_pool", counted)
    batches = list(islice(training.draw_batches(net, **of(data), recipe=recipe, first=1, process=0, device=CPU), 8))
    assert drawn == [0, 1, 2], "steps 1 to 3, 4 to 7, and the first one of the next pool"
    for pairs, guidance, reading in batches:
        given = pairs.driving, pairs.driving_seen, pairs.reference, pairs.reference_seen
        torch.testing.assert_close(
            net.place(net.correct(*reading), guidance).transform, net(*given).transform, atol=1e-2, rtol=1e-4
        )


def test_a_pool_is_passed_over_in_other_orders(data, recipe):
    net = training.AlignmentNet(**recipe.network)
    once = replace(recipe, pool=3)
    batches = list(islice(training.draw_batches(net, **of(data), recipe=once, first=0, process=0, device=CPU), 6))
    passes = [torch.cat([pairs.height for pairs, *_ in part]) for part in (batches[:3], batches[3:])]
    assert not torch.equal(*passes), "the order differs"
    assert torch.equal(*(part.sort().values for part in passes)), "the pairs do not"


def test_processes_draw_the_same_number_of_frames_which_varies(data, recipe):
    def drawn(pool, process):
        return training.draw_pool(**of(data), recipe=recipe, pool=pool, process=process, device=CPU).clean.shape[1]

    frames = [{drawn(pool, process) for process in (0, 1)} for pool in range(12)]
    assert all(len(found) == 1 for found in frames)
    assert set.union(*frames) == set(recipe.frames)


def test_minutes_end_a_run(tmp_path, data, recipe):
    short = replace(recipe, budget=Budget(10**9, minutes=1e-4))
    scores = training.train_aligner(tmp_path / "out", short, **data)
    assert 0 < scores["step"] < 1000
    again = training.train_aligner(tmp_path / "out", short, resume=True, **data)
    assert again == scores, "nothing is left of the minutes"


def test_a_run_may_start_from_weights(tmp_path, data, recipe):
    first = training.train_aligner(tmp_path / "first", recipe, **data)
    start = weights(tmp_path / "first")
    further = replace(recipe, budget=Budget(1), rate=1e-12, network={}, start_from=str(tmp_path / "first"))
    training.train_aligner(tmp_path / "further", further, **data)
    for name, tensor in weights(tmp_path / "further").items():
        torch.testing.assert_close(tensor, start[name], atol=1e-6, rtol=0)
    assert first["step"] == 6
    assert f'"start_from": "{tmp_path / "first"}"' in (tmp_path / "further" / "README.md").read_text()
    with pytest.raises(InputError, match="has its own settings"):
        training.train_aligner(tmp_path / "other", replace(further, network=dict(width=48)), **data)


def test_what_a_run_leaves(tmp_path, data, recipe):
    training.train_aligner(tmp_path / "out", recipe, sources=("walk.npz: my own",), **data)
    out = tmp_path / "out"
    assert not list(out.glob("**/*partial*"))
    card = (out / "README.md").read_text()
    for text in ("- walk.npz: my own", '"batch": 4', "| 0 % | learned |", "| 50 % | oracle |"):
        assert text in card
    log = (out / "log.txt").read_text()
    assert log.count("validation at step") == 6
    assert not (out / "last").exists()
    net = load_aligner(out)
    assert net.config["width"] == recipe.network["width"]
    assert not logging.getLogger("stableanimator_core.training").handlers, "the log is closed"


def test_the_card_thanks_whom_the_data_came_from(tmp_path, walk):
    with np.load(walk) as data:
        arrays = dict(data)
    clips = [{"licence": "CMU mocap (see README.md)"}, {"licence": "my own"}]
    np.savez(tmp_path / "stated.npz", meta_json=json.dumps(clips), **arrays)
    np.savez(tmp_path / "broken.npz", meta_json="{", **arrays)
    stated = training.describe_source(tmp_path / "stated.npz")
    assert stated == "stated.npz: CMU mocap (see README.md); my own"
    unknown = [training.describe_source(path) for path in (walk, tmp_path / "broken.npz")]
    assert all("states no licence" in text for text in unknown)
    recipe = training.quick_recipe()
    for sources, thanked in (((stated,), True), (tuple(unknown), False)):
        card = training.write_card(tmp_path, recipe, {}, sources=sources, minutes=1, processes=1).read_text()
        thanks = "obtained from mocap.cs.cmu.edu. The database was created with funding from NSF EIA-0196217."
        assert (thanks in card) == thanked


def test_a_run_is_not_overwritten(tmp_path, data, recipe):
    training.train_aligner(tmp_path / "out", recipe, **data)
    with pytest.raises(InputError, match="is of an earlier run; go on with --resume"):
        training.train_aligner(tmp_path / "out", recipe, **data)
    with pytest.raises(InputError, match="was trained with other settings"):
        training.train_aligner(tmp_path / "out", replace(recipe, batch=5), resume=True, **data)
    longer = replace(recipe, budget=Budget(8))
    assert training.train_aligner(tmp_path / "out", longer, resume=True, **data)["step"] <= 8
    checkpoint = torch.load(tmp_path / "out" / training.CHECKPOINT, weights_only=True)
    assert checkpoint["step"] == 8


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint(tmp_path, data, recipe, content):
    (tmp_path / training.CHECKPOINT).write_bytes(content)
    with pytest.raises(InputError, match="is no checkpoint of this training; give another --out"):
        training.train_aligner(tmp_path, recipe, resume=True, **data)


def test_a_file_is_no_folder(tmp_path, data, recipe):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; give a folder"):
        training.train_aligner(tmp_path / "file", recipe, **data)


def test_progress_resumes_steps_and_minutes():
    progress = Progress("x", Budget(10, minutes=1.0))
    progress.resume(4, 45.0)
    assert progress.done == pytest.approx(0.75)
    assert progress.seconds == pytest.approx(45, abs=1)
    assert next(iter(progress)) == 4
    steps = Progress("x", Budget(10))
    steps.resume(4, 45.0)
    assert list(steps) == [4, 5, 6, 7, 8, 9]


def test_a_moving_average_is_restored():
    module = torch.nn.Linear(2, 2)
    average, other = MovingAverage(module), MovingAverage(torch.nn.Linear(2, 2))
    with torch.no_grad():
        module.weight += 1
    average.update()
    other.restore(average.state())
    assert other.state()["updates"] == 1
    assert torch.equal(other.state()["average"]["weight"], average.state()["average"]["weight"])


@pytest.fixture
def command(capsys):
    def call(*argv, status=0):
        found = cli.main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert found == status, err
        return out if status == 0 else err

    return call


def test_command(command, walk, tmp_path):
    argv = ["train", "alignment", "--out", tmp_path / "out", "--mocap", walk, "--quick", "--steps", 3, "--seed", 5]
    result = json.loads(command(*argv, "--json"))
    assert result["scores"]["step"] <= 3
    assert result["scores"]["missing 0.5"]["learned"]["dis"] > 0
    assert "body heights from the truth" in command(*argv[:-4], "--steps", 5, "--seed", 5, "--resume")
    assert '"seed": 5' in (tmp_path / "out" / "README.md").read_text()


def test_command_builds_other_networks(command, walk, tmp_path):
    argv = ["train", "alignment", "--mocap", walk, "--quick", "--steps", 1, "--width", 24, "--layers", 2]
    for part in ("guidance", "motion"):
        command(*argv, "--out", tmp_path / part, "--without", part, "--rate", 1e-4)
        config = load_aligner(tmp_path / part).config
        assert (config["width"], config["layers"], config["heads"]) == (24, 2, 2)
        assert (config["use_guidance"], config["use_motion"]) == (part != "guidance", part != "motion")
        assert '"rate": 0.0001' in (tmp_path / part / "README.md").read_text()
    error = command(*argv[:-4], "--width", 25, "--out", tmp_path / "odd", status=2)
    assert "width 25, layers 1, heads 2" in error


@pytest.mark.slow
def test_two_processes_train_and_resume(two_processes, walk, tmp_path):
    argv = ["train", "alignment", "--out", tmp_path / "out", "--mocap", walk, "--quick"]
    for steps, more in ((4, ()), (6, ("--resume",))):
        two_processes(*argv, "--steps", steps, *more)
        checkpoint = torch.load(tmp_path / "out" / training.CHECKPOINT, weights_only=True)
        assert checkpoint["step"] == steps
    assert "in 2 process(es)" in (tmp_path / "out" / "README.md").read_text()


def test_command_refuses(command, walk, tmp_path):
    def refused(*argv) -> str:
        error = command("train", "alignment", *argv, status=2)
        assert error.count("\n") == 1, error
        return error

    out = ["--out", tmp_path / "out"]
    assert "--mocap: " in refused(*out, "--mocap", tmp_path / "no.npz")
    assert "--val-mocap: " in refused(*out, "--mocap", walk, "--val-mocap", tmp_path / "no.npz")
    assert "no-shapes.npz" in refused(*out, "--mocap", walk, "--shapes", tmp_path / "no-shapes.npz")
    (tmp_path / "bad.npz").write_bytes(b"nonsense")
    assert "is no readable .npz" in refused(*out, "--mocap", tmp_path / "bad.npz")
    assert "does not exist" in refused("--out", tmp_path / "a" / "b", "--mocap", walk)
    assert "--mocap" in refused(*out)
    assert not (tmp_path / "out").exists()
