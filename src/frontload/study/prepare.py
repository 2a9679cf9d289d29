"""Make what stages stand on: the tokenizer, packed rows, evaluation items.

Each function fills one folder from its `record.json` and writes DONE last; a folder without DONE
is made again from the start, since none of these takes long enough to resume.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from frontload.corpus.config import SourceConfig
from frontload.corpus.example import Document, Item
from frontload.corpus.packing import pack
from frontload.corpus.sources import Source, open_source
from frontload.corpus.stream import Split
from frontload.evaluate.config import EvaluationConfig
from frontload.evaluate.items import build_items
from frontload.model.config import ModelConfig, TokenizerConfig
from frontload.model.tokenizer import load_tokenizer, train_tokenizer
from frontload.study.artifacts import DONE, ITEMS, TOKENIZER, local_or_hub, placed_model
from frontload.study.identity import read_json, write_json

_SOURCES: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, SourceConfig])


@dataclass(frozen=True)
class Record:
    """The record of an artifact, with its settings parsed."""

    raw: dict[str, Any]

    @classmethod
    def read(cls, directory: Path, name: str = "record.json") -> Record:
        """The record of the artifact in `directory`."""
        return cls(read_json(directory / name))

    def __getitem__(self, key: str) -> Any:
        return self.raw[key]

    @property
    def run(self) -> Path:
        """The folder of the whole run."""
        return Path(self.raw["run"])

    @property
    def tokenizer_directory(self) -> Path:
        """Where the study's tokenizer is."""
        return self.run / TOKENIZER

    @property
    def items_directory(self) -> Path:
        """Where the evaluation items are."""
        return self.run / "data" / ITEMS

    @property
    def model(self) -> ModelConfig:
        """Settings of the model; a local checkpoint's path is made absolute."""
        return placed_model(ModelConfig.model_validate(self.raw["model"]), Path(self.raw["root"]))

    @property
    def evaluation(self) -> EvaluationConfig:
        """Settings of the evaluation."""
        return EvaluationConfig.model_validate(self.raw["evaluation"])

    def open(self, name: str, split: Split) -> Source:
        """A source of the study."""
        configs = _SOURCES.validate_python(self.raw["sources"])
        return open_source(name, configs, root=Path(self.raw["root"]), split=split)


def finish(directory: Path, began: float, **facts: Any) -> None:
    """Write DONE, with what it took."""
    write_json(directory / DONE, {"seconds": round(time.monotonic() - began, 3), **facts})


def make_tokenizer(directory: Path) -> None:
    """Train or load the study's tokenizer."""
    began, record = time.monotonic(), Record.read(directory)
    config = TokenizerConfig.model_validate(record["tokenizer"])
    if config.load is not None:
        origin = local_or_hub(Path(record["root"]), config.load)
        tokenizer = load_tokenizer(origin, config.revision)
    else:
        texts = (
            text
            for name in config.train_on
            for text in _leading_texts(record.open(name, "train"), config.max_characters)
        )
        tokenizer = train_tokenizer(texts, config)
    tokenizer.save_pretrained(directory)
    finish(directory, began, vocab_size=len(tokenizer))


def _leading_texts(source: Source, max_characters: int) -> Iterator[str]:
    left = max_characters
    for item in source:
        text = item.text if isinstance(item, Document) else f"{item.prompt}\n{item.response}"
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def make_pack(directory: Path) -> None:
    """Tokenize a source and pack it into rows of the model's context."""
    began, record = time.monotonic(), Record.read(directory)
    tokenizer = load_tokenizer(record.tokenizer_directory)
    source = record.open(record["source"], "train")
    rows = directory / "rows"
    shutil.rmtree(rows, ignore_errors=True)
    packed = pack(
        _counted(source),
        tokenizer,
        context=record.model.context,
        supervise=record["supervise"],
        directory=rows,
        name=record["source"],
        fingerprint=source.fingerprint(),
    )
    finish(
        directory,
        began,
        rows=packed.rows,
        tokens=packed.available("tokens"),
        supervised_tokens=packed.available("supervised_tokens"),
        items=packed.counters["items"],
        unpacked=packed.counters["dropped"],
        unread={**source.drops},
    )


def _counted(source: Source, every: int = 50_000) -> Iterator[Item]:
    """The items, with a line in the log now and then."""
    for number, item in enumerate(source, start=1):
        if number % every == 0:
            print(f"{source.name}: {number:,} items read", file=sys.stderr, flush=True)
        yield item


def make_items(directory: Path) -> None:
    """Draw or read the evaluation items, the same for every arm and seed."""
    began, record = time.monotonic(), Record.read(directory)
    tokenizer = load_tokenizer(record.tokenizer_directory)
    config = record.evaluation
    read = [b.source for b in config.benchmarks.values() if b.source]
    read += [text.source for text in config.text.values()]
    sources = {name: record.open(name, "heldout") for name in read}
    items = build_items(config, sources, tokenizer, context=record.model.context)
    items.save(directory)
    finish(directory, began, items=len(items), notes=items.notes)
