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

from frontload.kvcache import layout
from frontload.kvcache.codec.container import DTYPES, Header
from frontload.kvcache.codec.decoding import parts_of
from frontload.kvcache.codec.encoding import check_chunk
from frontload.kvcache.codec.gpu.device_profile import DeviceProfile
from frontload.kvcache.codec.gpu.streams import Coded, streams_of
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.streams import head_of
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile


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
        blocks = len(self.pieces)
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
        origin, angles = self.tables.angles(chunk.start, end)
        angles = angles[chunk.start - origin : end - origin]
        return rotary.undo(chunk.keys.float(), chunk.start, angles)


def encode_chunks_gpu(
    profile: Profile, encoder: Encoder, chunks: Sequence[KVTensors], *, level: int | None = None
) -> list[bytes]:
    """The objects of chunks that are on the encoder's device, without exact parts.

    Args:
        chunks: of the profile's layout, at least a token each.
        level: store no finer level than this index into `profile.levels`.

    Raises:
        ValueError: a chunk is on another device, not of the profile's layout, empty, or holds NaN
            or infinities; or there is no such level.
    """
    if profile.id != encoder.tables.profile.id:
        raise ValueError("encoder is another profile's; upload this one")
    found: list[bytes] = []
    for batch in _batches(chunks, encoder.batch_values):
        for chunk in batch:
            if chunk.keys.device != encoder.tables.device:
                raise ValueError(
                    f"a chunk is on {chunk.keys.device}, the encoder's tables on "
                    f"{encoder.tables.device}; move it there, or use encode_chunks"
                )
            check_chunk(profile, chunk)
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
    parts = parts_of(profile, level)
    streams = [
        stream
        for chunk, header in enumerate(headers)
        for part in range(parts)
        for stream in streams_of(profile, encoder.tables, header, chunk, part)
    ]
    gains = (encoder.base_gain, encoder.trit_gain)
    joined = torch.cat([each.reshape(-1) for each in integers])
    coded = Coded.of(encoder.tables, gains, streams, integers, joined)
    if any(gain < 0 for gain in coded.gains().values()):  # rare: unlike calibration
        safer = {place for place, gain in coded.gains().items() if gain < 0}
        streams = [
            replace(stream, table_set=int((stream.chunk, stream.part) in safer))
            for stream in streams
        ]
        coded = Coded.of(encoder.tables, gains, streams, integers, joined)
    return coded.objects(profile, headers, parts)


def _header(profile: Profile, chunk: KVTensors) -> Header:
    return Header(
        profile_id=profile.id,
        tokens=chunk.num_tokens,
        start=chunk.start,
        dtype=DTYPES[layout.DTYPES.index(chunk.keys.dtype)],
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
