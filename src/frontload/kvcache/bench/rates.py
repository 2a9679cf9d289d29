"""Rate against loss: points of a codec, bits at equal loss, and savings with their intervals.

Guarantees: bits count every byte of the files; a saving compares two codecs on the same contexts
at the same loss, and its interval comes from drawing those contexts again, the same for both.
Gives up: losses that a codec's levels do not enclose: no bits are extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frontload.kvcache.quality import ContextLoss, Quality, summarize

_SMALLEST_KL = 1e-9  # of a level that happens to lose nothing on the contexts drawn
_DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Point:
    """One codec at one level on the contexts of one domain; lists run over the contexts."""

    codec: str
    level: str
    domain: str
    num_bytes: tuple[int, ...]
    num_values: tuple[int, ...]
    losses: tuple[ContextLoss, ...]

    @property
    def bits_per_value(self) -> float:
        """All bytes of the files over all values."""
        return 8 * sum(self.num_bytes) / sum(self.num_values)

    @property
    def quality(self) -> Quality:
        """The contexts together."""
        return summarize(self.losses)


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Share of the rival's bytes that are saved at equal loss; low and high enclose 95 %."""

    share: float
    low: float
    high: float


def bits_at(points: Sequence[Point], kl: float) -> float | None:
    """Bits per value at which a codec's KL is `kl`: linear between levels in the KL's logarithm.

    None if all levels lose more, or all lose less: then no level shows what that loss costs. A
    lossless level shows it neither: its logarithm is minus infinity, and any line to it is made up.
    """
    bits, losses = _matrix(points)
    return _interpolate(bits.mean(1), losses.mean(1), kl) if len(bits) else None


def saving(ours: Sequence[Point], rival: Sequence[Point], kl: float) -> Saving | None:
    """What `ours` saves against `rival` at the loss `kl`, both measured on the same contexts.

    None where either has no bits at that loss.
    """
    sides = [_matrix(points) for points in (ours, rival)]
    if not all(len(bits) for bits, _ in sides):
        return None
    everything = np.arange(sides[0][0].shape[1])
    rng = np.random.default_rng(0)
    drawn = [rng.choice(everything, len(everything)) for _ in range(_DRAWS)]
    share = _share(sides, everything, kl)
    shares = [x for chosen in drawn if (x := _share(sides, chosen, kl)) is not None]
    if share is None or len(shares) < _DRAWS // 2:
        return None if share is None else Saving(share=share, low=np.nan, high=np.nan)
    low, high = np.quantile(shares, (0.025, 0.975))
    return Saving(share=share, low=float(low), high=float(high))


Side = tuple[NDArray[np.float64], NDArray[np.float64]]


def _share(sides: Sequence[Side], chosen: NDArray[np.int64], kl: float) -> float | None:
    ours, rival = (
        _interpolate(bits[:, chosen].mean(1), losses[:, chosen].mean(1), kl)
        for bits, losses in sides
    )
    return None if ours is None or rival is None else 1 - ours / rival


def _matrix(points: Sequence[Point]) -> Side:
    """(bits per value, KL) of the lossy levels, each [levels, contexts]."""
    points = [p for p in points if any(loss.kl > 0 for loss in p.losses)]
    bits = [8 * np.array(p.num_bytes) / np.array(p.num_values) for p in points]
    return np.array(bits), np.array([[loss.kl for loss in p.losses] for p in points])


def _interpolate(bits: NDArray[np.float64], losses: NDArray[np.float64], kl: float) -> float | None:
    order = np.argsort(bits)
    rates, logs = bits[order], np.log(np.maximum(losses[order], _SMALLEST_KL))
    target = np.log(kl)
    for i in range(len(rates) - 1):  # the cheapest crossing, from more loss to less
        if logs[i] >= target >= logs[i + 1]:
            span = logs[i] - logs[i + 1]
            share = 0.0 if span == 0 else (logs[i] - target) / span
            return float(rates[i] + share * (rates[i + 1] - rates[i]))
    return None
