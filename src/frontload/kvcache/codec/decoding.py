"""An object, or any prefix of one, to a cache: parts are checked, then decoded side by side.

Guarantees: bytes damaged in whatever way raise `ContainerError` or decode as they were encoded;
sizes are compared with limits before memory is taken. Gives up: recurrent states, which
`stored.read_state` reads.

The unit of work is a stripe (some blocks of a group, all depths) of one object, so a single long
chunk and many short ones use all cores alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import container, kernels
from frontload.kvcache.codec.container import DEFAULT, Header, Kind, Limits, Malformed, Truncated
from frontload.kvcache.codec.exact import Exact
from frontload.kvcache.codec.parallel import Task, run_all
from frontload.kvcache.codec.prepared import Prepared, turn_of
from frontload.kvcache.codec.streams import Group, head_of, read_groups
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile

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
    job = read_job(profile, data, level, limits)
    wanted = (profile.layout.num_pieces, job.header.tokens, profile.layout.head_dim)
    if out is None:
        out = torch.empty(wanted, dtype=torch.bfloat16)
    elif out.shape != wanted or out.dtype != torch.bfloat16 or not out.is_contiguous():
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)}; give contiguous bfloat16 {list(wanted)}"
        )
    elif out.device.type != "cpu":
        raise ValueError(f"out is on {out.device}; give memory of the host, or decode on the GPU")
    elif out.device.type != "cpu":
        raise ValueError(f"out is on {out.device}; give one on the CPU and copy it over")
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
    jobs = [read_job(profile, data, level, limits) for data in datas]
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
class Job:
    """An object that was checked and is to be decoded.

    lossy: the bytes of the lossy parts to decode, without what lies in front of them;
        `groups` count from its beginning.
    exact: the body of the exact part, if it is to be decoded.
    """

    header: Header
    lossy: memoryview
    groups: list[Group]
    exact: memoryview | None


def parts_of(profile: Profile, level: int | None) -> int:
    """How many lossy parts a level has; None is all of them.

    Raises:
        ValueError: the profile has no such level.
    """
    if level is None:
        return len(profile.parts)
    if not 0 <= level < len(profile.levels):
        raise ValueError(f"level {level}: the profile has levels 0 to {len(profile.levels) - 1}")
    return profile.levels[level].parts


def read_job(
    profile: Profile,
    data: bytes | bytearray | memoryview,
    level: int | None = None,
    limits: Limits = DEFAULT,
) -> Job:
    """Check an object, or a prefix of one, as far as `level` needs it.

    Args:
        level: as in `decode_chunk`.

    Raises:
        ContainerError: what is wrong with `data`, `Truncated` if it is too short for the level.
        ValueError: no such level.
    """
    view = memoryview(data).cast("B")
    outline = container.read_header(view, profile_id=profile.id, limits=limits)
    outline.refuse_more(len(view))
    container.check_decoded_size(outline.header, profile.layout.values_per_token, limits)
    parts, with_exact = _wanted(profile, outline, len(view), level)
    states = outline.num_states
    end = outline.ends[states + parts - 1]
    found = container.read(
        view[: outline.ends[states + parts] if with_exact else end],
        profile_id=profile.id,
        limits=limits,
        partial=True,
    )
    return Job(
        header=found.header,
        lossy=view[outline.begins[states] : end],
        groups=read_groups(profile, found, parts),
        exact=found.bodies[states + parts] if with_exact else None,
    )


def _wanted(
    profile: Profile, outline: container.Outline, present: int, level: int | None
) -> tuple[int, bool]:
    """How many lossy parts to decode, and whether the exact one behind them."""
    stored = sum(entry.kind is Kind.LOSSY for entry in outline.entries)
    has_exact = outline.entries[-1].kind is Kind.EXACT
    if not 0 < stored <= len(profile.parts) or (has_exact and stored < len(profile.parts)):
        raise Malformed(f"{stored} lossy parts, the profile has {len(profile.parts)}")
    ends = outline.ends[outline.num_states :]
    complete = sum(end <= present for end in ends)
    depths = [each.parts for each in profile.levels if each.parts <= stored] or [stored]
    if level is None:
        if has_exact and complete > stored:
            return stored, True
        level = max(sum(parts <= complete for parts in depths) - 1, 0)
    if level == len(profile.levels) and has_exact:
        if complete <= stored:
            raise Truncated(present=present, needed=ends[stored], of="the exact level")
        return stored, True
    if not 0 <= level < len(depths):
        raise ValueError(f"level {level}: the object holds levels 0 to {len(depths) - 1}")
    parts = depths[level]
    if parts > complete:
        raise Truncated(present=present, needed=ends[parts - 1], of=f"level {level}")
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
    profile: Profile, jobs: Sequence[Job], outs: Sequence[Tensor], threads: int | None
) -> None:
    run_all(
        [task for job, out in zip(jobs, outs, strict=True) for task in _tasks(profile, job, out)],
        threads,
    )
    exact = [
        Exact.read(profile, job.exact, out.view(torch.uint16).numpy())
        for job, out in zip(jobs, outs, strict=True)
        if job.exact is not None
    ]
    run_all([task for each in exact for task in each.tasks()], threads)
    run_all([each.check for each in exact], threads)


def _tasks(profile: Profile, job: Job, out: Tensor) -> list[Task]:
    """One task a stripe, and one a head; they write to different places of `out`."""
    ready, header, words = Prepared.of(profile), job.header, _as_words(job.lossy)
    turn = turn_of(profile, header.start, header.tokens)
    head = head_of(profile, header.start, header.tokens)
    common = (header.start, ready.book, ready.basis, turn, out.view(torch.uint16).numpy())
    tasks: list[Task] = []
    for group in job.groups:
        stripes = profile.stripes(group.number, len(group.main))
        for blocks, places in zip(stripes, group.main, strict=True):
            streams = (words, places, group.sets, blocks, head)
            tasks.append(partial(_check, kernels.decode_stripe, *streams, *common))
        if group.head is not None:
            blocks = profile.blocks_of(group.number)
            streams = (words, group.head, group.sets, blocks, head)
            tasks.append(
                partial(_check, kernels.decode_head, *streams, profile.head_depth, *common)
            )
    return tasks


def _check(kernel: Callable[..., int], *args: object) -> None:
    status = kernel(*args)
    if status != kernels.GOOD:
        raise Malformed(DAMAGE[status])
