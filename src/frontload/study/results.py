"""The models of `results.json`: everything the report shows, and nothing it has to compute.

`docs/results.md` explains each field. Accuracies and their differences are in points of 100,
`gold_nll` in nats per token of the gold response, `bits_per_byte` in bits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from frontload.strict import Strict
from frontload.study.spec import Column, Metric
from frontload.train.config import StageKind

Verdict = Literal[
    "supported", "contradicted", "undecided", "higher", "lower", "refused", "not_measured"
]
Columns = dict[Column, float]
SCHEMA_VERSION = 1


class Measured(Strict):
    """The numbers of a contrast that could be measured."""

    effect: float
    low: float
    high: float
    """Interval at `Results.adjusted_confidence` (at `confidence` when there is one seed)."""
    low_alone: float
    high_alone: float
    """Interval at `confidence`, as if this were the only claim: never what a verdict rests on."""
    per_seed: dict[int, float]
    standard_error: float
    seed_share: float | None
    """Share of the squared standard error that comes from seeds; null with one seed."""
    num_items: int
    num_families: int
    p_value: float | None
    """Smallest alpha at which the interval decides the claim; null with one seed."""
    q_value: float | None
    """Benjamini-Hochberg adjusted p-value over all tested contrasts."""
    smallest_detectable: float | None
    """Null with one seed, or when no effect that is possible would be large enough."""
    at_limit: Literal["", "floor", "ceiling"]
    """Every arm is at chance, or every arm is at 100: the benchmark cannot tell them apart."""
    arm_scores: dict[str, float]


class ContrastResult(Strict):
    """A claim of the spec and what became of it."""

    name: str
    question: str
    treatment: tuple[str, ...]
    control: tuple[str, ...]
    minus: tuple[tuple[str, ...], tuple[str, ...]] | None
    metric: Metric
    on: tuple[str, ...]
    expect: Literal["higher", "lower", "same", "unknown"]
    margin: float
    equal: tuple[Column, ...]
    unequal: str
    verdict: Verdict
    reason: str
    """One sentence that says why the verdict is what it is."""
    measured: Measured | None
    written_late: bool = False
    """The claim was added or changed when results were there already."""


class Score(Strict):
    """A metric of one stage on one benchmark or text, over seeds; families count equally."""

    benchmark: str
    metric: Metric
    mean: float
    low: float
    high: float
    """Interval at `Results.confidence` over seeds and items; over items with one seed."""
    per_seed: dict[int, float]
    families: dict[str, float]
    """Mean per family over seeds."""
    num_items: int


class Outcomes(Strict):
    """What became of a stage's generations on a benchmark: shares of 1, over items and seeds."""

    benchmark: str
    correct: float
    wrong: float
    truncated: float
    unparsed: float
    mean_generated_tokens: float
    chance: float
    """Accuracy of the best blind guess, in points."""
    under_chance: tuple[str, ...]
    """Families significantly under chance for every seed: a broken format, not a weak model."""


class Sample(Strict):
    """One generation, as it was scored; texts are cut to a readable length."""

    benchmark: str
    family: str
    outcome: Literal["correct", "wrong", "truncated", "unparsed"]
    prompt: str
    gold: str
    output: str
    answer: str


class LedgerRow(Strict):
    """What a stage consumed of a source, mean over seeds."""

    source: str
    reasoning: bool
    tokens: float
    unique_tokens: float
    supervised_tokens: float
    examples: float
    unique_prompts: float
    passes: float
    first_step: float
    last_step: float
    mean_learning_rate: float


class Point(Strict):
    """A point of a training curve, mean over seeds."""

    tokens: float
    """Consumed in this stage so far."""
    loss: float


class Cost(Strict):
    """What a stage took, mean over seeds."""

    train_seconds: float
    evaluate_seconds: float | None
    tokens: float
    flops: float | None
    """6 x parameters x tokens (attention left out); null when the model is not on disk."""
    peak_memory_bytes: float | None


class StageResult(Strict):
    """A stage as it was run for every seed; arms that share it name the same one."""

    id: str
    name: str
    kind: StageKind
    arms: tuple[str, ...]
    parent: str | None
    directories: dict[int, str]
    """Seed -> folder under stages/."""
    scores: tuple[Score, ...]
    outcomes: tuple[Outcomes, ...]
    ledger: tuple[LedgerRow, ...]
    loss: tuple[Point, ...]
    cost: Cost | None


class Placement(Strict):
    """How the figures group an arm: what it was before SFT, and which SFT it got."""

    lineage: str
    """Name of the shortest arm with the same stages before SFT."""
    recipe: str
    """SFT settings in which the study's arms differ, budget aside; "" before SFT."""
    multiple: float
    """SFT budget over the smallest of that recipe's; 0 before SFT."""


class ArmResult(Strict):
    """An arm: its stages in order, what it consumed, and what it answers."""

    name: str
    stages: tuple[str, ...]
    """Ids of the stages that were measured for at least one seed."""
    seeds: tuple[int, ...]
    """Seeds for which the whole arm was measured."""
    missing: dict[int, str]
    """Seed -> why it was not."""
    placement: Placement
    budget: Columns
    """Sums over stages, mean over seeds; empty when no seed was measured in full."""
    planned: dict[Column, float | None]
    """The same sums as the plan has them; null where only the run could tell."""
    budget_spread: float
    """Largest difference between two seeds in any column."""
    unique_prompts: float
    """Prompts seen over all stages, each once where the ledgers can tell; mean over seeds."""
    samples: tuple[Sample, ...]


class Results(Strict):
    """`results.json`."""

    schema_version: int = SCHEMA_VERSION
    study: str
    description: str
    seeds: tuple[int, ...]
    confidence: float
    adjusted_confidence: float
    """Level of the intervals of contrasts, widened for the number of contrasts looked at."""
    num_tests: int
    num_decided: int
    context: int
    num_parameters: int | None
    contrasts: tuple[ContrastResult, ...]
    arms: tuple[ArmResult, ...]
    stages: tuple[StageResult, ...]
    total_seconds: float
    """Training and evaluation of all stages and seeds, each once, one after another."""
    unshared_seconds: float
    """What it would have been had every arm run its stages alone."""
    failures: dict[str, str]
    """Failed stage -> its last words."""
    caveats: tuple[str, ...]


def write_results(results: Results, path: Path) -> None:
    """Write `results.json` atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        ValueError: another schema version, or not a results file; run the report again.
    """
    return Results.model_validate_json(path.read_text(encoding="utf-8"))
