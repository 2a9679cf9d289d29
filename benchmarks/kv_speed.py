"""How fast the KV codec is on CPUs: symbols a second a core, and bf16 bytes a second in all.

The cache is synthetic (`kv_synthetic`), the size of a 7-8 B model's layers.
zstd and DEFLATE compress the same symbols, a byte each, component by component: what general coders
make of integers that are already decorrelated. Runs of all sides alternate; the tables show medians
and in brackets the spread (largest over smallest). One thread is timed by its CPU time, several by
the clock.

    python benchmarks/kv_speed.py                    # prints tables, writes results/kv_speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
import zstandard
from kv_synthetic import FINEST, Model, synthetic_layout
from rich.console import Console
from rich.table import Table

from frontload.kvcache.codec import encode_kernels, kernels, tables
from frontload.kvcache.codec.chunk import decode_chunk, decode_chunks, encode_chunks
from frontload.kvcache.codec.container import read, read_header
from frontload.kvcache.codec.entropy import decode_rows
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.quantize import coarser, integers
from frontload.kvcache.codec.streams import Group, head_of, read_groups
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import LANES, Profile

RESULTS = Path(__file__).parent / "results" / "kv_speed.json"
GIB, GB = float(1 << 30), 1e9
Run = Callable[[], object]
General = Callable[[bytes], bytes]


@numba.njit(nogil=True)
def decode_symbols(
    words: Any, streams: Any, sets: Any, blocks: Any, head: int, num_tokens: int, book: Any
) -> bool:
    """Entropy decoding alone: what `kernels.decode_stripe` does before the transform."""
    states, cursors, _ = kernels._open(words, streams, min(LANES, num_tokens - head))
    found = np.zeros(book.largest.shape[1] * LANES, np.int32)
    for block in blocks:
        for token in range(head, num_tokens, LANES):
            tile = min(LANES, num_tokens - token)
            if not decode_rows(words, states, cursors, book, sets, 0, block, tile, found):
                return False
    return kernels._check_ends(states, cursors) == kernels.GOOD


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians over runs: work a second, in the unit of its table, and their spread."""

    per_second: float
    spread: float

    def __str__(self) -> str:
        return f"{self.per_second:.2f} ({self.spread:.2f})"


def speeds(
    sides: dict[str, tuple[Run, float]], repeats: int, *, clock: bool = False
) -> dict[str, Speed]:
    """Each side is run once, then `repeats` times in turn with the others.

    Args:
        sides: what to run, and how much work it does, in the unit wanted.
        clock: time by the clock; else by this thread's CPU time.
    """
    now = time.perf_counter if clock else time.thread_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, (run, _) in sides.items():
            begin = now()
            run()
            if turn:
                seconds[name].append(now() - begin)
    return {
        name: Speed(
            per_second=sides[name][1] / statistics.median(taken), spread=max(taken) / min(taken)
        )
        for name, taken in seconds.items()
    }


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is coded: chunks, their objects and integers, and a profile that knows their rates."""

    profile: Profile
    chunks: list[KVTensors]
    objects: list[bytes]
    integers: list[np.ndarray]

    @staticmethod
    def make(num_chunks: int, chunk_tokens: int) -> Work:
        """Objects without the exact level."""
        model = Model.draw(synthetic_layout())
        profile = model.profile()
        found = [integers(profile, c)[0] for c in model.cache(chunk_tokens, seed=9).chunks(256)]
        bits = sum(tables.code_lengths(profile.tables, each).sum(axis=0) for each in found)
        values = chunk_tokens * profile.layout.values_per_token
        profile = replace(profile, code_length=tuple(float(x) for x in bits / values))
        chunks = model.cache(num_chunks * chunk_tokens, seed=0).chunks(chunk_tokens)
        return Work(
            profile=profile,
            chunks=chunks,
            objects=[each.data for each in encode_chunks(profile, chunks, exact=False)],
            integers=[integers(profile, chunk)[0] for chunk in chunks],
        )

    @property
    def num_values(self) -> int:
        """K and V values of all chunks."""
        return sum(chunk.num_values for chunk in self.chunks)

    def head(self, chunk: KVTensors) -> int:
        """Tokens coded apart, of which the figures of symbols say nothing."""
        return head_of(self.profile, chunk.start, chunk.num_tokens)

    def num_symbols(self, depth: int) -> int:
        """Symbols of depths 0 to `depth` outside the head."""
        tokens = sum(chunk.num_tokens - self.head(chunk) for chunk in self.chunks)
        return int(self.profile.tables.live[:, : depth + 1].sum()) * tokens

    def bits_per_value(self, depth: int) -> float:
        """All bytes of objects that stop at `depth`, headers included."""
        ends = [read(each, profile_id=None).bodies for each in self.objects]
        held = sum(len(body) for bodies in ends for body in bodies[: depth + 1])
        return 8 * (held + len(ends) * (64 + 16 * (depth + 1))) / self.num_values

    def overhead(self) -> float:
        """Share by which the objects are longer than the tables' cross-entropy."""
        bits = sum(
            float(tables.code_lengths(self.profile.tables, each).sum()) for each in self.integers
        )
        return 8 * sum(map(len, self.objects)) / bits - 1

    def groups(self, depth: int) -> list[tuple[np.ndarray, Group]]:
        """Words and places of every object up to a depth."""
        return [
            (
                np.frombuffer(each, np.uint16, offset=read_header(each).begins[0]),
                read_groups(self.profile, read(each, profile_id=None), depth + 1)[0],
            )
            for each in self.objects
        ]

    def symbols(self, depth: int) -> list[bytes]:
        """The same symbols for general coders: a byte each, a chunk and depth a string."""
        found = []
        for chunk, integer in zip(self.chunks, self.integers, strict=True):
            seen = integer[:, self.head(chunk) :]
            fine = coarser(seen, FINEST - depth)
            born = fine - 3 * coarser(fine) if depth else fine
            live = self.profile.tables.live
            for b in range(len(fine)):
                known = live[b, depth - 1] if depth else 0
                rows = np.concatenate((born[b, :, :known], fine[b, :, known : live[b, depth]]), 1)
                found.append(np.ascontiguousarray(rows.T).astype(np.int8).tobytes())
        chunked = len(found) // len(self.chunks)
        return [b"".join(found[i * chunked : (i + 1) * chunked]) for i in range(len(self.chunks))]


def entropy_sides(work: Work) -> dict[str, tuple[Run, float]]:
    """Decoding at each depth and encoding of all, in Gi symbols."""
    book = Prepared.of(work.profile).book
    profile = work.profile

    def decode(groups: list[tuple[np.ndarray, Group]]) -> None:
        for chunk, (words, group) in zip(work.chunks, groups, strict=True):
            stripes = profile.stripes(0, len(group.main))
            for places, blocks in zip(group.main, stripes, strict=True):
                args = (words, places, group.sets, blocks, work.head(chunk), chunk.num_tokens)
                assert decode_symbols(*args, book)

    def encode() -> None:
        blocks, sets = profile.blocks_of(0), np.zeros(FINEST + 1, np.int64)
        for chunk, integer in zip(work.chunks, work.integers, strict=True):
            encode_kernels.encode_stripe(integer, sets, blocks, work.head(chunk), book)

    sides: dict[str, tuple[Run, float]] = {
        f"decode to depth {depth}": (
            partial(decode, work.groups(depth)),
            work.num_symbols(depth) / GIB,
        )
        for depth in range(FINEST + 1)
    }
    sides["encode"] = (encode, work.num_symbols(FINEST) / GIB)
    return sides


def peers() -> dict[str, tuple[General, General]]:
    """Compressors and their inverses."""
    found: dict[str, tuple[General, General]] = {}
    for level in (1, 3):
        found[f"zstd {level}"] = (
            zstandard.ZstdCompressor(level=level).compress,
            zstandard.ZstdDecompressor().decompress,
        )
    for level in (1, 6):
        found[f"DEFLATE {level}"] = (partial(zlib.compress, level=level), zlib.decompress)
    return found


def each_of(act: General, strings: list[bytes]) -> list[bytes]:
    """What one direction of a coder makes of all strings."""
    return [act(each) for each in strings]


def compare_peers(work: Work, repeats: int) -> dict[str, dict[str, Any]]:
    """Bits a value and speeds of general coders on the symbols of all depths."""
    strings = [each for depth in range(FINEST + 1) for each in work.symbols(depth)]
    amount = sum(map(len, strings)) / GIB
    rows = {}
    for name, (compress, restore) in peers().items():
        packed = each_of(compress, strings)
        assert each_of(restore, packed) == strings
        sides: dict[str, tuple[Run, float]] = {
            "encode": (partial(each_of, compress, strings), amount),
            "decode": (partial(each_of, restore, packed), amount),
        }
        rows[name] = {
            "bits_per_value": 8 * sum(map(len, packed)) / work.num_values,
            **speeds(sides, min(repeats, 3)),
        }
    return rows


def whole_sides(work: Work, depth: int, threads: int) -> dict[str, tuple[Run, float]]:
    """Decoding objects of one level to tensors, new or given, in GB of bf16."""
    amount = 2 * work.num_values / GB
    shape = (work.profile.layout.num_pieces, -1, work.profile.layout.head_dim)
    outs = [torch.empty_like(chunk.pieces()).reshape(shape) for chunk in work.chunks]

    def decode_into() -> None:
        for each, out in zip(work.objects, outs, strict=True):
            decode_chunk(work.profile, each, level=depth, out=out, threads=threads)

    return {
        "new": (lambda: decode_chunks(work.profile, work.objects, depth, threads), amount),
        "given": (decode_into, amount),
    }


def show(found: dict[str, Any]) -> None:
    """Two tables."""
    console = Console(width=110)
    table = Table(title="Symbols of all depths, one core (Gi a second)")
    for column in ("coder", "bits a value", "encode", "decode"):
        table.add_column(column, justify="left" if column == "coder" else "right")
    ours, finest = found["entropy"], found["levels"][-1]
    table.add_row(
        "rANS, ours",
        f"{finest['bits_per_value']:.3f}",
        str(ours["encode"]),
        str(ours[f"decode to depth {FINEST}"]),
    )
    for name, row in found["peers"].items():
        bits = f"{row['bits_per_value']:.3f}"
        table.add_row(name, bits, str(row["encode"]), str(row["decode"]))
    console.print(table)
    table = Table(title="Whole decode to bf16 (GB a second)")
    for column in ("depth", "bits a value", "rANS alone", *found["levels"][0]["decode"]):
        table.add_column(column, justify="right")
    for depth, level in enumerate(found["levels"]):
        alone = str(ours[f"decode to depth {depth}"])
        bits = f"{level['bits_per_value']:.3f}"
        table.add_row(str(depth), bits, alone, *(str(s) for s in level["decode"].values()))
    console.print(table)
    overhead = found["overhead over cross-entropy"]
    console.print(f"Whole objects are {overhead:.2%} longer than the tables' cross-entropy.")


def measure(work: Work, repeats: int, threads: int) -> dict[str, Any]:
    """All figures."""
    levels = []
    for depth in range(FINEST + 1):
        decode = {}
        for count in sorted({1, threads}):
            sides = whole_sides(work, depth, count)
            for name, speed in speeds(sides, repeats, clock=count > 1).items():
                decode[f"{count} thread{'s' * (count > 1)}, {name} tensor"] = speed
        levels.append({"bits_per_value": work.bits_per_value(depth), "decode": decode})
    whole: dict[str, tuple[Run, float]] = {
        "lossy": (
            lambda: encode_chunks(work.profile, work.chunks, exact=False, threads=1),
            2 * work.num_values / GB,
        )
    }
    return {
        "overhead over cross-entropy": work.overhead(),
        "entropy": speeds(entropy_sides(work), repeats),
        "levels": levels,
        "whole encode, 1 thread, GB/s": speeds(whole, min(repeats, 3)),
        "peers": compare_peers(work, repeats),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(Work.make(args.chunks, args.chunk_tokens), args.repeats, args.threads)
    show(found)
    about = {
        "machine": f"{llvmlite.binding.get_host_cpu_name()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "zstandard": zstandard.__version__,
        "chunks": args.chunks,
        "chunk_tokens": args.chunk_tokens,
        "repeats": args.repeats,
        "threads": args.threads,
    }
    args.output.parent.mkdir(exist_ok=True)
    text = json.dumps({"about": about, **found}, default=asdict, indent=1)
    args.output.write_text(text + "\n")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
