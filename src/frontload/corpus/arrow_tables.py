"""Rows of Parquet files and of folders written by `datasets`' save_to_disk.

Only the columns asked for are decoded, in batches of about 8 MB, so a file of any size, and row
groups of any size, are read in constant memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from frontload.corpus.paths import column_of
from frontload.corpus.tables import Malformed, Row, Table

_BATCH_BYTES = 8 << 20
_BUFFER = 1 << 20


class Parquet(Table):
    """A Parquet file, read in batches of about 8 MB."""

    def columns(self) -> dict[str, str]:
        return _arrow_columns(self._open().schema_arrow)

    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        self.bytes_read = 0
        file = self._open()
        metadata = file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        row_bytes = sum(group.total_byte_size for group in groups) // max(metadata.num_rows, 1)
        batches = file.iter_batches(
            batch_size=min(max(_BATCH_BYTES // (row_bytes + 1), 16), 8192),
            columns=_stored_names(columns, file.schema_arrow),
        )
        number = 0
        for batch in _named(self.path, batches):
            for row in batch.to_pylist():
                yield number, row
                number += 1
            self.bytes_read = self.bytes_total * number // metadata.num_rows

    def _open(self) -> Any:
        import pyarrow.parquet

        try:
            # Without pre-buffering a row group streams page by page; groups can be gigabytes.
            return pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: not a complete Parquet file ({error})") from None


class SavedDataset(Table):
    """A folder written by `Dataset.save_to_disk`: Arrow streams listed in state.json."""

    def __init__(self, path: Path) -> None:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        super().__init__(path, tuple(path / file["filename"] for file in state["_data_files"]))

    def columns(self) -> dict[str, str]:
        import pyarrow

        with pyarrow.memory_map(str(self.files[0])) as mapped:
            return _arrow_columns(pyarrow.ipc.open_stream(mapped).schema)

    def rows(self, columns: Iterable[str]) -> Iterator[tuple[int, Row | Malformed]]:
        import pyarrow

        self.bytes_read = 0
        number = 0
        for file in self.files:
            with pyarrow.memory_map(str(file)) as mapped:
                stream = pyarrow.ipc.open_stream(mapped)
                names = {column_of(path, stream.schema.names) for path in columns}
                wanted = [name for name in stream.schema.names if name in names]
                for batch in _named(file, iter(stream)):
                    for row in batch.select(wanted).to_pylist():
                        yield number, row
                        number += 1
                    self._count(batch.nbytes)


def _named(path: Path, batches: Iterator[Any]) -> Iterator[Any]:
    import pyarrow

    try:
        yield from batches
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged data ({error}); fetch or write it again") from None


def _arrow_columns(schema: Any) -> dict[str, str]:
    return {field.name: _arrow_type(field.type) for field in schema}


def _arrow_type(type_: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "string"
    if types.is_list(type_) or types.is_large_list(type_):
        return "list"
    if types.is_struct(type_):
        return "object"
    return "bool" if types.is_boolean(type_) else str(type_)


def _stored_names(columns: Iterable[str], schema: Any) -> list[str]:
    """What Parquet must read: a field of a struct alone, a string with JSON in it whole."""
    types = {field.name: field.type for field in schema}
    return sorted({_stored_name(path, types) for path in columns})


def _stored_name(path: str, types: dict[str, Any]) -> str:
    from pyarrow import types as kinds

    column = column_of(path, types)
    if column is None or column == path or not kinds.is_struct(types[column]):
        return column or path
    fields = {field.name: field.type for field in types[column]}
    return f"{column}.{_stored_name(path[len(column) + 1 :], fields)}"
