"""Chunk objects made ready for a GPU: checked on the host, sent as they are, cut into jobs.

Guarantees: checksums hold and every stream lies inside its part before a byte is sent; the bytes
are copied once on the host, into the buffer that is sent, and once to the device. Gives up: the
exact and state parts, which `chunk` and `stored` decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec.container import DEFAULT, Limits, Malformed
from frontload.kvcache.codec.decoding import parts_of, read_job
from frontload.kvcache.codec.gpu.device_profile import DeviceProfile
from frontload.kvcache.codec.streams import Group, head_of
from frontload.kvcache.profile import LANES, Profile

STREAM_FIELDS = 5  # where states, words, escapes begin and where they end, in 2 bytes; table set
ROW_FIELDS = 4  # first token, last token, position of token 0, output row of token 0
JOB_FIELDS = 4  # first block in `order`, blocks, depths, tiles


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """What one launch decodes; see `decode_kernels.decode_chunks`."""

    head: bool
    rows: int
    slots: int  # blocks whose integers a program keeps at a time
    point_bytes: int
    jobs: Tensor  # int32 [jobs, JOB_FIELDS]
    streams: Tensor  # int64 [jobs, depths, rows, STREAM_FIELDS]
    row_table: Tensor  # int64 [jobs, rows, ROW_FIELDS]
    chunk: np.ndarray  # int64 [jobs, rows]: whose rows these are; -1: nobody's


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """Checked chunks on the device, to be decoded any number of times."""

    data: Tensor  # int16, the lossy parts that the level needs of all objects
    launches: tuple[Jobs, ...]
    start: int  # position of the first token of all
    end: int


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A checked object: the bytes of its lossy parts, and where its streams lie in them."""

    view: memoryview
    start: int
    tokens: int
    head: int
    groups: list[Group]


def upload(
    device_profile: DeviceProfile,
    datas: Sequence[bytes | memoryview],
    level: int,
    rows: int,
    limits: Limits = DEFAULT,
) -> Uploaded:
    """Check chunk objects and copy what a level needs of them to the device.

    Args:
        datas: objects or prefixes of them, in any order.
        level: index into the profile's levels.
        rows: chunks that a program decodes side by side, a power of two.
        limits: refuse objects that declare more.

    Raises:
        ContainerError: an object is damaged, cut short, of another profile, beyond the limits.
        ValueError: there is none, or no such level.
    """
    if not datas:
        raise ValueError("no chunk to decode")
    profile = device_profile.profile
    chunks = [_checked(profile, data, level, limits) for data in datas]
    origins = np.cumsum([0, *(len(chunk.view) // 2 for chunk in chunks[:-1])])
    start = min(chunk.start for chunk in chunks)
    plan = _Plan(device_profile=device_profile, chunks=chunks, origins=origins, start=start)
    launches = [plan.heads()] if any(chunk.head for chunk in chunks) else []
    launches += [plan.stripes(rows)] if any(c.tokens > c.head for c in chunks) else []
    return Uploaded(
        data=_joined([chunk.view for chunk in chunks], device_profile.device),
        launches=tuple(launches),
        start=start,
        end=max(chunk.start + chunk.tokens for chunk in chunks),
    )


def _checked(profile: Profile, data: bytes | memoryview, level: int, limits: Limits) -> _Chunk:
    """An object as the CPU reads it, and what its kernels find out and ours would not."""
    job = read_job(profile, data, level, limits)
    if sum(len(group.sets) for group in job.groups) != parts_of(profile, level):
        raise Malformed(f"fewer parts than level {level} has")
    header = job.header
    head = head_of(profile, header.start, header.tokens)
    empty = head == header.tokens  # no program runs for stripes without a token
    if empty and any((each.main[..., 3] > each.main[..., 0]).any() for each in job.groups):
        raise Malformed("streams of no tokens hold words")
    return _Chunk(
        view=job.lossy, start=header.start, tokens=header.tokens, head=head, groups=job.groups
    )


def _joined(views: Sequence[memoryview], device: torch.device) -> Tensor:
    size = sum(map(len, views))
    staging = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    room, at = memoryview(staging.numpy()), 0
    for view in views:
        room[at : at + len(view)] = view
        at += len(view)
    return staging.view(torch.int16).to(device)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Chunks to be cut into jobs."""

    device_profile: DeviceProfile
    chunks: Sequence[_Chunk]
    origins: np.ndarray  # where each chunk begins in the joined bytes, in 2 bytes
    start: int

    @property
    def _depths(self) -> list[int]:
        """How many depths the level has of each group."""
        return [len(group.sets) for group in self.chunks[0].groups]

    def heads(self) -> Jobs:
        """One job for each group of every chunk that holds some of the context's first tokens."""
        profile = self.device_profile.profile
        found = [c for c, chunk in enumerate(self.chunks) if chunk.head]
        jobs, streams, owners = [], [], []
        for g, depths in enumerate(self._depths):
            deepest = profile.depth_of(depths - 1, head=True)
            for c in found:
                group = self.chunks[c].groups[g]
                assert group.head is not None
                whole = len(profile.blocks_of(group.number))
                first = self.device_profile.first_of_group[group.number]
                jobs.append((first, whole, deepest + 1, 1))
                streams.append(self._streams(c, group.head, group.sets)[None, :, None])
                owners.append([c])
        deepest = max(profile.depth_of(depths - 1, head=True) for depths in self._depths)
        return self._uploaded(jobs, streams, owners, deepest, head=True)

    def stripes(self, rows: int) -> Jobs:
        """One job for each stripe of up to `rows` chunks that are cut alike; neighbours in turn,

        so that jobs that run at the same time read the same tables.
        """
        profile = self.device_profile.profile
        jobs, streams, owners = [], [], []
        for g in range(len(self._depths)):
            number = self.chunks[0].groups[g].number
            by_count: dict[int, list[int]] = {}
            for c, chunk in enumerate(self.chunks):
                if chunk.tokens > chunk.head:
                    by_count.setdefault(len(chunk.groups[g].main), []).append(c)
            for count, found in by_count.items():
                cuts = [len(blocks) for blocks in profile.stripes(number, count)]
                begins = self.device_profile.first_of_group[number] + np.cumsum([0, *cuts])
                teams = [found[i : i + rows] for i in range(0, len(found), rows)]
                tables = [self._team(g, team, rows) for team in teams]
                for s in range(count):
                    for team, table in zip(teams, tables, strict=True):
                        tiles = max(self._tiles(c) for c in team)
                        jobs.append((int(begins[s]), cuts[s], table.shape[1], tiles))
                        streams.append(table[s : s + 1])
                        owners.append(team + [-1] * (rows - len(team)))
        deepest = max(self._depths) - 1
        return self._uploaded(jobs, streams, owners, deepest, head=False)

    def _tiles(self, c: int) -> int:
        return -(-(self.chunks[c].tokens - self.chunks[c].head) // LANES)

    def _team(self, g: int, team: list[int], rows: int) -> np.ndarray:
        """int64 `[stripes, depths, rows, STREAM_FIELDS]`; rows of nobody are zeros."""
        groups = [self.chunks[c].groups[g] for c in team]
        table = np.zeros((*groups[0].main.shape[:2], rows, STREAM_FIELDS), np.int64)
        for row, (c, group) in enumerate(zip(team, groups, strict=True)):
            table[:, :, row] = self._streams(c, group.main, group.sets)
        return table

    def _streams(self, c: int, places: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """int64 `[..., depths, STREAM_FIELDS]` from places within chunk `c`."""
        here = places + self.origins[c]
        return np.concatenate((here, np.broadcast_to(sets, here.shape[:-1])[..., None]), axis=-1)

    def _uploaded(
        self,
        jobs: list[tuple[int, int, int, int]],
        streams: list[np.ndarray],
        owners: list[list[int]],
        deepest: int,
        *,
        head: bool,
    ) -> Jobs:
        depths = max(table.shape[1] for table in streams)
        widest = [
            np.pad(table, ((0, 0), (0, depths - table.shape[1]), (0, 0), (0, 0)))
            for table in streams
        ]
        device = self.device_profile.device
        return Jobs(
            head=head,
            rows=len(owners[0]),
            slots=max(blocks for _, blocks, _, _ in jobs) if head else 1,
            point_bytes=max(self.device_profile.point_bytes[: deepest + 1]),
            jobs=torch.tensor(jobs, dtype=torch.int32, device=device),
            streams=torch.from_numpy(np.concatenate(widest)).to(device),
            row_table=torch.from_numpy(self._rows(owners, head)).to(device),
            chunk=np.array(owners, np.int64),
        )

    def _rows(self, owners: list[list[int]], head: bool) -> np.ndarray:
        """int64 `[jobs, rows, ROW_FIELDS]`."""
        fields = [
            (0, c.head, c.start, c.start - self.start)
            if head
            else (c.head, c.tokens, c.start, c.start - self.start)
            for c in self.chunks
        ]
        return np.array([*fields, (0, 0, 0, 0)], np.int64)[np.array(owners)]
