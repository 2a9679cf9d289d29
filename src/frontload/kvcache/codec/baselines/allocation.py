"""Bits for groups of components by dynamic programming: KVTC's allocation.

Guarantees: the least distortion of all ways to cut the components into consecutive groups and to
give each a number of bits, whatever the options are. Gives up: costs that depend on each other
(DEFLATE comes afterwards and is not foreseen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Option:
    """Code components `first` to `beyond` (excluded) with `bits` each.

    `cost` is what that takes of the budget, in its units; `half` shifts the grid by half a step.
    """

    first: int
    beyond: int
    bits: int
    half: bool
    cost: int
    distortion: float


class Allocation:
    """Solves every budget up to `most` at once.

    Args:
        options: their ends must allow at least one chain from 0 to `length` that costs nothing.
        length: components.
        most: the largest budget that will be asked for.
    """

    def __init__(self, options: Sequence[Option], length: int, most: int) -> None:
        self._starting: dict[int, list[Option]] = {}
        for option in options:
            assert 0 <= option.first < option.beyond <= length
            self._starting.setdefault(option.first, []).append(option)
        self._length = length
        self._least = {length: np.zeros(most + 1)}
        self._choice: dict[int, np.ndarray] = {}
        for first in sorted(self._starting, reverse=True):
            self._solve(first, most)

    def distortion(self) -> np.ndarray:
        """float64 `[most + 1]`: the least distortion of each budget."""
        return self._least[0]

    def groups(self, budget: int) -> list[Option]:
        """The options that reach it, in order."""
        chosen, first = [], 0
        while first < self._length:
            option = self._starting[first][self._choice[first][budget]]
            chosen.append(option)
            first, budget = option.beyond, budget - option.cost
        return chosen

    def _solve(self, first: int, most: int) -> None:
        """What is left from `first` on, for every budget: the best option and all behind it."""
        totals = np.full((len(self._starting[first]), most + 1), np.inf)
        for total, option in zip(totals, self._starting[first], strict=True):
            behind = self._least.get(option.beyond)
            if behind is not None and option.cost <= most:
                total[option.cost :] = option.distortion + behind[: most + 1 - option.cost]
        self._choice[first] = totals.argmin(axis=0)
        self._least[first] = totals.min(axis=0)
