"""Would token deltas pay on this model? The test behind the container's reserved flag.

Guarantees: direct values and deltas lie on one lattice, so that the loss is the same and only bits
differ; anchors are on that lattice, too (8-bit anchors would cost more). Gives up: tables; it
compares empirical entropies a component, which flatters the wider alphabets of deltas a little.

Source: CacheGen (arXiv 2310.07240), section 5.1: groups of ten tokens, the first is the anchor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from frontload.kvcache.codec.quantize import coarser, integers
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile


@dataclass(frozen=True, kw_only=True)
class DeltaGain:
    """Bits a value of one depth's integers, coded in three ways."""

    depth: int
    direct: float
    anchor: float  # differences to the first of a group of tokens, and those
    previous: float  # differences to the token before

    @property
    def gain(self) -> float:
        """Share of bits that the better delta saves; negative where deltas cost."""
        return 1 - min(self.anchor, self.previous) / max(self.direct, 1e-9)

    def __str__(self) -> str:
        anchor, previous = (
            f"{100 * (bits / max(self.direct, 1e-9) - 1):+.0f} %"
            for bits in (self.anchor, self.previous)
        )
        verdict = "not used" if self.gain <= 0 else "would save bits, but the format has none"
        return f"token deltas: {anchor} bits (anchors), {previous} (previous token): {verdict}"


def delta_gain(
    profile: Profile, chunks: Sequence[KVTensors], *, depth: int | None = None, group: int = 10
) -> DeltaGain:
    """Measure `chunks` at `depth` (the middle one by default).

    Raises:
        ValueError: no chunk, or none with two tokens.
    """
    if not any(chunk.num_tokens > 1 for chunk in chunks):
        raise ValueError("chunks: deltas need a chunk of at least two tokens")
    depth = profile.finest // 2 if depth is None else depth
    found = [
        coarser(integers(profile, chunk)[0].astype(np.int64), profile.finest - depth)
        for chunk in chunks
    ]
    bits = {"direct": 0.0, "anchor": 0.0, "previous": 0.0}
    for b in range(profile.num_blocks):
        for k in range(profile.tables.live[b, depth]):
            columns = [integer[b, :, k] for integer in found]
            for way, symbols in _ways(columns, group):
                bits[way] += _bits(symbols)
    values = sum(chunk.num_values for chunk in chunks)
    return DeltaGain(depth=depth, **{way: each / values for way, each in bits.items()})


def _ways(columns: Sequence[np.ndarray], group: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Streams with a distribution of their own, for each way of coding a component."""
    yield "direct", [np.concatenate(columns)]
    first = [column[::group] for column in columns]
    others = [
        np.delete(column - np.repeat(anchor, group)[: len(column)], np.s_[::group])
        for column, anchor in zip(columns, first, strict=True)
    ]
    yield "anchor", [np.concatenate(first), np.concatenate(others)]
    starts = np.array([column[0] for column in columns])
    yield "previous", [starts, np.concatenate([np.diff(column) for column in columns])]


def _bits(streams: Sequence[np.ndarray]) -> float:
    total = 0.0
    for stream in streams:
        counts = np.unique_counts(stream).counts
        total -= float((counts * np.log2(counts / max(len(stream), 1))).sum())
    return total
