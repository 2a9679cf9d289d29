"""Two files are read as transformers' own GPT-2 class reads them, or refused with the remedy."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from frontload.model.contract import contract_of
from frontload.model.tokenizer import encode_texts, load_tokenizer

TEXT = "def f(x):\n\treturn x  + 12.5  # naïve\r\n\n  don't 日本 🙂 e\u0301 <think>1</think>"


def test_ids_are_those_of_transformers_and_decode_to_the_text(gpt2_directory):
    ours, theirs = load_tokenizer(gpt2_directory), GPT2TokenizerFast.from_pretrained(gpt2_directory)

    @given(text=st.text())
    @example(text=TEXT)
    def law(text):
        ids = next(encode_texts(ours, [text])).tolist()
        assert ids == theirs(text, split_special_tokens=True)["input_ids"]
        assert ours.decode(ids) == text

    law()
    assert ours.eos_token == theirs.eos_token == "<|endoftext|>"
    assert ours.eos_token_id == theirs.eos_token_id


def test_what_is_saved_keeps_the_contract(gpt2_directory, tmp_path):
    loaded = load_tokenizer(gpt2_directory)
    loaded.save_pretrained(tmp_path / "saved")
    assert contract_of(load_tokenizer(tmp_path / "saved")) == contract_of(loaded)


def test_text_cannot_forge_the_end_of_a_document(gpt2_directory):
    loaded = load_tokenizer(gpt2_directory)
    ids = next(encode_texts(loaded, ["a<|endoftext|>b"])).tolist()
    assert loaded.eos_token_id not in ids


def without(token):
    def change(tokens):
        del tokens[token]

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without("<|endoftext|>"), r"lacks '<\|endoftext\|>', so it is not GPT-2's kind"),
        (without("Ġ"), "lacks 'Ġ'"),
        (lambda tokens: tokens.update({"e</w>": len(tokens)}), "ends its words with '</w>'"),
    ],
)
def test_another_kind_of_vocabulary_is_refused_with_the_remedy(gpt2_directory, change, why):
    path = gpt2_directory / "vocab.json"
    tokens = json.loads(path.read_text(encoding="utf-8"))
    change(tokens)
    path.write_text(json.dumps(tokens), encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"tokenizer.load: .*{why}.*give a folder .*tokenizer.json"
    ):
        load_tokenizer(gpt2_directory)


def test_merges_of_another_vocabulary_are_refused(gpt2_directory):
    with (gpt2_directory / "merges.txt").open("a") as file:
        file.write("Ġzq zzq\n")
    with pytest.raises(ValueError, match=r"merges.txt does not fit .*vocab.json"):
        load_tokenizer(gpt2_directory)


@pytest.mark.parametrize("files", [{}, {"tokenizer.model": "x"}, {"vocab.json": "{}"}])
def test_a_folder_without_a_tokenizer_is_refused_with_the_remedy(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(
        ValueError, match=r"tokenizer.load: cannot load .*give a folder or hub name"
    ):
        load_tokenizer(tmp_path)
