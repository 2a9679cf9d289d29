"""A chunk to an object: integers, streams, the exact part, and what it cost against calibration.

Guarantees: the same chunk gives the same bytes whatever the number of threads; each part uses
whichever table set costs fewer bits. Gives up: speed in the exact part's prediction, for which the
lossy parts are decoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from frontload.kvcache import layout
from frontload.kvcache.codec import container, encode_kernels
from frontload.kvcache.codec.container import DEFAULT, DTYPES, Header, Kind, PartEntry
from frontload.kvcache.codec.decoding import decode_chunk, parts_of
from frontload.kvcache.codec.drift import Drift, Encoded, PartDrift
from frontload.kvcache.codec.entropy import ESCAPE, GAIN_UNIT, POSITION
from frontload.kvcache.codec.exact import encode_exact
from frontload.kvcache.codec.parallel import num_threads, run_all
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.quantize import integers
from frontload.kvcache.codec.streams import (
    Stream,
    head_of,
    new_head_depths,
    num_lanes,
    num_stripes,
    write_body,
)
from frontload.kvcache.layout import KVTensors, check
from frontload.kvcache.profile import Profile


def encode_chunk(
    profile: Profile,
    chunk: KVTensors,
    *,
    exact: bool = True,
    level: int | None = None,
    threads: int | None = None,
) -> Encoded:
    """The object of one chunk.

    Args:
        profile: of the model that made the cache.
        chunk: at least one token; bf16, fp16 or fp32.
        exact: store the exact level, too (of the values rounded to bf16).
        level: store no finer level than this index into `profile.levels`; not with `exact`.
        threads: None for one a core.

    Raises:
        ValueError: the chunk is what `layout.check` refuses, or there is no such level.
    """
    check_chunk(profile, chunk)
    parts = _parts_to_store(profile, exact, level)
    return _coded_chunk(profile, _quantized(profile, chunk), exact, parts, threads)


def encode_chunks(
    profile: Profile,
    chunks: Sequence[KVTensors],
    *,
    exact: bool = True,
    level: int | None = None,
    threads: int | None = None,
) -> list[Encoded]:
    """`encode_chunk` of each, side by side.

    Integers are formed outside of the pool, by torch's own threads, for as many chunks as the pool
    then codes at a time.
    """
    parts, count = _parts_to_store(profile, exact, level), num_threads(threads)
    found: list[Encoded | None] = [None] * len(chunks)

    def encode(index: int, quantized: _Quantized, threads: int) -> None:
        found[index] = _coded_chunk(profile, quantized, exact, parts, threads)

    for chunk in chunks:
        check_chunk(profile, chunk)
    for first in range(0, len(chunks), count):
        batch = chunks[first : first + count]
        ready = [_quantized(profile, chunk) for chunk in batch]
        if len(batch) == 1:
            encode(first, ready[0], count)
        else:
            run_all([partial(encode, first + i, each, 1) for i, each in enumerate(ready)], count)
    return [each for each in found if each is not None]


@dataclass(frozen=True, kw_only=True)
class _Quantized:
    """A chunk on the host, and its integers."""

    chunk: KVTensors
    integer: np.ndarray
    saturated: int


def _quantized(profile: Profile, chunk: KVTensors) -> _Quantized:
    chunk = chunk.to(device="cpu")
    integer, saturated = integers(profile, chunk)
    return _Quantized(chunk=chunk, integer=integer, saturated=saturated)


def _parts_to_store(profile: Profile, exact: bool, level: int | None) -> int:
    if level is not None and exact:
        raise ValueError(f"exact needs all levels; set exact=False to store up to level {level}")
    return parts_of(profile, level)


def _coded_chunk(
    profile: Profile, quantized: _Quantized, exact: bool, parts: int, threads: int | None
) -> Encoded:
    chunk = quantized.chunk
    header = Header(
        profile_id=profile.id,
        tokens=chunk.num_tokens,
        start=chunk.start,
        dtype=DTYPES[layout.DTYPES.index(chunk.keys.dtype)],
        head_apart=head_of(profile, chunk.start, chunk.num_tokens) > 0,
    )
    coded = _encode_parts(profile, header, quantized.integer, parts, threads)
    bodies = [(part.entry, part.body) for part in coded]
    if exact:
        lossy = decode_chunk(profile, container.write(header, bodies), threads=threads)
        body = encode_exact(profile, _bits(lossy), _bits(chunk), threads=threads)
        bodies.append((PartEntry(kind=Kind.EXACT), body))
    data = container.write(header, bodies)
    return Encoded(
        data=data,
        ends=container.read_header(data).ends,
        report=Drift(
            parts=tuple(_drift(profile, chunk, *each) for each in enumerate(coded)),
            saturated=quantized.saturated,
            beyond_calibration=chunk.start + chunk.num_tokens > profile.calibrated_tokens,
        ),
    )


def check_chunk(profile: Profile, chunk: KVTensors) -> None:
    """Refuse what cannot be encoded.

    Raises:
        ValueError: which it is, and what to do.
    """
    check(chunk, profile.layout)
    tokens = chunk.num_tokens
    if tokens > DEFAULT.tokens or chunk.start + tokens > DEFAULT.positions:
        raise ValueError(
            f"a chunk of {tokens} tokens from position {chunk.start}; at most {DEFAULT.tokens} "
            f"tokens, up to position {DEFAULT.positions}; cut it with KVTensors.chunks"
        )


@dataclass(frozen=True, kw_only=True)
class _Coded:
    """One part, its streams, and what its safer tables would cost more, in 1/256 bit."""

    entry: PartEntry
    body: bytes
    words: int
    escapes: int
    gain: int


def _encode_parts(
    profile: Profile, header: Header, integer: np.ndarray, parts: int, threads: int | None
) -> list[_Coded]:
    """The first parts of the object, in the object's order."""
    found = {}
    for group in sorted({part.group for part in profile.parts[:parts]}):
        depths = sum(part.group == group for part in profile.parts[:parts])
        sets = np.zeros(depths, np.int64)
        streams, gains = _encode_group(profile, header, integer, group, sets, threads)
        if (gains < 0).any():  # rare: what is coded is unlike calibration
            sets = (gains < 0).astype(np.int64)
            streams, gains = _encode_group(profile, header, integer, group, sets, threads)
        for depth in range(depths):
            entry = PartEntry(
                depth=depth,
                group=group,
                table_set=int(sets[depth]),
                stripes=len(streams[depth]) - header.head_apart,
            )
            found[depth, group] = _Coded(
                entry=entry,
                body=write_body(streams[depth]),
                words=sum(len(stream.words) for stream in streams[depth]),
                escapes=sum(len(stream.escapes) for stream in streams[depth]),
                gain=int(gains[depth]),
            )
    return [found[part.depth, part.group] for part in profile.parts[:parts]]


def _encode_group(
    profile: Profile,
    header: Header,
    integer: np.ndarray,
    group: int,
    sets: np.ndarray,
    threads: int | None,
) -> tuple[list[list[Stream]], np.ndarray]:
    """Streams of each depth (a stripe each, then the head), and the safer sets' extra cost."""
    book = Prepared.of(profile).book
    head = head_of(profile, header.start, header.tokens)
    stripes = profile.stripes(group, num_stripes(profile, integer.size, group))
    main: list[tuple[np.ndarray, ...]] = [()] * len(stripes)

    def encode(index: int) -> None:
        main[index] = encode_kernels.encode_stripe(integer, sets, stripes[index], head, book)

    run_all([partial(encode, index) for index in range(len(stripes))], threads)
    gains = sum((code[4] for code in main), np.zeros(len(sets), np.int64))
    streams = []
    for depth in range(len(sets)):
        lanes = num_lanes(profile, header, depth, len(stripes))
        streams.append([_stream(code, depth, lanes[0]) for code in main])
        if head:
            new = new_head_depths(profile, depth)
            code = encode_kernels.encode_head(
                integer, sets[depth], profile.blocks_of(group), head, new.start, new.stop, book
            )
            streams[-1].append(_stream(code, 0, lanes[-1]))
            gains[depth] += code[4][0]
    return streams, gains


def _stream(code: tuple[np.ndarray, ...], depth: int, lanes: int) -> Stream:
    words, escapes, states, cursors, _ = code
    return Stream(
        states=states[depth, :lanes],
        words=words[depth, cursors[depth, POSITION] :],
        escapes=escapes[depth, cursors[depth, ESCAPE] :],
    )


def _drift(profile: Profile, chunk: KVTensors, index: int, coded: _Coded) -> PartDrift:
    part, live = profile.parts[index], profile.tables.live[profile.group == coded.entry.group]
    born = live[:, part.depth] - (live[:, part.depth - 1] if part.depth else 0)
    return PartDrift(
        depth=part.depth,
        group=part.group,
        bits_per_value=16 * (coded.words + coded.escapes) / chunk.num_values,
        calibrated=profile.code_length[index] if profile.code_length else None,
        escapes=coded.escapes,
        symbols=int(born.sum()) * chunk.num_tokens,
        safer=bool(coded.entry.table_set),
        saved_bits=max(-coded.gain, 0) / GAIN_UNIT / chunk.num_values,
    )


def _bits(chunk: KVTensors) -> np.ndarray:
    """uint16 `[pieces, tokens, head_dim]`: bits of the values as bf16."""
    return chunk.pieces().to(torch.bfloat16).view(torch.uint16).numpy()
