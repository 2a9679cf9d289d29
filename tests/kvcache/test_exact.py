"""The exact level, on top of the finest lossy one."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frontload.kvcache.codec import quantize
from frontload.kvcache.codec.baselines.lossless import Lossless
from frontload.kvcache.codec.damage import ContainerError, Damaged
from frontload.kvcache.codec.exact import (
    decode_exact,
    encode_exact,
    grids,
    pack_tables,
    unpack_tables,
)
from frontload.kvcache.codec.exact_kernels import CONTEXTS, ESCAPE, MOST, SYMBOLS
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.profile import Profile
from tests.kvcache import synthetic

SHAPE = (synthetic.LAYOUT.num_pieces, 5, synthetic.LAYOUT.head_dim)


@cache
def _profile() -> Profile:
    return synthetic.profile()


def _bits(kv: KVTensors) -> np.ndarray:
    return kv.pieces().view(torch.uint16).numpy()


def _finest(profile: Profile, kv: KVTensors) -> KVTensors:
    integer, _ = quantize.integers(profile, kv)
    return quantize.reconstruct(
        profile, integer, np.full(profile.num_blocks, profile.finest), kv.start
    )


@cache
def _pair(tokens: int = 200, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    kv = synthetic.cache(tokens, seed=3, start=start)
    return _bits(_finest(_profile(), kv)), _bits(kv)


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (33, 0), (200, 77)])
@pytest.mark.parametrize("stripes", [None, 1, 3, 8])
def test_every_bit_comes_back(tokens: int, start: int, stripes: int | None) -> None:
    predicted, actual = _pair(tokens, start)
    body = encode_exact(_profile(), predicted, actual, stripes=stripes)
    assert (decode_exact(_profile(), body, predicted) == actual).all()


def test_threads_decode_the_same() -> None:
    predicted, actual = _pair()
    body = encode_exact(_profile(), predicted, actual, stripes=4)
    assert body == encode_exact(_profile(), predicted, actual, stripes=4, threads=2)
    for threads in (2, None):
        assert (decode_exact(_profile(), body, predicted, threads=threads) == actual).all()


SPECIAL = np.array(
    [
        0x0000,
        0x8000,
        0x0001,
        0x8001,
        0x007F,
        0x0080,
        0x7F7F,
        0xFF7F,
        0x7F80,
        0xFF80,
        0x7FC1,
        0xFFFF,
    ],
    np.uint16,
)


def test_zeros_subnormals_infinities_and_nan_come_back() -> None:
    everything = np.resize(np.append(SPECIAL, SPECIAL[::-1]), SHAPE)
    for predicted in (np.resize(SPECIAL, SHAPE), np.zeros(SHAPE, np.uint16), everything):
        body = encode_exact(_profile(), predicted, everything)
        assert (decode_exact(_profile(), body, predicted) == everything).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0, 1, 40, 4000, 65536]))
def test_any_prediction_of_any_bits_is_exact(seed: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, 65536, SHAPE).astype(np.uint16)
    actual = (predicted + rng.integers(-spread, spread + 1, SHAPE)).astype(np.uint16)
    body = encode_exact(_profile(), predicted, actual)
    assert (decode_exact(_profile(), body, predicted) == actual).all()


def _exact_or_refused(body: bytes, predicted: np.ndarray, actual: np.ndarray) -> bool:
    """Whether it was refused; a difference that decides nothing may pass."""
    try:
        assert (decode_exact(_profile(), body, predicted) == actual).all()
    except Damaged:
        return True
    return False


def test_another_prediction_is_refused_unless_it_changes_nothing() -> None:
    predicted, actual = _pair()
    body = encode_exact(_profile(), predicted, actual)
    refused = []
    for place in np.random.default_rng(0).integers(predicted.size, size=40):
        other = predicted.copy()
        other.reshape(-1)[place] += 1
        refused.append(_exact_or_refused(body, other, actual))
    assert np.mean(refused) > 0.5  # below the grid, neighbouring predictions are one


def test_the_refusal_says_what_to_do() -> None:
    predicted, actual = _pair()
    body = encode_exact(_profile(), predicted, actual)
    with pytest.raises(Damaged, match="read the finest lossy level instead"):
        decode_exact(_profile(), body, predicted ^ 0x80)


def test_changed_or_cut_bodies_never_give_other_values() -> None:
    predicted, actual = _pair()
    body = encode_exact(_profile(), predicted, actual, stripes=2)
    rng = np.random.default_rng(1)
    refused = []
    for _ in range(300):
        changed = bytearray(body)
        place = int(rng.choice([rng.integers(40), rng.integers(len(body))]))
        changed[place] ^= int(rng.integers(1, 256))
        refused.append(_exact_or_refused(bytes(changed), predicted, actual))
    assert np.mean(refused) > 0.9  # a weight without values in its context, say, decides nothing
    for length in (0, 1, 7, 8, 20, len(body) // 2, len(body) - 1):
        with pytest.raises(ContainerError):
            decode_exact(_profile(), body[:length], predicted)


def test_the_noise_that_a_profile_foresees_is_the_noise_found() -> None:
    kv = synthetic.cache(2000, seed=3, start=64)
    error = (kv.pieces().float() - _finest(_profile(), kv).pieces().float()).numpy()
    grid, fraction = grids(_profile())
    foreseen = 2.0 ** (grid - 134) * 2 ** ((fraction + 6.5) / 4)
    ratio = np.sqrt((error**2).mean(axis=1)) / foreseen
    assert (ratio > 0.8).all()
    assert (ratio < 1.25).all()


def test_nesting_takes_fewer_bits_than_a_lossless_codec_of_its_own() -> None:
    kv = synthetic.cache(1000, seed=3, start=64)
    integer, _ = quantize.integers(_profile(), kv)
    lossy = sum(_entropy(component) for block in integer for component in block.T)
    body = encode_exact(_profile(), _bits(_finest(_profile(), kv)), _bits(kv))
    alone = len(Lossless(synthetic.LAYOUT, coder="rans-channel").encode(kv, "exact"))
    assert lossy / 8 + len(body) < 0.85 * alone


def _entropy(symbols: np.ndarray) -> float:
    """Bits of a column under its own distribution."""
    counts = np.unique_counts(symbols).counts
    return float((counts * np.log2(counts.sum() / counts)).sum())


def test_tables_give_every_symbol_that_occurs_a_count() -> None:
    rng = np.random.default_rng(2)
    counts = (rng.random((CONTEXTS, SYMBOLS)) < 0.4) * rng.integers(1, 10**6, (CONTEXTS, SYMBOLS))
    counts[3] = 0
    counts[4] = 0
    counts[4, ESCAPE] = 5
    counts[5] = 0
    counts[5, MOST + 2] = 1
    freq, start = unpack_tables(pack_tables(counts))
    freq, start = freq.reshape(CONTEXTS, SYMBOLS), start.reshape(CONTEXTS, SYMBOLS)
    assert (freq[counts > 0] > 0).all()
    assert set(freq.sum(axis=1)) == {0, 4096}
    assert (start[:, 1:] == np.cumsum(freq, axis=1)[:, :-1]).all()
