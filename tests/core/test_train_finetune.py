"""Fine-tuning on prepared clips: what is read and kept, that it learns, goes on after a kill, and writes a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stableanimator_core import cli
from stableanimator_core.conditioning import clip_picture, image_token
from stableanimator_core.errors import InputError
from stableanimator_core.face import embed_faces, face_boxes
from stableanimator_core.performers import make_clip
from stableanimator_core.training.checkpoint import read_state
from stableanimator_core.training.finetune import FinetuneRecipe, finetune
from stableanimator_core.training.loop import Budget, OptimizerSteps
from stableanimator_core.training.prepare import PrepareSettings, prepare_clips
from stableanimator_core.training.prepared import MixedMaterial, PreparedMaterial, fingerprint, read_prepared
from stableanimator_core.vae import encode_image
from stableanimator_core.video import write_video
from stableanimator_core.weights import load_models, random_models, read_config

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def write_prepared(folder, config, clips, frames=5):
    """Prepared clips of performers who show their faces."""
    data, seed, made = folder.with_name(f"{folder.name}-videos"), 0, 0
    data.mkdir()
    while made < clips:
        clip = make_clip(seed, size=64, frames=frames)
        seed += 1
        if face_boxes(clip.poses, scale=1.5).found.all():
            write_video(data / f"{made}.mp4", clip.frames, 7)
            clip.poses.save(data / f"{made}.json")
            made += 1
    prepare_clips(data, folder, PrepareSettings.for_model(config, least=4), find_poses=None, find_faces=None)
    return folder


@pytest.fixture(scope="module")
def three(tiny_model, tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("three") / "clips", read_config(tiny_model), 3)


@pytest.fixture
def data(three, tmp_path):
    return shutil.copytree(three, tmp_path / "clips")


@pytest.fixture
def models(tiny_model):
    return load_models(tiny_model)


def material_of(models, folder, **settings):
    return PreparedMaterial(models, folder, device=CPU, **dict(frames=3) | settings)


def recipe_of(steps=4, **settings):
    recipe = FinetuneRecipe()
    small = dict(frames=3, rate=1e-3, log_every=1, validate_every=0, validate_steps=2, average=0.5)
    small["checkpoint_seconds"] = 0.0
    return replace(recipe, budget=Budget(steps), animation=replace(recipe.animation, **small | settings))


# --- the material ---------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_what_the_networks_see(models, data):
    material = material_of(models, data)
    assert [clip.folder.name for clip in material.clips] == ["0.mp4", "1.mp4"]
    assert [clip.folder.name for clip in material.unseen] == ["2.mp4"]
    clip = material.clips[1]
    sample = material._run(clip, 1, 3, 0.99, clip.boxes())
    images = torch.from_numpy(np.stack([clip.picture("images", f) for f in range(5)])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = encode_image(models.vae, images) * models.vae.config.scaling_factor
        token = image_token(models.image_encoder, clip_picture(models.image_encoder, images))
        embedding = embed_faces(models.face_embedder, images, clip.faces())
        still = encode_image(models.vae, images)
    torch.testing.assert_close(sample.latents.float(), latents[1:4], atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(sample.reference, token[4], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sample.embedding, embedding[4], atol=1e-4, rtol=1e-4)
    noise = (sample.image_latents.float() - still[4]).abs().mean() / still.std()
    assert 0.002 < noise < 0.2, "a little, and more than half precision's"
    np.testing.assert_array_equal(sample.pose_images, np.stack([clip.picture("poses", f) for f in (1, 2, 3)]))
    assert sample.boxes.equal(clip.boxes()[1:4]) and bool(sample.has_face)


def test_runs_are_drawn_from_everywhere(models, data):
    material = material_of(models, data, stride=2)
    assert material.span == 5
    sample = material.gather(*material.draw(np.random.default_rng(0), 4, 3))
    assert sample.latents.shape == (4, 3, 4, 8, 8) and sample.latents.dtype == torch.float32
    assert sample.reference.shape == (4, 1, 64) and sample.pose_images.shape == (4, 3, 64, 64, 3)
    clip = material.clips[0]
    run = material._run(clip, 0, 3, 0.0, clip.boxes())
    np.testing.assert_array_equal(run.pose_images, np.stack([clip.picture("poses", f) for f in (0, 2, 4)]))
    every = material_of(models, data, frames=5)._run(clip, 0, 5, 0.0, clip.boxes())
    assert run.latents.equal(every.latents[::2]) and run.boxes.equal(every.boxes[::2])
    starts = {int(material_of(models, data).draw(np.random.default_rng(i), 1, 3)[0].sum() * 1e3) for i in range(12)}
    assert len(starts) > 3


def test_a_clip_without_a_face_has_no_identity(models, data):
    faces = data / "0.mp4" / "faces.npz"
    np.savez(faces, boxes=np.full((5, 4), np.nan, np.float32))
    material = material_of(models, data)
    sample = material._run(material.clips[0], 0, 3, 0.5, material.clips[0].boxes())
    assert not bool(sample.has_face) and sample.embedding.isfinite().all()


def test_the_frozen_networks_run_once(models, data, monkeypatch):
    material_of(models, data)
    monkeypatch.setattr(PreparedMaterial, "_encode", lambda *_: pytest.fail("encoded again"))
    material_of(models, data)
    (data / f"encoded-{fingerprint(models):08x}" / "1.mp4.safetensors").unlink()
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        material_of(models, data)
    monkeypatch.undo()
    with torch.no_grad():
        models.unet.conv_out.bias.add_(1)
        before = fingerprint(models)
        models.vae.quant_conv.bias.add_(1)
    assert fingerprint(models) != before
    material_of(models, data)
    assert len(list(data.glob("encoded-*"))) == 2


def test_processes_share_the_encoding(models, data, monkeypatch):
    done, encode = [], PreparedMaterial._encode

    def count(self, clip):
        done.append(clip.folder.name)
        encode(self, clip)

    monkeypatch.setattr(PreparedMaterial, "_encode", count)
    waited = []

    def the_other_one():
        waited.append(list(done))
        if len(waited) == 1:
            material_of(models, data, process=1, processes=2, wait=the_other_one)

    material_of(models, data, process=0, processes=2, wait=the_other_one)
    assert waited == [["0.mp4", "2.mp4"], ["0.mp4", "2.mp4", "1.mp4"]]


def test_what_cannot_be_trained_on(models, data, tmp_path):
    with pytest.raises(InputError, match=r"holds no prepared clips; make them with train prepare --out"):
        material_of(models, tmp_path)
    with pytest.raises(InputError, match="no clip has 9 frames, the longest 5; give fewer --frames"):
        material_of(models, data, stride=4)
    other = replace(models, config=replace(models.config, face_crop="arcface"))
    with pytest.raises(InputError, match=r"for another model \(face_crop box, not arcface\); prepare the clips again"):
        material_of(other, data)
    material = material_of(models, data)
    (data / "0.mp4" / "poses" / "frame_2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"frame_2.png: cannot be read .*; delete the clip's folder and prepare again"):
        material._run(material.clips[0], 0, 3, 0.0, material.clips[0].boxes())
    for path in data.glob("*/clip.json"):
        path.unlink()
    with pytest.raises(InputError, match="holds no usable clip; see .*bad.txt"):
        read_prepared(data)


# --- the training ---------------------------------------------------------------------------------------------------


def test_it_learns_one_clip_and_writes_a_model(models, tiny_model, tmp_path):
    """One clip, which is validated on, too."""
    one = write_prepared(tmp_path / "one", models.config, 1, frames=4)
    losses, add = [], OptimizerSteps.add

    def keep(self, loss):
        losses.append(loss.item())
        add(self, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimizerSteps, "add", keep)
        settings = dict(rate=3e-3, clips=2, drop_all=0.0, sigma_mean=1.0, sigma_std=0.0)  # one noise: losses compare
        recipe = recipe_of(24, validate_every=12, checkpoint_seconds=1e9, **settings)
        result = finetune(models, [one], tmp_path / "out", recipe)
    assert np.mean(losses[-6:]) < 0.75 * np.mean(losses[:6]), losses
    assert result["steps"] == 24 and result["peak_gib"] is None and result["seconds_per_step"] > 0
    sheets = sorted((tmp_path / "out" / "checkpoints" / "validation").iterdir())
    assert [path.name for path in sheets] == ["step_0000012.jpg", "step_0000024.jpg"]
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (3 * 64, 3 * 64)
    made, before = load_models(tmp_path / "out"), load_models(tiny_model)
    assert made.config.name == "tiny-finetuned" and made.config.trained_sizes == before.config.trained_sizes
    for part in ("vae", "image_encoder", "face_embedder", "face_judge"):
        state = before.parts()[part].state_dict()
        for key, tensor in made.parts()[part].state_dict().items():
            torch.testing.assert_close(tensor, state[key], atol=1e-3, rtol=1e-3)
    for part in ("unet", "pose_net", "face_encoder"):
        state, own = before.parts()[part].state_dict(), models.parts()[part].state_dict()
        stored = made.parts()[part].state_dict()
        changed = [key for key, tensor in stored.items() if not tensor.equal(state[key].half().float())]
        assert len(changed) > len(state) / 3, part
        for key, tensor in stored.items():
            torch.testing.assert_close(tensor, own[key], atol=1e-3, rtol=1e-3)


def test_a_killed_run_goes_on_to_the_same_weights(tiny_model, data, tmp_path, monkeypatch):
    recipe = recipe_of(3, clips=2, gradient_checkpointing=True)
    whole = load_models(tiny_model)
    finetune(whole, [data], tmp_path / "whole", recipe)
    step, taken = OptimizerSteps.step, []

    def die_in_step_1(self, rate):
        step(self, rate)
        taken.append(rate)
        if len(taken) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(OptimizerSteps, "step", die_in_step_1)
    with pytest.raises(KeyboardInterrupt):
        finetune(load_models(tiny_model), [data], tmp_path / "killed", recipe)
    monkeypatch.setattr(OptimizerSteps, "step", step)
    assert read_state(tmp_path / "killed" / "checkpoints" / "animator.pt")["step"] == 1
    with pytest.raises(InputError, match="animator.pt: is of an earlier run; go on with --resume"):
        finetune(load_models(tiny_model), [data], tmp_path / "killed", recipe)
    resumed = load_models(tiny_model)
    result = finetune(resumed, [data], tmp_path / "killed", recipe, resume=True)
    assert result["steps"] == 3
    for part in ("unet", "pose_net", "face_encoder"):
        state = whole.parts()[part].state_dict()
        for key, tensor in resumed.parts()[part].state_dict().items():
            assert tensor.equal(state[key]), f"{part}.{key}"


def test_what_finetune_refuses(models, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; give a folder for the model"):
        finetune(models, [data], tmp_path / "file", recipe_of())
    with pytest.raises(InputError, match="cannot train image_encoder here: its tokens are computed once; leave it out"):
        finetune(models, [data], tmp_path / "out", recipe_of(train=("unet", "image_encoder")))
    with pytest.raises(InputError, match="cannot train vae; choose from unet"):
        finetune(models, [data], tmp_path / "out", recipe_of(train=("vae",)))
    assert not (tmp_path / "out").exists()


def test_a_new_size_is_remembered(tiny_model, tmp_path):
    models = random_models(replace(read_config(tiny_model), width=96, height=96))
    one = write_prepared(tmp_path / "one", read_config(tiny_model), 1, frames=4)
    finetune(models, [one], tmp_path / "out", recipe_of(1, checkpoint_seconds=float("inf")))
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert read_config(tmp_path / "out").trained_sizes == ((96, 96), (64, 64))


def test_clips_of_several_sizes_are_drawn_in_turn(models, data, tmp_path):
    settings = PrepareSettings.for_model(models.config, (96, 64), least=4)
    videos = tmp_path / "wide-videos"
    videos.mkdir()
    for seed in range(9):
        clip = make_clip(seed, size=(96, 64), frames=4)
        write_video(videos / f"{seed}.mp4", clip.frames, 7)
        clip.poses.save(videos / f"{seed}.json")
    prepare_clips(videos, tmp_path / "wide", settings, find_poses=None, find_faces=None)
    mixed = MixedMaterial([material_of(models, folder) for folder in (data, tmp_path / "wide")])
    shapes = [mixed.gather(*mixed.draw(np.random.default_rng(i), 2, 3)).latents.shape[-2:] for i in range(30)]
    wide = sum(shape == (8, 12) for shape in shapes)
    few, many = (len(material.clips) for material in mixed.materials)
    assert wide / 30 == pytest.approx(many / (few + many), abs=0.2) and shapes.count((8, 8)) == 30 - wide > 0
    finetune(models, [data, tmp_path / "wide"], tmp_path / "out", recipe_of(2))
    assert read_config(tmp_path / "out").trained_sizes == ((64, 64), (96, 64))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(tiny_model, data, tmp_path, capsys):
    argv = ["train", "finetune", "--model", tiny_model, "--data", data, "--out", tmp_path / "out", "--frames", 3]
    argv += ["--steps", 2, "--batch", 2, "--accumulate", 2, "--rate", 1e-4, "--dtype", "fp16", "--train", "id_adapters"]
    argv = [str(word) for word in [*argv, "--random-weights", "--gradient-checkpointing", "--validate-every", 0]]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["processes"], result["peak_gib"]) == (2, 1, None)
    assert result["loss"] > 0
    assert cli.main(argv) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.main([*argv, "--resume"]) == 0
    assert "try it: python -m stableanimator_core animate --model" in capsys.readouterr().out
    assert load_models(tmp_path / "out").config.name == "tiny-finetuned"


def test_only_the_first_process_answers(tiny_model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stableanimator_core.cli.train_clips.first_process", lambda: False)
    argv = ["train", "finetune", "--model", tiny_model, "--data", data, "--out", tmp_path / "out", "--frames", 3]
    assert cli.main([str(word) for word in [*argv, "--steps", 1, "--json"]]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_two_processes_train_alike_and_go_on(two_processes, tiny_model, data, tmp_path):
    """Each draws its own runs; their gradients are averaged, one writes and one answers."""

    def run(out, steps, *more):
        argv = ["train", "finetune", "--model", tiny_model, "--data", data, "--out", out, "--frames", 3]
        argv += ["--validate-every", 0, "--steps", steps, "--checkpoint-minutes", 1e-9, "--json", *more]
        return json.loads(two_processes(*argv))

    result = run(tmp_path / "two", 2)
    assert (result["processes"], result["steps"]) == (2, 2)
    both = read_state(tmp_path / "two" / "checkpoints" / "animator.pt")["network"]
    finetune(load_models(tiny_model), [data], tmp_path / "one", recipe_of(2, rate=1e-5, average=0.999))
    alone = read_state(tmp_path / "one" / "checkpoints" / "animator.pt")["network"]
    assert any(not tensor.equal(both[name]) for name, tensor in alone.items()), "the other process has a say"
    assert run(tmp_path / "two", 3, "--resume")["steps"] == 3
