"""Unions hold every item once; selections count what they leave out."""

import json

import pytest

from frontload.corpus.config import Files, Problems, Select, Union
from frontload.corpus.sources import effective_holdout, open_source

ROWS = [
    {"prompt": f"p{n % 40}", "response": "r" * n, "correct": n % 3 == 0, "family": "ab"[n % 2]}
    for n in range(1, 101)
]


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "b.jsonl").write_text(
        "\n".join(map(json.dumps, [*ROWS[:30], {"prompt": "q", "response": ""}]))
    )
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "plain"}))
    return {
        "a": Files(kind="files", paths=("a.jsonl",)),
        "b": Files(kind="files", paths=("b.jsonl",), holdout=0.2),
        "t": Files(kind="files", paths=("t.jsonl",)),
        "both": Union(kind="union", of=("a", "b")),
    }


def read(tmp_path, configs, config, split="train"):
    source = open_source("x", {**configs, "x": config}, root=tmp_path, split=split)
    return source, list(source)


def test_union_is_plain_and_keeps_its_parts_names(tmp_path, configs):
    configs["b"] = configs["b"].model_copy(update={"holdout": 0.0})
    source, items = read(tmp_path, configs, Union(kind="union", of=("a", "b")))
    assert [item.source for item in items] == ["a"] * 100 + ["b"] * 30
    assert source.drops == {"empty_response": 1}


def test_what_a_part_holds_out_the_whole_holds_out(tmp_path, configs):
    assert effective_holdout("both", configs) == 0.2
    config = Union(kind="union", of=("both", "a"))
    train, heldout = (
        {item.prompt for item in read(tmp_path, configs, config, split)[1]}
        for split in ("train", "heldout")
    )
    part = open_source("b", configs, root=tmp_path, split="heldout")
    assert train.isdisjoint({item.prompt for item in part})
    assert train.isdisjoint(heldout)


def test_long_answers_only(tmp_path, configs):
    config = Select(kind="select", of="a", min_answer_characters=50, max_answer_characters=90)
    source, items = read(tmp_path, configs, config)
    assert [len(item.response) for item in items] == list(range(50, 91))
    assert source.drops == {"answer_too_short": 49, "answer_too_long": 10}


def test_d_alf_of_d_ldq_keeps_exactly_the_long_answers(tmp_path):
    """The recipe of docs/data.md: order, text and source of what is kept are D_LDQ's own."""
    ldq = Problems(kind="problems", families=("all",), size=300, depth={"short": 0.5, "long": 0.5})
    alf = Select(kind="select", of="D_LDQ", min_answer_characters=400)
    every = list(open_source("D_LDQ", {"D_LDQ": ldq}, root=tmp_path, split="train"))
    source, kept = read(tmp_path, {"D_LDQ": ldq}, alf)
    assert kept == [item for item in every if len(item.response) >= 400]
    assert 0 < len(kept) < len(every)
    assert source.drops == {"answer_too_short": len(every) - len(kept)}


def test_verified_and_families(tmp_path, configs):
    config = Select(kind="select", of="a", verified=True, families=("a",))
    source, items = read(tmp_path, configs, config)
    assert all(item.verified and item.family == "a" for item in items)
    assert len(items) + source.drops.total() == 100
    wrong = read(tmp_path, configs, Select(kind="select", of="a", verified=False))[1]
    assert {item.verified for item in wrong} == {False}


def test_deduplicate_keeps_the_first_of_each(tmp_path, configs):
    by_prompt = read(tmp_path, configs, Select(kind="select", of="a", deduplicate="prompt"))[1]
    assert [len(item.response) for item in by_prompt] == list(range(1, 41))
    configs["b"] = configs["b"].model_copy(update={"holdout": 0.0})
    exact = Select(kind="select", of="both", deduplicate="exact")
    source, items = read(tmp_path, configs, exact)
    assert len(items) == 100
    assert source.drops["duplicate"] == 30


def test_fingerprint_follows_every_part(tmp_path, configs):
    before = open_source("both", configs, root=tmp_path, split="train").fingerprint()
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[0]))
    assert open_source("both", configs, root=tmp_path, split="train").fingerprint() != before


def test_an_example_filter_on_documents_is_refused(tmp_path, configs):
    with pytest.raises(ValueError, match=r"sources.x.verified has no effect on documents"):
        read(tmp_path, configs, Select(kind="select", of="t", verified=True))


def test_a_union_of_documents_and_examples_is_refused(tmp_path, configs):
    with pytest.raises(ValueError, match="a holds examples, t holds documents"):
        read(tmp_path, configs, Union(kind="union", of=("a", "t")))


def test_a_selection_that_keeps_nothing_says_why(tmp_path, configs):
    with pytest.raises(ValueError, match=r"'x' is empty \(answer_too_short 100\)"):
        read(tmp_path, configs, Select(kind="select", of="a", min_answer_characters=999))


def test_circles_and_unknown_names_are_refused(tmp_path, configs):
    circle = {"x": Select(kind="select", of="y"), "y": Union(kind="union", of=("x", "x"))}
    with pytest.raises(ValueError, match="x of y of x is a circle"):
        open_source("x", circle, root=tmp_path, split="train")
    with pytest.raises(ValueError, match="no 'bothh'; did you mean 'both'"):
        open_source("bothh", configs, root=tmp_path, split="train")


def test_generated_problems_refuse_what_has_no_effect(tmp_path):
    config = Problems(kind="problems", families=("compact",), size=8, holdout=0.1)
    with pytest.raises(ValueError, match=r"sources.p.holdout has no effect"):
        open_source("p", {"p": config}, root=tmp_path, split="train")


def test_generated_problems_obey_limit_and_unite(tmp_path, configs):
    problems = Problems(kind="problems", families=("compact",), size=50, limit=7)
    source, items = read(tmp_path, {**configs, "p": problems}, Union(kind="union", of=("p", "a")))
    assert [item.source for item in items] == ["p"] * 7 + ["a"] * 100
    assert source.bytes_total is None
