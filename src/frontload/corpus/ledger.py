"""What was trained on: counted from the batches themselves, in one unit, for every source.

Guarantees: counts are exact, unique counts included (a bitmap of rows and of prompts per source,
no sketch); a stage that was killed and resumed from `state()` ends with the same ledger, bit for
bit; the file is replaced at once. Gives up: unique tokens over several stages, which are summed
(what a child reads again counts in both); unique prompts are united wherever sources have the same
set of prompts, and summed otherwise.

    ledger = StageLedger(stage="sft", kind="sft", order=order, packs=packs)
    ledger.add(batch, step=0, learning_rate=0.004)      # after each optimizer step
    write_ledger(ledger.table(), path)

Columns of ledger.parquet, one row per source: stage, kind, source, reasoning; tokens;
unique_tokens (tokens at distinct positions of the packed source); supervised_tokens (targets that
carried loss), unique_supervised_tokens; examples (or documents) that began; unique_prompts;
passes (tokens over the tokens of one pass); first_step, last_step (-1: never read);
mean_learning_rate (at exposure, weighted by tokens); prompt_set, prompts_seen (bitmap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from frontload.atomic import replacing
from frontload.corpus.batches import Batch
from frontload.corpus.exposure import COUNTS, STATE, SourceCounts
from frontload.corpus.mixture import Order
from frontload.corpus.rows import PackedRows
from frontload.train.config import StageKind

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("reasoning", pa.bool_()),
        ("tokens", pa.int64()),
        ("unique_tokens", pa.int64()),
        ("supervised_tokens", pa.int64()),
        ("unique_supervised_tokens", pa.int64()),
        ("examples", pa.int64()),
        ("unique_prompts", pa.int64()),
        ("passes", pa.float64()),
        ("first_step", pa.int64()),
        ("last_step", pa.int64()),
        ("mean_learning_rate", pa.float64()),
        ("prompt_set", pa.string()),
        ("prompts_seen", pa.binary()),
    ]
)


class StageLedger:
    """Accumulates one stage's ledger from assembled batches (about 0.1 ms for 32 rows)."""

    def __init__(
        self, *, stage: str, kind: StageKind, order: Order, packs: Mapping[str, PackedRows]
    ) -> None:
        self.stage, self.kind, self.sources = stage, kind, order.sources
        self._sources = [SourceCounts(packs[name]) for name in order.sources]

    def add(self, batch: Batch, *, step: int, learning_rate: float) -> None:
        """Count the rows of one optimizer step (`step` from 0), trained at that learning rate."""
        for index in np.unique(batch["source"]):
            rows = np.flatnonzero(batch["source"] == index)
            self._sources[index].add(batch, rows, step, learning_rate)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything counted so far, as arrays for an in-stage checkpoint."""
        return {
            f"{name}/{key}": value
            for name, counts in zip(self.sources, self._sources, strict=True)
            for key, value in counts.state().items()
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` returned."""
        for name, counts in zip(self.sources, self._sources, strict=True):
            counts.load_state({key: state[f"{name}/{key}"] for key in STATE})

    def table(self) -> pa.Table:
        """The ledger so far, one row per source of the stage, in the order of the config."""
        head = {"stage": self.stage, "kind": self.kind}
        return pa.Table.from_pylist(
            [head | counts.row() for counts in self._sources], schema=SCHEMA
        )


def write_ledger(table: pa.Table, path: Path) -> None:
    """Write a stage's ledger.parquet, replacing it at once."""
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished)


def read_ledger(path: Path) -> pa.Table:
    """Read a stage's ledger.parquet."""
    return pq.read_table(path, schema=SCHEMA)


@dataclass(frozen=True, kw_only=True)
class ArmLedger:
    """What one arm read over all its stages; the columns a contrast may require to be equal.

    `reasoning_tokens` come from sources of examples, whatever the stage; `pretrain_tokens` from
    the stages pretrain and midtrain. `by_source` has, per source, the sums of the stage ledgers'
    counts. `unique_prompts` counts over the whole arm: the union where sources share their set of
    prompts, else the sum (then `unique_prompts_exact` is False: prompts may be counted twice).
    """

    tokens: int
    supervised_tokens: int
    reasoning_tokens: int
    pretrain_tokens: int
    sft_tokens: int
    unique_prompts: int
    unique_prompts_exact: bool
    by_source: Mapping[str, Mapping[str, int]]
    stages: pa.Table
    """The stages' ledgers, one below the other."""


def sum_over_stages(tables: Sequence[pa.Table]) -> ArmLedger:
    """Add up the ledgers of an arm's stages, shared ancestors included, from first to last."""
    stages = pa.concat_tables(tables)
    rows = stages.to_pylist()
    unions = _prompt_unions(rows)
    return ArmLedger(
        tokens=sum(row["tokens"] for row in rows),
        supervised_tokens=sum(row["supervised_tokens"] for row in rows),
        reasoning_tokens=sum(row["tokens"] for row in rows if row["reasoning"]),
        pretrain_tokens=sum(row["tokens"] for row in rows if row["kind"] != "sft"),
        sft_tokens=sum(row["tokens"] for row in rows if row["kind"] == "sft"),
        unique_prompts=sum(unions.values()),
        unique_prompts_exact=len(unions) <= 1,
        by_source=_sums_by_source(rows),
        stages=stages,
    )


def require_equal(
    arms: Mapping[str, ArmLedger], columns: Sequence[str], *, tolerance_tokens: int
) -> None:
    """Refuse a comparison of arms whose budgets differ by more than `tolerance_tokens`.

    One packed row (the context) is the tolerance a study uses.

    Raises:
        ValueError: prints every differing column with each arm's amount and the difference.
    """
    lines = []
    for column in columns:
        amounts = {name: getattr(arm, column) for name, arm in arms.items()}
        gap = max(amounts.values()) - min(amounts.values())
        if gap > tolerance_tokens:
            listed = ", ".join(f"{name} {amount:,}" for name, amount in amounts.items())
            lines.append(f"{column}: {listed} (difference {gap:,})")
    if lines:
        raise ValueError(
            f"budgets differ by more than {tolerance_tokens:,} tokens: {'; '.join(lines)}. Give "
            "the arms equal budgets, or declare the contrast `unequal` and say why"
        )


def _sums_by_source(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        total = sums.setdefault(row["source"], dict.fromkeys((*COUNTS, "unique_prompts"), 0))
        for key in COUNTS:
            total[key] += row[key]
    for name, total in sums.items():
        own = [row for row in rows if row["source"] == name]
        total["unique_prompts"] = sum(_prompt_unions(own).values())
    return sums


def _prompt_unions(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Set of prompts -> how many of it were read in any of the rows."""
    seen: dict[str, NDArray[np.uint8]] = {}
    for row in rows:
        if row["unique_prompts"]:
            bits = np.frombuffer(row["prompts_seen"], np.uint8)
            known = seen.get(row["prompt_set"])
            seen[row["prompt_set"]] = bits if known is None else known | bits
    return {key: int(np.bitwise_count(bits).sum()) for key, bits in seen.items()}
