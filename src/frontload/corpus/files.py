"""A source over files: tables read one after the other, each with its own columns.

A row that cannot be read is counted under its reason. When the first row of a table is one, or more
than 1 % of all rows, the file is taken to be something else than it should be, and refused.
"""

from __future__ import annotations

import hashlib
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from frontload.corpus.config import Files, Where
from frontload.corpus.example import Item
from frontload.corpus.locate import find_tables
from frontload.corpus.paths import look_up
from frontload.corpus.schemas import Schema, schema_for
from frontload.corpus.stream import Holds, Reading, Source
from frontload.corpus.tables import Malformed, Row, Table
from frontload.corpus.turns import Unusable

_MAX_MALFORMED_SHARE = 0.01
_HASHED_WHOLE = 256 << 20
_WINDOWS = 64


class FileSource(Source):
    """Items of files on disk."""

    def __init__(self, name: str, config: Files, reading: Reading) -> None:
        super().__init__(name, reading, limit=config.limit)
        self._config = config
        try:
            self._tables = find_tables(config.paths, reading.root)
        except ValueError as error:
            raise ValueError(f"sources.{name}.{error}") from None
        self._folder = _common_folder(table.path for table in self._tables)
        self.bytes_total = sum(table.bytes_total for table in self._tables)

    @cached_property
    def holds(self) -> Holds:
        for table in self._tables:
            if schema := self._schema(table):
                return schema.holds
        raise ValueError(f"source {self.name!r} is empty: no rows in {self._listed()}")

    def _items(self) -> Iterator[Item]:
        rows = RowReader(self.name, self._config.where, self.drops)
        done = 0
        for table in self._tables:
            schema = self._schema(table)
            if schema is None:
                continue
            if schema.holds != self.holds:
                raise ValueError(
                    f"sources.{self.name}: {self._tables[0].path} holds {self.holds} and "
                    f"{table.path} {schema.holds}; make two sources of them"
                )
            needed = {*schema.needed(), *self._config.where}
            short = self._named(table.path)
            for item in rows.items(schema, table.rows(needed), str(table.path), short):
                self.bytes_read = done + table.bytes_read
                yield item
            done += table.bytes_total
        rows.refuse_if_mostly_malformed()
        self.bytes_read = done

    def _schema(self, table: Table) -> Schema | None:
        types = table.columns()
        if not types:
            return None
        return schema_for(types, self._config, origin=f"sources.{self.name} ({table.path})")

    def _contents(self) -> Any:
        files = [file for table in self._tables for file in table.files]
        hashes = [[self._named(file), hash_file(file)] for file in files]
        return ["files", hashes, self._config.columns, self._config.where]

    def _named(self, path: Path) -> str:
        """Its path below the folder that all files share: two folders may have a `part-0`."""
        return Path(os.path.abspath(path)).relative_to(self._folder).as_posix()

    def _listed(self) -> str:
        return ", ".join(str(table.path) for table in self._tables[:3])


class RowReader:
    """Rows of any origin to items; counts drops, and refuses data that is mostly malformed."""

    def __init__(self, name: str, where: Mapping[str, Where], drops: Counter[str]) -> None:
        self._name = name
        self._where = {column: _keys(wanted) for column, wanted in where.items()}
        self._drops = drops
        self._num_rows = 0
        self._num_malformed = 0
        self._first_malformed = ""

    def items(
        self, schema: Schema, rows: Iterator[tuple[int, Row | Malformed]], origin: str, short: str
    ) -> Iterator[Item]:
        """Items of `rows`, named `short`:NUMBER; `origin` is named in messages."""
        for position, (number, row) in enumerate(rows):
            self._num_rows += 1
            if isinstance(row, Malformed):
                self._malformed(row, f"{origin}:{number}", position)
            elif not _matches(row, self._where):
                self._drops["where"] += 1
            else:
                item = schema.parse(row, id=f"{short}:{number}", source=self._name)
                if item is Unusable.WRONG_TYPE:
                    detail = f"{', '.join(schema.needed())}: a value has the wrong type"
                    malformed = Malformed(reason=item, detail=detail)
                    self._malformed(malformed, f"{origin}:{number}", position)
                elif isinstance(item, Unusable):
                    self._drops[str(item)] += 1
                else:
                    yield item

    def refuse_if_mostly_malformed(self) -> None:
        """Call when all rows were read.

        Raises:
            ValueError: more than 1 % of them were malformed.
        """
        if self._num_malformed > _MAX_MALFORMED_SHARE * self._num_rows:
            raise ValueError(
                f"{self._first_malformed}; {self._num_malformed} of {self._num_rows} rows of "
                f"source {self._name!r} are malformed, more than 1 %: repair or replace the file"
            )

    def _malformed(self, row: Malformed, where: str, position: int) -> None:
        self._drops[str(row.reason)] += 1
        self._num_malformed += 1
        self._first_malformed = self._first_malformed or f"{where}: {row.detail}"
        if position == 0:
            raise ValueError(f"{where}: {row.detail} (first row of source {self._name!r})")
        if self._num_malformed % 100 == 0:
            self.refuse_if_mostly_malformed()


_Key = tuple[bool, Any]


def _keys(wanted: Where) -> frozenset[_Key]:
    return frozenset(map(_key, wanted if isinstance(wanted, list) else [wanted]))


def _key(value: Any) -> _Key:
    """What makes two values equal: to Python alone, True would be 1."""
    return isinstance(value, bool), value


def _matches(row: Row, where: Mapping[str, frozenset[_Key]]) -> bool:
    """Whether each column has one of its values; null, lists and objects equal nothing."""
    values = ((look_up(row, column), wanted) for column, wanted in where.items())
    return all(
        isinstance(value, str | numbers.Number) and _key(value) in wanted
        for value, wanted in values
    )


def _common_folder(paths: Iterable[Path]) -> str:
    return os.path.commonpath([Path(os.path.abspath(path)).parent for path in paths])


def hash_file(path: Path) -> str:
    """Hash of a file's contents; of its size and 64 windows of 1 MB when it is above 256 MB.

    A Parquet footer, which describes every page, is always within the last window. A file is read
    once in a process for as long as its size and time of change (ns) stay the same.
    """
    found = path.stat()
    return _hash_contents(path.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _hash_contents(path: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        else:
            for window in range(_WINDOWS):
                file.seek((size - (1 << 20)) * window // (_WINDOWS - 1))
                digest.update(file.read(1 << 20))
    return digest.hexdigest()
