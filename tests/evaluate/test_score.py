import math
import random

import numpy as np
import pytest
import torch

from frontload.evaluate import score
from frontload.evaluate.score import Scored, bits_per_byte, negative_log_likelihood
from tests.evaluate.made_models import random_model, uniform_model

VOCAB = 320


def sequences(count: int = 30) -> list[Scored]:
    rng = random.Random(0)
    made = []
    for _ in range(count):
        ids = tuple(rng.randrange(VOCAB) for _ in range(rng.randint(2, 60)))
        made.append(Scored(ids=ids, start=rng.randint(1, len(ids))))
    return made


def naive(model, sequence: Scored) -> float:
    with torch.inference_mode():
        logs = model(torch.tensor([sequence.ids])).logits[0].double().log_softmax(-1)
    scored = range(sequence.start, len(sequence.ids))
    return -sum(logs[at - 1, sequence.ids[at]].item() for at in scored)


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
@pytest.mark.parametrize("tokens_per_batch", [1, 300, 10_000])
def test_likelihood_equals_the_naive_sum(preset, tokens_per_batch):
    model, asked = random_model(preset), sequences()
    found = negative_log_likelihood(model, asked, tokens_per_batch=tokens_per_batch)
    assert found == pytest.approx([naive(model, one) for one in asked], abs=1e-3, rel=1e-5)


def test_nothing_scored_is_nothing_lost():
    (found,) = negative_log_likelihood(random_model(), [Scored(ids=(1, 2, 3), start=3)])
    assert found == 0


def test_bf16_is_close_and_unbiased():
    model, asked = random_model(), sequences(200)
    exact = negative_log_likelihood(model, asked)
    rounded = negative_log_likelihood(model, asked, precision="bf16")
    assert rounded.sum() == pytest.approx(exact.sum(), rel=1e-3)


def test_a_uniform_model_has_known_bits_per_byte():
    text_tokens, num_bytes = 40, 100
    sequence = Scored(ids=(7,) * (text_tokens + 1), start=1)
    (nats,) = negative_log_likelihood(uniform_model(), [sequence])
    known = text_tokens * math.log2(VOCAB) / num_bytes
    assert bits_per_byte(nats, num_bytes) == pytest.approx(known)


def test_bits_per_byte_of_no_text_is_not_a_number():
    assert math.isnan(bits_per_byte(1.0, 0))


def test_the_head_is_left_as_it_was():
    model, asked = random_model(), sequences(3)
    negative_log_likelihood(model, asked)
    ids = torch.tensor([asked[0].ids])
    assert model(ids).logits.shape == (1, len(asked[0].ids), VOCAB)


def test_order_does_not_matter():
    model, asked = random_model(), sequences()
    forward = negative_log_likelihood(model, asked)
    backward = negative_log_likelihood(model, asked[::-1])
    assert np.array_equal(forward, backward[::-1]) or backward[::-1] == pytest.approx(forward)


def test_a_large_vocabulary_shrinks_the_batches(monkeypatch):
    model, asked = random_model(), sequences(8)
    expected = negative_log_likelihood(model, asked)
    monkeypatch.setattr(score, "_LOGITS_PER_BATCH", VOCAB * 70)
    seen = []
    watch = model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: seen.append(logits.shape[0])
    )
    assert negative_log_likelihood(model, asked) == pytest.approx(expected)
    watch.remove()
    assert len(seen) > 1
    assert max(seen) <= 70
