"""A second decoder of KV chunks, written from docs/kv-container.md alone.

It imports nothing of this package and is slow. Where the document says that something must hold, it
raises ValueError.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class Profile:
    """The profile file: metadata as attributes of `meta`, arrays by name."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        (size,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + size])
        self.meta = json.loads(header.pop("__metadata__")["frontload-kv-profile"])
        types = {"U8": "u1", "U16": "<u2", "I16": "<i2", "I32": "<i4", "F32": "<f4"}
        self.arrays: dict[str, np.ndarray] = {}
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            array = np.frombuffer(content[begin:end], types[entry["dtype"]])
            self.arrays[name] = array.reshape(entry["shape"])
        self.layout = self.meta["layout"]
        self.live = self.arrays["tables.live"]
        self.num_depths = self.live.shape[1]

    def id(self) -> str:
        """The id that the content has."""
        others = ("id", "model_name", "calibrated_tokens", "figures", "code_length")
        identity = {key: value for key, value in self.meta.items() if key not in others}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()[:32]

    def blocks(self, group: int) -> list[int]:
        return [b for b, g in enumerate(self.arrays["group"]) if g == group]

    def head_depth(self, depth: int) -> int:
        return min(depth + self.meta["head_depth"], self.num_depths - 1)

    def head(self, chunk: Object) -> int:
        """How many of a chunk's tokens are the context's first."""
        return min(max(self.meta["head_tokens"] - chunk.start, 0), chunk.tokens)

    def limit(self, b: int, k: int, depth: int) -> int:
        limit = int(self.arrays["transform.limit"][b, k])
        for _ in range(self.num_depths - 1 - depth):
            limit = (limit + 1) // 3
        return limit


@dataclass
class Object:
    """One chunk object: header fields, table entries and bodies."""

    profile_id: bytes
    head_apart: bool
    tokens: int
    start: int
    dtype: int
    state: bytes | None
    parts: list[tuple[int, int, int, int, int, bytes]]  # kind, depth, group, set, stripes, body


def objects(data: bytes) -> list[Object]:
    """The objects of a file."""
    found = []
    while data:
        one, size = _object(data)
        found.append(one)
        data = data[size:]
    return found


def _object(data: bytes) -> tuple[Object, int]:
    magic, version, flags, header_bytes, profile_id = struct.unpack_from("<8sHHI16s", data)
    tokens, start, dtype, num_parts, zero, total, crc, last = struct.unpack_from(
        "<IQBBHQII", data, 32
    )
    _must(magic == b"FLKVCHNK" and version == 1 and flags in (0, 2) and not zero and not last)
    _must(header_bytes == 64 + 16 * num_parts)
    _must(zlib.crc32(data[:56] + bytes(4) + data[60:header_bytes]) == crc)
    position, parts = header_bytes, []
    for at in range(64, header_bytes, 16):
        kind, depth, group, table_set, stripes, zero, size, crc = struct.unpack_from(
            "<BBBBHHII", data, at
        )
        body = data[position : position + size]
        _must(zlib.crc32(body) == crc and not zero)
        parts.append((kind, depth, group, table_set, stripes, body))
        position += size
    _must(position == total)
    _must([part[0] for part in parts] == sorted(part[0] for part in parts))
    state = parts.pop(0)[-1] if parts[0][0] == 0 else None
    return Object(profile_id, flags == 2, tokens, start, dtype, state, parts), total


def integers(
    profile: Profile, chunk: Object, num_parts: int
) -> tuple[dict[tuple[int, int, int], int], dict[int, int]]:
    """q of (block, component, token) at the depth where the parts leave it, and each group's depth.

    Components that are not coded yet are absent.
    """
    q: dict[tuple[int, int, int], int] = {}
    depths: dict[int, int] = {}
    head = profile.head(chunk)
    _must(chunk.head_apart == (head > 0))
    for (kind, d, g, table_set, stripes, body), (depth, group) in zip(
        chunk.parts[:num_parts], profile.meta["parts"], strict=False
    ):
        _must((kind, d, g) == (1, depth, group))
        depths[g] = d
        blocks = profile.blocks(g)
        begin, new = profile.head_depth(d - 1) + 1 if d else 0, profile.head_depth(d) + 1
        new_depths = range(begin, new)
        lanes = [min(32, chunk.tokens - head)] * stripes
        if chunk.head_apart:
            lanes.append(head if new_depths else 0)
        streams = _streams(body, lanes)
        short, longer = divmod(len(blocks), stripes)
        at = 0
        for s in range(stripes):
            run = blocks[at : at + short + (s < longer)]
            at += len(run)
            for b in run:
                for tile in range(head, chunk.tokens, 32):
                    tokens = range(tile, min(tile + 32, chunk.tokens))
                    _symbols(profile, streams[s], q, b, d, tokens, table_set)
        if chunk.head_apart:
            for e in new_depths:
                for b in blocks:
                    _symbols(profile, streams[-1], q, b, e, range(head), table_set)
        for stream in streams:
            stream.finish()
    return q, depths


class Stream:
    """Lanes of rANS states that share a queue of words."""

    def __init__(self, states: list[int], words: list[int], escapes: list[int]) -> None:
        _must(all(state >= 65536 for state in states))
        self.states, self.words, self.escapes = states, words[::-1], escapes[::-1]

    def step(self, cumulative: list[list[int]]) -> list[int]:
        """One symbol for each of the first lanes; refilling each at once keeps the words' order."""
        return [self.step_of(lane, counts) for lane, counts in enumerate(cumulative)]

    def step_of(self, lane: int, counts: list[int]) -> int:
        state = self.states[lane]
        slot = state % 4096
        symbol = bisect_right(counts, slot) - 1
        low, high = counts[symbol], counts[symbol + 1]
        state = (high - low) * (state >> 12) + slot - low
        if state < 65536:
            _must(self.words != [])
            state = state * 65536 + self.words.pop()
        self.states[lane] = state
        return symbol

    def finish(self) -> None:
        _must(all(state == 65536 for state in self.states))
        _must(self.words == [] and self.escapes == [])


def _streams(body: bytes, lanes: list[int]) -> list[Stream]:
    index = struct.unpack_from(f"<{2 * len(lanes)}I", body)
    position, streams = 8 * len(lanes), []
    for num_lanes, words, escapes in zip(lanes, index[::2], index[1::2], strict=True):
        fields = struct.unpack_from(f"<{num_lanes}I{words}H{escapes}h", body, position)
        position += 4 * num_lanes + 2 * words + 2 * escapes
        streams.append(
            Stream(
                list(fields[:num_lanes]),
                list(fields[num_lanes : num_lanes + words]),
                list(fields[num_lanes + words :]),
            )
        )
    _must(position == len(body))
    return streams


def _symbols(
    profile: Profile,
    stream: Stream,
    q: dict[tuple[int, int, int], int],
    b: int,
    depth: int,
    tokens: range,
    table_set: int,
) -> None:
    """All components of a block for the tokens of one tile."""
    born_before = int(profile.live[b, depth - 1]) if depth else 0
    for k in range(int(profile.live[b, depth])):
        if k >= born_before:
            m = int(profile.arrays["tables.largest"][b, k])
            at = int(profile.arrays["tables.start"][b, k])
            bound = profile.limit(b, k, depth)
            counts = profile.arrays["tables.base"][table_set, at : at + 2 * m + 3].tolist()
            for t, symbol in zip(tokens, stream.step([counts] * len(tokens)), strict=True):
                if symbol == 2 * m + 1:
                    _must(stream.escapes != [] and abs(stream.escapes[-1]) <= bound)
                    q[b, k, t] = stream.escapes.pop()
                else:
                    q[b, k, t] = symbol - m
        else:
            trits = profile.arrays["tables.trits"][table_set, b, k, depth]
            coarse = [q[b, k, t] for t in tokens]
            rows = [[0, *trits[int(c != 0)].tolist(), 4096] for c in coarse]
            for t, c, symbol in zip(tokens, coarse, stream.step(rows), strict=True):
                q[b, k, t] = 3 * c + (symbol - 1) * (-1 if c < 0 else 1)


def lossy(profile: Profile, chunk: Object, num_parts: int) -> np.ndarray:
    """uint16 bf16 bits `[pieces, tokens, head_dim]` of the level of the first `num_parts` parts."""
    q, depths = integers(profile, chunk, num_parts)
    head = profile.head(chunk)
    arrays, layout = profile.arrays, profile.layout
    blocks, size = arrays["transform.mean"].shape
    num_pieces = 2 * layout["num_layers"] * layout["num_heads"]
    values = np.empty((num_pieces, chunk.tokens, layout["head_dim"]), np.float32)
    for b in range(blocks):
        for t in range(chunk.tokens):
            depth = depths[int(arrays["group"][b])]
            e = profile.head_depth(depth) if t < head else depth
            points = np.zeros(size, np.int64)
            for k in range(int(profile.live[b, e])):
                points[k] = _point(q[b, k, t], arrays["tables.offset"][b, k, e])
            y = (points @ arrays["transform.inverse"][b].astype(np.int64)).astype(np.float32)
            scale = np.float64(arrays["transform.scale"][b])
            unit = np.float32(scale * (3.0 ** (profile.num_depths - 1 - e) / 16))
            first = chunk.start + t == 0
            mean = arrays["transform.first_mean" if first else "transform.mean"][b]
            x = y * unit + mean
            for w, piece in enumerate(arrays["transform.pieces"][b]):
                values[piece, t] = x[w * layout["head_dim"] : (w + 1) * layout["head_dim"]]
    if layout["rotary"] is not None:
        _rotate(values, layout, chunk.start)
    return _bf16(values)


def _point(q: int, offset: Any) -> int:
    if q == 0:
        return 0
    magnitude = 16 * abs(q) - int(offset[0] if abs(q) == 1 else offset[1])
    return magnitude if q > 0 else -magnitude


def _rotate(values: np.ndarray, layout: dict[str, Any], start: int) -> None:
    rotary = layout["rotary"]
    frequencies = np.array(rotary["inv_freq"], np.float32)
    n = len(frequencies)
    for t in range(values.shape[1]):
        angle = (np.float32(start + t) * frequencies).astype(np.float64)
        c = (np.cos(angle) * rotary["scaling"]).astype(np.float32)
        s = (np.sin(angle) * rotary["scaling"]).astype(np.float32)
        for layer in range(layout["num_layers"]):
            if not rotary["layers"][layer]:
                continue
            for head in range(layout["num_heads"]):
                key = values[layer * layout["num_heads"] + head, t]
                if rotary["pairing"] == "halves":
                    first, second = slice(0, n), slice(n, 2 * n)
                else:
                    first, second = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
                a, b = key[first].copy(), key[second].copy()
                key[first] = a * c - b * s
                key[second] = b * c + a * s


def exact(profile: Profile, chunk: Object) -> np.ndarray:
    """uint16 bf16 bits `[pieces, tokens, head_dim]` of the exact level."""
    num_parts = len(profile.meta["parts"])
    predicted = lossy(profile, chunk, num_parts)
    kind, *_, body = chunk.parts[num_parts]
    _must(kind == 2)
    crc, stripes, table_bytes = struct.unpack_from("<IHH", body)
    tables = _exact_tables(body[8 : 8 + table_bytes])
    index = struct.unpack_from(f"<{2 * stripes}I", body, 8 + table_bytes)
    position = 8 + table_bytes + 8 * stripes
    grid, fraction = _grids(profile)
    actual = np.zeros_like(predicted)
    short, longer = divmod(len(actual), stripes)
    piece = 0
    for s, (words, plain) in enumerate(zip(index[::2], index[1::2], strict=True)):
        fields = struct.unpack_from(f"<32I{words}H{plain}I", body, position)
        position += 128 + 2 * words + 4 * plain
        stream = Stream(list(fields[:32]), list(fields[32 : 32 + words]), [])
        bits = _Bits(fields[32 + words :])
        lane = 0  # of the stripe's next value
        for p in range(piece, piece := piece + short + (s < longer)):
            for t, c in np.ndindex(actual.shape[1:]):
                u, g = int(predicted[p, t, c]), int(grid[p, c])
                context = 4 * min(max((u % 32768 >> 7) - g, 0), 7) + int(fraction[p, c])
                symbol = stream.step_of(lane, tables[context])
                lane = (lane + 1) % 32
                actual[p, t, c] = bits.take(16) if symbol == 63 else _moved(u, g, symbol - 31, bits)
        stream.finish()
        bits.finish()
    _must(position == len(body))
    _must(zlib.crc32(actual.astype("<u2").tobytes()) == crc)
    return actual


class _Bits:
    """Plain bits, lowest first."""

    def __init__(self, elements: tuple[int, ...]) -> None:
        self.number = sum(e << 32 * i for i, e in enumerate(elements))
        self.elements, self.taken = len(elements), 0

    def take(self, width: int) -> int:
        found = self.number >> self.taken & ((1 << width) - 1)
        self.taken += width
        return found

    def finish(self) -> None:
        _must(-(-self.taken // 32) == self.elements)


def _moved(u: int, g: int, step: int, bits: _Bits) -> int:
    a = u % 32768
    e = a >> 7
    size = a + 128 - 128 * g if e >= g else (128 | a % 128) >> min(g - e, 8)
    cell = (size if u < 32768 else -size - 1) + step
    sign, size = (32768, -cell - 1) if cell < 0 else (0, cell)
    if size >= 128:
        return sign + (size - 128 + 128 * g) % 32768
    if size >= 1:
        w = 7 - (size.bit_length() - 1)
        return sign + ((g - w) << 7) + (size << w) % 128 + bits.take(w)
    n = 0
    while n < 12 and bits.take(1):
        n += 1
    if n < 12:
        return sign + bits.take(7) + (max(g - 8 - n, 0) << 7)
    return sign + (bits.take(15) if bits.take(1) else 0)


def _grids(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """G and F of `[pieces, head_dim]`."""
    layout, arrays = profile.layout, profile.arrays
    keys = layout["num_layers"] * layout["num_heads"]
    variance = np.empty((2 * keys, layout["head_dim"]))
    for b, inverse in enumerate(arrays["transform.inverse"].astype(np.int64)):
        scale = np.float64(arrays["transform.scale"][b])
        found = (inverse**2).sum(axis=0).astype(np.float64) * (scale * scale) / 12
        for w, piece in enumerate(arrays["transform.pieces"][b]):
            variance[piece] = found[w * layout["head_dim"] : (w + 1) * layout["head_dim"]]
    if layout["rotary"] is not None:
        n = len(layout["rotary"]["inv_freq"])
        halves = layout["rotary"]["pairing"] == "halves"
        for i in range(n):
            pair = [i, n + i] if halves else [2 * i, 2 * i + 1]
            variance[:keys, pair] = variance[:keys, pair].sum(axis=1, keepdims=True) / 2
    m, x = np.frexp(np.maximum(variance, 2.0**-240))
    quarters = 2 * x - 2 + (m >= 2**-0.5)
    return np.clip((quarters - 6) // 4 + 134, 9, 254), (quarters - 6) % 4


def _exact_tables(packed: bytes) -> list[list[int]]:
    """65 cumulative counts of every context; none of a context that never occurs."""
    tables, at = [], 0
    for _ in range(32):
        n = packed[at]
        _must(n <= 32)
        codes = packed[at + 1 : at + n + 2] if n else b""
        at += 1 + len(codes)
        weight = [0 if c == 0 else (16 + (c - 1) % 16) << (c - 1) // 16 for c in codes]
        weights = [0] * 64
        for step, y in enumerate(weight[:-1]):
            weights[31 + step] = weights[31 - step] = y
        weights[63] = weight[-1] if n else 0
        present, total = sum(y > 0 for y in weights), max(sum(weights), 1)
        counts = [int(y > 0) + y * (4096 - present) // total for y in weights]
        counts[counts.index(max(counts))] += 4096 - sum(counts)
        tables.append([0, *np.cumsum(counts).tolist()] if n else [])
    _must(at == len(packed))
    return tables


def _bf16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _must(holds: bool) -> None:
    if not holds:
        raise ValueError("the document says otherwise")
