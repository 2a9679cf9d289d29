"""No compression: bf16, token by token as a server would copy it.

Guarantees: 16 bits a value; bf16 caches come back bit for bit. Gives up: fp16 and fp32 beyond
their bf16 rounding, as every codec here does.
"""

from __future__ import annotations

from frontload.kvcache.codec.baselines.envelope import (
    checked,
    codec_id,
    from_rows,
    level_index,
    rows,
    seal,
    unseal,
)
from frontload.kvcache.codec.baselines.packing import bf16_bits, from_bf16_bits
from frontload.kvcache.layout import CacheLayout, KVTensors


class Raw:
    """A `Codec`. Body: bf16 `[2, layers, tokens, channels]`."""

    name = "raw"
    levels = ("bf16",)

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self._id = codec_id(self.name, str(layout))

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        vectors = rows(checked(kv, self.layout), self.layout, undo_rotary=False)
        body = bf16_bits(vectors).astype("<u2").tobytes()
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(self.levels), codec=self._id)
        channels = self.layout.num_heads * self.layout.head_dim
        bits = body.array("<u2", 2, self.layout.num_layers, envelope.tokens, channels)
        body.end()
        return from_rows(
            from_bf16_bits(bits),
            self.layout,
            start=envelope.start,
            dtype=envelope.dtype,
            undo_rotary=False,
        )
