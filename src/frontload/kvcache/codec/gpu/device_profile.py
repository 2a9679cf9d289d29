"""A profile's tables as a GPU wants them: uploaded once, laid out for the kernels beside this file.

Guarantees: nothing here is measured or rounded anew; each array is a rearrangement of the
profile's, so kernels compute with the same integers and the same float32 values as `quantize`.
Gives up: profiles whose limits would take reconstruction points beyond 24 bits (`ValueError`).

    device = DeviceProfile.upload(profile, "cuda")

Channels come in *pairs*: the two that rotary embedding turns together, or any two that do not turn.
A kernel holds both members of a pair in one thread, so turning needs no exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.profile import SUBSTEPS, Profile

INT8_DOT = 32  # the fewest components that an int8 matrix instruction multiplies
WIDEST = 3  # bytes of a reconstruction point
SMALL = 8  # symbols of an alphabet that is searched by comparing with all its counts
ANGLES = 4096  # positions: angles are formed so many at a time
MOST_OUTPUTS = 16  # kinds of outputs whose channels' places are kept
MOST_UNITS = 127 * 256 + 127  # of two bytes, each from -128 to 127


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How the inverse transform is cut: `pairs` columns and `components` rows at a time."""

    pairs: int = 16
    components: int = 64


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Tables on a device; b is a block, k a component (padded), n a pair of channels (padded)."""

    profile: Profile
    tiling: Tiling
    order: Tensor  # int32 [blocks]: those of group 0, then of group 1, ...
    first_of_group: tuple[int, ...]  # where each group begins in `order`
    live: Tensor  # int32 [blocks, 1 + depths]: components coded at the depth before, from 0 on
    # These two are flat and have one component more at their end, for kernels that read ahead.
    alphabets: Tensor  # int32 [blocks, k, 2]: start in `base`; m | search steps << 8
    spans: Tensor  # int32 [sets, blocks, k, 4]: counts 1 to 8 of small alphabets, in pairs
    base: Tensor  # int16 [sets, entries]: cumulative counts
    trits: Tensor  # int32 [sets, blocks, depths, k, 2 contexts]: c1 | c2 << 16
    offsets: Tensor  # int32 [blocks, depths, k]: that of |q| = 1 | that of |q| >= 2 << 8
    limits: Tensor  # int32 [blocks, depths, k]
    weights: Tensor  # int8 [blocks, n tiles, k tiles, 2 members, 2 bytes, n, k]: `inverse`
    means: Tensor  # float32 [blocks, 2 (0: of position 0), 2 members, n]
    scales: Tensor  # float32 [depths, blocks]
    frequency: Tensor  # int32 [blocks, n]: which angle turns the pair; -1: none
    point_bytes: tuple[int, ...]  # of each depth
    _angles: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    _places: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.order.device

    @property
    def num_pairs(self) -> int:
        """Pairs of a block, padding included."""
        return self.frequency.shape[1]

    @property
    def num_components(self) -> int:
        """Components of a block, padding included."""
        return self.limits.shape[2]

    @staticmethod
    def upload(
        profile: Profile, device: str | torch.device, tiling: Tiling | None = None
    ) -> DeviceProfile:
        """Tables of `profile` on `device`.

        Raises:
            ValueError: a limit of the profile is too wide for 24-bit reconstruction points, or an
                entry of its inverse for two bytes.
        """
        if abs(profile.transform.inverse.astype(np.int32)).max() > MOST_UNITS:
            raise ValueError(f"transform.inverse goes beyond {MOST_UNITS}; decode on the CPU")
        tiling = _fitting(profile, tiling or Tiling())
        groups = [profile.blocks_of(g) for g in range(int(profile.group.max()) + 1)]
        depths = profile.finest + 1
        tables, transform = profile.tables, profile.transform
        k = _padded(profile.block_size, tiling.components)
        members = _members(profile, tiling)
        arrays = {
            "order": np.concatenate(groups).astype(np.int32),
            "live": np.pad(tables.live, ((0, 0), (1, 0))).astype(np.int32),
            "alphabets": np.append(_pad(_alphabets(profile), 1, k), np.zeros(2, np.int32)),
            "spans": np.append(_pad(_spans(profile), 2, k), np.zeros(4, np.int32)),
            "base": tables.base.astype(np.int16),
            "trits": _pad(_trits(profile), 3, k),
            "offsets": _pad(_offsets(profile), 2, k),
            "limits": _pad(_limits(profile), 2, k),
            "weights": _weights(profile, members, tiling),
            "means": _by_pair(np.stack((transform.first_mean, transform.mean), 1), members),
            "scales": np.stack([profile.step_scale(d) for d in range(depths)]),
            "frequency": _frequency(profile, members),
        }
        sizes = np.cumsum([0, *map(len, groups)])
        return DeviceProfile(
            profile=profile,
            tiling=tiling,
            first_of_group=tuple(int(at) for at in sizes[:-1]),
            point_bytes=tuple(_point_bytes(profile, d) for d in range(depths)),
            **{name: torch.from_numpy(a.copy()).to(device) for name, a in arrays.items()},
        )

    def angles(self, start: int, end: int) -> tuple[int, Tensor]:
        """Cosines and sines of a range of positions, and which position comes first in them.

        float32 `[positions, frequencies, 2]`, of `start` to `end` and some around. The last range
        is kept for those inside it; none before it is formed: positions may be in the millions.
        """
        rotary = self.profile.layout.rotary
        if rotary is None:
            return 0, self.scales  # never read
        origin, known = self._angles.get("cached", (0, self.scales[:0]))
        if start < origin or end > origin + len(known):
            origin = start // ANGLES * ANGLES
            both = np.stack(rotary.angles(origin, _padded(end - origin, ANGLES)), axis=-1)
            known = torch.from_numpy(both).to(self.device)
            self._angles["cached"] = origin, known  # at once: threads see both or neither
        return origin, known

    def places(self, strides: tuple[int, ...]) -> Tensor:
        """int64 `[blocks, 2 members, n]`: offset of each channel in an output, -1 for padding.

        Args:
            strides: of the output's kind (K, V), layer, head and channel, in elements.
        """
        known = self._places.get(strides)
        if known is None:
            if len(self._places) >= MOST_OUTPUTS:
                self._places.clear()
            layout = self.profile.layout
            kind, layer, head, channel = strides
            piece = np.arange(layout.num_pieces)
            of_piece = (
                piece // layout.num_heads // layout.num_layers * kind
                + piece // layout.num_heads % layout.num_layers * layer
                + piece % layout.num_heads * head
            )
            whole = of_piece[self.profile.transform.pieces][..., None] + channel * np.arange(
                layout.head_dim
            )
            members = _members(self.profile, self.tiling)
            found = _by_pair(whole.reshape(len(whole), -1).astype(np.int64), members, empty=-1)
            known = self._places[strides] = torch.from_numpy(found).to(self.device)
        return known


def _fitting(profile: Profile, tiling: Tiling) -> Tiling:
    """No larger than the block, no smaller than an int8 matrix instruction."""
    pairs, components = 16, INT8_DOT
    while pairs < min(tiling.pairs, profile.block_size / 2):
        pairs *= 2
    while components < min(tiling.components, profile.block_size):
        components *= 2
    return Tiling(pairs=pairs, components=components)


def _padded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    room = [(0, 0)] * array.ndim
    room[axis] = (0, length - array.shape[axis])
    return np.pad(array, room)


def _members(profile: Profile, tiling: Tiling) -> np.ndarray:
    """int64 `[2, n]`: the channels of each pair within a block; -1 for padding."""
    rotary, head_dim = profile.layout.rotary, profile.layout.head_dim
    half = 0 if rotary is None else len(rotary.inv_freq)
    neighbours = rotary is not None and rotary.pairing == "neighbours"
    channels = np.arange(2 * half)
    turning = channels.reshape(-1, 2).T if neighbours else channels.reshape(2, -1)
    rest = np.arange(2 * half, head_dim + (head_dim % 2)).reshape(2, -1)
    in_head = np.concatenate((turning, rest), axis=1)
    width = profile.transform.pieces.shape[1]
    whole = in_head[:, None] + head_dim * np.arange(width)[:, None]
    whole = np.where((in_head < head_dim)[:, None], whole, -1).reshape(2, -1)
    padding = _padded(whole.shape[1], tiling.pairs) - whole.shape[1]
    return np.pad(whole, ((0, 0), (0, padding)), constant_values=-1)


def _by_pair(array: np.ndarray, members: np.ndarray, empty: int = 0) -> np.ndarray:
    """`[..., 2, n]` from `[..., channels]`."""
    return np.ascontiguousarray(np.where(members >= 0, array[..., members], empty), array.dtype)


def _frequency(profile: Profile, members: np.ndarray) -> np.ndarray:
    layout = profile.layout
    if layout.rotary is None:
        return np.full((profile.num_blocks, members.shape[1]), -1, np.int32)
    half, first = len(layout.rotary.inv_freq), members[0]
    channel = first % layout.head_dim
    index = channel if layout.rotary.pairing == "halves" else channel // 2
    piece = profile.transform.pieces[:, np.maximum(first, 0) // layout.head_dim]
    layer = piece // layout.num_heads % layout.num_layers
    is_key = piece < layout.num_layers * layout.num_heads
    turns = is_key & np.array(layout.rotary.layers)[layer] & (first >= 0) & (channel < 2 * half)
    return np.where(turns, index, -1).astype(np.int32)


def _alphabets(profile: Profile) -> np.ndarray:
    largest = profile.tables.largest.astype(np.int64)
    steps = np.ceil(np.log2(2 * largest + 2)).astype(np.int64)
    return np.stack((np.maximum(profile.tables.start, 0), largest | steps << 8), -1).astype(
        np.int32
    )


def _spans(profile: Profile) -> np.ndarray:
    """Zeros where there are more than `SMALL` symbols."""
    tables = profile.tables
    symbols = 2 * tables.largest.astype(np.int64)[..., None] + 2
    nth = np.arange(1, SMALL + 1)
    at = np.maximum(tables.start[..., None], 0) + np.minimum(nth, symbols)
    counts = tables.base.astype(np.int32)[:, np.minimum(at, tables.base.shape[1] - 1)]
    counts = np.where((symbols <= SMALL) & (tables.start[..., None] >= 0), counts, 0)
    return counts[..., ::2] | counts[..., 1::2] << 16


def _trits(profile: Profile) -> np.ndarray:
    counts = profile.tables.trits.astype(np.int64).transpose(0, 1, 3, 2, 4, 5)
    return (counts[..., 0] | counts[..., 1] << 16).astype(np.int32)


def _offsets(profile: Profile) -> np.ndarray:
    offset = profile.tables.offset.astype(np.int32).transpose(0, 2, 1, 3)
    return offset[..., 0] | offset[..., 1] << 8


def _limits(profile: Profile) -> np.ndarray:
    limit = profile.transform.limit
    depths = [coarser(limit, profile.finest - depth) for depth in range(profile.finest + 1)]
    return np.stack(depths, axis=1).astype(np.int32)


def _point_bytes(profile: Profile, depth: int) -> int:
    """Bytes, each from -128 to 127, that hold any reconstruction point of a depth."""
    live = np.arange(profile.block_size) < profile.tables.live[:, depth, None]
    limit = coarser(profile.transform.limit, profile.finest - depth)
    largest = SUBSTEPS * int(np.where(live, limit, 0).max()) + 128
    for count in (2, WIDEST):
        if largest < 1 << (8 * count - 1):
            return count
    raise ValueError(
        f"profile {profile.model_name}: limits up to {largest // SUBSTEPS} need points of more "
        f"than {WIDEST} bytes; decode on the CPU"
    )


def _weights(profile: Profile, members: np.ndarray, tiling: Tiling) -> np.ndarray:
    inverse = _by_pair(profile.transform.inverse, members)  # [blocks, k, 2, n]
    inverse = _pad(inverse, 1, _padded(profile.block_size, tiling.components)).astype(np.int32)
    low = ((inverse + 128) & 255) - 128
    planes = np.stack((low, (inverse - low) >> 8), axis=-1).astype(np.int8)
    blocks, k, _, n, _ = planes.shape
    cut = planes.reshape(
        blocks, k // tiling.components, tiling.components, 2, n // tiling.pairs, tiling.pairs, 2
    )
    return np.ascontiguousarray(cut.transpose(0, 4, 1, 3, 6, 5, 2))
