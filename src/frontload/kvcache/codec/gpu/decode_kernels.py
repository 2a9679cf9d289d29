"""Triton code of `decode`: the fused kernel, from compressed words to bf16 in the cache.

Guarantees: the integers, the float32 operations and their order are those of `quantize`; every load
and store is masked by declared sizes. Gives up: being called directly; the launch code justifies
the shapes.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

from frontload.kvcache.codec.gpu.entropy import LANES, decode_depth

# Fields of descriptors, as `jobs` writes them; places are in 16-bit units of `data`.
STREAM_FIELDS = tl.constexpr(5)  # where states, words, escapes begin and where they end; table set
ROW_FIELDS = tl.constexpr(4)  # first token, last token, position of token 0, output row of token 0


@triton.jit
def to_bf16(value):
    """Bits of the nearest bf16, ties to even, as PyTorch rounds on a CPU."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, 0x7FC0, rounded.to(tl.int32)).to(tl.int16)


@triton.jit
def _product(p0, p1, p2, weights, weight_at, TILE: tl.constexpr, POINT_BYTES: tl.constexpr):
    """int32 product of points and a tile of the inverse, modulo 2^32.

    Bytes are multiplied: (p2 2^16 + p1 2^8 + p0) (w1 2^8 + w0). Each product of bytes is summed in
    an accumulator that cannot overflow (the instruction may saturate); shifted sums may wrap.
    """
    w0 = tl.load(weights + weight_at)
    w1 = tl.load(weights + TILE + weight_at)
    high = tl.dot(p1, w1, out_dtype=tl.int32)
    middle = tl.dot(p1, w0, out_dtype=tl.int32)
    middle = tl.dot(p0, w1, acc=middle, out_dtype=tl.int32)
    if POINT_BYTES == 3:
        high = tl.dot(p2, w0, acc=high, out_dtype=tl.int32)
        high += tl.dot(p2, w1, out_dtype=tl.int32) << 8
    return (high << 16) + (middle << 8) + tl.dot(p0, w0, out_dtype=tl.int32)


@triton.jit
def _multiplied(
    planes, weights, rows, num_live,
    M: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, COMPONENTS: tl.constexpr,
    POINT_BYTES: tl.constexpr,
):  # fmt: skip
    """Points times inverse for both members of each pair: int32 `[M, PAIRS]` twice."""
    TILE: tl.constexpr = PAIRS * COMPONENTS
    component = tl.arange(0, COMPONENTS)
    weight_at = tl.arange(0, PAIRS)[None, :] * COMPONENTS + component[:, None]
    point_at = component[None, :] * M + rows[:, None]
    first = tl.zeros((M, PAIRS), tl.int32)
    second = tl.zeros((M, PAIRS), tl.int32)
    for begin in range(0, num_live, COMPONENTS):
        is_live = (begin + component < num_live)[None, :]
        at = planes + begin * M + point_at
        p0 = tl.load(at, mask=is_live, other=0)
        p1 = tl.load(at + K * M, mask=is_live, other=0)
        p2 = p1
        if POINT_BYTES == 3:
            p2 = tl.load(at + 2 * K * M, mask=is_live, other=0)
        tiles = weights + (begin // COMPONENTS) * (4 * TILE)
        first += _product(p0, p1, p2, tiles, weight_at, TILE, POINT_BYTES)
        second += _product(p0, p1, p2, tiles + 2 * TILE, weight_at, TILE, POINT_BYTES)
    return first, second


@triton.jit
def rebuild(
    planes, block, tile, depth, row_table, live, weights, means, scales, frequency, angles, places,
    out, pages, num_blocks, num_depths, num_pairs, num_angles, row_stride, shift, origin,
    ROWS: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, COMPONENTS: tl.constexpr,
    POINT_BYTES: tl.constexpr, PAGED: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """Points of a tile to values in the cache: multiply, scale, add, turn, round, store."""
    M: tl.constexpr = ROWS * LANES
    rows = tl.arange(0, M)
    row = row_table + (rows // LANES) * ROW_FIELDS
    token = tl.load(row) + tile * LANES + rows % LANES
    valid = token < tl.load(row + 1)
    position = tl.load(row + 2) + token
    to = tl.load(row + 3) + token + shift
    if PAGED:
        to = tl.load(pages + to, mask=valid, other=0)
    to = out + to * row_stride
    num_live = tl.load(live + block * (num_depths + 1) + depth + 1)
    scale = tl.load(scales + depth * num_blocks + block)
    is_first = (position == 0)[:, None]
    means += block * (4 * num_pairs)
    places += block * (2 * num_pairs)
    CUT: tl.constexpr = K * PAIRS * 4
    weights += block.to(tl.int64) * (num_pairs // PAIRS) * CUT
    for cut in range(num_pairs // PAIRS):
        pair = cut * PAIRS + tl.arange(0, PAIRS)
        first, second = _multiplied(
            planes, weights + cut * CUT, rows, num_live, M, K, PAIRS, COMPONENTS, POINT_BYTES
        )
        usual = means + 2 * num_pairs + pair
        a_mean = tl.where(is_first, tl.load(means + pair)[None, :], tl.load(usual)[None, :])
        means_b = means + num_pairs
        b_mean = tl.where(
            is_first, tl.load(means_b + pair)[None, :], tl.load(usual + num_pairs)[None, :]
        )
        a = first.to(tl.float32) * scale + a_mean
        b = second.to(tl.float32) * scale + b_mean
        if TURNED:
            angle = tl.load(frequency + block * num_pairs + pair)[None, :]
            turns = valid[:, None] & (angle >= 0)
            at = angles + ((position - origin)[:, None] * num_angles + angle) * 2
            cosine = tl.load(at, mask=turns, other=1.0)
            sine = tl.load(at + 1, mask=turns, other=0.0)
            turned = a * cosine - b * sine
            b = tl.where(turns, b * cosine + a * sine, b)
            a = tl.where(turns, turned, a)
        a_place = tl.load(places + pair)[None, :]
        b_place = tl.load(places + num_pairs + pair)[None, :]
        tl.store(to[:, None] + a_place, to_bf16(a), mask=valid[:, None] & (a_place >= 0))
        tl.store(to[:, None] + b_place, to_bf16(b), mask=valid[:, None] & (b_place >= 0))


# Triton compiles anew for integers that are 1 or multiples of 16, unless told that nothing is won.
COUNTS = (
    *("num_jobs", "num_streams", "head_shift", "shift", "origin", "integer_blocks"),
    "num_entries",
)


@triton.jit(do_not_specialize=COUNTS)
def decode_chunks(
    data, jobs, streams, row_table, order, status,
    live, alphabets, spans, base, trits, offsets, limits, weights, means, scales, frequency,
    angles, places, out, pages, states, integers, planes,
    num_jobs, num_streams, head_shift, num_blocks, num_depths, num_entries, num_pairs, num_angles,
    row_stride, shift, origin, integer_blocks,
    ROWS: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, COMPONENTS: tl.constexpr,
    POINT_BYTES: tl.constexpr, PAGED: tl.constexpr, TURNED: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Jobs (a stripe of ROWS chunks, or the head stream of one) until there are none left.

    jobs: int32 `[jobs, 4]`: first block in `order`, blocks, depths to decode, tiles.
    streams: int64 `[jobs, streams, ROWS, STREAM_FIELDS]`; row_table: int64 `[jobs, ROWS,
    ROW_FIELDS]`; status: int32 `[jobs, ROWS]`, 0 if the row is whole.
    states: int32 `[programs, streams, 3, M]`; integers: int32 `[programs, integer_blocks, K, M]`;
    planes: int8 `[programs, POINT_BYTES, K, M]`: scratch of a tile, reused.
    angles: of positions from `origin` on.
    """
    M: tl.constexpr = ROWS * LANES
    program = tl.program_id(0).to(tl.int64)
    states += program * (num_streams * 3 * M)
    integers += program * integer_blocks * (K * M)
    planes += program * (POINT_BYTES * K * M)
    lane = tl.zeros((ROWS, 1), tl.int32) + tl.arange(0, LANES)[None, :]
    own_row = tl.zeros((1, LANES), tl.int32) + tl.arange(0, ROWS)[:, None]
    index = own_row * LANES + lane
    for job in range(tl.program_id(0), num_jobs, tl.num_programs(0)):
        first_block = tl.load(jobs + 4 * job)
        job_blocks = tl.load(jobs + 4 * job + 1)
        job_depths = tl.load(jobs + 4 * job + 2)
        tiles = tl.load(jobs + 4 * job + 3)
        job_rows = row_table + job * (ROWS * ROW_FIELDS)
        job_streams = streams + job * (num_streams * ROWS * STREAM_FIELDS)
        mine = job_streams + own_row * STREAM_FIELDS
        first_token = tl.load(job_rows + own_row * ROW_FIELDS).to(tl.int32)
        last_token = tl.load(job_rows + own_row * ROW_FIELDS + 1).to(tl.int32)
        bad = tl.zeros_like(index)
        for stream in range(num_streams):
            fields = mine + stream * (ROWS * STREAM_FIELDS)
            states_at = tl.load(fields)
            here = 2 * lane < tl.load(fields + 1) - states_at
            at = data + states_at + 2 * lane
            low = tl.load(at, mask=here, other=0).to(tl.uint32) & 0xFFFF
            high = tl.load(at + 1, mask=here, other=1).to(tl.uint32) & 0xFFFF
            state = (high << 16) | low
            bad |= tl.where(state < 65536, 1, 0)
            saved = states + stream * (3 * M) + index
            tl.store(saved, state.to(tl.int32, bitcast=True))
            tl.store(saved + M, tl.zeros_like(index))
            tl.store(saved + 2 * M, tl.zeros_like(index))
        tl.debug_barrier()
        deepest = job_depths - 1
        if HEAD:
            active = first_token + lane < last_token
            for depth in range(deepest):
                stream = tl.maximum(depth - head_shift, 0)
                for i in range(job_blocks):
                    block = tl.load(order + first_block + i)
                    bad |= decode_depth(
                        data, mine + stream * (ROWS * STREAM_FIELDS), states + stream * (3 * M),
                        M, block, depth, active, index, lane,
                        live, alphabets, spans, base, trits, offsets, limits,
                        integers + i * (K * M), planes, num_blocks, num_depths, num_entries,
                        ROWS, K, POINT_BYTES, False,
                    )  # fmt: skip
        for i in range(job_blocks):
            block = tl.load(order + first_block + i)
            own_integers = integers + (i * (K * M) if HEAD else 0)
            for tile in range(tiles):
                active = first_token + tile * LANES + lane < last_token
                if not HEAD:
                    for depth in range(deepest):
                        bad |= decode_depth(
                            data, mine + depth * (ROWS * STREAM_FIELDS), states + depth * (3 * M),
                            M, block, depth, active, index, lane,
                            live, alphabets, spans, base, trits, offsets, limits, own_integers,
                            planes, num_blocks, num_depths, num_entries,
                            ROWS, K, POINT_BYTES, False,
                        )  # fmt: skip
                stream = tl.maximum(deepest - head_shift, 0)
                bad |= decode_depth(
                    data, mine + stream * (ROWS * STREAM_FIELDS), states + stream * (3 * M),
                    M, block, deepest, active, index, lane,
                    live, alphabets, spans, base, trits, offsets, limits, own_integers,
                    planes, num_blocks, num_depths, num_entries,
                    ROWS, K, POINT_BYTES, True,
                )  # fmt: skip
                rebuild(
                    planes, block, tile, deepest, job_rows, live, weights, means, scales,
                    frequency, angles, places, out, pages,
                    num_blocks, num_depths, num_pairs, num_angles, row_stride, shift, origin,
                    ROWS, K, PAIRS, COMPONENTS, POINT_BYTES, PAGED, TURNED,
                )  # fmt: skip
                tl.debug_barrier()  # before the next tile's points overwrite these
        for stream in range(num_streams):
            fields = mine + stream * (ROWS * STREAM_FIELDS)
            saved = states + stream * (3 * M) + index
            bad |= tl.where(tl.load(saved) != 65536, 1, 0)
            words, escapes = tl.load(fields + 1), tl.load(fields + 2)
            bad |= tl.where(tl.load(saved + M) != escapes - words, 1, 0)
            bad |= tl.where(tl.load(saved + 2 * M) != tl.load(fields + 3) - escapes, 1, 0)
        tl.debug_barrier()  # before the next job's states overwrite these
        tl.store(status + job * ROWS + tl.arange(0, ROWS), tl.sum(bad, axis=1))
