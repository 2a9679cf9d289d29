"""From rows to items: which column is the text, the prompt, the response.

`infer_schema` decides once a table, from the columns' names and types, after what the user mapped;
`Schema.parse` turns a row into an item, or into the reason why it is none. Known without a mapping:

    text (or content)                                a Document
    messages, conversations (role/content, from/value as in OpenThoughts3)    an Example
    prompt, question, problem, instruction (+ input), query, with
    response, output, completion, solution, answer   an Example

Beside them: a reasoning column or per-message `reasoning_content` goes into the think block; gold,
verified and family columns are carried; GSM8K's "#### 42" is read as gold. Items are named
FILE:ROW, unique in a source, unless `columns: {id: ...}` names a column.
Rows of Nemotron-Pretraining-SFT-v1 have `text` (a Document) or `messages`, and uuid and metadata.
A document's `family` column becomes its domain. A column may be a dotted path (`paths`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from frontload.corpus.config import Tabular
from frontload.corpus.example import Document, Example, Item
from frontload.corpus.paths import column_of, look_up
from frontload.corpus.stream import Holds
from frontload.corpus.turns import Unusable, join_thinking, read_turns

_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input"),
    "response": ("response", "output", "completion", "solution", "answer", "generation"),
    "text": ("text", "content"),
    "system": ("system", "system_prompt"),
    "reasoning": ("reasoning", "reasoning_content", "thinking", "reasoning_trace", "rationale"),
    "gold": ("gold", "ground_truth", "expected_answer", "reference_answer", "target", "answer"),
    "verified": ("verified", "correct", "is_correct"),
    "family": ("family", "category", "subject", "domain", "set", "task", "metadata.category"),
}
FIELDS = (*_NAMES, "id")
_TYPES = {
    "text": ("string",),
    "messages": ("list", "string"),
    "prompt": ("string", "list"),
    "response": ("string", "list"),
}
_WITHOUT_FIELDS = ("list", "bool", "int", "uint", "float", "double")
_GOLD_MARK = "####"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """Field of an item -> column of a table; `context` is put before the prompt."""

    columns: Mapping[str, str]
    context: str | None = None

    @property
    def holds(self) -> Holds:
        return "documents" if "text" in self.columns else "examples"

    def parse(self, row: Mapping[str, Any], *, id: str, source: str) -> Item | Unusable:
        """The row's item, or why there is none: wrong_type, empty_text, empty_response, ..."""
        if "id" in self.columns:
            id = str(look_up(row, self.columns["id"]))
        if "text" in self.columns:
            return self._document(row, id, source)
        turns = self._turns(row)
        if isinstance(turns, Unusable):
            return turns
        return Example(
            id=id,
            messages=turns,
            source=source,
            family=self._word(row, "family"),
            gold=self._word(row, "gold") or _gold_after_mark(turns[-1].content),
            verified=_as_verdict(self._value(row, "verified")),
        )

    def _document(self, row: Mapping[str, Any], id: str, source: str) -> Document | Unusable:
        text = self._value(row, "text")
        if not isinstance(text, str):
            return Unusable.WRONG_TYPE
        if not text or text.isspace():
            return Unusable.EMPTY_TEXT
        return Document(id=id, text=text, source=source, domain=self._word(row, "family"))

    def _turns(self, row: Mapping[str, Any]) -> Any:
        if "messages" in self.columns:
            turns = read_turns(self._value(row, "messages"))
        else:
            prompt = self._value(row, "prompt")
            if self.context is not None and isinstance(prompt, str):
                extra = look_up(row, self.context)
                prompt = f"{prompt}\n\n{extra}" if isinstance(extra, str) and extra else prompt
            turns = read_turns(prompt, self._value(row, "response"))
        if isinstance(turns, Unusable):
            return turns
        return join_thinking(turns, self._value(row, "system"), self._value(row, "reasoning"))

    def _value(self, row: Mapping[str, Any], field: str) -> Any:
        column = self.columns.get(field)
        return None if column is None else look_up(row, column)

    def _word(self, row: Mapping[str, Any], field: str) -> str:
        value = self._value(row, field)
        return "" if value is None or isinstance(value, dict | list) else str(value)

    def needed(self) -> tuple[str, ...]:
        """Columns that `parse` looks at."""
        return (*self.columns.values(), *([self.context] if self.context else []))


def schema_for(types: Mapping[str, str], config: Tabular, *, origin: str) -> Schema:
    """`infer_schema` with the source's own `columns`, once its `where` is known to make sense."""
    for column in config.where:
        _require_column(types, column, where=f"{origin}: where")
    return infer_schema(types, config.columns, origin=origin)


def infer_schema(types: Mapping[str, str], mapping: Mapping[str, str], *, origin: str) -> Schema:
    """Decide which columns make an item.

    Args:
        types: column -> type word, as `Table.columns` gives them.
        mapping: our field -> their column, taken as said; the other fields are inferred.
        origin: source and file, for messages.

    Raises:
        ValueError: unknown field, missing column, or nothing usable; names the remedy.
    """
    _check_mapping(types, mapping, origin)
    columns = dict(mapping)
    if not {"text", "messages", "prompt", "response"} & set(mapping):
        columns |= _main_columns(types)
    elif {"prompt", "response"} & set(mapping):
        for field in {"prompt", "response"} - set(mapping):
            columns |= _named({field: _first(field, types)})
    if not ({"text", "messages"} & set(columns) or {"prompt", "response"} <= set(columns)):
        listed = ", ".join(f"{name} ({type_})" for name, type_ in types.items())
        raise ValueError(
            f"{origin}: no column holds text, messages, or a prompt with its response; found "
            f"{listed}. Say which do, e.g. columns: {{prompt: question, response: solution}}"
        )
    aside = () if "text" in columns else ("system", "reasoning", "gold", "verified")
    for field in (*aside, "family"):
        free = {name: type_ for name, type_ in types.items() if name not in columns.values()}
        columns = _named({field: _first(field, free)}) | columns
    has_context = columns.get("prompt") == "instruction" and "input" in types
    return Schema(columns=columns, context="input" if has_context else None)


def _main_columns(types: Mapping[str, str]) -> dict[str, str]:
    if column := _first("messages", types):
        return {"messages": column}
    prompt, response = _first("prompt", types), _first("response", types)
    if prompt and response:
        return {"prompt": prompt, "response": response}
    return _named({"text": _first("text", types)})


def _first(field: str, types: Mapping[str, str]) -> str | None:
    wanted = _TYPES.get(field)
    for name in _NAMES[field]:
        base = column_of(name, types)
        if base is None or (base != name and types[base] != "object"):
            continue
        if wanted is None or types[base] in wanted or types[base] == "null":
            return name
    return None


def _named(columns: Mapping[str, str | None]) -> dict[str, str]:
    return {field: column for field, column in columns.items() if column is not None}


def _check_mapping(types: Mapping[str, str], mapping: Mapping[str, str], origin: str) -> None:
    for field, column in mapping.items():
        if field not in FIELDS:
            raise ValueError(f"{origin}: columns.{field}: {_unknown('field', field, FIELDS)}")
        _require_column(types, column, where=f"{origin}: columns.{field}")
        wanted = _TYPES.get(field)
        if wanted and column in types and types[column] not in (*wanted, "null"):
            raise ValueError(
                f"{origin}: columns.{field}: column {column!r} is {types[column]}, "
                f"not {' or '.join(wanted)}"
            )
    main = sorted({"text", "messages", "prompt", "response"} & set(mapping))
    if len(main) > 1 and main != ["prompt", "response"]:
        raise ValueError(f"{origin}: columns: {' and '.join(main)} exclude each other; keep one")
    if main == ["text"] and (idle := sorted(set(mapping) - {"text", "family", "id"})):
        raise ValueError(f"{origin}: columns.{idle[0]} has no effect on documents; remove it")


def _require_column(types: Mapping[str, str], path: str, *, where: str) -> None:
    """Refuse a column that the table lacks, with the ones it has, and fields of a plain value."""
    column = column_of(path, types)
    if column is None:
        raise ValueError(f"{where}: {_unknown('column', path, types)}")
    if column != path and types[column].startswith(_WITHOUT_FIELDS):
        raise ValueError(f"{where}: no {path!r}: column {column!r} is {types[column]}, no object")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"no {what} {name!r}; found {', '.join(known)}" + (
        f"; did you mean {close[0]!r}?" if close else ""
    )


def _gold_after_mark(response: str) -> str | None:
    _, mark, gold = response.rpartition(_GOLD_MARK)
    return gold.strip() or None if mark else None


def _as_verdict(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return bool(value) if isinstance(value, bool | int | float) else None
