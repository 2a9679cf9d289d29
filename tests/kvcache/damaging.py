"""Chunk objects changed on purpose, with checksums made right again where a test wants that."""

from __future__ import annotations

import struct
import zlib

HEADER_BYTES, ENTRY_BYTES = 64, 16
FIELDS = {  # name: offset and struct format, from docs/kv-container.md
    "magic": (0, "8s"),
    "version": (8, "H"),
    "flags": (10, "H"),
    "header_bytes": (12, "I"),
    "profile_id": (16, "16s"),
    "tokens": (32, "I"),
    "start": (36, "Q"),
    "dtype": (44, "B"),
    "parts": (45, "B"),
    "zero": (46, "H"),
    "total_bytes": (48, "Q"),
    "checksum": (56, "I"),
    "last_zero": (60, "I"),
}
ENTRY_FIELDS = {
    "kind": (0, "B"),
    "depth": (1, "B"),
    "group": (2, "B"),
    "table_set": (3, "B"),
    "stripes": (4, "H"),
    "zero": (6, "H"),
    "bytes": (8, "I"),
    "checksum": (12, "I"),
}


def with_field(data: bytes, name: str, value: int | bytes, *, part: int | None = None) -> bytes:
    """`data` with one field of its header, or of a part's table entry, set."""
    offset, form = (FIELDS if part is None else ENTRY_FIELDS)[name]
    changed = bytearray(data)
    at = offset if part is None else HEADER_BYTES + part * ENTRY_BYTES + offset
    struct.pack_into(f"<{form}", changed, at, value)
    return bytes(changed)


def sealed(data: bytes) -> bytes:
    """`data` with the checksums of what lies in it, so that only its content can be wrong."""
    changed = bytearray(data)
    if len(changed) < HEADER_BYTES:
        return bytes(changed)
    table = min(HEADER_BYTES + changed[45] * ENTRY_BYTES, len(changed))
    position = table
    for entry in range(HEADER_BYTES, table - ENTRY_BYTES + 1, ENTRY_BYTES):
        (size,) = struct.unpack_from("<I", changed, entry + 8)
        body = changed[position : position + size]
        struct.pack_into("<I", changed, entry + 12, zlib.crc32(body))
        position += size
    struct.pack_into("<I", changed, 56, 0)
    struct.pack_into("<I", changed, 56, zlib.crc32(changed[:table]))
    return bytes(changed)


def with_body(data: bytes, part: int, body: bytes) -> bytes:
    """`data` with another body for one part; sizes and checksums follow."""
    parts = data[45]
    begins = [HEADER_BYTES + parts * ENTRY_BYTES]
    for index in range(parts):
        at = HEADER_BYTES + index * ENTRY_BYTES + 8
        begins.append(begins[-1] + struct.unpack_from("<I", data, at)[0])
    changed = data[: begins[part]] + body + data[begins[part + 1] :]
    changed = with_field(changed, "bytes", len(body), part=part)
    return sealed(with_field(changed, "total_bytes", len(changed)))
