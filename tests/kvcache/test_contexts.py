"""What is measured: deterministic, never contradictory, answerable from the prefix alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frontload.kvcache.contexts import retrieval_contexts, text_contexts
from frontload.kvcache.episodes import KINDS, Vocabulary
from frontload.kvcache.quality import Context
from frontload.kvcache.texts import Text, hold_out, read_texts
from tests.kvcache.tiny_models import TEXTS, tokenizer

SIZE = {"prefix_tokens": 100, "suffix_tokens": 40}


def lines(ids: np.ndarray) -> list[tuple[int, ...]]:
    newline = Vocabulary.of(tokenizer()).newline
    ends = np.flatnonzero(ids == newline)
    return [tuple(part) for part in np.split(ids, ends + 1)[: len(ends)]]


def retrieval(kind: str, seed: int = 0) -> list[Context]:
    return retrieval_contexts(tokenizer(), kind, count=4, seed=seed, **SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_contexts_and_another_seed_others(kind: str) -> None:
    first, again, other = (retrieval(kind, seed)[0].ids.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("kind", ["key-values", "multi-key"])
def test_questions_repeat_facts_and_score_what_is_no_key(kind: str) -> None:
    keys = {"key-values": 1, "multi-key": 2}[kind]
    for context in retrieval(kind):
        facts = lines(context.ids[1 : context.prefix_tokens])
        asked = lines(context.ids[context.prefix_tokens :])
        assert set(asked) <= set(facts)
        assert len({fact[:keys] for fact in facts}) == len(facts) == 24
        scored = context.scored[context.prefix_tokens :].reshape(len(asked), -1)
        assert (scored == [0 < i < 3 and i >= keys for i in range(4)]).all()


def test_multi_key_needs_both_words() -> None:
    [context, *_] = retrieval("multi-key")
    facts = lines(context.ids[1 : context.prefix_tokens])
    for place in (0, 1):
        assert len({fact[place] for fact in facts}) <= 5


def test_chains_follow_links_that_lie_in_the_prefix() -> None:
    for context in retrieval("variable-chains"):
        links = {fact[:2] for fact in lines(context.ids[1 : context.prefix_tokens])}
        for chain in lines(context.ids[context.prefix_tokens :]):
            assert len(chain) == 5
            assert set(pairwise(chain[:4])) <= links


def test_asked_places_are_spread_from_first_to_last() -> None:
    for context in retrieval("key-values"):
        facts = lines(context.ids[1 : context.prefix_tokens])
        places = sorted(facts.index(asked) for asked in lines(context.ids[context.prefix_tokens :]))
        assert places[0] == 0
        assert places[-1] == len(facts) - 1
        assert max(np.diff(places)) <= 3


def test_text_contexts_are_windows_of_the_texts() -> None:
    contexts = text_contexts(tokenizer(), TEXTS, domain="text", count=6, seed=0, **SIZE)
    for i, context in enumerate(contexts):
        assert context.ids[0] == tokenizer().bos_token_id
        assert tokenizer().decode(context.ids[1:]) in TEXTS[i % 2].text
        assert len(context.ids) == 140
        assert context.scored.sum() == 39


def test_texts_that_are_too_short_are_refused() -> None:
    short = [Text(id="a", text="x" * 130)]
    with pytest.raises(ValueError, match="no text has 139 tokens"):
        text_contexts(tokenizer(), short, domain="t", count=1, seed=0, **SIZE)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="key-values, multi-key, variable-chains"):
        retrieval("needle")


def test_tables_files_and_folders_hold_the_same_texts(tmp_path: Path) -> None:
    documents = {f"{name}.txt": name * 300 for name in "ab"}
    for name, text in documents.items():
        (tmp_path / name).write_text(text)
    columns = {"id": list(documents), "text": list(documents.values())}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    expected = [Text(id=id, text=text) for id, text in documents.items()]
    assert read_texts(tmp_path) == expected
    assert read_texts(tmp_path / "t.parquet") == expected
    assert read_texts(tmp_path / "a.txt") == expected[:1]
    assert len(read_texts(None)) > 50


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_texts(tmp_path / "missing")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="no column `text`, only body"):
        read_texts(tmp_path / "t.parquet")
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ValueError, match="no document"):
        read_texts(tmp_path / "a.txt")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 47])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_both_sides_are_disjoint_and_hold_something(count: int, share: float) -> None:
    texts = [Text(id=str(i), text=f"{i} " * 200) for i in range(count)]
    kept, held_out = hold_out(texts, share)
    assert kept
    assert held_out
    if count > 1:
        assert sorted(kept + held_out, key=lambda t: int(t.id)) == texts
    else:
        assert kept[0].text + held_out[0].text == texts[0].text
