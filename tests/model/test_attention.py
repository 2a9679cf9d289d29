"""Laws of attention: packed documents never meet, and the fast path changes no answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from frontload.model.config import ModelConfig
from frontload.model.presets import build_model

TOLERANCE = 1e-4  # float32, sums in another order


def living(preset, context=64):
    """A model whose zero-initialised projections are woken, so that every layer matters."""
    model = build_model(ModelConfig(preset=preset, context=context), 300, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and not weight.any():
                weight.normal_(0, 0.1, generator=generator)
    return model


@pytest.fixture(scope="module", params=["tiny", "hybrid"])
def model(request):
    return living(request.param)


def tokens(*shape):
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(0))


def packed(lengths):
    """Position ids of documents of these lengths in one row."""
    return torch.cat([torch.arange(length) for length in lengths])


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_packed_documents_score_as_if_alone(model, lengths):
    ids, positions = tokens(2, sum(lengths)), packed(lengths).expand(2, -1)
    with torch.no_grad():
        together = model(ids, position_ids=positions, use_cache=False).logits
        alone = [model(part, use_cache=False).logits for part in ids.split(lengths, dim=1)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=TOLERANCE, rtol=0)


def test_packed_documents_give_the_gradients_of_separate_ones(model):
    lengths = [11, 1, 20]
    ids, positions = tokens(2, 32), packed(lengths).expand(2, -1)
    together = model(ids, position_ids=positions, use_cache=False).logits
    alone = torch.cat([model(p, use_cache=False).logits for p in ids.split(lengths, 1)], dim=1)
    weights = list(model.parameters())
    first = torch.autograd.grad(together.logsumexp(-1).sum(), weights)
    second = torch.autograd.grad(alone.logsumexp(-1).sum(), weights)
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("context", [512, 513])
def test_short_and_long_contexts_agree_with_transformers(context):
    ours, theirs = living("tiny", 600), living("tiny", 600)
    theirs.set_attn_implementation("sdpa")
    ids = tokens(1, context)
    positions = packed([200, context - 200])[None]
    with torch.no_grad():
        for position_ids in (None, positions):
            scores = [m(ids, position_ids=position_ids).logits for m in (ours, theirs)]
            torch.testing.assert_close(*scores, atol=TOLERANCE, rtol=0)


def test_left_padding_and_cache_change_no_answer(model):
    prompts = [tokens(length)[None] for length in (3, 9, 14)]
    width = max(prompt.shape[1] for prompt in prompts)
    ids, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - prompt.shape[1] :] = prompt
        mask[row, width - prompt.shape[1] :] = 1
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    batch = model.generate(ids, attention_mask=mask, **greedy)[:, width:]
    for row, prompt in enumerate(prompts):
        alone = prompt
        for _ in range(12):  # no cache, no padding, no generate
            with torch.no_grad():
                following = model(alone, use_cache=False).logits[:, -1:].argmax(-1)
            alone = torch.cat([alone, following], dim=1)
        assert batch[row].tolist() == alone[0, prompt.shape[1] :].tolist()


def test_a_prompt_read_in_two_parts_scores_as_read_at_once():
    model, ids = living("tiny"), tokens(2, 20)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(ids).logits
        model(ids[:, :13], past_key_values=cache)
        rest = model(ids[:, 13:], past_key_values=cache).logits
    torch.testing.assert_close(rest, whole[:, 13:], atol=TOLERANCE, rtol=0)
