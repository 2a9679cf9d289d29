"""Rows of files: JSON lines, JSON arrays and text, plain or compressed.

A table tells its columns before it is read, and yields its rows as dictionaries. A line that cannot
be read is a `Malformed`, left to the caller to count or refuse. JSON lines stream; a JSON array and
a text file are read whole. Arrow's formats are in `arrow_tables`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontload.corpus.bytestreams import read_chunks, read_lines

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Malformed:
    """A row that could not be read: the drop reason and what a person needs to know."""

    reason: str
    detail: str


class Table(ABC):
    """One file (or saved dataset) of rows."""

    def __init__(self, path: Path, files: tuple[Path, ...] = ()) -> None:
        self.path = path
        self.files = files or (path,)
        self.bytes_total = sum(file.stat().st_size for file in self.files)
        self.bytes_read = 0

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Column -> type (string, list, object, bool, int, float, null, ...); {} when empty."""

    @abstractmethod
    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        """Numbered rows with at least `columns`, which may be dotted paths."""

    def _count(self, num_bytes: int) -> None:
        self.bytes_read += num_bytes


class JsonLines(Table):
    """One JSON object a line; blank lines are skipped. Rows are numbered by line, from 1."""

    def columns(self) -> dict[str, str]:
        number, first = next(self.rows(()), (0, {}))
        self.bytes_read = 0
        if isinstance(first, Malformed):
            raise ValueError(
                f"{self.path}:{number}: {first.detail}; expected one JSON object a line"
            )
        return {name: type_word(value) for name, value in first.items()}

    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        self.bytes_read = 0
        for number, line in enumerate(read_lines(self.path, self._count), start=1):
            if line and not line.isspace():
                yield number, _parse_object(line)


class JsonArray(Table):
    """One JSON array of objects, read whole."""

    def columns(self) -> dict[str, str]:
        first = self._load()[:1]
        return {name: type_word(value) for row in first for name, value in row.items()}

    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        yield from enumerate(self._load())

    def _load(self) -> list[Row]:
        self.bytes_read = 0
        try:
            rows = json.loads(b"".join(read_chunks(self.path, self._count)))
        except ValueError as error:
            raise ValueError(f"{self.path}: not valid JSON ({error})") from None
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{self.path}: expected an array of JSON objects")
        return rows


class Text(Table):
    """A whole file as one row with the column `text`."""

    def columns(self) -> dict[str, str]:
        return {"text": "string"}

    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        self.bytes_read = 0
        try:
            text = b"".join(read_chunks(self.path, self._count)).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: not UTF-8 text ({error.reason})") from None
        yield 0, {"text": text}


def _parse_object(line: bytes) -> Row | Malformed:
    try:
        value = json.loads(line)
    except ValueError as error:
        return Malformed(reason="invalid_json", detail=f"not valid JSON ({error})")
    if not isinstance(value, dict):
        return Malformed(reason="invalid_json", detail="not a JSON object")
    return value


def type_word(value: Any) -> str:
    """The word for a JSON value's type, as in `Table.columns`."""
    names = {str: "string", list: "list", dict: "object", type(None): "null"}
    return names.get(type(value), type(value).__name__)
