"""Where the bits of a stored cache go: by part and level, and by layer, K and V.

Guarantees: bytes of parts are those of the file; bits of layers are what the tables that the file
used spend on the very integers in it. Gives up: the coder's own few bytes (states, an index), which
no layer is charged; splitting a block that spans several layers, whose bits are shared evenly among
its pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frontload.atomic import replacing
from frontload.kvcache.codec import container, tables
from frontload.kvcache.codec.container import Header, Kind
from frontload.kvcache.codec.stored_integers import StoredRun, stored_integers
from frontload.kvcache.codec.streams import new_head_depths
from frontload.kvcache.profile import Profile


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
    parts.sort(key=lambda part: part.kind)  # a state is in the last object alone, but comes first
    return Anatomy(headers=tuple(headers), parts=tuple(parts), framing_bytes=framing)


def bits_by_layer(profile: Profile, chunks: Sequence[bytes | memoryview]) -> np.ndarray:
    """float64 `[2 (K, V), layers, depths]`: bits per value that each depth adds.

    Bits of the first tokens count where their streams lie, at the depth of the part that has them.

    Raises:
        ContainerError: an object is damaged, or another profile's.
    """
    shape = (profile.num_blocks, profile.finest + 1, profile.block_size)
    total, num_tokens = np.zeros(shape), 0
    for chunk in chunks:
        for run in stored_integers(profile, chunk):
            total[run.blocks] += _bits_by_part(profile, run)
        num_tokens += container.read_header(chunk).header.tokens
    layout = profile.layout
    of_piece = np.empty((layout.num_pieces, profile.finest + 1))
    of_piece[profile.transform.pieces] = np.einsum("bdk,bkp->bpd", total, shares(profile))
    of_layer = of_piece.reshape(2, layout.num_layers, layout.num_heads, -1).sum(axis=2)
    return of_layer / (num_tokens * layout.num_heads * layout.head_dim)


def shares(profile: Profile) -> np.ndarray:
    """float64 `[blocks, k, pieces of a block]`: how much of a component's variance is each piece's.

    Component k is sum_j forward_kj x_j, and x_j moves with it by scale inverse_kj where components
    are uncorrelated; so channel j accounts for forward_kj scale inverse_kj of its variance. These
    sum to 1, since the matrices are each other's inverse; one that mostly cancels is negative.
    """
    transform = profile.transform
    scale = transform.scale[:, None, None].astype(np.float64)
    of_channel = transform.forward.astype(np.float64) * transform.inverse * scale
    width = transform.pieces.shape[1]
    found = of_channel.reshape(*of_channel.shape[:2], width, -1).sum(axis=-1)
    return found / found.sum(axis=-1, keepdims=True)  # `forward` is rounded to float32


def _bits_by_part(profile: Profile, run: StoredRun) -> np.ndarray:
    """float64 `[blocks, depths, k]`, the depth that of the part."""
    finest = run.integer.astype(np.int64) * 3 ** (profile.finest - run.depth)  # coarsens to itself
    by_set = [
        tables.component_lengths(profile.tables, finest, table_set=which, blocks=run.blocks)
        for which in (0, 1)
    ]
    bits = np.zeros(by_set[0].shape)
    for part, which in enumerate(run.sets):
        adds = new_head_depths(profile, part) if run.head else range(part, part + 1)
        bits[:, part] = by_set[which][:, adds.start : adds.stop].sum(axis=1)
    return bits


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
