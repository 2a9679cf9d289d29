"""What a run showed: scores of every stage, budgets of every arm, and a verdict per contrast.

`analyze` reads finished stage folders and the spec, nothing else; it trains and generates
nothing, so the report can be rebuilt at any time. Unfinished stages are listed, never guessed.

    results = analyze(spec, directories, failures={}, plan=plan)
    write_results(results, run / "results.json")
    write_report(results, run / "report.html")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from scipy import special

from frontload.corpus.ledger import sum_over_stages
from frontload.study import effects
from frontload.study.caveats import caveats
from frontload.study.contrasts import Evidence, guesser, judge, require_same_items
from frontload.study.measurements import (
    OUTCOMES,
    Cell,
    Stage,
    is_finished,
    read_samples,
    read_stage,
)
from frontload.study.placement import place_arms
from frontload.study.results import (
    ArmResult,
    Columns,
    Cost,
    LedgerRow,
    Outcomes,
    Point,
    Results,
    Score,
    StageResult,
)
from frontload.study.spec import Column, Metric, StudySpec

Runs = Mapping[tuple[str, int], tuple[Path, ...]]


def analyze(
    spec: StudySpec,
    runs: Runs,
    *,
    failures: Mapping[str, str] = {},
    plan: Mapping[str, Any] = {},
) -> Results:
    """Analyze a run.

    Args:
        runs: (arm, seed) -> folders of the arm's stages, first to last, finished or not.
        failures: name of a stage's folder (or of other work) -> why it is not there.
        plan: plan.json, for the planned budgets beside which the report sets the consumed ones.

    Raises:
        ValueError: two stages were evaluated on different items, or a file lacks a column.
    """
    read = {
        d: read_stage(d)
        for d in dict.fromkeys(d for path in runs.values() for d in path)
        if is_finished(d)
    }
    evidence, missing = _evidence(spec, runs, read, failures)
    judged, corrected = judge(
        spec.contrasts,
        evidence,
        missing={arm: "; ".join(dict.fromkeys(why.values())) for arm, why in missing.items()},
        tolerance=spec.model.context,
        confidence=spec.confidence,
    )
    stages = _stages(spec, runs, read)
    arms = _arms(spec, stages, evidence, missing, plan)
    seconds = {d: stage.train_seconds + (stage.evaluate_seconds or 0) for d, stage in read.items()}
    results = Results(
        study=spec.study,
        description=spec.description.strip(),
        seeds=spec.seeds,
        confidence=spec.confidence,
        adjusted_confidence=corrected.confidence,
        num_tests=corrected.num_tests,
        num_decided=corrected.num_decided,
        context=spec.model.context,
        num_parameters=next((s.num_parameters for s in read.values() if s.num_parameters), None),
        contrasts=judged,
        arms=arms,
        stages=stages,
        total_seconds=sum(seconds.values()),
        unshared_seconds=sum(seconds.get(d, 0.0) for path in runs.values() for d in path),
        failures=dict(failures),
        caveats=(),
    )
    return results.model_copy(update={"caveats": caveats(results)})


def _evidence(
    spec: StudySpec, runs: Runs, read: Mapping[Path, Stage], failures: Mapping[str, str]
) -> tuple[dict[str, dict[int, Evidence]], dict[str, dict[int, str]]]:
    """(arm -> seed -> evidence of whole arms, arm -> seed -> why it is missing)."""
    found: dict[str, dict[int, Evidence]] = {}
    missing: dict[str, dict[int, str]] = {}
    for arm in spec.arms:
        for seed in spec.seeds:
            path = runs.get((arm, seed), ())
            lost = [d for d in path if d not in read]
            if path and not lost:
                consumed = sum_over_stages([read[d].ledger for d in path])
                found.setdefault(arm, {})[seed] = Evidence(stage=read[path[-1]], consumed=consumed)
            else:
                why = [f"{d.name} {failures.get(d.name, 'is not finished')}" for d in lost[:1]]
                missing.setdefault(arm, {})[seed] = "".join(why) or f"seed {seed} was not run"
    return found, missing


def _stages(spec: StudySpec, runs: Runs, read: Mapping[Path, Stage]) -> tuple[StageResult, ...]:
    """Every stage that was measured for at least one seed, once, in the order of the arms."""
    paths = {arm: [runs.get((arm, seed), ()) for seed in spec.seeds] for arm in spec.arms}
    keys: dict[tuple[Path | None, ...], list[tuple[str, int]]] = {}
    for arm, over_seeds in paths.items():
        for depth in range(len(spec.arms[arm])):
            key = tuple(path[depth] if depth < len(path) else None for path in over_seeds)
            keys.setdefault(key, []).append((arm, depth))
    made: dict[tuple[Path | None, ...], StageResult] = {}
    for key, uses in keys.items():
        found = {seed: read[d] for seed, d in zip(spec.seeds, key, strict=True) if d in read and d}
        if found:
            arm, depth = uses[0]
            config = spec.arms[arm][depth]
            ends = [a for a, d in uses if d == len(spec.arms[a]) - 1]
            before = next((k for k, u in keys.items() if (arm, depth - 1) in u), None)
            made[key] = StageResult(
                id=ends[0] if ends else _inner_name(arm, config.name, spec, keys),
                name=config.name,
                kind=config.kind,
                arms=tuple(a for a, _ in uses),
                parent=made[before].id if before in made else None,
                directories={seed: stage.directory.name for seed, stage in found.items()},
                scores=tuple(_scores(spec, found)),
                outcomes=tuple(_outcomes(spec, found)),
                ledger=_mean_ledger([stage.ledger for stage in found.values()]),
                loss=_mean_curve([stage.loss for stage in found.values()]),
                cost=_mean_cost(list(found.values())),
            )
    return tuple(made.values())


def _inner_name(arm: str, stage: str, spec: StudySpec, keys: Mapping[Any, Any]) -> str:
    """Name of a stage at which no arm ends: its own when no other has it, else with the arm."""
    same = [u for u in keys.values() if any(spec.arms[a][d].name == stage for a, d in u[:1])]
    return stage if len(same) == 1 and stage not in spec.arms else f"{arm}: {stage}"


def _scores(spec: StudySpec, found: Mapping[int, Stage]) -> Iterator[Score]:
    benchmarks: list[tuple[Metric, str]] = [
        (metric, name) for name in spec.evaluation.benchmarks for metric in ("accuracy", "gold_nll")
    ]
    benchmarks += [("bits_per_byte", name) for name in spec.evaluation.text]
    first = next(iter(found.values()))
    for metric, benchmark in benchmarks:
        cells = first.cells(metric, benchmark)
        if cells:
            yield _score(metric, benchmark, cells, found, spec.confidence)


def _score(
    metric: Metric,
    benchmark: str,
    cells: Sequence[Cell],
    found: Mapping[int, Stage],
    confidence: float,
) -> Score:
    tables = {}
    for cell in cells:
        require_same_items(metric, cell, list(found.values()))
        tables[cell] = np.stack([stage.values[metric][cell] for stage in found.values()])
    step = 100.0 if metric == "accuracy" else 0.0
    effect = effects.paired_effect(list(tables.values()), smallest_step=step)
    width = effects.half_width(effect, confidence)
    largest = 100.0 if metric == "accuracy" else np.inf
    return Score(
        benchmark=benchmark,
        metric=metric,
        mean=effect.value,
        low=max(effect.value - width, 0.0),
        high=min(effect.value + width, largest),
        per_seed=dict(zip(found, effect.per_seed, strict=True)),
        families={family: float(table.mean()) for (_, family), table in tables.items()},
        num_items=effect.num_items,
    )


def _outcomes(spec: StudySpec, found: Mapping[int, Stage]) -> Iterator[Outcomes]:
    first = next(iter(found.values()))
    for benchmark in spec.evaluation.benchmarks:
        cells = first.cells("accuracy", benchmark)
        if not cells:
            continue
        seen = [stage.generations[cell] for stage in found.values() for cell in cells]
        total = sum(sum(generations.counts.values()) for generations in seen)
        shares = {
            name: sum(generations.counts[name] for generations in seen) / total for name in OUTCOMES
        }
        low = [cell[1] for cell in cells if all(_under_chance(s, cell) for s in found.values())]
        yield Outcomes(
            benchmark=benchmark,
            **shares,
            mean_generated_tokens=sum(g.num_generated for g in seen) / total,
            chance=guesser(first, cells)[0],
            under_chance=tuple(low),
        )


def _under_chance(stage: Stage, cell: Cell) -> bool:
    accuracies = stage.values["accuracy"][cell] / 100
    chance = stage.generations[cell].chance / 100
    return under_chance(float(accuracies.sum()), len(accuracies), chance)


def under_chance(right: float, items: int, chance: float) -> bool:
    """Whether `right` answers of `items` are too few for a blind guesser.

    The one-sided 99 % Clopper-Pearson bound of the share lies under `chance`. Every sample averaged
    into an item counts as part of one answer, so `right` need not be whole.
    """
    if chance == 0 or right == items:
        return False
    return bool(special.betaincinv(right + 1, items - right, 0.99) < chance)


def _mean_ledger(ledgers: Sequence[pa.Table]) -> tuple[LedgerRow, ...]:
    rows = [row for ledger in ledgers for row in ledger.to_pylist()]
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    numbers = [name for name in LedgerRow.model_fields if name not in ("source", "reasoning")]
    return tuple(
        LedgerRow(
            source=source,
            reasoning=same[0]["reasoning"],
            **{name: float(np.mean([row[name] for row in same])) for name in numbers},
        )
        for source, same in by_source.items()
    )


def _mean_curve(curves: Sequence[tuple[Point, ...]]) -> tuple[Point, ...]:
    """Mean over seeds, point by point; all seeds have the same budget, hence the same points."""
    return tuple(
        Point(
            tokens=float(np.mean([point.tokens for point in points])),
            loss=float(np.mean([point.loss for point in points])),
        )
        for points in zip(*curves, strict=False)
    )


def _mean_cost(stages: Sequence[Stage]) -> Cost:
    def mean(numbers: list[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return float(np.mean(known)) if known else None

    flops = [6.0 * s.num_parameters * s.tokens if s.num_parameters else None for s in stages]
    return Cost(
        train_seconds=float(np.mean([stage.train_seconds for stage in stages])),
        evaluate_seconds=mean([stage.evaluate_seconds for stage in stages]),
        tokens=float(np.mean([stage.tokens for stage in stages])),
        flops=mean(flops),
        peak_memory_bytes=mean([stage.peak_memory_bytes for stage in stages]),
    )


def _arms(
    spec: StudySpec,
    stages: Sequence[StageResult],
    evidence: Mapping[str, Mapping[int, Evidence]],
    missing: Mapping[str, Mapping[int, str]],
    plan: Mapping[str, Any],
) -> tuple[ArmResult, ...]:
    placements = place_arms(spec)
    planned = plan.get("arms", {})
    return tuple(
        ArmResult(
            name=arm,
            stages=tuple(stage.id for stage in stages if arm in stage.arms),
            seeds=tuple(evidence.get(arm, {})),
            missing=dict(missing.get(arm, {})),
            placement=placements[arm],
            budget=_mean_budget(list(evidence.get(arm, {}).values())),
            planned=planned.get(arm, {}).get("budget", {}),
            budget_spread=_spread(list(evidence.get(arm, {}).values())),
            unique_prompts=_unique_prompts(list(evidence.get(arm, {}).values())),
            samples=_samples(evidence.get(arm, {})),
        )
        for arm in spec.arms
    )


def _mean_budget(found: Sequence[Evidence]) -> Columns:
    columns: tuple[Column, ...] = get_args(Column)
    return {c: float(np.mean([getattr(e.consumed, c) for e in found])) for c in columns if found}


def _spread(found: Sequence[Evidence]) -> float:
    amounts = [[getattr(e.consumed, column) for e in found] for column in get_args(Column)]
    return float(max(max(column) - min(column) for column in amounts)) if found else 0.0


def _unique_prompts(found: Sequence[Evidence]) -> float:
    return float(np.mean([e.consumed.unique_prompts for e in found])) if found else 0.0


def _samples(found: Mapping[int, Evidence]) -> tuple[Any, ...]:
    """Of the first seed: one is enough to see how an arm answers."""
    first = next(iter(found.values()), None)
    return read_samples(first.stage.directory) if first else ()
