"""Chunk objects mutated at random and decoded, case by case; a case follows from seed and number.

Half of the cases keep the checksums that the mutation broke; there a decoder must refuse or give
what was encoded. The other half is sealed anew, so that every decoder behind the checksums meets
hostile bytes; there it must refuse or give tensors of the declared shape.

As a process of its own, for a parent that watches for crashes and hangs (benchmarks/kv_fuzz.py):

    python -m tests.kvcache.fuzzing --cases 1000 --seed 0 --progress FILE

FILE holds the number of the case in work, u64; counts by outcome, seconds and the growth of memory
are printed as JSON at the end. Before the clock starts, every object is decoded once.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import resource
import struct
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frontload.kvcache.codec import container
from frontload.kvcache.codec.chunk import decode_chunk, encode_chunk
from frontload.kvcache.codec.container import ContainerError, Kind, Limits
from frontload.kvcache.profile import Profile
from frontload.kvcache.state import RecurrentState
from tests.kvcache import synthetic
from tests.kvcache.damaging import ENTRY_BYTES, ENTRY_FIELDS, FIELDS, HEADER_BYTES, sealed
from tests.kvcache.guarded import Guarded
from tests.kvcache.make_golden import GOLDEN, PROFILE, digest

INTERESTING = (0, 1, 2, 31, 32, 33, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1)


LIMITS = Limits(tokens=4096)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Objects to mutate, and what each of their levels decodes to."""

    profile: Profile
    objects: dict[str, bytes]
    digests: dict[str, set[str]]
    states: set[bytes]
    given: Guarded  # what is decoded, and what it is decoded into
    taken: Guarded

    def out(self, tokens: int) -> Tensor:
        """Room for a chunk, full of NaN, which no lossy level decodes to."""
        layout = self.profile.layout
        view = self.taken.last(2 * tokens * layout.values_per_token)
        values = torch.frombuffer(view, dtype=torch.bfloat16).fill_(torch.nan)
        return values.reshape(layout.num_pieces, tokens, layout.head_dim)

    @staticmethod
    def golden() -> Corpus:
        """The golden files: every feature of the format, heads of 8 channels."""
        digests = json.loads((GOLDEN / "golden.json").read_text())
        objects = {name: (GOLDEN / f"{name}.kv").read_bytes() for name in digests}
        return Corpus.of(Profile.load(PROFILE), objects, digests)

    @staticmethod
    def wide() -> Corpus:
        """Heads of 64 channels, which kernels read and write by whole vectors."""
        frequencies = tuple(float(x) for x in np.float32(100.0) ** -np.linspace(0, 1, 32))
        rotary = replace(synthetic.LAYOUT.rotary, inv_freq=frequencies)
        layout = replace(synthetic.LAYOUT, num_heads=1, head_dim=64, rotary=rotary)
        profile = synthetic.profile(layout=layout, finest=2, step=0.3)
        chunks = {
            "beginning": synthetic.cache(37, layout=layout),
            "middle": synthetic.cache(64, start=64, layout=layout),
        }
        objects = {name: encode_chunk(profile, chunk).data for name, chunk in chunks.items()}
        digests = {
            name: [
                digest(decode_chunk(profile, data, level=n)) for n in range(len(profile.levels) + 1)
            ]
            for name, data in objects.items()
        }
        return Corpus.of(profile, objects, digests)

    @staticmethod
    def of(profile: Profile, objects: dict[str, bytes], digests: dict[str, list[str]]) -> Corpus:
        """A corpus of these objects, with room to decode."""
        containers = [container.read(data, profile_id=profile.id) for data in objects.values()]
        return Corpus(
            profile=profile,
            objects=objects,
            digests={name: set(levels) for name, levels in digests.items()},
            states={
                bytes(body)
                for found in containers
                for entry, body in zip(found.entries, found.bodies, strict=True)
                if entry.kind is Kind.STATE
            },
            given=Guarded(1 << 20),
            taken=Guarded(2 * LIMITS.tokens * profile.layout.values_per_token),
        )


def mutated(corpus: Corpus, name: str, draw: random.Random) -> bytes:
    """An object with one to four changes, checksums as they fall."""
    data = bytearray(corpus.objects[name])
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        draw.choice((_flip, _byte, _word, _field, _entry_field, _cut, _splice, _repeat))(
            data, corpus, draw
        )
    return bytes(data)


def outcome(corpus: Corpus, name: str, data: bytes, level: int | None, *, hostile: bool) -> str:
    """What decoding gave: an error's class, or `decoded`; asserts that it may.

    Any other exception passes through.
    """
    layout = corpus.profile.layout
    try:
        tokens = container.read_header(data, limits=LIMITS).header.tokens
        out = corpus.out(tokens)
        given = corpus.given.holding(data)
        chunk = decode_chunk(corpus.profile, given, level=level, out=out, threads=1, limits=LIMITS)
    except ContainerError as error:
        return type(error).__name__
    except ValueError as error:
        if not (hostile and str(error).startswith(f"level {level}: the object holds")):
            raise
        return "no such level"
    assert chunk.keys.shape == (layout.num_layers, layout.num_heads, tokens, layout.head_dim)
    if not hostile:
        assert digest(chunk) in corpus.digests[name], "decoded to something else in silence"
    elif level is not None and level < len(corpus.profile.levels):
        assert not out.isnan().any(), "values were left out"  # exact values may be anything
    return "decoded"


def state_outcome(corpus: Corpus, data: bytes, *, hostile: bool) -> str:
    """The same of the recurrent state in `data`, if there is one."""
    try:
        found = container.read(data, profile_id=corpus.profile.id, partial=True)
    except ContainerError:
        return "state not reached"
    for entry, body in zip(found.entries, found.bodies, strict=False):
        if entry.kind is Kind.STATE:
            try:
                state = RecurrentState.from_bytes(body)
            except ValueError:
                return "state refused"
            assert hostile or state.to_bytes() in corpus.states
            return "state decoded"
    return "state not reached"


def run_case(corpus: Corpus, seed: int, case: int) -> tuple[str, str]:
    """Kind of the case (`damaged` or `hostile`) and its outcome."""
    draw = random.Random(seed * 1_000_003 + case)
    name = draw.choice(sorted(corpus.objects))
    hostile = case % 2 == 1
    data = mutated(corpus, name, draw)
    if hostile:
        data = sealed(data)
    kind = "hostile" if hostile else "damaged"
    if name == "hybrid" and draw.random() < 0.5:
        return kind, state_outcome(corpus, data, hostile=hostile)
    level = draw.choice((None, None, *range(len(corpus.profile.levels) + 1)))
    return kind, outcome(corpus, name, data, level, hostile=hostile)


def _flip(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at] ^= 1 << draw.randrange(8)


def _byte(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    data[draw.randrange(len(data))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))


def _word(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    at = draw.randrange(max(len(data) - 4, 1))
    data[at : at + 4] = struct.pack("<I", draw.choice((*INTERESTING, 2**32 - 1)))


def _field(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    offset, form = draw.choice(list(FIELDS.values()))
    _set(data, offset, form, draw)


def _entry_field(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    if len(data) > HEADER_BYTES and data[45]:
        offset, form = draw.choice(list(ENTRY_FIELDS.values()))
        _set(data, HEADER_BYTES + draw.randrange(data[45]) * ENTRY_BYTES + offset, form, draw)


def _set(data: bytearray, offset: int, form: str, draw: random.Random) -> None:
    size = struct.calcsize(f"<{form}")
    if len(data) < offset + size:
        return
    if form.endswith("s"):
        data[offset : offset + size] = draw.randbytes(size)
        return
    old = int.from_bytes(data[offset : offset + size], "little")
    near = draw.choice((old + 1, old - 1, old * 2, old // 2))
    value = draw.choice((near, draw.choice(INTERESTING), draw.getrandbits(8 * size)))
    data[offset : offset + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def _cut(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    """Truncate, or take something out of the middle."""
    begin = draw.randrange(len(data))
    end = len(data) if draw.random() < 0.5 else min(begin + draw.randrange(1, 40), len(data))
    if end - begin < len(data):
        del data[begin:end]


def _splice(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    """Put in, or over, a piece of some object."""
    other = corpus.objects[draw.choice(sorted(corpus.objects))]
    begin = draw.randrange(len(other))
    piece = other[begin : begin + draw.randrange(1, 400)]
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, len(piece)))] = piece


def _repeat(data: bytearray, corpus: Corpus, draw: random.Random) -> None:
    """Write a piece of the object over another place of it."""
    begin, at = draw.randrange(len(data)), draw.randrange(len(data))
    piece = data[begin : begin + draw.randrange(1, 64)]
    data[at : at + len(piece)] = piece


def peak_mib() -> float:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run cases and print their counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wide", action="store_true", help="Corpus.wide, not golden")
    parser.add_argument("--progress", type=Path, required=True)
    options = parser.parse_args()
    corpus = Corpus.wide() if options.wide else Corpus.golden()
    counts: Counter[str] = Counter()
    for name, data in corpus.objects.items():
        assert outcome(corpus, name, data, None, hostile=False) == "decoded"
    before, began = peak_mib(), time.perf_counter()
    options.progress.write_bytes(bytes(8))
    with options.progress.open("r+b") as file, mmap.mmap(file.fileno(), 8) as progress:
        for case in range(options.first, options.first + options.cases):
            struct.pack_into("<Q", progress, 0, case)
            kind, found = run_case(corpus, options.seed, case)
            counts[f"{kind}: {found}"] += 1
    report = {
        "outcomes": dict(sorted(counts.items())),
        "seconds": time.perf_counter() - began,
        "peak_growth_mib": round(peak_mib() - before, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
