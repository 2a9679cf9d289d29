"""KIVI-like: keys quantized per channel, values per token, asymmetric, in groups.

Guarantees: every value within half a step of its group (and bf16 rounding of the step and the
minimum); `bits` + 32 / G bits a value, 3 at 2 bits in groups of 32. Gives up: the paper's window
of recent tokens in full precision, unless `window_tokens` asks for it, because all rivals are
compared on whole contexts.

Left open by the record, or changed: step and minimum are bf16 and values are rounded against them
as stored, which loses less; the keys of a last group of fewer than G tokens are quantized like the
others (the paper keeps them in full precision); groups of values run over a layer's channels, so
that G larger than a head spans heads instead of costing more; the 3-bit levels are ours.

Source: KIVI (arXiv 2402.02750): keys per channel, values per token, G = 32, 2 and 4
bits; keys as cached, rotated.
"""

from __future__ import annotations

import numpy as np

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
from frontload.kvcache.codec.baselines.packing import (
    bf16_bits,
    bf16_not_below,
    from_bf16_bits,
    pack,
    packed_bytes,
    unpack,
)
from frontload.kvcache.layout import CacheLayout, KVTensors

LEVELS = {"2-g64": (2, 64), "2-g32": (2, 32), "3-g64": (3, 64), "3-g32": (3, 32)} | {
    "4-g64": (4, 64),
    "4-g32": (4, 32),
}


class Kivi:
    """A `Codec`; levels are bits and G.

    Body: keys, then values, each: minima bf16 | steps bf16 | integers, packed; then the window,
    bf16. Rows run along the grouped axis: keys `[layers, channels, tokens]`, values `[layers,
    tokens, channels]`.
    """

    levels = tuple(LEVELS)

    def __init__(self, layout: CacheLayout, *, window_tokens: int = 0) -> None:
        if window_tokens < 0:
            raise ValueError(f"window_tokens is {window_tokens}; give 0 or more")
        self.layout = layout
        self.window_tokens = window_tokens
        self._id = codec_id(self.name, str(layout))

    @property
    def name(self) -> str:
        """`kivi`, with its window."""
        return f"kivi-w{self.window_tokens}" if self.window_tokens else "kivi"

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        vectors = rows(checked(kv, self.layout), self.layout, undo_rotary=False)
        old = max(kv.num_tokens - self.window_tokens, 0)
        keys, values = vectors[:, :, :old]
        body = _encode_groups(keys.swapaxes(1, 2), *LEVELS[level])
        body += _encode_groups(values, *LEVELS[level])
        body += bf16_bits(vectors[:, :, old:]).astype("<u2").tobytes()
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(LEVELS), codec=self._id)
        layers, channels = self.layout.num_layers, self.layout.num_heads * self.layout.head_dim
        old = max(envelope.tokens - self.window_tokens, 0)
        bits, group = list(LEVELS.values())[envelope.level]
        keys = _decode_groups(body, (layers, channels, old), bits, group).swapaxes(1, 2)
        values = _decode_groups(body, (layers, old, channels), bits, group)
        window = body.array("<u2", 2, layers, envelope.tokens - old, channels)
        body.end()
        return from_rows(
            np.concatenate((np.stack((keys, values)), from_bf16_bits(window)), axis=2),
            self.layout,
            start=envelope.start,
            dtype=envelope.dtype,
            undo_rotary=False,
        )


def _encode_groups(array: np.ndarray, bits: int, group: int) -> bytes:
    """Quantize along the last axis of float32 `[layers, rows, length]`."""
    if not array.size:
        return b""
    starts = np.arange(0, array.shape[2], group)
    minima, steps = _limits(array, starts, (1 << bits) - 1)
    low, step = (_spread(from_bf16_bits(x), group, array.shape[2]) for x in (minima, steps))
    integers = np.rint((array - low) / np.where(step > 0, step, 1)).clip(0, (1 << bits) - 1)
    sides = minima.astype("<u2").tobytes() + steps.astype("<u2").tobytes()
    return sides + pack(integers.astype(np.uint8), bits)


def _limits(array: np.ndarray, starts: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """bf16 bits of each group's minimum, rounded down, and step, so that its maximum is reached."""
    minimum = np.minimum.reduceat(array, starts, axis=2)
    rounded = bf16_bits(minimum)
    above = from_bf16_bits(rounded) > minimum
    lower = np.where(minimum < 0, bf16_not_below(-minimum) | 0x8000, minimum.view(np.uint32) >> 16)
    minima = np.where(above, lower, rounded).astype(np.uint16)
    reach = np.maximum.reduceat(array, starts, axis=2) - from_bf16_bits(minima)
    return minima, bf16_not_below(reach / largest)


def _decode_groups(body: Body, shape: tuple[int, int, int], bits: int, group: int) -> np.ndarray:
    """float32 `shape`."""
    count = int(np.prod(shape))
    groups = -(-shape[2] // group)
    minima, steps = (from_bf16_bits(body.array("<u2", *shape[:2], groups)) for _ in range(2))
    integers = unpack(body.take(packed_bytes(count, bits)), count, bits).reshape(shape)
    low, step = (_spread(x, group, shape[2]) for x in (minima, steps))
    return low + integers * step


def _spread(per_group: np.ndarray, group: int, length: int) -> np.ndarray:
    return np.repeat(per_group, group, axis=2)[:, :, :length]
