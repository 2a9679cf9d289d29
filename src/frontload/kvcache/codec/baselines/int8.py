"""Eight bits, vector-wise: the near-lossless quantization that papers compare themselves with.

Guarantees: every value within half a step; the step of a token's vector of all heads of one layer
of K or V is its largest magnitude over 127. Gives up: tokens with outliers, whose small values are
rounded coarsely.

8 + 16 / channels bits a value: 8.125 at 128 channels, 8.016 at 1,024.

Left open by those who name it: symmetric, with a bf16 scale that is rounded up, so that nothing is
clipped; keys as cached, rotated. Source: vector-wise quantization as in
LLM.int8() (arXiv 2208.07339); the 8-bit baseline of CacheGen (arXiv 2310.07240).
"""

from __future__ import annotations

import numpy as np

from frontload.kvcache.codec.baselines.envelope import (
    checked,
    codec_id,
    from_rows,
    level_index,
    rows,
    seal,
    unseal,
)
from frontload.kvcache.codec.baselines.packing import bf16_not_below, from_bf16_bits
from frontload.kvcache.layout import CacheLayout, KVTensors

LARGEST = 127


class Int8:
    """A `Codec`. Body: steps bf16 `[2, layers, tokens]` | int8 `[2, layers, tokens, channels]`."""

    name = "int8"
    levels = ("8",)

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self._id = codec_id(self.name, str(layout))

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        vectors = rows(checked(kv, self.layout), self.layout, undo_rotary=False)
        bits = bf16_not_below(abs(vectors).max(axis=-1) / LARGEST)
        step = from_bf16_bits(bits)[..., None]
        integers = np.rint(vectors / np.where(step > 0, step, 1)).clip(-LARGEST, LARGEST)
        body = bits.astype("<u2").tobytes() + integers.astype(np.int8).tobytes()
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(self.levels), codec=self._id)
        shape = (2, self.layout.num_layers, envelope.tokens)
        step = from_bf16_bits(body.array("<u2", *shape))
        integers = body.array("i1", *shape, self.layout.num_heads * self.layout.head_dim)
        body.end()
        return from_rows(
            integers * step[..., None],
            self.layout,
            start=envelope.start,
            dtype=envelope.dtype,
            undo_rotary=False,
        )
