"""Every format gives the same items; every kind of broken file is refused by name."""

import gzip
import json
import os
from datetime import date
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from frontload.corpus.config import Files
from frontload.corpus.files import _hash_contents, hash_file
from frontload.corpus.sources import open_source
from frontload.corpus.stream import Source

ROWS = [{"question": f"What is {n} + 1?", "answer": f"It is\n#### {n + 1}"} for n in range(300)]


def files(root: Path, *paths: str, split="train", **settings) -> Source:
    config = Files(kind="files", paths=paths, **settings)
    return open_source("mine", {"mine": config}, root=root, split=split)


def as_lines(rows: list) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def write_all_formats(root: Path, rows: list = ROWS) -> list[str]:
    lines = as_lines(rows)
    (root / "plain.jsonl").write_bytes(lines + b"\n")
    (root / "packed.jsonl.gz").write_bytes(
        gzip.compress(lines[:5000]) + gzip.compress(lines[5000:])
    )
    frames = [zstandard.compress(part) for part in (lines[:7001], lines[7001:])]
    (root / "packed.jsonl.zst").write_bytes(b"".join(frames))
    (root / "array.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), root / "table.parquet", row_group_size=70)
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(root / "saved", num_shards=3)
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(root / "splits")
    names = ["plain.jsonl", "packed.jsonl.gz", "packed.jsonl.zst", "array.json", "table.parquet"]
    return [*names, "saved", "splits"]


def test_every_format_gives_the_same_items(tmp_path):
    for name in write_all_formats(tmp_path):
        source = files(tmp_path, name)
        items = list(source)
        assert [(it.prompt, it.response) for it in items] == [
            (row["question"], row["answer"]) for row in ROWS
        ], name
        assert {item.gold for item in items} == {str(n + 1) for n in range(300)}
        assert len({item.id for item in items}) == 300
        assert source.holds == "examples"


def test_reading_twice_gives_the_same_items_and_counts_drops_once(tmp_path):
    rows = [{"text": "kept"}, {"text": "  "}, {"text": "kept too"}]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    source = files(tmp_path, "a.jsonl")
    assert list(source) == list(source)
    assert source.drops == {"empty_text": 1}


def test_folders_and_globs_read_each_file_once_in_order(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.jsonl").write_bytes(as_lines([{"text": name}]))
    (folder / "README.md").write_text("not a document")
    for paths in (["data"], ["data/*.jsonl"], ["data", "data/a.jsonl", "data/*"][:2]):
        assert [item.text for item in files(tmp_path, *paths)] == ["a", "b"]


def test_files_of_the_same_name_in_two_folders_have_ids_of_their_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-0.jsonl").write_bytes(as_lines([{"text": "x"}, {"text": "y"}]))
    ids = ["a/part-0.jsonl:1", "a/part-0.jsonl:2", "b/part-0.jsonl:1", "b/part-0.jsonl:2"]
    for paths in (["."], ["a", "b"], ["*/part-0.jsonl"], ["b/../a", str(tmp_path / "b")]):
        assert [item.id for item in files(tmp_path, *paths)] == ids
    assert [item.id for item in files(tmp_path, "a")] == ["part-0.jsonl:1", "part-0.jsonl:2"]


def test_a_file_is_hashed_once_until_it_changes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one")
    before, read = hash_file(path), _hash_contents.cache_info().misses
    assert hash_file(path) == before
    assert _hash_contents.cache_info().misses == read
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 1))
    assert hash_file(path) != before


def test_a_folder_of_text_files_is_one_document_a_file(tmp_path):
    (tmp_path / "one.txt").write_text("first")
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress(b"second"))
    source = files(tmp_path, ".")
    assert [item.text for item in source] == ["first", "second"]
    assert source.holds == "documents"


def test_holdout_sides_are_disjoint_and_complete(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))
    train = files(tmp_path, "a.jsonl", holdout=0.2, limit=200)
    heldout = files(tmp_path, "a.jsonl", holdout=0.2, limit=200, split="heldout")
    ids = [{item.id for item in side} for side in (train, heldout)]
    assert ids[0].isdisjoint(ids[1])
    assert len(ids[0] | ids[1]) == 200
    assert 20 <= len(ids[1]) <= 60
    assert train.drops == {"held_out": len(ids[1])}
    assert train.fingerprint() != heldout.fingerprint()


def test_same_prompt_is_on_the_same_side_whoever_answered(tmp_path):
    other = [{"prompt": row["question"], "response": "no idea"} for row in ROWS]
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))
    (tmp_path / "b.jsonl").write_bytes(as_lines(other))
    sides = [
        {item.prompt for item in files(tmp_path, name, holdout=0.3, split="heldout")}
        for name in ("a.jsonl", "b.jsonl")
    ]
    assert sides[0] == sides[1]


def test_the_system_message_does_not_decide_the_side(tmp_path):
    asked = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]
             for n in range(200)]  # fmt: skip
    systems = ["", "You are brief.", "You are long-winded."]
    for number, system in enumerate(systems):
        rows = [{"messages": messages, "system": system} for messages in asked]
        (tmp_path / f"{number}.jsonl").write_bytes(as_lines(rows))
    heldout, train = (
        [{item.messages[-2].content for item in files(tmp_path, f"{number}.jsonl",
                                                      holdout=0.3, split=split)}
         for number in range(3)]
        for split in ("heldout", "train")
    )  # fmt: skip
    assert heldout[0] == heldout[1] == heldout[2]
    assert not heldout[0] & set.union(*train)
    assert len(heldout[0] | train[0]) == 200
    prompts = {item.prompt for item in files(tmp_path, "1.jsonl")}
    assert prompts == {f"You are brief.\n{n}?" for n in range(200)}


def test_where_keeps_matching_rows_and_counts_the_others(tmp_path):
    rows = [{"text": str(n), "kind": "ab"[n % 2], "ok": n < 4} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    source = files(tmp_path, "t.parquet", where={"kind": ["a"], "ok": True})
    assert [item.text for item in source] == ["0", "2"]
    assert source.drops == {"where": 8}
    with pytest.raises(ValueError, match=r"where: no column 'knd'; found text.*mean 'kind'"):
        list(files(tmp_path, "t.parquet", where={"knd": "a"}))


@pytest.mark.parametrize("path", ["a.kind", "a.b.kind", "a.b.text.kind"])
def test_where_reaches_any_depth_in_every_format(tmp_path, path):
    kinds = [{"kind": "xyz"[n % 3]} for n in range(6)]
    rows = [
        {"text": str(n), "a": {**kind, "b": {**kind, "text": json.dumps(kind)}, "c": [n]}}
        for n, kind in enumerate(kinds)
    ]
    for name in write_all_formats(tmp_path, rows):
        source = files(tmp_path, name, where={path: ["x", "z"]})
        assert [item.text for item in source] == ["0", "2", "3", "5"], name
        assert source.drops == {"where": 2}


VALUES = [1, 0, True, False, 1.0, 1.5, "1", "true", "", None, [1], {"a": 1}]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (1, [0, 4]),
        (1.0, [0, 4]),
        (1.5, [5]),
        (0, [1]),
        (True, [2]),
        ([False], [3]),
        ("1", [6]),
        ("", [8]),
        (["1", 1, True], [0, 2, 4, 6]),
        ([0, 2.5, "true"], [1, 7]),
        ("no such", None),
    ],
)
def test_where_matches_texts_numbers_and_booleans_each_with_its_own_kind(tmp_path, wanted, kept):
    rows = [{"text": str(n), "value": value} for n, value in enumerate(VALUES)]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    source = files(tmp_path, "a.jsonl", where={"value": wanted})
    if kept is None:
        with pytest.raises(ValueError, match=rf"is empty \(where {len(VALUES)}\)"):
            list(source)
    else:
        assert [int(item.text) for item in source] == kept


@pytest.mark.parametrize("wanted", [None, [], [None], ["a", ["b"]], {"a": 1}, date(2026, 1, 1)])
def test_where_refuses_what_no_row_could_equal(wanted):
    with pytest.raises(ValueError, match=r"where.x\n.*write a text \(dates in quotes\), a number"):
        Files(kind="files", paths=("a",), where={"x": wanted})


def test_fingerprint_follows_contents_and_settings_not_the_folder(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(as_lines(ROWS))
    prints = {files(tmp_path / folder, "a.jsonl").fingerprint() for folder in ("one", "two")}
    assert len(prints) == 1
    prints.add(files(tmp_path / "one", "a.jsonl", limit=3).fingerprint())
    (tmp_path / "one" / "a.jsonl").write_bytes(as_lines(ROWS).replace(b"299", b"298"))
    prints.add(files(tmp_path / "one", "a.jsonl").fingerprint())
    assert len(prints) == 3


def test_progress_ends_at_the_total(tmp_path):
    for name in write_all_formats(tmp_path):
        source = files(tmp_path, name)
        assert sum(1 for _ in source) == 300
        assert source.bytes_read == source.bytes_total


def test_missing_file_names_the_source_and_pattern(tmp_path):
    with pytest.raises(ValueError, match=r"sources.mine.paths: nothing matches 'no\*.jsonl'"):
        files(tmp_path, "no*.jsonl")


def test_unknown_ending_lists_the_readable_ones(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(ValueError, match=r"a.csv has an unknown ending; readable: .jsonl"):
        files(tmp_path, "a.csv")


def test_parquet_without_usable_columns_lists_them_with_the_remedy(tmp_path):
    pq.write_table(pa.table({"query": ["a"], "score": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet.*found query \(string\), score.*columns: \{"):
        list(files(tmp_path, "t.parquet"))


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "not_compressed"])
def test_broken_compression_names_the_file(tmp_path, ending, damage):
    lines = as_lines(ROWS)
    packed = bytearray(gzip.compress(lines) if ending == "gz" else zstandard.compress(lines))
    if damage == "truncated":
        packed = packed[:-20]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
        packed[-5] ^= 0xFF
    else:
        packed = bytearray(lines)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(packed)
    with pytest.raises(ValueError, match=rf"a.jsonl.{ending}"):
        list(files(tmp_path, f"a.jsonl.{ending}"))


def test_truncated_parquet_is_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"t.parquet: not a complete Parquet file"):
        list(files(tmp_path, "t.parquet"))


def test_damaged_parquet_page_is_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, compression="zstd", use_dictionary=False)
    stored = bytearray(path.read_bytes())
    stored[40:400] = bytes(360)
    path.write_bytes(stored)
    with pytest.raises(ValueError, match=r"t.parquet: damaged data"):
        list(files(tmp_path, "t.parquet"))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_source_says_so(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"source 'mine' is empty"):
        list(files(tmp_path, "a.jsonl"))
    with pytest.raises(ValueError, match=r"source 'mine' is empty"):
        assert files(tmp_path, "a.jsonl").holds


def test_source_emptied_by_filters_gives_the_reasons(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines([{"text": "x", "lang": "en"}] * 4))
    with pytest.raises(ValueError, match=r"'mine' is empty \(where 4\)"):
        list(files(tmp_path, "a.jsonl", where={"lang": "fr"}))


def test_an_empty_heldout_side_asks_for_more_holdout(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS[:2]))
    with pytest.raises(ValueError, match=r"for_training 2.*raise sources.mine.holdout"):
        list(files(tmp_path, "a.jsonl", holdout=0.001, split="heldout"))


def test_a_rare_invalid_line_is_dropped_and_counted(tmp_path):
    lines = as_lines(ROWS).split(b"\n")
    lines[7] = lines[7][:-5]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = files(tmp_path, "a.jsonl")
    assert len(list(source)) == 299
    assert source.drops == {"invalid_json": 1}


def test_an_invalid_first_line_is_refused_with_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\nprompt,response\n" + as_lines(ROWS))
    with pytest.raises(ValueError, match=r"a.jsonl:2: not valid JSON"):
        list(files(tmp_path, "a.jsonl"))


def test_many_invalid_lines_are_refused_with_the_first_one(tmp_path):
    lines = as_lines(ROWS).split(b"\n")
    for place in (5, 50, 100, 150):
        lines[place] = b"\xff{"
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"a.jsonl:6: .*4 of 300 rows .* malformed"):
        list(files(tmp_path, "a.jsonl"))


def test_rows_of_wrong_types_are_counted_when_rare_and_refused_when_not(tmp_path):
    rows = [*ROWS, {"question": 3, "answer": "x"}, {"other": "row"}]
    (tmp_path / "rare.jsonl").write_bytes(as_lines(rows))
    source = files(tmp_path, "rare.jsonl")
    assert len(list(source)) == 300
    assert source.drops == {"wrong_type": 2}
    (tmp_path / "many.jsonl").write_bytes(as_lines([*ROWS[:3], {"question": 3, "answer": "x"}]))
    with pytest.raises(ValueError, match=r"many.jsonl:4: question, answer: .* wrong type"):
        list(files(tmp_path, "many.jsonl"))


def test_documents_and_examples_do_not_mix_in_one_source(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS[:2]))
    (tmp_path / "b.jsonl").write_bytes(as_lines([{"text": "x"}]))
    with pytest.raises(ValueError, match=r"a.jsonl holds examples and .*b.jsonl documents"):
        list(files(tmp_path, "a.jsonl", "b.jsonl"))
