"""Static distributions of a block's integers, from calibration coefficients.

Guarantees: every symbol of an alphabet can be coded (a count of at least 1 in 4096), the rest goes
to an escape; a component is coded only from the depth on at which it is worth its bits. Gives up:
adaptation: every distribution comes from calibration, and drift is reported instead.

Two passes: `births` says from which depth on each component is coded, the caller sorts components
by it, `fit` makes the tables of sorted components. Both look at the samples once, for a histogram
of the finest integers, from which every coarser depth follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frontload.kvcache.codec.counts import rounded_counts
from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import SUBSTEPS, TABLE_BITS, TABLE_TOTAL, Tables

LARGEST = 127  # of an alphabet; beyond it, escape
ESCAPE_BITS = 16  # an escaped integer follows as it is
SLOPE = 2 * np.log(2) / 12  # squared steps that a bit buys of a uniform quantizer at high rate
SAFE_SHARE = 0.3  # of the safer set's mass that follows a distribution twice as wide
PRIOR_SAMPLES = 2.0  # what a Laplace shape counts beside the samples


@dataclass(frozen=True)
class _Histogram:
    """One component's integers at some depth: how often each occurs, and its samples' sum."""

    integer: np.ndarray  # ascending, those that occur
    count: np.ndarray
    total: np.ndarray  # sum of the coefficients that were rounded to it, in finest steps
    step: float  # of the depth, in finest steps

    @staticmethod
    def of(column: np.ndarray) -> _Histogram:
        """At the finest depth."""
        integer = np.rint(column).astype(np.int64)
        least = integer.min()
        count = np.bincount(integer - least)
        total = np.bincount(integer - least, weights=column)
        seen = np.flatnonzero(count)
        return _Histogram(seen + least, count[seen], total[seen], 1.0)

    def coarsened(self) -> _Histogram:
        """One depth coarser."""
        coarse = coarser(self.integer)
        first = np.flatnonzero(np.diff(coarse, prepend=coarse[0] - 1))
        return _Histogram(
            coarse[first],
            np.add.reduceat(self.count, first),
            np.add.reduceat(self.total, first),
            3.0 * self.step,
        )

    def entropy(self) -> float:
        """Bits an integer."""
        share = self.count / self.count.sum()
        return float(-(share * np.log2(share)).sum())

    def saved(self) -> float:
        """Mean energy that coding removes, in squared finest steps; negative if it adds."""
        point = self.step * self.integer
        return float((2 * point * self.total - point**2 * self.count).sum() / self.count.sum())


def births(coefficients: np.ndarray, finest: int) -> np.ndarray:
    """uint8 `[k]`: the first depth at which each component saves more than its bits are worth.

    Args:
        coefficients: float32 `[samples, k]`, in finest steps.
        finest: the deepest depth.

    `finest + 1` is a component that is never coded.
    """
    birth = np.full(coefficients.shape[1], finest + 1, np.uint8)
    for k, column in enumerate(np.ascontiguousarray(coefficients.T, np.float64)):
        histogram = _Histogram.of(column)
        for depth in range(finest, -1, -1):
            if histogram.saved() <= SLOPE * histogram.step**2 * histogram.entropy():
                break  # coarser depths stay without it: live at one depth, live at every deeper one
            birth[k] = depth
            histogram = histogram.coarsened()
    return birth


def fit(coefficients: np.ndarray, birth: np.ndarray, finest: int) -> Tables:
    """Tables of blocks whose components are sorted by birth.

    Args:
        coefficients: float32 `[blocks, samples, k]`, in finest steps.
        birth: uint8 `[blocks, k]`, non-decreasing along k.
        finest: the deepest depth.
    """
    blocks, _, size = coefficients.shape
    depths = finest + 1
    live = np.stack([(birth <= depth).sum(axis=1) for depth in range(depths)], axis=1)
    largest = np.zeros((blocks, size), np.int32)
    start = np.full((blocks, size), -1, np.int32)
    base: list[np.ndarray] = []
    trits = np.empty((2, blocks, size, depths, 2, 2), np.uint16)
    trits[...] = _cumulative(np.ones(3))[1:3]
    offset = np.zeros((blocks, size, depths, 2), np.uint8)
    filled = 0
    for b in range(blocks):
        columns = np.ascontiguousarray(coefficients[b].T, np.float64)
        for k in range(live[b, finest]):
            histogram = _Histogram.of(columns[k])
            for depth in range(finest, birth[b, k], -1):
                offset[b, k, depth] = _offsets(histogram)
                trits[:, b, k, depth] = _trit_counts(histogram)
                histogram = histogram.coarsened()
            offset[b, k, birth[b, k]] = _offsets(histogram)
            largest[b, k] = _largest(histogram)
            start[b, k] = filled
            base.append(_alphabet(histogram, largest[b, k]))
            filled += base[-1].shape[1]
    empty = np.zeros((2, 0), np.uint16)
    return Tables(
        live=live.astype(np.int32),
        largest=largest,
        start=start,
        base=np.concatenate([empty, *base], axis=1),
        trits=trits,
        offset=offset,
    )


def code_lengths(
    tables: Tables, integer: np.ndarray, *, table_set: int = 0, blocks: np.ndarray | None = None
) -> np.ndarray:
    """float64 `[blocks, depths]`: bits of all components; see `component_lengths`."""
    return component_lengths(tables, integer, table_set=table_set, blocks=blocks).sum(axis=-1)


def component_lengths(
    tables: Tables, integer: np.ndarray, *, table_set: int = 0, blocks: np.ndarray | None = None
) -> np.ndarray:
    """float64 `[blocks, depths, k]`: bits that the tables spend on the integers of each depth.

    Args:
        tables: of the profile.
        integer: int32 `[blocks, tokens, k]` at the finest depth.
        table_set: 0 as calibrated, 1 safer.
        blocks: which blocks the first axis of `integer` holds; all of them by default.
    """
    chosen = np.arange(len(integer)) if blocks is None else blocks
    depths = tables.live.shape[1]
    bits = np.zeros((len(integer), depths, integer.shape[2]))
    for i, b in enumerate(chosen):
        born = 0
        for depth in range(depths):
            live = tables.live[b, depth]
            at_depth = coarser(integer[i, :, :live].astype(np.int64), depths - 1 - depth)
            bits[i, depth, born:live] = _alphabet_bits(
                tables, table_set, b, born, at_depth[:, born:]
            )
            bits[i, depth, :born] = _trit_bits(
                tables.trits[table_set, b, :born, depth], at_depth, born
            )
            born = live
    return bits


def _alphabet_bits(
    tables: Tables, table_set: int, block: int, first: int, integer: np.ndarray
) -> np.ndarray:
    """Bits of each of the components `first` to `first + n` of a block; integers `[tokens, n]`."""
    born = slice(first, first + integer.shape[1])
    largest, start = tables.largest[block, born], tables.start[block, born]
    escaped = abs(integer) > largest
    symbol = start + np.where(escaped, 2 * largest + 1, integer + largest)
    base = tables.base[table_set].astype(np.int64)
    count = base[symbol + 1] - base[symbol]
    return (TABLE_BITS - np.log2(count) + ESCAPE_BITS * escaped).sum(axis=0)


def _trit_bits(table: np.ndarray, integer: np.ndarray, born: int) -> np.ndarray:
    """Bits of the trits of each of a block's first `born` components; table `[born, 2, 2]`."""
    coarse = coarser(integer[:, :born])
    trit = integer[:, :born] - 3 * coarse
    relative = np.where(coarse == 0, trit, trit * np.sign(coarse)) + 1
    edges = np.zeros((born, 2, 4), np.int64)
    edges[..., 1:3] = table
    edges[..., 3] = TABLE_TOTAL
    count = np.diff(edges)[np.arange(born), (coarse != 0).astype(np.int64), relative]
    return (TABLE_BITS - np.log2(count)).sum(axis=0)


def _largest(histogram: _Histogram) -> int:
    """The m at which an alphabet -m..m with escape is cheapest; at least 1.

    A pair of symbols takes 2 of 4096 counts from all others, (2 / 4096) / ln 2 bits a sample; an
    integer beyond m costs its 16 bits, and the escape symbol rather than its own.
    """
    magnitude = np.minimum(abs(histogram.integer), LARGEST + 1)
    occurs = np.bincount(magnitude, histogram.count, minlength=LARGEST + 2)[1:]
    samples = histogram.count.sum()
    beyond = occurs[::-1].cumsum()[::-1][1:]  # of |q| > m, for m = 1, 2, ..., LARGEST
    rare = np.maximum(beyond / samples, 1 / TABLE_TOTAL)
    escapes = beyond * (ESCAPE_BITS - np.log2(rare))
    own = occurs[:-1] * np.minimum(TABLE_BITS, np.log2(2 * samples / np.maximum(occurs[:-1], 1)))
    room = 2 * np.arange(1, LARGEST + 1) * samples / TABLE_TOTAL / np.log(2)
    return int(np.argmin(escapes + own.cumsum() + room)) + 1


def _alphabet(histogram: _Histogram, largest: int) -> np.ndarray:
    """uint16 `[2, 2m + 3]`: cumulative counts of both sets."""
    inside = abs(histogram.integer) <= largest
    symbols = np.arange(-largest, largest + 1)
    counts = np.zeros(len(symbols))
    counts[histogram.integer[inside] + largest] = histogram.count[inside]
    spread = max(float((counts * abs(symbols)).sum() / max(counts.sum(), 1)), 0.25)
    prior = np.exp(-abs(symbols) / spread)
    calibrated = counts + PRIOR_SAMPLES * prior / prior.sum()
    wide = np.exp(-abs(symbols) / (2 * spread))
    safer = (1 - SAFE_SHARE) * calibrated / calibrated.sum() + SAFE_SHARE * wide / wide.sum()
    escapes = histogram.count[~inside].sum()
    return np.stack(
        [
            _cumulative(np.append(calibrated, escapes)),
            _cumulative(np.append(safer, 4 / TABLE_TOTAL)),
        ]
    )


def _trit_counts(histogram: _Histogram) -> np.ndarray:
    """uint16 `[2 sets, 2 contexts, 2]`."""
    coarse = coarser(histogram.integer)
    trit = histogram.integer - 3 * coarse
    counts = np.empty((2, 2, 2), np.uint16)
    for context, (of, symbol) in enumerate(
        ((coarse == 0, trit), (coarse != 0, trit * np.sign(coarse)))
    ):
        seen = np.bincount(symbol[of] + 1, histogram.count[of], minlength=3) + 1.0
        flat = (1 - SAFE_SHARE) * seen / seen.sum() + SAFE_SHARE / 3
        counts[0, context] = _cumulative(seen)[1:3]
        counts[1, context] = _cumulative(flat)[1:3]
    return counts


def _offsets(histogram: _Histogram) -> np.ndarray:
    """uint8 `[2]`: how far the mean of |q| = 1 and of |q| >= 2 lies below the bin's centre."""
    magnitude = abs(histogram.integer)
    outward = histogram.total * np.sign(histogram.integer) / histogram.step
    short = magnitude * histogram.count - outward
    means = [
        short[of].sum() / max(histogram.count[of].sum(), 1)
        for of in (magnitude == 1, magnitude >= 2)
    ]
    return np.clip(np.rint(np.multiply(means, SUBSTEPS)), 0, SUBSTEPS // 2 - 1).astype(np.uint8)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    return rounded_counts(weights, TABLE_TOTAL).astype(np.uint16)
