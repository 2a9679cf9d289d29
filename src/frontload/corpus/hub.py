"""A dataset by hub name, streamed with `datasets`; nothing is downloaded ahead.

A revision that is not given is looked up once and becomes part of the fingerprint, so that a run
names the data it saw. A folder of data files in place of a name works the same, offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from frontload.corpus.config import Hub
from frontload.corpus.example import Item
from frontload.corpus.files import RowReader, hash_file
from frontload.corpus.schemas import Schema, schema_for
from frontload.corpus.stream import Holds, Reading, Source
from frontload.corpus.tables import type_word


class HubSource(Source):
    """Items of one split of a hub dataset."""

    def __init__(self, name: str, config: Hub, reading: Reading) -> None:
        super().__init__(name, reading, limit=config.limit)
        self._config = config
        folder = reading.root / Path(config.name).expanduser()
        self._folder = folder if folder.is_dir() else None

    @property
    def holds(self) -> Holds:
        return self._schema.holds

    @cached_property
    def _schema(self) -> Schema:
        first = next(iter(self._rows()), None)
        origin = f"sources.{self.name} ({self._config.name})"
        if first is None:
            raise ValueError(f"{origin}: the split {self._config.split!r} is empty")
        types = {column: type_word(value) for column, value in first.items()}
        return schema_for(types, self._config, origin=origin)

    def _rows(self) -> Any:
        """The streaming dataset.

        Raises:
            ValueError: no such dataset, configuration or split, or no network.
        """
        import datasets

        config = self._config
        path = str(self._folder or config.name)
        revision = None if self._folder else self._revision
        try:
            return datasets.load_dataset(
                path, config.config, split=config.split, revision=revision, streaming=True
            )
        except (OSError, ValueError) as error:  # DatasetNotFoundError is a FileNotFoundError
            raise ValueError(
                f"sources.{self.name}: cannot open the dataset {config.name!r}, split "
                f"{config.split!r}: {error}. Check its name, config, split and the network, or "
                "download it and use `kind: files`"
            ) from None

    def _items(self) -> Iterator[Item]:
        rows = RowReader(self.name, self._config.where, self.drops)
        yield from rows.items(
            self._schema, enumerate(self._rows()), self._config.name, self._config.split
        )
        rows.refuse_if_mostly_malformed()

    @cached_property
    def _revision(self) -> str:
        if self._config.revision:
            return self._config.revision
        from huggingface_hub import HfApi

        try:
            return str(HfApi().dataset_info(self._config.name).sha)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"sources.{self.name}: cannot look up {self._config.name!r} on the hub "
                f"({type(error).__name__}); give `revision`, or use `kind: files`"
            ) from None

    def _contents(self) -> Any:
        settings = self._config.model_dump(mode="json", exclude={"limit", "holdout", "revision"})
        if self._folder is None:
            return [settings, self._revision]
        files = sorted(file for file in self._folder.rglob("*") if file.is_file())
        return [settings, [[file.name, hash_file(file)] for file in files]]
