"""The chunk object: header, part table and the parts' bytes, coarse first (docs/kv-container.md).

Guarantees: `read` gives views of parts whose checksums hold, of an object whose sizes were all
compared with the bytes at hand and with `Limits` before anything was allocated; each way to be
wrong has an error of its own. Files appear whole or not at all. Gives up: repairing anything, and
looking inside the parts; whoever decodes them is as strict.

    data = write(header, [(PartEntry(depth=0, stripes=1), body), ...])
    container = read(data, profile_id=profile.id)
    outline = read_header(data[:MAX_HEADER_BYTES])  # ends[i]: bytes that complete parts 0 to i
    coarse = read(data[: outline.ends[1]], profile_id=profile.id, partial=True)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from frontload.atomic import replacing
from frontload.kvcache.codec.damage import (
    ContainerError,
    Damaged,
    Malformed,
    NotAContainer,
    TooLarge,
    Truncated,
    UnsupportedVersion,
    WrongProfile,
)
from frontload.kvcache.codec.outline import (
    DEFAULT,
    DTYPES,
    MAX_HEADER_BYTES,
    Header,
    Kind,
    Limits,
    Outline,
    PartEntry,
    SourceDtype,
    check_decoded_size,
    crc,
    pack_header,
    read_header,
)

__all__ = [
    "DEFAULT",
    "DTYPES",
    "MAX_HEADER_BYTES",
    "Container",
    "ContainerError",
    "Damaged",
    "Header",
    "Kind",
    "Limits",
    "Malformed",
    "NotAContainer",
    "Outline",
    "PartEntry",
    "SourceDtype",
    "TooLarge",
    "Truncated",
    "UnsupportedVersion",
    "WrongProfile",
    "check_decoded_size",
    "iterate",
    "read",
    "read_file",
    "read_header",
    "read_part",
    "with_state",
    "write",
    "write_file",
]


@dataclass(frozen=True, kw_only=True)
class Container:
    """An object whose checksums hold; `bodies` are views, fewer than `entries` of a prefix."""

    header: Header
    entries: tuple[PartEntry, ...]
    bodies: tuple[memoryview, ...]


def write(
    header: Header, parts: Sequence[tuple[PartEntry, bytes]], *, limits: Limits = DEFAULT
) -> bytes:
    """The object of `parts`, which lie in order: state, lossy (coarse first), exact.

    Raises:
        Malformed: a field does not fit the format.
        TooLarge: a reader with the same limits would refuse it.
    """
    return b"".join([pack_header(header, parts, limits), *(body for _, body in parts)])


def with_state(data: bytes | memoryview, body: bytes, *, limits: Limits = DEFAULT) -> bytes:
    """The object `data` with a recurrent state in front of its parts.

    Raises:
        ContainerError: `data` is not a whole, undamaged object, or has a state.
    """
    old = read(data, profile_id=None, limits=limits)
    parts = [*zip(old.entries, map(bytes, old.bodies), strict=True)]
    return write(old.header, [(PartEntry(kind=Kind.STATE), body), *parts], limits=limits)


def read(
    data: bytes | memoryview,
    *,
    profile_id: bytes | None,
    limits: Limits = DEFAULT,
    partial: bool = False,
) -> Container:
    """The parts of one object, without copies.

    Args:
        data: one object, whole; with `partial` a prefix of it, of which complete parts are given.
        profile_id: refuse objects of any other profile; None to read whatever it is.
        limits: refuse objects that declare more.
        partial: accept a prefix.

    Raises:
        ContainerError: a subclass for each reason.
    """
    view = memoryview(data).cast("B")
    outline = read_header(view, profile_id=profile_id, limits=limits)
    outline.refuse_more(len(view))
    if not partial:
        _check_whole(view, outline)
    bodies = [read_part(view, outline, index) for index in range(outline.complete(len(view)))]
    return Container(header=outline.header, entries=outline.entries, bodies=tuple(bodies))


def read_part(data: bytes | memoryview, outline: Outline, index: int) -> memoryview:
    """A view of one part, whatever became of the others.

    Args:
        data: the object, or a prefix of it.
        outline: `read_header` of it.

    Raises:
        ContainerError: `data` ends before the part does, or the part is damaged.
    """
    view = memoryview(data).cast("B")
    if len(view) < outline.ends[index]:
        raise Truncated(present=len(view), needed=outline.ends[index], of=f"part {index}")
    body = view[outline.begins[index] : outline.ends[index]]
    if crc(body) != outline.checksums[index]:
        raise Damaged(f"part {index}", "its checksum does not match")
    return body


def iterate(data: bytes | memoryview, *, limits: Limits = DEFAULT) -> Iterator[memoryview]:
    """Views of the objects that lie one after another in `data`; their headers are checked.

    Raises:
        ContainerError: `data` is empty, or something in it is not a whole object.
    """
    rest = memoryview(data).cast("B")
    while True:
        outline = read_header(rest, limits=limits)
        _check_whole(rest, outline)
        yield rest[: outline.total_bytes]
        rest = rest[outline.total_bytes :]
        if not rest:
            return


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write objects one after another, the whole file or nothing.

    Raises:
        ContainerError: one of `chunks` is not an object.
        ValueError: there is none.
        OSError: the disk refused.
    """
    with replacing(path) as unfinished:
        with unfinished.open("wb") as file:
            for chunk in chunks:
                file.writelines(iterate(chunk))
            empty = file.tell() == 0
        if empty:
            raise ValueError(f"{path}: no chunk to write")


def read_file(path: Path, *, limits: Limits = DEFAULT) -> list[memoryview]:
    """The objects of a file, each to be given to `read`.

    Raises:
        ContainerError: something in it is not a whole object.
        ValueError: there is no such file.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `frontload kv encode` writes one")
    return list(iterate(path.read_bytes(), limits=limits))


def _check_whole(view: memoryview, outline: Outline) -> None:
    if len(view) < outline.total_bytes:
        raise Truncated(present=len(view), needed=outline.total_bytes, of="the object")
