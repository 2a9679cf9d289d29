"""An evaluation in a few numbers: per benchmark and family, and over the families of a benchmark.

Accuracy is the mean over items of the mean over their samples (avg@k), truncated and unparsed
answers counting as not correct. A line over a whole benchmark (family "") weighs families equally.
`under_chance` says that the accuracy is significantly below that of blind guessing, which points to
a broken format or scorer rather than to a weak model: read it with the share of unparsed answers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from frontload.evaluate.score import bits_per_byte

_CONFIDENCE = 0.99
"""One-sided; with dozens of families, 0.95 would raise a false flag in most evaluations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One line. Shares and accuracy are in [0, 1]; NaN where nothing of the kind was measured.

    `gold_nll` is nats per token of the gold responses (of text: per token of text);
    `bits_per_byte` is over the same text. `answered_accuracy` is over answered samples only.
    """

    kind: str
    benchmark: str
    family: str
    num_items: int
    num_samples: int
    accuracy: float
    answered_accuracy: float
    wrong: float
    truncated: float
    unparsed: float
    tokens_per_answer: float
    gold_nll: float
    bits_per_byte: float
    chance: float
    under_chance: bool


def summarize(table: pa.Table) -> list[Summary]:
    """Lines of each benchmark: the whole (family ""), then its families, in order of the table."""
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in table.to_pylist():
        cell = cells.setdefault((row["kind"], row["benchmark"]), defaultdict(list))
        cell[row["family"]].append(row)
    lines: list[Summary] = []
    for (kind, benchmark), families in cells.items():
        parts = [_cell(kind, benchmark, family, rows) for family, rows in families.items()]
        lines += [_whole(kind, benchmark, parts), *parts]
    return lines


def is_under_chance(num_right: float, num_items: int, chance: float) -> bool:
    """Whether the upper bound (Clopper-Pearson, one-sided 99 %) of accuracy is below `chance`.

    `num_right` may be a fraction: the sum over items of the mean over samples, which treats samples
    of one item as one observation.
    """
    if chance <= 0 or num_items == 0 or num_right >= num_items:
        return False
    from scipy.stats import beta

    return bool(beta.ppf(_CONFIDENCE, num_right + 1, num_items - num_right) < chance)


def _cell(kind: str, benchmark: str, family: str, rows: Sequence[dict[str, Any]]) -> Summary:
    generated = [row for row in rows if row["outcome"] != "not_generated"]
    answered = [row for row in generated if row["outcome"] in ("correct", "wrong")]
    scored = [row for row in rows if row["gold_nll"] is not None]
    nats = math.fsum(row["gold_nll"] for row in scored)
    by_item = defaultdict(list)
    for row in generated:
        by_item[row["item"]].append(row["correct"])
    per_item = [_mean(samples) for samples in by_item.values()]
    chance = max((row["chance"] or 0.0 for row in rows), default=0.0)
    return Summary(
        kind=kind,
        benchmark=benchmark,
        family=family,
        num_items=len({row["item"] for row in rows}),
        num_samples=len(generated),
        accuracy=_mean(per_item),
        answered_accuracy=_mean(row["correct"] for row in answered),
        wrong=_mean(row["outcome"] == "wrong" for row in generated),
        truncated=_mean(row["outcome"] == "truncated" for row in generated),
        unparsed=_mean(row["outcome"] == "unparsed" for row in generated),
        tokens_per_answer=_mean(row["num_generated"] for row in generated),
        gold_nll=_ratio(nats, sum(row["gold_tokens"] for row in scored)),
        bits_per_byte=bits_per_byte(nats, sum(row["gold_bytes"] for row in scored)),
        chance=chance,
        under_chance=is_under_chance(sum(per_item), len(per_item), chance),
    )


def _whole(kind: str, benchmark: str, parts: Sequence[Summary]) -> Summary:
    def over(name: str) -> float:
        values = [getattr(part, name) for part in parts]
        return _mean(value for value in values if not math.isnan(value))

    means = {name: over(name) for name in _MEANS}
    return Summary(
        kind=kind,
        benchmark=benchmark,
        family="",
        num_items=sum(part.num_items for part in parts),
        num_samples=sum(part.num_samples for part in parts),
        under_chance=any(part.under_chance for part in parts),
        **means,
    )


_MEANS = (
    "accuracy",
    "answered_accuracy",
    "wrong",
    "truncated",
    "unparsed",
    "tokens_per_answer",
    "gold_nll",
    "bits_per_byte",
    "chance",
)


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return math.fsum(listed) / len(listed) if listed else math.nan


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
