"""Encoding on a GPU: a cache that is there to chunk objects, without a copy of it to the host.

Guarantees: for the same integers the bytes of `encode_chunk(..., exact=False)`, table sets
included. Gives up: the exact part, the drift report, and the same integers on every machine (the
forward transform is torch's float32 product, whose rounding is the device's; what is decoded from
the object is the same everywhere).

    datas = encode_chunks_gpu(profile, device_profile, kv.chunks(profile.chunk_tokens))

Where the time goes: the product costs 2 x block size float32 operations a value; the passes of
memory around it (rotation, gathering, rounding) about 60 bytes a value; the rANS kernel runs one
warp for each stream, of which every depth has its own. Chunks are taken a few at a time so that
float32 copies stay within `Encoder.batch_values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import container, encoding
from frontload.kvcache.codec.container import DTYPES, Header, PartEntry
from frontload.kvcache.codec.device_profile import DeviceProfile
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.streams import head_of, new_head_depths, num_lanes
from frontload.kvcache.codec.triton_encode_kernels import (
    CODE_FIELDS,
    MOVE_FIELDS,
    RESULT_FIELDS,
    encode_streams,
    pack_streams,
)
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import LANES, Profile

SPAN = 1024  # 16-bit units that a warp moves at a time


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What only encoding needs on the device, uploaded once."""

    tables: DeviceProfile
    forward: Tensor  # float32 [blocks, k, j]
    mean: Tensor  # float32 [blocks, j, 2 (0: of position 0)]
    limit: Tensor  # float32 [blocks, k, 1]
    pieces: Tensor  # int64 [blocks, pieces a block]
    base_gain: Tensor  # int16 [entries]
    trit_gain: Tensor  # int16 [blocks, depths, k, 2 contexts, 4 (trit; one unused)]
    batch_values: int

    @staticmethod
    def upload(tables: DeviceProfile, *, batch_values: int = 1 << 28) -> Encoder:
        """The encoder's side of an uploaded profile; values of that many chunks go together."""
        transform, book = tables.profile.transform, Prepared.of(tables.profile).book
        gain = book.trit_gain.transpose(0, 2, 1, 3, 4)
        padding = tables.num_components - gain.shape[2]
        arrays = {
            "forward": transform.forward,
            "mean": np.stack((transform.first_mean, transform.mean), axis=-1),
            "limit": transform.limit[..., None].astype(np.float32),
            "pieces": transform.pieces.astype(np.int64),
            "base_gain": book.base_gain,
            "trit_gain": np.pad(gain, ((0, 0), (0, 0), (0, padding), (0, 0), (0, 1))),
        }
        return Encoder(
            tables=tables,
            batch_values=batch_values,
            **{name: torch.from_numpy(a.copy()).to(tables.device) for name, a in arrays.items()},
        )

    def integers(self, chunk: KVTensors) -> Tensor:
        """int32 `[blocks, k, tokens]` at the finest depth: `quantize.integers` on the device."""
        blocks, width = self.pieces.shape
        pieces = torch.stack((self._unrotated(chunk), chunk.values.float())).flatten(0, 2)
        channels = pieces.transpose(1, 2)[self.pieces].reshape(blocks, -1, chunk.num_tokens)
        first = channels[..., 0] - self.mean[..., 0]
        channels -= self.mean[..., 1:]
        if chunk.start == 0:
            channels[..., 0] = first
        found = torch.bmm(self.forward, channels).round_()
        return torch.maximum(torch.minimum(found, self.limit, out=found), -self.limit).int()

    def _unrotated(self, chunk: KVTensors) -> Tensor:
        """float32 keys without rotary embedding; its angles are those that decoding uses."""
        rotary = self.tables.profile.layout.rotary
        if rotary is None:
            return chunk.keys.float()
        end = chunk.start + chunk.num_tokens
        angles = self.tables.angles(end)[chunk.start : end]
        return rotary.undo(chunk.keys.float(), chunk.start, angles)


def encode_chunks_gpu(
    profile: Profile, encoder: Encoder, chunks: Sequence[KVTensors], *, level: int | None = None
) -> list[bytes]:
    """The objects of chunks that are on the encoder's device, without exact parts.

    Args:
        chunks: of the profile's layout, at least a token each.
        level: store no finer level than this index into `profile.levels`.

    Raises:
        ValueError: a chunk is not of the profile's layout, empty, or holds NaN or infinities.
    """
    if profile.id != encoder.tables.profile.id:
        raise ValueError("encoder is another profile's; upload this one")
    found: list[bytes] = []
    for batch in _batches(chunks, encoder.batch_values):
        for chunk in batch:
            encoding.check_chunk(profile, chunk)
        headers = [_header(profile, chunk) for chunk in batch]
        integers = [encoder.integers(chunk) for chunk in batch]
        found += encode_integers(encoder, headers, integers, level=level)
    return found


def encode_integers(
    encoder: Encoder,
    headers: Sequence[Header],
    integers: Sequence[Tensor],
    *,
    level: int | None = None,
) -> list[bytes]:
    """The objects of integers at the finest depth, int32 `[blocks, k, tokens]` each."""
    profile = encoder.tables.profile
    parts = len(profile.parts) if level is None else profile.levels[level].parts
    streams = [
        stream
        for chunk, header in enumerate(headers)
        for part in range(parts)
        for stream in _streams(profile, encoder.tables, header, chunk, part)
    ]
    joined = torch.cat([each.reshape(-1) for each in integers])
    coded = _Coded.of(encoder, streams, integers, joined)
    if any(gain < 0 for gain in coded.gains().values()):  # rare: unlike calibration
        safer = {place for place, gain in coded.gains().items() if gain < 0}
        streams = [
            replace(stream, table_set=int((stream.chunk, stream.part) in safer))
            for stream in streams
        ]
        coded = _Coded.of(encoder, streams, integers, joined)
    return coded.objects(profile, headers, parts)


@dataclass(frozen=True, kw_only=True)
class _Stream:
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
        born = sum(
            int((live[:, d] - (live[:, d - 1] if d else 0)).sum()) for d in self.depths
        )
        return tokens * words, tokens * born


def _streams(
    profile: Profile, tables: DeviceProfile, header: Header, chunk: int, part: int
) -> list[_Stream]:
    """The streams of one part, in the order of its body."""
    depth, group = profile.parts[part].depth, profile.parts[part].group
    head = head_of(profile, header.start, header.tokens)
    shape = (profile.num_blocks, header.tokens, profile.block_size)
    count = encoding._num_stripes(profile, np.broadcast_to(np.int8(0), shape), group)
    lanes = num_lanes(profile, header, depth, count)
    found, first = [], tables.first_of_group[group]
    for blocks in profile.stripes(group, count):
        found.append(
            _Stream(
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
            _Stream(
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
class _Coded:
    """Streams as the kernel leaves them."""

    streams: Sequence[_Stream]
    words: Tensor
    escapes: Tensor
    states: Tensor
    ends: np.ndarray  # int64 [streams, 2]: of each stream's words and escapes
    results: np.ndarray  # int64 [streams, RESULT_FIELDS]

    @staticmethod
    def of(
        encoder: Encoder, streams: Sequence[_Stream], integers: Sequence[Tensor], joined: Tensor
    ) -> _Coded:
        tables, profile, device = encoder.tables, encoder.tables.profile, joined.device
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
            tables.alphabets, tables.base, tables.trits, encoder.base_gain, encoder.trit_gain,
            words, escapes, states, results,
            profile.block_size, profile.num_blocks, profile.finest + 1, tables.base.shape[1],
            K=tables.num_components, num_warps=1,
        )  # fmt: skip
        return _Coded(
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


def _header(profile: Profile, chunk: KVTensors) -> Header:
    return Header(
        profile_id=profile.id,
        tokens=chunk.num_tokens,
        start=chunk.start,
        dtype=DTYPES[(torch.bfloat16, torch.float16, torch.float32).index(chunk.keys.dtype)],
        head_apart=head_of(profile, chunk.start, chunk.num_tokens) > 0,
    )


def _batches(chunks: Sequence[KVTensors], values: int) -> list[list[KVTensors]]:
    """Runs of chunks of about `values` together, one at least."""
    found: list[list[KVTensors]] = []
    room = 0
    for chunk in chunks:
        room -= chunk.num_values
        if room < 0 or not found:
            found.append([])
            room = values - chunk.num_values
        found[-1].append(chunk)
    return found
