"""Streams that a GPU writes: what each codes, the kernels' launch, and their way into objects.

Guarantees: the part bodies of `streams.write_body`, assembled on the device; the host copies
compressed bytes alone. Gives up: nothing of the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import container
from frontload.kvcache.codec.container import Header, PartEntry
from frontload.kvcache.codec.gpu.device_profile import DeviceProfile
from frontload.kvcache.codec.gpu.encode_kernels import (
    CODE_FIELDS,
    MOVE_FIELDS,
    RESULT_FIELDS,
    encode_streams,
    pack_streams,
)
from frontload.kvcache.codec.streams import head_of, new_head_depths, num_lanes, num_stripes
from frontload.kvcache.profile import LANES, Profile

SPAN = 1024  # 16-bit units that a program moves at a time


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What one stream codes."""

    chunk: int
    part: int
    first_block: int  # in the order of `DeviceProfile`
    blocks: np.ndarray
    depths: range
    first_token: int
    last_token: int
    lanes: int
    table_set: int = 0

    def rooms(self, profile: Profile) -> tuple[int, int]:
        """Most words and escapes: a step stores at most one a token."""
        tokens, live = self.last_token - self.first_token, profile.tables.live[self.blocks]
        words = sum(int(live[:, depth].sum()) for depth in self.depths)
        born = sum(int((live[:, d] - (live[:, d - 1] if d else 0)).sum()) for d in self.depths)
        return tokens * words, tokens * born


def streams_of(
    profile: Profile, tables: DeviceProfile, header: Header, chunk: int, part: int
) -> list[StreamPlan]:
    """The streams of one part, in the order of its body."""
    depth, group = profile.parts[part].depth, profile.parts[part].group
    head = head_of(profile, header.start, header.tokens)
    values = header.tokens * profile.layout.values_per_token
    count = num_stripes(profile, values, group)
    lanes = num_lanes(profile, header, depth, count)
    found, first = [], tables.first_of_group[group]
    for blocks in profile.stripes(group, count):
        found.append(
            StreamPlan(
                chunk=chunk,
                part=part,
                first_block=first,
                blocks=blocks,
                depths=range(depth, depth + 1),
                first_token=head,
                last_token=header.tokens,
                lanes=int(lanes[0]),
            )
        )
        first += len(blocks)
    if head:
        found.append(
            StreamPlan(
                chunk=chunk,
                part=part,
                first_block=tables.first_of_group[group],
                blocks=profile.blocks_of(group),
                depths=new_head_depths(profile, depth),
                first_token=0,
                last_token=head,
                lanes=int(lanes[-1]),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Coded:
    """Streams as the kernel leaves them."""

    streams: Sequence[StreamPlan]
    words: Tensor
    escapes: Tensor
    states: Tensor
    ends: np.ndarray  # int64 [streams, 2]: of each stream's words and escapes
    results: np.ndarray  # int64 [streams, RESULT_FIELDS]

    @staticmethod
    def of(
        tables: DeviceProfile,
        gains: tuple[Tensor, Tensor],
        streams: Sequence[StreamPlan],
        integers: Sequence[Tensor],
        joined: Tensor,
    ) -> Coded:
        """Run the kernel.

        Args:
            gains: bits that a symbol costs more in the safer set, `entropy.Book`'s as int16
                `[entries]` and `[blocks, depths, k, 2 contexts, 4]`.
            integers: of each chunk, int32 `[blocks, k, tokens]`.
            joined: the same, one after another.
        """
        profile, device = tables.profile, joined.device
        begins = np.cumsum([0] + [each.numel() for each in integers])
        ends = np.cumsum([stream.rooms(profile) for stream in streams], axis=0)
        fields = np.array(
            [
                (
                    stream.first_block, len(stream.blocks), stream.depths.start, stream.depths.stop,
                    -(-(stream.last_token - stream.first_token) // LANES), stream.first_token,
                    stream.last_token, stream.table_set, *end, begins[stream.chunk],
                    integers[stream.chunk].shape[2],
                )
                for stream, end in zip(streams, ends, strict=True)
            ],
            np.int64,
        )  # fmt: skip
        assert fields.shape[1] == CODE_FIELDS.value
        words = torch.empty(int(ends[-1, 0]) + 1, dtype=torch.int16, device=device)
        escapes = torch.empty(int(ends[-1, 1]) + 1, dtype=torch.int16, device=device)
        states = torch.empty(len(streams), LANES, dtype=torch.int32, device=device)
        results = torch.empty(len(streams), RESULT_FIELDS.value, dtype=torch.int64, device=device)
        encode_streams[(len(streams),)](
            joined, torch.from_numpy(fields).to(device), tables.order, tables.live,
            tables.alphabets, tables.base, tables.trits, *gains,
            words, escapes, states, results,
            profile.block_size, profile.num_blocks, profile.finest + 1, tables.base.shape[1],
            K=tables.num_components, num_warps=1,
        )  # fmt: skip
        return Coded(
            streams=streams, words=words, escapes=escapes, states=states, ends=ends,
            results=results.cpu().numpy(),
        )  # fmt: skip

    def gains(self) -> dict[tuple[int, int], int]:
        """What the safer tables would have cost each part more, in 1/256 bit."""
        found: dict[tuple[int, int], int] = {}
        for stream, gain in zip(self.streams, self.results[:, 2].tolist(), strict=True):
            place = (stream.chunk, stream.part)
            found[place] = found.get(place, 0) + gain
        return found

    def objects(self, profile: Profile, headers: Sequence[Header], parts: int) -> list[bytes]:
        """Every stream moved to its place, the bodies copied to the host and framed there."""
        lanes = np.array([stream.lanes for stream in self.streams], np.int64)
        of_part = np.array([s.chunk * parts + s.part for s in self.streams])
        counts = np.bincount(of_part)
        sizes = 2 * lanes + self.results[:, 0] + self.results[:, 1]
        lengths = 4 * counts + np.bincount(of_part, sizes).astype(np.int64)  # of bodies
        bodies = np.cumsum([0, *lengths])
        nth = np.arange(len(lanes)) - np.cumsum([0, *counts])[of_part]
        before = np.cumsum([0, *sizes])
        within = before[:-1] - before[np.cumsum([0, *counts])[of_part]]
        moves = np.column_stack(
            (
                self.ends[:, 0] - self.results[:, 0], self.results[:, 0],
                self.ends[:, 1] - self.results[:, 1], self.results[:, 1],
                np.arange(len(lanes)) * 2 * LANES, lanes,
                bodies[of_part] + 4 * nth, bodies[of_part] + 4 * counts[of_part] + within,
            )
        )  # fmt: skip
        assert moves.shape[1] == MOVE_FIELDS.value
        out = torch.empty(int(bodies[-1]), dtype=torch.int16, device=self.words.device)
        pack_streams[(len(lanes),)](
            self.words, self.escapes, self.states.view(torch.int16),
            torch.from_numpy(moves).to(out.device), out, SPAN=SPAN, num_warps=4,
        )  # fmt: skip
        whole = memoryview(out.cpu().numpy()).cast("B")
        firsts = np.cumsum([0, *counts])
        written = []
        for chunk, header in enumerate(headers):
            found = []
            for part in range(parts):
                n = chunk * parts + part
                stream = self.streams[firsts[n]]
                entry = PartEntry(
                    depth=profile.parts[part].depth,
                    group=profile.parts[part].group,
                    table_set=stream.table_set,
                    stripes=int(counts[n]) - header.head_apart,
                )
                found.append((entry, bytes(whole[2 * bodies[n] : 2 * bodies[n + 1]])))
            written.append(container.write(header, found))
        return written
