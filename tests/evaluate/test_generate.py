import random

import pytest
import torch

from frontload.evaluate.generate import Generation, generate, must_not_pad
from tests.evaluate.made_models import (
    CONTEXT,
    chain_model,
    other_recurrent_model,
    random_model,
)

VOCAB = 320
ENDS = set(range(0, VOCAB, 11))  # many end tokens, so that rows leave at different steps


def prompts(count: int = 40, seed: int = 0, longest: int = 30) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def answers(model, asked, **settings) -> list[list[Generation]]:
    defaults = {"end_ids": ENDS, "pad_id": 3, "max_new_tokens": 20, "context": CONTEXT}
    return generate(model, asked, **(defaults | settings))


def one_by_one(model, prompt, max_new_tokens=20) -> Generation:
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(ENDS),
            pad_token_id=3,
            do_sample=False,
        )[0, len(prompt) :].tolist()
    finished = ids[-1] in ENDS
    return Generation(tokens=tuple(ids[:-1] if finished else ids), finished=finished)


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_batched_equals_one_by_one(preset, batch_size):
    model, asked = random_model(preset), prompts(24)
    expected = [one_by_one(model, prompt) for prompt in asked]
    assert len({len(answer.tokens) for answer in expected}) > 5, "rows must leave at many steps"
    assert [a for (a,) in answers(model, asked, batch_size=batch_size)] == expected


def test_a_state_that_padding_might_enter_is_batched_by_equal_length():
    model = other_recurrent_model()
    assert must_not_pad(model)
    asked = [prompt for prompt in prompts(8, longest=5) for _ in range(2)]
    assert [a for (a,) in answers(model, asked)] == [one_by_one(model, p) for p in asked]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_batched_equals_one_by_one_with_other_attention(implementation):
    model, asked = random_model(), prompts(12)
    model.set_attn_implementation(implementation)
    assert [a for (a,) in answers(model, asked)] == [one_by_one(model, p) for p in asked]


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_samples_depend_on_neither_batch_size_nor_order(preset):
    model, asked = random_model(preset), prompts(10)
    settings = {"temperature": 1.0, "samples": 3, "seeds": list(range(10))}
    expected = answers(model, asked, **settings)
    assert len({a.tokens for samples in expected for a in samples}) > 20
    for batch_size in (1, 2, 5):
        assert answers(model, asked, batch_size=batch_size, **settings) == expected
    turned = answers(model, asked[::-1], **(settings | {"seeds": list(range(9, -1, -1))}))
    assert turned[::-1] == expected


def test_more_samples_keep_the_first_ones():
    model, asked = random_model(), prompts(4)
    settings = {"temperature": 0.8, "seeds": [5, 6, 7, 8]}
    few, many = (answers(model, asked, samples=k, **settings) for k in (2, 5))
    assert [samples[:2] for samples in many] == few


def test_samples_follow_the_distribution():
    model, prompt, temperature = random_model(), prompts(1)[0], 0.7
    drawn = answers(
        model,
        [prompt],
        temperature=temperature,
        samples=4000,
        seeds=[1],
        max_new_tokens=1,
        end_ids={VOCAB},
    )[0]
    counts = torch.bincount(torch.tensor([a.tokens[0] for a in drawn]), minlength=VOCAB)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    expected = 4000 * (logits / temperature).softmax(-1)
    likely = expected > 5
    statistic = ((counts - expected) ** 2 / expected)[likely].sum().item()
    degrees = int(likely.sum())
    assert degrees > 50
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5


def test_a_vanishing_temperature_is_greedy():
    model, asked = random_model(), prompts(6)
    cold = answers(model, asked, temperature=1e-4, seeds=[0] * 6)
    assert cold == answers(model, asked)


def test_an_answer_stops_where_the_context_is_full():
    model = chain_model(VOCAB, {5: 5})
    asked = [[5] * length for length in (2, 60, 63, 64, 70)]
    made = [a for (a,) in answers(model, asked, end_ids={0}, max_new_tokens=10)]
    assert [len(answer.tokens) for answer in made] == [10, 4, 1, 0, 0]
    assert not any(answer.finished for answer in made)


def test_the_end_token_is_not_part_of_the_answer():
    model = chain_model(VOCAB, {5: 6, 6: 7, 7: 0})
    assert answers(model, [[5], [7]], end_ids={0}) == [
        [Generation(tokens=(6, 7), finished=True)],
        [Generation(tokens=(), finished=True)],
    ]


def test_an_end_token_in_the_last_place_still_finishes():
    model = chain_model(VOCAB, {5: 6, 6: 0})
    (answer,) = answers(model, [[5]], end_ids={0}, max_new_tokens=2)[0]
    assert answer == Generation(tokens=(6,), finished=True)


def test_training_mode_is_restored():
    model = random_model().train()
    answers(model, prompts(2))
    assert model.training


def test_bf16_answers_most_prompts_as_fp32_does():
    model, asked = random_model(), prompts(40)
    single = answers(model, asked, max_new_tokens=3)
    rounded = answers(model, asked, max_new_tokens=3, precision="bf16")
    assert sum(a == b for a, b in zip(single, rounded, strict=True)) > 30


def test_sampling_without_seeds_is_refused():
    with pytest.raises(ValueError, match="seeds"):
        answers(random_model(), prompts(2), temperature=1.0)


def test_progress_counts_every_answer_once():
    seen = []
    answers(
        random_model(),
        prompts(10),
        batch_size=4,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_an_answer_longer_than_the_spare_room_of_the_cache():
    model, asked = random_model(), prompts(5, longest=9)
    expected = [one_by_one(model, prompt, max_new_tokens=100) for prompt in asked]
    settings = {"max_new_tokens": 100, "context": 200}
    assert [a for (a,) in answers(model, asked, **settings)] == expected
    assert max(len(answer.tokens) for answer in expected) == 100
