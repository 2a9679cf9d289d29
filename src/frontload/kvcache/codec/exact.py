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
from dataclasses import dataclass
from functools import partial

import numpy as np

from frontload.kvcache.codec import exact_kernels as kernels
from frontload.kvcache.codec.damage import Damaged
from frontload.kvcache.codec.exact_kernels import CONTEXTS, ESCAPE, LANES, MOST, SYMBOLS
from frontload.kvcache.codec.parallel import Task, run_all
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.small_tables import counts_of, weights_of
from frontload.kvcache.profile import Profile

HEAD = struct.Struct("<IHH")
STRIPE_VALUES = 1 << 18  # enough for 136 bytes of states and index to be nothing
Stream = tuple[np.ndarray, np.ndarray, np.ndarray]  # states, words, plain bits
MISFIT = (
    "it does not fit the lossy level under it (changed bytes, or another machine's arithmetic); "
    "read the finest lossy level instead"
)


def encode_exact(
    profile: Profile,
    predicted: np.ndarray,
    actual: np.ndarray,
    *,
    stripes: int | None = None,
    threads: int | None = 1,
) -> bytes:
    """The body of an exact part, the same whatever `threads`.

    Args:
        profile: whose finest level made `predicted`.
        predicted: uint16 `[pieces, tokens, head_dim]`, bits of bf16 values, keys rotated.
        actual: what is to be kept, of the same form.
        stripes: streams that can be decoded side by side; None: one per 256 K values.
        threads: None for one a core.
    """
    assert predicted.shape == actual.shape
    assert predicted.dtype == actual.dtype == np.uint16
    if stripes is None:
        stripes = min(max(1, actual.size // STRIPE_VALUES), actual.shape[0])
    coding = [_Coding(run) for run in _runs(actual.shape[0], stripes)]
    grid = grids(profile)
    run_all([partial(each.count, grid, predicted, actual) for each in coding], threads)
    counts = sum((each.counts for each in coding), np.zeros(CONTEXTS * SYMBOLS, np.int64))
    tables = pack_tables(counts.reshape(CONTEXTS, SYMBOLS))
    freq, start = unpack_tables(tables)
    run_all([partial(each.code, freq, start) for each in coding], threads)
    index = [(len(words), len(plain)) for _, words, plain in (each.stream for each in coding)]
    return b"".join(
        [
            HEAD.pack(_crc(actual), stripes, len(tables)),
            tables,
            np.array(index, "<u4").tobytes(),
            *(_little(array).tobytes() for each in coding for array in each.stream),
        ]
    )


class _Coding:
    """A stripe on its way to a stream (states, words, plain bits)."""

    def __init__(self, run: slice) -> None:
        self.run = run
        self.counts = np.zeros(CONTEXTS * SYMBOLS, np.int64)
        self.slots = self.plain = np.empty(0, np.uint32)
        self.stream: tuple[np.ndarray, ...] = ()

    def count(
        self, grid: tuple[np.ndarray, np.ndarray], predicted: np.ndarray, actual: np.ndarray
    ) -> None:
        run = self.run
        self.slots = np.empty(actual[run].size, np.uint32)
        plain = np.empty(self.slots.size + 1, np.uint32)  # 32 bits a value: more than any takes
        used = kernels.symbols(
            grid[0][run], grid[1][run], predicted[run], actual[run], self.slots, plain, self.counts
        )
        self.plain = plain[:used].copy()

    def code(self, freq: np.ndarray, start: np.ndarray) -> None:
        states, words = np.empty(LANES, np.uint32), np.empty(len(self.slots) + 1, np.uint16)
        used = kernels.encode(self.slots, freq, start, states, words)
        self.stream = (states, words[len(words) - used :].copy(), self.plain)
        self.slots = np.empty(0, np.uint32)


def decode_exact(
    profile: Profile,
    body: bytes | memoryview,
    predicted: np.ndarray,
    *,
    threads: int | None = 1,
) -> np.ndarray:
    """The actual values of `encode_exact`: uint16, shaped like `predicted`.

    Args:
        profile: the encoder's.
        body: as made by `encode_exact`.
        predicted: what the finest lossy level decodes to, as given to `encode_exact`.
        threads: None for one a core.

    Raises:
        Damaged: the body is, or `predicted` is not what the encoder had.
    """
    bits = np.array(predicted)  # a kernel is compiled for each kind of array
    exact = Exact.read(profile, body, bits)
    run_all(exact.tasks(), threads)
    exact.check()
    return bits


@dataclass(frozen=True, kw_only=True)
class Exact:
    """An exact part and the finest lossy level under it, which its tasks turn into the exact one.

    bits: uint16 `[pieces, tokens, head_dim]`, changed in place, each stripe by its own task.
    """

    profile: Profile
    bits: np.ndarray
    crc: int
    table: np.ndarray
    runs: list[slice]
    streams: list[Stream]

    @staticmethod
    def read(profile: Profile, body: bytes | memoryview, bits: np.ndarray) -> Exact:
        """The part, whose sizes add up.

        Raises:
            Damaged: they do not.
        """
        crc, (freq, start), runs, streams = _parse(memoryview(body), bits.shape[0])
        table = kernels.lookup(freq, start, SYMBOLS)
        return Exact(profile=profile, bits=bits, crc=crc, table=table, runs=runs, streams=streams)

    def tasks(self) -> list[Task]:
        """One for each stripe, to be run side by side."""
        return [
            partial(self._decode, run, stream)
            for run, stream in zip(self.runs, self.streams, strict=True)
        ]

    def check(self) -> None:
        """What the tasks left is what was encoded.

        Raises:
            Damaged: it is not.
        """
        if _crc(self.bits) != self.crc:
            raise Damaged("exact part", MISFIT)

    def _decode(self, run: slice, stream: Stream) -> None:
        (grid, fraction), bits = grids(self.profile), self.bits[run]
        actual = np.empty(bits.shape, np.uint16)
        states, words, plain = stream
        if not kernels.decode(
            grid[run],
            fraction[run],
            self.table,
            bits,
            states.astype(np.uint32),
            _padded(words, 1),
            _padded(plain, 2),
            actual,
        ):
            raise Damaged("exact part", MISFIT)
        bits[:] = actual


def grids(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """Of `exact_grid.grids_of`, made once for each profile."""
    return Prepared.of(profile).grids


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
    list[Stream],
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
                np.frombuffer(body, "<u4", LANES, at),
                np.frombuffer(body, "<u2", words, states_end),
                np.frombuffer(body, "<u4", plain, states_end + 2 * words),
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
