"""The spec of a study: everything that is decided before it runs, in one YAML file.

`load_spec` reads, expands and checks it. Two conveniences keep long specs short, and both are
resolved before any check, so what is checked is what runs:

- `for: {lr: [0.002, 0.004]}` on an arm or contrast repeats it once per combination, putting each
  value where `{lr}` stands (in the arm's name too);
- a stage in an arm may be a name from `stages`, or `{use: name, ...}` with fields replaced;
  `after: ARM` continues where another arm ends.

`frontload.study.expand` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from frontload.corpus.config import SourceConfig
from frontload.evaluate.config import EvaluationConfig
from frontload.model.config import ModelConfig, TokenizerConfig
from frontload.strict import Strict, load_yaml
from frontload.study.expand import expand
from frontload.study.references import check_references, nearest
from frontload.train.config import StageConfig

Metric = Literal["accuracy", "gold_nll", "bits_per_byte"]
Column = Literal["tokens", "supervised_tokens", "reasoning_tokens", "pretrain_tokens", "sft_tokens"]


class NamedStage(StageConfig):
    """A stage of an arm after templates are resolved."""

    name: str


class Contrast(Strict):
    """A claim about arms, written before the run, and what would decide it.

    The effect is metric(treatment) - metric(control); with `minus`, a difference of differences.
    Several arms on one side are averaged. `margin` is the smallest effect worth claiming, in the
    metric's unit (accuracy: points of 100). `expect: same` is judged by equivalence within it.
    """

    name: str
    question: str
    """Heading under which the report lists it."""
    treatment: tuple[str, ...] = Field(min_length=1)
    control: tuple[str, ...] = Field(min_length=1)
    minus: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """(treatment, control) of the difference to subtract."""
    metric: Metric = "accuracy"
    on: tuple[str, ...] = Field(min_length=1)
    """Benchmarks (accuracy, gold_nll) or held-out texts (bits_per_byte), averaged by family."""
    expect: Literal["higher", "lower", "same", "unknown"]
    margin: float = Field(default=0.0, ge=0)
    equal: tuple[Column, ...] = ()
    """Ledger columns in which both sides must agree, or the comparison is refused."""
    unequal: str = ""
    """Why budgets differ on purpose; required when `equal` is empty."""

    @model_validator(mode="before")
    @classmethod
    def _one_name_is_a_list(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        listed = {
            key: [raw[key]]
            for key in ("treatment", "control", "on", "equal")
            if isinstance(raw.get(key), str)
        }
        if isinstance(raw.get("minus"), dict):
            if unknown := sorted(set(raw["minus"]) - {"treatment", "control"}):
                raise ValueError(f"minus: unknown key {unknown[0]!r}; known: treatment, control")
            sides = [raw["minus"].get(key) for key in ("treatment", "control")]
            listed["minus"] = [[side] if isinstance(side, str) else side for side in sides]
        return {**raw, **listed}

    @model_validator(mode="after")
    def _judgeable(self) -> Self:
        if self.expect == "same" and self.margin == 0:
            raise ValueError("expect: same needs a `margin` within which two arms count as equal")
        if not self.equal and not self.unequal:
            raise ValueError("name the ledger columns that must be `equal`, or say why `unequal`")
        return self

    def weights(self) -> dict[str, float]:
        """Arm -> weight; the effect is the weighted sum of the arms' metrics."""
        sides = [(self.treatment, 1.0), (self.control, -1.0)]
        if self.minus is not None:
            sides += [(self.minus[0], -1.0), (self.minus[1], 1.0)]
        weights: dict[str, float] = {}
        for arms, sign in sides:
            for arm in arms:
                weights[arm] = weights.get(arm, 0.0) + sign / len(arms)
        return {arm: weight for arm, weight in weights.items() if weight}


class EngineConfig(Strict):
    """How stages are executed on this machine; never part of a stage's identity."""

    workers: int | None = Field(default=None, gt=0)
    """Stages at once: one per GPU, or per core on a machine without, unless given."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of each stage."""
    processes_per_stage: int = Field(default=1, gt=0)
    """Above 1, a stage runs under torchrun with FSDP2 over that many processes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
RESERVED = ("tokenizer", "evaluation-items")
"""Folders of a run that a source's rows must not replace."""


class StudySpec(Strict):
    """A whole study."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seeds: tuple[int, ...] = Field(min_length=1)
    model: ModelConfig
    tokenizer: TokenizerConfig
    sources: dict[SourceName, SourceConfig]
    arms: dict[str, tuple[NamedStage, ...]]
    evaluation: EvaluationConfig
    contrasts: tuple[Contrast, ...] = ()
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in RESERVED:
            if name in self.sources:
                raise ValueError(f"sources.{name}: the name is taken; call the source otherwise")
        check_references(self)
        return self


def load_spec(path: Path) -> StudySpec:
    """Read, expand and check a spec.

    Raises:
        ValueError: the file is missing or not a spec; the message names the field and the remedy.
    """
    raw = load_yaml(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a spec is a mapping with the keys study, seeds, model, ...")
    return parse_spec(raw, origin=str(path))


def parse_spec(raw: Mapping[str, Any], origin: str = "spec") -> StudySpec:
    """Expand and check a spec given as nested mappings."""
    try:
        return StudySpec.model_validate(expand(raw))
    except ValidationError as error:
        raise ValueError(f"{origin}:\n" + "\n".join(explain(error, StudySpec))) from None


def explain(error: ValidationError, model: type[Strict]) -> list[str]:
    """One line per problem: where it is, what is wrong, and the nearest known key.

    A mistake in a stage template shows in every arm that uses it; it is told once.
    """
    found: dict[tuple[object, str], list[str]] = {}
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the whole spec"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            unknown = str(problem["loc"][-1])
            known = _fields_at(model, problem["loc"][:-1])
            message = f"unknown key{nearest(unknown, known)}"
        found.setdefault((problem["loc"][-1:], message), []).append(where)
    return [
        f"  {places[0]}: {message}" + (f" ({len(places)} places)" if len(places) > 1 else "")
        for (_, message), places in found.items()
    ]


def _fields_at(annotation: Any, location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Keys that the model at `location` (an error's path) knows; empty where there is no model."""
    models = _models_in(annotation)
    if not location:
        return tuple(name for model in models for name in model.model_fields)
    head, rest = location[0], location[1:]
    for model in models:
        if isinstance(head, str) and head in model.model_fields:
            return _fields_at(model.model_fields[head].annotation, rest)
        kind = model.model_fields.get("kind")
        if kind is not None and head in get_args(kind.annotation):  # the tag of a union
            return _fields_at(model, rest)
    if get_origin(annotation) in (dict, tuple):
        return _fields_at(get_args(annotation)[-1 if get_origin(annotation) is dict else 0], rest)
    return ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (dict, tuple):
        return []
    return [model for part in get_args(annotation) for model in _models_in(part)]
