"""The schedule, the preconditioning and the Euler step give the recorded numbers."""

import pytest
import torch
from golden import load_json
from torch import Tensor

from stableanimator_core.denoiser import scale_input, timestep_of, x0_from_v
from stableanimator_core.sampling import init_noise, karras_sigmas, sample_euler

RECORD = load_json("scheduler.json")


def schedule(steps: int) -> Tensor:
    return karras_sigmas(steps, RECORD["config"]["sigma_min"], RECORD["config"]["sigma_max"])


@pytest.mark.parametrize("steps", RECORD["schedules"])
def test_schedule(steps):
    recorded = RECORD["schedules"][steps]
    sigmas = schedule(int(steps))
    torch.testing.assert_close(sigmas, torch.tensor(recorded["sigmas"]), rtol=1e-6, atol=0)
    timesteps = torch.tensor(recorded["timesteps"])
    torch.testing.assert_close(timestep_of(sigmas[:-1]), timesteps, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", RECORD["schedules"])
def test_start_noise(steps):
    shape = (2, 3)
    unit = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    noise = init_noise(shape, RECORD["config"]["sigma_max"], generator=torch.Generator().manual_seed(0))
    expected = unit * RECORD["schedules"][steps]["init_noise_sigma"]
    torch.testing.assert_close(noise, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("step", RECORD["steps"], ids=lambda step: f"{step['i']}_of_{step['num_inference_steps']}")
def test_step(step):
    def tensor(name: str) -> Tensor:
        return torch.tensor(step[name]).view(step["shape"])

    x, v = tensor("sample"), tensor("model_output")
    sigmas = schedule(step["num_inference_steps"])[step["i"] : step["i"] + 2]
    torch.testing.assert_close(sigmas.tolist(), [step["sigma"], step["sigma_next"]], rtol=1e-6, atol=0)
    torch.testing.assert_close(timestep_of(sigmas[0]).item(), step["timestep"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(scale_input(x, sigmas[0]), tensor("scaled_model_input"), rtol=1e-6, atol=1e-6)
    x0 = x0_from_v(v, x, sigmas[0])
    torch.testing.assert_close(x0, tensor("pred_original_sample"), rtol=1e-6, atol=1e-6)
    after = sample_euler(lambda x, sigma: x0_from_v(v, x, sigma), x, sigmas)
    torch.testing.assert_close(after, tensor("prev_sample"), rtol=1e-6, atol=1e-6)
