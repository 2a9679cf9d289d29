"""Probes of the model's curvature against the KL divergence that they stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from frontload.kvcache.calibration.fisher import gradients, probe
from frontload.kvcache.huggingface import layout_of, prefill
from frontload.kvcache.layout import KVTensors
from frontload.kvcache.quality import Context, suffix_logits
from frontload.kvcache.rotary import rotated, unrotated


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data *= 8 if weight.ndim == 2 else 1  # so that attention and labels are uneven
    return model


@pytest.fixture(scope="module")
def context() -> Context:
    ids = np.random.default_rng(0).integers(12, size=10)
    scored = np.arange(10) > 6
    return Context(ids=ids, prefix_tokens=6, scored=scored, domain="any")


def kl(
    model: LlamaForCausalLM, context: Context, pieces: torch.Tensor, error: torch.Tensor
) -> float:
    """Nats over all scored predictions, of an error of the unrotated cache."""
    layout = layout_of(model)
    plain, wrong = (
        rotated(KVTensors.from_pieces(x, layout, start=0), layout.rotary)
        for x in (pieces, pieces + error)
    )
    with torch.no_grad():
        before, after = (
            suffix_logits(model, context, kv).double().log_softmax(-1) for kv in (plain, wrong)
        )
    return float((before.exp() * (before - after)).sum())


def test_probes_over_all_signs_are_the_fisher_information_of_logits() -> None:
    logits = torch.tensor([[0.0, 5.0, -1.0, 1.0]])
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    found = probe(logits.expand(16, 4), signs)
    share = logits[0].softmax(-1)
    expected = torch.diag(share) - share[:, None] * share
    assert torch.allclose(found.T @ found / 16, expected, atol=1e-7)


def test_squared_gradients_are_twice_the_kl_of_a_small_error(
    model: LlamaForCausalLM, context: Context
) -> None:
    layout = layout_of(model)
    kv, _ = prefill(model, context.ids[: context.prefix_tokens].tolist())
    pieces = unrotated(kv, layout.rotary).pieces()
    draws = gradients(
        model,
        context,
        pieces,
        layout,
        draws=400,
        generator=torch.Generator().manual_seed(0),
    )
    stacked = torch.stack([draw.reshape(-1) for draw in draws]).double()
    rng = torch.Generator().manual_seed(1)
    small = 0.02
    for scope in (slice(0, 2), slice(2, 4)):  # keys alone, values alone
        predicted = measured = 0.0
        for _ in range(12):
            error = torch.zeros_like(pieces)
            error[scope] = torch.randn(error[scope].shape, generator=rng)
            predicted += float((stacked @ error.reshape(-1).double()).square().mean()) / 2
            measured += kl(model, context, pieces, small * error) / small**2
        assert measured == pytest.approx(predicted, rel=0.1)


def test_gradients_are_centred_and_depend_on_the_seed_alone(
    model: LlamaForCausalLM, context: Context
) -> None:
    layout = layout_of(model)
    kv, _ = prefill(model, context.ids[: context.prefix_tokens].tolist())
    pieces = unrotated(kv, layout.rotary).pieces()

    def drawn(seed: int, draws: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = gradients(model, context, pieces, layout, draws=draws, generator=generator)
        return torch.stack(list(found))

    assert torch.equal(drawn(3, 5), drawn(3, 5))
    assert not torch.equal(drawn(3, 5), drawn(4, 5))
    many = drawn(0, 300)
    assert many.mean(0).norm() < 0.15 * many.square().mean(0).sum().sqrt()


def test_rotation_is_undone(model: LlamaForCausalLM) -> None:
    layout = layout_of(model)
    kv, _ = prefill(model, [1, 2, 3, 4])
    again = rotated(unrotated(kv, layout.rotary), layout.rotary)
    assert torch.allclose(again.keys, kv.keys, atol=1e-5)
    assert torch.equal(again.values, kv.values)
