"""Static distributions of a block's integers, from calibration coefficients.

Guarantees: every symbol of an alphabet can be coded (a count of at least 1 in 4096), the rest goes
to an escape; a component is coded only from the depth on at which it is worth its bits. Gives up:
adaptation; the prototype found none that pays (facts of docs/LOG.md).

Two passes: `births` says from which depth on each component is coded, the caller sorts components
by it, `fit` makes the tables of sorted components.
"""

from __future__ import annotations

import numpy as np

from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import SUBSTEPS, TABLE_TOTAL, Tables

LARGEST = 127  # of an alphabet; beyond it, escape
SLOPE = 2 * np.log(2) / 12  # squared steps that a bit buys of a uniform quantizer at high rate
SAFE_SHARE = 0.3  # of the safer set's mass that follows a distribution twice as wide


def births(coefficients: np.ndarray, finest: int) -> np.ndarray:
    """uint8 `[k]`: the first depth at which each component saves more than its bits are worth.

    Args:
        coefficients: float32 `[samples, k]`, in finest steps.
        finest: the deepest depth.

    `finest + 1` is a component that is never coded.
    """
    birth = np.full(coefficients.shape[1], finest + 1, np.uint8)
    integer = np.rint(coefficients).astype(np.int64)
    energy = (coefficients**2).mean(axis=0)
    for depth in range(finest, -1, -1):
        step = 3.0 ** (finest - depth)
        rounded = coarser(integer, finest - depth)
        left = ((coefficients - step * rounded) ** 2).mean(axis=0)
        bits = np.array([_entropy(column) for column in rounded.T])
        pays = energy - left > SLOPE * step**2 * bits
        birth[pays & (birth == depth + 1)] = depth  # live at every deeper depth, too
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
        for k in range(size):
            column = coefficients[b, :, k]
            integer = np.rint(column).astype(np.int64)
            for depth in range(birth[b, k], depths):
                at_depth = coarser(integer, finest - depth)
                offset[b, k, depth] = _offsets(column / 3.0 ** (finest - depth), at_depth)
                if depth > birth[b, k]:
                    trits[:, b, k, depth] = _trit_counts(at_depth)
                    continue
                largest[b, k] = _largest(at_depth)
                start[b, k] = filled
                base.append(_alphabet(at_depth, largest[b, k]))
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


def _entropy(symbols: np.ndarray) -> float:
    counts = np.unique_counts(symbols).counts
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _largest(integer: np.ndarray) -> int:
    """The least m such that at most one integer in 4096 is beyond it; at least 1."""
    sizes = np.sort(abs(integer))
    within = int(np.ceil(len(sizes) * (1 - 1 / TABLE_TOTAL))) - 1
    return int(np.clip(sizes[within], 1, LARGEST))


def _alphabet(integer: np.ndarray, largest: int) -> np.ndarray:
    """uint16 `[2, 2m + 3]`: cumulative counts of both sets."""
    inside = integer[abs(integer) <= largest]
    counts = np.bincount(inside + largest, minlength=2 * largest + 1).astype(np.float64)
    spread = max(float(abs(inside).mean()), 0.25)
    symbols = np.arange(-largest, largest + 1)
    prior = np.exp(-abs(symbols) / spread)
    calibrated = counts + 2 * prior / prior.sum()  # a few samples' worth of a Laplace shape
    wide = np.exp(-abs(symbols) / (2 * spread))
    safer = (1 - SAFE_SHARE) * calibrated / calibrated.sum() + SAFE_SHARE * wide / wide.sum()
    escapes = len(integer) - len(inside)
    return np.stack(
        [
            _cumulative(np.append(calibrated, escapes)),
            _cumulative(np.append(safer, 4 / TABLE_TOTAL)),
        ]
    )


def _trit_counts(integer: np.ndarray) -> np.ndarray:
    """uint16 `[2 sets, 2 contexts, 2]`."""
    coarse = coarser(integer)
    trit = integer - 3 * coarse
    counts = np.empty((2, 2, 2), np.uint16)
    for context, chosen in enumerate((trit[coarse == 0], (trit * np.sign(coarse))[coarse != 0])):
        seen = np.bincount(chosen + 1, minlength=3) + 1.0
        flat = (1 - SAFE_SHARE) * seen / seen.sum() + SAFE_SHARE / 3
        counts[0, context] = _cumulative(seen)[1:3]
        counts[1, context] = _cumulative(flat)[1:3]
    return counts


def _offsets(coefficient: np.ndarray, integer: np.ndarray) -> np.ndarray:
    """uint8 `[2]`: how far the mean of |q| = 1 and of |q| >= 2 lies below the bin's centre."""
    magnitude = abs(integer)
    short = magnitude - coefficient * np.sign(integer)
    means = [
        short[chosen].mean() if chosen.any() else 0.0 for chosen in (magnitude == 1, magnitude >= 2)
    ]
    return np.clip(np.rint(np.multiply(means, SUBSTEPS)), 0, SUBSTEPS // 2 - 1).astype(np.uint8)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """uint16 cumulative counts, 0 to 4096, in proportion to `weights`; none is empty."""
    share = weights / weights.sum() * (TABLE_TOTAL - len(weights))
    counts = np.floor(share).astype(np.int64) + 1
    short = TABLE_TOTAL - counts.sum()
    counts[np.argsort(np.floor(share) - share, kind="stable")[:short]] += 1
    return np.concatenate(([0], np.cumsum(counts))).astype(np.uint16)
