import dataclasses

import numpy as np
import pytest
import torch

from frontload.kvcache.codec.baselines.envelope import HEADER, rows
from frontload.kvcache.codec.baselines.lmcache import STREAM_TOKENS, LMCache
from frontload.kvcache.codec.baselines.lmcache_tables import (
    LEVELS,
    OfflineTables,
    calibrate,
    in_band_tables,
    largest_of_layers,
    quantize,
)
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.layout import KVTensors
from tests.kvcache.synthetic import LAYOUT, cache

SHIPPED = "32-16"
DEEP = dataclasses.replace(LAYOUT, num_layers=32, rotary=None)
CHANNELS = LAYOUT.num_heads * LAYOUT.head_dim


@pytest.fixture(scope="module")
def tables() -> OfflineTables:
    return calibrate(LAYOUT, [cache(400, seed=s) for s in (1, 2)])


def test_bins_follow_the_shipped_rule():
    shipped = LEVELS.index((32, 16))
    keys, values = 2 * largest_of_layers(DEEP, shipped) + 1
    assert keys.tolist() == [31] * 10 + [15] * 22
    assert values.tolist() == [31] * 2 + [15] * 30
    assert (2 * largest_of_layers(LAYOUT, shipped)[0] + 1 == 31).all()  # under ten layers


@pytest.mark.parametrize("chunk_tokens", [100, 256, 600])
def test_every_level_comes_back_within_half_a_step(chunk_tokens):
    codec, kv = LMCache(LAYOUT, chunk_tokens=chunk_tokens), cache(530, seed=3, start=40)
    assert isinstance(codec, Codec)
    before = rows(kv, LAYOUT, undo_rotary=False)
    scales = abs(before).max(axis=-1, keepdims=True)
    for index, level in enumerate(codec.levels):
        data = codec.encode(kv, level)
        assert data == codec.encode(kv, level)
        back = codec.decode(data)
        assert back.start == 40
        step = scales / largest_of_layers(LAYOUT, index)[:, :, None, None]
        error = abs(rows(back, LAYOUT, undo_rotary=False) - before)
        assert (error <= step / 2 + abs(before) * 2**-8).all()  # the rest is bf16


def test_tables_and_lengths_are_in_the_bytes_as_shipped():
    """33 int16 a channel of K and V of every layer, int32 a 256-token stream, bf16 scales."""
    kv = cache(STREAM_TOKENS, seed=3)
    size = len(LMCache(LAYOUT).encode(kv, SHIPPED))
    channels = 2 * LAYOUT.num_layers * CHANNELS
    fixed = HEADER.size + channels * (33 * 2 + 4) + 2 * LAYOUT.num_layers * STREAM_TOKENS * 2
    vectors = rows(kv, LAYOUT, undo_rotary=False)
    level = LEVELS.index((32, 16))
    integers = quantize(vectors, abs(vectors).max(axis=-1), largest_of_layers(LAYOUT, level))
    entropy = sum(
        _entropy(column) for plane in integers.reshape(-1, 256, CHANNELS) for column in plane.T
    )
    assert fixed + entropy / 8 <= size <= fixed + 1.02 * entropy / 8 + channels


def test_offline_tables_are_not_in_the_bytes(tables):
    kv = cache(STREAM_TOKENS, seed=3)
    offline = LMCache(LAYOUT, profile=tables)
    with_tables = len(LMCache(LAYOUT).encode(kv, SHIPPED))
    saved = with_tables - len(offline.encode(kv, SHIPPED))
    assert 0.8 * 66 * 2 * LAYOUT.num_layers * CHANNELS < saved
    both = [codec.decode(codec.encode(kv, SHIPPED)) for codec in (offline, LMCache(LAYOUT))]
    assert torch.equal(both[0].keys, both[1].keys)


def test_a_table_has_room_for_every_symbol_and_sums_to_65536():
    counts = np.zeros((1, 2, 32), np.int64)
    counts[0, 0, 5], counts[0, 1, :] = 256, 8
    found = in_band_tables(counts)[0].astype(np.int64)
    found[:, -1] += 65_536
    assert (np.diff(found, axis=1) >= 1).all()
    assert found[:, -1].tolist() == [65_536, 65_536]
    assert np.diff(found[0])[5] == 65_536 - 31


def test_saved_tables_decode_in_another_process(tables, tmp_path):
    tables.save(tmp_path / "tables")
    kv = cache(30, seed=4)
    data = LMCache(LAYOUT, profile=tables).encode(kv, SHIPPED)
    again = LMCache(LAYOUT, profile=OfflineTables.load(tmp_path / "tables"))
    assert again.decode(data).num_tokens == 30
    with pytest.raises(ValueError, match="profile"):
        LMCache(LAYOUT).decode(data)


def test_every_damaged_byte_is_noticed():
    codec = LMCache(LAYOUT)
    data = codec.encode(cache(3, seed=2), "8-6")
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            codec.decode(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"\w"):
            codec.decode(data[:at])


def test_what_cannot_be_coded_is_refused_by_name():
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        LMCache(LAYOUT, chunk_tokens=0)
    with pytest.raises(ValueError, match="level is '31'"):
        LMCache(LAYOUT).encode(cache(3), "31")
    with pytest.raises(ValueError, match="no calibration runs"):
        calibrate(LAYOUT, [])
    keys = torch.full((2, 2, 3, 8), float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        LMCache(LAYOUT).encode(KVTensors(keys=keys, values=keys), SHIPPED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zeros_and_other_dtypes_survive(dtype):
    keys = cache(5).keys.to(dtype)
    keys[:, :, 2] = 0
    back = LMCache(LAYOUT).decode(
        LMCache(LAYOUT).encode(KVTensors(keys=keys, values=keys), SHIPPED)
    )
    assert back.keys.dtype == dtype
    assert not back.keys[:, :, 2].any()


def _entropy(symbols: np.ndarray) -> float:
    counts = np.unique_counts(symbols).counts
    return float(-(counts * np.log2(counts / counts.sum())).sum())
