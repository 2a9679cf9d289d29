"""Triton code of rANS: one depth of a block and tile, from words to integers or their points.

Guarantees: integers are those of `entropy`; every load is masked by a stream's declared sizes, so
that damage costs a status, never an address. Gives up: being called from Python.

Vectors are `[ROWS, 32]`: a warp for each of ROWS chunks that are decoded side by side from the same
blocks, a thread for each token of the tile. There are as many threads as elements, so a lane's
integer in scratch is touched by its own thread alone until a barrier.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(32)


@triton.jit
def popcount(bits):
    """Bits set in each uint32 (a single instruction once LLVM has recognised it)."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def in_order(wanted, bit):
    """For each lane how many lower lanes of its row want an element, and how many want one."""
    mask = tl.sum(tl.where(wanted, bit, 0), axis=1, keep_dims=True)
    return popcount(mask & (bit - 1)), popcount(mask)


@triton.jit
def _advanced(state, low, high, active, words, at, num_words, bit):
    """States after a symbol of counts [low, high), and the word queue's new position."""
    slot = (state & 4095).to(tl.int32)
    stepped = (high - low).to(tl.uint32) * (state >> 12) + (slot - low).to(tl.uint32)
    state = tl.where(active, stepped, state)
    thirsty = active & (state < 65536)
    before, count = in_order(thirsty, bit)
    own = at + before
    word = tl.load(words + own, mask=thirsty & (own < num_words), other=0)
    refilled = (state << 16) | (word.to(tl.uint32) & 0xFFFF)
    return tl.where(thirsty, refilled, state), at + count


@triton.jit
def _searched(slot, active, base, steps, num_symbols):
    """Symbol whose counts hold `slot`, and these counts: binary search, all lanes in step."""
    symbol = tl.zeros_like(slot)
    low = tl.zeros_like(slot)
    high = tl.zeros_like(slot) + 4096
    for step in range(steps):
        middle = symbol + (1 << (steps - 1 - step))
        count = tl.load(base + middle, mask=active & (middle < num_symbols), other=4096)
        count = count.to(tl.int32)
        above = slot >= count
        symbol = tl.where(above, middle, symbol)
        low = tl.where(above, count, low)
        high = tl.where(above, high, count)
    return symbol, low, high


@triton.jit
def _spelled(q, is_escape, escapes, at, num_escapes, bit):
    """Integers with escapes in their place, and the escape queue's new position."""
    before, count = in_order(is_escape, bit)
    own = at + before
    far = tl.load(escapes + own, mask=is_escape & (own < num_escapes), other=0)
    return tl.where(is_escape, far.to(tl.int32), q), at + count


@triton.jit
def _passed(count, following, slot, symbol, low, high):
    """One step of a search that compares with every count."""
    above = slot >= count
    symbol += tl.where(above, 1, 0)
    return symbol, tl.where(above, count, low), tl.where(above, following, high)


@triton.jit
def _compared(slot, spans_a, spans_b, spans_c, spans_d):
    """Symbol of an alphabet of at most 8, whose counts 1 to 8 are in pairs of 16 bits.

    No address depends on the slot, so that the counts are there before the state is.
    """
    a, b = spans_a & 0xFFFF, spans_a >> 16
    c, d = spans_b & 0xFFFF, spans_b >> 16
    e, f = spans_c & 0xFFFF, spans_c >> 16
    g, h = spans_d & 0xFFFF, spans_d >> 16
    symbol = tl.zeros_like(slot)
    symbol, low, high = _passed(a, b, slot, symbol, tl.zeros_like(slot), a)
    symbol, low, high = _passed(b, c, slot, symbol, low, high)
    symbol, low, high = _passed(c, d, slot, symbol, low, high)
    symbol, low, high = _passed(d, e, slot, symbol, low, high)
    symbol, low, high = _passed(e, f, slot, symbol, low, high)
    symbol, low, high = _passed(f, g, slot, symbol, low, high)
    return _passed(g, h, slot, symbol, low, high)


@triton.jit
def _keep(
    q, k, index, active, offsets, limits, integers, planes, ROWS: tl.constexpr,
    PLANE: tl.constexpr, POINT_BYTES: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Store an integer for the next depth, or at the last one its point; 1 where it is damaged."""
    at = k * (ROWS * LANES) + index
    bad = tl.zeros_like(q)
    if LAST:
        magnitude = tl.abs(q)
        bad = tl.where(active & (magnitude > tl.load(limits + k)), 1, 0)
        offset = tl.load(offsets + k)
        nearer = tl.where(magnitude == 1, offset & 255, offset >> 8)
        point = 16 * magnitude - tl.where(magnitude == 0, 0, nearer)
        point = tl.where(q < 0, -point, point)
        for byte in tl.static_range(POINT_BYTES):
            digit = ((point + 128) & 255) - 128
            tl.store(planes + byte * PLANE + at, digit.to(tl.int8))
            point = (point - digit) >> 8
    else:
        tl.store(integers + at, q)
    return bad


@triton.jit
def decode_depth(
    data, stream, states, state_row, block, depth, active, index, lane,
    live, alphabets, spans, base, trits, offsets, limits, integers, planes,
    num_blocks, num_depths, num_entries,
    ROWS: tl.constexpr, K: tl.constexpr, POINT_BYTES: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One depth of a block and tile: trits of components born before, integers of those born here.

    `stream` points to each row's descriptor, `states` to the row's saved state of it.
    """
    PLANE: tl.constexpr = K * ROWS * LANES
    words_at = tl.load(stream + 1)
    escapes_at = tl.load(stream + 2)
    words, escapes = data + words_at, data + escapes_at
    num_words = (escapes_at - words_at).to(tl.int32)
    num_escapes = (tl.load(stream + 3) - escapes_at).to(tl.int32)
    table_set = tl.load(stream + 4).to(tl.int32)
    bit = tl.zeros_like(lane).to(tl.uint32) + 1
    bit = bit << lane.to(tl.uint32)

    state = tl.load(states + index).to(tl.uint32, bitcast=True)
    at = tl.load(states + state_row + index)
    escaped = tl.load(states + 2 * state_row + index)
    bad = tl.zeros_like(index)

    here = block * num_depths + depth
    born = tl.load(live + here + block)
    num_live = tl.load(live + here + block + 1)
    offsets += here * K
    limits += here * K
    entries = trits + ((table_set * num_blocks + block) * num_depths + depth) * (2 * K)

    left = tl.zeros_like(index) + born  # vectors: the interpreter cannot mix masks and scalars
    more = active & (left > 0)
    q = tl.load(integers + index, mask=more, other=0)
    if_zero = tl.load(entries, mask=more, other=0)
    if_not = tl.load(entries + 1, mask=more, other=0)
    for k in range(born):
        # The next component's inputs depend on no state: in flight while this one is decoded.
        more = active & (left > k + 1)
        next_q = tl.load(integers + (k + 1) * (ROWS * LANES) + index, mask=more, other=0)
        next_if_zero = tl.load(entries + 2 * (k + 1), mask=more, other=0)
        next_if_not = tl.load(entries + 2 * (k + 1) + 1, mask=more, other=0)
        counts = tl.where(q == 0, if_zero, if_not)
        slot = (state & 4095).to(tl.int32)
        first, second = counts & 0xFFFF, counts >> 16
        minus, plus = slot < first, slot >= second
        low = tl.where(minus, 0, tl.where(plus, second, first))
        high = tl.where(minus, first, tl.where(plus, 4096, second))
        trit = tl.where(plus, 1, 0) - tl.where(minus, 1, 0)
        q = 3 * q + tl.where(q < 0, -trit, trit)
        state, at = _advanced(state, low, high, active, words, at, num_words, bit)
        bad |= _keep(
            q, k, index, active, offsets, limits, integers, planes, ROWS, PLANE, POINT_BYTES, LAST
        )
        q, if_zero, if_not = next_q, next_if_zero, next_if_not

    alphabets += block * (2 * K)
    base += table_set * num_entries
    spans += (table_set * num_blocks + block) * (4 * K)
    first = born * 4
    a, b = tl.load(spans + first), tl.load(spans + first + 1)
    c, d = tl.load(spans + first + 2), tl.load(spans + first + 3)
    shape = tl.load(alphabets + 2 * born + 1)
    for k in range(born, num_live):
        # As above; tables have a component more at their end.
        ahead = spans + 4 * (k + 1)
        next_a, next_b = tl.load(ahead), tl.load(ahead + 1)
        next_c, next_d = tl.load(ahead + 2), tl.load(ahead + 3)
        next_shape = tl.load(alphabets + 2 * k + 3)
        largest, steps = shape & 255, shape >> 8
        slot = (state & 4095).to(tl.int32)
        if steps <= 3:
            symbol, low, high = _compared(slot, a, b, c, d)
        else:
            counts_at = base + tl.load(alphabets + 2 * k)
            symbol, low, high = _searched(slot, active, counts_at, steps, 2 * largest + 2)
        state, at = _advanced(state, low, high, active, words, at, num_words, bit)
        q = symbol - largest
        is_escape = active & (q > largest)
        if ROWS > 1:
            q, escaped = _spelled(q, is_escape, escapes, escaped, num_escapes, bit)
        else:  # a single warp can branch without asking others
            if tl.sum(tl.sum(tl.where(is_escape, 1, 0), axis=1), axis=0) > 0:
                q, escaped = _spelled(q, is_escape, escapes, escaped, num_escapes, bit)
        bad |= _keep(
            q, k, index, active, offsets, limits, integers, planes, ROWS, PLANE, POINT_BYTES, LAST
        )
        a, b, c, d, shape = next_a, next_b, next_c, next_d, next_shape

    tl.store(states + index, state.to(tl.int32, bitcast=True))
    tl.store(states + state_row + index, at)
    tl.store(states + 2 * state_row + index, escaped)
    # For whoever reads next: another depth, or the multiplication.
    tl.debug_barrier()
    return bad
