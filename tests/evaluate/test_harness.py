import functools
import math
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frontload.evaluate import harness
from frontload.evaluate.config import EvaluationConfig
from frontload.evaluate.grade import grade
from frontload.evaluate.harness import FILE, SCHEMA, evaluate
from frontload.evaluate.items import (
    EvaluationItems,
    ProblemItem,
    TextWindow,
    build_items,
    write_table,
)
from frontload.evaluate.score import bits_per_byte
from tests.evaluate.made_models import (
    CONTEXT,
    chain_model,
    random_model,
    tokenizer,
    uniform_model,
)

TOKENIZER = tokenizer()
VOCAB = len(TOKENIZER)
ASK, END = TOKENIZER.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
TWO, SEVEN = TOKENIZER.convert_tokens_to_ids(["2", "7"])
TEXT = TextWindow(benchmark="prose", domain="novels", id="a@0", ids=(END, TWO, SEVEN), num_bytes=2)


def settings(**changes) -> EvaluationConfig:
    some = {"families": ["compact"], "items": 4, "difficulty": [2, 4]}
    made = {"benchmarks": {"some": some}, "max_new_tokens": 12}
    return EvaluationConfig.model_validate(made | changes)


def problem(gold: str, **changes) -> ProblemItem:
    fields = {
        "benchmark": "some",
        "family": "constant",
        "id": gold,
        "prompt": "",
        "gold": gold,
        "gold_response": gold,
        "chance": 0.0,
        "prompt_ids": (ASK,),
        "response_ids": (*TOKENIZER.encode(gold), END),
        "generate": True,
    }
    return ProblemItem(**fields | changes)


def outcome_of(following, gold="7", **changes) -> dict:
    items = EvaluationItems(problems=(problem(gold, **changes),), windows=())
    model = chain_model(VOCAB, following)
    (row,) = evaluate(model, TOKENIZER, items, settings(), context=CONTEXT).to_pylist()
    return row


@pytest.mark.parametrize(
    ("following", "outcome", "output"),
    [
        ({ASK: SEVEN, SEVEN: END}, "correct", "7"),
        ({ASK: TWO, TWO: END}, "wrong", "2"),
        ({ASK: SEVEN, SEVEN: SEVEN}, "truncated", "7" * 12),
        ({ASK: END}, "unparsed", ""),
    ],
)
def test_truncated_and_unparsed_are_apart_from_wrong(following, outcome, output):
    row = outcome_of(following)
    assert (row["outcome"], row["output"]) == (outcome, output)
    assert row["correct"] == float(outcome == "correct")
    assert row["num_generated"] == len(output)


def test_an_answer_whose_comparison_was_killed_is_unparsed_and_scores_nothing(monkeypatch):
    monkeypatch.setattr(harness, "grade", functools.partial(grade, limit_s=1.0))
    row = outcome_of({ASK: SEVEN, SEVEN: END}, gold="5^{5^{5^{5^{5}}}}", response_ids=None)
    assert (row["answer"], row["outcome"], row["correct"]) == ("7", "unparsed", 0.0)


def test_a_prompt_that_fills_the_context_is_truncated_unread():
    row = outcome_of({}, prompt_ids=(ASK,) * CONTEXT, response_ids=None)
    assert (row["outcome"], row["num_generated"], row["gold_nll"]) == ("truncated", 0, None)


def test_what_is_not_generated_has_no_score():
    row = outcome_of({}, generate=False)
    assert (row["outcome"], row["correct"], row["output"]) == ("not_generated", None, None)
    assert row["gold_nll"] > 0


def table_of(model, samples=1, **changes) -> pa.Table:
    config = settings(**changes, samples=samples)
    items = build_items(config, {}, TOKENIZER, context=CONTEXT)
    items = EvaluationItems(problems=items.problems, windows=(TEXT,))
    return evaluate(model, TOKENIZER, items, config, context=CONTEXT)


def test_one_row_per_item_and_sample():
    table = table_of(random_model(vocab_size=VOCAB), samples=3, temperature=1.0)
    rows = table.to_pylist()
    problems = [row for row in rows if row["kind"] == "problem"]
    keys = [(row["benchmark"], row["family"], row["item"], row["sample"]) for row in rows]
    assert table.schema == SCHEMA
    assert len(set(keys)) == len(keys) == len(problems) + 1
    assert all((row["gold_nll"] is None) == (row["sample"] > 0) for row in problems)
    assert {row["sample"] for row in problems} == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_table_does_not_depend_on_the_batch_size(temperature):
    model = random_model(vocab_size=VOCAB)
    one, other = (
        table_of(model, temperature=temperature, batch_size=size).to_pydict() for size in (3, 500)
    )
    assert one == other


def test_shared_prompts_get_the_same_greedy_answer_and_samples_of_their_own():
    families = {"families": ["compact"], "items": 3}
    changes = {"benchmarks": {"one": families, "two": families}}
    model = random_model(vocab_size=VOCAB)

    def outputs(**more):
        rows = table_of(model, **changes, **more).to_pylist()
        return [[r["output"] for r in rows if r["benchmark"] == name] for name in ("one", "two")]

    greedy = outputs()
    assert greedy[0] == greedy[1]
    sampled = outputs(temperature=1.0)
    assert sampled[0] != sampled[1]


def test_a_uniform_model_has_the_bits_of_its_vocabulary():
    rows = table_of(uniform_model(VOCAB)).to_pylist()
    assert all(row["gold_tokens"] > 0 for row in rows)
    for row in rows:
        assert row["gold_nll"] == pytest.approx(row["gold_tokens"] * math.log(VOCAB))
    text = next(row for row in rows if row["family"] == "novels")
    bits = bits_per_byte(text["gold_nll"], text["gold_bytes"])
    assert bits == pytest.approx(math.log2(VOCAB))  # two tokens of one byte each


def test_the_file_is_the_table(tmp_path):
    config = settings()
    items = build_items(config, {}, TOKENIZER, context=CONTEXT)
    model = random_model(vocab_size=VOCAB)
    seen = []
    table = evaluate(
        model,
        TOKENIZER,
        items,
        config,
        context=CONTEXT,
        directory=tmp_path,
        on_progress=lambda what, done, total: seen.append((what, done == total)),
    )
    assert pq.read_table(tmp_path / FILE).equals(table)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert ("answers", True) in seen
    assert ("likelihoods", True) in seen


def test_evaluating_again_gives_the_same_table():
    model = random_model(vocab_size=VOCAB)
    assert table_of(model, temperature=1.0).equals(table_of(model, temperature=1.0))


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from frontload.evaluate.items import write_table

class Killer(pq.ParquetWriter):
    def write_table(self, *arguments, **settings):
        super().write_table(*arguments, **settings)
        os.kill(os.getpid(), signal.SIGKILL)

pq.ParquetWriter = pq.core.ParquetWriter = Killer
write_table(pa.table({"a": list(range(100_000))}), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("before", [None, [1, 2, 3]])
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_or_none(tmp_path, before):
    path = tmp_path / FILE
    if before:
        write_table(pa.table({"a": before}), path)
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(name.startswith(f".{FILE}") for name in os.listdir(tmp_path)), "killed too early"
    found = pq.read_table(path)["a"].to_pylist() if path.exists() else None
    assert found == before
    write_table(pa.table({"a": [9]}), path)
    assert pq.read_table(path)["a"].to_pylist() == [9]
