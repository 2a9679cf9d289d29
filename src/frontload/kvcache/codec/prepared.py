"""A profile as the CPU kernels read it: contiguous arrays, padded, made once for each profile.

Guarantees: nothing is measured or rounded anew; the arrays are the profile's, rearranged. Gives
up: profiles that the format cannot carry, which are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np

from frontload.kvcache.codec.entropy import GAIN_UNIT, Book
from frontload.kvcache.codec.exact_grid import grids_of
from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.codec.tile_kernels import Basis, Turn
from frontload.kvcache.profile import ESCAPE_LIMIT, LANES, LARGEST_INTEGER, TABLE_TOTAL, Profile

KEPT = 4  # profiles


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What kernels need of a profile."""

    book: Book
    basis: Basis
    profile: Profile

    @cached_property
    def grids(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the exact level: `exact_grid.grids_of`."""
        return grids_of(self.profile)

    @staticmethod
    def of(profile: Profile) -> Prepared:
        """The arrays of `profile`; made once, the last few are kept.

        Raises:
            ValueError: the format cannot carry what the profile asks for.
        """
        with _lock:
            found = _prepared.pop(profile.id, None)
            if found is None:
                found = _prepare(profile)
            _prepared[profile.id] = found  # the youngest is last
            while len(_prepared) > KEPT:
                del _prepared[next(iter(_prepared))]
        return found


_prepared: dict[bytes, Prepared] = {}
_lock = Lock()


def turn_of(profile: Profile, start: int, num_tokens: int) -> Turn:
    """The rotation of a chunk's tokens; without rotary embedding, one that nothing reads."""
    rotary = profile.layout.rotary
    if rotary is None:
        nothing = np.zeros((num_tokens, 0), np.float32)
        return Turn(cosine=nothing, sine=nothing, neighbours=False)
    cosine, sine = rotary.angles(start, num_tokens)
    return Turn(cosine=cosine, sine=sine, neighbours=rotary.pairing == "neighbours")


def _prepare(profile: Profile) -> Prepared:
    if profile.head_tokens > LANES:
        raise ValueError(f"head tokens is {profile.head_tokens}; at most {LANES} have lanes")
    return Prepared(book=_book(profile), basis=_basis(profile), profile=profile)


def _book(profile: Profile) -> Book:
    tables = profile.tables
    base = np.array(tables.base, np.uint16)
    gain = np.zeros(base.shape[1], np.int16)
    gain[:-1] = _gains(np.diff(base.astype(np.int64)))  # nonsense between alphabets, never read
    edges = np.zeros((*tables.trits.shape[:-1], 4), np.int64)
    edges[..., 1:3], edges[..., 3] = tables.trits, TABLE_TOTAL
    return Book(
        live=np.array(tables.live, np.int32),
        largest=np.array(tables.largest, np.int32),
        start=np.array(tables.start, np.int32),
        base=base,
        trits=np.array(tables.trits, np.uint16).reshape(-1),
        bound=_bound(profile),
        base_gain=gain,
        trit_gain=_gains(np.diff(edges)),
    )


def _gains(counts: np.ndarray) -> np.ndarray:
    """int16: bits that set 1 takes more than set 0, in 1/256; the first axis is the set."""
    bits = -np.log2(np.clip(counts, 1, None) / TABLE_TOTAL)
    return np.rint((bits[1] - bits[0]) * GAIN_UNIT).astype(np.int16)


def _bound(profile: Profile) -> np.ndarray:
    """int32 `[blocks, k]`: the largest magnitude at the depth of birth."""
    live, limit = profile.tables.live, profile.transform.limit
    born = (np.arange(profile.block_size) >= live[:, :, None]).sum(axis=1)  # depths before birth
    coded = np.arange(profile.block_size) < live[:, -1:]
    if (limit * coded > LARGEST_INTEGER).any():
        raise ValueError(
            f"transform.limit is {(limit * coded).max()}; kernels reckon with at most "
            f"{LARGEST_INTEGER}, calibrate again"
        )
    bound = np.zeros_like(limit)
    for depth in range(profile.finest + 1):
        bound = np.where(born == depth, coarser(limit, profile.finest - depth), bound)
    if (bound > ESCAPE_LIMIT).any():
        raise ValueError(
            f"transform.limit allows {bound.max()} where a component is born; escapes hold at most "
            f"{ESCAPE_LIMIT}"
        )
    return bound.astype(np.int32)


def _basis(profile: Profile) -> Basis:
    transform, layout = profile.transform, profile.layout
    padding, odd = -profile.block_size % LANES, profile.block_size % 2
    padded = ((0, 0), (0, padding))
    turns = np.zeros((2, layout.num_layers, layout.num_heads), np.bool_)
    if layout.rotary is not None:
        turns[0] = np.array(layout.rotary.layers)[:, None]
    return Basis(
        inverse=_in_pairs(np.pad(transform.inverse, ((0, 0), (0, odd), (0, padding)))),
        scale=np.stack([profile.step_scale(depth) for depth in range(profile.finest + 1)]),
        offset=np.array(profile.tables.offset, np.uint8),
        mean=np.pad(transform.mean, padded),
        first_mean=np.pad(transform.first_mean, padded),
        pieces=np.array(transform.pieces, np.int32),
        turns=turns.reshape(-1),
    )


def _in_pairs(inverse: np.ndarray) -> np.ndarray:
    """int16 `[blocks, k / 2, 2 channels]` from `[blocks, k, channels]`."""
    blocks, size, width = inverse.shape
    pairs = inverse.reshape(blocks, size // 2, 2, width).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(pairs).reshape(blocks, size // 2, 2 * width)
