"""HJB: at chosen sampling steps, optimise the predicted clean latents until the face is the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from .errors import FaceError, InputError
from .face import FaceBoxes, crop_faces, csim
from .vae import cell_size, decode_latents

# Powers of two, so exact: the first keeps the gradient of a half-precision decoder off the underflow, the next ones
# serve when it overflows.
_GRADIENT_SCALES = (1024.0, 32.0, 1.0)

OnIteration = Callable[[int, int, Tensor], None]


class Embedder(Protocol):
    """Face crops [N, 3, S, S] RGB in -1..1 -> embeddings [N, D], S = input_size."""

    input_size: int

    def __call__(self, faces: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class HJBConfig:
    """How the face is optimised. Raises InputError when a value makes no sense.

    iterations: Adam steps in each refined sampling step, 0 switches HJB off. first_step, last_step: sampling steps to
    refine, from 0, both inclusive. lr: η; sampling step i of n works at η (1 − i/n).
    decode: "face" decodes the latents of a chunk's faces and `margin` cells around them, "full" whole frames.
    scope: "face" moves the latents of the face box only, "all" every latent that was decoded (Adam moves each of them
    by about the learning rate, however small its gradient is).
    chunk: frames decoded at once; lower it when memory runs out.
    """

    iterations: int = 10
    first_step: int = 0
    last_step: int = 9
    lr: float = 0.1
    decode: Literal["face", "full"] = "face"
    scope: Literal["face", "all"] = "face"
    margin: int = 2
    chunk: int = 8

    def __post_init__(self):
        if self.iterations < 0:
            raise InputError(f"hjb-iterations {self.iterations}: give 0 (HJB off) or more")
        if self.first_step < 0:
            raise InputError(f"hjb-steps {self.first_step}:{self.last_step} starts before step 0")
        if self.last_step < self.first_step:
            raise InputError(f"hjb-steps {self.first_step}:{self.last_step} runs backwards, give FIRST:LAST")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"HJB learning rate {self.lr}: give a number above 0, 0.1 is usual")
        if self.decode not in ("face", "full"):
            raise InputError(f'HJB decode "{self.decode}": give "face" or "full"')
        if self.scope not in ("face", "all"):
            raise InputError(f'HJB scope "{self.scope}": give "face" or "all"')
        if self.margin < 0:
            raise InputError(f"HJB margin {self.margin}: give 0 or more latent cells")
        if self.chunk < 1:
            raise InputError(f"HJB chunk {self.chunk}: at least 1 frame is decoded at once")


Cells = tuple[slice, slice]  # rows, columns of latent cells


class Window(NamedTuple):
    """What is decoded at once: the same latent cells of a few frames."""

    frames: list[int]
    cells: Cells
    faces: FaceBoxes  # one for each of these frames, in px of the window


def find_face_cells(boxes: FaceBoxes, size: tuple[int, int], cell: int) -> dict[int, Cells]:
    """Latent cells that the face touches, of every frame that has one. size: h, w of the latents; cell: its pixels.

    Raises FaceError when a box lies outside its frame.
    """
    h, w = size
    found = {}
    frames = boxes.found.nonzero().flatten().tolist()
    for frame, box in zip(frames, boxes.picked(frames).pixels().tolist()):
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], w * cell), min(box[3], h * cell)
        if x1 <= x0 or y1 <= y0:
            raise FaceError(
                f"frame {frame}: face box {box} lies outside the {w * cell}x{h * cell} frame; check the aligned poses"
            )
        found[frame] = slice(y0 // cell, -(-y1 // cell)), slice(x0 // cell, -(-x1 // cell))
    return found


def place_windows(
    boxes: FaceBoxes, size: tuple[int, int], cell: int, *, chunk: int, margin: int | None
) -> list[Window]:
    """Windows of `chunk` frames with a face, holding all their faces and `margin` cells around; None is whole frames.

    The window stays in place within a chunk: the temporal layers compare a cell with the same cell of other frames.
    On random decoders the gradient of windows that follow the face had a cosine of .5 with that of whole frames,
    windows that stay .8 (margin 2).
    """
    h, w = size
    faces = find_face_cells(boxes, size, cell)
    frames = list(faces)
    windows = []
    for part in (frames[start : start + chunk] for start in range(0, len(frames), chunk)):
        rows, columns = slice(0, h), slice(0, w)
        if margin is not None:
            rows = _around([faces[frame][0] for frame in part], margin, h)
            columns = _around([faces[frame][1] for frame in part], margin, w)
        shown = boxes.picked(part).shifted(-columns.start * cell, -rows.start * cell)
        windows.append(Window(part, (rows, columns), shown))
    return windows


def _around(runs: list[slice], margin: int, limit: int) -> slice:
    """The run of cells that holds all runs and a margin, inside 0..limit."""
    start, stop = min(run.start for run in runs), max(run.stop for run in runs)
    return slice(max(start - margin, 0), min(stop + margin, limit))


def make_face_refiner(
    vae: AutoencoderKLTemporalDecoder,
    embed: Embedder,
    target: Tensor,
    boxes: FaceBoxes,
    config: HJBConfig,
    steps: int,
    *,
    on_iteration: OnIteration | None = None,
) -> Callable[[Tensor, int], Tensor]:
    """refine(x0, i) for `sample_euler`: Adam on x0, minimising the mean of 1 − csim(embed(face of decode(x0)), target).

    target: [D]. boxes: of the output frames, in their pixels. steps: sampling steps in all.
    refine takes x0 [F, 4, h, w] and returns it float32, or x0 itself where step i is not refined or no frame has a
    face. Frames without a face stay as they are and are not decoded. Networks compute in their own dtypes, x0 and Adam
    in float32; a new Adam is made in each sampling step. Pixels are clamped to -1..1 before they are embedded.
    Chunks are exact for the loss, which is a mean over frames, but the decoder's temporal layers see one chunk at a
    time, in it only the frames that have a face, and with decode="face" the faces' surroundings alone.
    Gradients reach x0 alone; freeze the networks (`requires_grad_(False)`), or their activations cost memory.
    Works under torch.inference_mode() if the networks were loaded outside of it.

    on_iteration(step, iteration, csim [F]) is called before each Adam step, NaN where a frame has no face; what it
    raises stops the run.
    Raises InputError when no sampling step is refined, FaceError when a box lies outside the frame or the gradient
    overflows, ValueError when the weights are inference tensors or the boxes are not those of x0.
    StableAnimator++ (arXiv 2507.15064), Algorithm 1.
    """
    if config.iterations and config.first_step >= steps:
        raise InputError(
            f"hjb-steps {config.first_step}:{config.last_step} start after the last sampling step, {steps - 1}"
        )
    for network in (vae, embed):
        if isinstance(network, nn.Module) and any(weight.is_inference() for weight in network.parameters()):
            raise ValueError(f"{type(network).__name__} was loaded under torch.inference_mode(); load it outside of it")

    def refine(x0: Tensor, i: int) -> Tensor:
        if len(boxes.found) != len(x0):
            raise ValueError(f"face boxes of {len(boxes.found)} frames for latents of {len(x0)}")
        if not (config.iterations and config.first_step <= i <= config.last_step and boxes.found.any()):
            return x0
        size, cell = x0.shape[-2:], cell_size(vae)
        margin = config.margin if config.decode == "face" else None
        windows = place_windows(boxes, size, cell, chunk=config.chunk, margin=margin)
        with torch.inference_mode(False), torch.enable_grad():
            x0 = x0.detach().to(torch.float32, copy=True)  # a copy made here is no inference tensor
            movable = torch.ones_like(x0)
            if config.scope == "face":
                movable = face_mask(find_face_cells(boxes, size, cell), x0)
            goal = target.detach().to(x0.device, torch.float32, copy=True)
            adam = torch.optim.Adam([x0], lr=config.lr * (1 - i / steps))
            for iteration in range(config.iterations):
                for scale in _GRADIENT_SCALES:
                    similarity, gradient = face_gradient(x0, windows, vae, embed, goal, scale=scale)
                    if gradient.isfinite().all():
                        break
                if on_iteration is not None:
                    on_iteration(i, iteration, similarity)
                if not gradient.isfinite().all():
                    raise FaceError(
                        f"HJB at sampling step {i}, iteration {iteration}: the gradient is not finite; "
                        "load the model in bfloat16 or float32"
                    )
                x0.grad = gradient * movable
                adam.step()
        return x0.detach()

    return refine


def face_gradient(
    x0: Tensor, windows: list[Window], vae: AutoencoderKLTemporalDecoder, embed: Embedder, target: Tensor,
    *, scale: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """CSIM of every frame, [F], NaN without a face, and the gradient of the mean of 1 − csim by x0, [F, 4, h, w].

    scale: of the loss while it is differentiated, for networks in half precision.
    """
    similarity = x0.new_full((len(x0),), float("nan"))
    gradient = torch.zeros_like(x0)
    faces = sum(len(window.frames) for window in windows)
    for window in windows:
        area = (window.frames, slice(None), *window.cells)
        latents = x0.detach()[area].requires_grad_()  # [n, 4, window]
        pixels = decode_latents(vae, latents, chunk=len(latents)).clamp(-1, 1)  # [n, 3, window in px]
        crops = crop_faces(pixels, window.faces, embed.input_size)  # [n, 3, S, S]
        score = csim(embed(crops.to(_dtype_of(embed))), target)  # [n]
        loss = (1 - score).sum() / faces
        (part,) = torch.autograd.grad(loss * scale, latents)
        similarity[window.frames] = score.detach()
        gradient[area] = part / scale
    return similarity, gradient


def face_mask(faces: dict[int, Cells], like: Tensor) -> Tensor:
    """1 in the cells of each frame's face, 0 elsewhere: [F, 4, h, w]."""
    mask = torch.zeros_like(like)
    for frame, (rows, columns) in faces.items():
        mask[frame, :, rows, columns] = 1
    return mask


def _dtype_of(embed: Embedder) -> torch.dtype:
    weight = next(embed.parameters(), None) if isinstance(embed, nn.Module) else None
    return torch.float32 if weight is None else weight.dtype
