"""HJB: at chosen sampling steps, optimise the predicted clean latents until the face is the reference's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn

from .errors import FaceError
from .face import FaceBoxes, crop_faces, csim
from .face.sharpness import sharpness
from .face_windows import CHUNK, SPARE_BYTES, Window, face_mask, find_face_cells, fitting_chunk, place_windows
from .graphs import OFF, Graphs
from .hjb_settings import PATIENCE, RISE, HJBConfig
from .memory import attempt, free_bytes
from .parallel import ALONE, Processes
from .vae import cell_size, decode_latents

# Powers of two, so exact: the first keeps the gradient of a half-precision decoder off the underflow, the next ones
# serve when it overflows.
_GRADIENT_SCALES = (1024.0, 32.0, 1.0)

Made = TypeVar("Made")


class Embedder(Protocol):
    """Face crops [N, 3, S, S] RGB in -1..1 -> embeddings [N, D], S = input_size."""

    input_size: int

    def __call__(self, faces: Tensor) -> Tensor: ...


class Likeness(NamedTuple):
    """How alike the faces are at one moment of the sampling."""

    step: int  # sampling step, from 0
    iteration: int  # Adam steps taken in it so far
    csim: Tensor  # [F], by the embedder that HJB optimises; NaN where a frame has no face
    faces: Tensor  # [n, 3, S, S] in -1..1, what the embedder saw, without its aliasing
    frames: list[int]  # whose they are
    refined: bool  # whether HJB works in this step
    last: bool  # whether nothing more comes of this step


OnIdentity = Callable[[Likeness], None]


def with_chunk(
    config: HJBConfig, vae: AutoencoderKLTemporalDecoder, boxes: FaceBoxes, size: tuple[int, int], *, gain: int = 0,
    processes: Processes = ALONE,
) -> HJBConfig:  # fmt: skip
    """The same settings with a number for `chunk`: as many frames as fit into the memory that is free now.

    boxes, size: as in place_windows. gain: bytes that will be free besides. processes: all take what fits in each.
    """
    if config.chunk is not None:
        return config
    free = free_bytes(vae.device)
    chunk = CHUNK if free is None else fitting_chunk(vae, boxes, size, config.around, free + gain - SPARE_BYTES)
    return replace(config, chunk=int(min(processes.told(chunk))))


def make_face_refiner(
    vae: AutoencoderKLTemporalDecoder,
    embed: Embedder,
    target: Tensor,
    boxes: FaceBoxes,
    config: HJBConfig,
    steps: int,
    *,
    reference: Tensor | None = None,
    on_identity: OnIdentity | None = None,
    on_taken: Callable[[int], None] | None = None,
    on_smaller: Callable[[int], None] | None = None,
    measure: bool = False,
    graphs: Graphs = OFF,
    make_room: Callable[[], bool] | None = None,
    processes: Processes = ALONE,
) -> Callable[[Tensor, int], Tensor]:
    """refine(x0, i) for `sample_euler`: Adam on x0, minimising the mean of 1 − csim(embed(face of decode(x0)), target).

    target: [D]. boxes: of the output frames, in their pixels. steps: sampling steps in all. reference: [3, S, S] of
    `reference_among`, whose sharpness limits that of adaptive HJB; None sets no limit.
    refine takes x0 [F, 4, h, w] and returns it float32, or x0 itself where step i is not refined or no frame has a
    face. Frames without a face stay as they are and are not decoded. Networks compute in their own dtypes, x0 and Adam
    in float32; a new Adam is made in each sampling step. Pixels are clamped to -1..1 before they are embedded.
    Chunks are exact for the loss, which is a mean over frames, but the decoder's temporal layers see one chunk at a
    time, in it only the frames that have a face, and with decode="face" the faces' surroundings alone.
    Gradients reach x0 alone; freeze the networks (`requires_grad_(False)`), or their activations cost memory.
    Works under torch.inference_mode() if the networks were loaded outside of it.

    on_identity(likeness) is called before each Adam step, where the similarity is known anyway; what it raises stops
    the run. measure: also after the last one, and once in every step that HJB leaves alone: each is another decode of
    the faces and `margin` cells around them, without gradient.
    on_taken(iterations) is called at the end of every refined step: how many Adam steps it took.
    on_smaller(chunk) is called when memory ran out: the iteration is done again, and all that follow, with half as many
    frames decoded at once.
    graphs: of this run alone; iterations are recorded with them. make_room: asked before anything is made smaller,
    until it finds nothing more to give back; None closes the graphs.
    processes: share the windows, and take the same Adam steps by the gradient that all have found; they call refine
    alike and with the same x0. on_identity is called in the first alone. When memory runs out in one, all go on with
    less at once.
    Raises InputError when no sampling step is refined, FaceError when a box lies outside the frame or the gradient
    overflows, ValueError when the weights are inference tensors or the boxes are not those of x0,
    torch.OutOfMemoryError when memory runs out with one frame.
    StableAnimator++ (arXiv 2507.15064), Algorithm 1.
    """
    config.check(steps)
    make_room = make_room or graphs.close
    for network in (vae, embed):
        if isinstance(network, nn.Module) and any(weight.is_inference() for weight in network.parameters()):
            raise ValueError(f"{type(network).__name__} was loaded under torch.inference_mode(); load it outside of it")
    measure = measure and on_identity is not None
    limited = reference is not None and config.stop == "adaptive"
    show = on_identity is not None or limited
    chunk = config.chunk

    @functools.cache
    def windows_of(size: tuple[int, int], at_once: int, margin: int | None) -> list[Window]:
        return place_windows(boxes, size, cell_size(vae), chunk=at_once, margin=margin)

    def through_windows(x0: Tensor, margin: int | None, work: Callable[[list[Window]], Made]) -> Made:
        """work(windows), with smaller ones as long as memory runs out in any process."""
        nonlocal chunk
        size = tuple(x0.shape[-2:])
        chunk = chunk or with_chunk(config, vae, boxes, size, processes=processes).chunk
        while True:
            windows = windows_of(size, chunk, margin)
            made = attempt(work, windows)
            if not any(processes.told(made is None)):
                return made
            if any(processes.told(made is None and make_room())):
                continue
            frames, rows, columns = max(window.shape for window in windows)
            if frames == 1:
                cell = cell_size(vae)
                raise torch.OutOfMemoryError(
                    f"HJB: memory ran out while one frame was decoded, {columns * cell}x{rows * cell} px; "
                    "make a smaller video, decode the face alone, or switch the face optimisation off"
                )
            chunk = frames // 2
            if on_smaller is not None:
                on_smaller(chunk)

    def sharpness_of(look: Look) -> Tensor:
        return sharpness(look.faces, reference) if limited else torch.zeros_like(look.csim)

    def tell(step: int, iteration: int, look: Look, *, refined: bool, last: bool) -> None:
        if on_identity is not None and processes.first:
            frames = boxes.found.nonzero().flatten().tolist()
            on_identity(Likeness(step, iteration, look.csim, look.faces[frames], frames, refined, last))

    def refine(x0: Tensor, i: int) -> Tensor:
        if len(boxes.found) != len(x0):
            raise ValueError(f"face boxes of {len(boxes.found)} frames for latents of {len(x0)}")
        settings = config.at(i, steps)
        if not boxes.found.any() or (settings is None and not measure):
            return x0
        margin = config.margin if settings is None else settings.margin

        def look_at(x0: Tensor, goal: Tensor, *, show: bool = True) -> Look:
            look = functools.partial(
                look_at_faces, x0, vae=vae, embed=embed, target=goal, show=show, processes=processes
            )
            return through_windows(x0, margin, look).gathered(processes)

        if settings is None:
            tell(i, 0, look_at(x0, target.to(x0.device)), refined=False, last=True)
            return x0
        with torch.inference_mode(False), torch.enable_grad():
            x0 = x0.detach().to(torch.float32, copy=True)  # a copy made here is no inference tensor
            movable = torch.ones_like(x0)
            if settings.scope == "face":
                movable = face_mask(find_face_cells(boxes, x0.shape[-2:], cell_size(vae)), x0)
            goal = target.detach().to(x0.device, torch.float32, copy=True)
            adam = torch.optim.Adam([x0], lr=settings.lr)
            rest = None if settings.sharpest is None else _Rest(x0, boxes.found, settings.sharpest)
            look, taken = None, 0
            while taken < settings.iterations:
                moving = None if rest is None else rest.moving
                for scale in _GRADIENT_SCALES:
                    differentiate = functools.partial(
                        face_gradient, x0, vae=vae, embed=embed, target=goal, moving=moving, scale=scale, show=show,
                        graphs=graphs, processes=processes,
                    )  # fmt: skip
                    seen, gradient = through_windows(x0, margin, differentiate)
                    seen, gradient = seen.gathered(processes), processes.gather(gradient)
                    if gradient.isfinite().all():
                        break
                look = seen if look is None else look.updated(seen)
                tell(i, taken, look, refined=True, last=False)
                if not gradient.isfinite().all():
                    raise FaceError(
                        f"HJB at sampling step {i}, iteration {taken}: the gradient is not finite; "
                        "load the model in bfloat16 or float32"
                    )
                if rest is not None:
                    rest.judge(x0, look.csim, sharpness_of(look))
                    if not rest.moving.any():
                        break
                x0.grad = gradient * movable
                adam.step()
                taken += 1
                if rest is not None:
                    rest.put_back(x0)
            if rest is not None and rest.moving.any():  # nobody has judged the last Adam step yet
                look = look_at(x0, goal, show=show)
                rest.end(x0, look.csim, sharpness_of(look))
            if measure:
                look = look_at(x0, goal)
                tell(i, taken, look, refined=True, last=True)
            if on_taken is not None:
                on_taken(taken)
        return x0.detach()

    return refine


def smaller_note(chunk: int) -> str:
    """What the user should know when the face optimisation went on with fewer frames at once."""
    return (
        f"the face optimisation ran out of memory and went on with {chunk} faces decoded at once; {_elsewhere(chunk)}"
    )


def fitted_note(chunk: int) -> str:
    """What the user should know when fewer faces than CHUNK are decoded at once from the start."""
    return f"the face optimisation decodes {chunk} faces at once, more do not fit into free memory; {_elsewhere(chunk)}"


def _elsewhere(chunk: int) -> str:
    return f"the same job on a card that is free comes out slightly different, unless chunk is set to {chunk} there"


class Look(NamedTuple):
    """The faces that windows show."""

    csim: Tensor  # [F], NaN where a frame has no face in them
    faces: Tensor | None  # [F, 3, S, S] in -1..1, antialiased, NaN likewise; None where nobody looks at them

    @classmethod
    def none(cls, x0: Tensor, side: int, *, show: bool) -> Look:
        """Nothing seen yet."""
        faces = x0.new_full((len(x0), 3, side, side), math.nan) if show else None
        return cls(x0.new_full((len(x0),), math.nan), faces)

    def take(self, window: Window, score: Tensor, pixels: Tensor | None = None) -> None:
        """What a window showed. score: [n]. pixels: [n, 3, window in px], where somebody looks."""
        self.csim[window.frames] = score.detach()
        if self.faces is not None:
            side = self.faces.shape[-1]
            self.faces[window.frames] = crop_faces(pixels.detach(), window.faces, side, antialias=True)

    def gathered(self, processes: Processes) -> Look:
        """With what the windows of the other processes show."""
        if processes.count == 1:
            return self
        own = ~self.csim.isnan()
        seen = processes.gather(own.float()) > 0
        csim = processes.gather(self.csim.where(own, 0)).where(seen, math.nan)
        if self.faces is None:
            return Look(csim, None)
        own, seen = own[:, None, None, None], seen[:, None, None, None]
        return Look(csim, processes.gather(self.faces.where(own, 0)).where(seen, math.nan))

    def updated(self, other: Look) -> Look:
        """The other look, and this one where the other sees nothing."""
        unseen = other.csim.isnan()
        faces = None
        if other.faces is not None:
            faces = torch.where(unseen[:, None, None, None], self.faces, other.faces)
        return Look(torch.where(unseen, self.csim, other.csim), faces)


class _Rest:
    """Which frames still move in a sampling step, and the best latents of each so far."""

    def __init__(self, x0: Tensor, found: Tensor, sharpest: float):
        self.moving = found.to(x0.device, copy=True)  # [F]
        self._best = x0.detach().clone()  # [F, 4, h, w]
        self._csim = x0.new_full((len(x0),), -math.inf)  # [F], of the best
        self._mark = self._csim  # [F], at the last rise
        self._waited = torch.zeros_like(self.moving, dtype=torch.long)  # [F] iterations without a rise
        self._sharpest = torch.full_like(self._csim, sharpest)  # [F]

    def judge(self, x0: Tensor, csim: Tensor, sharp: Tensor) -> None:
        """Send frames to rest; csim, sharp: [F] of x0."""
        first = self._csim.isinf()
        self._sharpest = torch.where(first, self._sharpest.maximum(sharp), self._sharpest)
        fine = sharp <= self._sharpest
        better = self.moving & fine & (csim > self._csim)
        risen = better & (csim > self._mark + RISE)
        self._best[better] = x0.detach()[better]
        self._csim = torch.where(better, csim, self._csim)
        self._mark = torch.where(risen, csim, self._mark)
        self._waited = torch.where(risen, 0, self._waited + 1)
        self.moving &= fine & (self._waited < PATIENCE)
        self.put_back(x0)

    def end(self, x0: Tensor, csim: Tensor, sharp: Tensor) -> None:
        """Judge once more; then every frame has its best latents."""
        self.judge(x0, csim, sharp)
        self.moving[:] = False
        self.put_back(x0)

    @torch.no_grad()
    def put_back(self, x0: Tensor) -> None:
        """Frames at rest get their best latents, from which Adam's momentum would move them."""
        x0[~self.moving] = self._best[~self.moving]


@torch.no_grad()
def look_at_faces(
    x0: Tensor, windows: list[Window], vae: AutoencoderKLTemporalDecoder, embed: Embedder, target: Tensor,
    *, show: bool = True, processes: Processes = ALONE,
) -> Look:  # fmt: skip
    """The faces of x0 [F, 4, h, w], decoded as HJB does it, in this process's windows. show: with their pictures."""
    look = Look.none(x0, embed.input_size, show=show)
    for window in processes.mine(windows):
        latents = x0[(window.frames, slice(None), *window.cells)]
        look.take(window, *_see(latents, window.faces, vae, embed, target))
    return look


def face_gradient(
    x0: Tensor, windows: list[Window], vae: AutoencoderKLTemporalDecoder, embed: Embedder, target: Tensor,
    *, moving: Tensor | None = None, scale: float = 1.0, show: bool = True, graphs: Graphs = OFF,
    processes: Processes = ALONE,
) -> tuple[Look, Tensor]:  # fmt: skip
    """The faces that the windows show, and the gradient of the mean of their 1 − csim by x0, [F, 4, h, w].

    processes: share the windows; of those of others no face is seen and the gradient is 0.
    moving: bool [F]; windows without any of these frames are not decoded, which leaves their gradient 0. None: all.
    scale: of the loss while it is differentiated, for networks in half precision. show: with pictures of the faces.
    """
    look = Look.none(x0, embed.input_size, show=show)
    gradient = torch.zeros_like(x0)
    faces = sum(len(window.frames) for window in windows)
    if moving is not None:
        windows = [window for window in windows if moving[window.frames].any()]
    for window in processes.mine(windows):
        area = (window.frames, slice(None), *window.cells)
        differentiate = functools.partial(_differentiate, window.faces, vae, embed, scale / faces, show)
        templates, boxes = window.faces.templates, None
        if templates is None:
            boxes = tuple(window.faces.pixels().flatten().tolist())  # of which crops are slices
        inputs = [x0.detach()[area], target] + ([] if templates is None else [templates.to(x0.device)])
        part, score, *pixels = graphs.run(("HJB", boxes, scale / faces, show), differentiate, *inputs)
        look.take(window, score, *pixels)
        gradient[area] = part / scale
    return look, gradient


def _differentiate(
    faces: FaceBoxes, vae: AutoencoderKLTemporalDecoder, embed: Embedder, scale: float, show: bool,
    latents: Tensor, target: Tensor, templates: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradient of scale · (1 − CSIM), summed over the faces, by latents [n, 4, window]; CSIM [n]; with show, pixels.

    faces, templates: those of the window; templates, if it has some, are those of this call.
    """
    latents = latents.detach().requires_grad_()
    score, pixels = _see(latents, faces._replace(templates=templates), vae, embed, target)
    (gradient,) = torch.autograd.grad((1 - score).sum() * scale, latents)
    return gradient, score.detach(), *([pixels.detach()] if show else [])


def _see(
    latents: Tensor, faces: FaceBoxes, vae: AutoencoderKLTemporalDecoder, embed: Embedder, target: Tensor
) -> tuple[Tensor, Tensor]:
    """CSIM [n] of a window's faces, and its pixels [n, 3, window in px] in -1..1. latents: [n, 4, window]."""
    pixels = decode_latents(vae, latents, chunk=len(latents), step_down=False).clamp(-1, 1)
    crops = crop_faces(pixels, faces, embed.input_size)
    return csim(embed(crops.to(_dtype_of(embed))), target), pixels


def _dtype_of(embed: Embedder) -> torch.dtype:
    weight = next(embed.parameters(), None) if isinstance(embed, nn.Module) else None
    return torch.float32 if weight is None else weight.dtype
