"""Near duplicates among the first items, by MinHash with banding.

An item is a near duplicate when it shares a band with an earlier one: 8 bands of 8 minima over its
runs of three words. Two items of Jaccard similarity s share one with probability
1 - (1 - s^8)^8: 2 % at 0.5, half at 0.77, 99 % at 0.9. It looks at the first items only (50,000, or
64 MB), enough for a share; to remove duplicates use a tool built for it, such as datatrove.
"""

from __future__ import annotations

import numpy as np

from frontload.corpus.distinct import Hashes
from frontload.corpus.words import Words, mix

MAX_ITEMS = 50_000
MAX_GRAMS = 16_000_000
_BANDS = 8
_ROWS = 8
_SALTS = mix(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64)) | np.uint64(1)


class NearDuplicates:
    """Counts items that nearly repeat an earlier one."""

    def __init__(self) -> None:
        self.num_items = 0
        self.num_near_duplicates = 0
        self._num_grams = 0
        self._seen: set[int] = set()

    def add(self, grams: Words) -> None:
        """Look at items, given their runs of words; too short items have none and are passed."""
        if self.num_items >= MAX_ITEMS or self._num_grams >= MAX_GRAMS:
            return
        starts = grams.bounds[:-1][grams.counts() > 0]
        if len(starts) == 0:
            return
        self._num_grams += len(grams.hashes)
        self.num_items += len(starts)
        for keys in _band_keys(grams.hashes, starts):
            found = [int(key) for key in keys]
            self.num_near_duplicates += any(key in self._seen for key in found)
            self._seen.update(found)

    @property
    def share(self) -> float | None:
        """Share of the items looked at; None when there were none."""
        return self.num_near_duplicates / self.num_items if self.num_items else None


def _band_keys(hashes: Hashes, starts: np.ndarray) -> Hashes:
    """One key a band for every item, shape (items, bands)."""
    keys = np.zeros((len(starts), _BANDS), np.uint64)
    for number, salt in enumerate(_SALTS):
        band = number // _ROWS
        minima = np.minimum.reduceat(hashes * salt, starts)
        keys[:, band] = mix(keys[:, band] * np.uint64(31) + minima + np.uint64(band))
    return keys
