"""A filtered source: the paper's D_ALF is D_LDQ with only its long answers.

Every item left out is counted under the filter that refused it. Deduplication keeps the first item
of each prompt (or of each prompt and response) and costs about 100 bytes of memory an item kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from frontload.corpus.config import Select
from frontload.corpus.example import Document, Example, Item
from frontload.corpus.stream import Holds, Reading, Source

_Filter = Callable[[Example], str | None]


class Selection(Source):
    """The items of `base` that pass every filter of `config`."""

    def __init__(self, name: str, config: Select, base: Source, reading: Reading) -> None:
        super().__init__(name, reading, limit=config.limit)
        self._config = config
        self._base = base

    @property
    def holds(self) -> Holds:
        return self._base.holds

    @property
    def bytes_total(self) -> int | None:  # type: ignore[override]
        return self._base.bytes_total

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        return self._base.bytes_read

    def _items(self) -> Iterator[Item]:
        filters = _filters(self._config)
        if self.holds == "documents":
            self._refuse_example_filters()
        seen: set[int] = set()
        for item in self._base.both_sides():
            reason = None
            if isinstance(item, Example):
                reason = next((why for test in filters if (why := test(item))), None)
            if reason is None and self._config.deduplicate != "none":
                digest = _digest(item, whole=self._config.deduplicate == "exact")
                reason = "duplicate" if digest in seen else None
                seen.add(digest)
            if reason:
                self.drops[reason] += 1
            else:
                yield item

    def _refuse_example_filters(self) -> None:
        needs_examples = {"min_answer_characters", "max_answer_characters", "verified", "families"}
        given = sorted(needs_examples & self._config.model_fields_set)
        if given:
            raise ValueError(
                f"sources.{self.name}.{given[0]} has no effect on documents; "
                f"{self._base.name} holds no prompts and responses"
            )

    def _contents(self) -> Any:
        settings = self._config.model_dump(mode="json", exclude={"limit", "holdout", "of"})
        return [settings, self._base.fingerprint()]


def _filters(config: Select) -> list[_Filter]:
    least, most = config.min_answer_characters, config.max_answer_characters
    families = frozenset(config.families)
    filters: list[_Filter] = []
    if least is not None:
        filters.append(lambda it: "answer_too_short" if len(it.response) < least else None)
    if most is not None:
        filters.append(lambda it: "answer_too_long" if len(it.response) > most else None)
    if config.verified is not None:
        filters.append(lambda it: _verdict_drop(it.verified, config.verified))
    if families:
        filters.append(lambda it: None if it.family in families else "other_family")
    return filters


def _verdict_drop(verified: bool | None, wanted: bool | None) -> str | None:
    if verified is None:
        return "not_verified"
    if verified is wanted:
        return None
    return "verified_wrong" if wanted else "verified_right"


def _digest(item: Item, *, whole: bool) -> int:
    text = item.text if isinstance(item, Document) else item.prompt
    if whole and not isinstance(item, Document):
        text = f"{len(text)}\n{text}{item.response}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
