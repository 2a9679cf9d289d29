"""The best CacheGen that we can find: a walk over the settings that the public record leaves open.

Guarantees: deterministic; each step changes one choice and keeps what scores best, until a whole
round changes nothing; every trial is returned, so that the table can be printed. Gives up: choices
that only pay together, but for the ones bound to each other in `MOVES`.

    trials = search(lambda settings: bits_at_equal_loss(settings))
    best(trials).settings
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frontload.kvcache.codec.baselines.cachegen_quantize import (
    OFFLINE_LEVELS,
    PUBLISHED,
    TOKEN_LEVELS,
    CacheGenSettings,
)

Score = Callable[[CacheGenSettings], float | None]
Moves = Mapping[str, Sequence[Mapping[str, Any]]]

WITH_ANCHORS: Moves = {
    "unit": (
        {"deltas": "token", "levels": TOKEN_LEVELS},
        {"deltas": "layer", "levels": OFFLINE_LEVELS},
        {"deltas": "model", "levels": OFFLINE_LEVELS},
    ),
    "bins": tuple(
        {"bins": bins}
        for bins in ((0.5, 1.0, 1.5), (1.0, 1.0, 1.0), (1.5, 1.0, 0.5), (0.25, 1.0, 1.75))
    ),
    "rotary": ({"undo_rotary": False}, {"undo_rotary": True}),
    "anchors": ({"anchors": "token"}, {"anchors": "layer"}),
    "group": tuple({"group_tokens": tokens} for tokens in (5, 10, 20, 40, 80)),
    "vector": ({"vector": "layer"}, {"vector": "head"}),
}
"""Choices that leave it what the paper describes: anchors of 8 bits and deltas against them."""

ANY: Moves = {
    **WITH_ANCHORS,
    "anchors": (*WITH_ANCHORS["anchors"], {"anchors": "level"}),
    "group": ({"group_tokens": 0}, *WITH_ANCHORS["group"]),
}
"""Also anchors on the deltas' lattice, and no anchors or deltas at all."""

BEST = CacheGenSettings(
    name="cachegen-best",
    group_tokens=80,
    deltas="model",
    bins=(0.25, 1.0, 1.75),
    levels=OFFLINE_LEVELS,
    undo_rotary=True,
)
"""What `search` found on the bench model, scored over text, retrieval and another domain."""

DIRECT = dataclasses.replace(BEST, name="cachegen-direct", group_tokens=0)
"""The same without anchors and deltas, 3 % better there."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings and their score: bits per value at equal loss, infinite if no level reaches it."""

    settings: CacheGenSettings
    score: float


def search(
    score: Score, *, start: CacheGenSettings = PUBLISHED, moves: Moves = WITH_ANCHORS
) -> list[Trial]:
    """Trials in the order they were made; each setting is scored once.

    Args:
        score: bits per value at a fixed loss, or None if no level encloses it.
        start: where to begin.
        moves: what may be changed, one entry at a time.
    """
    trials: dict[str, Trial] = {}

    def tried(settings: CacheGenSettings) -> Trial:
        key = repr(settings)
        if key not in trials:
            found = score(settings)
            trials[key] = Trial(settings=settings, score=math.inf if found is None else found)
        return trials[key]

    here = tried(start)
    while True:
        before = here
        for alternatives in moves.values():
            step = [tried(dataclasses.replace(here.settings, **change)) for change in alternatives]
            here = min((here, *step), key=lambda trial: trial.score)
        if here is before:
            return list(trials.values())


def best(trials: Sequence[Trial]) -> Trial:
    """The trial of the lowest score; the first of equals."""
    return min(trials, key=lambda trial: trial.score)
