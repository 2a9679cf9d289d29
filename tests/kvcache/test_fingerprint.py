"""Laws of the fingerprint: of the weights, not of how they are held."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from frontload.kvcache.fingerprint import fingerprint, require
from tests.kvcache import synthetic
from tests.kvcache.tiny_models import CONFIGS, build


@pytest.mark.parametrize("kind", ["llama", "tiny", "hybrid"])
def test_saving_loading_and_dtype_change_nothing(kind, tmp_path):
    model = build(kind, torch.bfloat16)
    model.save_pretrained(tmp_path)
    expected = fingerprint(model)
    for dtype in (torch.bfloat16, torch.float32):
        assert fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)) == expected


def test_rounding_the_weights_to_bf16_changes_nothing():
    model = build("llama")
    assert fingerprint(copy.deepcopy(model).bfloat16()) == fingerprint(model)


def test_use_changes_nothing():
    model = build("dynamic")
    expected = fingerprint(model)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 1, dtype=torch.long), position_ids=torch.tensor([[900]]))
    assert fingerprint(model.train()) == expected


def test_any_scaled_tensor_changes_it():
    model = build("llama")
    expected = fingerprint(model)
    for _, weight in model.named_parameters():
        before = weight.detach().clone()
        weight.data *= 1.02
        assert fingerprint(model) != expected
        weight.data.copy_(before)
    assert fingerprint(model) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0}},
        {"num_attention_heads": 8},
        {"sliding_window": 7},
    ],
)
def test_settings_that_change_keys_change_it(change):
    model = build("mistral")
    other = copy.deepcopy(model)
    for name, value in change.items():
        setattr(other.config, name, value)
    assert fingerprint(other) != fingerprint(model)


def test_no_two_models_share_one():
    assert len({fingerprint(build(kind)) for kind in CONFIGS}) == len(CONFIGS)


def test_a_profile_names_both_models_when_it_refuses_one():
    model, other = build("llama"), build("linear")
    profile = replace(synthetic.profile(), model_fingerprint=fingerprint(model), model_name="ours")
    require(profile, model)
    require(profile, copy.deepcopy(model).bfloat16())
    with pytest.raises(ValueError, match=r"for ours .*calibrate") as refused:
        require(profile, other)
    for each in (model, other):
        assert fingerprint(each)[:16] in str(refused.value)


def test_a_model_without_data_is_refused():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    with pytest.raises(ValueError, match="has no data"):
        fingerprint(model)
