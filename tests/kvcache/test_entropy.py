"""rANS over lanes: what goes in comes out, at the size that the tables promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.kvcache.codec import encode_kernels, jit, kernels, tables
from frontload.kvcache.codec.entropy import ESCAPE, LAST, LAST_ESCAPE, LOW, POSITION, decode_rows
from frontload.kvcache.codec.prepared import Prepared
from frontload.kvcache.codec.quantize import coarser
from frontload.kvcache.codec.streams import Stream, write_body
from frontload.kvcache.profile import LANES, TABLE_TOTAL, Profile, Tables
from tests.kvcache import synthetic


@dataclass(frozen=True, kw_only=True)
class Coded:
    """Streams of all depths, as words of one object."""

    words: np.ndarray
    places: np.ndarray  # int64 [depths, 4]
    num_bytes: np.ndarray  # of each depth's body


@cache
def some_profile() -> Profile:
    return synthetic.profile()


def with_tables(found: Tables, limit: int = 4000) -> Profile:
    """A profile that is good for nothing but its tables."""
    profile = some_profile()
    limits = np.full(found.largest.shape, limit, np.int32)
    blank = np.zeros((*limits.shape, limits.shape[1]))
    transform = replace(
        profile.transform, limit=limits, mean=limits.astype(np.float32), first_mean=blank[..., 0],
        inverse=blank.astype(np.int16), scale=np.ones(len(limits), np.float32),
        forward=blank.astype(np.float32), pieces=np.zeros((len(limits), 1), np.int32),
    )  # fmt: skip
    group = np.zeros(len(limits), np.uint8)
    return replace(profile, tables=found, transform=transform, group=group)


def random_tables(generator: np.random.Generator, blocks: int, size: int, depths: int) -> Tables:
    """Any counts that the format allows."""
    live = np.sort(generator.integers(0, size + 1, (blocks, depths)), axis=1).astype(np.int32)
    largest = generator.choice([1, 2, 3, 9, 40, 127], (blocks, size)).astype(np.int32)
    base: list[np.ndarray] = []
    start = np.full((blocks, size), -1, np.int32)
    for b in range(blocks):
        for k in range(live[b, -1]):
            start[b, k] = sum(len(each) for each in base)
            base.append(random_counts(generator, 2 * largest[b, k] + 2))
    one = np.concatenate([np.zeros(0, np.uint16), *base])
    trits = np.array(
        [random_counts(generator, 3)[1:3] for _ in range(2 * blocks * size * depths * 2)]
    )
    return Tables(
        live=live,
        largest=largest,
        start=start,
        base=np.stack([one, one]),
        trits=trits.reshape(2, blocks, size, depths, 2, 2),
        offset=np.zeros((blocks, size, depths, 2), np.uint8),
    )


def random_counts(generator: np.random.Generator, symbols: int) -> np.ndarray:
    """Cumulative counts of `symbols` symbols, some of them as rare as can be."""
    inner = generator.choice(np.arange(1, TABLE_TOTAL), symbols - 1, replace=False)
    return np.concatenate(([0], np.sort(inner), [TABLE_TOTAL])).astype(np.uint16)


def encode(profile: Profile, integers: np.ndarray, times: int = 1) -> Coded:
    """All depths of all blocks, `times` over, as one stripe."""
    depths, lanes = profile.finest + 1, min(LANES, integers.shape[1])
    words, escapes, states, cursors, _ = encode_kernels.encode_stripe(
        integers, np.zeros(depths, np.int64), np.tile(np.arange(len(integers)), times), 0,
        Prepared.of(profile).book,
    )  # fmt: skip
    streams = [
        Stream(
            states=states[d, :lanes],
            words=words[d, cursors[d, POSITION] :],
            escapes=escapes[d, cursors[d, ESCAPE] :],
        )
        for d in range(depths)
    ]
    sizes = np.array([(2 * lanes, len(s.words), len(s.escapes)) for s in streams])
    bodies = [write_body([stream]) for stream in streams]
    begins = np.cumsum([0, *(len(body) // 2 for body in bodies)])[:-1] + 4
    ends = begins[:, None] + np.cumsum(sizes, axis=1)
    return Coded(
        words=np.frombuffer(b"".join(bodies), np.uint16),
        places=np.column_stack((begins, ends)),
        num_bytes=np.array([len(body) for body in bodies]),
    )


def decode(profile: Profile, coded: Coded, shape: tuple[int, ...]) -> np.ndarray | None:
    """The integers, or None if a stream ran out or has something left."""
    book, depths = Prepared.of(profile).book, profile.finest + 1
    blocks, tokens, size = shape
    states, cursors, _ = kernels._open(coded.words, coded.places, min(LANES, tokens))
    found = np.zeros(shape, np.int32)
    rows = np.zeros(size * LANES, np.int32)
    for b in range(blocks):
        for token in range(0, tokens, LANES):
            tile = min(LANES, tokens - token)
            sets = np.zeros(depths, np.int64)
            if not decode_rows(coded.words, states, cursors, book, sets, 0, b, tile, rows):
                return None
            live = book.live[b, -1]
            found[b, token : token + tile, :live] = rows.reshape(size, LANES)[:live, :tile].T
    used = (cursors[:, POSITION] == cursors[:, LAST]).all()
    spelled = (cursors[:, ESCAPE] == cursors[:, LAST_ESCAPE]).all()
    return found if used and spelled and (states == LOW).all() else None


def drawn(generator: np.random.Generator, profile: Profile, tokens: int) -> np.ndarray:
    """Finest integers, mostly small, some far beyond every alphabet; 0 where none is coded."""
    blocks, size = profile.tables.largest.shape
    scale = generator.choice([0.3, 2.0, 30.0, 800.0], (blocks, 1, size))
    integers = np.rint(generator.standard_normal((blocks, tokens, size)) * scale)
    integers[..., :] *= np.arange(size) < profile.tables.live[:, -1:, None]
    return np.clip(integers, -4000, 4000).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(1, 3),
    size=st.integers(1, 9),
    depths=st.integers(1, 4),
    tokens=st.one_of(st.integers(1, 70), st.just(32), st.just(64)),
)
def test_any_integers_come_back_whatever_the_tables(
    seed: int, blocks: int, size: int, depths: int, tokens: int
) -> None:
    generator = np.random.default_rng(seed)
    profile = with_tables(random_tables(generator, blocks, size, depths))
    integers = drawn(generator, profile, tokens)
    found = decode(profile, encode(profile, integers), integers.shape)
    assert found is not None
    assert (found == integers).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_streams_that_are_cut_or_changed_never_read_on(seed: int) -> None:
    generator = np.random.default_rng(seed)
    profile = with_tables(random_tables(generator, 2, 6, 2))
    integers = drawn(generator, profile, 40)
    coded = encode(profile, integers)
    words = coded.words.copy()
    words[generator.integers(len(words), size=3)] ^= np.uint16(generator.integers(1, 1 << 16))
    decode(profile, replace(coded, words=words), integers.shape)  # ends, whatever it gives
    places = coded.places.copy()
    places[:, 2] -= (places[:, 2] > places[:, 1]) * 1  # a word less, an escape more
    if (places != coded.places).any():
        assert decode(profile, replace(coded, places=places), integers.shape) is None


def realistic(generator: np.random.Generator, tokens: int) -> np.ndarray:
    """float32 `[4, tokens, 128]` coefficients in finest steps: power-law spectra, heavy tails."""
    spread = np.array([2.0, 1.0, 0.7, 0.5])[:, None, None] * np.arange(1, 129) ** -0.6 / 0.07
    loud = np.exp(0.35 * generator.standard_normal((4, tokens, 1)))
    return (generator.standard_normal((4, tokens, 128)) * spread * loud).astype(np.float32)


@pytest.fixture(scope="module")
def calibrated() -> Profile:
    """Tables of `realistic`, which keeps the order of components: births do not decrease."""
    samples = realistic(np.random.default_rng(1), 2048)
    birth = np.sort(np.stack([tables.births(each, 3) for each in samples]), axis=1)
    return with_tables(tables.fit(samples, birth, 3), limit=8000)


def test_streams_of_256_tokens_are_within_a_hundredth_of_their_code_length(
    calibrated: Profile,
) -> None:
    integers = np.rint(realistic(np.random.default_rng(2), 256)).astype(np.int32)
    promised = tables.code_lengths(calibrated.tables, integers).sum(axis=0) / 8
    heads = encode(calibrated, integers, times=8)  # 32 heads, as a small model has
    assert heads.num_bytes.sum() < 1.01 * 8 * promised.sum()
    coded = encode(calibrated, integers)
    payload = coded.num_bytes - 4 * LANES - 8 + 2 * LANES  # half of the states carries content
    assert (payload < 1.002 * promised + 32).all()
    assert (payload > promised - 32).all()
    found = decode(calibrated, coded, integers.shape)
    live = np.arange(128) < calibrated.tables.live[:, -1:, None]
    assert found is not None
    assert (found == integers * live).all()


def test_gains_say_what_the_safer_set_costs(calibrated: Profile) -> None:
    book, sets = Prepared.of(calibrated).book, np.zeros(4, np.int64)
    for factor in (1, 6):
        integers = np.rint(factor * realistic(np.random.default_rng(3), 96)).astype(np.int32)
        *_, gains = encode_kernels.encode_stripe(integers, sets, np.arange(4), 0, book)
        bits = [
            tables.code_lengths(calibrated.tables, integers, table_set=s).sum(axis=0)
            for s in (0, 1)
        ]
        assert gains / 256 == pytest.approx(bits[1] - bits[0], abs=0.003 * bits[0].sum())
        assert (gains[1:] > 0).all() == (factor == 1)


def test_coarse_rows_are_those_of_the_reference() -> None:
    fine = np.arange(-4000, 4000, dtype=np.int32)[: 250 * LANES // LANES * LANES]
    rows, coarse = np.resize(fine, 250 * LANES), np.zeros(250 * LANES, np.int32)
    encode_kernels._coarsen(rows, 250, coarse)
    assert (coarse == coarser(rows)).all()


def test_a_change_in_any_kernel_file_outdates_the_compiled(tmp_path: Path) -> None:
    named = {path.name for path in jit.sources()}
    assert named >= {"profile.py", "jit.py", "lanes.py", "lane_memory.py", "exact_kernels.py"}
    assert named >= {"rangecoder.py", "lossless_kernels.py", "entropy.py", "tile_kernels.py"}
    for path in jit.sources():
        (tmp_path / path.name).write_text("before")
    files = sorted(tmp_path.iterdir())
    before = jit.stamp(files)
    for path in files:
        path.write_text("after")
        assert jit.stamp(files) != before
        path.write_text("before")
