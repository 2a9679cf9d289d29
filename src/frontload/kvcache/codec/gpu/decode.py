"""Decoding on a GPU: compressed bytes to bf16 in the cache, one fused kernel, many chunks a launch.

Guarantees: the bits of `quantize.reconstruct`, whatever the machine; checksums are verified on the
host before anything is uploaded, and a kernel reads nothing outside of a stream's declared words
(a stream that does not end as encoders end them is an error, never an address). The bytes are on
the device once, as they lie in the object; between them and the cache there is one tile of scratch
(32 tokens of a block) per program. Gives up: the exact and the state parts (`chunk` and
`stored` decode them), parts of one group that were cut into different numbers of stripes, and
profiles whose limits are beyond 24-bit points; each is a `ValueError`.

    device = DeviceProfile.upload(profile, "cuda")
    out = torch.empty(2, layers, heads, tokens, head_dim, dtype=torch.bfloat16, device="cuda")
    decode_chunks_gpu(profile, device, datas, level, out)

How it works. A program owns a stripe of `rows` chunks, a warp for each, a thread for each token of
a tile. Depth by depth, components are entropy-decoded in lockstep: which of a warp's lanes want a
word is one warp-wide sum of bits, where each finds its own is a population count. Integers of a
depth are kept in scratch (they are the context of the next one), the last depth leaves
reconstruction points, cut into bytes. The inverse transform is then an exact integer product on
tensor cores (bytes times bytes, int32 sums), and scaling, mean, rotation, rounding and scatter
happen on its result in registers.

What limits it (counted in the machine code for an H200, not measured). Entropy decoding: a warp
spends about 70 instructions on a trit of 32 tokens, 140 on an integer at its birth, 30 more at the
last depth; an SM issues four warp instructions a cycle. At the finest level of an 8B model's shape
(1.25 symbols and 134 live components a value) that is 5 instructions of a warp a value, the product
adds 1.5 and its epilogue 1: about 250 GB/s if every issue slot were used; a level of 0.35 symbols
a value needs 3, which is 600 GB/s. Using the slots takes warps: a component is a chain of a few
hundred cycles (counts, word, counts ...) for the warp that decodes it, so chunks x groups x stripes
should be 16 or more for each SM (2,000 on an H200: 32 chunks of 256 tokens in 64 stripes; fewer
chunks want more stripes). Registers (128 a thread) allow 16 warps an SM. The inverse (33 MB as
int16 for 65,536 channels in blocks of 256) streams from L2; jobs of one stripe are neighbours so
that they share it, and `rows` chunks in one program share each read. The head stream of a context's
first tokens is one warp a group, all blocks one after another: some 10 ms at an 8B model's shape,
beside the rest on a stream of its own. It is the floor of short contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec.container import DEFAULT, Damaged, Limits
from frontload.kvcache.codec.gpu.decode_kernels import decode_chunks
from frontload.kvcache.codec.gpu.device_profile import DeviceProfile
from frontload.kvcache.codec.gpu.jobs import Jobs, Uploaded, upload
from frontload.kvcache.profile import LANES, Profile


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How programs are cut; any choice decodes the same bits."""

    rows: int = 1  # chunks decoded side by side, a power of two: warps a program
    warps_per_sm: int = 16  # in flight; what `registers` allow
    registers: int = 128  # a thread
    stages: int = 1  # of the product's loads


USUAL = Launch()


def decode_chunks_gpu(
    profile: Profile,
    device_profile: DeviceProfile,
    datas: Sequence[bytes | memoryview],
    level: int,
    out: Tensor,
    *,
    start: int | None = None,
    pages: Tensor | None = None,
    launch: Launch = USUAL,
    limits: Limits = DEFAULT,
) -> None:
    """Decode chunk objects into `out`.

    Args:
        datas: objects, or prefixes that hold the level, of any positions.
        level: index into `profile.levels`.
        out: bf16 `[2 (K, V), layers, heads, rows, head_dim]` on the profile's device, any strides.
        start: the position whose token goes to row 0; that of the earliest chunk unless given.
        pages: int64 `[tokens]` on the device: token `start + i` goes to row `pages[i]`, not i.
        launch: how programs are cut.
        limits: refuse objects that declare more.

    Raises:
        ContainerError: an object is damaged, cut short, of another profile, beyond the limits.
        ValueError: there is no such level, or `profile`, `out` or `pages` does not fit.
    """
    if profile.id != device_profile.profile.id:
        raise ValueError("device_profile is another profile's; upload this one")
    chunks = upload(device_profile, datas, level, launch.rows, limits)
    first = chunks.start if start is None else start
    _check_output(device_profile, chunks, out, first, pages)
    check(chunks, decode(device_profile, chunks, out, start=first, pages=pages, launch=launch))


def decode(
    device_profile: DeviceProfile,
    chunks: Uploaded,
    out: Tensor,
    *,
    start: int,
    pages: Tensor | None = None,
    launch: Launch = USUAL,
) -> list[Tensor]:
    """Enqueue the kernels of uploaded chunks; gives the statuses that `check` waits for."""
    statuses = []
    with ExitStack() as joined:
        for jobs in chunks.launches:
            with _beside(joined, out.device) if jobs.head else nullcontext():
                shift = chunks.start - start
                statuses.append(_enqueue(device_profile, chunks, jobs, out, shift, pages, launch))
    return statuses


def check(chunks: Uploaded, statuses: Sequence[Tensor]) -> None:
    """Wait for the kernels.

    Raises:
        Damaged: a stream does not end as an encoder ends it, or an integer is beyond its limit.
    """
    for jobs, status in zip(chunks.launches, statuses, strict=True):
        bad = np.flatnonzero(status.cpu().numpy().ravel())
        if len(bad):
            chunk = int(jobs.chunk.ravel()[bad[0]])
            raise Damaged(f"chunk {chunk}", "a stream does not end as encoders end it")


def _check_output(
    device_profile: DeviceProfile, chunks: Uploaded, out: Tensor, start: int, pages: Tensor | None
) -> None:
    layout = device_profile.profile.layout
    room = out.shape[3] if out.dim() == 5 else 0
    wanted = (2, layout.num_layers, layout.num_heads, room, layout.head_dim)
    if tuple(out.shape) != wanted or out.dtype != torch.bfloat16:
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)}; it must be bfloat16 [2, {layout.num_layers} "
            f"layers, {layout.num_heads} heads, rows, {layout.head_dim}]"
        )
    if out.device != device_profile.device:
        raise ValueError(f"out is on {out.device}, the profile's tables on {device_profile.device}")
    if pages is not None:
        if pages.dtype != torch.int64 or pages.dim() != 1 or pages.device != out.device:
            raise ValueError("pages must be int64 [tokens] on the device of out")
        if len(pages) and not 0 <= int(pages.min()) <= int(pages.max()) < room:
            raise ValueError(f"pages must be rows of out, 0 to {room - 1}")
    tokens = room if pages is None else len(pages)
    if start > chunks.start or chunks.end - start > tokens:
        raise ValueError(
            f"positions {chunks.start} to {chunks.end} do not fit {tokens} tokens from {start} on"
        )


def _enqueue(
    tables: DeviceProfile,
    chunks: Uploaded,
    jobs: Jobs,
    out: Tensor,
    shift: int,
    pages: Tensor | None,
    launch: Launch,
) -> Tensor:
    """Start one launch on the current stream."""
    profile, device, k = tables.profile, out.device, tables.num_components
    num_jobs, depths = jobs.streams.shape[:2]
    programs = max(1, launch.warps_per_sm * _num_sms(device) // jobs.rows)
    programs = min(num_jobs, programs)
    lanes = programs * jobs.rows * LANES
    status = torch.empty(jobs.chunk.shape, dtype=torch.int32, device=device)
    states = torch.empty(lanes * depths * 3, dtype=torch.int32, device=device)
    integers = torch.empty(lanes * jobs.slots * k, dtype=torch.int32, device=device)
    planes = torch.empty(lanes * jobs.point_bytes * k, dtype=torch.int8, device=device)
    origin, angles = tables.angles(chunks.start, chunks.end)
    strides = out.stride()
    decode_chunks[(programs,)](
        chunks.data, jobs.jobs, jobs.streams, jobs.row_table, tables.order, status,
        tables.live, tables.alphabets, tables.spans, tables.base, tables.trits, tables.offsets,
        tables.limits, tables.weights, tables.means, tables.scales, tables.frequency, angles,
        tables.places((*strides[:3], strides[4])), out.view(torch.int16),
        jobs.row_table if pages is None else pages, states, integers, planes,
        num_jobs, depths, profile.head_depth if jobs.head else 0, profile.num_blocks,
        profile.finest + 1, tables.base.shape[1], tables.num_pairs, angles.shape[1], strides[3],
        shift, origin, jobs.slots,
        ROWS=jobs.rows, K=k, PAIRS=tables.tiling.pairs, COMPONENTS=tables.tiling.components,
        POINT_BYTES=jobs.point_bytes, PAGED=pages is not None,
        TURNED=profile.layout.rotary is not None, HEAD=jobs.head,
        num_warps=jobs.rows, enable_fp_fusion=False, num_stages=launch.stages,
        maxnreg=launch.registers,
    )  # fmt: skip
    return status


def _beside(joined: ExitStack, device: torch.device) -> AbstractContextManager[None]:
    """Work on a stream of its own, which the current one waits for when `joined` is left."""
    if device.type != "cuda":
        return nullcontext()
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    joined.callback(current.wait_stream, side)
    return torch.cuda.stream(side)


def _num_sms(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
