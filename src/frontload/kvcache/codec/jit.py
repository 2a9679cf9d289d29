"""`kernel`: numba without the GIL, cached on disk for as long as no file of kernels changes.

Guarantees: a compiled kernel is never older than the code it calls. numba itself compares only the
file in which a kernel is defined, but links the machine code of whatever it calls into it; after an
edit elsewhere it would run the old code. Gives up: numba's documented interface in one line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba import njit

HERE = Path(__file__).parent


def sources(folder: Path = HERE) -> list[Path]:
    """Files whose code or constants may be in a kernel: those that say numba or kernel, and
    the profile's, which has the format's constants.
    """
    names = re.compile(r"^(from|import) .*(numba|jit import kernel)", re.MULTILINE)
    found = [path for path in folder.rglob("*.py") if names.search(path.read_text("utf-8"))]
    return sorted([*found, HERE.parent / "profile.py"])


def stamp(files: Sequence[Path]) -> str:
    """Changes whenever one of the files does."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = stamp(sources())


def kernel(function: Callable[..., Any]) -> Any:
    """`function` compiled on its first call and from then on read from the cache."""
    compiled = njit(nogil=True, cache=True)(function)
    if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT=1
        compiled._cache._cache_file._source_stamp = _STAMP
    return compiled
