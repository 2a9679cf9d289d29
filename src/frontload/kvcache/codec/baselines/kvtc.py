"""A KVTC-like codec: one global PCA, bits by dynamic programming, DEFLATE; sinks and window raw.

Guarantees: keys lose their rotary embedding first; the first 4 tokens of a context and the last
128 of what is encoded are stored as they are and counted; every other token is a projection on
the global basis, quantized in groups with 0, 2, 4 or 8 bits, packed and deflated. Gives up: levels
that share bytes, decoding a chunk alone (the whole run is one DEFLATE stream a plane), speed.

    codec = KVTC(calibrate(layout, runs, KVTCSettings()))
    codec = KVTC(calibrate(layout, runs, WITHOUT_WINDOW))  # for contexts of a few hundred tokens

A file: envelope; raw sinks, raw window: keys then values `[layers, heads, tokens, head_dim]` in the
cache's dtype; u32 bytes of a raw DEFLATE stream of the steps' low bytes then high bytes; u32 bytes
of one of the integers, group after group, within a group token after token, packed from the low
bits up.

Source: KVTC (arXiv 2511.01815); docs/cachegen.md lists what we chose where we had no record.
"""

from __future__ import annotations

import zlib
from functools import cached_property

import numpy as np
import torch

from frontload.kvcache.codec.baselines.envelope import (
    Body,
    Envelope,
    checked,
    codec_id,
    from_rows,
    level_index,
    seal,
    unseal,
)
from frontload.kvcache.codec.baselines.kvtc_profile import (
    KVTCProfile,
    KVTCSettings,
    as_wide,
)
from frontload.kvcache.codec.baselines.kvtc_quantize import quantize, restore, steps_of
from frontload.kvcache.codec.damage import Malformed
from frontload.kvcache.layout import KVTensors, join

WITHOUT_WINDOW = KVTCSettings(name="kvtc-nowindow", window=0)


class KVTC:
    """A `Codec` with the basis and plans of a profile."""

    def __init__(self, profile: KVTCProfile) -> None:
        self.profile = profile

    @property
    def name(self) -> str:
        """As in the settings."""
        return self.profile.settings.name

    @property
    def levels(self) -> list[str]:
        """The budgets."""
        return [f"{budget:g}" for budget in self.profile.settings.budgets]

    def encode(self, kv: KVTensors, level: str) -> bytes:
        """See `Codec`."""
        index = level_index(level, self.levels)
        first, last = self._middle(checked(kv, self.profile.layout).start, kv.num_tokens)
        raw = [kv.tokens(0, first), kv.tokens(last, kv.num_tokens)]
        body = b"".join(_raw(tokens) for tokens in raw)
        if first < last:
            body += self._encode_middle(kv.tokens(first, last), index)
        return seal(kv, level=index, codec=self._id, body=body)

    def decode(self, data: bytes) -> KVTensors:
        """See `Codec`."""
        envelope, body = unseal(data, levels=len(self.levels), codec=self._id)
        first, last = self._middle(envelope.start, envelope.tokens)
        sinks = self._from_raw(body, envelope, 0, first)
        window = self._from_raw(body, envelope, last, envelope.tokens)
        pieces = [sinks, window]
        if first < last:
            pieces.insert(1, self._decode_middle(body, envelope, first, last))
        body.end()
        return join(pieces)

    @cached_property
    def _id(self) -> bytes:
        return codec_id("kvtc", self.profile.digest)

    def _middle(self, start: int, tokens: int) -> tuple[int, int]:
        """Where the transformed tokens begin and end; the window gives way to the sinks."""
        first = min(max(self.profile.settings.sinks - start, 0), tokens)
        return first, max(first, tokens - self.profile.settings.window)

    def _encode_middle(self, kv: KVTensors, level: int) -> bytes:
        profile = self.profile
        centred = as_wide(kv, profile.layout) - profile.mean[:, None]
        packed, scales = [], []
        for group in profile.groups(level):
            part = centred[group.kind] @ profile.basis[group.kind][:, group.first : group.beyond]
            integers, steps = quantize(part, group)
            packed.append(pack(integers.reshape(-1), group.bits))
            scales.append(steps)
        if profile.settings.scales == "group":
            scales = []
        every = np.concatenate([np.empty(0, np.uint16), *scales])
        planes = (every & 0xFF).astype(np.uint8).tobytes() + (every >> 8).astype(np.uint8).tobytes()
        streams = [_deflate(planes), _deflate(b"".join(packed))]
        return b"".join(len(stream).to_bytes(4, "little") + stream for stream in streams)

    def _decode_middle(self, body: Body, envelope: Envelope, first: int, last: int) -> KVTensors:
        profile, tokens = self.profile, last - first
        groups = profile.groups(envelope.level)
        sent = profile.settings.scales == "token"
        planes = _inflate(body, 2 * tokens * len(groups) * sent).reshape(2, -1).astype(np.uint16)
        scales = (planes[0] | planes[1] << 8).reshape(-1, tokens)
        sizes = [packed_bytes(tokens * (g.beyond - g.first), g.bits) for g in groups]
        packed = np.split(_inflate(body, sum(sizes)), np.cumsum(sizes))
        wide = np.repeat(profile.mean[:, None], tokens, axis=1)
        for i, group in enumerate(groups):
            width = group.beyond - group.first
            integers = unpack(packed[i], group.bits, tokens * width).reshape(tokens, width)
            steps = steps_of(scales[i]) if sent else np.full(tokens, group.step, np.float32)
            axes = profile.basis[group.kind][:, group.first : group.beyond]
            wide[group.kind] += restore(integers, steps, group) @ axes.T
        vectors = wide.reshape(2, tokens, profile.layout.num_layers, -1).transpose(0, 2, 1, 3)
        return from_rows(
            np.ascontiguousarray(vectors),
            profile.layout,
            start=envelope.start + first,
            dtype=envelope.dtype,
            undo_rotary=True,
        )

    def _from_raw(self, body: Body, envelope: Envelope, first: int, last: int) -> KVTensors:
        layout, tokens = self.profile.layout, last - first
        size = layout.values_per_token * tokens * envelope.dtype.itemsize
        plain = torch.frombuffer(bytearray(body.take(size)) or bytearray(8), dtype=envelope.dtype)
        shape = (2, layout.num_layers, layout.num_heads, tokens, layout.head_dim)
        keys, values = plain[: layout.values_per_token * tokens].reshape(shape)
        return KVTensors(keys=keys, values=values, start=envelope.start + first)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack` makes of `count` integers."""
    return -(-count * bits // 8)


def pack(integers: np.ndarray, bits: int) -> bytes:
    """uint8 integers below `2**bits`, 8 / bits of them a byte, the first in the low bits."""
    lanes = 8 // bits
    padded = np.pad(integers, (0, -len(integers) % lanes)).reshape(-1, lanes)
    shifts = np.arange(lanes, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(padded << shifts, axis=1).astype(np.uint8).tobytes()


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` integers of `pack`."""
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    return ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count]


def _raw(kv: KVTensors) -> bytes:
    both = torch.stack((kv.keys, kv.values)).contiguous()
    return both.view(torch.uint8).numpy().tobytes() if kv.num_tokens else b""


def _deflate(data: bytes) -> bytes:
    """The shorter of zlib's two ways to search: for matches, and for none (Huffman codes only)."""
    tried = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        tried.append(coder.compress(data) + coder.flush())
    return min(tried, key=len)


def _inflate(body: Body, size: int) -> np.ndarray:
    """uint8 `[size]`; never more memory than that."""
    stream = body.take(int(body.array("<u4", 1)[0]))
    coder = zlib.decompressobj(-15)
    try:
        data = coder.decompress(stream, size + 1)
    except zlib.error as error:
        raise Malformed(f"a DEFLATE stream does not decode ({error})") from error
    if len(data) != size or coder.unconsumed_tail or coder.unused_data:
        raise Malformed(f"a DEFLATE stream holds {len(data)} bytes, expected {size}")
    return np.frombuffer(data, np.uint8)
