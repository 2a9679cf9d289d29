"""The streaming reader of hub datasets, on a local folder in place of a hub name."""

import json

import pytest

from frontload.corpus.config import Files, Hub
from frontload.corpus.sources import open_source

ROWS = [{"question": f"q{n}", "answer": f"a{n}", "kind": "ab"[n % 2]} for n in range(20)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(ROWS[3]))
    return tmp_path


def opened(root, config):
    return open_source("mine", {"mine": config}, root=root, split="train")


def test_streaming_gives_what_reading_the_file_gives(folder):
    streamed = opened(folder, Hub(kind="hub", name="set", where={"kind": "a"}))
    read = opened(folder, Files(kind="files", paths=("set/train.jsonl",), where={"kind": "a"}))
    assert [item.messages for item in streamed] == [item.messages for item in read]
    assert streamed.drops == read.drops == {"where": 10}
    assert streamed.fingerprint() == opened(folder, streamed._config).fingerprint()


def test_the_named_split_is_read(folder):
    items = list(opened(folder, Hub(kind="hub", name="set", split="test")))
    assert [item.prompt for item in items] == ["q3"]


def test_an_unknown_split_names_the_source_and_the_remedy(folder):
    with pytest.raises(ValueError, match=r"sources.mine: cannot open .*split 'dev'.*kind: files"):
        list(opened(folder, Hub(kind="hub", name="set", split="dev")))
