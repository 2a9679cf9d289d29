"""One tile's integers to bf16: reconstruction points, inverse transform, rotation, rounding.

Guarantees: the float32 operations of `quantize.values` and `as_chunk`, in their order (LLVM
contracts none of them), so the same bits. Gives up: nothing is checked but the size of integers.

The sums are exact whatever their order. Two components at a time are multiplied as 16-bit integers
(`lanes.dot`), which is twice as fast as 32-bit products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.codec.lane_memory import (
    dot,
    load_f32,
    load_i32,
    store_f32,
    store_i32,
    store_u32,
)
from frontload.kvcache.codec.lanes import (
    bits_of,
    count,
    first,
    i32,
    real,
    select,
)
from frontload.kvcache.profile import LANES, LARGEST_INTEGER, SUBSTEPS

WIDEST = (1 << 15) - 1  # a point that one row holds
MOST_ROWS = SUBSTEPS * LARGEST_INTEGER // WIDEST + 1  # of a pair; few ever take two
BEYOND = -1


class Basis(NamedTuple):
    """A profile's transform as kernels read it; b: block, k: component, j: channel, d: depth.

    inverse: int16 `[b, k / 2, 2 j + k % 2]`: two components side by side; padded by zeros.
    scale: float32 `[d, b]`, of `Profile.step_scale`.
    offset: uint8 `[b, k, d, 2]`, as in `profile.Tables`.
    mean, first_mean: float32 `[b, j]`, with channels padded to a multiple of 32.
    pieces: int32 `[b, pieces a block]`.
    turns: bool `[pieces]`, whether rotary embedding is put back.
    """

    inverse: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    first_mean: np.ndarray
    pieces: np.ndarray
    turns: np.ndarray


class Turn(NamedTuple):
    """The rotation of a chunk's tokens: float32 `[tokens, pairs]` each, and how channels pair."""

    cosine: np.ndarray
    sine: np.ndarray
    neighbours: bool


@kernel
def make_scratch(basis: Any) -> Any:
    """Room for one tile: pairs of points, which pairs they are, and values."""
    _, pairs, width = basis.inverse.shape
    return (
        np.empty(pairs * MOST_ROWS * LANES, np.int32),
        np.empty(pairs * MOST_ROWS, np.int64),
        np.empty(LANES * width // 2, np.float32),
    )


@kernel
def reconstruct_tile(
    block: int, depth: int, token: int, tile: int, start: int, integers: Any, book: Any, basis: Any,
    turn: Any, scratch: Any, out: Any,
) -> bool:  # fmt: skip
    """A tile's integers at `depth` to bf16 in `out`, for tokens from `token` of the chunk on.

    False if an integer is larger than any profile allows.
    """
    points, rows, values = scratch
    live = book.live[block, depth]
    num_rows = _points(integers, live, basis.offset[block, :, depth], tile, points, rows)
    if num_rows == BEYOND:
        return False
    mean = basis.mean[block]
    first_mean = basis.first_mean[block] if start + token == 0 else mean
    scale = basis.scale[depth, block]
    _transform(points, rows[:num_rows], basis.inverse[block], tile, scale, mean, first_mean, values)
    width, head_dim = len(mean), out.shape[2]
    flat = out.reshape(-1)
    for p in range(basis.pieces.shape[1]):
        piece = basis.pieces[block, p]
        turns = basis.turns[piece]
        pairs = turn.cosine.shape[1] if turns else 0
        for t in range(tile):
            source, target = (
                t * width + p * head_dim,
                (piece * out.shape[1] + token + t) * head_dim,
            )
            if turns:
                _rotate(
                    values, source, turn.cosine[token + t], turn.sine[token + t], turn.neighbours,
                    flat, target,
                )  # fmt: skip
            _round(values, source + 2 * pairs, head_dim - 2 * pairs, flat, target + 2 * pairs)
    return True


@kernel
def _points(integers: Any, live: int, offset: Any, tile: int, points: Any, rows: Any) -> int:
    """Reconstruction points of pairs of components that are not 0 in all lanes; how many rows.

    Two points of a lane share an int32, 16 bits each. Where that is too narrow the pair takes
    several rows, whose points add up.
    """
    num_rows = 0
    active = first(tile)
    for pair in range((live + 1) // 2):
        k = 2 * pair
        one = select(active, load_i32(integers, k * LANES), 0)
        two = select(active, load_i32(integers, (k + 1) * LANES), 0) if k + 1 < live else i32(0)
        one, two = _point(one, offset[k]), _point(two, offset[k + 1 if k + 1 < live else k])
        while count((one == 0) & (two == 0)) < LANES:
            if num_rows == len(rows):
                return BEYOND
            now, next_ = _clip(one), _clip(two)
            store_i32(points, num_rows * LANES, (now & 0xFFFF) | next_ << 16)
            one, two = one - now, two - next_
            rows[num_rows] = pair
            num_rows += 1
    return num_rows


@kernel
def _point(value: Any, offset: Any) -> Any:
    """Sixteenths of a step: |q| = 1 and |q| >= 2 lie nearer to 0 by an offset each."""
    negative = value < 0
    size = select(negative, 0 - value, value)
    nearer = select(size == 1, offset[0], select(size > 1, i32(offset[1]), 0))
    point = size * SUBSTEPS - nearer
    return select(negative, 0 - point, point)


@kernel
def _clip(point: Any) -> Any:
    point = select(point > WIDEST, WIDEST, point)
    return select(point < -WIDEST, -WIDEST, point)


@kernel
def _transform(
    points: Any, rows: Any, inverse: Any, tile: int, scale: Any, mean: Any, first_mean: Any,
    values: Any,
) -> None:  # fmt: skip
    """Values float32 `[tokens, channels]` of points `[rows, 32]`; the first token has its own mean.

    Eight tokens of 32 channels at a time, whose sums stay in registers.
    """
    width = len(mean)
    flat = inverse.reshape(-1)
    for j in range(0, width, LANES):
        center = load_f32(mean, j)
        for t in range(0, tile, 8):
            a, b, c, d = i32(0), i32(0), i32(0), i32(0)
            e, f, g, h = i32(0), i32(0), i32(0), i32(0)
            for r in range(len(rows)):
                column, p = (rows[r] * width + j) * 2, r * LANES + t
                a = dot(a, flat, column, points, p)
                b = dot(b, flat, column, points, p + 1)
                c = dot(c, flat, column, points, p + 2)
                d = dot(d, flat, column, points, p + 3)
                e = dot(e, flat, column, points, p + 4)
                f = dot(f, flat, column, points, p + 5)
                g = dot(g, flat, column, points, p + 6)
                h = dot(h, flat, column, points, p + 7)
            at = t * width + j
            first_center = load_f32(first_mean, j) if t == 0 else center
            store_f32(values, at, real(a) * scale + first_center)
            store_f32(values, at + width, real(b) * scale + center)
            store_f32(values, at + 2 * width, real(c) * scale + center)
            store_f32(values, at + 3 * width, real(d) * scale + center)
            store_f32(values, at + 4 * width, real(e) * scale + center)
            store_f32(values, at + 5 * width, real(f) * scale + center)
            store_f32(values, at + 6 * width, real(g) * scale + center)
            store_f32(values, at + 7 * width, real(h) * scale + center)


@kernel
def _rotate(
    values: Any, source: int, cosine: Any, sine: Any, neighbours: bool, out: Any, target: int
) -> None:
    """Rotary embedding of one head of one token, from `values[source]` on to bf16 in `out`."""
    pairs = len(cosine)
    apart = 1 if neighbours else pairs
    if neighbours or pairs < LANES:
        step = 2 if neighbours else 1
        for i in range(pairs):
            x, y = values[source + step * i], values[source + step * i + apart]
            out[target + step * i] = _bf16(x * cosine[i] - y * sine[i])
            out[target + step * i + apart] = _bf16(y * cosine[i] + x * sine[i])
        return
    for begin in range(0, pairs, LANES):
        i = min(begin, pairs - LANES)  # the last vector may do some of its predecessor's again
        x, y = load_f32(values, source + i), load_f32(values, source + pairs + i)
        c, s = load_f32(cosine, i), load_f32(sine, i)
        store_u32(out, target + i, _nearest(bits_of(x * c - y * s)))
        store_u32(out, target + pairs + i, _nearest(bits_of(y * c + x * s)))


@kernel
def _round(values: Any, source: int, length: int, out: Any, target: int) -> None:
    """`length` values to bf16."""
    if length < LANES:
        for i in range(length):
            out[target + i] = _bf16(values[source + i])
        return
    for begin in range(0, length, LANES):
        i = min(begin, length - LANES)
        store_u32(out, target + i, _nearest(bits_of(load_f32(values, source + i))))


@kernel
def _nearest(bits: Any) -> Any:
    """The bits of float32, in vectors, as those of the nearest bf16, ties to even."""
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@kernel
def _bf16(value: Any) -> Any:
    """The same of one number."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16)
