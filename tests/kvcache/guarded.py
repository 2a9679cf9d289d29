"""Memory that ends where its content ends: one byte further is a page that faults."""

from __future__ import annotations

import ctypes
import mmap
import os

PAGE = mmap.PAGESIZE


class Guarded:
    """Room for `num_bytes`, in front of a page that nobody may touch."""

    def __init__(self, num_bytes: int) -> None:
        self.size = -(-num_bytes // PAGE) * PAGE
        self._map = mmap.mmap(-1, self.size + PAGE)
        behind = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + self.size
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(behind), ctypes.c_size_t(PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def last(self, num_bytes: int) -> memoryview:
        """The last bytes before the guard, to be written."""
        assert num_bytes <= self.size
        return memoryview(self._map)[self.size - num_bytes : self.size]

    def holding(self, data: bytes) -> memoryview:
        """`data`, with its end at the guard."""
        view = self.last(len(data))
        view[:] = data
        return view.toreadonly()
