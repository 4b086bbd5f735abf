"""Fused kernels for NVIDIA GPUs, over tensors whose channels lie last: [N, C, ...] in memory as [N, places, C].

A GroupNorm with SiLU is two passes over its input instead of five, and none of them copies it to channels-first, as
torch's own does. They compute in float32 whatever the precision of their input. Compiled by Triton at their first call,
which takes a few seconds in all; `usable` says whether Triton can do that here.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # not on macOS, and on Windows only where its own build of Triton was installed
    triton = None

_ROWS, _CHANNELS = 64, 64  # of a tile
_PROGRAMS = 4096  # enough to fill a card
_SIZES = ("places", "run", "span", "splits")  # not specialised: else each size would compile a kernel of its own


def usable(device: torch.device) -> bool:
    """Whether the kernels run on this device: torch's current NVIDIA GPU, for which Triton can compile."""
    if triton is None or device.type != "cuda" or torch.version.hip is not None:
        return False
    current = torch.cuda.current_device()  # on which Triton launches
    return device.index in (None, current) and not why_not(current)


@functools.cache
def why_not(index: int) -> str:
    """What keeps Triton from compiling for this NVIDIA GPU; empty where it can. Raises torch.OutOfMemoryError."""
    try:
        x = torch.ones(1, 32, 1, 1, device=f"cuda:{index}", dtype=torch.float16)
        one, zero = x.new_ones(32), x.new_zeros(32)
        _, mean, variance = norm_silu(x, one, zero, 32, 1e-5)
        norm_silu_backward(x, x, None, one, zero, mean, variance, 1e-5)
        geglu(x.view(1, 32))
        torch.cuda.synchronize(index)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C compiler, no Python headers, too old a card: each has an error of its own
        return next(iter(str(error).splitlines()), type(error).__name__)
    return ""


def rows(x: Tensor) -> Tensor:
    """[N, C, ...] -> [N, places, C], contiguous: a view where channels lie last."""
    return x.movedim(1, -1).flatten(1, -2).contiguous()


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """[N, places, C] -> [N, C, ...], channels last, of the shape of `like`."""
    return rows.unflatten(1, like.shape[2:]).movedim(-1, 1)


def moments(x: Tensor, groups: int, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group of channels, two [N, groups] in float32. x: [N, places, C].

    add: [M, C], added to x before: M divides N * places, and row m belongs to that part of all places in memory.
    """
    n, places, channels = x.shape
    blocks = triton.cdiv(channels, _CHANNELS)
    splits = max(1, min(triton.cdiv(places, _ROWS), _PROGRAMS // (n * blocks)))
    run = triton.cdiv(triton.cdiv(places, splits), _ROWS) * _ROWS
    splits = triton.cdiv(places, run)
    parts = torch.empty(n, splits, 2, channels, device=x.device)
    _moments[n, splits, blocks](
        x, x if add is None else add, parts, places, channels, run, _span(x, add), ADD=_kind(add),
        ROWS=_ROWS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    mean, variance = torch.empty(2, n, groups, device=x.device).unbind()
    each = channels // groups
    _join_moments[n, groups](
        parts, mean, variance, places, channels, run, splits, EACH=each, PADDED=triton.next_power_of_2(each),
        SPLITS=max(4096 // triton.next_power_of_2(each), 1),
    )  # fmt: skip
    return mean, variance


def norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, add: Tensor | None = None, silu: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """SiLU(GroupNorm(x + add)), [N, C, ...], channels last, and the moments of its groups.

    add: [M, C], as in `moments`. silu: False leaves the SiLU out.
    """
    r = rows(x)
    mean, variance = moments(r, groups, add)
    n, places, channels = r.shape
    y = torch.empty_like(r)
    grid = triton.cdiv(places, _ROWS), triton.cdiv(channels, _CHANNELS), n
    _norm[grid](
        r, r if add is None else add, y, mean, variance, weight, bias, places, channels, groups, eps, _span(r, add),
        ADD=_kind(add), SILU=silu, ROWS=_ROWS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return _image(y, x), mean, variance


def norm_silu_backward(
    g: Tensor, x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    """Gradient by x of SiLU(GroupNorm(x + add)) from the gradient g by its result: [N, C, ...], channels last."""
    r, g = rows(x), rows(g)
    n, places, channels = r.shape
    groups = mean.shape[1]
    blocks = triton.cdiv(channels, _CHANNELS)
    splits = max(1, min(triton.cdiv(places, _ROWS), _PROGRAMS // (n * blocks)))
    run = triton.cdiv(triton.cdiv(places, splits), _ROWS) * _ROWS
    splits = triton.cdiv(places, run)
    parts = torch.empty(n, splits, 2, channels, device=x.device)
    how = {"ADD": _kind(add), "ROWS": _ROWS, "CHANNELS": _CHANNELS}
    add, span = (r, 1) if add is None else (add, _span(r, add))
    _slopes[n, splits, blocks](
        r, add, g, parts, mean, variance, weight, bias, places, channels, groups, eps, run, span, **how
    )
    level, slope = parts.sum(1).unflatten(-1, (groups, -1)).sum(-1).unbind(1)  # [N, groups] each
    count = places * (channels // groups)
    d = torch.empty_like(r)
    grid = triton.cdiv(places, _ROWS), blocks, n
    _norm_backward[grid](
        r, add, g, d, mean, variance, level / count, slope / count, weight, bias, places, channels, groups, eps, span,
        **how,
    )  # fmt: skip
    return _image(d, x)


def blend(
    x: Tensor | None, h: Tensor, bias: Tensor | None = None, share: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """x + share · (h + bias): [N, C, ...], channels last. bias: [C]. share: one number, [1]. out: memory for it."""
    like, h = h, rows(h)
    y = torch.empty_like(h) if out is None else rows(out)
    places, channels = h.shape[0] * h.shape[1], h.shape[2]
    _blend[_tiles(places, channels)](
        h if x is None else rows(x), h, y, h if bias is None else bias, h if share is None else share, places, channels,
        X=x is not None, BIAS=bias is not None, SHARE=share is not None, ROWS=_ROWS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return _image(y, like)


def geglu(x: Tensor) -> Tensor:
    """a · GELU(b) of x = [a, b]: [..., 2 C], contiguous -> [..., C]."""
    y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    channels = y.shape[-1]
    places = y.numel() // channels
    _geglu[_tiles(places, channels)](x, y, places, channels, ROWS=_ROWS, CHANNELS=_CHANNELS)
    return y


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift. x: [N, M, C], contiguous. scale: [N]. shift: [N, C]; both float32."""
    n, places, channels = x.shape
    y = torch.empty_like(x)
    _affine[(*_tiles(places, channels), n)](x, y, scale, shift, places, channels, ROWS=_ROWS, CHANNELS=_CHANNELS)
    return y


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float, *, shift: bool = True
) -> Tensor:
    """BatchNorm by running statistics [C]: [N, C, ...], channels last. shift: False leaves out what is added."""
    r = rows(x)
    y = torch.empty_like(r)
    places, channels = r.shape[0] * r.shape[1], r.shape[2]
    _batch_norm[_tiles(places, channels)](
        r, y, mean, variance, weight, bias, places, channels, eps, SHIFT=shift, ROWS=_ROWS, CHANNELS=_CHANNELS
    )
    return _image(y, x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis of a contiguous tensor."""
    y = torch.empty_like(x)
    channels = x.shape[-1]
    places, padded = x.numel() // channels, triton.next_power_of_2(channels)
    at_once = max(4096 // padded, 1)
    _layer_norm[(triton.cdiv(places, at_once),)](
        x, y, weight, bias, places, eps, CHANNELS=channels, PADDED=padded, ROWS=at_once
    )
    return y


def _tiles(places: int, channels: int) -> tuple[int, int]:
    return triton.cdiv(places, _ROWS), triton.cdiv(channels, _CHANNELS)


def _span(x: Tensor, add: Tensor | None) -> int:
    """Places in memory that share a row of `add`."""
    return 1 if add is None else x.shape[0] * x.shape[1] // len(add)


def _kind(add: Tensor | None) -> int:
    """0: nothing is added; 1: one row everywhere; 2: one for each span."""
    return 0 if add is None else min(len(add), 2)


if triton is not None:

    @triton.jit
    def _read(x, add, first, p, c, stop, channels, span, ADD: tl.constexpr):
        """x + add of places first + p below first + stop, float32, and where they lie."""
        row = first + p
        at = row[:, None] * channels + c[None, :]
        there = (p < stop)[:, None] & (c < channels)[None, :]
        v = tl.load(x + at, there, 0.0).to(tl.float32)
        if ADD == 1:
            v += tl.load(add + c, c < channels, 0.0).to(tl.float32)[None, :]
        if ADD == 2:
            each = row.to(tl.int32) // span
            v += tl.load(add + each[:, None] * channels + c[None, :], there, 0.0).to(tl.float32)
        return v, at, there

    @triton.jit(do_not_specialize=_SIZES)
    def _moments(
        x, add, parts, places, channels, run, span, ADD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
    ):
        """Sums around the first value of each channel, which lies near the others: no digits are lost."""
        n, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        c = block * CHANNELS + tl.arange(0, CHANNELS)
        known = c < channels
        start = split * run
        stop = tl.minimum(start + run, places)
        first = n.to(tl.int64) * places
        pivot = tl.load(x + (first + start) * channels + c, known, 0.0).to(tl.float32)
        total = tl.zeros([ROWS, CHANNELS], tl.float32)
        squares = tl.zeros([ROWS, CHANNELS], tl.float32)
        p0 = start
        while p0 < stop:
            v, _, there = _read(x, add, first, p0 + tl.arange(0, ROWS), c, stop, channels, span, ADD)
            v = tl.where(there, v - pivot[None, :], 0.0)
            total += v
            squares += v * v
            p0 += ROWS
        count = (stop - start).to(tl.float32)
        mean = tl.sum(total, 0) / count
        at = (n.to(tl.int64) * tl.num_programs(1) + split) * 2 * channels + c
        tl.store(parts + at, pivot + mean, known)
        tl.store(parts + at + channels, tl.maximum(tl.sum(squares, 0) - mean * mean * count, 0.0), known)

    @triton.jit(do_not_specialize=_SIZES)
    def _join_moments(
        parts, mean, variance, places, channels, run, splits,
        EACH: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr,
    ):  # fmt: skip
        n, group = tl.program_id(0), tl.program_id(1)
        c = tl.arange(0, PADDED)
        parts += n.to(tl.int64) * splits * 2 * channels + group * EACH
        total = tl.zeros([SPLITS, PADDED], tl.float32)
        s0 = splits * 0
        while s0 < splits:
            s = s0 + tl.arange(0, SPLITS)
            there = (s < splits)[:, None] & (c < EACH)[None, :]
            count = tl.minimum(places - s * run, run).to(tl.float32)
            total += tl.load(parts + s[:, None] * 2 * channels + c[None, :], there, 0.0) * count[:, None]
            s0 += SPLITS
        level = tl.sum(tl.sum(total, 1), 0) / (places.to(tl.float32) * EACH)
        total = tl.zeros([SPLITS, PADDED], tl.float32)
        s0 = splits * 0
        while s0 < splits:
            s = s0 + tl.arange(0, SPLITS)
            there = (s < splits)[:, None] & (c < EACH)[None, :]
            count = tl.minimum(places - s * run, run).to(tl.float32)
            m = tl.load(parts + s[:, None] * 2 * channels + c[None, :], there, 0.0)
            q = tl.load(parts + s[:, None] * 2 * channels + channels + c[None, :], there, 0.0)
            total += tl.where(there, q + (m - level) * (m - level) * count[:, None], 0.0)
            s0 += SPLITS
        spread = tl.sum(tl.sum(total, 1), 0) / (places.to(tl.float32) * EACH)
        at = n * tl.num_programs(1) + group
        tl.store(mean + at, level)
        tl.store(variance + at, spread)

    @triton.jit
    def _of_group(mean, variance, weight, bias, n, c, channels, groups, eps):
        """Mean and 1 / standard deviation of each channel's group, and its weight and bias."""
        known = c < channels
        group = n * groups + c // (channels // groups)
        inverse = tl.rsqrt(tl.load(variance + group, known, 0.0) + eps)
        w = tl.load(weight + c, known, 0.0).to(tl.float32)
        return tl.load(mean + group, known, 0.0), inverse, w, tl.load(bias + c, known, 0.0).to(tl.float32)

    @triton.jit(do_not_specialize=_SIZES)
    def _norm(
        x, add, y, mean, variance, weight, bias, places, channels, groups, eps, span,
        ADD: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(2)
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        middle, inverse, w, b = _of_group(mean, variance, weight, bias, n, c, channels, groups, eps)
        v, at, there = _read(x, add, n.to(tl.int64) * places, p, c, places, channels, span, ADD)
        v = (v - middle[None, :]) * (inverse * w)[None, :] + b[None, :]
        if SILU:
            v = v * tl.sigmoid(v)
        tl.store(y + at, v, there)

    @triton.jit
    def _through_silu(g, z):
        s = tl.sigmoid(z)
        return g * s * (1 + z * (1 - s))

    @triton.jit(do_not_specialize=_SIZES)
    def _slopes(
        x, add, g, parts, mean, variance, weight, bias, places, channels, groups, eps, run, span,
        ADD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        n, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        c = block * CHANNELS + tl.arange(0, CHANNELS)
        middle, inverse, w, b = _of_group(mean, variance, weight, bias, n, c, channels, groups, eps)
        level = tl.zeros([ROWS, CHANNELS], tl.float32)
        slope = tl.zeros([ROWS, CHANNELS], tl.float32)
        p0 = split * run
        stop = tl.minimum(p0 + run, places)
        while p0 < stop:
            p = p0 + tl.arange(0, ROWS)
            v, at, there = _read(x, add, n.to(tl.int64) * places, p, c, stop, channels, span, ADD)
            hat = (v - middle[None, :]) * inverse[None, :]
            d = _through_silu(tl.load(g + at, there, 0.0).to(tl.float32), hat * w[None, :] + b[None, :])
            level += d
            slope += d * hat
            p0 += ROWS
        at = (n.to(tl.int64) * tl.num_programs(1) + split) * 2 * channels + c
        tl.store(parts + at, tl.sum(level, 0) * w, c < channels)
        tl.store(parts + at + channels, tl.sum(slope, 0) * w, c < channels)

    @triton.jit(do_not_specialize=_SIZES)
    def _norm_backward(
        x, add, g, d, mean, variance, level, slope, weight, bias, places, channels, groups, eps, span,
        ADD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(2)
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        middle, inverse, w, b = _of_group(mean, variance, weight, bias, n, c, channels, groups, eps)
        group = n * groups + c // (channels // groups)
        v, at, there = _read(x, add, n.to(tl.int64) * places, p, c, places, channels, span, ADD)
        hat = (v - middle[None, :]) * inverse[None, :]
        v = _through_silu(tl.load(g + at, there, 0.0).to(tl.float32), hat * w[None, :] + b[None, :]) * w[None, :]
        v -= tl.load(level + group, c < channels, 0.0)[None, :]
        v -= hat * tl.load(slope + group, c < channels, 0.0)[None, :]
        tl.store(d + at, v * inverse[None, :], there)

    @triton.jit(do_not_specialize=_SIZES)
    def _blend(
        x, h, y, bias, share, places, channels,
        X: tl.constexpr, BIAS: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        there = (p < places)[:, None] & (c < channels)[None, :]
        at = p.to(tl.int64)[:, None] * channels + c[None, :]
        v = tl.load(h + at, there, 0.0).to(tl.float32)
        if BIAS:
            v += tl.load(bias + c, c < channels, 0.0).to(tl.float32)[None, :]
        if SHARE:
            v *= tl.load(share).to(tl.float32)
        if X:
            v += tl.load(x + at, there, 0.0).to(tl.float32)
        tl.store(y + at, v, there)

    @triton.jit(do_not_specialize=_SIZES)
    def _geglu(x, y, places, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        there = (p < places)[:, None] & (c < channels)[None, :]
        row = p.to(tl.int64)[:, None]
        a = tl.load(x + row * 2 * channels + c[None, :], there, 0.0).to(tl.float32)
        b = tl.load(x + row * 2 * channels + channels + c[None, :], there, 0.0).to(tl.float32)
        v = a * b * 0.5 * (1 + tl.erf(b * 0.7071067811865476))
        tl.store(y + row * channels + c[None, :], v, there)

    @triton.jit(do_not_specialize=_SIZES)
    def _affine(x, y, scale, shift, places, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
        n = tl.program_id(2)
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        there = (p < places)[:, None] & (c < channels)[None, :]
        at = (n.to(tl.int64) * places + p)[:, None] * channels + c[None, :]
        v = tl.load(x + at, there, 0.0).to(tl.float32) * tl.load(scale + n)
        tl.store(y + at, v + tl.load(shift + n * channels + c, c < channels, 0.0)[None, :], there)

    @triton.jit(do_not_specialize=_SIZES)
    def _batch_norm(
        x, y, mean, variance, weight, bias, places, channels, eps,
        SHIFT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ):  # fmt: skip
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        known = c < channels
        there = (p < places)[:, None] & known[None, :]
        at = p.to(tl.int64)[:, None] * channels + c[None, :]
        scale = tl.rsqrt(tl.load(variance + c, known, 1.0).to(tl.float32) + eps)
        scale *= tl.load(weight + c, known, 0.0).to(tl.float32)
        v = tl.load(x + at, there, 0.0).to(tl.float32) * scale[None, :]
        if SHIFT:
            shift = tl.load(bias + c, known, 0.0).to(tl.float32) - tl.load(mean + c, known, 0.0).to(tl.float32) * scale
            v += shift[None, :]
        tl.store(y + at, v, there)

    @triton.jit(do_not_specialize=_SIZES)
    def _layer_norm(x, y, weight, bias, places, eps, CHANNELS: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
        p = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        c = tl.arange(0, PADDED)
        known = c < CHANNELS
        there = (p < places)[:, None] & known[None, :]
        at = p.to(tl.int64)[:, None] * CHANNELS + c[None, :]
        v = tl.load(x + at, there, 0.0).to(tl.float32)
        d = tl.where(there, v - (tl.sum(v, 1) / CHANNELS)[:, None], 0.0)
        inverse = tl.rsqrt(tl.sum(d * d, 1) / CHANNELS + eps)
        w = tl.load(weight + c, known, 0.0).to(tl.float32)
        b = tl.load(bias + c, known, 0.0).to(tl.float32)
        tl.store(y + at, d * inverse[:, None] * w[None, :] + b[None, :], there)
