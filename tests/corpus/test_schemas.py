"""Rows as people publish them become the items one would write by hand."""

import pytest

from frontload.corpus.example import Document, Example
from frontload.corpus.schemas import infer_schema
from frontload.corpus.tables import type_word
from frontload.corpus.turns import Unusable


def read(row, **columns):
    types = {name: type_word(value) for name, value in row.items()}
    schema = infer_schema(types, columns, origin="here")
    return schema.parse(row, id="f:1", source="s")


def test_text_rows_are_documents():
    row = {"uuid": "u", "text": "words", "metadata": {"category": "Nemotron-SFT-MATH"}}
    assert read(row) == Document(id="f:1", text="words", source="s", domain="Nemotron-SFT-MATH")
    assert read({"content": "words"}).text == "words"


def test_openthoughts3_rows_are_examples():
    row = {
        "difficulty": None,
        "source": "ai2-adapt",
        "domain": "math",
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "gpt", "value": "<think>easy</think>2"},
        ],
    }
    example = read(row)
    assert (example.prompt, example.response) == ("1+1?", "<think>easy</think>2")
    assert example.family == "math"


def test_nemotron_messages_rows_keep_turns_and_join_reasoning():
    row = {
        "uuid": "u",
        "reasoning": "on",
        "category": "math",
        "messages": [
            {"role": "system", "content": None},
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2", "reasoning_content": "easy"},
        ],
    }
    example = read(row)
    assert [message.role for message in example.messages] == ["user", "assistant"]
    assert example.response == "<think>easy</think>2"


def test_openthoughts_114k_marks_become_a_think_block():
    thought = "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>2<|end_of_solution|>"
    row = {
        "system": "Think.",
        "conversations": [{"from": "user", "value": "?"}, {"from": "assistant", "value": thought}],
    }
    example = read(row)
    assert example.response == "<think>hm</think>2"
    assert example.messages[0].content == "Think."


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "response": "r"},
        {"question": "p", "answer": "r"},
        {"problem": "p", "solution": "r"},
        {"instruction": "p", "input": "", "output": "r"},
        {"input": [{"role": "user", "content": "p"}], "output": "r"},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "r"}],
        },
        {"text": "p r", "prompt": "p", "completion": "r"},
        {"messages": '[{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]'},
    ],
)
def test_known_pairs_are_single_turn_examples(row):
    assert read(row) == Example.of(id="f:1", prompt="p", response="r", source="s")


def test_alpaca_input_is_part_of_the_prompt():
    row = {"instruction": "Sum.", "input": "1 2", "output": "3"}
    assert read(row).prompt == "Sum.\n\n1 2"


def test_reasoning_column_goes_into_the_think_block_once():
    row = {"question": "p", "reasoning": "because", "answer": "r"}
    assert read(row).response == "<think>because</think>r"
    assert read({**row, "answer": "<think>own</think>r"}).response == "<think>own</think>r"


def test_gold_verdict_and_family_are_carried():
    row = {"question": "p", "gold": 1, "response": "r", "correct": False, "set": "farel"}
    example = read(row)
    assert (example.gold, example.verified, example.family) == ("1", False, "farel")
    assert read({"question": "p", "answer": "so\n#### 42"}).gold == "42"
    assert read({"question": "p", "response": "r", "answer": "7"}).gold == "7"
    assert read({"prompt": "p", "response": "r", "is_correct": None}).verified is None


def test_mapping_overrides_and_reaches_into_json_text():
    row = {"question": "p", "ground_truth": "8", "tries": '{"is_correct": true, "solution": "r"}'}
    example = read(row, response="tries.solution", verified="tries.is_correct")
    assert (example.prompt, example.response, example.verified) == ("p", "r", True)
    assert example.gold == "8"
    deep = {"ask": {"turn": {"text": "p"}}, "reply": {"best": '{"text": "r"}'}}
    assert read(deep, prompt="ask.turn.text", response="reply.best.text").response == "r"


def test_mapped_text_wins_over_an_inferred_pair():
    assert read({"question": "p", "answer": "r"}, text="answer") == Document(
        id="f:1", text="r", source="s"
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "response": ""}, Unusable.EMPTY_RESPONSE),
        ({"prompt": " ", "response": "r"}, Unusable.EMPTY_PROMPT),
        ({"messages": [{"role": "user", "content": "p"}]}, Unusable.LAST_TURN_NOT_ASSISTANT),
        ({"messages": [{"role": "robot", "content": "p"}]}, Unusable.UNSUPPORTED_ROLE),
        ({"messages": ["p", "r"]}, Unusable.WRONG_TYPE),
        ({"text": ""}, Unusable.EMPTY_TEXT),
    ],
)
def test_unusable_rows_have_a_reason(row, reason):
    assert read(row) is reason


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"respons": "b"}, r"columns.respons: no field 'respons'.*mean 'response'"),
        ({"response": "answr"}, r"columns.response: no column 'answr'.*mean 'answer'"),
        ({"text": "answer", "prompt": "question"}, r"prompt and text exclude each other"),
        ({"text": "answer", "gold": "question"}, r"columns.gold has no effect on documents"),
        ({"text": "score"}, r"columns.text: column 'score' is float, not string"),
        (
            {"gold": "score.a.b"},
            r"columns.gold: no 'score.a.b': column 'score' is float, no object",
        ),
        ({"gold": "scor.a"}, r"columns.gold: no column 'scor.a'; found question.*mean 'score'"),
    ],
)
def test_bad_mappings_name_the_field_and_the_nearest(columns, message):
    with pytest.raises(ValueError, match=message):
        read({"question": "p", "answer": "r", "score": 1.0}, **columns)
