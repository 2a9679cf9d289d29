"""Settings of sources: where documents and reasoning examples come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from frontload.strict import Count, Strict

Depth = Literal["direct", "short", "long"]
Shares = dict[str, float]


class _Source(Strict):
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Share kept out of training for evaluation, chosen by a hash of the text or prompt."""
    limit: Count | None = Field(default=None, gt=0)
    """Read at most this many items."""


class InstalledText(_Source):
    """The running Python's standard library: about 7 MB of source, no download."""

    kind: Literal["installed-text"]
    max_characters: Count | None = Field(default=None, gt=0)


class Files(_Source):
    """JSONL (plain, .gz, .zst), Parquet, text files or a `datasets` directory."""

    kind: Literal["files"]
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, folders or globs, relative to the spec."""
    columns: dict[str, str] = {}
    """Our field -> their column: text | messages | prompt, response, reasoning, gold, verified,
    family, id. Inferred from well-known schemas unless given."""
    where: dict[str, str | bool | int | float | list[str]] = {}
    """Keep only the rows whose column equals the value (or one of the list)."""


class Hub(_Source):
    """A dataset by hub name, streamed with `datasets`."""

    kind: Literal["hub"]
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = {}
    where: dict[str, str | bool | int | float | list[str]] = {}


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
