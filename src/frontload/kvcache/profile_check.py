"""What kernels take for granted of a profile, looked at once, when it is read.

Guarantees: a profile that passes has arrays of the types, shapes and ranges that `profile`
documents, so that no object encoded or decoded with it reads or writes outside of memory or leaves
values unset. Gives up: whether it is a good profile; what it decodes to may be noise.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import (
    ESCAPE_LIMIT,
    LANES,
    LARGEST_INTEGER,
    SUBSTEPS,
    TABLE_TOTAL,
    Profile,
)
from frontload.kvcache.rotary import Pairing

MOST_DEPTHS, MOST_GROUPS, MOST_PARTS = 16, 255, 252
LARGEST = 127  # of an alphabet


def check(profile: Profile) -> None:
    """Refuse a profile whose content contradicts itself or the format.

    Raises:
        ValueError: which field, and what is wrong with it.
    """
    _check_shapes(profile)
    _check_scalars(profile)
    _check_parts(profile)
    _check_transform(profile)
    _check_tables(profile)


def _must(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _whole(value: object, lowest: int, largest: int, name: str) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= largest
    _must(fits, f"{name} is {value!r}, not a whole number from {lowest} to {largest}")


def _check_shapes(profile: Profile) -> None:
    pieces, live = profile.transform.pieces, profile.tables.live
    _must(pieces.ndim == 2 and pieces.size, f"transform.pieces has shape {pieces.shape}")
    _must(live.ndim == 2 and live.size, f"tables.live has shape {live.shape}")
    blocks, size = len(pieces), pieces.shape[1] * profile.layout.head_dim
    depths = live.shape[1]
    base = profile.tables.base
    expected = {
        "group": (np.uint8, (blocks,)),
        "transform.pieces": (np.int32, pieces.shape),
        "transform.mean": (np.float32, (blocks, size)),
        "transform.first_mean": (np.float32, (blocks, size)),
        "transform.forward": (np.float32, (blocks, size, size)),
        "transform.inverse": (np.int16, (blocks, size, size)),
        "transform.scale": (np.float32, (blocks,)),
        "transform.limit": (np.int32, (blocks, size)),
        "tables.live": (np.int32, (blocks, depths)),
        "tables.largest": (np.int32, (blocks, size)),
        "tables.start": (np.int32, (blocks, size)),
        "tables.base": (np.uint16, (2, base.shape[-1] if base.ndim else 0)),
        "tables.trits": (np.uint16, (2, blocks, size, depths, 2, 2)),
        "tables.offset": (np.uint8, (blocks, size, depths, 2)),
    }
    for name, (dtype, shape) in expected.items():
        array = profile.arrays()[name]
        _must(
            array.dtype == dtype and array.shape == shape,
            f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}",
        )


def _check_scalars(profile: Profile) -> None:
    layout = profile.layout
    for name in ("num_layers", "num_heads", "head_dim"):
        _whole(getattr(layout, name), 1, 1 << 20, f"layout.{name}")
    if layout.max_tokens is not None:
        _whole(layout.max_tokens, 1, 1 << 40, "layout.max_tokens")
    _whole(profile.chunk_tokens, 1, 1 << 16, "chunk_tokens")
    _whole(profile.calibrated_tokens, 0, 1 << 40, "calibrated_tokens")
    _whole(profile.head_tokens, 0, LANES, "head_tokens")
    _whole(profile.head_depth, 0, MOST_DEPTHS, "head_depth")
    _must(profile.tables.live.shape[1] <= MOST_DEPTHS, "tables.live has too many depths")
    rotary = layout.rotary
    if rotary is not None:
        _must(rotary.pairing in get_args(Pairing), f"rotary.pairing is {rotary.pairing!r}")
        _must(
            all(isinstance(turns, bool) for turns in rotary.layers), "rotary.layers: not booleans"
        )
        numbers = (*rotary.inv_freq, rotary.scaling)
        _must(all(_is_number(x) for x in numbers), "rotary: frequencies are not finite numbers")
        _must(rotary.scaling > 0, "rotary.scaling is not above 0")
    figures = [x for level in profile.levels for x in (level.bits_per_value, level.kl, level.flips)]
    _must(all(_is_number(x) for x in (*figures, *profile.code_length)), "figures are not numbers")
    _must(len(profile.code_length) in (0, len(profile.parts)), "code_length is not one a part")
    _must(all(0 <= bits < 1 << 10 for bits in profile.code_length), "code_length is out of range")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30


def _check_parts(profile: Profile) -> None:
    groups, depths = len(np.unique(profile.group)), profile.finest + 1
    _must(int(profile.group.max()) == groups - 1 < MOST_GROUPS, "group: numbers are left out")
    _must(
        groups * depths == len(profile.parts) <= MOST_PARTS, "parts are not one a depth and group"
    )
    seen = dict.fromkeys(range(groups), 0)
    for index, part in enumerate(profile.parts):
        _whole(part.group, 0, groups - 1, f"parts[{index}]: group")
        _must(part.depth == seen[part.group], f"parts[{index}]: depths of a group are out of order")
        _must((index < groups) == (part.depth == 0), "parts: depth 0 of every group comes first")
        seen[part.group] += 1
    _must(profile.levels, "levels: there is none")
    before = groups - 1
    for index, level in enumerate(profile.levels):
        _whole(level.parts, before + 1, len(profile.parts), f"levels[{index}]: parts")
        before = level.parts


def _check_transform(profile: Profile) -> None:
    transform = profile.transform
    pieces = np.sort(transform.pieces, axis=None)
    _must(
        np.array_equal(pieces, np.arange(profile.layout.num_pieces)),
        "transform.pieces: not every head of the layout once",
    )
    for name in ("mean", "first_mean", "forward", "scale"):
        finite = bool((abs(getattr(transform, name)) < 1e30).all())
        _must(finite, f"transform.{name}: not finite")
    coded = np.arange(profile.block_size) < profile.tables.live[:, -1:]
    limit = np.where(coded, transform.limit, 0).astype(np.float64)
    _must((transform.limit >= 0).all(), "transform.limit: negative")
    _must((limit <= LARGEST_INTEGER).all(), f"transform.limit: above {LARGEST_INTEGER}")
    for b, inverse in enumerate(transform.inverse):
        sums = limit[b] @ abs(inverse.astype(np.float64)) * SUBSTEPS
        _must((sums < 2**31).all(), f"transform: sums of block {b} are beyond 32 bits")


def _check_tables(profile: Profile) -> None:
    tables, finest = profile.tables, profile.finest
    live, size = tables.live, profile.block_size
    _must((live >= 0).all() and (live <= size).all(), "tables.live: beyond the components")
    _must((np.diff(live, axis=1) >= 0).all(), "tables.live: decreasing")
    components = np.arange(size)
    coded = components < live[:, -1:]
    before = (components >= live[:, :, None]).sum(axis=1)  # depths before birth
    limit = profile.transform.limit
    for depth in range(finest + 1):
        bound = np.where(coded & (before == depth), coarser(limit, finest - depth), 0)
        _must((bound <= ESCAPE_LIMIT).all(), "transform.limit: wider than an escape at birth")
    largest, start = tables.largest[coded], tables.start[coded].astype(np.int64)
    _must(((largest >= 1) & (largest <= LARGEST)).all(), f"tables.largest: not 1 to {LARGEST}")
    entries = 2 * largest + 3
    inside = (start >= 0) & (start + entries <= tables.base.shape[1])
    _must(inside.all(), "tables.start: an alphabet outside of tables.base")
    last = start + entries - 1
    depth_of_nesting = np.zeros(tables.base.shape[1], np.int64)
    np.add.at(depth_of_nesting, start, 1)
    np.add.at(depth_of_nesting, last, -1)
    rises = np.diff(tables.base.astype(np.int64), axis=1) > 0
    whole = (tables.base[:, start] == 0).all() and (tables.base[:, last] == TABLE_TOTAL).all()
    rising = rises[:, np.cumsum(depth_of_nesting)[:-1] > 0].all()
    _must(whole and rising, "tables.base: counts do not rise from 0 to 4096")
    low, high = tables.trits[..., 0].astype(np.int64), tables.trits[..., 1].astype(np.int64)
    depths = np.arange(finest + 1)
    used = (components[:, None] < live[:, None]) & (depths > before[..., None])  # [b, k, d]
    used = used[None, ..., None]
    apart = (low > 0) & (low < high) & (high < TABLE_TOTAL)
    _must((apart | ~used).all(), "tables.trits: counts do not rise from 0 to 4096")
    _must((tables.offset <= SUBSTEPS).all(), f"tables.offset: above {SUBSTEPS}")
