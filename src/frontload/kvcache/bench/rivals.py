"""The codecs that ours is compared with, calibrated on the same contexts.

Guarantees: a rival that needs statistics gets them from the calibration runs and from nothing else;
names are unique. Gives up: tuning rivals to a model, but for CacheGen, whose variants are all
listed so that the best of them can be named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from frontload.kvcache.codec.baselines import cachegen_profile, kvtc_profile, lmcache_tables
from frontload.kvcache.codec.baselines.cachegen import CacheGen
from frontload.kvcache.codec.baselines.cachegen_quantize import (
    OFFLINE_LEVELS,
    PUBLISHED,
    CacheGenSettings,
)
from frontload.kvcache.codec.baselines.cachegen_search import BEST, DIRECT
from frontload.kvcache.codec.baselines.int8 import Int8
from frontload.kvcache.codec.baselines.kivi import Kivi
from frontload.kvcache.codec.baselines.kvtc import KVTC, WITHOUT_WINDOW
from frontload.kvcache.codec.baselines.kvtc_profile import KVTCSettings
from frontload.kvcache.codec.baselines.lmcache import LMCache
from frontload.kvcache.codec.baselines.lossless import Lossless
from frontload.kvcache.codec.baselines.raw import Raw
from frontload.kvcache.codec.baselines.turboquant import TurboQuant
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.layout import CacheLayout, KVTensors

Make = Callable[[CacheLayout, Sequence[KVTensors]], Codec]
"""A codec from the layout and the caches of calibration contexts."""

_STEP = replace(PUBLISHED, deltas="layer", anchors="layer", levels=OFFLINE_LEVELS)
_FLAT = replace(_STEP, bins=(1, 1, 1))
_MODEL = replace(_FLAT, deltas="model", anchors="level", undo_rotary=True)
CACHEGEN_VARIANTS = (
    replace(_STEP, name="cachegen-step"),
    replace(_FLAT, name="cachegen-flat"),
    replace(_FLAT, name="cachegen-flat-prerotary", undo_rotary=True),
    replace(_MODEL, name="cachegen-model"),
    replace(_MODEL, name="cachegen-nodelta", group_tokens=0),
)
"""One change after the other, from the published settings to what remains without deltas."""


def cachegen(settings: CacheGenSettings) -> Make:
    """CacheGen with any settings."""
    return lambda layout, runs: CacheGen(cachegen_profile.calibrate(layout, runs, settings))


def _kvtc(settings: KVTCSettings) -> Make:
    return lambda layout, runs: KVTC(kvtc_profile.calibrate(layout, runs, settings))


def _lmcache_offline(layout: CacheLayout, runs: Sequence[KVTensors]) -> Codec:
    return LMCache(layout, profile=lmcache_tables.calibrate(layout, runs))


RIVALS: dict[str, Make] = {
    **{
        settings.name: cachegen(settings)
        for settings in (PUBLISHED, *CACHEGEN_VARIANTS, BEST, DIRECT)
    },
    "lmcache": lambda layout, runs: LMCache(layout),
    "raw": lambda layout, runs: Raw(layout),
    "int8": lambda layout, runs: Int8(layout),
    "kivi": lambda layout, runs: Kivi(layout),
    "turboquant": lambda layout, runs: TurboQuant(layout),
    "lossless-rans-channel": lambda layout, runs: Lossless(layout, coder="rans-channel"),
    "lossless-rans-tensor": lambda layout, runs: Lossless(layout, coder="rans-tensor"),
    "lossless-zstd": lambda layout, runs: Lossless(layout, coder="zstd"),
    "lmcache-offline": _lmcache_offline,
    "kvtc": _kvtc(KVTCSettings()),
    "kvtc-nowindow": _kvtc(WITHOUT_WINDOW),
}
