"""Laws of the stage contract: saving keeps it, every change breaks it by name."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from frontload.model.config import TokenizerConfig
from frontload.model.contract import Contract, contract_of, require_same_contract
from frontload.model.tokenizer import ROLE_TOKENS, load_tokenizer, train_tokenizer


def rebuilt(tokenizer, change):
    """The same tokenizer with its tokenizer.json changed by `change`."""
    files = json.loads(tokenizer.backend_tokenizer.to_str())
    change(files)
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(files)),
        pad_token=tokenizer.pad_token,
        eos_token=tokenizer.eos_token,
        extra_special_tokens=list(ROLE_TOKENS.values()),
    )
    other.chat_template = tokenizer.chat_template
    return other


def differing(tokenizer, other):
    with pytest.raises(ValueError, match="tokenizer: stage differs from parent in") as refusal:
        require_same_contract(contract_of(tokenizer), contract_of(other))
    return str(refusal.value).partition(" in ")[2].partition(";")[0].split(", ")


def test_saving_and_loading_keep_the_contract(tokenizer, trained_directory):
    contract, loaded = contract_of(tokenizer), contract_of(load_tokenizer(trained_directory))
    require_same_contract(contract, loaded)
    assert contract.digest == loaded.digest


def test_using_a_tokenizer_keeps_its_contract(tokenizer, trained_directory):
    used = load_tokenizer(trained_directory)
    used(["a", "a longer text"], padding=True, truncation=True, max_length=4)
    require_same_contract(contract_of(tokenizer), contract_of(used))


def test_a_contract_survives_json(tokenizer):
    contract = contract_of(tokenizer)
    stored = Contract(parts=json.loads(json.dumps(dict(contract.parts))))
    require_same_contract(stored, contract)


def test_a_changed_template_is_named(tokenizer, trained_directory):
    other = load_tokenizer(trained_directory)
    other.chat_template = tokenizer.chat_template.replace("{{ message", " {{ message")
    assert differing(tokenizer, other) == ["chat_template", "probe"]


def test_changed_merges_are_named(tokenizer):
    def swap(files):
        merges = files["model"]["merges"]
        merges[0], merges[1] = merges[1], merges[0]

    assert differing(tokenizer, rebuilt(tokenizer, swap))[0] == "merges"


def test_a_changed_pre_tokenizer_is_named_with_the_probe(tokenizer):
    def forget_digits(files):
        files["pre_tokenizer"]["pretokenizers"].pop(0)

    assert "pre_tokenizer" in differing(tokenizer, rebuilt(tokenizer, forget_digits))


def test_a_changed_special_token_is_named(tokenizer, trained_directory):
    other = load_tokenizer(trained_directory)
    other.eos_token = "<|user|>"
    assert "special_tokens" in differing(tokenizer, other)
    added = load_tokenizer(trained_directory)
    added.add_special_tokens({"bos_token": "<|bos|>"})
    assert {"added_tokens", "special_tokens"} <= set(differing(tokenizer, added))


def test_another_vocabulary_is_named(tokenizer, texts):
    other = train_tokenizer(texts, TokenizerConfig(train_on=("a",), vocab_size=400))
    assert {"vocabulary", "merges", "probe"} <= set(differing(tokenizer, other))
