"""Weights to whole counts of a fixed total: what every static table is made of.

Guarantees: no symbol is without a count, counts add up to the total, and of all such counts these
are the nearest to their shares (largest remainders; of equal ones the first symbol's). Gives up:
being formed alike on all machines, which tables that are stored do not need.
"""

from __future__ import annotations

import numpy as np


def rounded_counts(weights: np.ndarray, total: int) -> np.ndarray:
    """int64 `[..., symbols + 1]`: cumulative counts from 0 to `total`, in proportion to `weights`.

    Args:
        weights: non-negative `[..., symbols]`, each row with a positive sum.
        total: at least the number of symbols.
    """
    share = weights / weights.sum(axis=-1, keepdims=True) * (total - weights.shape[-1])
    whole = np.floor(share).astype(np.int64)
    short = total - weights.shape[-1] - whole.sum(axis=-1, keepdims=True)
    rank = np.argsort(np.argsort(whole - share, kind="stable"), kind="stable")
    return np.cumsum(np.pad(1 + whole + (rank < short), [(0, 0)] * (share.ndim - 1) + [(1, 0)]), -1)
