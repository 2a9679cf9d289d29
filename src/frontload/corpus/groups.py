"""The groups a dataset is spread over, and how even the spread is.

Families (or domains of documents) where they are known and more than one; otherwise examples are
grouped by how their prompt opens, which tells templates and topics apart at no cost. More than
20,000 groups are not told apart: the later ones count as "(others)".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from frontload.corpus.example import Document, Item

_MAX_GROUPS = 20_000
_OTHERS = "(others)"
_DIGITS = re.compile(r"\d+")


class Groups:
    """Items by family or domain, or by the opening of their prompt where no item has one."""

    def __init__(self) -> None:
        self._named: Counter[str] = Counter()
        self._openings: Counter[str] = Counter()
        self._has_examples = False

    def add(self, item: Item) -> None:
        """Count one item."""
        if isinstance(item, Document):
            _bump(self._named, item.domain)
            return
        self._has_examples = True
        _bump(self._named, item.family)
        _bump(self._openings, _opening(item.messages[-2].content))

    def largest_first(self) -> tuple[str | None, dict[str, int]]:
        """What the groups are, and their sizes."""
        if len(self._named) > 1 or not (self._has_examples or "" in self._named):
            kind = "families" if self._has_examples else "domains"
            named = ((name or "(none)", count) for name, count in self._named.most_common())
            return kind, dict(named)
        if self._has_examples:
            return "prompt openings", dict(self._openings.most_common())
        return None, {}


def entropy_bits(counts: Iterable[int]) -> float:
    """Shannon entropy of the shares, in bits: -sum p log2 p."""
    counts = [count for count in counts if count]
    total = sum(counts)
    return math.log2(total) - sum(count * math.log2(count) for count in counts) / total


def _bump(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _MAX_GROUPS else _OTHERS] += 1


def _opening(prompt: str) -> str:
    return _DIGITS.sub("0", " ".join(prompt[:200].lower().split()[:6]))
