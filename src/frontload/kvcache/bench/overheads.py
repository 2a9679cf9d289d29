"""What our format costs beyond its own cross-entropy, and beyond what it could know.

Guarantees: bytes are those of files; cross-entropies are those of the profile's tables, or of
tables fitted to other caches by the same code, on the same integers. Gives up: chunks that hold a
context's first tokens, which are coded finer than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frontload.kvcache.calibration.levels import MOST_HEAD_TOKENS
from frontload.kvcache.codec import tables
from frontload.kvcache.codec.chunk import encode_chunk
from frontload.kvcache.codec.quantize import integers
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile

CHUNK_TOKENS = 256
_FLOOR = 0.02


@dataclass(frozen=True, kw_only=True)
class Overheads:
    """Shares of the bits in the denominator.

    coder: bytes of lossy files of 256 tokens over the tables' cross-entropy.
    levels: cross-entropy of all nested levels over that of the finest coded alone, with one static
        table a component, as large as it takes, of the calibration runs.
    levels_in_files: the same with the files' bytes above.
    shift: cross-entropy of another domain's caches over that under tables fitted to its own.
    """

    coder: float
    levels: float
    levels_in_files: float
    shift: float | None


def overheads(
    profile: Profile,
    calibration: Sequence[KVTensors],
    held_out: Sequence[KVTensors],
    other: Sequence[KVTensors] = (),
) -> Overheads:
    """Measure on `held_out`; `other` is fitted on its first half and measured on its second.

    Raises:
        ValueError: no held-out run has 256 tokens beyond its head.
    """
    cut = (c for run in held_out for c in _beyond_head(run).chunks(CHUNK_TOKENS))
    chunks = [chunk for chunk in cut if chunk.num_tokens == CHUNK_TOKENS]
    if not chunks:
        raise ValueError(f"held_out: give runs of {CHUNK_TOKENS + MOST_HEAD_TOKENS} tokens")
    files = 8 * sum(len(encode_chunk(profile, chunk, exact=False).data) for chunk in chunks)
    integer = _integers(profile, chunks)
    nested = tables.code_lengths(profile.tables, integer).sum()
    born = _births(profile)
    live = born <= profile.finest
    seen = _integers(profile, _without_first(calibration))
    finest = _static_bits(_columns(seen, live), _columns(integer, live))
    return Overheads(
        coder=float(files / nested - 1),
        levels=float(nested / finest - 1),
        levels_in_files=float(files / finest - 1),
        shift=_shift(profile, _without_first(other), born) if len(other) > 1 else None,
    )


def _shift(profile: Profile, runs: Sequence[KVTensors], born: NDArray[np.uint8]) -> float:
    half = len(runs) // 2
    fitted = tables.fit(_integers(profile, runs[:half]).astype(np.float32), born, profile.finest)
    integer = _integers(profile, runs[half:])
    foreign, own = (tables.code_lengths(t, integer).sum() for t in (profile.tables, fitted))
    return float(foreign / own - 1)


def _columns(integer: NDArray[np.int32], live: NDArray[np.bool_]) -> NDArray[np.int32]:
    """`[live components of all blocks, tokens]`."""
    return integer.transpose(0, 2, 1)[live]


def _static_bits(seen: NDArray[np.int32], coded: NDArray[np.int32]) -> float:
    """Cross-entropy of `coded` under one static table a component, without limit on its size.

    A table is the counts of `seen`, and a fiftieth of a count for every symbol of either.
    """
    bits = 0.0
    for before, now in zip(seen, coded, strict=True):
        low = min(before.min(), now.min())
        counts = np.bincount(before - low, minlength=now.max() - low + 1) + _FLOOR
        bits -= np.log2(counts[now - low] / counts.sum()).sum()
    return bits


def _births(profile: Profile) -> NDArray[np.uint8]:
    """The depth at which each component is born; one more than the finest if it never is."""
    live = profile.tables.live[:, None]
    component = np.arange(profile.block_size)[None, :, None]
    return (component >= live).sum(axis=2).astype(np.uint8)


def _integers(profile: Profile, runs: Sequence[KVTensors]) -> NDArray[np.int32]:
    return np.concatenate([integers(profile, run)[0] for run in runs], axis=1)


def _beyond_head(run: KVTensors) -> KVTensors:
    return run.tokens(min(MOST_HEAD_TOKENS, run.num_tokens - 1), run.num_tokens)


def _without_first(runs: Sequence[KVTensors]) -> list[KVTensors]:
    """Position 0 has a mean and a depth of its own."""
    return [run.tokens(1, run.num_tokens) for run in runs]
