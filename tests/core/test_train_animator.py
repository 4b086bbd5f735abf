"""Training the animator: its batches, what is dropped, what trains, a run that was killed, looks at it."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stableanimator_core.conditioning import build_conditioning, resize_picture
from stableanimator_core.denoiser import timestep_of, x0_from_v
from stableanimator_core.errors import InputError
from stableanimator_core.face import face_boxes
from stableanimator_core.performers import make_clip
from stableanimator_core.pose.draw import draw_poses
from stableanimator_core.training import animator as training
from stableanimator_core.training import autoencoder, checkpoint, loop, validation
from stableanimator_core.training.animator import Animator, AnimatorRecipe, draw, noisy_batch, train_animator
from stableanimator_core.training.autoencoder import AutoencoderRecipe, draw_frames, train_autoencoder
from stableanimator_core.training.curves import Curves
from stableanimator_core.training.data import ClipStore
from stableanimator_core.training.graphs import Graphed
from stableanimator_core.training.loop import Budget, OptimizerSteps, Progress
from stableanimator_core.training.material import RenderedMaterial
from stableanimator_core.vae import encode_image
from stableanimator_core.weights import load_models

CPU = torch.device("cpu")
TINY = AnimatorRecipe(clips=2, frames=2, rate=1e-3, average=0.5, log_every=1, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three clips of three frames, as render_dataset writes them."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for clip in (make_clip(seed, size=64, frames=3) for seed in range(1, 4)):
        boxes = []
        for faces in (face_boxes(poses, scale=1.5) for poses in (clip.reference_pose, clip.poses)):
            boxes.append(torch.where(faces.found[:, None], faces.boxes, torch.nan).numpy())
        pose_images = [draw_poses(poses, 64, 64, canvas_short_side=128) for poses in (clip.reference_pose, clip.poses)]
        parts = [clip.reference[None], clip.frames], pose_images, boxes
        rows.append([np.concatenate(part) for part in parts])
    for name, column in zip(("frames", "pose_images", "face_boxes"), zip(*rows)):
        np.save(folder / f"{name}.npy", np.stack(column))
    (folder / "dataset.json").write_text("{}")
    (folder / "progress").write_text("3")
    return ClipStore(folder)


@pytest.fixture
def models(tiny_model):
    return load_models(tiny_model)


@pytest.fixture(scope="module")
def material(tiny_model, store):
    return RenderedMaterial(load_models(tiny_model), store, device=CPU)


def sample_of(material, recipe, number=0):
    drawn = draw(material, recipe, Progress("test", Budget(10)), number, 0)
    return drawn, material.gather(*drawn)


def batch_of(models, material, recipe, number=0):
    sample = sample_of(material, recipe, number)[1]
    return sample, *noisy_batch(sample, models.config, recipe, torch.Generator().manual_seed(number))


# --- batches --------------------------------------------------------------------------------------------------------


def test_encoded_clips(models, store, material):
    encoded = material.encoded
    assert encoded.latents.shape == (3, 3, 4, 8, 8)
    assert encoded.image_latents.shape == (3, 4, 8, 8)
    assert encoded.reference.shape == (3, 3, 32, 32) and encoded.reference.dtype == torch.uint8
    assert encoded.embedding.shape == (3, 16)
    assert encoded.has_face.tolist() == np.isfinite(store.face_boxes[:, 0]).all(1).tolist()
    frames = torch.from_numpy(np.array(store.clips[2, 1:])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = encode_image(models.vae, frames) * models.vae.config.scaling_factor
    torch.testing.assert_close(encoded.latents[2].float(), expected, atol=5e-3, rtol=1e-2)


def test_the_v_target_inverts_to_the_clean_latents(models, material):
    sample, batch, target = batch_of(models, material, replace(TINY, clips=6, sigma_std=1.0))
    noisy, timestep = batch[:2]
    sigma = (4 * timestep).exp()
    torch.testing.assert_close(timestep_of(sigma), timestep)
    wide = sigma[:, None, None, None, None]
    x = noisy * (wide**2 + 1).sqrt()
    torch.testing.assert_close(x0_from_v(target, x, wide), sample.latents, atol=1e-4, rtol=1e-4)


def test_drawn_runs_are_consecutive_frames_and_longer_in_the_end(store, material):
    recipe = replace(TINY, clips=6, long_after=0.7)
    (clips, start, pose_images, boxes), sample = sample_of(material, recipe)
    assert pose_images.shape == (6, 2, 64, 64, 3) and boxes.shape == (6, 2, 4)
    for i, (clip, first) in enumerate(zip(clips.tolist(), start.tolist())):
        np.testing.assert_array_equal(pose_images[i], store.pose_images[clip, first + 1 : first + 3])
        assert sample.latents[i].equal(material.encoded.latents[clip, first : first + 2].float())
    assert sample_of(material, recipe, 6)[0][2].shape == (6, 2, 64, 64, 3)
    assert sample_of(material, recipe, 7)[0][2].shape == (4, 3, 64, 64, 3)
    assert sample_of(material, replace(recipe, accumulate=2), 13)[0][2].shape == (6, 2, 64, 64, 3), "of step 6"


def test_every_step_and_process_draws_its_own_batch(material):
    def drawn(number, process, seed=0):
        recipe = replace(TINY, clips=8, seed=seed)
        clips, start, *_ = draw(material, recipe, Progress("test", Budget(10)), number, process)
        return clips.tolist(), start.tolist()

    assert drawn(3, 1) == drawn(3, 1)
    for other in (drawn(4, 1), drawn(3, 0), drawn(3, 1, seed=5)):
        assert other != drawn(3, 1)


def test_noise_is_a_matter_of_step_and_process_too(models, material):
    def batches(first=0, process=0, count=1, seed=0):
        progress = Progress("test", Budget(10))
        progress.resume(first, 0.0)
        recipe = replace(TINY, accumulate=2, seed=seed)
        made = training._batches(material, recipe, progress, models.config, 8, device=CPU, process=process)
        return [next(made) for _ in range(count)]

    six = batches(count=6)
    [again] = batches(first=2)
    assert all(one.equal(other) for one, other in zip(again.given, six[4].given)) and again.target.equal(six[4].target)
    others = [*six, *batches(process=1), *batches(seed=1)]
    levels = {tuple(batch.given[1].tolist()) for batch in others}
    assert len(levels) == len(others), "each has noise levels of its own"


@pytest.mark.parametrize("dropped", ["drop_all", "drop_face", "drop_pose"])
def test_what_is_dropped(models, material, dropped):
    chances = dict(drop_all=0.0, drop_face=0.0, drop_pose=0.0)
    sample, batch, _ = batch_of(models, material, replace(TINY, clips=4, **chances | {dropped: 1.0}))
    keep, face, pose = batch[2:5]
    assert keep.tolist() == [float(dropped != "drop_all")] * 4
    assert face.tolist() == [float(dropped != "drop_face") * float(has) for has in sample.has_face]
    assert pose.tolist() == [float(dropped != "drop_pose")] * 4


def test_things_are_dropped_as_often_as_the_recipe_says(models, material):
    recipe = replace(TINY, clips=400, frames=1, drop_all=0.5, drop_face=0.2, drop_pose=0.1)
    sample, batch, _ = batch_of(models, material, recipe)
    shares = [1 - float(each.mean()) for each in batch[2:5]]
    shares[1] = 1 - float(batch[3].sum() / sample.has_face.sum())
    assert shares == pytest.approx([0.5, 0.2, 0.1], abs=0.08)


def test_a_dropped_condition_does_not_reach_the_unet(models, material):
    """With keep = 0 reference, face and pose may be anything, as in the unconditional half of guidance."""
    _, batch, _ = batch_of(models, material, replace(TINY, drop_all=1.0, drop_pose=0.0))
    animator = Animator(models).eval()
    torch.nn.init.normal_(animator.pose_net.final_proj.weight)
    noisy, timestep, keep, face, seen, reference, embedding, still, pose, micro = batch
    with torch.no_grad():
        one = animator(*batch)
        other = animator(noisy, timestep, keep, face, seen, -reference, -embedding, -still, -pose, micro)
        kept = animator(noisy, timestep, keep + 1, face, seen, reference, embedding, still, pose, micro)
        blind = animator(noisy, timestep, keep + 1, face, seen * 0, reference, embedding, still, pose, micro)
        blinder = animator(noisy, timestep, keep + 1, face, seen * 0, reference, embedding, still, -pose, micro)
    assert one.shape == noisy.shape
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(blind, blinder)
    assert not one.equal(kept) and not blind.allclose(kept)


# --- what trains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "train, prefixes",
    [
        (("unet", "pose_net", "face_encoder"), ("unet.", "pose_net.", "face_encoder.")),
        (("image_encoder",), ("image_encoder.",)),
        (("id_adapters", "face_encoder"), ("face_encoder.", "unet.*.id_to_")),
    ],
)
def test_only_the_named_parts_train(models, train, prefixes):
    animator = Animator(models, train)
    trained = {name for name, weight in animator.named_parameters() if weight.requires_grad}
    assert trained
    for name in trained:
        assert name.startswith(tuple(p for p in prefixes if "*" not in p)) or ".id_to_" in name, name
    assert ("image_encoder" in train) == (animator.image_encoder is not None)
    assert {name.partition(".")[0] for name in trained} == {prefix.partition(".")[0] for prefix in prefixes}


@pytest.mark.parametrize("train, what", [(("unet", "vae"), "vae"), ((), "nothing")])
def test_parts_that_cannot_train(models, train, what):
    with pytest.raises(InputError, match=f"cannot train {what}; choose from unet, pose_net, "):
        Animator(models, train)


def test_frozen_weights_stay_as_they_were(models, material, tmp_path):
    before = {name: weight.clone() for name, weight in models.unet.state_dict().items()}
    recipe = replace(TINY, train=("id_adapters", "pose_net", "image_encoder"))
    train_animator(models, material, Budget(2), recipe, device=CPU, out=tmp_path)
    for name, weight in models.unet.state_dict().items():
        assert weight.equal(before[name]) != (".id_to_" in name), name
    kept = checkpoint.read_state(tmp_path / "animator.pt")["network"]
    assert {name.partition(".")[0] for name in kept} == {"unet", "pose_net", "image_encoder"}
    assert all(".id_to_" in name for name in kept if name.startswith("unet.")), "what stays needs no checkpoint"


def test_it_learns(models, material):
    """The same batch over and over: the loss falls."""
    recipe = replace(TINY, rate=3e-3, drop_all=0.0, sigma_std=0.0)
    once = SimpleNamespace(frames=3, gather=material.gather)
    once.draw = lambda rng, count, length: material.draw(np.random.default_rng(0), count, length)
    first = train_animator(models, once, Budget(1), recipe, device=CPU)["loss"]
    assert train_animator(models, once, Budget(15), recipe, device=CPU)["loss"] < 0.8 * first


def test_parts_of_a_step_add_up_to_the_whole():
    """Two halves of a batch give the step of the whole batch; nothing is left for the next one."""
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    whole, halves = (OptimizerSteps(torch.optim.SGD([weight], lr=1.0), clip=10.0) for weight in weights)
    x = torch.tensor([[1.0, 2, 3], [3, 2, 5]])
    for _ in range(2):
        whole((x @ weights[0]).mean(), 0.1)
        for row in x:
            halves.add((row @ weights[1]) / 2)
        halves.step(0.1)
    torch.testing.assert_close(*weights)
    torch.testing.assert_close(weights[0].detach(), -0.2 * x.mean(0))


def test_accumulation_draws_other_batches_for_the_parts(models, material, monkeypatch):
    numbers = []

    def counted(material, recipe, progress, number, process):
        numbers.append(number)
        return draw(material, recipe, progress, number, process)

    monkeypatch.setattr(training, "draw", counted)
    recipe = replace(TINY, accumulate=3)
    made = training._batches(material, recipe, Progress("test", Budget(1)), models.config, 8, device=CPU, process=0)
    animator = Animator(models)
    with torch.no_grad():
        batches = [next(made) for _ in range(3)]
        losses = [((animator(*each.given) - each.target) ** 2 * each.weight).mean() for each in batches]
    numbers.clear()
    result = train_animator(models, material, Budget(1), recipe, device=CPU)
    assert numbers[:3] == [0, 1, 2]
    assert result["loss"] == pytest.approx(float(sum(losses) / 3), rel=1e-4)


def test_a_scaler_takes_its_scale_out_and_halves_it_after_an_overflow():
    weight = torch.nn.Parameter(torch.zeros(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    steps = OptimizerSteps(torch.optim.SGD([weight], lr=1.0), clip=10.0, scaler=scaler)
    steps((weight * torch.tensor([1.0, 2])).sum(), 0.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, -1.0]))
    steps((weight * float("inf")).sum(), 0.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, -1.0]))
    assert (scaler.get_scale(), steps.skipped) == (512.0, 1)
    other = OptimizerSteps(torch.optim.SGD([weight], lr=1.0), scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    other.restore(steps.state())
    assert (other.scaler.get_scale(), other.skipped) == (512.0, 1)


def test_gradient_checkpointing_gives_the_same_weights(tiny_model, material):
    trained = []
    for gradient_checkpointing in (False, True):
        models = load_models(tiny_model)
        recipe = replace(TINY, gradient_checkpointing=gradient_checkpointing)
        train_animator(models, material, Budget(2), recipe, device=CPU)
        assert not models.unet.is_gradient_checkpointing
        trained.append(models.unet.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_gradients_of_many_tensors_are_averaged_in_buckets(monkeypatch):
    monkeypatch.setattr(loop.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(loop.dist, "get_world_size", lambda: 2)
    sizes = []

    def all_reduce(flat):
        sizes.append(flat.numel())
        flat *= 3  # the other process has twice this one's gradient

    monkeypatch.setattr(loop.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(loop, "BUCKET", 4 * 12)
    gradients = [torch.full((5,), float(i)) for i in range(4)]
    loop._average_over_processes(gradients)
    assert sizes == [10, 10]
    assert [gradient.tolist() for gradient in gradients] == [[1.5 * i] * 5 for i in range(4)]


# --- a run that was killed ------------------------------------------------------------------------------------------


def weights_of(models):
    return {f"{part}.{key}": t.clone() for part, m in models.parts().items() for key, t in m.state_dict().items()}


def test_a_killed_run_goes_on_to_the_same_weights(tiny_model, material, tmp_path, monkeypatch):
    recipe = replace(TINY, clips=1, accumulate=2, validate_every=2, validate_steps=1)

    def run(out):
        models = load_models(tiny_model)
        scores = train_animator(models, material, Budget(4), recipe, device=CPU, out=out)
        return weights_of(models), scores

    whole, scores = run(tmp_path / "whole")
    step = OptimizerSteps.step

    taken = []

    def die_in_step_2(self, rate):
        step(self, rate)
        taken.append(rate)
        if len(taken) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(OptimizerSteps, "step", die_in_step_2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(OptimizerSteps, "step", step)
    assert checkpoint.read_state(tmp_path / "killed" / "animator.pt")["step"] == 2
    resumed, again = run(tmp_path / "killed")
    assert {name: again[name] for name in scores if name != "seconds_per_step"} == {
        name: value for name, value in scores.items() if name != "seconds_per_step"
    }
    for name, weight in resumed.items():
        assert weight.equal(whole[name]), name
    finished, _ = run(tmp_path / "killed")
    for name, weight in finished.items():
        assert weight.equal(whole[name]), name


def test_every_step_of_the_autoencoder_has_frames_and_noise_of_its_own(models, store, monkeypatch):
    recipe = AutoencoderRecipe(frames=2, crop=32)
    others = [draw_frames(store, recipe, step) for step in range(3)] + [draw_frames(store, recipe, 0, process=1)]
    assert draw_frames(store, recipe, 0)[0].equal(others[0][0])
    assert len({(frames.shape, int(frames.sum())) for frames, *_ in others}) == 4
    seeds, make = [], autoencoder.generator_of

    def counted(device, *numbers):
        seeds.append(numbers)
        return make(device, *numbers)

    monkeypatch.setattr(autoencoder, "generator_of", counted)
    train_autoencoder(models.vae, store, models.face_embedder, Budget(2), recipe, device=CPU, process=1)
    assert seeds == [(0, 1, 0), (0, 1, 1)]


def test_an_autoencoder_that_was_killed_goes_on_to_the_same_weights(tiny_model, store, tmp_path, monkeypatch):
    recipe = AutoencoderRecipe(frames=1, crop=32, checkpoint_seconds=0.0)

    def run(out):
        models = load_models(tiny_model)
        train_autoencoder(models.vae, store, models.face_embedder, Budget(3), recipe, device=CPU, out=out)
        return weights_of(models), models.vae.config.scaling_factor

    whole, factor = run(tmp_path / "whole")
    save = checkpoint.Checkpoint.save

    def die_after_step_2(self, step):
        save(self, step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", die_after_step_2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    resumed, again = run(tmp_path / "killed")
    assert again == factor
    for name, weight in resumed.items():
        assert weight.equal(whole[name]), name


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.write_state(path, {"step": 1})

    def die(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_state(path, {"step": 2})
    assert checkpoint.read_state(path) == {"step": 1}


def test_a_checkpoint_of_something_else(models, material, tmp_path):
    train_animator(models, material, Budget(1), TINY, device=CPU, out=tmp_path)
    for recipe, message in (
        (replace(TINY, rate=1.0), "was trained with other settings; give the same ones, or another --out"),
        (replace(TINY, train=("pose_net", "image_encoder")), "was trained with other settings"),
    ):
        with pytest.raises(InputError, match=message):
            train_animator(models, material, Budget(1), recipe, device=CPU, out=tmp_path)
    models.unet.conv_out = torch.nn.Conv2d(32, 4, 1)
    with pytest.raises(InputError, match="animator.pt: is of another model; give the same one, or another --out"):
        train_animator(models, material, Budget(1), TINY, device=CPU, out=tmp_path)
    (tmp_path / "animator.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="animator.pt: is no checkpoint of this training; give another --out"):
        train_animator(models, material, Budget(1), TINY, device=CPU, out=tmp_path)


def test_how_often_things_are_written_may_change(models, material, tmp_path):
    train_animator(models, material, Budget(1), TINY, device=CPU, out=tmp_path)
    other = replace(TINY, log_every=7, checkpoint_seconds=5.0, validate_every=9)
    train_animator(models, material, Budget(2), other, device=CPU, out=tmp_path)
    assert checkpoint.read_state(tmp_path / "animator.pt")["step"] == 2


def test_only_the_first_process_writes(models, material, tmp_path):
    saved = []
    quiet = dict(device=CPU, out=tmp_path / "second", process=1, on_checkpoint=lambda: saved.append(1))
    train_animator(models, material, Budget(2), replace(TINY, validate_every=1), **quiet)
    assert not (tmp_path / "second").exists() and not saved


def test_what_is_saved_on_the_way_is_the_average(models, material, tmp_path):
    saved = []
    keep = dict(out=tmp_path, on_checkpoint=lambda: saved.append(weights_of(models)))
    train_animator(models, material, Budget(2), TINY, device=CPU, **keep)
    assert len(saved) == 2
    assert all(weight.equal(saved[-1][name]) for name, weight in weights_of(models).items())


# --- looks at it ----------------------------------------------------------------------------------------------------


def test_validation_animates_a_clip_that_is_not_trained_on(models, material, tmp_path):
    recipe = replace(TINY, validate_every=2, validate_steps=2)
    scores = train_animator(models, material, Budget(4), recipe, device=CPU, out=tmp_path)
    assert sorted(path.name for path in (tmp_path / "validation").iterdir()) == ["step_0000002.jpg", "step_0000004.jpg"]
    with Image.open(tmp_path / "validation" / "step_0000004.jpg") as sheet:
        assert sheet.size == (3 * 64, 3 * 64), "truth, poses and result of three frames"
    assert -1 <= scores["validation_csim"] <= 1
    assert 0 < scores["validation_l1"] < 1


def test_faces_weigh_twice(material, models):
    progress = Progress("test", Budget(2))
    batch = next(training._batches(material, TINY, progress, models.config, 8, device=CPU, process=0))
    sample = sample_of(material, TINY)[1]
    assert batch.weight.shape == (2, 2, 1, 8, 8) and batch.target.shape == (2, 2, 4, 8, 8)
    assert set(batch.weight.unique().tolist()) == {1.0, 2.0}
    x0, y0, x1, y1 = (sample.boxes[0, 0] / 8).tolist()
    inside = [[x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x in range(8)] for y in range(8)]
    assert (batch.weight[0, 0, 0] == 2).tolist() == inside


def test_a_perfect_model_has_a_perfect_score(models, material, tmp_path, monkeypatch):
    clip = material.held_out()
    monkeypatch.setattr(validation, "animate_sample", lambda *_, **__: clip.sample.latents[0])
    truth = torch.from_numpy(clip.truth).permute(0, 3, 1, 2) / 127.5 - 1
    monkeypatch.setattr(validation, "decode_latents", lambda *_: truth)
    looking = validation.Validation.of(models, Animator(models).token, material, tmp_path, steps=1, dtype=torch.float32)
    scores = looking.look(1)
    assert scores["validation_l1"] == 0
    assert scores["validation_csim"] > 0.5
    assert clip.sample.pose_images[0].max() > 100, "its poses are drawn"


def test_a_look_is_conditioned_on_all_that_there_is(models, material, monkeypatch):
    """As the pipeline's own conditioning, which adds other noise to the reference."""
    clip = material.held_out()
    torch.nn.init.normal_(models.face_encoder.fusion_model.proj_out.weight)
    animator = Animator(models).eval()
    seen = []

    def spy(unet, cond, guidance, windows):
        seen.append(cond)
        return lambda x, sigma: x / (1 + sigma**2)

    monkeypatch.setattr(validation, "make_denoiser", spy)
    with torch.no_grad():
        for sample in (clip.sample, clip.sample._replace(has_face=torch.tensor([False]))):
            latents = validation.animate_sample(models, animator.token, sample, steps=2)
            assert latents.shape == sample.latents.shape[1:] and latents.isfinite().all()
        pictures = clip.sample.pose_images[0].numpy()
        face = SimpleNamespace(embedding=clip.sample.embedding[0])
        reference = resize_picture(clip.sample.reference, 64, 64)[0]
        expected = build_conditioning(
            models, reference, pictures, face=face, size=(64, 64), generator=torch.Generator().manual_seed(0)
        )
    with_face, without = seen
    torch.testing.assert_close(with_face.pose_features, expected.pose_features)
    torch.testing.assert_close(with_face.time_ids, expected.time_ids)
    alike = torch.cosine_similarity(with_face.context, expected.context, dim=-1)
    assert alike.min() > 0.98, "but for the resizing of the picture"
    assert with_face.context[:, 1:].abs().max() > 0.1
    assert (with_face.id_scale, without.id_scale) == (1.0, 0.0)
    assert not without.context[:, 1:].any()


def test_curves_go_to_tensorboard(tmp_path, monkeypatch):
    points = []
    writer = SimpleNamespace(add_scalar=lambda *point: points.append(point), close=lambda: points.append("closed"))

    def open_writer(folder, purge_step):
        points.append(purge_step)
        return writer

    fake = SimpleNamespace(SummaryWriter=open_writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    curves = Curves(tmp_path)
    curves.add(3, {"loss": 0.5, "rate": 1e-3})
    curves.close()
    assert points == [None, ("loss", 0.5, 3), ("rate", 1e-3, 3), "closed"]
    Curves(tmp_path, step=3)
    assert points[-1] == 4, "points of steps after the one that it goes on from go"


def test_without_tensorboard_there_is_a_note(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO"):
        curves = Curves(tmp_path / "curves")
    curves.add(1, {"loss": 1.0})
    curves.close()
    assert "no curves are written: pip install tensorboard" in caplog.text
    assert not (tmp_path / "curves").exists()


class Moving(Graphed):
    """Lays the weights out anew, as on a GPU."""

    def __init__(self, network, device, **settings):
        super().__init__(network, device, **settings)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)


def test_the_average_is_of_weights_that_the_graphs_have_moved(tiny_model, material, store, monkeypatch):
    trained = []
    for graphed in (Graphed, Moving):
        models = load_models(tiny_model)
        monkeypatch.setattr(training, "Graphed", graphed)
        monkeypatch.setattr(autoencoder, "Graphed", graphed)
        train_animator(models, material, Budget(1), replace(TINY, rate=10.0), device=CPU)
        recipe = AutoencoderRecipe(frames=1, crop=32, rate=10.0)
        train_autoencoder(models.vae, store, models.face_embedder, Budget(1), recipe, device=CPU)
        trained.append(weights_of(models))
    before = weights_of(load_models(tiny_model))
    for name in ("unet.conv_in.weight", "vae.encoder.conv_in.weight", "pose_net.final_proj.weight"):
        assert not trained[0][name].equal(before[name])
        torch.testing.assert_close(trained[1][name], trained[0][name], atol=1e-3, rtol=1e-2, msg=name)


def test_graphs_are_off_where_they_would_be_wrong(models, material, monkeypatch):
    made = []

    class Spy(Graphed):
        def __init__(self, network, device, **settings):
            made.append(settings["graphs"])
            super().__init__(network, device, **settings)

    monkeypatch.setattr(training, "Graphed", Spy)
    for change in ({}, {"accumulate": 2}, {"gradient_checkpointing": True}, {"graphs": False}):
        train_animator(models, material, Budget(1), replace(TINY, **change), device=CPU)
    assert made == [True, False, False, False]
    cuda, network = torch.device("cuda"), torch.nn.Linear(1, 1)
    assert [Graphed(network, cuda, graphs=graphs).graphs for graphs in (True, False)] == [True, False]
    assert not Graphed(network, CPU).graphs
