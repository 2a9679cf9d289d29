"""Open a source by its name in the spec.

    source = open_source("D_SHQ", spec.sources, root=spec_folder, split="train")
    for item in source: ...          # Documents or Examples, as source.holds says
    source.drops                     # what was left out, by reason
    source.fingerprint()             # equal fingerprints, equal items

Opening checks names, paths and settings; reading rows waits for the first use. A union or selection
takes the largest `holdout` found in it or below it, for all its parts: what one part keeps out for
evaluation, the whole keeps out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frontload.corpus.config import (
    Files,
    Hub,
    InstalledText,
    Problems,
    Select,
    SourceConfig,
    Union,
)
from frontload.corpus.example import Item
from frontload.corpus.files import FileSource
from frontload.corpus.hub import HubSource
from frontload.corpus.select import Selection
from frontload.corpus.stdlib import StandardLibrary
from frontload.corpus.stream import Holds, Reading, Source, Split

__all__ = ["Source", "effective_holdout", "open_source"]


def open_source(
    name: str, configs: Mapping[str, SourceConfig], *, root: Path, split: Split
) -> Source:
    """The source `name`, its training or held-out side.

    Args:
        configs: all sources of the spec; unions and selections refer to them.
        root: folder that relative paths start from (the spec's).

    Raises:
        ValueError: unknown name, no such file, or a side that does not exist.
    """
    share = effective_holdout(name, configs)
    if split == "heldout" and share == 0:
        raise ValueError(f"set sources.{name}.holdout above 0 to keep some of it out")
    return _open(name, configs, Reading(root=root, split=split, holdout=share))


def effective_holdout(name: str, configs: Mapping[str, SourceConfig]) -> float:
    """The share of `name` that is kept out: the largest of its own and its parts'."""
    return max(configs[part].holdout for part in _parts_of(name, configs, above=()))


def _parts_of(name: str, configs: Mapping[str, SourceConfig], above: tuple[str, ...]) -> list[str]:
    if name not in configs:
        close = difflib.get_close_matches(name, list(configs), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(configs)}"
        raise ValueError(f"sources: no {name!r}; {hint}")
    if name in above:
        raise ValueError(f"sources.{name}.of: {' of '.join((*above, name))} is a circle")
    parts = [name]
    for part in parts_of(configs[name]):
        parts += _parts_of(part, configs, (*above, name))
    return parts


def parts_of(config: SourceConfig) -> tuple[str, ...]:
    """Names of the sources that a union or selection is made from."""
    if isinstance(config, Union):
        return config.of
    return (config.of,) if isinstance(config, Select) else ()


def _open(name: str, configs: Mapping[str, SourceConfig], reading: Reading) -> Source:
    config = configs[name]
    if isinstance(config, InstalledText):
        return StandardLibrary(name, config, reading)
    if isinstance(config, Files):
        return FileSource(name, config, reading)
    if isinstance(config, Hub):
        return HubSource(name, config, reading)
    if isinstance(config, Problems):
        return GeneratedProblems(name, config, reading)
    parts = [_open(part, configs, reading) for part in parts_of(config)]
    if isinstance(config, Select):
        return Selection(name, config, parts[0], reading)
    return UnionSource(name, parts, reading, limit=config.limit)


class GeneratedProblems(Source):
    """Problems with traces, made while reading; their held-out prompts are never made here."""

    def __init__(self, name: str, config: Problems, reading: Reading) -> None:
        if config.holdout:
            raise ValueError(
                f"sources.{name}.holdout has no effect: generated problems always keep a fifth of "
                "each family's prompts out; remove it"
            )
        if reading.split == "heldout":
            raise ValueError(f"{name} is generated; evaluate its `families` instead")
        super().__init__(name, reading, limit=config.limit)
        self._config = config

    @property
    def holds(self) -> Holds:
        return "examples"

    def _items(self) -> Iterator[Item]:
        from frontload.tasks.corpora import iterate_problems

        return iter(iterate_problems(self._config, self.name))

    def _contents(self) -> Any:
        return self._config.model_dump(mode="json", exclude={"limit", "holdout"})


class UnionSource(Source):
    """Plain union: every item of every part once, part after part."""

    def __init__(
        self, name: str, parts: list[Source], reading: Reading, *, limit: int | None
    ) -> None:
        super().__init__(name, reading, limit=limit)
        self._parts = parts

    @property
    def holds(self) -> Holds:
        kinds = {part.name: part.holds for part in self._parts}
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{name} holds {kind}" for name, kind in kinds.items())
            raise ValueError(f"sources.{self.name}.of: {listed}; unite sources of one kind")
        return self._parts[0].holds

    @property
    def bytes_total(self) -> int | None:  # type: ignore[override]
        totals = [part.bytes_total for part in self._parts]
        return None if None in totals else sum(total or 0 for total in totals)

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        return sum(part.bytes_read for part in self._parts)

    def _items(self) -> Iterator[Item]:
        assert self.holds
        for part in self._parts:
            yield from part.both_sides()

    def _contents(self) -> Any:
        return ["union", *(part.fingerprint() for part in self._parts)]
