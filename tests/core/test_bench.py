"""`bench` measures the pipeline's own functions and says what it measured."""

import itertools
import json
import time
from dataclasses import replace

import pytest
import torch

from stableanimator_core import cli, pipeline, weights
from stableanimator_core.errors import InputError
from stableanimator_core.evaluation import bench
from stableanimator_core.evaluation.bench import STAGES, median_seconds, peak_gib, run_bench
from stableanimator_core.hjb_settings import HJBConfig
from stableanimator_core.pipeline import SamplingConfig
from stableanimator_core.weights import load_models, read_config

PROMISED = {
    "unet_forward_s", "unet_step_s", "hjb_iteration_s", "hjb_extra_peak_gib", "vae_encode_s", "vae_decode_s", "total_s",
    "peak_gib", "frames", "size", "dtype", "device", "steps", "hjb", "nan", "warmup_s", "extra_gib", "estimate",
}  # fmt: skip
ONE_ROUND = HJBConfig(iterations=1, last_step=0)


@pytest.fixture
def models(tiny_model):
    return load_models(tiny_model)


def measure(models, *, frames=2, hjb=ONE_ROUND, repeats=1, on_stage=None, **settings):
    settings = SamplingConfig.for_model(models.config, **settings)
    return run_bench(models, settings, hjb, frames=frames, repeats=repeats, on_stage=on_stage)


def run(capsys, *argv) -> dict:
    status = cli.main(["bench", *map(str, argv), "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def test_command(capsys, tiny_model):
    options = ["--frames", 3, "--repeats", 2, "--steps", 3, "--hjb-iterations", 2, "--hjb-steps", "1:2"]
    result = run(capsys, "--model", tiny_model, "--size", "64x96", "--dtype", "fp32", *options)
    assert set(result) >= PROMISED
    assert (result["frames"], result["size"], result["steps"]) == (3, [64, 96], 3)
    assert (result["dtype"], result["device"], result["model"], result["nan"]) == ("fp32", "cpu", "tiny", False)
    assert (result["hjb"]["iterations"], result["hjb"]["first_step"], result["hjb"]["last_step"]) == (2, 1, 2)
    for key in PROMISED:
        if key.endswith("_s") and key != "warmup_s":
            assert result[key] > 0, key
    stages = set(STAGES) - {"total"}
    assert set(result["warmup_s"]) == {"first_step", *stages} and min(result["warmup_s"].values()) > 0
    assert result["extra_gib"] == dict.fromkeys(stages) and result["estimate"] is None and not result["hjb_variants"]
    assert result["frames_with_face"] == 3 and 0 < result["face_px"] < 64
    assert result["peak_gib"] is None and result["hjb_extra_peak_gib"] is None, "no CUDA here: nothing was measured"


def test_random_weights_of_a_model_and_of_v1(capsys, tiny_model, monkeypatch):
    """Weights are drawn, none are read. "v1" takes the published sizes, here tiny ones."""
    small = ["--random-weights", "--frames", 2, "--repeats", 1]
    monkeypatch.setattr(pipeline, "load_models", None)
    result = run(capsys, "--model", tiny_model, *small)
    assert result["random_weights"] and result["model"] == "tiny" and not result["nan"]
    monkeypatch.setattr(weights, "V1_CONFIG", replace(read_config(tiny_model), name="v1", description="stand-in"))
    assert run(capsys, "--model", "v1", *small, "--dtype", "bf16")["model"] == "v1"


def test_command_for_people(capsys, tiny_model):
    assert cli.main(["bench", "--model", str(tiny_model), "--device", "cpu", "--frames", "2", "--dtype", "bf16"]) == 0
    out = capsys.readouterr().out
    assert "UNet, one denoising step" in out and "2 frames of 64x64, 2 steps, bf16, model tiny on cpu" in out
    assert "HJB, one round" in out and " off" not in out


def test_a_face_as_wide_as_asked(capsys, tiny_model):
    """The window follows it, which is what HJB costs."""
    small, large = (run(capsys, "--model", tiny_model, "--frames", 2, "--repeats", 1, "--face", px) for px in (16, 40))
    assert abs(small["face_px"] - 16) <= 1 and abs(large["face_px"] - 40) <= 1
    assert small["hjb_window"][0] == 2 and small["hjb_window"][1] < large["hjb_window"][1]


@pytest.mark.parametrize("px", [200, 4096])
def test_a_face_that_leaves_the_picture(capsys, tiny_model, px):
    argv = ["bench", "--model", str(tiny_model), "--device", "cpu", "--frames", "2", "--face", str(px)]
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert f"bench: a face {px} px wide leaves a picture of 64x64; give fewer px" in err
    assert not out and err.count("\n") == 1


def test_a_smaller_card_wants_a_card(capsys, tiny_model):
    assert cli.main(["bench", "--model", str(tiny_model), "--device", "cpu", "--card", "6"]) == 2
    assert "--card 6: device 'cpu' is no NVIDIA GPU; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("gib", ["0.6", "0.25"])
def test_a_card_that_cuda_itself_fills(capsys, tiny_model, monkeypatch, gib):
    monkeypatch.setattr(pipeline, "pick_device", lambda name: torch.device("cuda", 0))
    assert cli.main(["bench", "--model", str(tiny_model), "--random-weights", "--card", gib]) == 2
    out, err = capsys.readouterr()
    assert f"--card {gib}: CUDA itself takes 0.6 GiB of a card; give more than that" in err
    assert not out and err.count("\n") == 1


@pytest.mark.parametrize("random", [True, False])
def test_a_card_is_limited_before_anything_is_on_it(capsys, tiny_model, monkeypatch, random):
    limited = []
    monkeypatch.setattr(pipeline, "pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("stableanimator_core.memory.limit_card", lambda *given: limited.append(given))
    argv = ["bench", "--model", str(tiny_model), "--card", "6.5", *["--random-weights"] * random]
    assert cli.main(argv) != 0, "there is none"
    assert limited == [(torch.device("cuda", 0), 6.5)]


def test_hjb_off(capsys, tiny_model):
    result = run(capsys, "--model", tiny_model, "--frames", 2, "--repeats", 1, "--hjb-iterations", 0)
    assert result["hjb_iteration_s"] is None and result["hjb_extra_peak_gib"] is None


def test_default_settings_are_the_models(capsys, tiny_model):
    result = run(capsys, "--model", tiny_model, "--frames", 2, "--repeats", 1)
    assert (result["steps"], result["size"], result["dtype"]) == (2, [64, 64], "fp32")
    assert result["hjb"] == {
        "iterations": 1, "first_step": 1, "last_step": 1, "lr": 0.1, "decode": "face", "scope": "face", "margin": 2,
        "chunk": 8, "stop": "count", "sharpest": 1.2, "strength": [[0.0, 1.0], [1.0, 0.0]],
    }  # fmt: skip


def test_variants_of_hjb_are_compared(capsys, tiny_model):
    compared = ["--hjb-chunk", "2,1", "--decode", "face,full"]
    result = run(capsys, "--model", tiny_model, "--frames", 3, "--repeats", 1, *compared)
    others = [(variant["decode"], variant["chunk"]) for variant in result["hjb_variants"]]
    assert (result["hjb"]["decode"], result["hjb"]["chunk"]) == ("face", 2), "the first is the main one"
    assert others == [("face", 1), ("full", 2), ("full", 1)]
    assert all(variant["hjb_iteration_s"] > 0 for variant in result["hjb_variants"])


def test_the_chunk_that_fitted_is_told(models, monkeypatch):
    decode = models.vae.decode

    def limited(latents, num_frames):
        if torch.is_grad_enabled() and latents.requires_grad and num_frames > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, num_frames=num_frames)

    monkeypatch.setattr(models.vae, "decode", limited)
    assert measure(models, frames=4)["hjb"]["chunk"] == 1


def test_the_estimate_stands_beside_the_measurement(models, monkeypatch):
    """Of the published model's sizes alone, which the others are not."""
    monkeypatch.setattr(bench, "is_published", lambda models: True)
    estimate = measure(models)["estimate"]
    assert estimate["networks_gib"] + estimate["hjb_gib"] <= estimate["peak_gib"] + 0.01
    assert estimate["card_gib"] is None and estimate["fits"]


def test_what_each_stage_runs(models):
    """unet_forward: one branch of one window; unet_step: both branches of all windows; total: the whole clip."""
    calls, stage = {name: [] for name in STAGES}, [None]
    models.unet.register_forward_pre_hook(
        lambda module, args: calls[stage[0]].append(tuple(args[0].shape[:2])) if stage[0] else None
    )
    measure(models, frames=6, steps=3, on_stage=lambda done, name: stage.__setitem__(0, name))
    windows = 2  # frames 0 1 2 3 and 0 3 4 5
    assert calls["unet_forward"] == [(1, 4)] * 2, "the warm-up and one repeat"
    assert calls["unet_step"] == [(2, 4)] * windows * 2
    assert calls["total"] == [(2, 4)] * windows * 3
    assert not calls["vae_encode"] and not calls["vae_decode"] and not calls["hjb_iteration"]


def test_hjb_is_measured_per_iteration(models, monkeypatch):
    monkeypatch.setattr(bench, "median_seconds", lambda work, device, repeats: (6.0, 9.0))
    measured = measure(models, hjb=HJBConfig(iterations=3, last_step=0))
    assert measured["hjb_iteration_s"] == 2.0 and measured["warmup_s"]["hjb_iteration"] == 9.0


def test_hjb_that_is_measured_works(models, monkeypatch):
    """The stage refines latents: had the step been outside of the refined range, nothing would be measured."""
    moved = []

    def keep(work, device, repeats):
        moved.append(work())
        return 1.0, 1.0

    monkeypatch.setattr(bench, "median_seconds", keep)
    measure(models, hjb=HJBConfig(iterations=1, first_step=1, last_step=1), steps=2)
    x0 = moved[STAGES.index("hjb_iteration")]
    assert x0.shape == (2, 4, 8, 8) and (x0[0] - x0[1]).abs().max() > 0, "a still picture, until a face was optimised"


def test_stages_are_told_in_order(models):
    told = []
    measure(models, on_stage=lambda done, name: told.append((done, name)))
    assert told == list(enumerate(STAGES))


def test_nan_is_reported(models):
    with torch.no_grad():
        models.unet.conv_out.bias.fill_(torch.nan)
    assert measure(models, hjb=HJBConfig(iterations=0))["nan"] is True


def test_median_after_a_warm_up(monkeypatch):
    clock = itertools.accumulate([0.0, 30.0, 0.0, 1.0, 0.0, 9.0, 0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = []
    assert median_seconds(lambda: calls.append(1), torch.device("cpu"), repeats=3) == (2.0, 30.0)
    assert len(calls) == 4


def test_memory_is_not_known_on_the_cpu():
    assert peak_gib(lambda: "made", torch.device("cpu")) == ("made", None)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"repeats": 0}])
def test_nothing_to_measure(models, wrong):
    with pytest.raises(InputError, match="repeats: give at least 1 of each"):
        measure(models, **wrong)


def test_no_face_to_optimise(models, monkeypatch):
    sampled = bench.sample

    def faceless(*args, **kwargs):
        made = sampled(*args, **kwargs)
        return replace(made, faces=made.faces._replace(found=torch.zeros_like(made.faces.found)))

    monkeypatch.setattr(bench, "sample", faceless)
    with pytest.raises(InputError, match="no frame of the drawn performer of seed 0 shows a face; try another seed"):
        measure(models)


def test_wrong_options(capsys, tiny_model):
    for options, message in (
        (["--size", "65x64"], "size 65 x 64: model 'tiny' needs multiples of 32"),
        (["--dtype", "int8"], "argument --dtype: invalid choice"),
        (["--hjb-steps", "0:5"], "--hjb-steps 0:5: there are 2 denoising steps, 0 to 1"),
        (["--model", "v1", "--models", "nowhere"], "unet"),
        (["--hjb-chunk", "2,x"], '--hjb-chunk "2,x": give whole numbers with commas between'),
        (["--hjb-chunk", "0"], "HJB chunk 0: at least 1 frame"),
        (["--decode", "half"], 'HJB decode "half": give "face" or "full"'),
        (["--repeats", "0"], "0 is not a whole number of 1 or more"),
    ):
        assert cli.main(["bench", "--model", str(tiny_model), "--device", "cpu", *options]) == 2
        assert message in capsys.readouterr().err
