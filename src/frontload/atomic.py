"""Files that appear whole or not at all, and errors of writing that a person can act on.

Guarantees: a file written through `replacing` gets its name after its bytes reached the disk, in
one rename; an error removes the unfinished file and keeps the old one. Gives up: a killed process
leaves its unfinished file, hidden and named after its id, beside the old one.

    with replacing(path) as unfinished:
        pq.write_table(table, unfinished)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end; folders are made.

    Raises:
        OSError: it could not be written (a full disk, say); `path` is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with naming_directory(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            flush(unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        flush(path.parent)


@contextmanager
def naming_directory(directory: Path, *also: type[Exception]) -> Iterator[None]:
    """Let an OSError of writing (or one of `also`) name the directory and the remedy."""
    refused: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except refused as error:
        raise OSError(
            f"cannot write to {directory}: {error}. Free some space there or allow writing, and "
            "run again"
        ) from error


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
