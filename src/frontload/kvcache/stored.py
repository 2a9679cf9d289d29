"""A whole context's cache to chunk objects and back.

Guarantees: chunks are independent of each other, every level of each is there, and what a hybrid
model's recurrent layers hold at the end travels in the last chunk, exactly, in front of its levels.
Gives up: token ids; who stores a context keeps them beside it (a text is needed to go on anyway).
Completeness, too: objects do not say how many there are, so that chunks missing at either end leave
a shorter context, without an error; the manifest that lists them knows, or compare the decoded
cache's `start` and `num_tokens`.

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
        ValueError: the cache is what `layout.check` refuses, or `state` is not of its end.
    """
    if state is not None:
        state.check(kv.start + kv.num_tokens)
    chunks = encode_chunks(profile, kv.chunks(profile.chunk_tokens), exact=exact, threads=threads)
    if state is None:
        return chunks
    data = container.with_state(chunks[-1].data, state.to_bytes())
    ends = container.read_header(data).ends[1:]
    return [*chunks[:-1], replace(chunks[-1], data=data, ends=ends)]


def decode(
    profile: Profile,
    chunks: Sequence[bytes | memoryview],
    *,
    level: int | None = None,
    threads: int | None = None,
) -> tuple[KVTensors, RecurrentState | None]:
    """bf16 keys and values at `level`, and the recurrent state if there is one.

    Args:
        chunks: a context's objects in order, or a prefix of each.
        level: None for the finest of each chunk: the exact one, or what a prefix completes; they
            may differ.

    Raises:
        ContainerError: an object is damaged, of another profile, or too short for the level.
        ValueError: a chunk between the first and the last is missing, or they are out of order,
            or there is no such level.
    """
    kv = join(decode_chunks(profile, chunks, level=level, threads=threads))
    return kv, read_state(chunks[-1])


def read_state(chunk: bytes | memoryview) -> RecurrentState | None:
    """The recurrent state in a context's last object, if there is one.

    Args:
        chunk: the object, or a prefix of it that holds the state; what lies behind it may be
            damaged.

    Raises:
        ContainerError: the state is damaged, or the prefix ends before it does.
    """
    outline = container.read_header(chunk)
    if not outline.num_states:
        return None
    return RecurrentState.from_bytes(container.read_part(chunk, outline, 0))


def as_tensors(kv: KVTensors, state: RecurrentState | None) -> dict[str, torch.Tensor]:
    """`keys` and `values`, `[layers, heads, tokens, head_dim]`, and `state.NAME` of each state."""
    states = {} if state is None else {f"state.{n}": t for n, t in state.tensors.items()}
    return {"keys": kv.keys.contiguous(), "values": kv.values.contiguous(), **states}
