"""The UNet with guidance and context windows, as the sampler sees it: (x, sigma) -> x0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .conditioning import Conditioning
from .models.unet import AnimatorUNet
from .windows import window_weights


def make_denoiser(
    unet: AnimatorUNet, cond: Conditioning, guidance: Tensor, windows: list[list[int]],
    *, on_forward: Callable[[], None] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """Denoiser of a clip: x [F, 4, h, w] float32, sigma -> x0 [F, 4, h, w] float32.

    guidance: [F], per frame; the prediction is u + g (c - u). Where every g is 1 the unconditional half is not run.
    windows: frame indices of each window; predictions are blended with triangular weights, then guided.
    on_forward: called before every UNet call (cancel).
    """
    guided = bool((guidance != 1).any())
    g = guidance[:, None, None, None]

    def predict(x: Tensor, sigma: Tensor, frames: list[int]) -> Tensor:
        """Both halves for one window, [2 or 1, n, 4, h, w]."""
        if on_forward is not None:
            on_forward()
        n = len(frames)
        still = cond.image_latents.expand(n, -1, -1, -1)
        conditional = torch.cat([scale_input(x[frames], sigma).to(still), still], dim=1)[None]  # [1, n, 8, h, w]
        pose, context = cond.pose_features[frames], cond.context
        if guided:  # the unconditional half sees neither context, reference nor pose
            blank = torch.cat([conditional[:, :, :4], torch.zeros_like(conditional[:, :, 4:])], dim=2)
            conditional = torch.cat([blank, conditional])
            pose, context = torch.cat([torch.zeros_like(pose), pose]), torch.cat([torch.zeros_like(context), context])
        batch = len(conditional)
        timestep = timestep_of(sigma).to(still.device).expand(batch)  # float32: half precision would shift sigma
        time_ids = cond.time_ids.expand(batch, -1)
        return unet(conditional, timestep, context, time_ids, pose, id_scale=cond.id_scale).float()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        halves, total = 0.0, x.new_zeros(len(x))
        for frames in windows:
            weight = window_weights(len(frames), device=x.device)
            v = predict(x, sigma, frames)
            blended = v.new_zeros(len(v), *x.shape)
            blended[:, frames] = v * weight[:, None, None, None]
            halves = halves + blended
            total[frames] += weight
        v = halves / total[:, None, None, None]
        v = v[0] + g.to(v) * (v[1] - v[0]) if guided else v[0]
        return x0_from_v(v, x, sigma)

    return denoise


def frame_guidance(first: float, last: float, frames: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Guidance strength per frame, linear from the first frame to the last. [F]."""
    return torch.linspace(first, last, frames, device=device)


# EDM preconditioning of a v-predicting network (Karras et al. 2022, arXiv 2206.00364)


def timestep_of(sigma: Tensor) -> Tensor:
    """What the UNet is told of the noise level: ¼ ln σ."""
    return 0.25 * sigma.log()


def scale_input(x: Tensor, sigma: Tensor) -> Tensor:
    """x / √(σ² + 1), the UNet's view of noisy latents. sigma: any shape that broadcasts with x."""
    return x / (sigma**2 + 1).sqrt()


def x0_from_v(v: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Clean latents of a v-prediction: x / (σ² + 1) − v σ / √(σ² + 1). sigma: any shape that broadcasts with x."""
    return x / (sigma**2 + 1) - v * (sigma / (sigma**2 + 1).sqrt())
