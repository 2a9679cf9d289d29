"""`kernel`: numba without the GIL, cached on disk for as long as no file of kernels changes.

Guarantees: a compiled kernel is never older than the code it calls. numba itself compares only the
file in which a kernel is defined, but links the machine code of whatever it calls into it; after an
edit elsewhere it would run the old code. Gives up: numba's documented interface in one line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba import njit

FILES = (
    "jit.py", "lanes.py", "lane_memory.py", "entropy.py", "tile_kernels.py", "kernels.py",
    "encode_kernels.py",
)  # fmt: skip


def stamp(folder: Path, files: Sequence[str] = FILES) -> str:
    """Changes whenever one of the files does."""
    digest = hashlib.sha256()
    for name in files:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


_STAMP = stamp(Path(__file__).parent)


def kernel(function: Callable[..., Any]) -> Any:
    """`function` compiled on its first call and from then on read from the cache."""
    compiled = njit(nogil=True, cache=True)(function)
    compiled._cache._cache_file._source_stamp = _STAMP
    return compiled
