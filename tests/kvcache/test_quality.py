"""Loss of a round trip: zero for nothing lost, exact for what is, and only where it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from frontload.kvcache.layout import KVTensors
from frontload.kvcache.quality import Context, ContextLoss, dump, evaluate, measure, summarize
from tests.kvcache.elsewhere import elsewhere
from tests.kvcache.tiny_models import model

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 640, 60)
CONTEXT = Context(ids=IDS, prefix_tokens=40, scored=np.arange(60) > 40, domain="text")


def noisy(amount: float, kv: KVTensors) -> KVTensors:
    generator = torch.Generator().manual_seed(0)

    def add(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=generator)
        return (x.float() + amount * x.float().std() * noise).to(x.dtype)

    return KVTensors(keys=add(kv.keys), values=add(kv.values))


def test_an_untouched_cache_costs_exactly_nothing() -> None:
    quality = evaluate(model(), dump(model(), [CONTEXT]), lambda kv: kv)
    assert (quality.kl, quality.nll_change, quality.flips, quality.kl_worst_decile) == (0, 0, 0, 0)
    assert (quality.tokens, quality.contexts) == (19, 1)


def test_reading_an_exact_cache_equals_running_the_whole_text() -> None:
    [exact] = dump(model(), [CONTEXT], dtype=torch.float32)
    with torch.no_grad():
        logits = model()(torch.from_numpy(IDS)[None]).logits[0, 40:-1]
    torch.testing.assert_close(exact.log_probs, logits.log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_more_noise_costs_more() -> None:
    dumps = dump(model(), [CONTEXT])
    losses = [evaluate(model(), dumps, lambda kv, a=a: noisy(a, kv)).kl for a in (0.01, 0.1, 1.0)]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_kl_is_that_of_the_definition() -> None:
    [original] = dump(model(), [CONTEXT])
    decoded = noisy(0.3, original.kv)
    [other] = dump(model(), [replace(CONTEXT)])
    loss = measure(model(), original, decoded)
    changed = measure(model(), replace(other, kv=decoded), original.kv)
    before, after = original.log_probs.double(), _log_probs(decoded)
    expected = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert loss.kl == pytest.approx(expected.item(), rel=1e-4)
    truth = torch.from_numpy(IDS[41:])[:, None]
    assert loss.nll == pytest.approx(-after.gather(1, truth).mean().item(), rel=1e-5)
    assert loss.nll - loss.nll_change == pytest.approx(changed.nll, rel=1e-5)


def _log_probs(kv: KVTensors) -> torch.Tensor:
    from transformers import DynamicCache

    cache = DynamicCache()
    for i in range(len(kv.keys)):
        cache.update(kv.keys[i][None].float(), kv.values[i][None].float(), i)
    with torch.no_grad():
        logits = model()(torch.from_numpy(IDS[40:-1])[None], past_key_values=cache).logits[0]
    return logits.double().log_softmax(-1)


def test_a_cache_decoded_elsewhere_is_measured_all_the_same() -> None:
    [found] = dump(model(), [CONTEXT])
    assert measure(model(), found, elsewhere(found.kv)).kl == 0


def test_only_scored_tokens_count() -> None:
    scored = np.zeros(60, np.bool_)
    scored[[45, 50]] = True
    [everything] = dump(model(), [CONTEXT])
    [two] = dump(model(), [replace(CONTEXT, scored=scored)])
    torch.testing.assert_close(two.log_probs, everything.log_probs[[4, 9]])
    assert measure(model(), two, noisy(0.3, two.kv)).tokens == 2


def test_the_worst_tenth_is_a_mean_over_contexts() -> None:
    losses = [
        ContextLoss(
            domain="text", tokens=1 + i, kl=float(i), nll=0, nll_change=0, flips=0, accuracy=0
        )
        for i in range(20)
    ]
    quality = summarize(losses)
    assert quality.kl_worst_decile == 18.5
    assert quality.kl == pytest.approx(sum(i * (i + 1) for i in range(20)) / 210)


def test_a_round_trip_of_another_shape_is_refused() -> None:
    dumps = dump(model(), [CONTEXT])
    with pytest.raises(ValueError, match="the round trip turned"):
        evaluate(model(), dumps, lambda kv: kv.tokens(0, 10))
    with pytest.raises(ValueError, match="no context"):
        evaluate(model(), [], lambda kv: kv)


@pytest.mark.parametrize(("prefix", "first"), [(0, 5), (59, 59), (40, 40)])
def test_contexts_that_could_not_be_scored_are_refused(prefix: int, first: int) -> None:
    with pytest.raises(ValueError, match=r"prefix_tokens|scored"):
        replace(CONTEXT, prefix_tokens=prefix, scored=np.arange(60) >= first)
