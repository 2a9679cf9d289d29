"""Laws of saving: plain transformers loads it, and a directory is whole or absent."""

import json
import resource

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from frontload.model.checkpoint import load_model, save_model
from frontload.model.config import ModelConfig
from frontload.model.presets import build_model, count_parameters
from frontload.model.tokenizer import load_tokenizer

IDS = torch.randint(0, 512, (2, 48), generator=torch.Generator().manual_seed(0))


def noisy(preset, seed=0):
    model = build_model(ModelConfig(preset=preset, context=64), 512, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_plain_transformers_gives_the_same_logits(preset, tokenizer, tmp_path):
    model = noisy(preset)
    save_model(model, tokenizer, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=0)
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "frontload" not in json.dumps(settings)
    told = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert told.chat_template == tokenizer.chat_template
    assert plain.generation_config.eos_token_id == told.eos_token_id
    assert plain.generation_config.pad_token_id == told.pad_token_id


@pytest.mark.parametrize("preset", ["tiny", "hybrid"])
def test_loading_gives_back_the_very_model(preset, tokenizer, tmp_path):
    model = noisy(preset)
    save_model(model, tokenizer, tmp_path / "model")
    assert torch.equal(logits(load_model(tmp_path / "model")), logits(model))


def test_gathered_weights_are_saved_instead_of_the_models_own(tokenizer, tmp_path):
    shards, full = noisy("tiny", seed=1), noisy("tiny", seed=2)
    state = {name: weight.clone() for name, weight in full.state_dict().items()}
    save_model(shards, tokenizer, tmp_path / "model", state=state)
    assert torch.equal(logits(load_model(tmp_path / "model")), logits(full))


def test_saving_again_replaces_and_leaves_nothing_else(tokenizer, tmp_path):
    for seed in (1, 2):
        save_model(noisy("tiny", seed=seed), tokenizer, tmp_path / "model")
    assert torch.equal(logits(load_model(tmp_path / "model")), logits(noisy("tiny", seed=2)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_save_that_runs_out_of_disk_keeps_the_old_model_and_no_half_one(tokenizer, tmp_path):
    save_model(noisy("tiny", seed=1), tokenizer, tmp_path / "model")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # the weights need 1.4 MB
    try:
        with pytest.raises(OSError, match=f"cannot write to {tmp_path}: .*Free some space"):
            save_model(noisy("tiny", seed=2), tokenizer, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(logits(load_model(tmp_path / "model")), logits(noisy("tiny", seed=1)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("load", ["model", "tokenizer", "start", "plan"])
def test_no_code_beside_a_model_is_executed(load, tokenizer, tmp_path):
    ran = tmp_path / "ran"
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    auto |= {"AutoTokenizer": [None, "code.T"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard", "auto_map": auto}))
    described = {"tokenizer_class": "T", "auto_map": auto}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    config = ModelConfig(start=str(folder), context=64)
    attempts = {
        "model": lambda: load_model(folder),
        "tokenizer": lambda: load_tokenizer(folder),
        "start": lambda: build_model(config, 300, seed=0),
        "plan": lambda: count_parameters(config, 300),
    }
    with pytest.raises(ValueError, match=r"foreign needs Python code of its own"):
        attempts[load]()
    assert not ran.exists()
