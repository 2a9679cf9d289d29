"""A card tells the truth: known answers for each figure, and files that are never overwritten."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from frontload.corpus.config import Files, Problems
from frontload.corpus.profile import (
    load_token_counter,
    open_argument,
    profile,
    profile_command,
    read_sources,
)
from frontload.corpus.sources import open_source

LONG = "<think>one;two;?check</think>3"
ROWS = [
    {"prompt": "Add 1 and 2", "response": LONG, "family": "a", "correct": True, "gold": "3"},
    {"prompt": "Add 1 and 2", "response": LONG, "family": "a", "correct": True, "gold": "3"},
    {"prompt": "Add 1 and 2", "response": "4", "family": "b", "correct": False, "gold": "3"},
    {"prompt": "Or é?", "response": "<think>Wait, I", "family": "c", "correct": None, "gold": None},
]


def write(path: Path, rows) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def card_of(path: Path, **settings):
    config = Files(kind="files", paths=(str(path),), **settings)
    return profile(open_source("it", {"it": config}, root=path.parent, split="train"))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_scale_counts_everything_once(tmp_path):
    scale = card_of(write(tmp_path / "a.jsonl", ROWS)).scale
    texts = [f"{row['prompt']}\n{row['response']}" for row in ROWS]
    assert scale.items == 4
    assert scale.characters == sum(map(len, texts))
    assert scale.bytes == sum(len(text.encode()) for text in texts) == scale.characters + 1
    assert (scale.unique_items, scale.unique_prompts) == (3, 2)
    # LONG has 14 words: < think > one ; two ; ? check < / think > 3
    assert scale.tokens == 2 * (4 + 14) + (4 + 1) + (3 + 6)
    assert scale.unique_tokens == scale.tokens - (4 + 14)


def test_quality_and_depth_have_known_answers(tmp_path):
    card = card_of(write(tmp_path / "a.jsonl", ROWS))
    quality, depth = card.quality, card.depth
    assert (quality.right, quality.wrong, quality.unchecked) == (0.5, 0.25, 0.25)
    assert (quality.with_gold, quality.unparsed) == (0.75, 0.25)
    assert (quality.exact_duplicates, quality.near_duplicates) == (0.25, 0.25)
    assert depth["steps of the trace"].greatest == 3
    assert depth["characters of the trace"].mean == (14 + 14 + 1 + 7) / 4
    assert depth["characters of the answer"].mean == (1 + 1 + 1 + 0) / 4
    assert card.self_checks_share == 0.75  # check twice (and ?check), Wait once
    assert depth["self-checks"].greatest == 2


def test_entropy_of_two_even_families_is_one_bit(tmp_path):
    rows = [{**ROWS[0], "family": family} for family in "aabb"]
    diversity = card_of(write(tmp_path / "a.jsonl", rows)).diversity
    assert diversity.groups == {"a": 2, "b": 2}
    assert diversity.entropy_bits == pytest.approx(1.0)
    assert diversity.effective_groups == pytest.approx(2.0)


def test_prompts_without_families_are_grouped_by_their_opening(tmp_path):
    prompts = ["Add 1 to 2", "Add 30 to 4", "Sort the list 3 1 2"]
    rows = [{"prompt": prompt, "response": "r"} for prompt in prompts]
    diversity = card_of(write(tmp_path / "a.jsonl", rows)).diversity
    assert diversity.grouped_by == "prompt openings"
    assert diversity.groups == {"add 0 to 0": 2, "sort the list 0 0 0": 1}


def test_more_families_more_entropy_and_deeper_traces_more_steps():
    def card(**settings):
        config = Problems(kind="problems", size=400, **settings)
        return profile(open_source("p", {"p": config}, root=Path(), split="train"))

    broad, narrow = card(families=("compact",)), card(families=("running_sum", "parity"))
    assert broad.diversity.entropy_bits > narrow.diversity.entropy_bits == pytest.approx(1.0)
    deep = card(families=("running_sum", "parity"), depth={"long": 1.0})
    assert deep.self_checks_share == 1.0
    assert narrow.self_checks_share == 0.0
    steps = "steps of the trace"
    assert deep.depth[steps].mean == pytest.approx(narrow.depth[steps].mean + 1)


def test_flawed_traces_show_in_the_quality():
    quality = {"wrong_answer": 0.25, "cut_short": 0.25}
    config = Problems(kind="problems", families=("compact",), size=1000, quality=quality)
    measured = profile(open_source("p", {"p": config}, root=Path(), split="train")).quality
    assert measured.right == pytest.approx(0.5, abs=0.06)
    assert measured.unparsed == pytest.approx(0.25, abs=0.05)


def test_tokens_are_the_tokenizers_when_one_is_given(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.jsonl", [{"text": "three plain words"}, {"text": "one-word"}])
    arguments = {"out": None, "columns": {}, "console": quiet()}
    (card,) = profile_command([str(path)], tokenizer=str(tmp_path), **arguments)
    assert card.scale.tokens == 4
    assert card.tokens_are.startswith("tokens: of the tokenizer")
    (card,) = profile_command([str(path)], tokenizer=None, **arguments)
    assert card.scale.tokens == 6
    assert card.tokens_are.startswith("words")


def test_a_missing_tokenizer_names_the_option(tmp_path):
    with pytest.raises(ValueError, match=r"--tokenizer: cannot load .*give a tokenizer.json"):
        load_token_counter(str(tmp_path / "nothing" / "here"))


def test_cards_are_saved_and_never_overwritten(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    out, console = tmp_path / "cards", quiet()
    arguments = {"out": out, "tokenizer": None, "columns": {}, "console": console}
    (card,) = profile_command([str(path)], **arguments)
    assert {file.name for file in out.iterdir()} == {"a.json", "a.html"}
    saved = json.loads((out / "a.json").read_text())
    assert saved["scale"]["items"] == 4
    assert saved["definitions"]["entropy"].startswith("-sum p log2 p")
    page = (out / "a.html").read_text()
    assert page.count("<svg") == len(card.depth) + 1
    assert "<script" not in page
    assert "http://www.w3.org" in page
    before = (out / "a.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"--out: .*a.json exists; choose another folder"):
        profile_command([str(path)], **arguments)
    assert (out / "a.json").stat().st_mtime_ns == before


def test_text_of_the_data_cannot_break_the_page(tmp_path):
    rows = [{**ROWS[0], "family": "<script>alert(1)</script>"}, ROWS[2]]
    path = write(tmp_path / "a.jsonl", rows)
    arguments = {"tokenizer": None, "columns": {}, "console": quiet()}
    profile_command([str(path)], out=tmp_path / "out", **arguments)
    assert "<script" not in (tmp_path / "out" / "a.html").read_text()


def test_sources_of_a_spec_are_profiled_by_name_or_all(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "spec.yaml").write_text(
        "sources:\n  one: {kind: files, paths: [a.jsonl]}\n"
        "  right: {kind: select, of: one, verified: true}\n"
    )
    arguments = {"out": None, "tokenizer": None, "columns": {}, "console": quiet()}
    spec = str(tmp_path / "spec.yaml")
    assert [card.name for card in profile_command([spec], **arguments)] == ["one", "right"]
    (card,) = profile_command([f"{spec}#right"], **arguments)
    assert (card.scale.items, dict(card.quality.drops)) == (
        2,
        {"verified_wrong": 1, "not_verified": 1},
    )
    with pytest.raises(ValueError, match="no 'rigt'; did you mean 'right'"):
        profile_command([f"{spec}#rigt"], **arguments)
    (tmp_path / "bad.yaml").write_text("sources: {one: {kind: files, pathz: [a]}}")
    with pytest.raises(ValueError, match=r"(?s)bad.yaml:.*sources.one.files.pathz: Extra inputs"):
        read_sources(tmp_path / "bad.yaml")


def test_a_spec_is_read_as_a_study_reads_it(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "kept", "on": "yes"}, {"text": "not", "on": "no"}])
    spec = tmp_path / "spec.yaml"
    spec.write_text("sources: {one: {kind: files, paths: [a.jsonl], where: {on: yes}}}")
    assert read_sources(spec)["one"].where == {"on": "yes"}
    (card,) = profile_command([str(spec)], out=None, tokenizer=None, columns={}, console=quiet())
    assert card.scale.items == 1
    with pytest.raises(ValueError, match="--column has no effect on a spec's source"):
        open_argument(str(spec), {"prompt": "ask"})
    spec.write_text("sources: [")
    with pytest.raises(ValueError, match=r"spec\.yaml is not YAML: while parsing"):
        read_sources(spec)
    with pytest.raises(ValueError, match=r"no spec at .*nowhere\.yaml"):
        read_sources(tmp_path / "nowhere.yaml")


def test_columns_of_the_command_line_are_used(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"ask": "q", "reply": "r"}])
    columns = {"prompt": "ask", "response": "reply"}
    (card,) = profile_command(
        [str(path)], out=None, tokenizer=None, columns=columns, console=quiet()
    )
    assert card.holds == "examples"


def test_progress_goes_up_to_the_bytes_of_the_files(tmp_path):
    rows = [{"text": f"{n} " * 3000} for n in range(900)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    config = Files(kind="files", paths=("t.parquet",))
    source = open_source("t", {"t": config}, root=tmp_path, split="train")
    seen = []
    profile(source, on_progress=lambda source, num_items: seen.append(source.bytes_read))
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert seen[-1] == source.bytes_total


def test_an_empty_source_has_no_card(tmp_path):
    write(tmp_path / "a.jsonl", [])
    with pytest.raises(ValueError, match="is empty"):
        card_of(tmp_path / "a.jsonl")
