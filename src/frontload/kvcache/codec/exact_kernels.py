"""Kernels of the exact level: cells of bf16 values, steps between them, plain bits and rANS.

Guarantees: no read or write outside the arrays whatever the bytes say (`decode` returns False);
what the decoder computes is integers; the interpreter's lock is released. Used by `exact` alone,
which has the format. Rows are walked in passes without branches that data decide, because a
mispredicted one stalls the rest; indices are unsigned, because numba tests signed ones for negative
values.

A *cell* is a signed integer, monotone in the value: v or ~v with v = |x| / g rounded down while
|x| < 128 g, and one step per bf16 value from there on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint64

from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.profile import LANES, TABLE_BITS, TABLE_TOTAL

BITS = TABLE_BITS
TOTAL = TABLE_TOTAL
LOWEST = 1 << 16  # of a state
MOST = 31  # |step| up to which there is a symbol
ESCAPE = 2 * MOST + 1
SYMBOLS = ESCAPE + 1  # -MOST..MOST, escape
OCTAVES = 8  # of the grid above its linear part that are told apart
CONTEXTS = 4 * OCTAVES
UNARY = 12  # octaves below g that are counted bit by bit; smaller values have their bits stored
# Plain bits of a value in cell v or ~v, v = 0..128: 7 - floor(log2 v), but 0 for v = 0 and 128.
WIDTH = np.array([0] + [8 - v.bit_length() for v in range(1, 129)], np.int64)


@kernel
def _cell(bits: Any, grid: Any) -> Any:
    magnitude = bits & 0x7FFF
    below = grid - (magnitude >> 7)
    linear = (128 | (magnitude & 127)) >> min(max(below, 0), 8)  # subnormals: below is > 8
    cell = linear if below > 0 else magnitude + 128 - (grid << 7)
    return cell ^ -(bits >> 15)


@kernel
def _context(bits: Any, grid: Any, fraction: Any) -> Any:
    octave = ((bits & 0x7FFF) >> 7) - grid
    return 4 * min(max(octave, 0), OCTAVES - 1) + fraction


@kernel
def _near_zero(magnitude: Any, grid: Any) -> Any:
    """Plain bits of a value below g, first bit lowest, and how many: octaves, then mantissa."""
    exponent = magnitude >> 7
    octaves = grid - 8 - exponent
    if exponent > 0 and octaves < UNARY:
        return ((1 << octaves) - 1) | ((magnitude & 127) << (octaves + 1)), octaves + 8
    if magnitude == 0:
        return (1 << UNARY) - 1, UNARY + 1
    return ((2 << UNARY) - 1) | (magnitude << (UNARY + 1)), UNARY + 16


@kernel
def _from_near_zero(plain: Any, grid: Any) -> Any:
    """The inverse of `_near_zero`: magnitude and bits taken."""
    octaves = 0
    while octaves < UNARY and (plain >> octaves) & 1:
        octaves += 1
    if octaves < UNARY:
        return ((plain >> (octaves + 1)) & 127) | (max(grid - 8 - octaves, 0) << 7), octaves + 8
    if (plain >> UNARY) & 1:
        return (plain >> (UNARY + 1)) & 0x7FFF, UNARY + 16
    return 0, UNARY + 1


@kernel
def symbols(
    grid: Any, fraction: Any, predicted: Any, actual: Any, slots: Any, plain: Any, counts: Any
) -> Any:
    """Fill `slots` (context * SYMBOLS + symbol of each value) and `plain`; add to `counts`.

    Returns how many uint32 of `plain` are used.
    """
    pieces, tokens, channels = actual.shape
    cells = np.empty(channels, np.int32)
    reservoir = uint64(0)
    held = 0
    used = 0
    i = 0
    for p in range(pieces):
        for t in range(tokens):
            for j in range(channels):
                bits, guess = np.int32(actual[p, t, j]), np.int32(predicted[p, t, j])
                cell = _cell(bits, grid[p, j])
                symbol = cell - _cell(guess, grid[p, j]) + MOST
                symbol = ESCAPE if symbol < 0 or symbol > ESCAPE else symbol
                context = _context(guess, grid[p, j], fraction[p, j])
                slots[i + j] = context * SYMBOLS + symbol
                cells[j] = max(cell, ~cell) if symbol != ESCAPE else -1
            for j in range(channels):
                bits = int64(actual[p, t, j])
                cell = int64(cells[j])
                if cell > 0:
                    width = WIDTH[uint64(min(cell, 128))]
                    extra = bits & ((1 << width) - 1)
                elif cell == 0:
                    extra, width = _near_zero(bits & 0x7FFF, int64(grid[p, j]))
                else:
                    extra, width = bits, 16
                counts[slots[i + j]] += 1
                reservoir |= uint64(extra) << uint64(held)
                plain[uint64(used)] = reservoir & uint64(0xFFFFFFFF)
                held += width
                full = held >> 5
                used += full
                held &= 31
                reservoir >>= uint64(32 * full)
            i += channels
    plain[used] = reservoir & uint64(0xFFFFFFFF)
    return used + (1 if held > 0 else 0)


@kernel
def encode(slots: Any, freq: Any, start: Any, states: Any, words: Any) -> Any:
    """Code `slots` from their end; words fill `words` from its end. Returns how many there are.

    (x + 1/2) / freq in double precision is never closer than 2^-13 to an integer and never off by
    more than 2^-19, so that cutting it gives the quotient.
    """
    inverse = 1.0 / np.maximum(freq, 1)
    state = np.full(LANES, LOWEST, np.int64)
    position = len(words)
    for i in range(len(slots) - 1, -1, -1):
        chosen = slots[i]
        f = int64(freq[chosen])
        lane = uint64(i & (LANES - 1))
        x = state[lane]
        words[uint64(position - 1)] = x & 0xFFFF
        full = 1 if x >= f << (32 - BITS) else 0
        position -= full
        x >>= 16 * full
        quotient = int64((x + 0.5) * inverse[chosen])
        state[lane] = (quotient << BITS) + x - quotient * f + start[chosen]
    states[:] = state
    return len(words) - position


@kernel
def lookup(freq: Any, start: Any, symbols: Any) -> Any:
    """uint32 `[contexts * TOTAL]`: of each count, symbol | freq - 1 << 8 | count - start << 20.

    `freq` and `start` have `symbols` entries a context.
    """
    table = np.zeros(len(freq) // symbols * TOTAL, np.uint32)
    for chosen in range(len(freq)):
        first = chosen // symbols * TOTAL + start[chosen]
        for k in range(freq[chosen]):
            table[first + k] = chosen % symbols | ((freq[chosen] - 1) << 8) | (k << 20)
    return table


@kernel
def decode(
    grid: Any,
    fraction: Any,
    table: Any,
    predicted: Any,
    states: Any,
    words: Any,
    plain: Any,
    out: Any,
) -> Any:
    """Fill `out`; whether states, words and plain bits came out even.

    `words` and `plain` have one and two elements more than were sent.
    """
    pieces, tokens, channels = out.shape
    cells = np.empty(channels, np.int32)
    entries = np.empty(channels, np.int32)
    state = states.astype(np.int64)
    last_word, last_plain = len(words) - 1, len(plain) - 2
    position = 0
    bit = int64(0)
    i = 0
    for p in range(pieces):
        for t in range(tokens):
            for j in range(channels):
                guess = np.int32(predicted[p, t, j])
                cells[j] = _cell(guess, grid[p, j])
                entries[j] = _context(guess, grid[p, j], fraction[p, j]) << BITS
            row = out[p, t]
            g_row = grid[p]
            for j in range(channels):
                x = state[i]
                entry = int64(table[uint64(entries[j] + (x & (TOTAL - 1)))])
                entries[j] = entry & 0xFF
                x = (((entry >> 8) & (TOTAL - 1)) + 1) * (x >> BITS) + (entry >> 20)
                low = 1 if x < LOWEST else 0
                refilled = (x << 16) | int64(words[uint64(min(position, last_word))])
                state[i] = refilled if low else x
                position += low
                i = (i + 1) & (LANES - 1)
            for j in range(channels):
                at = uint64(min(bit >> 5, last_plain))
                window = (
                    uint64(plain[at]) | (uint64(plain[at + uint64(1)]) << uint64(32))
                ) >> uint64(bit & 31)
                low_bits = int64(window & uint64(0xFFFFFFFF))
                cell = int64(cells[j]) + entries[j] - MOST
                size = max(cell, ~cell)
                width = WIDTH[uint64(min(size, 128))]
                g = int64(g_row[j])
                bits = ((size << width) | (low_bits & ((1 << width) - 1))) + ((g - width - 1) << 7)
                bits = (bits & 0x7FFF) | (cell & 0x8000)
                if size == 0 or entries[j] == ESCAPE:
                    if entries[j] == ESCAPE:
                        bits, width = low_bits & 0xFFFF, 16
                    else:
                        bits, width = _from_near_zero(low_bits, g)
                        bits |= cell & 0x8000
                row[j] = bits
                bit += width
    even = position == last_word and (bit + 31) >> 5 == last_plain
    for lane in range(LANES):
        even &= state[lane] == LOWEST
    return even
