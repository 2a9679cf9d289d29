"""Measure datasets in one streaming pass each: scale, diversity, quality, depth.

    card = profile(open_source("D_LDQ", configs, root=folder, split="train"))

is the library's side; `profile_command` is what `frontload data profile SOURCE...` runs. A SOURCE
is a path, folder or glob, `installed-text`, `spec.yaml#name`, or `spec.yaml` for all its sources.
Memory does not grow with the data (see `measures`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from frontload.corpus.card import Card, print_cards, refuse_existing, write_new
from frontload.corpus.card_page import page
from frontload.corpus.config import Files, InstalledText, SourceConfig
from frontload.corpus.example import Document, Item
from frontload.corpus.measures import Measures, TokenLengths
from frontload.corpus.sources import open_source
from frontload.corpus.stream import Source
from frontload.strict import load_yaml

_BATCH_CHARACTERS = 1 << 20
_SPEC = re.compile(r"(?P<path>.+\.ya?ml)(#(?P<name>.+))?")


def profile(
    source: Source,
    *,
    token_lengths: TokenLengths | None = None,
    tokens_are: str = "words: no tokenizer was given",
    on_progress: Callable[[Source, int], Any] | None = None,
) -> Card:
    """Read `source` once and return its card.

    Args:
        token_lengths: how to count tokens; words are counted without it.
        tokens_are: what the card calls its tokens, "NAME: explanation".
        on_progress: called about once a megabyte with the source and the items so far.

    Raises:
        ValueError: the source is empty, or a file of it cannot be read.
    """
    measures = Measures(token_lengths)
    batch: list[Item] = []
    num_characters = num_items = 0
    for item in source:
        batch.append(item)
        num_characters += _num_characters(item)
        if num_characters >= _BATCH_CHARACTERS:
            measures.add(batch)
            num_items += len(batch)
            batch, num_characters = [], 0
            if on_progress:
                on_progress(source, num_items)
    measures.add(batch)
    if on_progress:
        on_progress(source, num_items + len(batch))
    return measures.card(source, tokens_are)


def profile_command(
    sources: list[str],
    *,
    out: Path | None,
    tokenizer: str | None,
    columns: Mapping[str, str],
    console: Console,
) -> list[Card]:
    """Profile each SOURCE with progress, print the cards, and save them when `out` is given.

    `out` receives NAME.json and NAME.html of every source as soon as it is measured.

    Raises:
        ValueError: an unreadable source, or a file in `out` that exists (before anything is read).
    """
    opened = [source for text in sources for source in open_argument(text, columns)]
    names = _file_names([source.name for source in opened])
    paths = [None if out is None else out / name for name in names]
    for path in paths:
        if path is not None:
            refuse_existing(path.with_name(path.name + ".json"))
            refuse_existing(path.with_name(path.name + ".html"))
    tokens_are, token_lengths = load_token_counter(tokenizer)
    cards = []
    for source, path in zip(opened, paths, strict=True):
        with _Bar(source, console) as bar:
            card = profile(
                source, token_lengths=token_lengths, tokens_are=tokens_are, on_progress=bar.update
            )
        cards.append(card)
        if path is not None:
            write_new(path.with_name(path.name + ".html"), page(card))
            write_new(path.with_name(path.name + ".json"), card.to_json())
    print_cards(cards, console)
    return cards


def open_argument(text: str, columns: Mapping[str, str]) -> list[Source]:
    """The sources that one SOURCE on the command line names (their training side).

    Raises:
        ValueError: no such file, spec or source; or columns where a spec already maps them.
    """
    if text == "installed-text":
        library = InstalledText(kind="installed-text")
        return [open_source(text, {text: library}, root=Path(), split="train")]
    if found := _SPEC.fullmatch(text):
        if columns:
            raise ValueError("--column has no effect on a spec's source; use `columns` in the spec")
        path = Path(found["path"])
        configs = read_sources(path)
        names = [found["name"]] if found["name"] else list(configs)
        return [open_source(name, configs, root=path.parent, split="train") for name in names]
    config = Files(kind="files", paths=(text,), columns=dict(columns))
    name = _name_of(text)
    return [open_source(name, {name: config}, root=Path(), split="train")]


def read_sources(path: Path) -> dict[str, SourceConfig]:
    """The `sources` of a spec; nothing else in it is looked at.

    Raises:
        ValueError: the file is missing, not YAML, or has no valid sources.
    """
    raw = load_yaml(path)
    listed = raw.get("sources") if isinstance(raw, dict) else None
    try:
        return TypeAdapter(dict[str, SourceConfig]).validate_python(listed)
    except ValidationError as error:
        lines = [
            f"  sources.{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ValueError("\n".join([f"{path}:", *lines])) from None


def load_token_counter(tokenizer: str | None) -> tuple[str, TokenLengths | None]:
    """What the tokens are called, and how to count them; words when `tokenizer` is None.

    Args:
        tokenizer: a tokenizer.json, or what `tokenizer.load` of a spec takes.

    Raises:
        ValueError: there is no such tokenizer.
    """
    if tokenizer is None:
        return "words: no tokenizer was given", None
    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.is_file():
        from tokenizers import Tokenizer

        loaded = Tokenizer.from_file(str(path))
    else:
        from frontload.model.tokenizer import load_tokenizer

        try:
            loaded = load_tokenizer(tokenizer).backend_tokenizer
        except ValueError:
            raise ValueError(
                f"--tokenizer: cannot load {tokenizer!r}; give a tokenizer.json, a folder with "
                "one, or the hub name of a model"
            ) from None

    def count(texts: list[str]) -> list[int]:
        encoded = loaded.encode_batch_fast(texts, add_special_tokens=False)
        return [len(one.ids) for one in encoded]

    return f"tokens: of the tokenizer {tokenizer}", count


def _name_of(path: str) -> str:
    """`traces/farel.parquet` is farel, `traces/*.parquet` is traces."""
    plain = [part for part in Path(path).parts if not set(part) & set("*?[")]
    return (plain[-1] if plain else path).partition(".")[0] or path


def _num_characters(item: Item) -> int:
    if isinstance(item, Document):
        return len(item.text)
    return sum(len(message.content) for message in item.messages)


def _file_names(names: list[str]) -> list[str]:
    """File names of sources: safe characters, numbered where they repeat."""
    safe = [re.sub(r"[^\w.-]+", "-", name).strip("-.") or "source" for name in names]
    return [
        name if (before := safe[:place].count(name)) == 0 else f"{name}-{before + 1}"
        for place, name in enumerate(safe)
    ]


class _Bar:
    """Progress of one source: by bytes of its files, or by items where bytes are not known."""

    def __init__(self, source: Source, console: Console) -> None:
        by_bytes = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        measured = by_bytes if source.bytes_total else ()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *measured,
            TextColumn("{task.fields[items]:,} items"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(source.name, total=source.bytes_total, items=0)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, source: Source, num_items: int) -> None:
        """Show where the reading stands."""
        self._progress.update(self._task, completed=source.bytes_read, items=num_items)
