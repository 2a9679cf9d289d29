"""What is measured: the same problems and passages for every arm, stage and seed.

Items are built once for a study (`build_items` reads the held-out side of sources, which takes as
long as reading them) and kept in one Parquet file, token ids included, so that a stage's evaluation
starts at once. They depend on the evaluation settings, the sources, the tokenizer and the context,
and on nothing else.

    items = build_items(spec.evaluation, sources, tokenizer, context=64)
    items.save(folder)
    items = EvaluationItems.load(folder)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from frontload.atomic import replacing
from frontload.evaluate.config import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from frontload.corpus.stream import Source

_FILE = "items.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How to draw a family's problem again, for its scorer."""

    seed: int
    index: int
    difficulty: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemItem:
    """A held-out problem, its reference answer and a right response to it.

    `response_ids` are the tokens of the gold response with its end token; None when prompt and
    response exceed the context, in which case no likelihood is taken. `draw` is None for problems
    read from a source, which are graded by their `gold`.
    """

    benchmark: str
    family: str
    id: str
    prompt: str
    gold: str
    gold_response: str
    chance: float
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...] | None
    generate: bool
    draw: Draw | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWindow:
    """At most `context` tokens of held-out text; the first is given, the others are scored.

    `num_bytes` is the length of the scored text in UTF-8. Windows of a passage overlap by one
    token, so that each of its tokens is scored exactly once.
    """

    benchmark: str
    domain: str
    id: str
    ids: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationItems:
    """Everything one evaluation measures. `notes` says what was left out, and why."""

    problems: tuple[ProblemItem, ...]
    windows: tuple[TextWindow, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.problems) + len(self.windows)

    def save(self, directory: Path) -> None:
        """Write all items to `directory / items.parquet`, whole or not at all."""
        rows = [_problem_row(item) for item in self.problems]
        rows += [_window_row(window) for window in self.windows]
        notes = {"notes": json.dumps(self.notes)}
        schema = _SCHEMA.with_metadata(notes)
        write_table(pa.Table.from_pylist(rows, schema=schema), directory / _FILE)

    @classmethod
    def load(cls, directory: Path) -> EvaluationItems:
        """Read what `save` wrote."""
        table = pq.read_table(directory / _FILE)
        rows: list[dict[str, Any]] = table.to_pylist()
        return cls(
            problems=tuple(_problem(row) for row in rows if row["kind"] == "problem"),
            windows=tuple(_window(row) for row in rows if row["kind"] == "text"),
            notes=tuple(json.loads(table.schema.metadata[b"notes"])),
        )


def build_items(
    config: EvaluationConfig,
    sources: Mapping[str, Source],
    tokenizer: PreTrainedTokenizerFast,
    *,
    context: int,
) -> EvaluationItems:
    """Draw, read and encode all items; `sources` are the held-out sides that `config` names.

    Raises:
        ValueError: an unknown family, or a held-out side without anything that fits; the message
            names the setting and the remedy.
    """
    from frontload.evaluate.passages import read_windows
    from frontload.evaluate.questions import draw_problems, read_problems

    problems: list[ProblemItem] = []
    windows: list[TextWindow] = []
    notes: list[str] = []
    for name, benchmark in config.benchmarks.items():
        if benchmark.source is None:
            problems += draw_problems(
                name, benchmark, tokenizer, seed=config.seed, context=context, notes=notes
            )
        else:
            source = sources[benchmark.source]
            problems += read_problems(
                name, benchmark, source, tokenizer, context=context, notes=notes
            )
    for name, text in config.text.items():
        windows += read_windows(name, text, sources[text.source], tokenizer, context=context)
    return EvaluationItems(
        problems=_told_apart(problems), windows=_told_apart(windows), notes=tuple(notes)
    )


_Measured = TypeVar("_Measured", ProblemItem, TextWindow)


def _told_apart(items: Iterable[_Measured]) -> tuple[_Measured, ...]:
    """Ids made unique per benchmark: the second item called `x` becomes `x#2`.

    Files may have a column of repeated ids, and parts of a union files of the same name; results
    take rows of one benchmark and id for samples of one item.
    """
    items = tuple(items)
    taken = {(item.benchmark, item.id) for item in items}
    met: set[tuple[str, str]] = set()
    apart: list[_Measured] = []
    for item in items:
        key, number = (item.benchmark, item.id), 1
        while key in met or (number > 1 and key in taken):
            number += 1
            key = (item.benchmark, f"{item.id}#{number}")
        met.add(key)
        apart.append(item if number == 1 else dataclasses.replace(item, id=key[1]))
    return tuple(apart)


_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("benchmark", pa.string()),
        ("family", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("gold_response", pa.string()),
        ("chance", pa.float64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("generate", pa.bool_()),
        ("seed", pa.int64()),
        ("index", pa.int64()),
        ("difficulty", pa.list_(pa.int64())),
        ("num_bytes", pa.int64()),
    ]
)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file; a kill or a full disk leaves the old file or none."""
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


def _problem_row(item: ProblemItem) -> dict[str, Any]:
    row = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    draw = row.pop("draw")
    return row | (dataclasses.asdict(draw) if draw else {}) | {"kind": "problem"}


def _problem(row: dict[str, Any]) -> ProblemItem:
    fields: dict[str, Any] = {f.name: row.get(f.name) for f in dataclasses.fields(ProblemItem)}
    fields |= {"prompt_ids": tuple(row["prompt_ids"]), "response_ids": _ids(row["response_ids"])}
    if row["seed"] is not None:
        asked = row["difficulty"]
        difficulty = (asked[0], asked[1]) if asked else None
        fields["draw"] = Draw(seed=row["seed"], index=row["index"], difficulty=difficulty)
    return ProblemItem(**fields)


def _window_row(window: TextWindow) -> dict[str, Any]:
    return {
        "kind": "text",
        "benchmark": window.benchmark,
        "family": window.domain,
        "id": window.id,
        "prompt_ids": window.ids,
        "num_bytes": window.num_bytes,
    }


def _window(row: dict[str, Any]) -> TextWindow:
    return TextWindow(
        benchmark=row["benchmark"],
        domain=row["family"],
        id=row["id"],
        ids=tuple(row["prompt_ids"]),
        num_bytes=row["num_bytes"],
    )


def _ids(ids: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)
