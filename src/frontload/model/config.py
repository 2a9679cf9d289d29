"""Settings of the model and the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from frontload.strict import Count, Strict

Preset = Literal["tiny", "small", "base", "hybrid"]


class ModelConfig(Strict):
    """A preset built from scratch, or any transformers checkpoint as a start.

    `overrides` replaces fields of the transformers config that a preset builds, by their own names
    (`{num_hidden_layers: 4}`). `context` is the number of tokens in a packed row.
    """

    preset: Preset | None = None
    start: str | None = None
    """A local path or hub name loaded with `AutoModelForCausalLM.from_pretrained`."""
    revision: str | None = None
    context: int = Field(gt=1)
    overrides: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.preset is None) == (self.start is None):
            raise ValueError("model: give either `preset` or `start`")
        if self.start and self.overrides:
            raise ValueError("model.overrides has no effect on a checkpoint; remove it")
        return self


class TokenizerConfig(Strict):
    """A BPE trained on sources of the study, or a tokenizer loaded from a path or hub name."""

    train_on: tuple[str, ...] = ()
    """Names of sources; only their training side is read."""
    vocab_size: int = Field(default=512, ge=300)
    max_characters: Count = Field(default=20_000_000, gt=0)
    """Read at most this much text from each source to train on."""
    load: Path | str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.train_on) == (self.load is not None):
            raise ValueError("tokenizer: give either `train_on` (source names) or `load` (a path)")
        unused = {"vocab_size", "max_characters"} & self.model_fields_set
        if self.load is not None and unused:
            raise ValueError(f"tokenizer.{unused.pop()} has no effect beside `load`; remove it")
        return self
