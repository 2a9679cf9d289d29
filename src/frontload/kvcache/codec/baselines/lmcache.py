"""CacheGen as LMCache ships it, byte for byte where bytes count.

Guarantees: no groups, anchors or deltas; one scale per token and layer over all heads; 31 levels
in the first layers and 15 elsewhere, by absolute layer index; distributions measured from the very
chunk that is coded and sent with it, 33 x int16 for each channel of K and V of every layer; one
arithmetic-coded stream per channel and 256 tokens with an int32 length; 256-token chunks. Gives
up: pickle (whose overhead is not counted against it) and torchac's bit-exact streams (ours are as
long).

    codec = LMCache(layout)                       # as shipped; level "32-16" is the shipped one
    codec = LMCache(layout, chunk_tokens=2048)    # its blog's setting
    codec = LMCache(layout, profile=calibrate(layout, runs))  # offline tables: nobody ships this

Levels `early-late` are bins in the early layers and elsewhere; only 32-16 is shipped, and its
kernels refuse more than 47 bins. They exist so that it has a rate-distortion curve.

A file: envelope; for each chunk: scales `[2, layers, tokens]` in the cache's dtype (bf16 and fp16
as they are, fp32 as fp32) | tables int16 `[2, layers, channels, 33]` unless offline | for each 256
tokens: lengths int32 `[2, layers, channels]` | streams.

Source: the published encoder and its table of models; docs/cachegen.md.
"""

from __future__ import annotations

import json
from functools import cached_property

import numpy as np
import torch

from frontload.kvcache.codec.baselines import offline
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
from frontload.kvcache.codec.baselines.lmcache_tables import (
    LEVELS,
    OfflineTables,
    dequantize,
    histogram,
    in_band_tables,
    largest_of_layers,
    longest,
    planes_of,
    quantize,
    table_name,
)
from frontload.kvcache.codec.baselines.rangecoder import decode_channels, encode_channels
from frontload.kvcache.layout import CacheLayout, KVTensors, join

STREAM_TOKENS = 256


class LMCache:
    """A `Codec`; `profile` replaces the tables that are measured and sent."""

    def __init__(
        self,
        layout: CacheLayout,
        *,
        chunk_tokens: int = STREAM_TOKENS,
        profile: OfflineTables | None = None,
    ) -> None:
        if not 1 <= chunk_tokens <= 65_535:  # its histogram's counters have 16 bits
            raise ValueError(f"chunk_tokens is {chunk_tokens}; give 1 to 65535")
        self.layout = layout
        self.chunk_tokens = chunk_tokens
        self.profile = profile

    @property
    def name(self) -> str:
        """`lmcache`, with what differs from the shipped settings."""
        size = "" if self.chunk_tokens == STREAM_TOKENS else f"-{self.chunk_tokens}"
        return f"lmcache{size}{'-offline' if self.profile else ''}"

    @property
    def levels(self) -> list[str]:
        """`early-late` bins."""
        return [f"{early}-{late}" for early, late in LEVELS]

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        chunks = checked(kv, self.layout).chunks(self.chunk_tokens)
        body = b"".join(self._encode_chunk(chunk, index) for chunk in chunks)
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(LEVELS), codec=self._id)
        chunks = []
        for first in range(0, envelope.tokens, self.chunk_tokens):
            tokens = min(self.chunk_tokens, envelope.tokens - first)
            vectors = self._decode_chunk(body, tokens, envelope.level, envelope.dtype)
            chunks.append(
                from_rows(
                    vectors,
                    self.layout,
                    start=envelope.start + first,
                    dtype=envelope.dtype,
                    undo_rotary=False,
                )
            )
        body.end()
        return join(chunks)

    @cached_property
    def _id(self) -> bytes:
        tables = self.profile.tables if self.profile else {}
        layout = json.dumps(self.layout.to_json())
        return codec_id("lmcache", layout, str(self.chunk_tokens), offline.digest({}, tables))

    def _encode_chunk(self, chunk: KVTensors, level: int) -> bytes:
        vectors = rows(chunk, self.layout, undo_rotary=False)
        largest = largest_of_layers(self.layout, level)
        scales = abs(vectors).max(axis=-1)
        integers = quantize(vectors, scales, largest)
        head = torch.from_numpy(scales).to(chunk.keys.dtype).view(torch.uint8).numpy().tobytes()
        if self.profile is None:
            counts = [histogram(plane, longest(largest)) for plane in planes_of(integers)]
            tables = in_band_tables(np.stack(counts))
            head += tables.astype("<u2").tobytes()
        parts = [head]
        for first in range(0, chunk.num_tokens, STREAM_TOKENS):
            lengths, streams = [], []
            for i, plane in enumerate(planes_of(integers)):
                table, m = self._table(i, level, largest, None if self.profile else tables)
                stream, length = encode_channels(plane[first : first + STREAM_TOKENS], table, m)
                lengths.append(length.astype("<i4").tobytes())
                streams.append(stream)
            parts += [*lengths, *streams]
        return b"".join(parts)

    def _decode_chunk(self, body: Body, tokens: int, level: int, dtype: torch.dtype) -> np.ndarray:
        layers, channels = self.layout.num_layers, self.layout.num_heads * self.layout.head_dim
        largest = largest_of_layers(self.layout, level)
        plain = bytearray(body.take(2 * layers * tokens * dtype.itemsize))
        scales = torch.frombuffer(plain, dtype=dtype).float().numpy().reshape(2, layers, tokens)
        tables = None
        if self.profile is None:
            width = 2 * longest(largest) + 3
            tables = body.array("<u2", 2 * layers, channels, width).astype(np.uint16)
        integers = np.empty((2 * layers, tokens, channels), np.int32)
        for first in range(0, tokens, STREAM_TOKENS):
            here = slice(first, min(first + STREAM_TOKENS, tokens))
            lengths = body.array("<i4", 2 * layers, channels)
            for i, length in enumerate(lengths):
                table, m = self._table(i, level, largest, tables)
                size = int(length.astype(np.int64).sum()) if length.min() >= 0 else -1
                streams = body.take(size)
                count = here.stop - here.start
                integers[i, here] = decode_channels(streams, length, count, table, m)
        return dequantize(integers.reshape(2, layers, tokens, channels), scales, largest)

    def _table(
        self, plane: int, level: int, largest: np.ndarray, tables: np.ndarray | None
    ) -> tuple[np.ndarray, int]:
        """Cumulative counts `[channels, 2m + 3]` of K (planes 0 to layers - 1) or V, and m."""
        if tables is not None:
            counts = tables[plane].astype(np.uint32)
            counts[:, -1] = 1 << 16
            return counts, longest(largest)
        assert self.profile is not None
        inner = self.profile.tables[table_name(level, plane)].astype(np.uint32)
        counts = np.pad(inner, ((0, 0), (1, 1)))
        counts[:, -1] = 1 << 16
        return counts, (counts.shape[1] - 3) // 2
