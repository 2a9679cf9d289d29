"""Laws of the tokenizer: lossless, single marks, one template, no forged turns."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontload.corpus.example import Example, Message
from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import (
    ASSISTANT,
    END,
    PAD,
    SYSTEM,
    USER,
    encode_example,
    encode_examples,
    encode_prompts,
    encode_texts,
    load_tokenizer,
    train_tokenizer,
)

CONTROL = (PAD, END, USER, ASSISTANT, SYSTEM)
content = st.text(max_size=40).filter(lambda text: not any(t in text for t in CONTROL))


def chat(example):
    return [{"role": turn.role, "content": turn.content} for turn in example.messages]


def ids_of(tokenizer, text):
    return next(encode_texts(tokenizer, [text]))


@given(text=st.one_of(st.text(), st.sampled_from([*CONTROL, "a<|end|>b", "<think>x</think> y"])))
def test_decoding_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True) == text


@given(text=st.text(alphabet="0123456789+-*/=<>()[]{}.,:;?!#@%&|^~_'\"\\$`", min_size=1))
def test_every_digit_and_mark_is_one_token(tokenizer, text):
    assert len(ids_of(tokenizer, text)) == len(text)


def test_letters_merge_with_the_space_before_them_and_nothing_else():
    config = TokenizerConfig(train_on=("a",), vocab_size=300)
    tokenizer = train_tokenizer(["return return 1+return)"] * 9, config)
    pieces = tokenizer.tokenize("return return 1+return)\n    return", add_special_tokens=False)
    assert pieces == ["return", "Ġreturn", "Ġ", "1", "+", "return", ")", *"ĊĠĠĠ", "Ġreturn"]


@given(text=st.lists(st.sampled_from([*CONTROL, "a", " ", "|>"]), max_size=6).map("".join))
def test_text_cannot_forge_control_tokens(tokenizer, text):
    assert not set(ids_of(tokenizer, text)) & set(tokenizer.convert_tokens_to_ids(CONTROL))


def test_thinking_tags_are_single_tokens_that_decoding_keeps(tokenizer):
    ids = ids_of(tokenizer, "<think>1</think>2")
    assert len(ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>1</think>2"


@given(
    system=st.none() | content, turns=st.lists(st.tuples(content, content), min_size=1, max_size=3)
)
def test_examples_encode_as_the_chat_template_says(tokenizer, system, turns):
    messages = [] if system is None else [Message(role="system", content=system)]
    for prompt, response in turns:
        messages.append(Message(role="user", content=prompt))
        messages.append(Message(role="assistant", content=response))
    example = Example(id="0", messages=tuple(messages), source="s")
    encoded = encode_example(tokenizer, example)
    told = tokenizer.apply_chat_template(
        chat(example), return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded.ids.tolist() == told["input_ids"]
    last = len(next(encode_prompts(tokenizer, [example.messages[:-1]])))
    assert encoded.supervised[last:].all()
    if all(response for _, response in turns):  # transformers masks nothing of an empty span
        assert encoded.supervised.tolist() == [bool(flag) for flag in told["assistant_masks"]]


@given(question=content)
def test_prompts_are_the_examples_up_to_the_response(tokenizer, question):
    example = Example.of(id="0", prompt=question, response="7", source="s")
    prompt = next(encode_prompts(tokenizer, [example.messages[:-1]]))
    encoded = encode_example(tokenizer, example)
    assert prompt.tolist() == encoded.ids[~encoded.supervised].tolist()
    told = tokenizer.apply_chat_template(chat(example)[:-1], add_generation_prompt=True)
    assert prompt.tolist() == told["input_ids"]


def test_batches_encode_as_one_by_one(tokenizer):
    draw = random.Random(0)
    examples = [
        Example.of(id=str(i), prompt="1+2" * draw.randint(0, 9), response=str(i), source="s")
        for i in range(5000)
    ]
    for example, encoded in zip(examples, encode_examples(tokenizer, iter(examples)), strict=True):
        if int(example.id) % 97 == 0:
            assert encoded.ids.tolist() == encode_example(tokenizer, example).ids.tolist()
    assert list(encode_examples(tokenizer, [])) == []


@given(prompt=content, response=content)
def test_foreign_templates_supervise_exactly_the_response(foreign, prompt, response):
    example = Example.of(id="0", prompt=prompt, response=response, source="s")
    encoded = encode_example(foreign, example)
    text = foreign.decode(encoded.ids[encoded.supervised], skip_special_tokens=False)
    assert text == f"{response}{foreign.eos_token}\n"
    asked = next(encode_prompts(foreign, [example.messages[:-1]]))
    assert asked.tolist() == encoded.ids[~encoded.supervised].tolist()


@pytest.mark.parametrize("content", ["m.content if loop.last else ''", "m.content.split('>')[-1]"])
def test_a_template_that_drops_text_is_refused(foreign, content):
    foreign.chat_template = foreign.chat_template.replace("m.content", content)
    turns = [("user", "1"), ("assistant", "<think>2</think>3")] * 2
    messages = tuple(Message(role=role, content=text) for role, text in turns)
    with pytest.raises(ValueError, match="drops or rewrites"):
        encode_example(foreign, Example(id="0", messages=messages, source="s"))


def test_padding_and_truncation_of_an_earlier_call_are_forgotten(trained_directory, tokenizer):
    used = load_tokenizer(trained_directory)
    used(["a", "a longer text"], padding=True, truncation=True, max_length=2)
    assert ids_of(used, "1+2+3").tolist() == ids_of(tokenizer, "1+2+3").tolist()


def test_a_tokenizer_without_a_template_gets_ours(tokenizer, plain_tokenizer_directory):
    loaded = load_tokenizer(plain_tokenizer_directory)
    assert loaded.chat_template == tokenizer.chat_template
    example = Example.of(id="0", prompt="1+2", response="3", source="s")
    encoded = encode_example(loaded, example)
    assert encoded.ids.tolist() == loaded.apply_chat_template(chat(example))["input_ids"]
    assert encoded.ids[-1] == loaded.eos_token_id
    control = [*CONTROL[2:], loaded.eos_token, loaded.pad_token]
    assert len(set(loaded.convert_tokens_to_ids(control))) == 5


def test_training_twice_gives_the_same_tokenizer(texts):
    config = TokenizerConfig(train_on=("a",), vocab_size=400)
    first, second = (train_tokenizer(iter(texts), config) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) == 400
