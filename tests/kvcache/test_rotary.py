"""Laws of the rotation: undone and redone it is nothing, and it is what the models do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from frontload.kvcache.layout import CacheLayout
from frontload.kvcache.rotary import Rotary
from tests.kvcache import tiny_models

HEAD_DIM = 12


def rotary(pairing="halves", *, half=4, scaling=1.0, layers=(True, True)) -> Rotary:
    frequencies = tuple(float(x) for x in np.float32(50.0) ** -np.linspace(0, 1, half))
    return Rotary(inv_freq=frequencies, scaling=scaling, pairing=pairing, layers=layers)


def random_keys(tokens=9) -> torch.Tensor:
    return torch.randn(2, 3, tokens, HEAD_DIM, generator=torch.Generator().manual_seed(0))


PAIRINGS = pytest.mark.parametrize("pairing", ["halves", "neighbours"])


@PAIRINGS
@given(start=st.integers(0, 200_000), scaling=st.sampled_from([1.0, 0.5, 1.35]))
def test_undone_and_redone_is_the_same_to_rounding(pairing, start, scaling):
    turn, keys = rotary(pairing, scaling=scaling), random_keys()
    torch.testing.assert_close(turn.redo(turn.undo(keys, start), start), keys, rtol=0, atol=2e-6)
    torch.testing.assert_close(turn.undo(turn.redo(keys, start), start), keys, rtol=0, atol=2e-6)


@PAIRINGS
def test_a_chunk_turns_as_its_tokens_do_in_the_whole(pairing):
    turn, keys = rotary(pairing), random_keys(40)
    whole = turn.redo(keys, 100)
    assert torch.equal(turn.redo(keys[:, :, 13:29], 113), whole[:, :, 13:29])


@PAIRINGS
def test_products_depend_on_the_distance_alone(pairing):
    turn, keys, queries = rotary(pairing), random_keys(1), random_keys(2)[:, :, 1:]
    near = (turn.redo(keys, 5) * turn.redo(queries, 12)).sum(-1)
    far = (turn.redo(keys, 1_005) * turn.redo(queries, 1_012)).sum(-1)
    torch.testing.assert_close(near, far, rtol=0, atol=2e-4)  # angles are rounded to float32


@PAIRINGS
def test_what_does_not_turn_keeps_its_bits(pairing):
    turn, keys = rotary(pairing, half=3, layers=(True, False)), random_keys()
    turned = turn.redo(keys, 77)
    assert torch.equal(turned[0, ..., 6:], keys[0, ..., 6:])
    assert torch.equal(turned[1], keys[1])
    assert not torch.isclose(turned[0, ..., :6], keys[0, ..., :6]).all(dim=-1).any()


def test_angles_are_those_of_float32_products():
    turn = rotary()
    cosine, sine = turn.angles(131_000, 3)
    angle = np.arange(131_000, 131_003, dtype=np.float32)[:, None] * np.float32(turn.inv_freq)
    np.testing.assert_array_equal(cosine, np.cos(angle.astype(np.float64)).astype(np.float32))
    np.testing.assert_array_equal(sine, np.sin(angle.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "code", "pairing"),
    [
        ("llama", modeling_llama, "halves"),
        ("linear", modeling_llama, "halves"),
        ("llama3", modeling_llama, "halves"),
        ("yarn", modeling_llama, "halves"),
        ("cohere", modeling_cohere, "neighbours"),
    ],
)
def test_it_is_the_rotation_that_the_model_applies(kind, code, pairing):
    module = tiny_models.build(kind).model.rotary_emb
    turn = Rotary(
        inv_freq=tuple(module.inv_freq.tolist()),
        scaling=module.attention_scaling,
        pairing=pairing,
        layers=(True, True),
    )
    keys = torch.randn(2, 3, 300, 8, generator=torch.Generator().manual_seed(1))
    cosine, sine = module(keys, torch.arange(200, 500)[None])
    _, expected = code.apply_rotary_pos_emb(keys, keys, cosine, sine)
    torch.testing.assert_close(turn.redo(keys, 200), expected, rtol=0, atol=2e-6)


def test_it_is_read_back_as_written():
    layout = CacheLayout(
        num_layers=2, num_heads=1, head_dim=HEAD_DIM, rotary=rotary("neighbours", scaling=1.2)
    )
    assert CacheLayout.from_json(layout.to_json()).rotary == layout.rotary
    assert dataclasses.replace(rotary(), scaling=2.0) != rotary()
