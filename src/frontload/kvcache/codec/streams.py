"""How the streams of a lossy part lie in its body (docs/kv-container.md), read and written.

Guarantees: `read_groups` accepts only bodies that their streams fill exactly, of the parts that the
profile names, so that kernels may trust its offsets. Gives up: the content of the streams.

A group's parts are decoded together, so all of them are cut into the same stripes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frontload.kvcache.codec.container import Container, Header, Kind, Malformed
from frontload.kvcache.profile import LANES, Profile

INDEX_BYTES = 8  # an entry: words u32, escapes u32
STRIPE_BYTES = 8192  # of depth 0: states and index of a stream (136 bytes, half of them useful)
MOST_STRIPES = 64  # are then at most 1 % of the coarsest depth, and less of what follows


@dataclass(frozen=True, kw_only=True)
class Group:
    """Where a group's streams lie in an object.

    main: int64 `[stripes, depths, 4]`: where states, words, escapes begin and where they end, in
        units of 2 bytes from the beginning of the first lossy part.
    head: int64 `[depths, 4]`, of the head streams; None without.
    sets: int64 `[depths]`, table sets.
    """

    number: int
    main: np.ndarray
    head: np.ndarray | None
    sets: np.ndarray


def head_of(profile: Profile, start: int, num_tokens: int) -> int:
    """How many of a chunk's tokens are among the context's first, which are coded finer."""
    return min(max(profile.head_tokens - start, 0), profile.head_tokens, num_tokens)


def new_head_depths(profile: Profile, depth: int) -> range:
    """The depths that the head stream of a part of `depth` adds."""
    before = profile.depth_of(depth - 1, head=True) + 1 if depth else 0
    return range(before, profile.depth_of(depth, head=True) + 1)


def num_stripes(profile: Profile, num_values: int, group: int) -> int:
    """Into how many stripes an encoder cuts a group of a chunk of `num_values` (K and V).

    So many that each has about `STRIPE_BYTES` at depth 0, where streams are shortest.
    """
    coarsest = [part.group for part in profile.parts].index(group)
    bits = profile.code_length[coarsest] * num_values if profile.code_length else 0.0
    blocks = len(profile.blocks_of(group))
    return int(np.clip(bits / 8 / STRIPE_BYTES, 1, min(blocks, MOST_STRIPES)))


def num_lanes(profile: Profile, header: Header, depth: int, stripes: int) -> np.ndarray:
    """int64: lanes of each stream of a part, the head's last."""
    head = head_of(profile, header.start, header.tokens) if header.head_apart else 0
    lanes = [min(LANES, header.tokens - head)] * stripes
    if header.head_apart:
        lanes.append(head if new_head_depths(profile, depth) else 0)
    return np.array(lanes, np.int64)


def read_groups(profile: Profile, found: Container, num_parts: int) -> list[Group]:
    """The groups of an object's first `num_parts` parts.

    Raises:
        Malformed: they are not the profile's, or a body is not filled by its streams.
    """
    header = found.header
    if header.head_apart != (head_of(profile, header.start, header.tokens) > 0):
        raise Malformed(f"head apart is {header.head_apart}, not so by the profile")
    states = sum(entry.kind is Kind.STATE for entry in found.entries)  # they lie in front
    begin = 0
    places: dict[int, list[np.ndarray]] = {}
    sets: dict[int, list[int]] = {}
    for index in range(num_parts):
        entry, body = found.entries[states + index], found.bodies[states + index]
        part = profile.parts[index]
        if (entry.kind, entry.depth, entry.group) != (Kind.LOSSY, part.depth, part.group):
            raise Malformed(f"part {index} is not depth {part.depth} of group {part.group}")
        known = places.setdefault(entry.group, [])
        if entry.stripes > len(profile.blocks_of(entry.group)):
            raise Malformed(f"part {index}: {entry.stripes} stripes are more than blocks")
        lanes = num_lanes(profile, header, entry.depth, entry.stripes)
        if known and len(known[0]) != len(lanes):
            raise Malformed(f"part {index}: {entry.stripes} stripes, unlike the parts before")
        known.append(_places(body, begin, lanes, index))
        sets.setdefault(entry.group, []).append(entry.table_set)
        begin += len(body)
    if len(places) < len(np.unique(profile.group)):
        raise Malformed(f"{num_parts} lossy parts leave out some groups")
    return [
        _group(number, np.stack(known, axis=1), sets[number], header.head_apart)
        for number, known in sorted(places.items())
    ]


def _group(number: int, places: np.ndarray, sets: list[int], head_apart: bool) -> Group:
    return Group(
        number=number,
        main=np.ascontiguousarray(places[:-1] if head_apart else places),
        head=np.ascontiguousarray(places[-1]) if head_apart else None,
        sets=np.array(sets, np.int64),
    )


def _places(body: memoryview, begin: int, lanes: np.ndarray, part: int) -> np.ndarray:
    """int64 `[streams, 4]`, as in `Group`."""
    index_bytes = INDEX_BYTES * len(lanes)
    if len(body) < index_bytes:
        raise Malformed(f"part {part}: {len(body)} bytes, its index alone has {index_bytes}")
    index = np.frombuffer(body, "<u4", 2 * len(lanes)).reshape(-1, 2).astype(np.int64)
    sizes = np.column_stack((2 * lanes, index))  # states, words, escapes, in units of 2 bytes
    if index_bytes + 2 * sizes.sum() != len(body):
        raise Malformed(f"part {part}: its streams do not fill its {len(body)} bytes")
    ends = (begin + index_bytes) // 2 + np.cumsum(sizes).reshape(-1, 3)
    return np.column_stack((ends[:, 0] - sizes[:, 0], ends))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One stream as an encoder leaves it: uint32 states, uint16 words and escapes."""

    states: np.ndarray
    words: np.ndarray
    escapes: np.ndarray


def write_body(streams: Sequence[Stream]) -> bytes:
    """The body of a lossy part."""
    index = np.array([(len(s.words), len(s.escapes)) for s in streams], "<u4")
    pieces = [index.tobytes()]
    for stream in streams:
        pieces += [
            stream.states.astype("<u4").tobytes(),
            stream.words.astype("<u2").tobytes(),
            stream.escapes.astype("<u2").tobytes(),
        ]
    return b"".join(pieces)
