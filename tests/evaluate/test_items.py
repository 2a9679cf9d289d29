import json
from collections import Counter

import numpy as np
import pytest

from frontload.corpus.config import Files
from frontload.corpus.example import Document, held_out
from frontload.corpus.sources import open_source
from frontload.evaluate.config import BenchmarkConfig, EvaluationConfig, TextConfig
from frontload.evaluate.items import EvaluationItems, build_items
from frontload.evaluate.passages import cut_windows, read_windows
from frontload.evaluate.questions import read_problems
from frontload.tasks.draw import HELDOUT_SHARE
from frontload.tasks.registry import resolve_families
from tests.evaluate.made_models import CONTEXT, tokenizer

TOKENIZER = tokenizer()


def config(**settings) -> EvaluationConfig:
    benchmarks = {"compact": {"families": ["compact"], "items": 6, "difficulty": [2, 4]}}
    return EvaluationConfig.model_validate(
        {"benchmarks": benchmarks, "max_new_tokens": 32, **settings}
    )


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"rows": Files(kind="files", paths=(path.name,), holdout=0.5)}


def held_out_side(path, rows):
    return open_source("rows", jsonl(path, rows), root=path.parent, split="heldout")


def test_every_family_gives_distinct_held_out_prompts():
    items = build_items(config(), {}, TOKENIZER, context=CONTEXT).problems
    families = resolve_families(["compact"])
    assert Counter(item.family for item in items) == dict.fromkeys(families, 6)
    assert len({item.prompt for item in items}) == len(items)
    assert all(held_out(item.prompt, HELDOUT_SHARE) for item in items)


def test_prompt_and_response_are_the_chat_template():
    for item in build_items(config(), {}, TOKENIZER, context=CONTEXT).problems:
        turns = [{"role": "user", "content": item.prompt}]
        asked = TOKENIZER.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        turns.append({"role": "assistant", "content": item.gold_response})
        whole = TOKENIZER.apply_chat_template(turns)["input_ids"]
        assert list(item.prompt_ids) == asked
        assert list(item.prompt_ids + item.response_ids) == whole


def test_saved_items_come_back_equal(tmp_path):
    source = held_out_side(tmp_path / "text.jsonl", [{"text": f"{n} é\n" * 40} for n in range(20)])
    text = {"prose": {"source": "rows", "max_tokens": 200}}
    items = build_items(config(text=text), {"rows": source}, TOKENIZER, context=CONTEXT)
    items.save(tmp_path)
    assert EvaluationItems.load(tmp_path) == items
    assert len(items) == len(items.problems) + len(items.windows)
    assert {window.domain for window in items.windows} == {"prose"}, "rows without a domain"


def test_the_same_settings_give_the_same_items():
    first, second = (build_items(config(), {}, TOKENIZER, context=CONTEXT) for _ in range(2))
    assert first == second
    assert first != build_items(config(seed=1), {}, TOKENIZER, context=CONTEXT)


def test_a_gold_response_that_exceeds_the_context_has_no_likelihood():
    items = build_items(config(), {}, TOKENIZER, context=20)
    long = [item for item in items.problems if item.response_ids is None]
    assert long
    assert any(f"{len(long)} gold responses exceed" in note for note in items.notes)


def test_likelihood_is_taken_only_where_asked():
    benchmarks = {"some": {"families": ["compact"], "items": 2, "measures": ["generation"]}}
    items = build_items(config(benchmarks=benchmarks), {}, TOKENIZER, context=CONTEXT)
    assert all(item.response_ids is None and item.generate for item in items.problems)
    assert items.notes == ()


def test_too_few_prompts_are_noted():
    benchmarks = {"narrow": {"families": ["running_sum"], "items": 400, "difficulty": [2, 2]}}
    items = build_items(config(benchmarks=benchmarks), {}, TOKENIZER, context=CONTEXT)
    assert "distinct held-out prompts, not 400" in items.notes[0]


ROWS = [
    {"prompt": f"Question {n}", "response": f"<think>{n}</think>{n}", "gold": str(n), "id": str(n)}
    for n in range(200)
]


def problems_of(source, notes=None, items=10, context=CONTEXT):
    settings = BenchmarkConfig(source="rows", items=items)
    return read_problems(
        "real", settings, source, TOKENIZER, context=context, notes=[] if notes is None else notes
    )


def test_problems_of_a_source_do_not_depend_on_the_order_of_rows(tmp_path):
    forward = problems_of(held_out_side(tmp_path / "a.jsonl", ROWS))
    backward = problems_of(held_out_side(tmp_path / "b.jsonl", ROWS[::-1]))
    assert {item.prompt for item in forward} == {item.prompt for item in backward}
    assert len(forward) == 10
    assert all(held_out(item.prompt, 0.5) for item in forward)


def test_items_of_a_benchmark_have_ids_of_their_own(tmp_path):
    """A column of ids may repeat them, and hold what would tell them apart."""
    rows = [{**row, "id": "x#2" if row["id"] == "7" else "x"} for row in ROWS]
    plain = jsonl(tmp_path / "rows.jsonl", rows)["rows"]
    configs = {"rows": plain.model_copy(update={"columns": {"id": "id"}, "holdout": 0.9})}
    source = open_source("rows", configs, root=tmp_path, split="heldout")
    settings = config(benchmarks={"real": {"source": "rows", "items": 300}})
    items = build_items(settings, {"rows": source}, TOKENIZER, context=CONTEXT)
    assert len({item.id for item in items.problems}) == len(items.problems) > 50
    assert {"x", "x#2", "x#3"} < {item.id for item in items.problems}
    assert items == build_items(settings, {"rows": source}, TOKENIZER, context=CONTEXT)


def test_a_prompt_with_several_responses_is_asked_once_with_a_right_one(tmp_path):
    rows = [
        {**row, "response": f"{text} {row['id']}", "verified": verified}
        for row in ROWS
        for text, verified in [("wrong", False), ("unknown", None), ("right", True)]
    ]
    notes: list[str] = []
    items = problems_of(held_out_side(tmp_path / "rows.jsonl", rows), notes, items=1000)
    assert len(items) > 50
    assert {item.gold_response.split()[0] for item in items} == {"right"}
    assert len({item.prompt for item in items}) == len(items)
    assert f"{len(items)} known to be wrong" in notes[0]


def test_gold_is_read_off_the_response_where_it_is_marked(tmp_path):
    rows = [
        {"prompt": f"Q{n}", "response": f"So it is {n}.\n#### {n}" if n % 2 else f"It is {n}."}
        for n in range(80)
    ]
    items = problems_of(held_out_side(tmp_path / "rows.jsonl", rows), items=100)
    marked = {item.prompt: item.gold for item in items if item.generate}
    assert marked
    assert all(prompt == f"Q{gold}" and int(gold) % 2 for prompt, gold in marked.items())
    assert all(item.gold == "" for item in items if not item.generate)


def test_a_source_in_which_nothing_fits_is_refused_with_the_remedy(tmp_path):
    source = held_out_side(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"benchmarks\.real\.source.*longer than the context"):
        problems_of(source, context=4)


def test_documents_are_no_benchmark_and_examples_no_text(tmp_path):
    documents = held_out_side(tmp_path / "a.jsonl", [{"text": "word"}] * 9)
    with pytest.raises(ValueError, match="holds documents"):
        problems_of(documents)
    examples = held_out_side(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(ValueError, match="holds examples"):
        read_windows("prose", TextConfig(source="rows"), examples, TOKENIZER, context=CONTEXT)


class Library(list):
    """Documents in memory, read as a source is."""

    name, holds = "library", "documents"


def library(texts: dict[str, list[str]]) -> Library:
    return Library(
        Document(id=f"{domain}{n}", text=text, source="library", domain=domain)
        for domain, written in texts.items()
        for n, text in enumerate(written)
    )


def windows_of(documents: Library, max_tokens: int = 10_000):
    settings = TextConfig(source="library", max_tokens=max_tokens)
    return read_windows("prose", settings, documents, TOKENIZER, context=CONTEXT)


def test_windows_score_every_byte_once():
    texts = ["caffè 數學 🙂\n" * 30, "def a(b): return b\n" * 20, "x"]
    windows = windows_of(library({"mixed": texts}))
    assert sum(w.num_bytes for w in windows) == sum(len(text.encode()) for text in texts)
    assert all(2 <= len(w.ids) <= CONTEXT for w in windows)
    by_document = {}
    for window in windows:
        by_document.setdefault(window.id.split("@")[0], []).append(window)
    decoded = {
        TOKENIZER.decode([id for window in parts for id in window.ids[1:]])
        for parts in by_document.values()
    }
    assert decoded == set(texts)


def test_windows_overlap_by_the_token_that_is_given():
    stream = list(range(200))
    ends = np.arange(1, 200) * 3
    cut = list(cut_windows(stream, ends, context=64))
    assert [ids for _, ids, _ in cut] == [stream[s : s + 64] for s in (0, 63, 126, 189)]
    assert [num_bytes for *_, num_bytes in cut] == [189, 189, 189, 30]


def test_domains_share_the_budget_evenly():
    documents = library({"a": ["alpha beta\n" * 900] * 3, "b": ["1 + 2 = 3\n" * 900]})
    scored = Counter()
    for window in windows_of(documents, max_tokens=1000):
        scored[window.domain] += len(window.ids) - 1
    assert scored == {"a": 500, "b": 500}


def test_a_domain_is_read_from_several_documents():
    documents = library({"a": [f"{n} alpha beta\n" * 900 for n in range(20)]})
    windows = windows_of(documents, max_tokens=800)
    assert len({window.id.split("@")[0] for window in windows}) == 8


def test_control_tokens_in_a_text_are_characters():
    (window,) = windows_of(library({"a": ["<|end|>"]}))
    assert window.ids[0] == TOKENIZER.eos_token_id
    assert TOKENIZER.eos_token_id not in window.ids[1:]


def test_an_empty_held_out_side_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="raise its `holdout`"):
        windows_of(library({}))
