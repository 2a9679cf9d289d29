"""A whole context's cache to chunk objects and back.

Guarantees: chunks are independent of each other, every level of each is there, and what a hybrid
model's recurrent layers hold at the end travels in the last chunk, exactly. Gives up: token ids;
who stores a context keeps them beside it (a text is needed to go on anyway).

    chunks = encode(profile, kv)
    write_file(path, [chunk.data for chunk in chunks])
    kv, state = decode(profile, read_file(path), level=2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from frontload.kvcache.codec import container
from frontload.kvcache.codec.chunk import Encoded, decode_chunks, encode_chunks
from frontload.kvcache.codec.container import Kind, PartEntry
from frontload.kvcache.layout import KVTensors, join
from frontload.kvcache.profile import Profile
from frontload.kvcache.state import RecurrentState


def encode(
    profile: Profile,
    kv: KVTensors,
    state: RecurrentState | None = None,
    *,
    exact: bool = True,
    threads: int | None = None,
) -> list[Encoded]:
    """One object for every `profile.chunk_tokens` tokens; `state` goes into the last.

    Raises:
        ValueError: the cache is not of the profile's layout, is empty, or holds NaN.
    """
    chunks = encode_chunks(profile, kv.chunks(profile.chunk_tokens), exact=exact, threads=threads)
    if state is None:
        return chunks
    state.check()
    data = container.append(chunks[-1].data, PartEntry(kind=Kind.STATE), state.to_bytes())
    ends = container.read_header(data).ends
    return [*chunks[:-1], replace(chunks[-1], data=data, ends=ends)]


def decode(
    profile: Profile,
    chunks: Sequence[bytes | memoryview],
    *,
    level: int | None = None,
    threads: int | None = None,
) -> tuple[KVTensors, RecurrentState | None]:
    """bf16 keys and values at `level` (the exact one, or the finest stored, unless given).

    Raises:
        ContainerError: an object is damaged, or of another profile.
        ValueError: chunks are missing or out of order, or there is no such level.
    """
    kv = join(decode_chunks(profile, chunks, level=level, threads=threads))
    return kv, read_state(chunks[-1])


def read_state(chunk: bytes | memoryview) -> RecurrentState | None:
    """The recurrent state in a context's last object, if there is one."""
    found = container.read(chunk, profile_id=None)
    for entry, body in zip(found.entries, found.bodies, strict=True):
        if entry.kind == Kind.STATE:
            return RecurrentState.from_bytes(body)
    return None


def as_tensors(kv: KVTensors, state: RecurrentState | None) -> dict[str, torch.Tensor]:
    """`keys` and `values`, `[layers, heads, tokens, head_dim]`, and `state.NAME` of each state."""
    states = {} if state is None else {f"state.{n}": t for n, t in state.tensors.items()}
    return {"keys": kv.keys.contiguous(), "values": kv.values.contiguous(), **states}
