"""Header and part table of a chunk object: packed, read back and checked (docs/kv-container.md).

Guarantees: `read_header` takes nothing for granted: lengths before they are used, the checksum
before any field is believed, reserved bits, order of parts, and `Limits`. What it returns says
where each part lies. Gives up: the parts themselves; `container` has them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple, cast

from frontload.kvcache import layout
from frontload.kvcache.codec.damage import (
    Damaged,
    Malformed,
    NotAContainer,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    WrongProfile,
)

MAGIC = b"FLKVCHNK"
VERSION = 1
TOKEN_DELTAS, HEAD_APART = 1, 2  # flags; the first is reserved
FIXED = struct.Struct("<8sHHI16sIQBBHQII")
ENTRY = struct.Struct("<BBBBHHII")
CHECKSUM_AT = 56
MAX_HEADER_BYTES = FIXED.size + 255 * ENTRY.size

SourceDtype = Literal["bfloat16", "float16", "float32"]
DTYPES = tuple(  # the code is the index
    cast(SourceDtype, str(dtype).removeprefix("torch.")) for dtype in layout.DTYPES
)


class Kind(IntEnum):
    """What a part holds."""

    STATE = 0  # recurrent states of a hybrid model
    LOSSY = 1  # one depth of one group
    EXACT = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes beyond which an object is refused unread."""

    tokens: int = 1 << 16  # of a chunk
    positions: int = 1 << 24  # of a context: float32, in which angles are formed, counts so far
    object_bytes: int = 1 << 32
    decoded_bytes: int = 1 << 34


DEFAULT = Limits()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an object says of its chunk."""

    profile_id: bytes
    tokens: int
    start: int  # position of the first token in its context
    dtype: SourceDtype = "bfloat16"  # of the tensors that were encoded
    head_apart: bool = False  # the context's first tokens have a stream of their own


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """What the part table says of one part, size and checksum apart."""

    kind: Kind = Kind.LOSSY
    depth: int = 0
    group: int = 0
    table_set: int = 0
    stripes: int = 0


@dataclass(frozen=True, kw_only=True)
class Outline:
    """An object's header and table: where its parts lie, in bytes from its beginning."""

    header: Header
    entries: tuple[PartEntry, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]  # `ends[i]`: bytes of the prefix that holds parts 0 to i
    checksums: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole object."""
        return self.ends[-1]

    @property
    def num_states(self) -> int:
        """Parts in front of the lossy ones: 1 with a recurrent state, else 0."""
        return sum(entry.kind is Kind.STATE for entry in self.entries)

    def refuse_more(self, num_bytes: int) -> None:
        """Refuse bytes behind the object: in a file of several, they are the next one.

        Raises:
            Malformed: `num_bytes` are more than the object has.
        """
        if num_bytes > self.total_bytes:
            raise Malformed(
                f"{num_bytes - self.total_bytes} bytes follow the object; read files of several "
                "chunks with iterate"
            )

    def complete(self, num_bytes: int) -> int:
        """How many parts a prefix of `num_bytes` holds in full."""
        return sum(end <= num_bytes for end in self.ends)


class _Fixed(NamedTuple):
    magic: bytes
    version: int
    flags: int
    header_bytes: int
    profile_id: bytes
    tokens: int
    start: int
    dtype: int
    parts: int
    zero: int
    total_bytes: int
    checksum: int
    last_zero: int


def pack_header(
    header: Header, parts: Sequence[tuple[PartEntry, bytes]], limits: Limits = DEFAULT
) -> bytes:
    """Header and part table of an object.

    Raises:
        Malformed: a field does not fit the format.
        TooLarge: a reader with the same limits would refuse it.
    """
    _check_fields(header, [entry for entry, _ in parts])
    header_bytes = FIXED.size + len(parts) * ENTRY.size
    fields = _Fixed(
        magic=MAGIC,
        version=VERSION,
        flags=HEAD_APART * header.head_apart,
        header_bytes=header_bytes,
        profile_id=header.profile_id,
        tokens=header.tokens,
        start=header.start,
        dtype=DTYPES.index(header.dtype),
        parts=len(parts),
        zero=0,
        total_bytes=header_bytes + sum(len(body) for _, body in parts),
        checksum=0,
        last_zero=0,
    )
    _check_limits(fields, limits)
    try:
        table = b"".join(
            ENTRY.pack(e.kind, e.depth, e.group, e.table_set, e.stripes, 0, len(body), crc(body))
            for e, body in parts
        )
        checksum = crc(FIXED.pack(*fields) + table)
        return FIXED.pack(*fields._replace(checksum=checksum)) + table
    except struct.error as error:
        raise Malformed(f"cannot be written ({error}); make the chunk smaller") from error


def read_header(
    prefix: bytes | memoryview, *, profile_id: bytes | None = None, limits: Limits = DEFAULT
) -> Outline:
    """Header and part table of an object, from its first bytes.

    Args:
        prefix: at least header and table; `MAX_HEADER_BYTES` always suffice.
        profile_id: refuse objects of any other profile.
        limits: refuse objects that declare more.

    Raises:
        ContainerError: a subclass for each reason.
    """
    view = memoryview(prefix).cast("B")
    fields = _read_fixed(view)
    _check_header_checksum(view[: fields.header_bytes], fields.checksum)
    if fields.zero or fields.last_zero:
        raise Malformed("reserved bytes of the header are set")
    if fields.flags & TOKEN_DELTAS:
        raise Malformed("the flag of token deltas is set, which is reserved")
    if fields.flags & ~HEAD_APART:
        raise Malformed(f"flags {fields.flags:#06x} has bits that are not defined")
    if fields.dtype >= len(DTYPES):
        raise Malformed(f"source dtype {fields.dtype} is none of 0 to {len(DTYPES) - 1}")
    if profile_id is not None and fields.profile_id != profile_id:
        raise WrongProfile(found=fields.profile_id, expected=profile_id)
    _check_limits(fields, limits)
    header = Header(
        profile_id=fields.profile_id,
        tokens=fields.tokens,
        start=fields.start,
        dtype=DTYPES[fields.dtype],
        head_apart=bool(fields.flags & HEAD_APART),
    )
    return _outline(header, view[FIXED.size : fields.header_bytes], fields.total_bytes)


def check_decoded_size(header: Header, values_per_token: int, limits: Limits = DEFAULT) -> None:
    """Refuse a chunk whose decoded bf16 tensors would be larger than `limits` allows.

    Raises:
        TooLarge: they would.
    """
    num_bytes = 2 * header.tokens * values_per_token
    if num_bytes > limits.decoded_bytes:
        raise TooLarge("decoded bytes", num_bytes, limits.decoded_bytes)


def crc(data: bytes | bytearray | memoryview) -> int:
    """The checksum of header and parts: CRC-32 of zlib."""
    return zlib.crc32(data)


def _read_fixed(view: memoryview) -> _Fixed:
    """Fields of a header that lies in `view` with its table; the checksum is not compared yet."""
    magic = bytes(view[: len(MAGIC)])
    if magic != MAGIC[: len(magic)]:
        raise NotAContainer(magic)
    if len(view) >= 10 and (version := int.from_bytes(view[8:10], "little")) != VERSION:
        raise UnsupportedVersion(found=version, known=VERSION)
    if len(view) < FIXED.size:
        raise Truncated(present=len(view), needed=FIXED.size, of="the header")
    fields = _Fixed(*FIXED.unpack_from(view))
    if fields.header_bytes != FIXED.size + fields.parts * ENTRY.size:
        raise Damaged("header", f"{fields.header_bytes} bytes for {fields.parts} parts")
    if len(view) < fields.header_bytes:
        raise Truncated(present=len(view), needed=fields.header_bytes, of="the part table")
    return fields


def _check_header_checksum(view: memoryview, checksum: int) -> None:
    zeroed = bytearray(view)
    zeroed[CHECKSUM_AT : CHECKSUM_AT + 4] = bytes(4)
    if crc(zeroed) != checksum:
        raise Damaged("header", "its checksum does not match")


def _check_limits(fields: _Fixed, limits: Limits) -> None:
    for what, declared, limit in (
        ("tokens", fields.tokens, limits.tokens),
        ("last position", fields.start + fields.tokens, limits.positions),
        ("object bytes", fields.total_bytes, limits.object_bytes),
    ):
        if declared > limit:
            raise TooLarge(what, declared, limit)


def _outline(header: Header, table: memoryview, total_bytes: int) -> Outline:
    entries: list[PartEntry] = []
    ends = [FIXED.size + len(table)]
    checksums = []
    for kind, depth, group, table_set, stripes, zero, num_bytes, checksum in ENTRY.iter_unpack(
        table
    ):
        if zero:
            raise Malformed(f"part {len(entries)}: reserved bytes are set")
        if kind > max(Kind):
            raise Malformed(f"part {len(entries)}: kind {kind} is none of 0 to {max(Kind)}")
        entry = PartEntry(
            kind=Kind(kind), depth=depth, group=group, table_set=table_set, stripes=stripes
        )
        entries.append(entry)
        ends.append(ends[-1] + num_bytes)
        checksums.append(checksum)
    _check_fields(header, entries)
    if ends[-1] != total_bytes:
        raise Malformed(f"total is {total_bytes} bytes, header and parts take {ends[-1]}")
    return Outline(
        header=header,
        entries=tuple(entries),
        begins=tuple(ends[:-1]),
        ends=tuple(ends[1:]),
        checksums=tuple(checksums),
    )


def _check_fields(header: Header, entries: Sequence[PartEntry]) -> None:
    if header.tokens < 1:
        raise Malformed("a chunk of 0 tokens; leave it out")
    if len(header.profile_id) != 16:
        raise Malformed(f"a profile id of {len(header.profile_id)} bytes, expected 16")
    if not entries:
        raise Malformed("no parts")
    places = [(entry.kind, entry.depth, entry.group) for entry in entries]
    if len(set(places)) < len(places):
        raise Malformed("a part occurs twice")
    kinds = [entry.kind for entry in entries]
    if kinds != sorted(kinds):
        raise Malformed("parts are out of order: state, then lossy, then exact")
    for index, entry in enumerate(entries):
        if entry.kind is Kind.LOSSY and entry.stripes < 1:
            raise Malformed(f"part {index}: a lossy part without stripes")
        if entry.kind is not Kind.LOSSY and entry != PartEntry(kind=entry.kind):
            raise Malformed(f"part {index}: only lossy parts have depth, group, set and stripes")
        if entry.table_set > 1:
            raise Malformed(f"part {index}: table set {entry.table_set} is neither 0 nor 1")
