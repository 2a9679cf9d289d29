"""Decoding and encoding KV caches on one GPU, in GB/s of bf16 cache, beside its own memory copy.

    python benchmarks/kv_gpu.py                          # everything; needs CUDA
    python benchmarks/kv_gpu.py --contexts 8192 --no-sweep

The cache has the shape of an 8B model's (`kv_gpu_profile.py`), chunks have 256 tokens. Decoding is
timed with CUDA events from bytes on the device to the whole cache in bf16 (median of ten, after a
check that the first chunk has the CPU decoder's bits); "with upload" is wall time from objects on
the host, checksums included. Encoding is wall time from a cache on the device to objects on the
host. Peers: a device-to-device copy of the same bf16 tensor, which nothing can beat, and nvCOMP's
ANS on the same tensor where it is installed (`pip install nvidia-nvcomp-cu12`).

A short sweep of launch parameters comes first and its best is used; `--no-sweep` keeps the default.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kv_gpu_profile
import torch
from rich.console import Console
from rich.table import Table

from frontload.kvcache.codec.chunk import decode_chunk
from frontload.kvcache.codec.gpu.decode import USUAL, Launch, check, decode, decode_chunks_gpu
from frontload.kvcache.codec.gpu.device_profile import DeviceProfile, Tiling
from frontload.kvcache.codec.gpu.encode import Encoder, encode_chunks_gpu
from frontload.kvcache.codec.gpu.jobs import upload
from frontload.kvcache.layout import KVTensors, join
from frontload.kvcache.profile import Profile

RESULTS = Path(__file__).parent / "results" / "kv_gpu.json"
CHUNK, ROUNDS = 256, 10
BAR = {"decode": 100.0, "encode": 50.0}  # GB/s on one H200
SWEPT = [
    (Launch(rows=rows, registers=registers, warps_per_sm=warps), Tiling(pairs=pairs))
    for rows, registers, warps, pairs in (
        *((1, 128, 16, 16), (1, 96, 20, 16), (1, 168, 12, 16), (1, 168, 12, 32)),
        *((2, 128, 16, 16), (4, 128, 16, 16), (4, 168, 12, 32)),
    )
]


def device_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Seconds between CUDA events around `work`, after two runs that do not count."""
    found = []
    for index in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if index >= 2:
            found.append(begin.elapsed_time(end) / 1e3)
    return found


def wall_seconds(work: Callable[[], object], rounds: int = 5) -> list[float]:
    """Seconds of `work` until the device is idle, after one run that does not count."""
    found = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return found[1:]


def rate(num_bytes: int, seconds: list[float]) -> dict[str, float]:
    """GB/s of the median, and how far apart the runs were."""
    return {
        "gb_per_second": round(num_bytes / statistics.median(seconds) / 1e9, 2),
        "spread": round(max(seconds) / min(seconds), 3),
    }


def output_for(profile: Profile, tokens: int) -> torch.Tensor:
    """An empty cache of `tokens` on the device."""
    shape = profile.layout
    return torch.empty(
        (2, shape.num_layers, shape.num_heads, tokens, shape.head_dim),
        dtype=torch.bfloat16,
        device="cuda",
    )


def sweep(profile: Profile, datas: list[bytes], level: int) -> tuple[Launch, Tiling, list[Any]]:
    """The fastest launch parameters on some chunks, and all that were tried."""
    out = output_for(profile, CHUNK * len(datas))
    tried: list[dict[str, Any]] = []
    rates: list[float] = []
    for launch, tiling in SWEPT:
        tables = DeviceProfile.upload(profile, "cuda", tiling)
        chunks = upload(tables, datas, level, launch.rows)
        run = lambda t=tables, c=chunks, way=launch: decode(t, c, out, start=0, launch=way)  # noqa: E731
        check(chunks, run())
        found = rate(out.nbytes, device_seconds(run, 5))
        rates.append(found["gb_per_second"])
        tried.append({"launch": str(launch), "tiling": str(tiling), **found})
        print(tried[-1], flush=True)
    return *SWEPT[rates.index(max(rates))], tried


def same_bits(profile: Profile, tables: DeviceProfile, data: bytes, launch: Launch) -> None:
    """Fail unless every level of one chunk decodes to the CPU's bits."""
    for level in range(len(profile.levels)):
        out = output_for(profile, CHUNK)
        decode_chunks_gpu(profile, tables, [data], level, out, launch=launch)
        expected = decode_chunk(profile, data, level=level)
        for found, wanted in zip(out.cpu(), (expected.keys, expected.values), strict=True):
            if not torch.equal(found.view(torch.int16), wanted.view(torch.int16)):
                raise SystemExit(f"level {level}: the GPU's bits are not the CPU's")


def compare(
    profile: Profile, tables: DeviceProfile, context: int, datas: list[bytes], launch: Launch
) -> list[dict[str, Any]]:
    """One row a level."""
    out, rows = output_for(profile, context), []
    source = torch.empty_like(out)
    copied = rate(out.nbytes, device_seconds(lambda: out.copy_(source)))
    for level in range(len(profile.levels)):
        chunks = upload(tables, datas, level, launch.rows)
        run = lambda c=chunks: decode(tables, c, out, start=0, launch=launch)  # noqa: E731
        check(chunks, run())
        whole = lambda n=level: decode_chunks_gpu(profile, tables, datas, n, out, launch=launch)  # noqa: E731
        rows.append(
            {
                "context": context,
                "level": level,
                "bits_per_value": round(16 * chunks.data.nbytes / out.nbytes, 3),
                "decode": rate(out.nbytes, device_seconds(run)),
                "decode_with_upload": rate(out.nbytes, wall_seconds(whole, 3)),
                "copy": copied,
            }
        )
        print(rows[-1], flush=True)
    return rows


def encoding(profile: Profile, encoder: Encoder, chunks: list[KVTensors]) -> dict[str, Any]:
    """GB/s of encoding all levels, and of its first part, the transform to integers."""
    num_bytes = sum(chunk.num_bytes for chunk in chunks)

    def transform() -> None:
        for chunk in chunks:
            encoder.integers(chunk)

    whole = wall_seconds(lambda: encode_chunks_gpu(profile, encoder, chunks), 3)
    return {
        "encode": rate(num_bytes, whole),
        "integers_alone": rate(num_bytes, device_seconds(transform, 3)),
    }


def nvcomp(kv: KVTensors) -> dict[str, Any] | None:
    """nvCOMP's ANS on the same tensor, lossless; None where it is not installed."""
    try:
        peer = importlib.import_module("nvidia.nvcomp")
    except ImportError:
        print("PEER MISSING: nvCOMP is not installed (nvidia-nvcomp-cu12)", file=sys.stderr)
        return None
    content = torch.cat((kv.keys.reshape(-1), kv.values.reshape(-1))).view(torch.uint8)
    codec = peer.Codec(algorithm="ANS")
    source = peer.as_array(content)
    packed = codec.encode(source)
    return {
        "bits_per_value": round(16 * packed.buffer_size / content.numel(), 3),
        "decode": rate(content.numel(), wall_seconds(lambda: codec.decode(packed))),
        "encode": rate(content.numel(), wall_seconds(lambda: codec.encode(source))),
    }


def machine() -> dict[str, str]:
    """The card, its clocks as they are under load, and versions."""
    query = "name,clocks.sm,clocks.max.sm,clocks.mem,power.draw,driver_version"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    triton = importlib.import_module("triton")
    return {
        "device": torch.cuda.get_device_name(),
        "nvidia-smi": f"{query}: {done.stdout.strip()}",
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def show(rows: list[dict[str, Any]], encoded: dict[str, Any], where: dict[str, str]) -> None:
    """One table of GB/s of bf16 cache."""
    table = Table(title="KV cache on one GPU: GB/s of bf16")
    for column in ("tokens", "level", "bits/value", "decode", "with upload", "memory copy"):
        table.add_column(column, justify="right")
    for row in rows:
        ways = (row[way]["gb_per_second"] for way in ("decode", "decode_with_upload", "copy"))
        table.add_row(
            f"{row['context']:,}",
            str(row["level"]),
            f"{row['bits_per_value']:.2f}",
            *(f"{each:,.1f}" for each in ways),
        )
    console = Console(width=100)
    console.print(table)
    console.print(f"encode, all levels: {encoded}", highlight=False)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), highlight=False)


def main() -> int:
    """Measure, print, write; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--no-sweep", action="store_true", help="use the default launch")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: this measures a GPU and nothing else")
    profile = kv_gpu_profile.profile(kv_gpu_profile.layout())
    encoder = Encoder.upload(DeviceProfile.upload(profile, "cuda"))
    chunks = [
        kv_gpu_profile.cache(profile, CHUNK, start=start, device="cuda")
        for start in range(0, max(options.contexts), CHUNK)
    ]
    datas = encode_chunks_gpu(profile, encoder, chunks)
    same_bits(profile, encoder.tables, datas[0], USUAL)
    launch, tiling = USUAL, encoder.tables.tiling
    tried: list[dict[str, Any]] = []
    if not options.no_sweep:
        launch, tiling, tried = sweep(profile, datas[: 8192 // CHUNK], len(profile.levels) // 2)
    tables = DeviceProfile.upload(profile, "cuda", tiling)
    same_bits(profile, tables, datas[0], launch)
    rows = [
        row
        for context in options.contexts
        for row in compare(profile, tables, context, datas[: context // CHUNK], launch)
    ]
    encoded = encoding(profile, encoder, chunks[: min(options.contexts) // CHUNK])
    peer = nvcomp(join(chunks[: min(options.contexts) // CHUNK]))
    where = machine()
    show(rows, encoded, where)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": where,
        "launch": f"{launch} {tiling}",
        "decode": rows,
        "encode": encoded,
        "nvcomp_ans": peer,
        "sweep": tried,
    }
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    slowest = min(row["decode"]["gb_per_second"] for row in rows)
    short = [
        f"{name}: {value} GB/s, the bar is {BAR[name]}"
        for name, value in (
            ("decode", slowest),
            ("encode", encoded["encode"]["gb_per_second"]),
        )
        if value < BAR[name]
    ]
    print("\n".join(short), file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
