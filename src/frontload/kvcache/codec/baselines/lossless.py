"""Lossless without a lossy level under it: bf16 split into exponents and the rest.

Guarantees: every bit of a bf16 cache comes back; sign and mantissa, which are close to random, are
stored as they are (8 bits a value), exponents are entropy-coded. Gives up: what neighbouring
channels tell about a value; fp16 and fp32 beyond their bf16 rounding.

    Lossless(layout, coder="rans-tensor")   # one table per layer of K and of V
    Lossless(layout, coder="rans-channel")  # the same, after each channel's own exponent is taken
    Lossless(layout, coder="zstd")          # exponents channel by channel through zstd, level 19

Tables are counted per chunk and sent. Chunks of 256 tokens by default, like ours: tables and
states are then about 0.1 bit a value of a small model and nothing of a large one.

Left open by those who do this: rANS of 32 lanes with 12-bit tables stands for the GPU coders;
"rans-channel" goes beyond them (a byte a channel says where its exponents lie).

Source: the split of exponent and mantissa of DFloat11 (arXiv 2504.11651; Huffman codes) and of
UCCL-Zip (arXiv 2604.17172; ANS); SplitZip (arXiv 2605.01708) has fixed-length codes, 1.32x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import zstandard

from frontload.kvcache.codec.baselines import lossless_kernels
from frontload.kvcache.codec.baselines.envelope import (
    Body,
    checked,
    codec_id,
    from_rows,
    level_index,
    rows,
    seal,
    unseal,
)
from frontload.kvcache.codec.baselines.packing import bf16_bits, from_bf16_bits
from frontload.kvcache.codec.damage import Malformed
from frontload.kvcache.codec.exact_kernels import LANES, encode, lookup
from frontload.kvcache.codec.small_tables import counts_of, weights_of
from frontload.kvcache.layout import CacheLayout, KVTensors

Coder = Literal["rans-channel", "rans-tensor", "zstd"]
ZSTD_LEVEL = 19


class Lossless:
    """A `Codec` of one level.

    Body, for each chunk: signs and mantissas u8 `[2, layers, tokens, channels]`, then exponents.
    zstd: bytes u32 | frame. rANS: centres u8 `[2 * layers, channels]` (channel only) | of each
    plane: lowest u8, symbols - 1 u8, weights u8 | words u32 | states u32 x 32 | words u16.
    """

    levels: Sequence[str] = ("exact",)

    def __init__(self, layout: CacheLayout, *, coder: Coder, chunk_tokens: int = 256) -> None:
        if coder not in get_args(Coder):
            raise ValueError(f"coder is {coder!r}; give one of {', '.join(get_args(Coder))}")
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {chunk_tokens}; give at least 1")
        self.layout = layout
        self.coder = coder
        self.chunk_tokens = chunk_tokens
        self._id = codec_id(self.name, str(chunk_tokens), str(layout))

    @property
    def name(self) -> str:
        """`lossless-` and the coder of exponents."""
        return f"lossless-{self.coder}"

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        chunks = checked(kv, self.layout).chunks(self.chunk_tokens)
        body = b"".join(self._encode(chunk) for chunk in chunks)
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=1, codec=self._id)
        bits = []
        for first in range(0, envelope.tokens, self.chunk_tokens):
            bits.append(self._decode(body, min(self.chunk_tokens, envelope.tokens - first)))
        body.end()
        return from_rows(
            from_bf16_bits(np.concatenate(bits, axis=2)),
            self.layout,
            start=envelope.start,
            dtype=envelope.dtype,
            undo_rotary=False,
        )

    def _encode(self, chunk: KVTensors) -> bytes:
        bits = bf16_bits(rows(chunk, self.layout, undo_rotary=False))
        rest = ((bits >> 8) & 0x80 | bits & 0x7F).astype(np.uint8)
        exponents = (bits >> 7).astype(np.uint8)
        planes = exponents.reshape(-1, *exponents.shape[2:])
        coded = _zstd(planes) if self.coder == "zstd" else self._rans(planes)
        return rest.tobytes() + coded

    def _decode(self, body: Body, tokens: int) -> np.ndarray:
        """uint16 `[2, layers, tokens, channels]`."""
        channels = self.layout.num_heads * self.layout.head_dim
        shape = (2, self.layout.num_layers, tokens, channels)
        rest = body.array("u1", *shape).astype(np.uint16)
        planes = (2 * self.layout.num_layers, tokens, channels)
        exponents = (_from_zstd if self.coder == "zstd" else self._from_rans)(body, planes)
        high = exponents.reshape(shape).astype(np.uint16)
        return (rest & 0x80) << 8 | high << 7 | rest & 0x7F

    def _rans(self, planes: np.ndarray) -> bytes:
        centres = np.zeros((planes.shape[0], planes.shape[2]), np.uint8)
        if self.coder == "rans-channel":
            centres = np.median(planes, axis=1).astype(np.uint8)
        shifted = planes - centres[:, None]  # mod 256
        tables = b"".join(_table(plane + np.uint8(128)) for plane in shifted)
        freq, start = _read_tables(Body(tables), len(planes))
        symbol = (shifted + np.uint8(128)).astype(np.uint32)
        slots = (symbol + 256 * np.arange(len(planes), dtype=np.uint32)[:, None, None]).reshape(-1)
        states, words = np.empty(LANES, np.uint32), np.empty(len(slots) + 1, np.uint16)
        used = encode(slots, freq, start, states, words)
        sent = centres.tobytes() if self.coder == "rans-channel" else b""
        count = np.array([used], "<u4").tobytes()
        coded = words[len(words) - used :].astype("<u2").tobytes()
        return sent + tables + count + states.astype("<u4").tobytes() + coded

    def _from_rans(self, body: Body, shape: tuple[int, int, int]) -> np.ndarray:
        centres = np.zeros((shape[0], shape[2]), np.uint8)
        if self.coder == "rans-channel":
            centres = body.array("u1", shape[0], shape[2])
        table = lookup(*_read_tables(body, shape[0]), 256)
        count = int(body.array("<u4", 1)[0])
        states = body.array("<u4", LANES).astype(np.uint32)
        words = np.append(body.array("<u2", count), np.uint16(0)).astype(np.uint16)
        symbol = np.empty(shape, np.uint8)
        if not lossless_kernels.decode(table, states, words, symbol.reshape(shape[0], -1)):
            raise Malformed("exponents do not come out even")
        return symbol - np.uint8(128) + centres[:, None]


def _table(symbol: np.ndarray) -> bytes:
    counts = np.bincount(symbol.reshape(-1), minlength=256)
    lowest, highest = np.flatnonzero(counts)[[0, -1]].tolist()
    weights = weights_of(counts[lowest : highest + 1])
    return bytes([lowest, highest - lowest]) + weights.tobytes()


def _read_tables(body: Body, planes: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts in 4096ths and where they start, int32 `[planes * 256]` each."""
    freq = np.zeros((planes, 256), np.int32)
    for plane in freq:
        lowest, more = body.take(2)
        if lowest + more > 255:
            raise Malformed("a table of exponents has more than 256 symbols")
        plane[lowest : lowest + more + 1] = counts_of(body.array("u1", more + 1))
    return freq.ravel(), (np.cumsum(freq, axis=1, dtype=np.int32) - freq).ravel()


def _zstd(planes: np.ndarray) -> bytes:
    by_channel = np.ascontiguousarray(planes.swapaxes(1, 2))
    frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(by_channel.tobytes())
    return np.array([len(frame)], "<u4").tobytes() + frame


def _from_zstd(body: Body, shape: tuple[int, int, int]) -> np.ndarray:
    frame = body.take(int(body.array("<u4", 1)[0]))
    size = int(np.prod(shape))
    try:
        plain = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise Malformed(f"exponents: {error}") from error
    if len(plain) != size:
        raise Malformed(f"{len(plain)} exponents, expected {size}")
    return np.frombuffer(plain, np.uint8).reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)
