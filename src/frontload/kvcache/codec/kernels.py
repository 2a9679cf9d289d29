"""From bytes to tensors in one pass: numba kernels without the GIL.

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

from typing import Any

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
from frontload.kvcache.codec.tile_kernels import make_scratch, reconstruct_tile
from frontload.kvcache.profile import LANES

GOOD, RAN_DRY, LEFT_OVER, LOW_STATE, TOO_WIDE = range(5)  # what a kernel says of its streams
ZERO = np.array([0])  # a plain 0 would be a type of its own, and compile its callees twice


@kernel
def decode_stripe(
    words: Any, streams: Any, sets: Any, blocks: Any, head: int, start: int, book: Any, basis: Any,
    turn: Any, out: Any,
) -> int:  # fmt: skip
    """Decode the tokens behind the head of some blocks.

    Args:
        words: uint16, the whole object.
        streams: int64 `[depths, 4]`: where in `words` states, words, escapes begin and the end.
        sets: int64 `[depths]`, the table set of each.
        head: how many tokens are not in these streams.
        start: position of the chunk's first token.
        turn: rotation of the chunk's tokens, which says how many there are.
        out: uint16 `[pieces, tokens, head_dim]`, bits of bf16.
    """
    num_tokens, depths = len(turn.cosine), len(streams)
    states, cursors, good = _open(words, streams, min(LANES, num_tokens - head))
    if not good:
        return LOW_STATE
    scratch = make_scratch(basis)
    integers = np.zeros(book.largest.shape[1] * LANES, np.int32)
    for block in blocks:
        for token in range(head, num_tokens, LANES):
            tile = min(LANES, num_tokens - token)
            if not decode_rows(words, states, cursors, book, sets, ZERO[0], block, tile, integers):
                return RAN_DRY
            if not reconstruct_tile(
                block, depths - 1, token, tile, start, integers, book, basis, turn, scratch, out
            ):
                return TOO_WIDE
    return _check_ends(states, cursors)


@kernel
def decode_head(
    words: Any, streams: Any, sets: Any, blocks: Any, head: int, head_depth: int, start: int,
    book: Any, basis: Any, turn: Any, out: Any,
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
    scratch = make_scratch(basis)
    for b in range(len(blocks)):
        if not reconstruct_tile(
            blocks[b], covered - 1, ZERO[0], head, start, integers[b], book, basis, turn, scratch,
            out,
        ):  # fmt: skip
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
