"""Tables that travel: distributions in one byte a symbol.

Guarantees: every symbol that occurred can be coded; both ends find the same counts, in integer
arithmetic. Gives up: precision beyond 1/32 of a count, which costs about 0.1 % of the code length;
static tables, which belong to a profile, are `tables`.

A weight byte w means (16 + (w - 1) mod 16) 2^((w - 1) div 16), and 0 means that a symbol is absent.
"""

from __future__ import annotations

import numpy as np

from frontload.kvcache.profile import TABLE_TOTAL

VALUES = np.concatenate(([0], (16 + np.arange(255) % 16) << (np.arange(255) // 16)))


def weights_of(counts: np.ndarray) -> np.ndarray:
    """uint8 weights of non-negative counts, of any shape, in proportion."""
    total = int(counts.sum())
    wanted = counts * VALUES[-1] / max(total, 1)
    weights = np.searchsorted(VALUES, wanted, side="right") - 1
    return np.where((counts > 0) & (weights == 0), 1, weights).astype(np.uint8)


def counts_of(weights: np.ndarray) -> np.ndarray:
    """int32 counts in 4096ths of one distribution's weights; at least 1 where there is a weight.

    Without any weight all counts are 0.
    """
    values = VALUES[weights]
    present = values > 0
    left = TABLE_TOTAL - int(present.sum())
    counts = present + values * left // max(int(values.sum()), 1)
    if present.any():
        counts[np.argmax(counts)] += TABLE_TOTAL - counts.sum()
    return counts.astype(np.int32)
