"""What each idea of the codec is worth: profiles with one of them taken out, and deltas put in.

Guarantees: variants differ from the whole in what their name says and are calibrated on the same
contexts to the same loss of the coarsest depth; deltas are compared on one lattice, where they
change the bits and nothing else. Gives up: interactions; ideas are taken out one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frontload.kvcache.calibrate import CalibrationSettings
from frontload.kvcache.codec.quantize import coarser, integers
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile

GROUP_TOKENS = 10
"""CacheGen's groups: the first token is the anchor of the nine others."""


def variants(whole: CalibrationSettings) -> dict[str, CalibrationSettings]:
    """Name -> settings; `whole` itself is not among them."""
    changes: dict[str, dict[str, object]] = {
        "keys-as-cached": {"rotary": False},
        "no-mean": {"mean": False},
        "no-transform": {"transform": False},
        "no-metric": {"metric": "none"},
        "layer-weights": {"metric": "layers"},
        "no-metric-no-transform": {"metric": "none", "transform": False},
        "no-head": {"head": False},
        "one-group": {"groups": 1},
        "blocks-of-128": {"block_channels": 128},
        "blocks-of-64": {"block_channels": 64},
    }
    return {
        name: whole.model_copy(update=change)
        for name, change in changes.items()
        if any(getattr(whole, field) != value for field, value in change.items())
    }


@dataclass(frozen=True, kw_only=True)
class DeltaBits:
    """Bits per value of the same integers, each way under the best static table of a component."""

    depth: int
    direct: float
    from_anchor: float  # of the group, the anchor itself direct
    from_previous: float  # token, the first direct


def delta_bits(profile: Profile, runs: Sequence[KVTensors], depth: int) -> DeltaBits:
    """Whether tokens are alike enough for differences to pay, on this model.

    CacheGen codes differences; this codec does not, because they cost bits wherever neighbours
    correlate by less than one half. The test to repeat on every new model.
    """
    found = [
        coarser(integers(profile, run)[0], profile.finest - depth).astype(np.int64) for run in runs
    ]
    values = sum(run.num_values for run in runs)

    def bits(change: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> float:
        symbols = np.concatenate([change(each) for each in found], axis=1)
        rows = symbols.transpose(0, 2, 1).reshape(-1, symbols.shape[1])
        return sum(_entropy_bits(row) for row in rows) / values

    return DeltaBits(
        depth=depth,
        direct=bits(lambda q: q),
        from_anchor=bits(_anchored),
        from_previous=bits(_steps),
    )


def _anchored(integer: NDArray[np.int64]) -> NDArray[np.int64]:
    tokens = np.arange(integer.shape[1])
    anchors = integer[:, tokens // GROUP_TOKENS * GROUP_TOKENS]
    is_anchor = (tokens % GROUP_TOKENS == 0)[:, None]
    return integer - np.where(is_anchor, 0, anchors)


def _steps(integer: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(integer, axis=1, prepend=0)


def _entropy_bits(symbols: NDArray[np.int64]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
