"""From paths in a spec to tables: files, folders and globs, in a fixed order, each file once.

In a folder, data files win: text files next to Parquet or JSONL (a README) are not documents. Of a
saved `DatasetDict`, the train split is taken unless the path names another.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable
from pathlib import Path

from frontload.corpus.arrow_tables import Parquet, SavedDataset
from frontload.corpus.bytestreams import read_chunks
from frontload.corpus.tables import JsonArray, JsonLines, Table, Text

_JSON = (".jsonl", ".ndjson", ".json")
_TEXT = (".txt", ".md", ".rst", ".py")
_COMPRESSED = (".gz", ".zst")
_READABLE = (
    "readable: .jsonl .ndjson .json .txt .md .rst .py (also .gz and .zst), .parquet, and folders "
    "written by datasets' save_to_disk"
)


def find_tables(paths: Iterable[str], root: Path) -> tuple[Table, ...]:
    """Tables behind files, folders and globs, each file once; relative paths start at `root`.

    Raises:
        ValueError: nothing matches, or a file's ending is unknown.
    """
    found: dict[Path, Table] = {}
    for pattern in paths:
        for path in _matches(pattern, root):
            for table in _tables_at(path):
                found.setdefault(table.path.resolve(), table)
    return tuple(found.values())


def _matches(pattern: str, root: Path) -> list[Path]:
    path = root / Path(pattern).expanduser()
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise ValueError(f"paths: nothing matches {pattern!r} (looked for {path})")
    return [Path(match) for match in matches]


def _tables_at(path: Path) -> list[Table]:
    if path.is_file():
        return [_open_file(path)]
    if (path / "state.json").is_file():
        return [SavedDataset(path)]
    if (path / "dataset_dict.json").is_file():
        return [SavedDataset(path / _only_split(path))]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    data = [file for file in files if _ending(file) in (*_JSON, ".parquet")]
    chosen = data or [file for file in files if _ending(file) in _TEXT]
    if not chosen:
        raise ValueError(f"paths: no data files in the folder {path}; {_READABLE}")
    return [_open_file(file) for file in chosen]


def _only_split(path: Path) -> str:
    splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return str(splits[0])
    raise ValueError(f"paths: {path} has the splits {', '.join(splits)}; name one, as {path}/SPLIT")


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _open_file(path: Path) -> Table:
    ending = _ending(path)
    if ending == ".parquet":
        return Parquet(path)
    if ending in _TEXT:
        return Text(path)
    if ending not in _JSON:
        raise ValueError(f"paths: {path} has an unknown ending; {_READABLE}")
    return JsonArray(path) if ending == ".json" and _is_array(path) else JsonLines(path)


def _is_array(path: Path) -> bool:
    first = next(read_chunks(path, lambda _: None), b"")
    return first.lstrip().startswith(b"[")
