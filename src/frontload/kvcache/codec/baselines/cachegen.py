"""CacheGen as published: the codec that everything here is compared with.

Guarantees: groups of 10 tokens, the first an anchor of 8 bits and the others deltas against the
decoded anchor; one scale a vector; bins of 0.5, 1 and 1.5 over three thirds of the layers; static
distributions per layer and channel, anchors and deltas apart, known to both ends; arithmetic
coding; levels that decode alone; chunks of 1,500 tokens. Gives up: whatever the public record
leaves open is a setting with our reading as its default, listed in docs/cachegen.md; the streams
of a chunk are one for K and one for V of every layer, not one a token as on the authors' GPU.

    codec = CacheGen(calibrate(layout, runs, PUBLISHED))  # cachegen_profile, cachegen_quantize
    codec.decode(codec.encode(kv, "0.0625"))

A file: envelope; then for each chunk, for K of every layer, then V: u32 bytes of the stream |
scales, bf16, of the tokens that have one | stream.

Source: CacheGen (SIGCOMM 2024, arXiv 2310.07240v6), as far as its public record goes.
"""

from __future__ import annotations

import json
from functools import cached_property

import numpy as np

from frontload.kvcache.codec.baselines.cachegen_profile import CacheGenProfile
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
from frontload.kvcache.codec.baselines.rangecoder import decode_rows, encode_rows
from frontload.kvcache.layout import KVTensors, join


class CacheGen:
    """A `Codec` with the settings, units and tables of a profile."""

    def __init__(self, profile: CacheGenProfile) -> None:
        self.profile = profile
        self.settings = profile.settings

    @property
    def name(self) -> str:
        """As in the settings."""
        return self.settings.name

    @property
    def levels(self) -> list[str]:
        """The bins' multipliers."""
        return [f"{multiplier:g}" for multiplier in self.settings.levels]

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        chunks = checked(kv, self.profile.layout).chunks(self.settings.chunk_tokens)
        body = b"".join(self._encode_chunk(chunk, index) for chunk in chunks)
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(self.levels), codec=self._id)
        chunks = []
        for first in range(0, envelope.tokens, self.settings.chunk_tokens):
            tokens = min(self.settings.chunk_tokens, envelope.tokens - first)
            chunks.append(
                from_rows(
                    self._decode_chunk(body, tokens, envelope.level),
                    self.profile.layout,
                    start=envelope.start + first,
                    dtype=envelope.dtype,
                    undo_rotary=self.settings.undo_rotary,
                )
            )
        body.end()
        return join(chunks)

    @cached_property
    def _id(self) -> bytes:
        return codec_id("cachegen", self.profile.digest, json.dumps(self.settings.to_json()))

    def _encode_chunk(self, chunk: KVTensors, level: int) -> bytes:
        layout = self.profile.layout
        vectors = rows(chunk, layout, undo_rotary=self.settings.undo_rotary)
        streams = []
        for kind, layer in np.ndindex(2, layout.num_layers):
            quantizer = self.profile.quantizer(level, kind, layer)
            integers, scales = quantizer.quantize(vectors[kind, layer])
            counts, largest = self.profile.counts(level, kind, layer)
            which = quantizer.is_anchor(chunk.num_tokens).astype(np.uint8)
            stream = encode_rows(integers, which, counts, largest)
            streams += [len(stream).to_bytes(4, "little"), scales.astype("<u2").tobytes(), stream]
        return b"".join(streams)

    def _decode_chunk(self, body: Body, tokens: int, level: int) -> np.ndarray:
        layout = self.profile.layout
        channels = layout.num_heads * layout.head_dim
        vectors = np.empty((2, layout.num_layers, tokens, channels), np.float32)
        for kind, layer in np.ndindex(2, layout.num_layers):
            quantizer = self.profile.quantizer(level, kind, layer)
            size = int(body.array("<u4", 1)[0])
            scaled = int(quantizer.has_scale(tokens).sum())
            scales = body.array("<u2", scaled, quantizer.vectors).astype(np.uint16)
            counts, largest = self.profile.counts(level, kind, layer)
            which = quantizer.is_anchor(tokens).astype(np.uint8)
            integers = decode_rows(body.take(size), which, counts, largest)
            vectors[kind, layer] = quantizer.restore(integers, scales)
        return vectors
