"""What every source is: a stream of items that can be read again.

A source yields `Document`s or `Example`s one by one, in an order that depends on its settings and
files alone, and counts whatever it leaves out under a reason. It holds no items in memory. Reading
it twice gives the same items twice; two readings of one object at once would share its counters,
so open the source twice for that.

The held-out side is decided per item by a hash of its text or question (`example.held_out`), after
`limit`: both sides together are the items that `limit` allows.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from frontload.corpus.example import Document, Item, held_out

Split = Literal["train", "heldout"]
Holds = Literal["documents", "examples"]

READER_VERSION = 3
"""Raised whenever the same rows would be read into different items, or fall on other sides."""


def key_of(item: Item) -> str:
    """What decides an item's side of the holdout: a document's text, what an example's user says.

    Not the system message: held-out questions asked under another one would be trained on.
    """
    return item.text if isinstance(item, Document) else item.question


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a source and all its parts share: one side, one holdout, one set of counters."""

    root: Path
    """Folder that relative paths start from."""
    split: Split
    holdout: float
    """Share of items on the held-out side."""
    drops: Counter[str] = field(default_factory=Counter)


class Source(ABC):
    """A re-iterable stream of items.

    Attributes:
        name: as in the spec; items carry the name of the file-level source they come from.
        drops: reason -> number of items left out by the latest reading.
        bytes_total: compressed bytes behind the source, None where they are not known.
        bytes_read: how many of them the current reading has consumed.
    """

    bytes_total: int | None = None
    bytes_read: int = 0

    def __init__(self, name: str, reading: Reading, *, limit: int | None) -> None:
        self.name = name
        self.split = reading.split
        self.holdout = reading.holdout
        self.drops = reading.drops
        self.limit = limit

    @property
    @abstractmethod
    def holds(self) -> Holds:
        """What the source yields; looks at the first row where the settings do not say."""

    @abstractmethod
    def _items(self) -> Iterator[Item]:
        """All items of both sides, without the limit; fills `drops`."""

    @abstractmethod
    def _contents(self) -> Any:
        """What `_items` depends on, as JSON values: settings and hashes of contents."""

    def both_sides(self) -> Iterator[Item]:
        """Items of both sides, up to `limit`."""
        return islice(self._items(), self.limit)

    def __iter__(self) -> Iterator[Item]:
        self.drops.clear()
        wanted = self.split == "heldout"
        num_yielded = 0
        for item in self.both_sides():
            if held_out(key_of(item), self.holdout) != wanted:
                self.drops["for_training" if wanted else "held_out"] += 1
                continue
            num_yielded += 1
            yield item
        if num_yielded == 0:
            raise ValueError(self._why_empty())

    def fingerprint(self) -> str:
        """Hash of everything the items depend on: equal fingerprints, equal items."""
        identity = [READER_VERSION, self.split, self.holdout, self.limit, self._contents()]
        text = json.dumps(identity, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _why_empty(self) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.drops.most_common())
        if self.drops["for_training"]:
            remedy = f"raise sources.{self.name}.holdout, or give it more items"
        elif self.drops["held_out"]:
            remedy = f"lower sources.{self.name}.holdout"
        else:
            remedy = "check its paths, columns and filters"
        side = "" if self.split == "train" else "held-out side of "
        return f"{side}source {self.name!r} is empty ({reasons or 'it has no rows'}); {remedy}"
