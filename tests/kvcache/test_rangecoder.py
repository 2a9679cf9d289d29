import numpy as np
import pytest

from frontload.kvcache.codec.baselines.channel_tables import code_length, fit_channels, largest_of
from frontload.kvcache.codec.baselines.rangecoder import (
    ESCAPED,
    decode_channels,
    decode_rows,
    encode_channels,
    encode_rows,
)
from frontload.kvcache.codec.counts import rounded_counts


def _integers(rows: int, channels: int, scale: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.laplace(size=(rows, channels)) * scale).astype(np.int32)


def _coded(integers: np.ndarray, tables: np.ndarray) -> bytes:
    kind = np.zeros(len(integers), np.uint8)
    m = np.array([(tables.shape[1] - 3) // 2], np.int32)
    stream = encode_rows(integers, kind, tables[None], m)
    assert (decode_rows(stream, kind, tables[None], m) == integers).all()
    return stream


@pytest.mark.parametrize("scale", [0.2, 1.0, 8.0])
def test_streams_are_within_a_percent_of_their_cross_entropy(scale):
    tables = fit_channels(_integers(4000, 8, scale, seed=1))
    integers = _integers(3000, 8, scale)
    bits = code_length(integers, tables)
    assert bits <= 8 * len(_coded(integers, tables)) <= 1.01 * bits + 16


def test_what_was_never_counted_is_coded_all_the_same():
    tables = fit_channels(np.zeros((500, 3), np.int32), largest=2)
    wild = np.array([[ESCAPED, -ESCAPED, 0], [1, -2, 3], [-1000, 2, -1]], np.int32)
    _coded(np.repeat(wild, 200, axis=0), tables)


def test_an_integer_beyond_sixteen_bits_saturates():
    tables = fit_channels(np.zeros((10, 1), np.int32), largest=1)
    kind, m = np.zeros(2, np.uint8), np.array([1], np.int32)
    stream = encode_rows(np.array([[10**6], [-(10**6)]], np.int32), kind, tables[None], m)
    assert decode_rows(stream, kind, tables[None], m).tolist() == [[ESCAPED], [-ESCAPED]]


def test_rows_use_the_table_of_their_kind():
    wide, narrow = _integers(600, 4, 6.0), _integers(600, 4, 0.3)
    integers = np.where((np.arange(600) % 10 == 0)[:, None], wide, narrow)
    kind = (np.arange(600) % 10 == 0).astype(np.uint8)
    both = [fit_channels(narrow, 60), fit_channels(wide, 60)]
    m = np.array([60, 60], np.int32)
    stream = encode_rows(integers, kind, np.stack(both), m)
    assert (decode_rows(stream, kind, np.stack(both), m) == integers).all()
    mixed = fit_channels(integers, 60)
    assert len(stream) < 0.9 * len(_coded(integers, mixed))


def test_a_stream_a_channel_costs_at_most_a_byte_each():
    tables = fit_channels(_integers(4000, 64, 2.0, seed=1), 20)
    integers = _integers(256, 64, 2.0).clip(-20, 20)
    streams, lengths = encode_channels(integers, tables, 20)
    assert (decode_channels(streams, lengths, 256, tables, 20) == integers).all()
    assert lengths.sum() == len(streams) <= code_length(integers, tables) / 8 + 64


def test_any_bytes_decode_to_the_alphabet_without_reading_further():
    tables = fit_channels(_integers(500, 4, 1.0))
    m = np.array([(tables.shape[1] - 3) // 2], np.int32)
    for length in (0, 1, 5, 400):
        junk = np.random.default_rng(length).bytes(length)
        found = decode_rows(junk, np.zeros(500, np.uint8), tables[None], m)
        assert (abs(found) <= ESCAPED + 1).all()


def test_rounded_counts_leave_no_symbol_out():
    tables = rounded_counts(np.array([[1e9, 0, 0, 1.0], [1, 1, 1, 1]]), 65_536)
    assert tables[:, -1].tolist() == [65_536, 65_536]
    assert (np.diff(tables.astype(int), axis=1) >= 1).all()
    assert np.diff(tables[1].astype(int)).tolist() == [16_384] * 4


def test_rounded_counts_lie_within_one_of_their_shares():
    weights = np.random.default_rng(0).random((50, 7))
    tables = rounded_counts(weights, 4096)
    shares = 1 + weights / weights.sum(axis=1, keepdims=True) * (4096 - 7)
    assert (abs(np.diff(tables) - shares) < 1).all()


def test_an_alphabet_leaves_one_integer_in_4096_to_the_escape():
    integers = np.zeros((4096, 1), np.int32)
    integers[0] = 100
    assert largest_of(integers) == 1
    integers[1:3] = 7
    assert largest_of(integers) == 7


def test_held_out_smoothing_beats_raw_counts():
    seen, unseen = _integers(300, 16, 5.0, seed=1), _integers(3000, 16, 5.0, seed=2)
    m = 40
    symbols = np.stack([np.bincount(c + m, minlength=2 * m + 2) for c in seen.clip(-m, m).T])
    raw = rounded_counts(symbols + 0.01, 65_536)
    assert code_length(unseen, fit_channels(seen, m)) < 0.97 * code_length(unseen, raw)
