"""Dotted paths: `a.b.c` is field c of field b of column a, each an object or JSON text of one.

A column whose own name has dots in it wins over a path through a shorter one. A field that a row
lacks is null, like a null in it. Lists are not entered.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any


def column_of(path: str, columns: Container[str]) -> str | None:
    """The column a path starts from, the longest that fits; None when there is none."""
    parts = path.split(".")
    starts = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((start for start in starts if start in columns), None)


def look_up(row: Mapping[str, Any], path: str) -> Any:
    """The value at `path`, to any depth; None where a row has nothing there."""
    if path in row:
        return row[path]
    column = column_of(path, row)
    if column is None:
        return None
    value = row[column]
    if isinstance(value, str) and value.startswith("{"):
        value = _parse_json(value)
    return look_up(value, path[len(column) + 1 :]) if isinstance(value, dict) else None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # text that only starts like an object holds no field
        return None
