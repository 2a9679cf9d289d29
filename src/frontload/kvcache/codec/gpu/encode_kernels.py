"""Triton code of `encode`: integers to words and escapes, then everything into its place.

Guarantees: for the same integers the same words, escapes and states as `encode_kernels`. Gives up:
being called directly.

rANS runs backwards: depths, blocks, tiles and components are taken last to first, and words and
escapes fill their buffers from the end. A program is one warp and codes one stream.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

from frontload.kvcache.codec.gpu.entropy import LANES, in_order

BIAS = tl.constexpr(1 << 20)  # makes integers positive, a multiple of 3 of it too
# int64 fields of a stream that is coded: first block in `order`, blocks, first depth, end depth,
# tiles, first token, last token, table set, ends of its words and escapes, its chunk's integers,
# tokens of the chunk.
CODE_FIELDS = tl.constexpr(12)
# int64 fields of a stream that is moved: its words and how many, escapes and how many, states and
# how many lanes, where its index entry goes, where the stream goes (2 bytes).
MOVE_FIELDS = tl.constexpr(8)
RESULT_FIELDS = tl.constexpr(3)  # num words, num escapes, gain


@triton.jit
def _coarser(integer):
    """q -> round(q / 3)."""
    return (integer + (3 * BIAS + 1)) // 3 - BIAS


@triton.jit
def _pushed(state, low, high, active, words, at, bit):
    """States before a symbol of counts [low, high), and where the queue then begins."""
    width = (high - low).to(tl.uint32)
    full = active & ((state >> 20) >= width)
    before, count = in_order(full, bit)
    at -= count
    tl.store(words + at + before, (state & 0xFFFF).to(tl.int16), mask=full)
    small = tl.where(full, state >> 16, state)
    steps = small // width
    moved = (steps << 12) + (small - steps * width) + low.to(tl.uint32)
    return tl.where(active, moved, state), at


@triton.jit
def encode_streams(
    integers, streams, order, live, alphabets, base, trits, base_gain, trit_gain,
    words, escapes, states, results,
    size, num_blocks, num_depths, num_entries, K: tl.constexpr,
):  # fmt: skip
    """Code one stream.

    integers: int32, `[blocks, size, tokens]` of each chunk at the finest depth; streams: int64
    `[streams, CODE_FIELDS]`; states: int32 `[streams, 32]`; results: int64 `[streams,
    RESULT_FIELDS]`, the gain being what the safer set would have cost more, in 1/256 bit.
    """
    stream = tl.program_id(0)
    fields = streams + stream * CODE_FIELDS
    first_block = tl.load(fields).to(tl.int32)
    num_coded = tl.load(fields + 1).to(tl.int32)
    first_depth = tl.load(fields + 2).to(tl.int32)
    end_depth = tl.load(fields + 3).to(tl.int32)
    tiles = tl.load(fields + 4).to(tl.int32)
    first_token = tl.load(fields + 5).to(tl.int32)
    last_token = tl.load(fields + 6).to(tl.int32)
    table_set = tl.load(fields + 7).to(tl.int32)
    words += tl.load(fields + 8)
    escapes += tl.load(fields + 9)
    integers += tl.load(fields + 10)
    num_tokens = tl.load(fields + 11)
    base += table_set * num_entries

    lane = tl.zeros((1, 1), tl.int32) + tl.arange(0, LANES)[None, :]
    bit = tl.zeros_like(lane).to(tl.uint32) + 1
    bit = bit << lane.to(tl.uint32)
    state = tl.zeros_like(bit) + 65536
    at = tl.zeros_like(lane)
    escaped = tl.zeros_like(lane)
    gain = tl.zeros_like(lane)
    for i in range(end_depth - first_depth):
        depth = end_depth - 1 - i
        for j in range(num_coded):
            block = tl.load(order + first_block + num_coded - 1 - j)
            here = block * num_depths + depth
            born = tl.load(live + here + block)
            num_live = tl.load(live + here + block + 1)
            entries = trits + ((table_set * num_blocks + block) * num_depths + depth) * (2 * K)
            gains = trit_gain + here * (8 * K)
            shapes = alphabets + block * (2 * K)
            for tile in range(tiles):
                token = first_token + (tiles - 1 - tile) * LANES + lane
                active = token < last_token
                source = integers + block * (size * num_tokens) + token
                for n in range(num_live - born):
                    k = num_live - 1 - n
                    q = tl.load(source + k * num_tokens, mask=active, other=0)
                    for _ in range(num_depths - 1 - depth):
                        q = _coarser(q)
                    start = tl.load(shapes + 2 * k)
                    largest = tl.load(shapes + 2 * k + 1) & 255
                    far = tl.abs(q) > largest
                    before, count = in_order(far, bit)
                    escaped -= count
                    tl.store(escapes + escaped + before, q.to(tl.int16), mask=far)
                    symbol = start + tl.where(far, 2 * largest + 1, q + largest)
                    low = tl.load(base + symbol).to(tl.int32)
                    high = tl.load(base + symbol + 1).to(tl.int32)
                    more = tl.load(base_gain + symbol).to(tl.int32)
                    gain += tl.where(active, more, 0)
                    state, at = _pushed(state, low, high, active, words, at, bit)
                for n in range(born):
                    k = born - 1 - n
                    q = tl.load(source + k * num_tokens, mask=active, other=0)
                    for _ in range(num_depths - 1 - depth):
                        q = _coarser(q)
                    coarse = _coarser(q)
                    trit = q - 3 * coarse
                    trit = tl.where(coarse < 0, -trit, trit)
                    context = tl.where(coarse == 0, 0, 1)
                    counts = tl.load(entries + 2 * k + context)
                    first, second = counts & 0xFFFF, counts >> 16
                    low = tl.where(trit < 0, 0, tl.where(trit > 0, second, first))
                    high = tl.where(trit < 0, first, tl.where(trit > 0, 4096, second))
                    more = tl.load(gains + 8 * k + 4 * context + trit + 1).to(tl.int32)
                    gain += tl.where(active, more, 0)
                    state, at = _pushed(state, low, high, active, words, at, bit)
    own = tl.arange(0, LANES)[None, :]
    tl.store(states + stream * LANES + own, state.to(tl.int32, bitcast=True))
    result = results + stream * RESULT_FIELDS
    tl.store(result, -tl.min(at).to(tl.int64))
    tl.store(result + 1, -tl.min(escaped).to(tl.int64))
    tl.store(result + 2, tl.sum(gain.to(tl.int64)))


@triton.jit
def _copied(source, to, count, SPAN: tl.constexpr):
    """Copy 16-bit units."""
    unit = tl.arange(0, SPAN)
    for begin in range(0, count, SPAN):
        here = begin + unit
        tl.store(to + here, tl.load(source + here, mask=here < count), mask=here < count)


@triton.jit
def pack_streams(words, escapes, states, moves, out, SPAN: tl.constexpr):
    """Move one stream and its index entry to where the part's body wants them.

    states: int16 view `[streams, 32, 2]`; moves: int64 `[streams, MOVE_FIELDS]`.
    """
    fields = moves + tl.program_id(0) * MOVE_FIELDS
    num_words = tl.load(fields + 1)
    num_escapes = tl.load(fields + 3)
    num_lanes = tl.load(fields + 5)
    index = out + tl.load(fields + 6)
    tl.store(index, (num_words & 0xFFFF).to(tl.int16))
    tl.store(index + 1, (num_words >> 16).to(tl.int16))
    tl.store(index + 2, (num_escapes & 0xFFFF).to(tl.int16))
    tl.store(index + 3, (num_escapes >> 16).to(tl.int16))
    to = out + tl.load(fields + 7)
    _copied(states + tl.load(fields + 4), to, 2 * num_lanes, SPAN)
    to += 2 * num_lanes
    _copied(words + tl.load(fields), to, num_words, SPAN)
    _copied(escapes + tl.load(fields + 2), to + num_words, num_escapes, SPAN)
