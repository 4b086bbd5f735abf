"""Training: each piece against what it must do, and the whole recipe on almost nothing."""

from __future__ import annotations

import math
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stableanimator_core.cli import build_parser, main, train
from stableanimator_core.errors import InputError
from stableanimator_core.models.iresnet import IResNet
from stableanimator_core.performers import render_dataset
from stableanimator_core.training import loop, mini
from stableanimator_core.training.animator import AnimatorRecipe
from stableanimator_core.training.autoencoder import (
    AutoencoderRecipe,
    Reconstruction,
    _sample_boxes,
    draw_frames,
    face_mask,
    train_autoencoder,
)
from stableanimator_core.training.data import ClipStore, prefetch
from stableanimator_core.training.faces import MarginHead, degrade, train_embedder, verification
from stableanimator_core.training.graphs import Graphed
from stableanimator_core.training.loop import Budget, MovingAverage, OptimizerSteps, Progress
from stableanimator_core.vae import encode_image
from stableanimator_core.weights import BUILT_IN, load_models, read_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of three rendered clips of three frames."""
    folder = tmp_path_factory.mktemp("clips")
    render_dataset(folder, 3, seed=1, size=64, frames=3, workers=1, canvas_short_side=128)
    return folder


@pytest.fixture
def store(clips):
    return ClipStore(clips)


# --- loop -----------------------------------------------------------------------------------------------------------


def test_progress_ends_by_steps():
    progress = Progress("test", Budget(7))
    seen = [(step, progress.done) for step in progress]
    assert seen == [(i, pytest.approx(i / 7)) for i in range(7)]
    assert progress.done == 1


def test_progress_ends_by_minutes(monkeypatch):
    """A clock that goes on by 2 s a look: half a minute is over long before the steps are."""
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    progress = Progress("test", Budget(100_000, minutes=0.5))
    steps = sum(1 for _ in progress)
    assert steps == 15 * loop.CLOCK_STEPS
    assert progress.done >= 1


def test_few_steps_end_before_many_minutes():
    assert sum(1 for _ in Progress("test", Budget(25, minutes=60))) == 25


def test_learning_rate_warms_up_and_falls_to_the_floor():
    progress, rates = Progress("test", Budget(1)), []
    for done in np.linspace(0, 1, 201):
        progress.done = float(done)
        rates.append(progress.learning_rate(3.0, warmup=0.1, floor=0.02))
    peak = rates.index(max(rates))
    assert 0 < rates[0] < 0.05
    assert peak == 20 and rates[peak] == pytest.approx(3.0)
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(3.0 * 0.02)
    progress.done = 1.5  # minutes may overshoot
    assert progress.learning_rate(3.0) == pytest.approx(3.0 * 0.02)


def test_the_log_line_holds_means(caplog):
    progress = Progress("stage", Budget(4), every=2)
    with caplog.at_level("INFO", logger=loop.__name__):
        for step in progress:
            progress.report(loss=torch.tensor(float(step)))
    assert [record.getMessage().split("  ")[-1] for record in caplog.records] == ["loss 0.5000", "loss 2.5000"]
    assert caplog.records[0].getMessage().startswith("stage step 2 (25 %")


def layer_with_counter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_swapping_twice_restores_both():
    module = layer_with_counter()
    average = MovingAverage(module)
    with torch.no_grad():
        module[0].weight.add_(1)
    average.update()
    live = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    average.swap()
    first = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert not first["0.weight"].equal(live["0.weight"])
    average.swap()
    assert all(tensor.equal(live[key]) for key, tensor in module.state_dict().items())
    average.swap()
    assert all(tensor.equal(first[key]) for key, tensor in module.state_dict().items())


def test_the_average_is_between_old_and_new():
    module = layer_with_counter()
    old = module[0].weight.detach().clone()
    average = MovingAverage(module, decay=0.999)
    with torch.no_grad():
        module[0].weight.add_(torch.rand_like(old) + 0.1)
    module[1].num_batches_tracked.add_(5)
    new = module[0].weight.detach().clone()
    average.update()
    average.swap()
    assert (module[0].weight > old).all() and (module[0].weight < new).all()
    assert module[1].num_batches_tracked == 5, "counters are copied"


def test_the_average_has_a_short_memory_at_the_start_and_a_long_one_later():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = MovingAverage(module, decay=0.99)
    nn.init.ones_(module.weight)
    for _ in range(20):
        average.update()
    average.swap()
    assert module.weight.item() > 0.95
    average.swap()
    for _ in range(2000):
        average.update()
    nn.init.zeros_(module.weight)
    average.update()
    average.swap()
    assert module.weight.item() == pytest.approx(0.99, abs=1e-4)


def test_a_step_without_a_finite_gradient_is_skipped():
    weight = nn.Parameter(torch.ones(3))
    step = OptimizerSteps(torch.optim.SGD([weight], lr=1.0))
    for bad in (float("nan"), float("inf")):
        step((weight * bad).sum(), 0.1)
        assert weight.equal(torch.ones(3))
    assert step.skipped == 2
    step(weight.sum(), 0.1)
    assert step.skipped == 0
    assert (weight < 1).all()


def test_many_skipped_steps_in_a_row_are_a_fault():
    weight = nn.Parameter(torch.ones(3))
    step = OptimizerSteps(torch.optim.SGD([weight], lr=1.0))
    for _ in range(loop.MOST_SKIPPED):
        step((weight * float("nan")).sum(), 0.1)
    with pytest.raises(RuntimeError, match="no finite gradient in 51 steps; lower the learning rate"):
        step((weight * float("nan")).sum(), 0.1)


def test_gradients_are_clipped_and_the_rate_is_the_given_one():
    weight = nn.Parameter(torch.zeros(4))
    step = OptimizerSteps(torch.optim.SGD([weight], lr=99.0), clip=1.0)
    step(1000 * weight.sum(), 0.5)
    torch.testing.assert_close(weight.detach(), torch.full((4,), -0.25))  # a norm of 1 at a rate of .5


# --- data -----------------------------------------------------------------------------------------------------------


def test_a_store_shows_the_rendered_clips(store):
    assert (len(store), store.ready, store.frames, store.width, store.height) == (3, 3, 3, 64, 64)
    assert store.clips.shape == store.pose_images.shape == (3, 4, 64, 64, 3)
    drawn = store.draw(np.random.default_rng(0), 50)
    assert set(drawn.tolist()) == {0, 1, 2}


def test_processes_share_the_clips(clips):
    shares = [ClipStore(clips, process=i, processes=2) for i in range(2)]
    assert [share.own.tolist() for share in shares] == [[0, 2], [1]]
    assert set(shares[0].draw(np.random.default_rng(0), 50).tolist()) == {0, 2}


def test_only_written_clips_are_drawn(clips, tmp_path):
    for file in clips.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "progress").write_text("2")
    growing = ClipStore(tmp_path)
    assert growing.ready == 2
    assert set(growing.draw(np.random.default_rng(0), 50).tolist()) == {0, 1}


def test_a_folder_without_clips(tmp_path):
    with pytest.raises(InputError, match="holds no rendered clips"):
        ClipStore(tmp_path)


def test_prefetch_keeps_the_order_and_other_things():
    numbers = iter(range(100))
    batches = prefetch(lambda: (torch.tensor(next(numbers)), "text"), device=CPU)
    assert [(int(number), text) for number, text in (next(batches) for _ in range(10))] == [
        (i, "text") for i in range(10)
    ]
    batches.close()


def test_prefetch_waits_for_its_thread():
    before, drawn = threading.active_count(), []

    def draw():
        time.sleep(0.01)
        drawn.append(1)
        return (torch.zeros(1),)

    batches = prefetch(draw, device=CPU)
    next(batches)
    assert threading.active_count() == before + 1
    time.sleep(0.1)  # the queue is full
    del batches
    assert threading.active_count() == before
    assert len(drawn) < 10


def test_errors_in_the_thread_surface():
    def draw():
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch(draw, device=CPU))


# --- faces ----------------------------------------------------------------------------------------------------------


def test_the_own_class_is_shifted_by_the_margin():
    torch.manual_seed(0)
    head = MarginHead(8, 5, margin=0.35, scale=32.0)
    embedding, person = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    cosine = nn.functional.normalize(embedding) @ nn.functional.normalize(head.centres.detach()).T
    logits = cosine.clone()
    for row, own in enumerate(person.tolist()):
        logits[row, own] = math.cos(math.acos(cosine[row, own]) + 0.35)
    expected = nn.functional.cross_entropy(32.0 * logits, person)
    torch.testing.assert_close(head(embedding, person), expected)
    head.margin = 0.0
    torch.testing.assert_close(head(embedding, person), nn.functional.cross_entropy(32.0 * cosine, person))
    assert head(embedding, person) < expected


def test_a_perfect_embedding_has_a_finite_gradient():
    head = MarginHead(4, 3)
    embedding = head.centres.detach()[:1].clone().requires_grad_()
    head(embedding, torch.tensor([0])).backward()
    assert embedding.grad.isfinite().all() and head.centres.grad.isfinite().all()


def squares(people=4, views=6, size=32):
    """Views of people who are coloured squares on noise: uint8 [people, views, S, S, 3]."""
    rng = np.random.default_rng(0)
    colours = np.array([(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30)])
    crops = rng.integers(100, 150, (people, views, size, size, 3), dtype=np.uint8)
    for p in range(people):
        for v in range(views):
            x, y = rng.integers(2, 10, 2)
            crops[p, v, y : y + 18, x : x + 18] = colours[p]
    return torch.from_numpy(crops)


def test_the_embedder_learns_to_tell_people_apart():
    torch.manual_seed(0)
    embedder = IResNet([1] * 4, [8, 8, 16, 16], embedding_dim=16, input_size=32, head="depthwise")
    train_embedder(embedder, squares(), Budget(60), device=CPU, name="squares", batch=16, rate=5e-3)
    assert not embedder.training
    assert not any(weight.requires_grad for weight in embedder.parameters())
    scores = verification(embedder, squares(), device=CPU)
    assert scores["same"] > 0.8
    assert scores["other"] < 0.4
    assert scores["tar_at_far_0.001"] > 0.9


def test_verification_of_a_known_embedder():
    """An embedder that gives every person an axis of their own."""

    def embedder(faces):
        colours = torch.tensor([(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30)]) / 127.5 - 1
        return nn.functional.one_hot(torch.cdist(faces[:, :, 11, 11], colours).argmin(1), 4)

    scores = verification(embedder, squares(), device=CPU)
    assert scores == {"same": 1.0, "other": 0.0, "tar_at_far_0.001": 1.0}


def test_degraded_faces_stay_pictures():
    generator = torch.Generator().manual_seed(0)
    faces = torch.rand(8, 3, 32, 32) * 2 - 1
    worse = degrade(faces, generator)
    assert worse.shape == faces.shape
    assert worse.abs().max() <= 1
    assert 0.01 < (worse - faces).abs().mean() < 0.5
    assert degrade(faces, torch.Generator().manual_seed(0)).equal(worse)


# --- autoencoder ----------------------------------------------------------------------------------------------------


def test_face_mask_is_one_in_the_box():
    boxes = torch.tensor([[2.0, 1, 5, 4], [float("nan")] * 4])
    mask = face_mask(boxes, (6, 8))
    expected = torch.zeros(6, 8)
    expected[1:4, 2:5] = 1
    assert mask[0, 0].equal(expected)
    assert not mask[1].any()


def test_sampled_boxes_are_the_pixels_of_the_box():
    frames = torch.rand(2, 3, 20, 30)
    boxes = torch.tensor([[3.0, 4, 11, 12], [10, 2, 18, 10]])
    crops = _sample_boxes(frames, boxes, 8)
    torch.testing.assert_close(crops[0], frames[0, :, 4:12, 3:11], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(crops[1], frames[1, :, 2:10, 10:18], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("close_ups", [0.0, 1.0])
def test_drawn_frames_and_their_boxes(store, close_ups):
    recipe = AutoencoderRecipe(frames=4, crop=32, close_ups=close_ups)
    for step in range(10):
        frames, boxes, has_face = draw_frames(store, recipe, step)
        side = 32 if close_ups else 64
        assert frames.dtype == torch.uint8 and frames.shape[2:] == (side, side, 3)
        assert boxes.shape == (frames.shape[0] * frames.shape[1], 4) and has_face.shape == boxes.shape[:1]
        assert boxes.isfinite().all()
        inside = boxes[has_face > 0]
        assert (inside > -2).all() and (inside < side + 2).all()


def test_the_loss_of_a_perfect_reconstruction_is_the_kl_alone():
    class Exact(nn.Module):
        """A VAE that keeps the picture, with a posterior of its own."""

        def encode(self, x):
            posterior = type("Posterior", (), {"mean": torch.zeros(len(x), 4, 2, 2), "std": torch.ones(1)})()
            posterior.logvar = torch.zeros(len(x), 4, 2, 2)
            self.x = x
            return type("Output", (), {"latent_dist": posterior})()

        def decode(self, z, num_frames):
            return type("Output", (), {"sample": self.x})()

    embedder = IResNet([1] * 4, [8] * 4, embedding_dim=16, input_size=16, head="depthwise").eval()
    x, boxes = torch.rand(1, 2, 3, 16, 16) * 2 - 1, torch.tensor([[2.0, 2, 12, 12]] * 2)
    noise = torch.randn(2, 4, 2, 2)
    loss, l1, feature, kl = Reconstruction(Exact(), embedder, AutoencoderRecipe())(
        x, boxes, torch.ones(2), noise, torch.zeros_like(noise)
    )
    assert (l1.item(), kl.item()) == (0, 0)
    assert feature.item() == pytest.approx(0, abs=1e-5)
    assert loss.item() == pytest.approx(0, abs=1e-4)


@pytest.fixture
def bright(tmp_path):
    """Clips of 32 x 32 px: a dark face on a bright wall that differs a little from clip to clip."""
    frames = np.empty((4, 3, 32, 32, 3), np.uint8)
    frames[:] = np.array([(250, 220, 160), (230, 230, 180), (240, 200, 170), (220, 210, 150)])[:, None, None, None]
    frames[:, :, 8:16, 10:18] = (90, 40, 20)
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "pose_images.npy", np.zeros_like(frames))
    np.save(tmp_path / "face_boxes.npy", np.broadcast_to(np.float32([10, 8, 18, 16]), (4, 3, 4)))
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "progress").write_text("4")
    return ClipStore(tmp_path)


def test_the_autoencoder_learns(tiny_model, bright):
    models = load_models(tiny_model)
    frames = torch.from_numpy(np.array(bright.clips[:, 1])).permute(0, 3, 1, 2) / 127.5 - 1

    @torch.no_grad()
    def error() -> float:
        made = models.vae.decode(models.vae.encode(frames).latent_dist.mode(), num_frames=4).sample
        return (made - frames).abs().mean().item()

    before = error()
    torch.manual_seed(0)
    recipe = AutoencoderRecipe(frames=2, close_ups=0.0, rate=5e-3)
    train_autoencoder(models.vae, bright, models.face_embedder, Budget(12), recipe, device=CPU)
    assert error() < 0.9 * before
    assert not models.vae.training and not any(weight.requires_grad for weight in models.vae.parameters())
    latents = encode_image(models.vae, frames) * models.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.01)


def test_a_decoder_alone_learns_and_leaves_the_latents(tiny_model, bright):
    models = load_models(tiny_model)
    before = {key: tensor.clone() for key, tensor in models.vae.state_dict().items()}
    factor = models.vae.config.scaling_factor
    recipe = AutoencoderRecipe(frames=2, close_ups=0.0, decoder_only=True)
    train_autoencoder(models.vae, bright, models.face_embedder, Budget(1), recipe, device=CPU)
    changed = [key for key, tensor in models.vae.state_dict().items() if not tensor.equal(before[key])]
    assert {key.partition(".")[0] for key in changed} == {"decoder"}
    assert models.vae.config.scaling_factor == factor
    assert not any(weight.requires_grad for weight in models.vae.parameters())


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_on_the_cpu_a_network_is_called_plainly():
    network = nn.Linear(3, 2)
    x = torch.rand(4, 3)
    assert Graphed(network, CPU)(x).equal(network(x))
    assert Graphed(network, CPU)(x).requires_grad


# --- the recipe -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """quick_recipe with networks and pictures that are smaller still."""
    whole = mini.mini_config

    def config(size=64, **kwargs):
        made = whole(size, channels=(32, 32, 32), **kwargs)
        parts = made.parts | {"vae": made.parts["vae"] | {"block_out_channels": [32, 32, 32, 32]}}
        for name in ("face_embedder", "face_judge"):
            parts[name] = parts[name] | {"layers": [1] * 4, "widths": [8] * 4}
        return replace(made, parts=parts)

    monkeypatch.setattr(mini, "mini_config", config)
    few = Budget(1)
    return replace(
        mini.quick_recipe(),
        size=64,
        frames=2,
        clips=2,
        identities=2,
        embedder=few,
        autoencoder=few,
        animator=few,
        animation=AnimatorRecipe(clips=1, frames=2),
        batch_faces=4,
    )


def check_model(folder, trained):
    """The folder holds the trained networks."""
    loaded = load_models(folder)
    assert loaded.config.name == "mini"
    assert loaded.face_judge is not None
    assert loaded.vae.config.scaling_factor == trained.vae.config.scaling_factor
    for name, part in trained.parts().items():
        assert not part.training and not any(weight.requires_grad for weight in part.parameters()), name
        state = loaded.parts()[name].state_dict()
        for key, tensor in part.state_dict().items():
            torch.testing.assert_close(state[key], tensor, atol=1e-2, rtol=1e-2)
    return loaded


def test_the_recipe_writes_a_model_that_loads(small, clips, tmp_path, monkeypatch):
    """The clips are rendered already, the views are squares."""
    monkeypatch.setattr(mini, "render_views", lambda folder, people, **_: squares(people, 2, mini.FACE_SIZE).numpy())
    data = shutil.copytree(clips, tmp_path / "data" / "clips").parent
    trained = mini.train_mini(tmp_path / "out", small, data=data)
    loaded = check_model(tmp_path / "out", trained)
    assert trained.pose_net.final_proj.weight.any(), "it starts at zero"

    mini.train_mini(tmp_path / "again", small, stages=(), data=data, start_from=tmp_path / "out")
    again = load_models(tmp_path / "again")
    for name, part in again.parts().items():
        state = loaded.parts()[name].state_dict()
        assert all(tensor.equal(state[key]) for key, tensor in part.state_dict().items()), name
    assert again.vae.config.scaling_factor == trained.vae.config.scaling_factor


def test_the_identity_path_can_start_fresh(small, clips, tmp_path):
    data = shutil.copytree(clips, tmp_path / "data" / "clips").parent
    start = mini.train_mini(tmp_path / "start", small, stages=(), data=data)
    ways = [
        mini.train_mini(
            tmp_path / way, replace(small, adapter=way, seed=5), stages=(), data=data,
            start_from=tmp_path / "start", fresh_identity=True,
        )
        for way in ("none", "own")
    ]  # fmt: skip
    changed = set()
    for part in ("unet", "pose_net", "face_encoder", "image_encoder", "vae"):
        one, other = (models.parts()[part].state_dict() for models in ways)
        for key, before in start.parts()[part].state_dict().items():
            assert one[key].equal(other[key]), f"{part}.{key}: the ways start alike"
            if not torch.allclose(one[key], before, atol=1e-3):  # files hold half precision
                changed.add(part if ".processor.id_to_" not in key else "adapters")
    assert changed == {"adapters", "face_encoder"}


def test_steps_and_batch_of_the_animator_are_handed_over():
    argv = ["train", "mini", "--out", "x", "--animator-minutes", "2", "--animator-steps", "30", "--batch", "5"]
    recipe = train._recipe(build_parser().parse_args(argv))
    assert recipe.animator == Budget(30, 2.0) and recipe.animation.clips == 5
    assert recipe.animation.validate_every == mini.MiniRecipe().animation.validate_every


def test_what_needs_a_model_to_start_from_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mini, "train_mini", lambda *_, **__: pytest.fail("trained"))
    assert main(["train", "mini", "--out", str(tmp_path / "x"), "--fresh-identity"]) == 2
    assert "--fresh-identity: without --start-from everything starts fresh" in capsys.readouterr().err
    assert main(["train", "mini", "--out", str(tmp_path / "x"), "--decoder-only"]) == 2
    assert "--decoder-only: without --start-from the encoder stays untrained" in capsys.readouterr().err


def test_a_recipe_that_was_killed_goes_on(small, clips, tmp_path, monkeypatch):
    """Killed between the stages: what is trained already is taken, and the result is that of a run in one go."""
    monkeypatch.setattr(mini, "render_views", lambda folder, people, **_: squares(people, 2, mini.FACE_SIZE).numpy())
    data = shutil.copytree(clips, tmp_path / "data" / "clips").parent
    whole = mini.train_mini(tmp_path / "whole", small, data=data)
    train_animator = mini.train_animator
    monkeypatch.setattr(mini, "train_animator", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mini.train_mini(tmp_path / "killed", small, data=data)
    monkeypatch.setattr(mini, "train_animator", train_animator)
    with pytest.raises(InputError, match="faces.pt: is of an earlier run; go on with --resume, or give another --out"):
        mini.train_mini(tmp_path / "killed", small, data=data)
    monkeypatch.setattr(mini, "train_embedder", lambda *_, **__: pytest.fail("trained twice"))
    resumed = mini.train_mini(tmp_path / "killed", small, data=data, resume=True)
    for name, part in resumed.parts().items():
        state = whole.parts()[name].state_dict()
        for key, tensor in part.state_dict().items():
            assert tensor.equal(state[key]), f"{name}.{key}"


def test_another_process_takes_the_embedders_of_the_first(small, clips, tmp_path, monkeypatch):
    """It neither renders nor trains nor writes; what the first process broadcasts becomes its weights."""
    state = SimpleNamespace(device=CPU, is_main_process=False, process_index=1, num_processes=2)
    monkeypatch.setattr(mini, "start_processes", lambda: state)
    monkeypatch.setattr(mini, "_train_faces", lambda *_: pytest.fail("trained twice"))
    monkeypatch.setattr(loop.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(loop.dist, "broadcast", lambda tensor, source: tensor.fill_(source + 3))
    data = shutil.copytree(clips, tmp_path / "data" / "clips").parent
    models = mini.train_mini(tmp_path / "out", small, stages=("faces",), data=data)
    for embedder in (models.face_embedder, models.face_judge):
        assert all((tensor == 3).all() for tensor in embedder.state_dict().values())
    assert not (tmp_path / "out").exists()


def test_the_embedder_trains_without_the_other_processes(monkeypatch):
    monkeypatch.setattr(loop.dist, "is_initialized", lambda: True)
    for name in ("broadcast", "all_reduce"):
        monkeypatch.setattr(loop.dist, name, lambda *_: pytest.fail("waited for the others"))
    embedder = IResNet((1,) * 4, (8,) * 4, 16, 32, "depthwise")
    budget = Budget(loop.CLOCK_STEPS, minutes=60)
    train_embedder(embedder, squares(2, 2), budget, device=CPU, name="embedder", batch=2)


@pytest.mark.slow
def test_the_recipe_renders_its_own_material(small, tmp_path):
    trained = mini.train_mini(tmp_path / "out", small)
    check_model(tmp_path / "out", trained)
    assert ClipStore(tmp_path / "out" / "data" / "clips").ready == small.clips


def test_recipe_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; give a folder for the model"):
        mini.train_mini(tmp_path / "file", mini.quick_recipe())
    with pytest.raises(InputError, match="stage 'dance' is unknown; choose from faces, autoencoder, animator"):
        mini.train_mini(tmp_path / "out", mini.quick_recipe(), stages=("faces", "dance"))
    with pytest.raises(InputError, match="no.npz: not found"):
        mini.train_mini(tmp_path / "out", mini.quick_recipe(), mocap=tmp_path / "no.npz")
    with pytest.raises(InputError, match="size 100: the model needs a multiple of 32; take 96"):
        mini.train_mini(tmp_path / "out", replace(mini.quick_recipe(), size=100))
    assert not (tmp_path / "out").exists()


def test_a_renderer_that_fails_is_noticed(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    failed = type("Process", (), {"exitcode": 3})()
    with pytest.raises(RuntimeError, match="rendering the clips failed with exit status 3"):
        mini._wait(failed, lambda: False)
    mini._wait(failed, lambda: True)
    mini._wait(None, iter((False, True)).__next__)


def test_the_built_in_model_is_what_the_recipe_makes():
    shipped, made = read_config(BUILT_IN["mini"]), mini.mini_config()
    for part, settings in made.parts.items():
        assert settings.items() <= shipped.parts[part].items(), part
    assert replace(shipped, parts={}) == replace(made, parts={})
