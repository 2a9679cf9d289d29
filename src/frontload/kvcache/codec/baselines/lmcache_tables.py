"""Bins, scales and distributions of CacheGen as LMCache ships it.

Guarantees: the same integers and the same tables as the published encoder's rules give. Gives up:
what those rules get wrong (a token of zeros divides by zero there, not here).

Source: the published encoder and its table of models; docs/cachegen.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frontload.kvcache.codec.baselines import offline
from frontload.kvcache.codec.baselines.channel_tables import fit_channels
from frontload.kvcache.codec.baselines.envelope import checked, rows
from frontload.kvcache.layout import CacheLayout, KVTensors

LEVELS = (
    *((8, 6), (10, 8), (12, 10), (16, 12), (24, 12), (32, 16), (46, 24), (64, 32)),
    *((96, 48), (128, 64), (192, 128), (256, 256)),
)
KIND = "frontload-lmcache-tables"


@dataclass(frozen=True, kw_only=True)
class OfflineTables:
    """`tables["level.plane"]`: uint16 `[channels, 2m + 1]`, cumulative counts without both ends.

    Planes are K of every layer, then V.
    """

    layout: CacheLayout
    tables: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        offline.save(path, KIND, {"layout": self.layout.to_json()}, self.tables)

    @staticmethod
    def load(path: Path) -> OfflineTables:
        """Read what `save` wrote.

        Raises:
            ValueError: not such tables, or damaged.
        """
        meta, tables = offline.load(path, KIND)
        return OfflineTables(layout=CacheLayout.from_json(meta["layout"]), tables=tables)


def calibrate(layout: CacheLayout, runs: Sequence[KVTensors]) -> OfflineTables:
    """Tables of all levels from `runs`, for the variant that does not send them.

    Raises:
        ValueError: no runs, or one that `layout` does not describe.
    """
    if not runs:
        raise ValueError("no calibration runs; give the caches of some contexts")
    vectors = np.concatenate(
        [rows(checked(run, layout), layout, undo_rotary=False) for run in runs], axis=2
    )
    scales = abs(vectors).max(axis=-1)
    tables = {}
    for level in range(len(LEVELS)):
        largest = largest_of_layers(layout, level)
        for plane, integers in enumerate(planes_of(quantize(vectors, scales, largest))):
            m = int(largest.reshape(-1)[plane])
            tables[table_name(level, plane)] = fit_channels(integers, m)[:, 1:-1].astype(np.uint16)
    return OfflineTables(layout=layout, tables=tables)


def largest_of_layers(layout: CacheLayout, level: int) -> np.ndarray:
    """int `[2, layers]`: b bins give the integers -m..m with m = b // 2 - 1.

    Early are K layers 0 to 9 (so all of a model under ten layers) and V layers 0 and 1.
    """
    early, late = (bins // 2 - 1 for bins in LEVELS[level])
    layer = np.arange(layout.num_layers)
    return np.stack((np.where(layer < 10, early, late), np.where(layer < 2, early, late)))


def quantize(vectors: np.ndarray, scales: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """int32 like `vectors` `[2, layers, tokens, channels]`; a token of zeros gives zeros."""
    safe = np.where(scales > 0, scales, 1)[..., None]
    return np.rint(vectors / safe * largest[..., None, None]).astype(np.int32)


def dequantize(integers: np.ndarray, scales: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """float32, the inverse of `quantize`."""
    steps = (scales / largest[..., None]).astype(np.float32)
    return integers.astype(np.float32) * steps[..., None]


def in_band_tables(counts: np.ndarray) -> np.ndarray:
    """uint16 `[planes, channels, symbols + 1]`: its cumulative tables, strictly increasing.

    `counts` is `[planes, channels, symbols]`; the sum is scaled to 65536 less the symbols and one
    is added for each, the last entry (65536) wrapping to 0.
    """
    symbols = counts.shape[-1]
    cumulative = np.cumsum(counts, axis=-1)
    share = cumulative * (65_536 - symbols) // cumulative[..., -1:]
    tables = np.zeros((*counts.shape[:-1], symbols + 1), np.int64)
    tables[..., 1:] = share + np.arange(1, symbols + 1)
    return tables.astype(np.uint16)


def longest(largest: np.ndarray) -> int:
    """The m that all tables sent have room for."""
    return int(largest.max())


def planes_of(integers: np.ndarray) -> np.ndarray:
    """`[2 * layers, tokens, channels]`."""
    return integers.reshape(-1, *integers.shape[2:])


def histogram(plane: np.ndarray, m: int) -> np.ndarray:
    """`[channels, 2m + 2]`: occurrences of -m..m, and an escape that never occurs."""
    width = 2 * m + 2
    symbol = plane + m + np.arange(plane.shape[1]) * width
    return np.bincount(symbol.reshape(-1), minlength=plane.shape[1] * width).reshape(-1, width)


def table_name(level: int, plane: int) -> str:
    """Where offline tables of a plane are."""
    return f"{level}.{plane}"
