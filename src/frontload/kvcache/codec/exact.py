"""The exact level: from the finest lossy level to the very bits of a bf16 cache.

Guarantees: `decode_exact` gives back every bit (minus zero, NaN payloads and infinities too) or
raises; it needs no floating point beyond the lossy decode, which is bit-exact on every machine, and
a CRC of the result catches one that is not. Gives up: caches in fp16 or fp32, whose bf16 rounding
is what is kept; and what the errors of neighbouring channels have in common.

How: the lossy level's error in channel j is noise of a known size, sigma_j. Near zero bf16 is far
finer than it, so values are cut into cells: linear ones of width g_j up to 128 g_j, single bf16
values beyond, with the power of two g_j in (sigma_j / 5.7, sigma_j / 2.8]. The steps from the
predicted cell to the actual one are coded by interleaved rANS in 32 contexts: how many cells
sigma_j spans at the predicted value, in quarter octaves. What tells values within a cell apart is
close to uniform and stored as plain bits. Tables are counted per chunk and sent: 0.1 to 1 KB.

Body, little-endian: crc32 of the actual values u32 | stripes u16 | bytes of tables u16 | tables |
(words u32, plain u32) a stripe | streams: states u32 x 32 | words u16 | plain bits u32.
Tables: for each context a count n u8, then n weights, of |step| = 0, 1, ..., then, if n > 0, the
escape's; `small_tables` says what they mean.
Stripes are `numpy.array_split` of the pieces; value i of a stripe, in memory order, is in lane
i mod 32.
"""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import Executor

import numpy as np

from frontload.kvcache.codec import exact_kernels as kernels
from frontload.kvcache.codec.damage import Damaged
from frontload.kvcache.codec.exact_kernels import CONTEXTS, ESCAPE, LANES, MOST, SYMBOLS
from frontload.kvcache.codec.small_tables import counts_of, weights_of
from frontload.kvcache.profile import Profile

HEAD = struct.Struct("<IHH")
KEPT = 4  # profiles whose grids are at hand
STRIPE_VALUES = 1 << 18  # enough for 136 bytes of states and index to be nothing
MISFIT = (
    "it does not fit the lossy level under it (changed bytes, or another machine's arithmetic); "
    "read the finest lossy level instead"
)


def encode_exact(
    profile: Profile, predicted: np.ndarray, actual: np.ndarray, *, stripes: int | None = None
) -> bytes:
    """The body of an exact part.

    Args:
        profile: whose finest level made `predicted`.
        predicted: uint16 `[pieces, tokens, head_dim]`, bits of bf16 values, keys rotated.
        actual: what is to be kept, of the same form.
        stripes: streams that can be decoded side by side; None: one per 256 K values.
    """
    assert predicted.shape == actual.shape
    assert predicted.dtype == actual.dtype == np.uint16
    if stripes is None:
        stripes = min(max(1, actual.size // STRIPE_VALUES), actual.shape[0])
    grid, fraction = grids(profile)
    counts = np.zeros(CONTEXTS * SYMBOLS, np.int64)
    symbols = []
    for run in _runs(actual.shape[0], stripes):
        slots = np.empty(actual[run].size, np.uint32)
        plain = np.empty(slots.size + 1, np.uint32)  # 32 bits a value are more than any takes
        used = kernels.symbols(
            grid[run], fraction[run], predicted[run], actual[run], slots, plain, counts
        )
        symbols.append((slots, plain[:used]))
    tables = pack_tables(counts.reshape(CONTEXTS, SYMBOLS))
    freq, start = unpack_tables(tables)
    index: list[tuple[int, int]] = []
    streams: list[np.ndarray] = []
    for slots, plain in symbols:
        states, words = np.empty(LANES, np.uint32), np.empty(len(slots) + 1, np.uint16)
        used = kernels.encode(slots, freq, start, states, words)
        index.append((used, len(plain)))
        streams += [states, words[len(words) - used :], plain]
    return b"".join(
        [
            HEAD.pack(_crc(actual), stripes, len(tables)),
            tables,
            np.array(index, "<u4").tobytes(),
            *(_little(array).tobytes() for array in streams),
        ]
    )


def decode_exact(
    profile: Profile,
    body: bytes | memoryview,
    predicted: np.ndarray,
    *,
    pool: Executor | None = None,
) -> np.ndarray:
    """The actual values of `encode_exact`: uint16, shaped like `predicted`.

    Args:
        profile: the encoder's.
        body: as made by `encode_exact`.
        predicted: what the finest lossy level decodes to, as given to `encode_exact`.
        pool: threads to decode the stripes on; None: on this one.

    Raises:
        Damaged: the body is, or `predicted` is not what the encoder had.
    """
    crc, (freq, start), runs, streams = _parse(memoryview(body), predicted.shape[0])
    grid, fraction = grids(profile)
    table = kernels.lookup(freq, start, SYMBOLS)
    predicted = np.ascontiguousarray(predicted)  # a kernel is compiled for each kind of array
    actual = np.empty(predicted.shape, np.uint16)

    def decode(run: slice, stream: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
        states, words, plain = stream
        return kernels.decode(
            grid[run], fraction[run], table, predicted[run], states, words, plain, actual[run]
        )

    fits = (map if pool is None else pool.map)(decode, runs, streams)
    if not all(list(fits)) or _crc(actual) != crc:
        raise Damaged("exact part", MISFIT)
    return actual


def grids(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """int32 `[pieces, head_dim]` each: the biased exponent of 128 g_j, and sigma_j's fraction.

    The fraction is 0..3: log2(sigma_j / g_j) in quarters, rounded down, less 6. An error of
    rounding is uniform in a step, and a component that is never coded hardly larger:
    sigma_j^2 = scale^2 sum_k inverse_kj^2 / 12; the two channels of a rotated pair share their
    mean. Integers and single IEEE operations only: every machine finds the same. Made once for each
    profile, the last few are kept.
    """
    found = _grids.pop(profile.id, None)
    if found is None:
        found = _of_noise(_variance(profile))
    _grids[profile.id] = found  # the youngest is last
    for old in list(_grids)[:-KEPT]:
        _grids.pop(old, None)
    return found


_grids: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}


def _variance(profile: Profile) -> np.ndarray:
    """float64 `[pieces, head_dim]`: sigma_j^2."""
    transform, layout = profile.transform, profile.layout
    energy = (transform.inverse.astype(np.int64) ** 2).sum(axis=1).astype(np.float64)
    scale = transform.scale.astype(np.float64)[:, None]
    variance = np.empty((layout.num_pieces, layout.head_dim))
    variance[transform.pieces] = (energy * (scale * scale) / 12).reshape(
        *transform.pieces.shape, layout.head_dim
    )
    if layout.rotary is not None:
        half, keys = len(layout.rotary.inv_freq), variance[: layout.num_pieces // 2]
        if layout.rotary.pairing == "halves":
            first, second = keys[:, :half], keys[:, half : 2 * half]
        else:
            first, second = keys[:, 0 : 2 * half : 2], keys[:, 1 : 2 * half : 2]
        first[:] = second[:] = (first + second) / 2
    return variance


def _of_noise(variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mantissa, exponent = np.frexp(np.maximum(variance, 2.0**-240))  # mantissa in [1/2, 1)
    quarters = 2 * exponent - 2 + (mantissa >= 2**-0.5)  # of an octave of sigma, rounded down
    return (
        np.clip((quarters - 6) // 4 + 7 + 127, 9, 254).astype(np.int32),
        ((quarters - 6) % 4).astype(np.int32),
    )


def pack_tables(counts: np.ndarray) -> bytes:
    """Weights of int64 `[CONTEXTS, SYMBOLS]` counts; both signs of a step share theirs."""
    packed = bytearray()
    for seen in counts:
        folded = seen[MOST:-1] + seen[MOST::-1]  # of |step|; a step of 0 is counted twice
        present = np.flatnonzero(np.append(folded, seen[-1]))
        if not len(present):
            packed.append(0)
            continue
        length = min(int(present[-1]) + 1, MOST + 1)
        weights = weights_of(np.append(folded[:length], 2 * seen[-1]))
        packed += bytes([length, *weights.tolist()])
    return bytes(packed)


def unpack_tables(packed: bytes | memoryview) -> tuple[np.ndarray, np.ndarray]:
    """Counts in 4096ths and where they start, int32 `[CONTEXTS * SYMBOLS]` each.

    Raises:
        Damaged: these are no tables.
    """
    freq = np.zeros((CONTEXTS, SYMBOLS), np.int32)
    weights = np.frombuffer(packed, np.uint8)
    at = 0
    for context in range(CONTEXTS):
        length = int(weights[at]) if at < len(weights) else MOST + 2
        if length > MOST + 1 or (length and at + length + 2 > len(weights)):
            raise Damaged("exact part", MISFIT)
        if length:
            freq[context] = counts_of(_unfolded(weights[at + 1 : at + length + 2]))
        at += length + 1 + (length > 0)
    if at != len(weights):
        raise Damaged("exact part", MISFIT)
    return freq.ravel(), (np.cumsum(freq, axis=1, dtype=np.int32) - freq).ravel()


def _unfolded(weights: np.ndarray) -> np.ndarray:
    """uint8 `[SYMBOLS]` from the weights of |step| = 0, 1, ... and of the escape."""
    steps = weights[:-1]
    whole = np.zeros(SYMBOLS, np.uint8)
    whole[MOST : MOST + len(steps)] = steps
    whole[MOST + 1 - len(steps) : MOST + 1] = steps[::-1]
    whole[ESCAPE] = weights[-1]
    return whole


def _parse(
    body: memoryview, pieces: int
) -> tuple[
    int,
    tuple[np.ndarray, np.ndarray],
    list[slice],
    list[tuple[np.ndarray, np.ndarray, np.ndarray]],
]:
    """CRC, tables, runs of pieces and their streams; sizes are checked before use."""
    if len(body) < HEAD.size:
        raise Damaged("exact part", MISFIT)
    crc, stripes, table_bytes = HEAD.unpack_from(body)
    at = HEAD.size + table_bytes
    if not 1 <= stripes <= pieces or at + 8 * stripes > len(body):
        raise Damaged("exact part", MISFIT)
    tables = unpack_tables(body[HEAD.size : at])
    index = np.frombuffer(body, "<u4", 2 * stripes, at).reshape(stripes, 2).astype(np.int64)
    at += 8 * stripes
    if at + 4 * LANES * stripes + int((index * (2, 4)).sum()) != len(body):
        raise Damaged("exact part", MISFIT)
    streams = []
    for words, plain in index.tolist():
        states_end = at + 4 * LANES
        streams.append(
            (
                np.frombuffer(body, "<u4", LANES, at).astype(np.uint32),
                _padded(np.frombuffer(body, "<u2", words, states_end), 1),
                _padded(np.frombuffer(body, "<u4", plain, states_end + 2 * words), 2),
            )
        )
        at = states_end + 2 * words + 4 * plain
    return crc, tables, _runs(pieces, stripes), streams


def _padded(array: np.ndarray, more: int) -> np.ndarray:
    """In the machine's byte order, with zeros behind that a kernel may look at."""
    return np.append(array, np.zeros(more, array.dtype)).astype(array.dtype.newbyteorder("="))


def _runs(pieces: int, stripes: int) -> list[slice]:
    return [slice(run[0], run[-1] + 1) for run in np.array_split(np.arange(pieces), stripes)]


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _crc(actual: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(_little(actual)).data)
