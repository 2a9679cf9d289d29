"""An object, or any prefix of one, to a cache: parts are checked, then decoded side by side.

Guarantees: bytes damaged in whatever way raise `ContainerError` or decode as they were encoded;
sizes are compared with limits before memory is taken. Gives up: recurrent states, which callers
read as parts of their own.

The unit of work is a stripe (some blocks of a group, all depths) of one object, so a single long
chunk and many short ones use all cores alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import container, kernels
from frontload.kvcache.codec.container import DEFAULT, Header, Kind, Limits, Malformed, Truncated
from frontload.kvcache.codec.exact import decode_exact
from frontload.kvcache.codec.prepared import Prepared, turn_of
from frontload.kvcache.codec.streams import Group, head_of, read_groups
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile

Task = Callable[[], None]
DAMAGE = {
    kernels.RAN_DRY: "a stream ends before its symbols, or an escape is beyond its limit",
    kernels.LEFT_OVER: "a stream does not end as an encoder ends it",
    kernels.LOW_STATE: "a state is below 65536",
    kernels.TOO_WIDE: "an integer is beyond the profile's limit",
}


def decode_chunk(
    profile: Profile,
    data: bytes | bytearray | memoryview,
    *,
    level: int | None = None,
    out: Tensor | None = None,
    threads: int | None = None,
    limits: Limits = DEFAULT,
) -> KVTensors:
    """The cache of one object, or of as much of it as `data` has.

    Args:
        profile: the one that it was encoded with.
        data: an object, or a prefix of one.
        level: index into `profile.levels`; as many as there are for the exact level; None for the
            deepest that `data` completes.
        out: bf16 `[pieces, tokens, head_dim]`, contiguous, to decode into.
        threads: None for one a core.
        limits: refuse objects that declare more.

    Raises:
        ContainerError: what is wrong with `data`, `Truncated` if it is too short for the level.
        ValueError: no such level, or `out` does not fit.
    """
    job = _read(profile, data, level, limits)
    wanted = (profile.layout.num_pieces, job.header.tokens, profile.layout.head_dim)
    if out is None:
        out = torch.empty(wanted, dtype=torch.bfloat16)
    elif out.shape != wanted or out.dtype != torch.bfloat16 or not out.is_contiguous():
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)}; give contiguous bfloat16 {list(wanted)}"
        )
    _decode(profile, [job], [out], threads)
    return KVTensors.from_pieces(out, profile.layout, job.header.start)


def decode_chunks(
    profile: Profile,
    datas: Sequence[bytes | bytearray | memoryview],
    level: int | None = None,
    threads: int | None = None,
    limits: Limits = DEFAULT,
) -> list[KVTensors]:
    """`decode_chunk` of each, with all their stripes spread over `threads`."""
    jobs = [_read(profile, data, level, limits) for data in datas]
    layout = profile.layout
    outs = [
        torch.empty((layout.num_pieces, job.header.tokens, layout.head_dim), dtype=torch.bfloat16)
        for job in jobs
    ]
    _decode(profile, jobs, outs, threads)
    return [
        KVTensors.from_pieces(out, layout, job.header.start)
        for out, job in zip(outs, jobs, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """An object that was checked and is to be decoded."""

    header: Header
    words: np.ndarray  # uint16 view of the object
    groups: list[Group]
    exact: memoryview | None


def _read(
    profile: Profile, data: bytes | bytearray | memoryview, level: int | None, limits: Limits
) -> _Job:
    view = memoryview(data).cast("B")
    outline = container.read_header(view, profile_id=profile.id, limits=limits)
    outline.refuse_more(len(view))
    container.check_decoded_size(outline.header, profile.layout.values_per_token, limits)
    parts, with_exact = _wanted(profile, outline, len(view), level)
    end = outline.ends[parts if with_exact else parts - 1]
    found = container.read(view[:end], profile_id=profile.id, limits=limits, partial=True)
    groups = read_groups(profile, found, parts)  # first: it knows that sizes are even
    return _Job(
        header=found.header,
        words=_as_words(view[: outline.ends[parts - 1]]),
        groups=groups,
        exact=found.bodies[parts] if with_exact else None,
    )


def _wanted(
    profile: Profile, outline: container.Outline, present: int, level: int | None
) -> tuple[int, bool]:
    """How many lossy parts to decode, and whether the exact one behind them."""
    stored = sum(entry.kind is Kind.LOSSY for entry in outline.entries)
    has_exact = any(entry.kind is Kind.EXACT for entry in outline.entries)
    if stored > len(profile.parts) or (has_exact and stored < len(profile.parts)):
        raise Malformed(f"{stored} lossy parts, the profile has {len(profile.parts)}")
    depths = [each.parts for each in profile.levels if each.parts <= stored] or [stored]
    complete = outline.complete(present)
    if level is None:
        if has_exact and complete > stored:
            return stored, True
        level = max(sum(parts <= complete for parts in depths) - 1, 0)
    if level == len(profile.levels) and has_exact:
        if complete <= stored:
            raise Truncated(present=present, needed=outline.ends[stored], of="the exact level")
        return stored, True
    if not 0 <= level < len(depths):
        raise ValueError(f"level {level}: the object holds levels 0 to {len(depths) - 1}")
    parts = depths[level]
    if parts > complete:
        raise Truncated(present=present, needed=outline.ends[parts - 1], of=f"level {level}")
    return parts, False


def _as_words(view: memoryview) -> np.ndarray:
    """uint16 of an even number of bytes, aligned (a copy if need be) and read-only."""
    content = np.frombuffer(view, np.uint8)
    if content.ctypes.data % 2:
        content = content.copy()
    words = content.view("<u2")
    words.flags.writeable = False  # one type for numba, whatever the buffer was
    return words


def _decode(
    profile: Profile, jobs: Sequence[_Job], outs: Sequence[Tensor], threads: int | None
) -> None:
    run_all(
        [task for job, out in zip(jobs, outs, strict=True) for task in _tasks(profile, job, out)],
        threads,
    )
    for job, out in zip(jobs, outs, strict=True):
        if job.exact is not None:
            bits = out.view(torch.uint16).numpy()
            bits[:] = decode_exact(profile, job.exact, bits)


def _tasks(profile: Profile, job: _Job, out: Tensor) -> list[Task]:
    """One task a stripe, and one a head; they write to different places of `out`."""
    ready, header = Prepared.of(profile), job.header
    turn = turn_of(profile, header.start, header.tokens)
    head = head_of(profile, header.start, header.tokens)
    common = (header.start, ready.book, ready.basis, turn, out.view(torch.uint16).numpy())
    tasks: list[Task] = []
    for group in job.groups:
        stripes = profile.stripes(group.number, len(group.main))
        for blocks, places in zip(stripes, group.main, strict=True):
            streams = (job.words, places, group.sets, blocks, head)
            tasks.append(partial(_check, kernels.decode_stripe, *streams, *common))
        if group.head is not None:
            blocks = profile.blocks_of(group.number)
            streams = (job.words, group.head, group.sets, blocks, head)
            tasks.append(
                partial(_check, kernels.decode_head, *streams, profile.head_depth, *common)
            )
    return tasks


def _check(kernel: Callable[..., int], *args: object) -> None:
    status = kernel(*args)
    if status != kernels.GOOD:
        raise Malformed(DAMAGE[status])


def run_all(tasks: Sequence[Task], threads: int | None) -> None:
    """Run `tasks` on `threads` (None: one a core); the first error is raised when all ended."""
    count = min(threads or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
