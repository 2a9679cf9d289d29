"""From integers to words: the inverse of `kernels`' entropy decoding, in numba without the GIL.

Guarantees: `kernels` decodes what these write to the same integers. Gives up: the transform, which
is one matrix product and torch's (`quantize.integers`).

rANS runs backwards: blocks, tiles and components are taken last to first, and words and escapes
fill their buffers from the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from frontload.kvcache.codec.entropy import LOW, encode_rows
from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.codec.lane_memory import (
    load_i32,
    store_i32,
)
from frontload.kvcache.codec.lanes import (
    i32,
    u32,
)
from frontload.kvcache.profile import LANES

BIAS = 1 << 20  # makes integers positive, a multiple of 3 of it too; |q| stays below


@kernel
def encode_stripe(integers: Any, sets: Any, blocks: Any, head: int, book: Any) -> Any:
    """Code the tokens behind the head of some blocks, at the first depths.

    Args:
        integers: int32 `[blocks, tokens, components]` at the finest depth.
        sets: int64 `[depths]`, the table set of each.

    Returns:
        words and escapes uint16 `[depths, room]` each, filled from the end; states uint32
        `[depths, 32]`; cursors int64 `[depths, 4]`; gains int64 `[depths]`: what the safer set
        would have cost more, in 1/256 bit.
    """
    _, num_tokens, size = integers.shape
    depths, finest = len(sets), book.live.shape[1] - 1
    room = 0
    for block in blocks:
        room += book.live[block, depths - 1] * (num_tokens - head)
    words, escapes, states, cursors = _open(depths, room)
    gains = np.zeros(depths, np.int64)
    pyramid = np.zeros((finest + 2, size * LANES), np.int32)  # [d + 1] is depth d
    tiles = (num_tokens - head + LANES - 1) // LANES
    for b in range(len(blocks) - 1, -1, -1):
        live = book.live[blocks[b], depths - 1]
        for index in range(tiles - 1, -1, -1):
            token = head + index * LANES
            tile = min(LANES, num_tokens - token)
            _gather(integers[blocks[b]], token, tile, live, pyramid[finest + 1])
            for d in range(finest, 0, -1):
                _coarsen(pyramid[d + 1], live, pyramid[d])
            for d in range(depths):
                gains[d] += encode_rows(
                    words[d], escapes[d], states[d], cursors[d], book, sets[d], d, blocks[b], tile,
                    pyramid[d], pyramid[d + 1],
                )  # fmt: skip
    return words, escapes, states, cursors, gains


@kernel
def encode_head(
    integers: Any, chosen: int, blocks: Any, head: int, depth: int, end_depth: int, book: Any
) -> Any:
    """Code depths `depth` to `end_depth` (excluded) of the first `head` tokens of a group.

    Returns as `encode_stripe`, one stream.
    """
    finest = book.live.shape[1] - 1
    room = 0
    for block in blocks:
        for d in range(depth, end_depth):
            room += book.live[block, d] * head
    words, escapes, states, cursors = _open(1, room)
    gains = np.zeros(1, np.int64)
    size = integers.shape[2]
    pyramid = np.zeros((finest + 2, size * LANES), np.int32)
    for d in range(end_depth - 1, depth - 1, -1):
        for b in range(len(blocks) - 1, -1, -1):
            live = book.live[blocks[b], d]
            _gather(integers[blocks[b]], 0, head, live, pyramid[finest + 1])
            for e in range(finest, d - 1, -1):
                _coarsen(pyramid[e + 1], live, pyramid[e])
            gains[0] += encode_rows(
                words[0], escapes[0], states[0], cursors[0], book, chosen, d, blocks[b], head,
                pyramid[d], pyramid[d + 1],
            )  # fmt: skip
    return words, escapes, states, cursors, gains


@kernel
def _open(streams: int, room: int) -> Any:
    """Empty buffers (a step stores at most one word a lane), resting states, cursors at the end."""
    cursors = np.full((streams, 4), room, np.int64)
    return (
        np.empty((streams, room), np.uint16),
        np.empty((streams, room), np.uint16),
        np.full((streams, LANES), LOW, np.uint32),
        cursors,
    )


@kernel
def _gather(integers: Any, token: int, tile: int, live: int, rows: Any) -> None:
    """Tokens of a block, `[tokens, components]`, as rows of 32 lanes."""
    for t in range(tile):
        for k in range(live):
            rows[k * LANES + t] = integers[token + t, k]


@kernel
def _coarsen(fine: Any, live: int, coarse: Any) -> None:
    """Rows one depth coarser: q -> round(q / 3)."""
    for k in range(live):
        shifted = u32(load_i32(fine, k * LANES) + (3 * BIAS + 1))
        store_i32(coarse, k * LANES, i32(shifted // 3) - BIAS)
