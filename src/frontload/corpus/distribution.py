"""A distribution of non-negative whole numbers in constant memory.

Bins are exact up to 16 and then eight to a doubling, so that a quantile is off by 5 % at most,
whether lengths run to ten or to ten million. Count, sum, least and greatest are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXACT = 16
_PER_DOUBLING = 8
_NUM_BINS = _EXACT + _PER_DOUBLING * 44


def _edges() -> NDArray[np.float64]:
    steps = np.arange(1, _NUM_BINS - _EXACT + 1) / _PER_DOUBLING
    return np.concatenate([np.arange(_EXACT + 1), _EXACT * 2.0**steps])


_EDGES = _edges()


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """A summary: `counts[i]` values lie in [edges[i], edges[i + 1])."""

    count: int
    mean: float
    least: int
    p10: int
    median: int
    p90: int
    greatest: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Tally:
    """Collects values; `summary` turns them into a `Distribution`."""

    def __init__(self) -> None:
        self._bins = np.zeros(_NUM_BINS, np.int64)
        self._sum = 0
        self._least: int | None = None
        self._greatest = 0

    def add(self, values: NDArray[np.int64]) -> None:
        """Take in a batch of values of at least 0."""
        if len(values) == 0:
            return
        places = np.searchsorted(_EDGES, values, side="right") - 1
        self._bins += np.bincount(places.clip(max=_NUM_BINS - 1), minlength=_NUM_BINS)
        self._sum += int(values.sum())
        least = int(values.min())
        self._least = least if self._least is None else min(self._least, least)
        self._greatest = max(self._greatest, int(values.max()))

    def summary(self, num_bars: int = 24) -> Distribution | None:
        """The distribution, drawn with at most `num_bars` bars; None when nothing was added."""
        if self._least is None:
            return None
        filled = np.flatnonzero(self._bins)
        first, last = int(filled[0]), int(filled[-1]) + 1
        width = -(-(last - first) // num_bars)
        starts = np.arange(first, last, width)
        counts = np.add.reduceat(self._bins[first:last], starts - first)
        edges = [float(_EDGES[start]) for start in starts] + [float(_EDGES[last])]
        total = int(self._bins.sum())
        return Distribution(
            count=total,
            mean=self._sum / total,
            least=self._least,
            p10=self._quantile(0.1),
            median=self._quantile(0.5),
            p90=self._quantile(0.9),
            greatest=self._greatest,
            edges=tuple(edges),
            counts=tuple(int(count) for count in counts),
        )

    def _quantile(self, share: float) -> int:
        assert self._least is not None
        reached = np.cumsum(self._bins) >= share * self._bins.sum()
        place = int(np.argmax(reached))
        middle = (_EDGES[place] * (_EDGES[place + 1] - 1)) ** 0.5 if place >= _EXACT else place
        return int(min(max(round(middle), self._least), self._greatest))
