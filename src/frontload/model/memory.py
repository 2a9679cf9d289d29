"""Telling the C library to keep the memory that a training step frees.

A step allocates and frees the same tensors again and again. glibc hands large blocks back to the
kernel each time, which then has to map and zero them for the next step. Keeping them costs resident
memory up to the peak of one step and nothing else; results do not change.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Keep freed blocks below 1 GiB for this process; True if the C library took the setting.

    Without effect (False) outside glibc. Call once, before the first tensor is made.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
    return all(mallopt(option, value) == 1 for option, value in settings.items())
