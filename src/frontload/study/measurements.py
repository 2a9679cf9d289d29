"""A finished stage's files as arrays: what the analysis reads of a run.

Reads `evaluation.parquet`, `ledger.parquet` and `metrics.jsonl` of a stage folder. Values of a
metric come as one array per *cell* (benchmark, family), items in the order of their ids, so that
two stages evaluated on the same items line up by position.

Per item: accuracy is 100 x the mean over samples (truncated and unparsed answers count as wrong);
gold_nll is nats over the cell's mean number of gold tokens, so that the mean over items is nats
per token; bits_per_byte likewise over the cell's mean number of bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from frontload.corpus.ledger import read_ledger
from frontload.study.results import Point, Sample
from frontload.study.spec import Metric

Cell = tuple[str, str]
Floats = np.ndarray

OUTCOMES = ("correct", "wrong", "truncated", "unparsed")
POOLED = "(other)"
_NUMBERS = ("correct", "gold_nll", "gold_tokens", "gold_bytes", "chance")
_COLUMNS = ("kind", "benchmark", "family", "item", "outcome", "num_generated", *_NUMBERS)
_SAMPLE = ("benchmark", "family", "item", "sample", "prompt", "gold", "output", "answer", "outcome")
_MAX_POINTS = 60
_MAX_PROMPT, _MAX_OUTPUT = 400, 700


@dataclass(frozen=True, kw_only=True)
class Generations:
    """What became of the generations of one cell."""

    counts: dict[str, int]
    num_items: int
    num_generated: int
    chance: float
    """In points."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage folder, read."""

    directory: Path
    values: Mapping[Metric, Mapping[Cell, Floats]]
    items: Mapping[Metric, Mapping[Cell, tuple[str, ...]]]
    generations: Mapping[Cell, Generations]
    ledger: pa.Table
    loss: tuple[Point, ...]
    train_seconds: float
    evaluate_seconds: float | None
    peak_memory_bytes: float | None
    tokens: int
    num_parameters: int | None

    def cells(self, metric: Metric, benchmark: str) -> tuple[Cell, ...]:
        """The cells of a benchmark that hold this metric."""
        return tuple(cell for cell in self.values[metric] if cell[0] == benchmark)


def is_finished(directory: Path) -> bool:
    """Whether a stage folder can be read: `DONE` is written last."""
    return (directory / "DONE").is_file()


def read_stage(directory: Path) -> Stage:
    """Read a finished stage (about 10 ms for 1,000 items).

    Raises:
        ValueError: evaluation.parquet lacks a column; the message names the file.
    """
    rows = _evaluation(directory / "evaluation.parquet")
    ledger = read_ledger(directory / "ledger.parquet")
    steps = list(_steps(directory / "metrics.jsonl"))
    told = json.loads((directory / "DONE").read_text(encoding="utf-8") or "{}")
    values: dict[Metric, dict[Cell, Floats]] = {}
    items: dict[Metric, dict[Cell, tuple[str, ...]]] = {}
    for metric in ("accuracy", "gold_nll", "bits_per_byte"):
        values[metric], items[metric] = {}, {}
        for cell, (names, numbers) in _per_item(rows, metric):
            values[metric][cell], items[metric][cell] = numbers, names
    return Stage(
        directory=directory,
        values=values,
        items=items,
        generations=dict(_generations(rows)),
        ledger=ledger,
        loss=_curve(steps),
        train_seconds=float(told.get("train_seconds", steps[-1]["seconds"] if steps else 0.0)),
        evaluate_seconds=told.get("evaluate_seconds"),
        peak_memory_bytes=told.get("peak_memory_bytes"),
        tokens=sum(ledger.column("tokens").to_pylist()),
        num_parameters=_num_parameters(directory / "model"),
    )


def _evaluation(path: Path) -> dict[str, np.ndarray]:
    with pq.ParquetFile(path) as file:
        missing = set(_COLUMNS) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; evaluate the stage again")
        table = file.read(columns=list(_COLUMNS), use_threads=False)  # threads cost more here
    rows = {name: table.column(name).to_numpy() for name in _COLUMNS}
    for name in _NUMBERS:
        rows[name] = rows[name].astype(float)
    rows["family"] = _pool_single_items(rows)
    return rows


def _pool_single_items(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Families of a benchmark with one item, put together: one item has no variance to know."""
    families = rows["family"].astype(object)
    families[families == None] = ""  # noqa: E711  (elementwise)
    for benchmark in set(rows["benchmark"]):
        here = rows["benchmark"] == benchmark
        sizes = {f: len(set(rows["item"][here & (families == f)])) for f in set(families[here])}
        pooled: list[str] = []
        for family in sorted(sizes, key=lambda name: (sizes[name], name)):
            if sizes[family] > 1 and (not pooled or sum(sizes[f] for f in pooled) > 1):
                break
            pooled.append(family)
        if len(pooled) > 1:
            families[here & np.isin(families.astype(str), pooled)] = POOLED
    return families


def _cells(rows: dict[str, np.ndarray], keep: np.ndarray) -> Iterator[tuple[Cell, np.ndarray]]:
    """Each cell of the kept rows, sorted by name, with its row numbers."""
    at = np.flatnonzero(keep)
    keys = [*zip(rows["benchmark"][at], rows["family"][at], strict=True)]
    numbers: dict[Cell, list[int]] = {}
    for row, key in zip(at.tolist(), keys, strict=True):
        numbers.setdefault(key, []).append(row)
    for cell in sorted(numbers):
        yield cell, np.array(numbers[cell])


def _per_item(
    rows: dict[str, np.ndarray], metric: Metric
) -> Iterator[tuple[Cell, tuple[tuple[str, ...], Floats]]]:
    is_text = rows["kind"] == "text"
    if metric == "accuracy":
        keep = ~is_text & np.isin(rows["outcome"].astype(str), OUTCOMES)
        numbers, sizes = 100 * np.nan_to_num(rows["correct"]), None
    elif metric == "gold_nll":
        keep, numbers, sizes = ~is_text, rows["gold_nll"], rows["gold_tokens"]
    else:
        keep, numbers, sizes = is_text, rows["gold_nll"] / np.log(2), rows["gold_bytes"]
    for cell, at in _cells(rows, keep & ~np.isnan(numbers)):
        names, where = np.unique(rows["item"][at].astype(str), return_inverse=True)
        counts = np.bincount(where)
        means = np.bincount(where, numbers[at]) / counts
        if sizes is not None:
            means = means / (np.bincount(where, sizes[at]) / counts).mean()
        yield cell, (tuple(names.tolist()), means)


def _generations(rows: dict[str, np.ndarray]) -> Iterator[tuple[Cell, Generations]]:
    outcomes = rows["outcome"].astype(str)
    for cell, at in _cells(rows, (rows["kind"] != "text") & np.isin(outcomes, OUTCOMES)):
        yield (
            cell,
            Generations(
                counts={name: int((outcomes[at] == name).sum()) for name in OUTCOMES},
                num_items=len(set(rows["item"][at])),
                num_generated=int(rows["num_generated"][at].sum()),
                chance=float(100 * np.nan_to_num(rows["chance"][at]).mean()),
            ),
        )


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl; a line cut by a kill is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            step = json.loads(line)
            if "loss" in step and "share" in step:
                yield step


def _curve(steps: list[dict[str, Any]]) -> tuple[Point, ...]:
    """The loss over the tokens consumed, averaged over at most 60 equal spans of the budget."""
    if not steps:
        return ()
    bins = np.array([min(int(step["share"] * _MAX_POINTS), _MAX_POINTS - 1) for step in steps])
    loss = np.array([step["loss"] for step in steps], float)
    tokens = np.array([step["tokens"] for step in steps], float)
    return tuple(
        Point(tokens=float(tokens[bins == b].mean()), loss=float(loss[bins == b].mean()))
        for b in np.unique(bins)
    )


def _num_parameters(folder: Path) -> int | None:
    """Parameters in a model folder, from the headers alone (tied weights are stored once)."""
    shapes = [shape for path in folder.glob("*.safetensors") for shape in _shapes(path)]
    return int(sum(np.prod(shape, dtype=np.int64) for shape in shapes)) if shapes else None


def _shapes(path: Path) -> list[list[int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def read_samples(directory: Path) -> tuple[Sample, ...]:
    """One generation per outcome: right, wrong, truncated, unparsed, as far as they occur.

    Items come in the order of a hash of their ids, so that stages show the same ones where they
    can, and not always the first family.
    """
    with pq.ParquetFile(directory / "evaluation.parquet") as file:
        table = file.read(columns=list(_SAMPLE), use_threads=False)
    table = table.filter(pc.is_in(table.column("outcome"), pa.array(OUTCOMES)))
    keys = zip(*(table.column(name).to_pylist() for name in _SAMPLE[:4]), strict=True)
    digests = [hashlib.blake2b(repr(key).encode(), digest_size=8).digest() for key in keys]
    outcomes = table.column("outcome").to_pylist()
    first: dict[str, int] = {}
    for row in sorted(range(len(digests)), key=digests.__getitem__):
        first.setdefault(outcomes[row], row)
    return tuple(_sample(table.slice(first[o], 1).to_pylist()[0]) for o in OUTCOMES if o in first)


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        benchmark=row["benchmark"],
        family=row["family"] or "",
        outcome=row["outcome"],
        prompt=_cut(row["prompt"] or "", _MAX_PROMPT),
        gold=_cut(row["gold"] or "", _MAX_PROMPT),
        output=_cut(row["output"] or "", _MAX_OUTPUT),
        answer=_cut(row["answer"] or "", _MAX_PROMPT),
    )


def _cut(text: str, limit: int) -> str:
    left_out = len(text) - limit
    return text if left_out <= 0 else f"{text[:limit]} [… {left_out} more characters]"
