"""Where the bits of a stored cache go: by part and level, and by layer, K and V.

Guarantees: bytes of parts are those of the file; bits of layers are the tables' cross-entropy of
the stored integers, which the coder meets within a percent. Gives up: splitting a block that spans
several layers exactly; its bits are shared evenly among its pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frontload.atomic import replacing
from frontload.kvcache.codec import container, quantize
from frontload.kvcache.codec.chunk import decode_chunk
from frontload.kvcache.codec.container import Header, Kind
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import TABLE_TOTAL, Profile


@dataclass(frozen=True, kw_only=True)
class PartBytes:
    """One part, summed over a file's chunks."""

    kind: Kind
    depth: int
    group: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a file of chunks holds."""

    headers: tuple[Header, ...]
    parts: tuple[PartBytes, ...]
    framing_bytes: int  # headers and part tables

    @property
    def num_tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(header.tokens for header in self.headers)

    @property
    def num_bytes(self) -> int:
        """All of the file."""
        return self.framing_bytes + sum(part.num_bytes for part in self.parts)


def dissect(chunks: Sequence[bytes | memoryview]) -> Anatomy:
    """Parts of a file's objects, whose checksums are verified; needs no profile.

    Raises:
        ContainerError: an object is damaged.
    """
    headers, total, framing = [], dict[tuple[Kind, int, int], int](), 0
    for chunk in chunks:
        found = container.read(chunk, profile_id=None)
        headers.append(found.header)
        framing += len(chunk) - sum(len(body) for body in found.bodies)
        for entry, body in zip(found.entries, found.bodies, strict=True):
            key = (Kind(entry.kind), entry.depth, entry.group)
            total[key] = total.get(key, 0) + len(body)
    parts = [
        PartBytes(kind=kind, depth=depth, group=group, num_bytes=num_bytes)
        for (kind, depth, group), num_bytes in total.items()
    ]
    return Anatomy(headers=tuple(headers), parts=tuple(parts), framing_bytes=framing)


def bits_by_layer(profile: Profile, chunks: Sequence[bytes | memoryview]) -> np.ndarray:
    """float64 `[2 (K, V), layers, depths]`: bits per value that each depth adds."""
    total = np.zeros((profile.num_blocks, profile.finest + 1))
    num_tokens = 0
    for chunk in chunks:
        kv = decode_chunk(profile, chunk, level=len(profile.levels) - 1)
        total += code_lengths(profile, stored_integers(profile, kv))
        num_tokens += kv.num_tokens
    layout, pieces = profile.layout, profile.transform.pieces
    of_piece = np.empty((layout.num_pieces, profile.finest + 1))
    of_piece[pieces] = total[:, None] / pieces.shape[1]
    of_layer = of_piece.reshape(2, layout.num_layers, layout.num_heads, -1).sum(axis=2)
    return of_layer / (num_tokens * layout.num_heads * layout.head_dim)


def stored_integers(profile: Profile, decoded: KVTensors) -> np.ndarray:
    """int32 `[blocks, tokens, k]` of a cache decoded at its finest lossy level."""
    return quantize.integers(profile, decoded)[0]


def code_lengths(profile: Profile, integer: np.ndarray) -> np.ndarray:
    """float64 `[blocks, depths]`: bits of finest integers `[blocks, tokens, k]` by the tables."""
    depths = profile.finest + 1
    found = np.zeros((profile.num_blocks, depths))
    for depth in range(depths):
        at_depth = quantize.coarser(integer, profile.finest - depth)
        for block in range(profile.num_blocks):
            live = profile.tables.live[block, depth]
            before = profile.tables.live[block, depth - 1] if depth else 0
            found[block, depth] = sum(
                _born_bits(profile, block, k, at_depth[block, :, k]) for k in range(before, live)
            )
            if before:
                found[block, depth] += _trit_bits(
                    profile, block, depth, at_depth[block, :, :before]
                )
    return found


def _born_bits(profile: Profile, block: int, k: int, integer: np.ndarray) -> float:
    tables = profile.tables
    largest, start = tables.largest[block, k], tables.start[block, k]
    counts = np.diff(tables.base[0, start : start + 2 * largest + 3].astype(np.int64))
    symbol = np.where(abs(integer) <= largest, integer + largest, 2 * largest + 1)
    escapes = int((symbol == 2 * largest + 1).sum())
    return float(-np.log2(counts[symbol] / TABLE_TOTAL).sum()) + 16 * escapes


def _trit_bits(profile: Profile, block: int, depth: int, integer: np.ndarray) -> float:
    coarse = quantize.coarser(integer)
    trit = (integer - 3 * coarse) * np.where(coarse < 0, -1, 1)
    bounds = profile.tables.trits[0, block, : integer.shape[1], depth].astype(np.int64)
    edges = np.pad(bounds, ((0, 0), (0, 0), (1, 1)))
    edges[..., 3] = TABLE_TOTAL
    counts = np.diff(edges, axis=-1)  # [k, contexts, 3]
    component = np.broadcast_to(np.arange(integer.shape[1]), integer.shape)
    share = counts[component, (coarse != 0).astype(int), trit + 1] / TABLE_TOTAL
    return float(-np.log2(share).sum())


def draw(bits: np.ndarray, path: Path) -> None:
    """Bars of `bits_by_layer` to an SVG file: a layer each, K beside V, stacked by depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 0.55 * bits.shape[1], 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    for axis, kind, name in zip(axes, bits, ("K", "V"), strict=True):
        bottom = np.zeros(len(kind))
        for depth, part in enumerate(kind.T):
            shade = str(0.15 + 0.7 * depth / max(1, kind.shape[1] - 1))
            axis.bar(np.arange(len(kind)), part, bottom=bottom, color=shade, label=f"depth {depth}")
            bottom += part
        axis.set_title(name)
        axis.set_xlabel("attention layer")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("bits per value")
    axes[1].legend(frameon=False, fontsize="small")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="svg")
