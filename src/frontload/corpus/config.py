"""Settings of sources: where documents and reasoning examples come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from frontload.strict import Count, Strict

Depth = Literal["direct", "short", "long"]
Shares = dict[str, float]
Scalar = str | bool | int | float


def _one_or_several(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, Scalar) for each in values):
        raise ValueError("write a text (dates in quotes), a number, true or false, or some of them")
    return value


Where = Annotated[Scalar | list[Scalar], BeforeValidator(_one_or_several)]


class _Source(Strict):
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share kept out of training for evaluation, chosen by a hash of the text, or of what the user
    says."""
    limit: Count | None = Field(default=None, gt=0)
    """Read at most this many items."""


class InstalledText(_Source):
    """The running Python's standard library: 8.8 MB of source in 3.11, no download."""

    kind: Literal["installed-text"]
    max_characters: Count | None = Field(default=None, gt=0)


class Tabular(_Source):
    """What reads rows with columns."""

    columns: dict[str, str] = {}
    """Our field -> their column: text | messages | prompt, response; system, reasoning, gold,
    verified, family, id. Inferred from well-known schemas unless given. `system` becomes the first
    message. A dotted path `a.b.c` is field c of field b of column a (objects, or JSON text)."""
    where: dict[str, Where] = {}
    """Keep only the rows whose column (or dotted path) equals the value, or one of the list. Texts
    equal texts, numbers numbers (3 is 3.0), booleans booleans; a missing value equals nothing."""


class Files(Tabular):
    """JSONL (plain, .gz, .zst), Parquet, text files or a `datasets` directory."""

    kind: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders or globs, relative to the spec."""


class Hub(Tabular):
    """A dataset by hub name, streamed with `datasets`."""

    kind: Literal["hub"]
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


class Quality(Strict):
    """Shares of traces that are wrong on purpose; the rest is right."""

    wrong_step: float = Field(default=0.0, ge=0, le=1)
    """One step is altered and the answer is wrong."""
    wrong_answer: float = Field(default=0.0, ge=0, le=1)
    """The steps are right, the answer is not."""
    cut_short: float = Field(default=0.0, ge=0, le=1)
    """The trace stops in the middle, without an answer."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.wrong_step + self.wrong_answer + self.cut_short > 1:
            raise ValueError("quality: the shares sum to more than 1")
        return self


class Problems(_Source):
    """Verifiable problems with traces: depth, quality and diversity are dials."""

    kind: Literal["problems"]
    families: tuple[str, ...] = Field(min_length=1)
    """Family names, or groups: all, compact, english, or a domain such as arithmetic."""
    size: Count = Field(gt=0)
    depth: dict[Depth, float] = {"short": 1.0}
    """Share of examples at each depth of trace."""
    quality: Quality = Quality()
    difficulty: tuple[int, int] | None = None
    templates: int | None = Field(default=None, gt=0)
    """Use at most this many wordings of each family (all, unless given)."""
    seed: int = 0

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.depth.values()) - 1) > 1e-6 or min(self.depth.values()) < 0:
            raise ValueError("depth: shares must sum to 1")
        return self


class Union(_Source):
    """Plain union of sources, each item once (the paper's D_LMQ)."""

    kind: Literal["union"]
    of: tuple[str, ...] = Field(min_length=2)


class Select(_Source):
    """A filtered source (the paper's D_ALF keeps long answers)."""

    kind: Literal["select"]
    of: str
    min_answer_characters: int | None = None
    max_answer_characters: int | None = None
    """Length of the whole response, thinking included."""
    verified: bool | None = None
    """Keep only examples known to be right (true) or known to be wrong (false)."""
    families: tuple[str, ...] = ()
    deduplicate: Literal["none", "prompt", "exact"] = "none"


SourceConfig = Annotated[
    InstalledText | Files | Hub | Problems | Union | Select, Field(discriminator="kind")
]
