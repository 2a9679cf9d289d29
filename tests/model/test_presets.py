"""Laws of building: counts as documented, weights a function of the seed alone."""

import pytest
import torch

from frontload.model.checkpoint import save_model
from frontload.model.config import ModelConfig
from frontload.model.presets import build_model, count_parameters

TINY = ModelConfig(preset="tiny", context=64)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize(
    ("preset", "vocab_size", "millions"),
    [("tiny", 512, 0.4), ("small", 16_384, 30), ("base", 32_768, 150), ("hybrid", 512, 0.9)],
)
def test_presets_have_the_documented_size(preset, vocab_size, millions):
    count = count_parameters(ModelConfig(preset=preset, context=64), vocab_size)
    assert count.total / 1e6 == pytest.approx(millions, rel=0.11)


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_counting_equals_building(preset):
    config = ModelConfig(preset=preset, context=64)
    model = build_model(config, 400, seed=0)
    assert count_parameters(config, 400).total == sum(w.numel() for w in model.parameters())


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_weights_depend_on_the_seed_alone(preset):
    config = ModelConfig(preset=preset, context=64)
    first = weights(build_model(config, 400, seed=3))
    torch.randn(7)
    assert same(first, weights(build_model(config, 400, seed=3)))
    assert not same(first, weights(build_model(config, 400, seed=4)))


def test_building_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    build_model(TINY, 400, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_an_untrained_model_is_unsure(preset):
    """Logits start small enough for the loss to start at ln(vocabulary)."""
    model = build_model(ModelConfig(preset=preset, context=64), 512, seed=0)
    ids = torch.randint(0, 512, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, ids.roll(-1, dims=1).flatten())
    assert loss.item() == pytest.approx(6.24, abs=0.5)


def test_overrides_reach_the_model_and_unknown_ones_are_refused():
    deeper = TINY.model_copy(update={"overrides": {"num_hidden_layers": 3}})
    assert len(build_model(deeper, 400, seed=0).model.layers) == 3
    misspelt = TINY.model_copy(update={"overrides": {"num_hiden_layers": 3}})
    with pytest.raises(ValueError, match=r"model\.overrides.*did you mean num_hidden_layers"):
        build_model(misspelt, 400, seed=0)


def test_a_start_with_too_few_embeddings_gets_new_rows_and_keeps_the_old(tokenizer, tmp_path):
    old = build_model(TINY, 512, seed=0)
    save_model(old, tokenizer, tmp_path / "start")
    start = ModelConfig(start=str(tmp_path / "start"), context=64)
    grown, again = build_model(start, 520, seed=1), build_model(start, 520, seed=1)
    assert same(weights(grown), weights(again))
    rows = grown.get_input_embeddings().weight
    assert torch.equal(rows[:512], old.get_input_embeddings().weight)
    assert len(rows) == grown.config.vocab_size == 520
    assert count_parameters(start, 520).total == sum(w.numel() for w in grown.parameters())
    assert same(weights(build_model(start, 500, seed=1)), weights(old))
