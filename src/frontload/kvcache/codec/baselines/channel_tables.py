"""Offline distributions, one a channel, of integers that were counted on calibration data.

Guarantees: every integer can be coded (a count of at least 1 in 65536 for each symbol, an escape
beyond the alphabet); how far the counts are trusted against a smooth shape is decided on held-out
halves of the data, tensor by tensor. Gives up: tails that calibration did not show beyond what the
smooth shape gives them.

The public record of CacheGen says that its distributions are profiled offline and no more; the
smoothing is ours, and strong on purpose: a careless floor costs up to 5 % (docs/cachegen.md).
"""

from __future__ import annotations

import numpy as np

from frontload.kvcache.codec.baselines.rangecoder import TOTAL
from frontload.kvcache.codec.counts import rounded_counts

LARGEST = 255  # of an alphabet
PSEUDO_SAMPLES = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)


def fit_channels(integers: np.ndarray, largest: int | None = None) -> np.ndarray:
    """uint32 `[channels, 2m + 3]`, cumulative counts to 65536 as `rangecoder` reads them.

    Args:
        integers: `[samples, channels]`, in their natural order: the halves are held out.
        largest: m; None takes the least that leaves one integer in 4096 to the escape.
    """
    m = largest_of(integers) if largest is None else largest
    halves = [_histogram(half, m) for half in np.array_split(integers, 2)]
    counts = halves[0] + halves[1]
    losses = [_held_out(halves, m, pseudo) for pseudo in PSEUDO_SAMPLES]
    best = PSEUDO_SAMPLES[int(np.argmin(losses))]
    return rounded_counts(counts + best * _smooth(counts, m), TOTAL).astype(np.uint32)


def largest_of(integers: np.ndarray) -> int:
    """The least m, 1 to 255, such that at most one integer in 4096 is beyond it."""
    sizes = np.bincount(np.minimum(abs(integers), LARGEST).reshape(-1), minlength=LARGEST + 1)
    beyond = integers.size - np.cumsum(sizes)
    return max(1, int(np.argmax(beyond <= integers.size / 4096)))


def code_length(integers: np.ndarray, tables: np.ndarray) -> float:
    """Bits of `[samples, channels]` under `fit_channels`' tables, escapes' plain bits included."""
    m = (tables.shape[-1] - 3) // 2
    counts = _histogram(integers, m)
    bits = -np.log2(np.diff(tables.astype(np.int64), axis=-1) / TOTAL)
    return float((counts * bits).sum() + 16 * counts[:, -1].sum())


def _histogram(integers: np.ndarray, m: int) -> np.ndarray:
    """float64 `[channels, 2m + 2]`: how often each symbol occurs; the escape is last."""
    channels, width = integers.shape[1], 2 * m + 2
    symbol = np.where(abs(integers) <= m, integers + m, width - 1) + np.arange(channels) * width
    counts = np.bincount(symbol.reshape(-1), minlength=channels * width)
    return counts.reshape(channels, width).astype(np.float64)


def _smooth(counts: np.ndarray, m: int) -> np.ndarray:
    """`[channels, 2m + 2]`, rows of sum 1: half Gauss, half Laplace, a tenth four times as wide."""
    symbols = np.arange(-m, m + 1)
    inside = counts[:, :-1]
    total = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    mean = (inside * symbols).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((inside * (symbols - mean) ** 2).sum(axis=1, keepdims=True) / total)
    scaled = (symbols - mean) / np.maximum(spread, 0.3)
    laplace = np.exp(-np.sqrt(2) * abs(scaled))
    shapes = (np.exp(-(scaled**2) / 2), laplace, np.exp(-np.sqrt(2) / 4 * abs(scaled)))
    mixed = sum(
        share * shape / shape.sum(axis=1, keepdims=True)
        for share, shape in zip((0.45, 0.45, 0.1), shapes, strict=True)
    )
    return np.concatenate((mixed, np.full((len(counts), 1), 1e-4)), axis=1) / (1 + 1e-4)


def _held_out(halves: list[np.ndarray], m: int, pseudo: float) -> float:
    """Bits of each half under the other half's smoothed counts."""
    bits = 0.0
    for seen, unseen in (halves, halves[::-1]):
        weights = seen + pseudo * _smooth(seen, m)
        share = np.maximum(weights / weights.sum(axis=1, keepdims=True), 1 / TOTAL)
        bits -= float((unseen * np.log2(share)).sum())
    return bits
