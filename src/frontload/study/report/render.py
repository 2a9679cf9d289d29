"""Results to HTML: what the template shows is arranged here, how it looks is in the template."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from frontload.study.report import figures, numbers
from frontload.study.report.strips import scale_of, strip
from frontload.study.results import ContrastResult, Results, Score, StageResult, Verdict
from frontload.study.spec import Metric

SIGNS: dict[Verdict, str] = {
    "supported": "✓",
    "contradicted": "✗",
    "undecided": "?",
    "higher": "↑",
    "lower": "↓",
    "refused": "⊘",
    "not_measured": "–",
}
_TOLD_FIRST: tuple[Verdict, ...] = tuple(SIGNS)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Contrasts under one heading, each with its strip."""

    heading: str
    contrasts: tuple[tuple[ContrastResult, str], ...]
    counts: tuple[tuple[Verdict, int], ...]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Stages down, benchmarks and texts across; None where a stage was not measured."""

    columns: tuple[tuple[str, Metric], ...]
    rows: tuple[tuple[StageResult, tuple[Score | None, ...]], ...]


def write_report(results: Results, path: Path) -> None:
    """Write report.html, atomically (about 0.1 s a figure)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(render(results), encoding="utf-8")
    os.replace(temporary, path)


def render(results: Results) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("frontload.study.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        name: getattr(numbers, name)
        for name in (
            "number", "signed", "count", "exact", "share", "seconds", "scientific", "probability"
        )
    }  # fmt: skip
    return environment.get_template("template.html").render(**_context(results))


def _context(results: Results) -> dict[str, Any]:
    main, likelihood = _main_metrics(results)
    return {
        "results": results,
        "signs": SIGNS,
        "units": {"accuracy": "points", "gold_nll": "nats", "bits_per_byte": "bits"},
        "metric_names": numbers.NAMES,
        "questions": tuple(_questions(results.contrasts)),
        "score_panels": list(figures.score_panels(results, main)),
        "likelihood_panels": list(figures.score_panels(results, likelihood)),
        "catch_up_panels": list(figures.catch_up_panels(results)),
        "loss_panels": list(figures.loss_panels(results)),
        "scores": _score_table(results),
        "families": list(_family_tables(results)),
        "columns": ("tokens", "pretrain_tokens", "sft_tokens", "reasoning_tokens",
                    "supervised_tokens"),
        "flops": _total_flops(results),
        "measured_arms": [arm for arm in results.arms if arm.seeds],
        "open_arm": _open_arm(results),
        "missing_arms": [arm for arm in results.arms if arm.missing],
    }  # fmt: skip


def _open_arm(results: Results) -> str:
    """The arm whose answers are shown unfolded: the one with most kinds of outcome."""
    kinds = {arm.name: len(arm.samples) for arm in results.arms}
    return max(kinds, key=kinds.__getitem__, default="")


def _main_metrics(results: Results) -> tuple[list[Metric], list[Metric]]:
    """(metrics of the first figures, of those behind a click): likelihood leads when alone."""
    found = {score.metric for stage in results.stages for score in stage.scores}
    if "accuracy" in found:
        return ["accuracy", "bits_per_byte"], ["gold_nll"]
    return ["gold_nll", "bits_per_byte"], []


def _questions(contrasts: Sequence[ContrastResult]) -> Iterator[Question]:
    for heading in dict.fromkeys(contrast.question for contrast in contrasts):
        asked = [contrast for contrast in contrasts if contrast.question == heading]
        scales = {
            metric: scale_of([c for c in asked if c.metric == metric])
            for metric in {contrast.metric for contrast in asked}
        }
        counts = [(v, sum(c.verdict == v for c in asked)) for v in _TOLD_FIRST]
        yield Question(
            heading=heading,
            contrasts=tuple((c, strip(c, scales[c.metric])) for c in asked),
            counts=tuple((verdict, number) for verdict, number in counts if number),
        )


def _score_table(results: Results) -> ScoreTable:
    columns = tuple(
        dict.fromkeys((s.benchmark, s.metric) for stage in results.stages for s in stage.scores)
    )
    return ScoreTable(
        columns=columns,
        rows=tuple(
            (stage, tuple(scores.get(column) for column in columns))
            for stage in results.stages
            for scores in [{(s.benchmark, s.metric): s for s in stage.scores}]
        ),
    )


def _family_tables(results: Results) -> Iterator[tuple[str, Metric, list[str], list[Any]]]:
    """(benchmark, metric, families, [(stage, score)]) where a benchmark has several families."""
    for benchmark, metric in _score_table(results).columns:
        rows = [
            (stage, score)
            for stage in results.stages
            for score in stage.scores
            if (score.benchmark, score.metric) == (benchmark, metric)
        ]
        if metric != "gold_nll" and len(rows[0][1].families) > 1:
            yield benchmark, metric, list(rows[0][1].families), rows


def _total_flops(results: Results) -> float | None:
    """Training operations of all stages and seeds, each once."""
    known = [
        stage.cost.flops * len(stage.directories)
        for stage in results.stages
        if stage.cost and stage.cost.flops
    ]
    return sum(known) if known else None
