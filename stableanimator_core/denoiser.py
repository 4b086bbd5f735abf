"""The UNet with guidance and context windows, as the sampler sees it: (x, sigma) -> x0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .conditioning import Conditioning
from .graphs import OFF, Graphs
from .memory import attempt
from .models import kernels
from .models.unet import AnimatorUNet
from .parallel import ALONE, Processes
from .vae import width_of
from .windows import window_weights

# What Stable Video Diffusion's UNet takes in half precision, beside its weights, for every pixel of a frame of one
# window and one half of guidance: tests/benchmarks/2026-11-23-v1-speed.md, with fused kernels and without them.
UNET_BYTES, PLAIN_UNET_BYTES = 255, 300
UNET_WIDTH = 320 + 640 / 4 + 1280 / 16 + 1280 / 64
HALVES_APART = "memory held one half of guidance at a time: steps take longer, the video is the same"


def make_denoiser(
    unet: AnimatorUNet, cond: Conditioning, guidance: Tensor, windows: list[list[int]],
    *, on_forward: Callable[[], None] | None = None, on_note: Callable[[str], None] | None = None,
    processes: Processes = ALONE, graphs: Graphs = OFF, make_room: Callable[[], bool] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """Denoiser of a clip: x [F, 4, h, w] float32, sigma -> x0 [F, 4, h, w] float32.

    guidance: [F], per frame; the prediction is u + g (c - u). Where every g is 1 the unconditional half is not run.
    Both halves are one batch; once that runs out of memory they are run one after the other, to the clip's end.
    windows: frame indices of each window; predictions are blended with triangular weights, then guided.
    on_forward: called before every UNet call (cancel). on_note: told, once, that the halves are run apart.
    Raises torch.OutOfMemoryError when one half does not fit.
    processes: share the windows; each calls the denoiser with the same x and gets the same x0.
    graphs: the UNet is recorded with them. make_room: asked before the halves are run apart, until it finds nothing
    more to give back; None closes the graphs.
    """
    make_room = make_room or graphs.close
    guided = bool((guidance != 1).any())
    g = guidance[:, None, None, None]
    together = True  # both halves in one batch

    def run(*halves: Tensor) -> Tensor:
        if on_forward is not None:
            on_forward()
        (v,) = graphs.run("UNet", lambda *inputs: (unet(*inputs, id_scale=cond.id_scale),), *halves)
        return v.float()

    def try_to_run(*halves: Tensor) -> Tensor | None:
        """None when memory runs out, with all that can be given back given back."""
        v = attempt(lambda: run(*halves))
        while v is None and make_room():
            v = attempt(lambda: run(*halves))
        return v

    def run_alone(*half: Tensor) -> Tensor:
        v = try_to_run(*half)
        if v is None:
            frames, _, height, width = half[0].shape[1:]
            raise torch.OutOfMemoryError(
                f"UNet: memory ran out with one half of guidance, {frames} frames of {width}x{height} latent cells; "
                "make a smaller video or a shorter context window, or close what else uses the card"
            )
        return v

    def run_within_memory(sample: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor, pose: Tensor) -> Tensor:
        """The UNet of [B, n, 8, h, w] and pose [B * n, C, h, w], as one batch if that fits: [B, n, 4, h, w]."""
        nonlocal together
        inputs, batch = (sample, timestep, context, time_ids, pose), len(sample)
        if batch == 1:
            return run_alone(*inputs)
        if together:
            v = try_to_run(*inputs)
            if v is not None:
                return v
            together = False
            if on_note is not None:
                on_note(HALVES_APART)
        return torch.cat([run_alone(*half) for half in zip(*(part.chunk(batch) for part in inputs))])

    def predict(x: Tensor, sigma: Tensor, frames: list[int]) -> Tensor:
        """Both halves for one window, [2 or 1, n, 4, h, w]."""
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
        return run_within_memory(conditional, timestep, context, cond.time_ids.expand(batch, -1), pose)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        batch, longest = 2 if guided else 1, max(map(len, windows))
        predicted = x.new_zeros(len(windows), batch, longest, *x.shape[1:], dtype=torch.float32)
        for i in processes.mine(range(len(windows))):
            predicted[i, :, : len(windows[i])] = predict(x, sigma, windows[i])
        predicted = processes.gather(predicted)
        halves, total = predicted.new_zeros(batch, *x.shape), x.new_zeros(len(x))
        for frames, v in zip(windows, predicted):
            weight = window_weights(len(frames), device=x.device)
            halves[:, frames] += v[:, : len(frames)] * weight[:, None, None, None]
            total[frames] += weight
        v = halves / total[:, None, None, None]
        v = v[0] + g.to(v) * (v[1] - v[0]) if guided else v[0]
        return x0_from_v(v, x, sigma)

    return denoise


def unet_bytes(unet: AnimatorUNet, frames: int, pixels: int, device: torch.device) -> float:
    """What one half of guidance takes for a window of so many frames, of so many pixels each, about: measured for the
    published UNet, in proportion to the channels and the precision for others. device: where it will be."""
    each = UNET_BYTES if kernels.usable(device) else PLAIN_UNET_BYTES
    return frames * pixels * each * width_of(unet) / UNET_WIDTH * unet.dtype.itemsize / 2


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
