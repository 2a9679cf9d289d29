"""From bytes to tensors in one pass, and from integers to words: numba kernels without the GIL.

Guarantees: `decode_stripe` and `decode_head` give the bits of `quantize.reconstruct` (the same
integers, then the same float32 operations in the same order: LLVM contracts none of them), never
read outside of the streams they are given, and say whether streams ended as an encoder ends them.
Gives up: checking its arguments; `chunk` does.

A stripe is decoded tile by tile (32 tokens of one block): all depths' streams give the integers of
the tile, integers give reconstruction points, points times the inverse basis are summed in int32,
and the sums are scaled, shifted, rotated and rounded straight into the output. A tile's data stay
in the first-level cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from frontload.kvcache.codec.entropy import (
    ESCAPE,
    LAST,
    LAST_ESCAPE,
    LOW,
    POSITION,
    decode_rows,
)
from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.codec.lanes import (
    bits_of,
    count,
    dot,
    first,
    i32,
    load_f32,
    load_i32,
    real,
    select,
    store_f32,
    store_i32,
    store_u32,
)
from frontload.kvcache.profile import LANES, SUBSTEPS

GOOD, RAN_DRY, LEFT_OVER, LOW_STATE, TOO_WIDE = range(5)  # what a kernel says of its streams
WIDEST = (1 << 15) - 1  # a point that one row holds
MOST_ROWS = SUBSTEPS + 1  # of a pair: integers are at most WIDEST, their points 16 times that
BEYOND = -1


class Basis(NamedTuple):
    """A profile's transform as kernels read it; b is a block, k a component, j a channel, d a depth.

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
def decode_stripe(
    words: Any, streams: Any, sets: Any, blocks: Any, head: int, start: int, book: Any, basis: Any,
    turn: Any, out: Any, at: int,
) -> int:  # fmt: skip
    """Decode the tokens behind the head of some blocks.

    Args:
        words: uint16, the whole object.
        streams: int64 `[depths, 4]`: where in `words` states, words, escapes begin and the end.
        sets: int64 `[depths]`, the table set of each.
        head: how many tokens are not in these streams.
        start: position of the chunk's first token.
        turn: rotation of the chunk's tokens, which says how many there are.
        out: uint16 `[pieces, room, head_dim]`, bits of bf16; the chunk's tokens go to `at` and on.
    """
    num_tokens, depths = len(turn.cosine), len(streams)
    states, cursors, good = _open(words, streams, min(LANES, num_tokens - head))
    if not good:
        return LOW_STATE
    scratch = _scratch(basis)
    integers = np.zeros(book.largest.shape[1] * LANES, np.int32)
    for block in blocks:
        for token in range(head, num_tokens, LANES):
            tile = min(LANES, num_tokens - token)
            if not decode_rows(words, states, cursors, book, sets, 0, block, tile, integers):
                return RAN_DRY
            if not _finish(
                block, depths - 1, token, tile, start, integers, book, basis, turn, scratch, out, at
            ):
                return TOO_WIDE
    return _check_ends(states, cursors)


@kernel
def decode_head(
    words: Any, streams: Any, sets: Any, blocks: Any, head: int, head_depth: int, start: int,
    book: Any, basis: Any, turn: Any, out: Any, at: int,
) -> int:  # fmt: skip
    """Decode the context's first `head` tokens of a group; arguments as in `decode_stripe`."""
    depths, finest = len(streams), book.live.shape[1] - 1
    integers = np.zeros((len(blocks), book.largest.shape[1] * LANES), np.int32)
    covered = 0
    for d in range(depths):
        last = min(d + head_depth, finest) + 1
        lanes = head if last > covered else 0
        states, cursors, good = _open(words, streams[d : d + 1], lanes)
        if not good:
            return LOW_STATE
        for depth in range(covered, last):
            for b in range(len(blocks)):
                if not decode_rows(
                    words, states, cursors, book, sets[d : d + 1], depth, blocks[b], head,
                    integers[b],
                ):  # fmt: skip
                    return RAN_DRY
        status = _check_ends(states, cursors)
        if status != GOOD:
            return status
        covered = last
    scratch = _scratch(basis)
    for b in range(len(blocks)):
        if not _finish(
            blocks[b], covered - 1, 0, head, start, integers[b], book, basis, turn, scratch, out, at
        ):
            return TOO_WIDE
    return GOOD


@kernel
def _open(words: Any, streams: Any, lanes: int) -> Any:
    """States uint32 `[streams, 32]` (unused lanes rest at `LOW`), cursors int64 `[streams, 4]`, and
    whether no state is below `LOW`, which encoders never leave.
    """
    good = True
    states = np.full((len(streams), LANES), LOW, np.uint32)
    cursors = np.empty((len(streams), 4), np.int64)
    for s in range(len(streams)):
        for lane in range(lanes):
            at = streams[s, 0] + 2 * lane
            states[s, lane] = words[at] | np.uint32(words[at + 1]) << 16
            good &= states[s, lane] >= LOW
        cursors[s, POSITION], cursors[s, LAST] = streams[s, 1], streams[s, 2]
        cursors[s, ESCAPE], cursors[s, LAST_ESCAPE] = streams[s, 2], streams[s, 3]
    return states, cursors, good


@kernel
def _check_ends(states: Any, cursors: Any) -> int:
    """An encoder starts all states at `LOW`, so that a decoder ends there, with nothing left."""
    for s in range(len(states)):
        used = cursors[s, POSITION] == cursors[s, LAST]
        if not used or cursors[s, ESCAPE] != cursors[s, LAST_ESCAPE]:
            return LEFT_OVER
        for lane in range(LANES):
            if states[s, lane] != LOW:
                return LEFT_OVER
    return GOOD


@kernel
def _scratch(basis: Any) -> Any:
    """Room for one tile: pairs of points, which pairs they are, and values."""
    _, pairs, width = basis.inverse.shape
    return (
        np.empty(pairs * MOST_ROWS * LANES, np.int32),
        np.empty(pairs * MOST_ROWS, np.int64),
        np.empty(LANES * width // 2, np.float32),
    )


@kernel
def _finish(
    block: int, depth: int, token: int, tile: int, start: int, integers: Any, book: Any, basis: Any,
    turn: Any, scratch: Any, out: Any, at: int,
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
                (piece * out.shape[1] + at + token + t) * head_dim,
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
