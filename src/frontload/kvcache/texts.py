"""Text to calibrate and measure on: a file or folder of the user's, or Python's own library.

Guarantees: documents come with the id they have in the file, in the file's order; the held-out
ones are told apart by rank of id, so that calibration and measurement never share a document.
Gives up: streaming; what is read lies in memory.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LEAST_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Text:
    """One document."""

    id: str
    text: str


def read_texts(origin: Path | None) -> list[Text]:
    """Documents of a Parquet table (`text`, and `id` or `path`), a text file, or a folder of files.

    `None` reads the modules of the running Python's standard library.

    Raises:
        ValueError: nothing readable is there; names the columns or endings that are.
    """
    if origin is None:
        origin = Path(sysconfig.get_paths()["stdlib"])
        found = _read_files(sorted(origin.glob("*.py")), origin)
    elif origin.suffix == ".parquet":
        found = _read_table(origin)
    elif origin.is_dir():
        endings = {".txt", ".md", ".py", ".rst"}
        files = sorted(path for path in origin.rglob("*") if path.suffix in endings)
        found = _read_files(files, origin)
    elif origin.is_file():
        found = _read_files([origin], origin.parent)
    else:
        raise ValueError(f"text: {origin} does not exist; give a Parquet table, a file or a folder")
    kept = [text for text in found if len(text.text) >= _LEAST_CHARACTERS]
    if not kept:
        raise ValueError(f"text: {origin} holds no document of {_LEAST_CHARACTERS} characters")
    return kept


def hold_out(texts: Sequence[Text], share: float) -> tuple[list[Text], list[Text]]:
    """(for training or calibration, for measurement): ids spread evenly, at least one each."""
    ordered = sorted(texts, key=lambda text: text.id)
    if len(ordered) < 2:
        return _cut_in_two(ordered[0], share)
    every = min(max(2, round(1 / share)), len(ordered))
    kept = [text for i, text in enumerate(ordered) if i % every != every - 1]
    return kept, ordered[every - 1 :: every]


def _cut_in_two(text: Text, share: float) -> tuple[list[Text], list[Text]]:
    cut = int(len(text.text) * (1 - share))
    return [Text(id=text.id, text=text.text[:cut])], [Text(id=text.id, text=text.text[cut:])]


def _read_files(files: Sequence[Path], root: Path) -> list[Text]:
    return [
        Text(id=file.relative_to(root).as_posix(), text=file.read_text("utf-8", "replace"))
        for file in files
    ]


def _read_table(path: Path) -> list[Text]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if "text" not in table.column_names:
        raise ValueError(f"text: {path} has no column `text`, only {', '.join(table.column_names)}")
    names = [name for name in ("id", "path") if name in table.column_names]
    ids = table.column(names[0]).to_pylist() if names else range(table.num_rows)
    texts = table.column("text").to_pylist()
    return [Text(id=str(i), text=text) for i, text in zip(ids, texts, strict=True)]
