"""The rANS decoder of `lossless`; its encoder is that of the exact level.

Guarantees: reads nothing outside its arrays whatever the bytes say. Gives up: the speed of
`entropy`, which knows whose symbols come next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64

from frontload.kvcache.codec.exact_kernels import BITS, LOWEST, TOTAL
from frontload.kvcache.codec.jit import kernel
from frontload.kvcache.profile import LANES


@kernel
def decode(table: Any, states: Any, words: Any, out: Any) -> Any:
    """Fill `out` `[planes, values]`; whether states and words came out even.

    `table` has 4096 entries a plane, as made by `exact_kernels.lookup`; `words` one element more
    than was sent.
    """
    state = states.astype(np.int64)
    position = 0
    last = len(words) - 1
    i = 0
    for plane in range(out.shape[0]):
        for k in range(out.shape[1]):
            x = state[i]
            entry = int64(table[plane * TOTAL + (x & (TOTAL - 1))])
            out[plane, k] = entry & 0xFF
            x = (((entry >> 8) & (TOTAL - 1)) + 1) * (x >> BITS) + (entry >> 20)
            low = 1 if x < LOWEST else 0
            refilled = (x << 16) | int64(words[min(position, last)])
            state[i] = refilled if low else x
            position += low
            i = (i + 1) % LANES
    even = position == last
    for lane in range(LANES):
        even &= state[lane] == LOWEST
    return even
