"""The integers that an object holds, read off its streams: for inspection, not for speed.

Guarantees: they are the encoder's own, at the depth that the object has of each group, by the
kernels that decode tensors. Gives up: speed (one tile of one block at a time, from Python), and
checking that streams end as encoders end them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from frontload.kvcache.codec import container
from frontload.kvcache.codec.container import Kind, Malformed
from frontload.kvcache.codec.entropy import ESCAPE, LAST, LAST_ESCAPE, LOW, POSITION, decode_rows
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.streams import Group, head_of, new_head_depths, read_groups
from frontload.kvcache.profile import LANES, Profile


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Integers of some blocks and tokens of a chunk.

    blocks: int64 `[n]`, numbers in the profile.
    tokens: of the chunk.
    integer: int32 `[n, tokens, size (k)]` at `depth`; 0 where a component is not live.
    sets: table set of each part of the group.
    head: whether these are the context's first tokens.
    """

    blocks: np.ndarray
    tokens: range
    integer: np.ndarray
    depth: int
    sets: np.ndarray
    head: bool


def stored_integers(profile: Profile, chunk: bytes | memoryview) -> list[StoredRun]:
    """All integers of one object's lossy parts.

    Raises:
        ContainerError: the object is damaged, or another profile's.
    """
    found = container.read(chunk, profile_id=profile.id)
    lossy = [
        body
        for entry, body in zip(found.entries, found.bodies, strict=True)
        if entry.kind is Kind.LOSSY
    ]
    groups = read_groups(profile, found, len(lossy))  # first: it knows that sizes are even
    words = np.frombuffer(b"".join(lossy), "<u2")
    num_tokens = found.header.tokens
    head = head_of(profile, found.header.start, num_tokens)
    runs: list[StoredRun] = []
    for group in groups:
        if head < num_tokens:
            runs += _main(profile, words, group, range(head, num_tokens))
        if group.head is not None:
            runs.append(_head(profile, words, group, range(head)))
    return runs


def _main(profile: Profile, words: np.ndarray, group: Group, tokens: range) -> Iterator[StoredRun]:
    """A run for each stripe."""
    book, size, depths = Prepared.of(profile).book, profile.block_size, len(group.sets)
    stripes = profile.stripes(group.number, len(group.main))
    for blocks, places in zip(stripes, group.main, strict=True):
        integer = np.zeros((len(blocks), len(tokens), size), np.int32)
        state, cursors = _opened(words, places, min(LANES, len(tokens)))
        for rows, block in zip(integer, blocks, strict=True):
            for begin in range(0, len(tokens), LANES):
                flat, tile = np.zeros(size * LANES, np.int32), min(LANES, len(tokens) - begin)
                _must(decode_rows(words, state, cursors, book, group.sets, 0, block, tile, flat))
                rows[begin : begin + tile] = flat.reshape(size, LANES)[:, :tile].T
        yield StoredRun(
            blocks=blocks,
            tokens=tokens,
            integer=_live_only(profile, blocks, integer, depths - 1),
            depth=depths - 1,
            sets=group.sets,
            head=False,
        )


def _head(profile: Profile, words: np.ndarray, group: Group, tokens: range) -> StoredRun:
    assert group.head is not None
    book, size = Prepared.of(profile).book, profile.block_size
    blocks = profile.blocks_of(group.number)
    flat = np.zeros((len(blocks), size * LANES), np.int32)
    for part in range(len(group.sets)):
        adds = new_head_depths(profile, part)
        lanes = len(tokens) if adds else 0
        state, cursors = _opened(words, group.head[part : part + 1], lanes)
        used = group.sets[part : part + 1]
        for depth in adds:
            for row, block in zip(flat, blocks, strict=True):
                _must(decode_rows(words, state, cursors, book, used, depth, block, lanes, row))
    depth = profile.depth_of(len(group.sets) - 1, head=True)
    integer = flat.reshape(len(blocks), size, LANES)[:, :, : len(tokens)].transpose(0, 2, 1)
    return StoredRun(
        blocks=blocks,
        tokens=tokens,
        integer=_live_only(profile, blocks, integer, depth),
        depth=depth,
        sets=group.sets,
        head=True,
    )


def _opened(words: np.ndarray, places: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """States uint32 `[streams, 32]` and cursors int64 `[streams, 4]`, as `decode_rows` has them."""
    states = np.full((len(places), LANES), LOW, np.uint32)
    cursors = np.empty((len(places), 4), np.int64)
    for state, cursor, (begin, first, escapes, end) in zip(states, cursors, places, strict=True):
        state[:lanes] = words[begin : begin + 2 * lanes].copy().view("<u4")
        cursor[[POSITION, LAST, ESCAPE, LAST_ESCAPE]] = first, escapes, escapes, end
    return states, cursors


def _live_only(profile: Profile, blocks: np.ndarray, integer: np.ndarray, depth: int) -> np.ndarray:
    live = np.arange(profile.block_size) < profile.tables.live[blocks, depth, None]
    return np.where(live[:, None], integer, 0)


def _must(decoded: bool) -> None:
    if not decoded:
        raise Malformed("a stream ends before its symbols, or an escape is beyond its limit")
