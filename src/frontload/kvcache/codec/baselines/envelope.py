"""The 32 bytes around a file of CacheGen or of a rival: whose it is, what it holds, a checksum.

Guarantees: damaged, foreign or truncated bytes raise a `ContainerError` (a ValueError) before
anything is decoded from them. Gives up: limits, partial reads, anything but bf16, fp16 and fp32;
`container` is the format that contexts are stored in, this one exists to compare whole files.

Little-endian: magic 4 B | version u8 | dtype u8 | level u8 | zero u8 | codec id 8 B | tokens u32 |
start u64 | crc32 u32 of all but itself. The body follows.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec.damage import Damaged, Malformed, NotAContainer, WrongProfile
from frontload.kvcache.layout import DTYPES, CacheLayout, KVTensors, check

MAGIC = b"FLKR"
VERSION = 1
HEADER = struct.Struct("<4s4B8sIQI")


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What the header says: `level` indexes the codec's levels."""

    level: int
    dtype: torch.dtype
    tokens: int
    start: int


class Body:
    """A file's body, read from front to back.

    Every method raises Malformed when the body is too short for what is asked.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, num_bytes: int) -> bytes:
        """The next bytes."""
        if not 0 <= num_bytes <= len(self._data) - self._at:
            raise Malformed(f"{num_bytes} bytes declared, {len(self._data) - self._at} are left")
        self._at += num_bytes
        return self._data[self._at - num_bytes : self._at]

    def array(self, dtype: str, *shape: int) -> np.ndarray:
        """The next `prod(shape)` numbers; `dtype` names their byte order."""
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.take(size), dtype).reshape(shape)

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes are left over")


def codec_id(*what: str) -> bytes:
    """8 bytes that differ between codecs, profiles and layouts."""
    return hashlib.sha256("\n".join(what).encode()).digest()[:8]


def seal(kv: KVTensors, *, level: int, codec: bytes, body: bytes) -> bytes:
    """Header and body."""
    dtype = DTYPES.index(kv.keys.dtype)
    fields = (MAGIC, VERSION, dtype, level, 0, codec, kv.num_tokens, kv.start)
    bare = HEADER.pack(*fields, 0)[:-4]
    return bare + struct.pack("<I", zlib.crc32(body, zlib.crc32(bare))) + body


def unseal(data: bytes, *, levels: int, codec: bytes) -> tuple[Envelope, Body]:
    """What `seal` was given.

    Raises:
        ContainerError: not such a file, damaged, or of another codec or profile.
    """
    if data[:4] != MAGIC or len(data) < HEADER.size:
        raise NotAContainer(data[:8])
    _, version, dtype, level, zero, found, tokens, start, crc = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if zlib.crc32(body, zlib.crc32(data[: HEADER.size - 4])) != crc:
        raise Damaged("file", "its checksum does not match")
    if found != codec:
        raise WrongProfile(found=found, expected=codec)
    if version != VERSION or zero or dtype >= len(DTYPES) or level >= levels or not tokens:
        raise Malformed(f"version {version}, dtype {dtype}, level {level}, {tokens} tokens")
    return Envelope(level=level, dtype=DTYPES[dtype], tokens=tokens, start=start), Body(body)


def level_index(level: str, levels: Sequence[str]) -> int:
    """Where `level` is in `levels`.

    Raises:
        ValueError: it is not.
    """
    if level not in levels:
        raise ValueError(f"level is {level!r}; give one of {', '.join(levels)}")
    return list(levels).index(level)


def checked(kv: KVTensors, layout: CacheLayout) -> KVTensors:
    """`kv`, if a codec for `layout` can code it.

    Raises:
        ValueError: as `layout.check` says.
    """
    check(kv, layout)
    return kv


def rows(kv: KVTensors, layout: CacheLayout, *, undo_rotary: bool) -> np.ndarray:
    """float32 `[2, layers, tokens, channels]`: K and V as vectors of all heads of a layer."""
    keys = kv.keys.float()
    if undo_rotary and layout.rotary is not None:
        keys = layout.rotary.undo(keys, kv.start)
    return torch.stack((keys, kv.values.float())).transpose(2, 3).flatten(3).numpy()


def from_rows(
    vectors: np.ndarray,
    layout: CacheLayout,
    *,
    start: int,
    dtype: torch.dtype,
    undo_rotary: bool,
) -> KVTensors:
    """The inverse of `rows`, rounded to `dtype`."""
    heads = torch.from_numpy(vectors).unflatten(-1, (layout.num_heads, layout.head_dim))
    keys, values = heads.transpose(2, 3).contiguous()
    if undo_rotary and layout.rotary is not None:
        keys = layout.rotary.redo(keys, start)
    return KVTensors(keys=_within(keys, dtype), values=_within(values, dtype), start=start)


def _within(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to `dtype`; what a quantizer put beyond its range becomes its largest value."""
    largest = torch.finfo(dtype).max
    return tensor.clamp(-largest, largest).to(dtype)
