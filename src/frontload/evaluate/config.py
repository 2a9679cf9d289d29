"""Settings of the evaluation that follows every stage."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from frontload.strict import Count, Strict

Measure = Literal["generation", "likelihood"]


class BenchmarkConfig(Strict):
    """Held-out problems: generated from families, or the held-out side of a source of examples."""

    families: tuple[str, ...] = ()
    source: str | None = None
    items: int = Field(default=64, gt=0)
    """Problems per family (families), or in all (source)."""
    difficulty: tuple[int, int] | None = None
    """Lowest and highest difficulty; each family's own range unless given."""
    depth: Literal["direct", "short", "long"] = "short"
    """Depth of the gold response whose likelihood is measured (families only)."""
    measures: tuple[Measure, ...] = ("generation", "likelihood")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.families) == (self.source is not None):
            raise ValueError("benchmark: give either `families` or `source`")
        if self.source and self.difficulty:
            raise ValueError("difficulty has no effect on a benchmark read from a source")
        return self


class TextConfig(Strict):
    """Held-out text of a source, scored in bits per byte."""

    source: str
    max_tokens: Count = Field(default=20_000, gt=0)


class EvaluationConfig(Strict):
    """What is measured after each stage, the same items for every arm and seed."""

    benchmarks: dict[str, BenchmarkConfig]
    text: dict[str, TextConfig] = {}
    samples: int = Field(default=1, gt=0)
    """Generations per problem; above 1 the accuracy is avg@k and needs a temperature."""
    temperature: float = Field(default=0.0, ge=0)
    max_new_tokens: int = Field(gt=0)
    batch_size: int = Field(default=256, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _sampling_makes_sense(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: repeated greedy generations are identical; set temperature")
        return self
