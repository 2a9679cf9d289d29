"""rANS over 32 lanes: one component of a tile, and one after another, in numba.

Guarantees: decoding never reads outside the words and escapes of its stream, whatever they hold,
and ends (each step takes a bounded number of words); encoding is its exact inverse. Gives up:
adaptation; every distribution comes from the profile.

A *state* is 32 bits and is kept in [2^16, 2^32) by moving 16-bit words; probabilities are counts
of 4096. To decode: slot = state mod 4096 lies in the [start, end) of exactly one symbol, then
state = (end - start) (state / 4096) + slot - start, then lanes whose state fell below 2^16 take a
word each, in ascending order, from the one list that all lanes share. Encoding runs backwards.

Source: Duda, arXiv 1311.2540, section 4.3; lanes with a shared list as in Giesen, arXiv 1402.3392.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.codec.lane_memory import (
    compress,
    expand,
    load_i32,
    load_u32,
    store_i32,
    store_u32,
)
from frontload.kvcache.codec.lanes import (
    count,
    first,
    i32,
    quotient,
    select,
    total,
    u16,
    u32,
)
from frontload.kvcache.profile import LANES, TABLE_BITS, TABLE_TOTAL

LOW = 1 << 16  # a state is never below it, and begins there
POSITION, LAST, ESCAPE, LAST_ESCAPE = range(4)  # of a cursor: next and end of words and escapes
RAN_OUT = -1
GAIN_UNIT = 256  # gains are in 1/256 bit


class Book(NamedTuple):
    """A profile's tables as kernels read them; b is a block, k a component, d a depth.

    live, largest, start, base: as in `profile.Tables`.
    trits: uint16, flat, the same counts in the same order.
    bound: int32 `[b, k]`, the largest |q| at the depth of birth.
    base_gain: int16 `[entries]`, bits that a symbol costs more in the safer set, in 1/256.
    trit_gain: int16 `[b, k, d, context, trit]`, the same.
    """

    live: np.ndarray
    largest: np.ndarray
    start: np.ndarray
    base: np.ndarray
    trits: np.ndarray
    bound: np.ndarray
    base_gain: np.ndarray
    trit_gain: np.ndarray


@kernel
def decode_rows(
    words: Any, states: Any, cursors: Any, book: Any, sets: Any, depth: int, block: int,
    num_lanes: int, integers: Any,
) -> bool:  # fmt: skip
    """Decode one tile's integers of a block at some depths, a stream each; False if it cannot be.

    That is when words or escapes run out, or an escape is beyond the profile's limit. Component by
    component, so that the streams' steps, each of which waits for the one before it in its stream,
    overlap.

    Args:
        words: uint16, of the whole object.
        states: uint32 `[streams, 32]`, updated.
        cursors: int64 `[streams, 4]`, updated.
        sets: int64 `[streams]`, table sets.
        depth: of the first stream.
        num_lanes: tokens of the tile.
        integers: int32 `[components * 32]`, updated from depth - 1 to the last stream's depth.
    """
    active, flat = first(num_lanes), states.reshape(-1)  # views made here cost more than steps
    born = 0
    for k in range(book.live[block, depth + len(states) - 1]):
        while k >= book.live[block, born]:
            born += 1
        integer = load_i32(integers, k * LANES)
        for s in range(max(born - depth, 0), len(states)):
            state, position, d = load_u32(flat, s * LANES), cursors[s, POSITION], depth + s
            slot = u16(state) & (TABLE_TOTAL - 1)
            if d > born:
                start, end, trit = _find_trit(
                    slot, integer, book.trits, _trit_at(book, sets[s], block, k, d)
                )
                integer = integer * 3 + trit
            else:
                largest = book.largest[block, k]
                counts = book.base[sets[s], book.start[block, k] :]
                index, start, end = _find_symbol(slot, counts, 2 * largest + 2)
                integer = i32(index) - largest
                escaped = (integer > largest) & active
                if count(escaped) > 0:
                    integer = _spell_out(words, cursors, s, book.bound[block, k], escaped, integer)
                    if cursors[s, ESCAPE] == RAN_OUT:
                        return False
            state, position = _pull(
                state, slot, start, end, active, words, position, cursors[s, LAST]
            )
            if position == RAN_OUT:
                return False
            store_u32(flat, s * LANES, state)
            cursors[s, POSITION] = position
        store_i32(integers, k * LANES, integer)
    return True


@kernel
def _spell_out(
    words: Any, cursors: Any, stream: int, bound: int, escaped: Any, integer: Any
) -> Any:
    """Integers with the escaped ones as the stream spells them; else its cursor says `RAN_OUT`."""
    position, wanted = cursors[stream, ESCAPE], count(escaped)
    if position + wanted > cursors[stream, LAST_ESCAPE]:
        cursors[stream, ESCAPE] = RAN_OUT
        return integer
    spelled = i32(expand(words, position, escaped)) << 16 >> 16  # sign
    beyond = count(((spelled > bound) | (spelled < -bound)) & escaped) > 0
    cursors[stream, ESCAPE] = RAN_OUT if beyond else position + wanted
    return select(escaped, spelled, integer)


@kernel
def encode_rows(
    words: Any, escapes: Any, states: Any, cursor: Any, book: Any, chosen: int, depth: int,
    block: int, num_lanes: int, coarse_integers: Any, integers: Any,
) -> int:  # fmt: skip
    """The inverse of `decode_rows`; gives what the safer set would have cost more, in 1/256 bit.

    Args:
        words: uint16, filled from its end towards its beginning; `cursor[POSITION]` is its first.
        escapes: uint16, filled in the same way; `cursor[ESCAPE]` is the first.
        coarse_integers: int32 `[components * 32]` at depth - 1.
        integers: the same, at depth.
    """
    state, position = load_u32(states, 0), cursor[POSITION]
    active = first(num_lanes)
    known = book.live[block, depth - 1] if depth else 0
    gains = i32(0)
    for k in range(book.live[block, depth] - 1, known - 1, -1):
        value, largest = load_i32(integers, k * LANES), book.largest[block, k]
        escaped = ((value > largest) | (value < -largest)) & active
        if count(escaped) > 0:
            cursor[ESCAPE] -= count(escaped)
            compress(escapes, cursor[ESCAPE], escaped, value)
        index = select(escaped, 2 * largest + 1, value + largest)
        table = book.start[block, k]
        start, end, gain = _span_symbol(
            u16(index), book.base[chosen, table:], book.base_gain[table:], 2 * largest + 2
        )
        gains = select(active, gains + gain, gains)
        state, position = _push(state, start, end, active, words, position)
    for k in range(known - 1, -1, -1):
        coarse = load_i32(coarse_integers, k * LANES)
        trit = load_i32(integers, k * LANES) - coarse * 3
        start, end, gain = _span_trit(
            trit, coarse, book.trits, _trit_at(book, chosen, block, k, depth),
            book.trit_gain[block, k, depth],
        )  # fmt: skip
        gains = select(active, gains + gain, gains)
        state, position = _push(state, start, end, active, words, position)
    store_u32(states, 0, state)
    cursor[POSITION] = position
    return total(gains)


@kernel
def _pull(
    state: Any, slot: Any, start: Any, end: Any, active: Any, words: Any, position: int, last: int
) -> Any:
    """States after a symbol, with their refill; and the position of the next word or RAN_OUT."""
    moved = u32(end - start) * (state >> TABLE_BITS) + u32(slot - start)
    state = select(active, moved, state)
    hungry = (state < LOW) & active
    wanted = count(hungry)
    if position + wanted > last:
        return state, RAN_OUT
    state = select(hungry, state << 16 | u32(expand(words, position, hungry)), state)
    return state, position + wanted


@kernel
def _push(state: Any, start: Any, end: Any, active: Any, words: Any, position: int) -> Any:
    """The inverse of `_pull`: words that it will take are stored before `position`."""
    width = u32(end - start)
    full = (state >> (32 - TABLE_BITS) >= width) & active
    position -= count(full)
    compress(words, position, full, state)
    small = select(full, state >> 16, state)
    steps = quotient(small, width)
    moved = (steps << TABLE_BITS) + (small - steps * width) + u32(start)
    return select(active, moved, state), position


@kernel
def _trit_at(book: Any, chosen: int, block: int, component: int, depth: int) -> int:
    """Where the four counts begin (context 0, context 1) in `book.trits`."""
    blocks, depths = book.live.shape
    return (((chosen * blocks + block) * book.largest.shape[1] + component) * depths + depth) * 4


@kernel
def _find_trit(slot: Any, coarse: Any, counts: Any, at: int) -> Any:
    """Start and end of the trit that holds each slot, and the trit with its true sign."""
    zero = coarse == 0
    low = select(zero, u16(counts[at]), u16(counts[at + 2]))
    high = select(zero, u16(counts[at + 1]), u16(counts[at + 3]))
    above, top = slot >= low, slot >= high
    start = select(top, high, select(above, low, 0))
    end = select(top, TABLE_TOTAL, select(above, high, low))
    trit = select(top, 1, select(above, 0, i32(-1)))
    return start, end, select(coarse < 0, 0 - trit, trit)


@kernel
def _span_trit(trit: Any, coarse: Any, counts: Any, at: int, gains: Any) -> Any:
    """Start and end of each trit, and what it costs more in the safer set."""
    zero = coarse == 0
    outward = select(coarse < 0, 0 - trit, trit)
    low = select(zero, u16(counts[at]), u16(counts[at + 2]))
    high = select(zero, u16(counts[at + 1]), u16(counts[at + 3]))
    above, top = outward >= 0, outward > 0
    start = select(top, high, select(above, low, 0))
    end = select(top, TABLE_TOTAL, select(above, high, low))
    near = select(top, gains[0, 2], select(above, gains[0, 1], i32(gains[0, 0])))
    far = select(top, gains[1, 2], select(above, gains[1, 1], i32(gains[1, 0])))
    return start, end, select(zero, near, far)


@kernel
def _find_symbol(slot: Any, counts: Any, num_symbols: int) -> Any:
    """Index, start and end of the symbol that holds each slot, by comparing with every start."""
    index, start, end = u16(0), u16(0), u16(counts[1])
    for i in range(1, num_symbols):
        above = slot >= counts[i]
        index = select(above, i, index)
        start = select(above, counts[i], start)
        end = select(above, counts[i + 1], end)
    return index, start, end


@kernel
def _span_symbol(index: Any, counts: Any, gains: Any, num_symbols: int) -> Any:
    """Start and end of each symbol, and what it costs more in the safer set."""
    start, end, gain = u16(0), u16(counts[1]), u16(gains[0])
    for i in range(1, num_symbols):
        above = index >= i
        start = select(above, counts[i], start)
        end = select(above, counts[i + 1], end)
        gain = select(above, gains[i], gain)
    return start, end, i32(gain) << 16 >> 16  # sign
