"""CacheGen's offline distributions: measured once per model, known to both ends, never sent.

Guarantees: one distribution per channel of K and V of every layer, for anchors and for deltas
apart, and for each level; the profile is immutable and named by a digest that every file carries.
Gives up: models with other layouts than the one it was measured on (refused).

    profile = calibrate(layout, runs, CacheGenSettings())
    profile.save(path)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from frontload.kvcache.codec.baselines import offline
from frontload.kvcache.codec.baselines.cachegen_quantize import (
    ANCHOR_LARGEST,
    CacheGenSettings,
    TensorQuantizer,
)
from frontload.kvcache.codec.baselines.channel_tables import LARGEST, fit_channels
from frontload.kvcache.codec.baselines.envelope import checked, rows
from frontload.kvcache.layout import CacheLayout, KVTensors

KIND = "frontload-cachegen-profile"
ANCHOR_QUANTILE = 0.9999  # of magnitudes; what is beyond escapes


@dataclass(frozen=True, kw_only=True)
class CacheGenProfile:
    """What both ends hold.

    units: float32 `[2 (anchor, delta), 2 (K, V), layers]`, the offline units of the settings.
    tables: by `(level, kind, layer, is_anchor)`, uint16 `[channels, 2m + 1]`: cumulative counts
        without the 0 before and the 65536 behind them. Anchors of 8 bits share level 0's.
    """

    settings: CacheGenSettings
    layout: CacheLayout
    units: np.ndarray
    tables: dict[str, np.ndarray]

    @cached_property
    def digest(self) -> str:
        """Of all that it holds."""
        return offline.digest(self._meta(), self._arrays())

    def quantizer(self, level: int, kind: int, layer: int) -> TensorQuantizer:
        """Of K (0) or V (1) of a layer."""
        return quantizer(self.settings, self.layout, self.units, level, kind, layer)

    def counts(self, level: int, kind: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """uint32 `[2 (delta, anchor), channels, longest]` and int32 `[2]`, for `rangecoder`."""
        chosen = [
            self.tables[table_name(self.settings, level, kind, layer, is_anchor=is_anchor)]
            for is_anchor in ((False, True) if self.settings.group_tokens else (False, False))
        ]
        longest = max(table.shape[1] for table in chosen) + 2
        counts = np.full((2, chosen[0].shape[0], longest), 1 << 16, np.uint32)
        counts[..., 0] = 0
        for i, table in enumerate(chosen):
            counts[i, :, 1 : table.shape[1] + 1] = table
        return counts, np.array([(table.shape[1] - 1) // 2 for table in chosen], np.int32)

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        offline.save(path, KIND, self._meta(), self._arrays())

    @staticmethod
    def load(path: Path) -> CacheGenProfile:
        """Read what `save` wrote.

        Raises:
            ValueError: not such a profile, or damaged.
        """
        meta, arrays = offline.load(path, KIND)
        return CacheGenProfile(
            settings=CacheGenSettings.from_json(meta["settings"]),
            layout=CacheLayout.from_json(meta["layout"]),
            units=arrays.pop("units"),
            tables=arrays,
        )

    def _meta(self) -> dict[str, object]:
        return {"settings": self.settings.to_json(), "layout": self.layout.to_json()}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"units": self.units, **self.tables}


def calibrate(
    layout: CacheLayout, runs: Sequence[KVTensors], settings: CacheGenSettings
) -> CacheGenProfile:
    """Profile a model's distributions on `runs`, caches of typical contexts.

    Raises:
        ValueError: no runs, or one that `layout` does not describe.
    """
    if not runs:
        raise ValueError("no calibration runs; give the caches of some contexts")
    chunks = [
        rows(chunk, layout, undo_rotary=settings.undo_rotary)
        for run in runs
        for chunk in checked(run, layout).chunks(settings.chunk_tokens)
    ]
    units = _units(chunks, settings)
    tables = {}
    for kind, layer in np.ndindex(2, layout.num_layers):
        tensors = [chunk[kind, layer] for chunk in chunks]
        for level in range(len(settings.levels)):
            by_level = quantizer(settings, layout, units, level, kind, layer)
            name = table_name(settings, level, kind, layer, is_anchor=True)
            if settings.group_tokens and name not in tables:
                tables[name] = _fit_anchors(by_level, tensors)
            name = table_name(settings, level, kind, layer, is_anchor=False)
            tables[name] = _fit_deltas(by_level, tensors)
    return CacheGenProfile(settings=settings, layout=layout, units=units, tables=tables)


def table_name(
    settings: CacheGenSettings, level: int, kind: int, layer: int, *, is_anchor: bool
) -> str:
    """Where a tensor's tables are: anchors of 8 bits are the same at all levels."""
    if is_anchor and settings.anchors != "level":
        level = 0
    return f"{'anchor' if is_anchor else 'delta'}.{level}.{'kv'[kind]}.{layer}"


def quantizer(
    settings: CacheGenSettings,
    layout: CacheLayout,
    units: np.ndarray,
    level: int,
    kind: int,
    layer: int,
) -> TensorQuantizer:
    """Of K (0) or V (1) of a layer at a level."""
    return TensorQuantizer(
        settings=settings,
        ratio=settings.ratio(layer, layout.num_layers, level),
        anchor_unit=float(units[0, kind, layer]),
        delta_unit=float(units[1, kind, layer]),
        vectors=layout.num_heads if settings.vector == "head" else 1,
    )


def _units(chunks: list[np.ndarray], settings: CacheGenSettings) -> np.ndarray:
    """Anchors: magnitude / 127. Deltas: the median over tokens of a delta's rms, sinks aside."""
    sizes = np.concatenate([abs(chunk) for chunk in chunks], axis=2)
    anchor = np.quantile(sizes, ANCHOR_QUANTILE, axis=(2, 3)) / ANCHOR_LARGEST
    group = settings.group_tokens
    if group:
        deltas = [
            chunk - chunk[:, :, np.arange(chunk.shape[2]) // group * group] for chunk in chunks
        ]
        moved = [d[:, :, np.arange(d.shape[2]) % group > 0] for d in deltas]
        moved = moved if any(d.shape[2] for d in moved) else chunks
    else:
        every = np.concatenate(chunks, axis=2)
        moved = [every - every.mean(axis=2, keepdims=True)]
    energy = np.median(np.concatenate([(d**2).mean(axis=3) for d in moved], axis=2), axis=2)
    if settings.deltas == "model":
        energy = np.full_like(energy, energy.mean())
    units = np.stack((anchor, np.sqrt(energy))).astype(np.float32)
    return np.maximum(units, np.float32(1e-20))  # a tensor of zeros


def _fit_anchors(by_level: TensorQuantizer, tensors: list[np.ndarray]) -> np.ndarray:
    integers = np.concatenate([by_level.anchors(tensor) for tensor in tensors])
    return _inner(integers, by_level.largest(is_anchor=True))


def _fit_deltas(by_level: TensorQuantizer, tensors: list[np.ndarray]) -> np.ndarray:
    found = []
    for tensor in tensors:
        integers, _ = by_level.quantize(tensor)
        found.append(integers[~by_level.is_anchor(len(tensor))])
    return _inner(np.concatenate(found), by_level.largest(is_anchor=False))


def _inner(integers: np.ndarray, largest: int | None) -> np.ndarray:
    """uint16 `[channels, 2m + 1]`: cumulative counts without both ends."""
    if largest is not None and largest > LARGEST:
        raise ValueError(
            f"levels: a step of 1/{largest} of the largest magnitude needs an alphabet of more "
            f"than {2 * LARGEST + 1} integers; give coarser levels"
        )
    return fit_channels(integers, largest)[:, 1:-1].astype(np.uint16)
