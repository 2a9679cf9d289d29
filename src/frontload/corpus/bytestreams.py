"""Lines of plain, gzip and zstd files, with a broken file told from a finished one.

The usual readers take a truncated zstd file for a complete one, and fail on a truncated gzip with
an error that names no file. Here every compressed member must reach its end, or a `ValueError`
names the file. Memory: one chunk plus the longest line.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_GZIP = 31  # zlib's code for a gzip header with the full window


def read_chunks(path: Path, on_bytes: Callable[[int], Any]) -> Iterator[bytes]:
    """Decompressed pieces of `path`; `on_bytes` hears how many stored bytes each took.

    Raises:
        ValueError: the compression is broken or stops before its end.
    """
    if path.suffix not in (".gz", ".zst"):
        yield from _stored_chunks(path, on_bytes)
        return
    open_member, errors = _codec(path.suffix)
    member = open_member()
    started = False
    for stored in _stored_chunks(path, on_bytes):
        while stored:
            started = True
            try:
                plain = member.decompress(stored)
            except errors as error:
                raise ValueError(f"{path}: broken {path.suffix[1:]} data ({error})") from None
            if plain:
                yield plain
            stored = b""
            if member.eof:
                stored, member, started = member.unused_data, open_member(), False
    if started:
        raise ValueError(
            f"{path}: the {path.suffix[1:]} data stops before its end; "
            "the file is truncated, fetch or write it again"
        )


def read_lines(path: Path, on_bytes: Callable[[int], Any]) -> Iterator[bytes]:
    """Lines of `path` without their newline; a last line needs none."""
    rest = b""
    for chunk in read_chunks(path, on_bytes):
        *lines, tail = chunk.split(b"\n")
        if lines:
            lines[0] = rest + lines[0]
            yield from lines
            rest = tail
        else:
            rest += tail
    if rest:
        yield rest


def _stored_chunks(path: Path, on_bytes: Callable[[int], Any]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            on_bytes(len(chunk))
            yield chunk


def _codec(suffix: str) -> tuple[Callable[[], Any], type[Exception]]:
    """What opens one compressed member, and the error it raises on broken data."""
    if suffix == ".gz":
        return (lambda: zlib.decompressobj(_GZIP)), zlib.error
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return decompressor.decompressobj, zstandard.ZstdError
