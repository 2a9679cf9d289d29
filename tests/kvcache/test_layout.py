"""Laws of the tensors: cutting, joining and ordering lose nothing; bad ones are refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frontload.kvcache.layout import CacheLayout, KVTensors, check, join
from tests.kvcache.synthetic import LAYOUT, cache


def same(one: KVTensors, two: KVTensors) -> bool:
    equal = torch.equal(one.keys, two.keys) and torch.equal(one.values, two.values)
    return equal and one.start == two.start and one.keys.dtype == two.keys.dtype


@given(tokens=st.integers(1, 40), chunk=st.integers(1, 50), start=st.integers(0, 99))
def test_cut_and_joined_equals_whole(tokens, chunk, start):
    kv = cache(tokens, start=start)
    chunks = kv.chunks(chunk)
    assert [c.num_tokens for c in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    assert same(join(chunks), kv)


def test_a_piece_is_where_the_layout_says():
    kv = cache(5)
    pieces = kv.pieces()
    for kind, tensor in enumerate((kv.keys, kv.values)):
        for layer in range(LAYOUT.num_layers):
            for head in range(LAYOUT.num_heads):
                piece = pieces[LAYOUT.piece(kind, layer, head)]
                assert torch.equal(piece, tensor[layer, head])
    assert same(KVTensors.from_pieces(pieces, LAYOUT, kv.start), kv)
    assert len(pieces) == LAYOUT.num_pieces


def test_bytes_and_values_are_counted_whole():
    kv = cache(10)
    assert kv.num_values == 10 * LAYOUT.values_per_token
    assert kv.num_bytes == 2 * kv.num_values
    assert kv.to(dtype=torch.float32).num_bytes == 4 * kv.num_values


def test_joining_refuses_a_gap_and_nothing():
    first, _, third = cache(30).chunks(10)
    with pytest.raises(ValueError, match="starts at token 20, expected 10"):
        join([first, third])
    with pytest.raises(ValueError, match="no chunk"):
        join([])


def test_chunks_of_no_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        cache(3).chunks(0)


def test_layout_is_read_back_as_written():
    assert CacheLayout.from_json(LAYOUT.to_json()) == LAYOUT
    still = dataclasses.replace(LAYOUT, rotary=None, rotary_note="why", max_tokens=None)
    assert CacheLayout.from_json(still.to_json()) == still


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_heads": 0}, "at least 1"),
        ({"num_layers": 3}, "rotary.layers"),
        ({"head_dim": 6}, "8"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(LAYOUT, **changes)


def test_a_sound_cache_passes():
    check(cache(1), LAYOUT)
    check(cache(20, start=LAYOUT.max_tokens - 20), LAYOUT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e30, -3.4e38])
@pytest.mark.parametrize("kind", ["keys", "values"])
def test_one_value_that_is_not_finite_is_found_and_located(kind, bad):
    kv = cache(12)
    getattr(kv, kind)[1, 0, 7, 3] = bad
    with pytest.raises(ValueError, match=f"NaN or Inf in the {kind} of attention layer 1"):
        check(kv)


@pytest.mark.parametrize(
    ("kv", "named"),
    [
        (cache(4).tokens(2, 2), "no tokens"),
        (cache(4).to(dtype=torch.float64), "torch.float64"),
        (cache(4, start=LAYOUT.max_tokens - 3), "shorter context"),
        (dataclasses.replace(cache(4), start=-1), "start is -1"),
        (KVTensors(keys=cache(4).keys[:1], values=cache(4).values[:1]), "another model"),
        (KVTensors(keys=cache(4).keys[..., :4], values=cache(4).values[..., :4]), "another model"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(kv, named):
    with pytest.raises(ValueError, match=named):
        check(kv, LAYOUT)
