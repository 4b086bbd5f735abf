"""Model folders: what is written is what is read, and every fault of a folder is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stableanimator_core import weights
from stableanimator_core.errors import WeightsError
from stableanimator_core.weights import (
    BUILT_IN,
    OPTIONAL,
    PARTS,
    build_models,
    fill_models,
    find_model,
    load_models,
    read_config,
    read_part,
    save_models,
    save_part,
)
from stableanimator_core.weights.networks import fill


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model to break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="module")
def models(tiny_model):
    return load_models(tiny_model)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def states(models) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": t for name, part in models.parts().items() for key, t in part.state_dict().items()}


def test_counters_of_training_may_be_missing():
    """Converted files often leave BatchNorm's counters out."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    state = {key: tensor for key, tensor in model.state_dict().items() if "num_batches" not in key}
    fill(model, state, Path("some.pth"), torch.float32)
    assert model[1].num_batches_tracked == 0


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip_is_exact(models, tmp_path, dtype):
    save_models(models, tmp_path / "copy", dtype=dtype)
    back, expected = states(load_models(tmp_path / "copy")), states(models)
    assert back.keys() == expected.keys()
    for key, tensor in expected.items():  # the tiny model comes from half precision
        assert back[key].equal(tensor), key


def test_config_makes_the_round_trip(models, tmp_path):
    models = replace(models, config=replace(models.config, guidance=(1.0, 2.5), name="other"))
    save_models(models, tmp_path)
    assert read_config(tmp_path) == models.config
    assert read_config(tmp_path).guidance == (1.0, 2.5)


def test_the_measured_scaling_factor_is_kept(tiny_model, tmp_path):
    models = load_models(tiny_model)
    models.vae.register_to_config(scaling_factor=0.4321)
    save_models(models, tmp_path)
    assert load_models(tmp_path).vae.config.scaling_factor == 0.4321


def test_a_part_over_the_limit_is_cut_into_shards(models, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.folder, "SHARD_BYTES", 20_000)
    save_part(models.pose_net, tmp_path, "pose_net", dtype=torch.float32)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    assert files[0].name == f"pose_net-00001-of-{len(files):05d}.safetensors"
    for file in files:
        shard = load_file(file)
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= 20_000
    state = read_part(tmp_path, "pose_net")
    assert all(state[key].equal(tensor) for key, tensor in models.pose_net.state_dict().items())

    monkeypatch.setattr(weights.folder, "SHARD_BYTES", 10**9)
    save_part(models.pose_net, tmp_path, "pose_net")
    assert [file.name for file in tmp_path.iterdir()] == ["pose_net.safetensors"], "old shards would be read, too"


def test_a_model_without_a_judge(models, tmp_path):
    parts = {name: part for name, part in models.config.parts.items() if name != "face_judge"}
    save_models(replace(models, face_judge=None, config=replace(models.config, parts=parts)), tmp_path)
    loaded = load_models(tmp_path)
    assert loaded.face_judge is None
    assert set(loaded.parts()) == set(PARTS) - OPTIONAL


def test_loaded_networks_are_frozen_and_evaluate(models):
    for name, part in models.parts().items():
        assert not part.training, name
        assert not any(weight.requires_grad for weight in part.parameters()), name
        assert not any(tensor.is_meta for tensor in part.state_dict().values()), name
    assert models.device == torch.device("cpu")
    assert models.dtype == torch.float32


def test_loading_inside_inference_mode_gives_normal_tensors(tiny_model):
    """ComfyUI calls nodes under inference mode; HJB must differentiate through the networks."""
    with torch.inference_mode():
        models = load_models(tiny_model)
        assert not any(tensor.is_inference() for tensor in states(models).values())
    latents = torch.zeros(1, 4, 4, 4, requires_grad=True)
    models.vae.decode(latents, num_frames=1).sample.sum().backward()
    assert latents.grad.any()


def test_dtype_of_the_weights(tiny_model):
    models = load_models(tiny_model, dtype=torch.bfloat16)
    assert models.dtype == torch.bfloat16
    assert {t.dtype for t in states(models).values()} <= {torch.bfloat16, torch.int64}


def test_moving_returns_the_models(models):
    assert models.to("cpu") is models


def test_the_built_in_model_has_all_its_parts():
    config = read_config(find_model("mini"))
    assert config.name == "mini"
    assert set(config.parts) == set(PARTS), "with the judge"
    for part in PARTS:
        assert read_part(BUILT_IN["mini"], part)
    sizes = [file.stat().st_size for file in BUILT_IN["mini"].glob("*.safetensors")]
    assert max(sizes) < 16 << 20


def test_training_goes_on_from_the_parts_that_are_there(models, folder):
    (folder / "unet.safetensors").unlink()
    torch.manual_seed(5)
    fresh = build_models(replace(models.config, name="fresh"))
    before = {key: tensor.clone() for key, tensor in states(fresh).items()}
    edit_config(folder, parts=models.config.parts | {"vae": models.config.parts["vae"] | {"scaling_factor": 0.25}})
    fill_models(fresh, folder)
    stored = states(models)
    for key, tensor in states(fresh).items():
        assert tensor.equal(before[key] if key.startswith("unet.") else stored[key]), key
    assert fresh.vae.config.scaling_factor == 0.25
    assert all(weight.requires_grad for weight in fresh.pose_net.parameters())


# --- faults ---------------------------------------------------------------------------------------------------------


def test_unknown_model(tmp_path):
    for name in ("maxi", tmp_path):
        with pytest.raises(WeightsError) as error:
            load_models(name)
        assert str(error.value) == (
            f"unknown model '{name}': no such model (mini, v1) and neither config.json nor Animation/ in such a folder"
        )


@pytest.mark.parametrize("text", ["{", '{"name": "no format"}', "[]", "3", '"text"'])
def test_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json: not a model configuration \("):
        load_models(folder)


def test_config_that_is_no_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match="not a model configuration"):
        load_models(folder)


def test_config_of_a_later_version(folder):
    edit_config(folder, format=2)
    with pytest.raises(WeightsError, match=r"config\.json: format 2, this version reads 1; update StableAnimator\+\+"):
        load_models(folder)


def test_config_with_unknown_or_missing_settings(folder, tiny_model):
    edit_config(folder, colour="red")
    with pytest.raises(WeightsError, match=r"config\.json: .*'colour'"):
        load_models(folder)
    shutil.copy(tiny_model / "config.json", folder)
    data = json.loads((folder / "config.json").read_text())
    del data["steps"]
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(WeightsError, match=r"config\.json: .*'steps'"):
        load_models(folder)


@pytest.mark.parametrize("change", ["without", "extra"])
def test_config_with_other_parts(folder, change):
    parts = read_config(folder).parts
    if change == "without":
        del parts["vae"]
    else:
        parts["vocoder"] = {}
    edit_config(folder, parts=parts)
    with pytest.raises(WeightsError, match=r"config\.json: parts are \[.*\], needed are \['face_embedder', "):
        load_models(folder)


@pytest.mark.parametrize("changes", [{"parts": None}, {"parts": []}, {"parts": {"vae": 3}}, {"guidance": 3}])
def test_config_with_settings_of_another_kind(folder, changes):
    edit_config(folder, **changes)
    with pytest.raises(WeightsError, match=r"config\.json: "):
        load_models(folder)


@pytest.mark.parametrize("settings", [{"colour": 3}, {"noise_latent_channels": "many"}])
def test_network_that_cannot_be_built(folder, settings):
    edit_config(folder, parts=read_config(folder).parts | {"pose_net": settings})
    with pytest.raises(WeightsError, match="model 'tiny': the settings of its pose_net make no network: ") as error:
        load_models(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_missing_part(folder, part):
    (folder / f"{part}.safetensors").unlink()
    with pytest.raises(WeightsError, match=rf"{part}\.safetensors: missing; copy the model folder again"):
        load_models(folder)


def test_missing_shard(models, folder, monkeypatch):
    monkeypatch.setattr(weights.folder, "SHARD_BYTES", 20_000)
    save_part(models.pose_net, folder, "pose_net")
    shards = sorted(folder.glob("pose_net-*"))
    shards[1].unlink()
    message = f"{len(shards) - 1} of {len(shards)} shards of pose_net are there; copy the folder again"
    with pytest.raises(WeightsError, match=message):
        load_models(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file(folder, keep):
    file = folder / "pose_net.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"pose_net\.safetensors: damaged \(.*\); copy the model folder again"):
        load_models(folder)


def change_state(folder, change):
    file = folder / "pose_net.safetensors"
    state = {key: tensor.clone() for key, tensor in load_file(file).items()}
    change(state)
    save_file(state, file)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(scale=torch.ones(2)),
        lambda state: state.pop("scale"),
        lambda state: state.update(scale=torch.ones(3), other=torch.ones(1)),
    ],
    ids=["shape", "missing", "two"],
)
def test_weights_of_another_model(folder, change):
    change_state(folder, change)
    with pytest.raises(WeightsError) as error:
        load_models(folder)
    message = str(error.value)
    assert f"{folder / 'pose_net'}: " in message
    assert "of 19 tensors are missing, unknown or of another shape (first: " in message
    assert message.endswith("these weights belong to another model")
    assert "\n" not in message


def test_unknown_tensor_is_named(folder):
    change_state(folder, lambda state: state.update(colour=torch.ones(1)))
    with pytest.raises(WeightsError, match=r"1 of 19 tensors .*\(first: colour\)"):
        load_models(folder)


def test_training_further_from_another_models_folder(models, folder):
    change_state(folder, lambda state: state.update(scale=torch.ones(2)))
    with pytest.raises(WeightsError, match=r"pose_net: 1 of 19 tensors .*\(first: scale\)"):
        fill_models(build_models(models.config), folder)
