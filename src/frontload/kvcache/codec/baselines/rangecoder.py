"""A range coder with static tables: the arithmetic coding of CacheGen and of its shipped form.

Guarantees: what was coded is decoded from real bytes, about 0.1 % over the tables' cross-entropy
and at most a byte a stream; a decoder reads nothing outside its stream and returns values within
the alphabets whatever the bytes are (its callers check a CRC first). Gives up: the speed of
interleaved lanes, which our own codec has (`entropy`); this one is the reference's.

Source: Martin (1979), "Range encoding"; carries are resolved in the bytes already written. The
published coder is torchac's, bit by bit with 16-bit probabilities; the bytes are as many.

An alphabet is the integers -m..m in this order and, last, an escape, which is followed by 16 plain
bits of the integer. A table is `2m + 3` cumulative counts from 0 to 65536.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frontload.kvcache.codec.jit import kernel

TOTAL_BITS = 16
TOTAL = 1 << TOTAL_BITS
ESCAPED = 32_767  # integers beyond saturate here

Bytes = NDArray[np.uint8]


def encode_rows(
    integers: NDArray[np.int32], kind: Bytes, tables: NDArray[np.uint32], largest: NDArray[np.int32]
) -> bytes:
    """One stream of `integers`, row after row.

    Args:
        integers: `[rows, channels]`.
        kind: `[rows]`, which of the tables a row uses.
        tables: `[kinds, channels, longest]`; what is beyond a kind's `2m + 3` counts is not read.
        largest: `[kinds]`, m of each.
    """
    room = np.empty(5 * integers.size + 8, np.uint8)
    used = _encode(np.ascontiguousarray(integers), kind, tables, largest, room)
    return room[:used].tobytes()


def decode_rows(
    stream: bytes,
    kind: Bytes,
    tables: NDArray[np.uint32],
    largest: NDArray[np.int32],
) -> NDArray[np.int32]:
    """int32 `[rows, channels]` of a stream made by `encode_rows` with the same arguments."""
    integers = np.empty((len(kind), tables.shape[1]), np.int32)
    _decode(np.frombuffer(stream, np.uint8), kind, tables, largest, integers)
    return integers


def encode_channels(
    integers: NDArray[np.int32], tables: NDArray[np.uint32], largest: int
) -> tuple[bytes, NDArray[np.int32]]:
    """A stream for each channel of `[tokens, channels]`, and their lengths in bytes.

    `tables` is `[channels, 2m + 3]` with m = `largest`.
    """
    room = np.empty(5 * integers.size + 8, np.uint8)
    lengths = np.empty(integers.shape[1], np.int32)
    used = _encode_each(np.ascontiguousarray(integers.T), tables, largest, room, lengths)
    return room[:used].tobytes(), lengths


def decode_channels(
    streams: bytes, lengths: NDArray[np.int32], rows: int, tables: NDArray[np.uint32], largest: int
) -> NDArray[np.int32]:
    """int32 `[rows, channels]` of `encode_channels`; lengths must sum to the bytes given."""
    integers = np.empty((len(lengths), rows), np.int32)
    _decode_each(np.frombuffer(streams, np.uint8), lengths, tables, largest, integers)
    return integers.T


@kernel
def _carry(room, at):  # type: ignore[no-untyped-def]
    at -= 1
    while room[at] == 255:
        room[at] = 0
        at -= 1
    room[at] += 1


@kernel
def _narrow(low, span, start, count, room, at):  # type: ignore[no-untyped-def]
    """Code a symbol: the new (low, span, at). The last symbol takes what rounding left."""
    unit = span >> np.uint64(16)
    low += unit * start
    if start + count == np.uint64(65536):
        span -= unit * start
    else:
        span = unit * count
    if low >> np.uint64(32):
        _carry(room, at)
        low &= np.uint64(0xFFFFFFFF)
    while span < np.uint64(1 << 24):
        room[at] = low >> np.uint64(24)
        at += 1
        low = (low << np.uint64(8)) & np.uint64(0xFFFFFFFF)
        span <<= np.uint64(8)
    return low, span, at


@kernel
def _finish(low, room, at, first):  # type: ignore[no-untyped-def]
    """The fewest bytes within the last interval; the decoder reads zeros after them."""
    if low:
        top = (low + np.uint64(0xFFFFFF)) >> np.uint64(24)
        if top >> np.uint64(8):
            _carry(room, at)
        elif top:
            room[at] = top
            at += 1
    while at > first and room[at - 1] == 0:
        at -= 1
    return at


@kernel
def _encode_from(integers, kind, tables, largest, room, first):  # type: ignore[no-untyped-def]
    low, span, at = np.uint64(0), np.uint64(0xFFFFFFFF), first
    for row in range(integers.shape[0]):
        which = kind[row]
        m = largest[which]
        for channel in range(integers.shape[1]):
            q = integers[row, channel]
            symbol = q + m if -m <= q <= m else 2 * m + 1
            start = np.uint64(tables[which, channel, symbol])
            count = np.uint64(tables[which, channel, symbol + 1]) - start
            low, span, at = _narrow(low, span, start, count, room, at)
            if symbol == 2 * m + 1:
                plain = np.uint64(min(max(q, -ESCAPED), ESCAPED) + 32768)
                low, span, at = _narrow(low, span, plain, np.uint64(1), room, at)
    return _finish(low, room, at, first)


@kernel
def _encode(integers, kind, tables, largest, room):  # type: ignore[no-untyped-def]
    return _encode_from(integers, kind, tables, largest, room, 0)


@kernel
def _encode_each(channels, tables, largest, room, lengths):  # type: ignore[no-untyped-def]
    at = 0
    kind = np.zeros(channels.shape[1], np.uint8)
    m = np.array([largest], np.int32)
    for channel in range(channels.shape[0]):
        column = channels[channel].reshape(-1, 1)
        table = tables[channel].reshape(1, 1, -1)
        end = _encode_from(column, kind, table, m, room, at)
        lengths[channel] = end - at
        at = end
    return at


@kernel
def _widen(code, span, start, count, data, at):  # type: ignore[no-untyped-def]
    """Undo one `_narrow`: `code` is the coded number less `low`."""
    unit = span >> np.uint64(16)
    code -= unit * start
    if start + count == np.uint64(65536):
        span -= unit * start
    else:
        span = unit * count
    while span < np.uint64(1 << 24):
        byte = np.uint64(data[at]) if at < len(data) else np.uint64(0)
        at += 1
        code = ((code << np.uint64(8)) | byte) & np.uint64(0xFFFFFFFF)
        span <<= np.uint64(8)
    return code, span, at


@kernel
def _decode(data, kind, tables, largest, integers):  # type: ignore[no-untyped-def]
    code, span, at = np.uint64(0), np.uint64(0xFFFFFFFF), 4
    for i in range(4):
        byte = np.uint64(data[i]) if i < len(data) else np.uint64(0)
        code = (code << np.uint64(8)) | byte
    for row in range(integers.shape[0]):
        which = kind[row]
        m = largest[which]
        for channel in range(integers.shape[1]):
            slot = min(code // (span >> np.uint64(16)), np.uint64(65535))
            table = tables[which, channel]
            first, beyond = 0, 2 * m + 2
            while beyond - first > 1:
                middle = (first + beyond) // 2
                if table[middle] <= slot:
                    first = middle
                else:
                    beyond = middle
            start = np.uint64(table[first])
            count = np.uint64(table[first + 1]) - start
            code, span, at = _widen(code, span, start, count, data, at)
            q = first - m
            if first == 2 * m + 1:
                plain = min(code // (span >> np.uint64(16)), np.uint64(65535))
                code, span, at = _widen(code, span, plain, np.uint64(1), data, at)
                q = np.int64(plain) - 32768
            integers[row, channel] = q


@kernel
def _decode_each(data, lengths, tables, largest, integers):  # type: ignore[no-untyped-def]
    at = 0
    kind = np.zeros(integers.shape[1], np.uint8)
    m = np.array([largest], np.int32)
    for channel in range(integers.shape[0]):
        column = integers[channel].reshape(-1, 1)
        stream = data[at : at + lengths[channel]]
        _decode(stream, kind, tables[channel].reshape(1, 1, -1), m, column)
        at += lengths[channel]
