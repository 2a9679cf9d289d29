"""Laws of packing: nothing is lost, split or invented on the way from items to rows."""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontload.corpus import packing
from frontload.corpus.example import Document, Example, Message
from frontload.corpus.packing import pack
from frontload.corpus.rows import MARKER, PackedRows, RowWriter
from frontload.model.config import TokenizerConfig
from frontload.model.tokenizer import encode_example, encode_texts, train_tokenizer
from tests.corpus.made_packs import made_pack

CONTEXT = 32
PROMPTS = ["1+2=", "sort 3 1 2", "a longer question about several words", "Ä?"]


@pytest.fixture(scope="module")
def tokenizer():
    config = TokenizerConfig(train_on=("base",), vocab_size=300)
    return train_tokenizer(iter(["sum of words, 1+2=3", "question about several words"]), config)


def make_examples(lengths: list[int]) -> list[Example]:
    return [
        Example.of(id=str(i), prompt=PROMPTS[i % 4], response="7" * length, source="r")
        for i, length in enumerate(lengths)
    ]


def make_documents(lengths: list[int]) -> list[Document]:
    return [
        Document(id=str(i), text=str(i % 10) * length, source="b")
        for i, length in enumerate(lengths)
    ]


def packed(items, tokenizer, directory: Path, **settings) -> PackedRows:
    chosen = {"name": "traces", "context": CONTEXT, "supervise": "response"} | settings
    return pack(items, tokenizer, directory=directory, **chosen)


def segments_of(rows: PackedRows) -> list[tuple[int, int, np.ndarray]]:
    """(row, segment, columns) of every segment."""
    return [
        (row, segment, np.flatnonzero(rows.segments[row] == segment))
        for row in range(rows.rows)
        for segment in range(1, int(rows.segments[row].max()) + 1)
    ]


anything = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@anything
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60), batch=st.integers(1, 20))
def test_every_example_that_fits_is_one_whole_segment(
    tokenizer, tmp_path_factory, lengths, batch
) -> None:
    examples = [*make_examples(lengths), *make_examples([3])]
    encoded = [encode_example(tokenizer, example) for example in examples]
    fitting = [e for e in encoded if len(e.ids) <= CONTEXT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BATCH_ITEMS", batch)
        rows = packed(examples, tokenizer, tmp_path_factory.mktemp("p") / "rows")
    found = Counter(
        (rows.tokens[row, at].tobytes(), rows.supervised[row, at].astype(bool).tobytes())
        for row, _, at in segments_of(rows)
    )
    expected = Counter((e.ids.astype("<u2").tobytes(), e.supervised.tobytes()) for e in fitting)
    assert found == expected
    assert all(np.array_equal(at, np.arange(at[0], at[-1] + 1)) for _, _, at in segments_of(rows))
    assert rows.counters["items"] == len(examples)
    dropped = rows.counters["dropped"].get("longer_than_context", 0)
    assert dropped == len(encoded) - len(fitting)
    assert rows.counters["longest"] == max(len(e.ids) for e in encoded)


@anything
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=30), batch=st.integers(1, 9))
def test_documents_read_back_in_order_and_fill_rows_to_the_brim(
    tokenizer, tmp_path_factory, lengths, batch
) -> None:
    documents = make_documents([*lengths, 5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BATCH_ITEMS", batch)
        rows = packed(documents, tokenizer, tmp_path_factory.mktemp("p") / "rows")
    used = rows.segments[:] > 0
    assert used[:-1].all()
    kept = [document.text for document in documents if document.text]
    expected = [
        token
        for ids in encode_texts(tokenizer, kept)
        for token in (*ids.tolist(), tokenizer.eos_token_id)
    ]
    assert rows.tokens[used].tolist() == expected
    assert rows.total_tokens == len(expected)
    assert (rows.tokens[~used] == tokenizer.pad_token_id).all()
    assert rows.counters["dropped"].get("empty", 0) == len(documents) - len(kept)
    assert int(rows.num_examples.sum()) == len(kept)


def test_a_new_segment_begins_where_a_document_or_a_row_begins(tokenizer, tmp_path) -> None:
    rows = packed(make_documents([20, 30, 3]), tokenizer, tmp_path / "rows")
    assert rows.segments[0].tolist() == [1] * 21 + [2] * 11
    assert rows.segments[1].tolist() == [1] * 20 + [2] * 4 + [0] * 8
    assert rows.num_examples.tolist() == [2, 1]
    begins = np.zeros((2, CONTEXT), bool)
    begins[0, [0, 21]] = begins[1, [0, 20]] = True
    assert np.array_equal(rows.supervised[:].astype(bool), (rows.segments[:] > 0) & ~begins)


def test_supervise_changes_targets_and_nothing_else(tokenizer, tmp_path) -> None:
    examples = make_examples([3, 9, 5, 12, 1])
    response = packed(examples, tokenizer, tmp_path / "a", supervise="response")
    everything = packed(examples, tokenizer, tmp_path / "b", supervise="all")
    assert np.array_equal(response.tokens, everything.tokens)
    assert np.array_equal(response.segments, everything.segments)
    assert (response.supervised <= everything.supervised).all()
    assert everything.total_supervised_tokens == everything.total_tokens - len(examples)
    assert response.total_supervised_tokens == sum(n + 1 for n in (3, 9, 5, 12, 1))


def test_documents_are_supervised_everywhere_whatever_the_setting(tokenizer, tmp_path) -> None:
    first = packed(make_documents([9, 50]), tokenizer, tmp_path / "rows", supervise="response")
    again = packed([], tokenizer, tmp_path / "rows", supervise="all")
    assert again.fingerprint == first.fingerprint
    assert not first.reasoning


def test_all_turns_of_a_conversation_stay_in_one_segment(tokenizer, tmp_path) -> None:
    turns = tuple(
        Message(role=role, content=content)
        for role, content in [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    )
    rows = packed([Example(id="0", messages=turns, source="r")], tokenizer, tmp_path / "rows")
    assert rows.num_examples.tolist() == [1]
    assert rows.num_supervised.tolist() == [4]


def test_best_fit_wastes_little_of_short_examples(tokenizer, tmp_path) -> None:
    rng = np.random.default_rng(0)
    examples = make_examples(rng.integers(0, 25, 3000).tolist())
    rows = packed(examples, tokenizer, tmp_path / "rows", context=128)
    assert rows.total_tokens / (rows.rows * 128) > 0.99


def test_the_same_items_give_the_same_rows(tokenizer, tmp_path) -> None:
    examples = make_examples([4, 8, 15, 16, 23] * 20)
    first = packed(examples, tokenizer, tmp_path / "a")
    second = packed(examples, tokenizer, tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert packed(examples[1:], tokenizer, tmp_path / "c").fingerprint != first.fingerprint


def test_equal_prompts_share_an_index_in_the_order_of_rows(tokenizer, tmp_path) -> None:
    rows = packed(make_examples([5, 9, 30, 2, 7, 3, 11, 6] * 5), tokenizer, tmp_path / "rows")
    assert len(rows.prompts) == rows.num_examples.sum()
    prompt_of: dict[bytes, int] = {}
    for (row, _, at), index in zip(segments_of(rows), rows.prompts.tolist(), strict=True):
        question = rows.tokens[row, at[rows.supervised[row, at] == 0]].tobytes()
        assert prompt_of.setdefault(question, index) == index
    assert rows.num_prompts == len(PROMPTS)


def test_a_dropped_example_still_belongs_to_the_set_of_prompts(tokenizer, tmp_path) -> None:
    examples = make_examples([5, 5, 5, 5])
    long = Example.of(id="4", prompt=PROMPTS[0] + "!", response="7" * 99, source="r")
    short = Example.of(id="4", prompt=PROMPTS[0] + "!", response="7", source="r")
    cut = packed([*examples, long], tokenizer, tmp_path / "a")
    whole = packed([*examples, short], tokenizer, tmp_path / "b")
    assert cut.prompt_set == whole.prompt_set
    assert cut.prompt_set != packed(examples, tokenizer, tmp_path / "c").prompt_set


def test_nothing_left_names_source_context_and_longest(tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"sources\.traces: nothing is left") as refusal:
        packed(make_examples([60, 90]), tokenizer, tmp_path / "rows")
    longest = max(len(encode_example(tokenizer, e).ids) for e in make_examples([60, 90]))
    assert f"model.context = {CONTEXT}" in str(refusal.value)
    assert f"longest has {longest}" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_source_is_refused_by_name(tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"sources\.traces: is empty"):
        packed([], tokenizer, tmp_path / "rows")


def test_a_mixed_source_is_refused_and_leaves_nothing(tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match="mixes documents and examples"):
        packed([*make_examples([3]), *make_documents([3])], tokenizer, tmp_path / "rows")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_pack_is_opened_without_reading_items(tokenizer, tmp_path) -> None:
    first = packed(make_examples([3, 4]), tokenizer, tmp_path / "rows", fingerprint="f")
    again = packed([], tokenizer, tmp_path / "rows", fingerprint="f")
    assert again.fingerprint == first.fingerprint


def test_a_pack_of_something_else_is_refused_field_by_field(tokenizer, tmp_path) -> None:
    packed(make_examples([3, 4]), tokenizer, tmp_path / "rows", fingerprint="f")
    with pytest.raises(ValueError, match="source_fingerprint: 'f' there, 'g' now"):
        packed([], tokenizer, tmp_path / "rows", fingerprint="g")
    with pytest.raises(ValueError, match="context: 32 there, 64 now"):
        packed([], tokenizer, tmp_path / "rows", fingerprint="f", context=64)


def test_progress_counts_all_items_and_tokens(tokenizer, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    examples = make_examples([5] * 5000)
    rows = packed(
        examples, tokenizer, tmp_path / "rows", on_progress=lambda *done: seen.append(done)
    )
    assert len(seen) > 1
    assert seen[-1] == (5000, rows.total_tokens)


def test_a_truncated_file_is_refused_with_the_remedy(tmp_path) -> None:
    made_pack(tmp_path / "rows")
    with (tmp_path / "rows" / "tokens.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"tokens\.bin has 100 bytes, .* pack the source again"):
        PackedRows.open(tmp_path / "rows")


def test_a_folder_without_the_marker_is_no_pack(tmp_path) -> None:
    made_pack(tmp_path / "rows")
    (tmp_path / "rows" / MARKER).unlink()
    with pytest.raises(ValueError, match="no complete pack"):
        PackedRows.open(tmp_path / "rows")


def test_sigkill_while_writing_leaves_no_pack_and_the_next_writer_cleans_up(tmp_path) -> None:
    def killed_in_the_middle() -> None:
        writer = RowWriter(tmp_path / "rows", context=8, vocab_size=300, pad_id=0)
        ones = np.ones((4, 8), np.uint16)
        writer.append(ones, ones, ones, np.ones(4), np.arange(4, dtype=np.uint64))
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(killed_in_the_middle)) == signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".rows-")
    made_pack(tmp_path / "rows")
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_writer_at_work_is_not_disturbed_by_another(tmp_path) -> None:
    ones = np.ones((4, 8), np.uint16)
    with RowWriter(tmp_path / "rows", context=8, vocab_size=300, pad_id=0) as slow:
        made_pack(tmp_path / "rows", rows=7)
        slow.append(ones, ones, ones, np.ones(4), np.arange(4, dtype=np.uint64))
        assert slow.finish().rows == 7  # the first to finish is kept
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path) -> None:
    def fills_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            made_pack(tmp_path / "rows", rows=2000)
        except OSError:
            os._exit(7)

    assert os.waitstatus_to_exitcode(in_child(fills_the_disk)) == 7
    assert list(tmp_path.iterdir()) == []


def in_child(work) -> int:
    """Run `work` in a forked process; returns its wait status."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]
