"""The measures behind a dataset's card, taken over batches of items in bounded memory.

Distinct things are counted exactly up to 262,144 and estimated beyond (`distinct`), lengths fall
into bins (`distribution`), near duplicates are looked for among the first items (`duplicates`).
`DEFINITIONS` says in words what each figure is; it is printed and saved with every card.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from frontload.corpus.card import Card, Diversity, Quality, Scale
from frontload.corpus.distinct import CAPACITY, DistinctCounter, Hashes
from frontload.corpus.distribution import Tally
from frontload.corpus.duplicates import NearDuplicates
from frontload.corpus.example import Document, Example, Item, split_reasoning
from frontload.corpus.groups import Groups, entropy_bits
from frontload.corpus.stream import Source
from frontload.corpus.words import Ints, Words, find_words, hashes_of

TokenLengths = Callable[[list[str]], list[int]]
"""Texts -> tokens in each."""

SELF_CHECKS = (
    *("wait", "hmm", "alternatively", "actually"),
    *("check", "checking", "recheck", "verify", "verifying"),
)

DEFINITIONS = {
    "words": "runs of letters or digits, and every other visible character by itself",
    "entropy": "-sum p log2 p over the shares p of the groups; 2^entropy equal groups are as even",
    "prompt openings": "first six words of the prompt, lower case, numbers as 0",
    "distinct": f"exact up to {CAPACITY:,}, then estimated by adaptive sampling (error 0.2 %)",
    "distinct share of triples": "different runs of three words over all runs, within items",
    "unparsed": "examples whose thinking never ends, or with nothing after it",
    "exact duplicates": "items whose whole text (prompt and response) came before",
    "near duplicates": "MinHash over runs of three words, 8 bands of 8: half at similarity 0.77",
    "trace": "the think block; without one, the whole response",
    "answer": "what follows the think block; without one, the whole response",
    "steps": "non-empty lines of the trace; parts between ';' where it has one line",
    "self-checks": f"words {', '.join(SELF_CHECKS)}, and steps that begin with '?'",
}


class Measures:
    """Running measures over batches of items."""

    def __init__(self, token_lengths: TokenLengths | None) -> None:
        self._token_lengths = token_lengths
        self._totals: Counter[str] = Counter()
        self._groups = Groups()
        self._items, self._prompts = DistinctCounter(), DistinctCounter()
        self._grams = {size: DistinctCounter() for size in (1, 2, 3)}
        self._near = NearDuplicates()
        self._checks = hashes_of(list(SELF_CHECKS))
        self._depth: dict[str, Tally] = {}

    def add(self, batch: list[Item]) -> None:
        """Take in some items."""
        if not batch:
            return
        texts = [_whole_text(item) for item in batch]
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        words = find_words(encoded)
        tokens = self._count_tokens(texts, words)
        self._totals += Counter(
            items=len(batch),
            characters=sum(map(len, texts)),
            bytes=sum(map(len, encoded)),
            tokens=int(tokens.sum()),
        )
        self._items.add(_digests(encoded), tokens)
        self._tally(
            "words of an item" if self._token_lengths is None else "tokens of an item", tokens
        )
        self._add_grams(words)
        for item in batch:
            self._groups.add(item)
        examples = [item for item in batch if isinstance(item, Example)]
        if examples:
            self._add_examples(examples)

    def _count_tokens(self, texts: list[str], words: Words) -> Ints:
        if self._token_lengths is None:
            return words.counts()
        return np.array(self._token_lengths(texts), np.int64)

    def _add_grams(self, words: Words) -> None:
        for size, counter in self._grams.items():
            grams = words if size == 1 else words.grams(size)
            counter.add(grams.hashes)
        self._totals["triples"] += len(grams.hashes)
        self._near.add(grams)

    def _add_examples(self, examples: list[Example]) -> None:
        self._prompts.add(_digests([example.prompt.encode() for example in examples]))
        parts = [split_reasoning(example.response) for example in examples]
        answers = [part.answer for part in parts]
        traces = [part.reasoning or part.answer for part in parts]
        steps = [_steps(trace) for trace in traces]
        checks = find_words([it.response.encode() for it in examples]).count_among(self._checks)
        checks += [sum(step.startswith("?") for step in lines) for lines in steps]
        self._tally("characters of the prompt", _lengths([it.prompt for it in examples]))
        self._tally("characters of the response", _lengths([it.response for it in examples]))
        self._tally("characters of the trace", _lengths(traces))
        self._tally("characters of the answer", _lengths(answers))
        self._tally("steps of the trace", _lengths(steps))
        self._tally("self-checks", checks)
        self._totals += Counter(
            examples=len(examples),
            right=sum(example.verified is True for example in examples),
            wrong=sum(example.verified is False for example in examples),
            with_gold=sum(example.gold is not None for example in examples),
            checked=int((checks > 0).sum()),
            unparsed=sum(
                not part.closed or not answer.strip()
                for part, answer in zip(parts, answers, strict=True)
            ),
        )

    def _tally(self, name: str, values: Ints) -> None:
        self._depth.setdefault(name, Tally()).add(values)

    def card(self, source: Source, tokens_are: str) -> Card:
        """The figures so far."""
        totals, counters = self._totals, [self._items, self._prompts, *self._grams.values()]
        is_examples = source.holds == "examples"
        depth = {name: tally.summary() for name, tally in self._depth.items()}
        return Card(
            name=source.name,
            fingerprint=source.fingerprint(),
            holds=source.holds,
            tokens_are=tokens_are,
            scale=Scale(
                items=totals["items"],
                characters=totals["characters"],
                bytes=totals["bytes"],
                tokens=totals["tokens"],
                unique_tokens=min(self._items.total_weight, totals["tokens"]),
                unique_items=min(self._items.num_distinct, totals["items"]),
                unique_prompts=min(self._prompts.num_distinct, totals["items"]) or None,
            ),
            diversity=self._diversity(exact=all(counter.exact for counter in counters)),
            quality=self._quality(source, is_examples=is_examples),
            depth={name: values for name, values in depth.items() if values},
            self_checks_share=totals["checked"] / totals["examples"] if is_examples else None,
            definitions=_definitions(is_examples),
        )

    def _diversity(self, *, exact: bool) -> Diversity:
        grouped_by, groups = self._groups.largest_first()
        entropy = entropy_bits(groups.values()) if groups else None
        triples = self._grams[3].num_distinct
        return Diversity(
            grouped_by=grouped_by,
            num_groups=len(groups),
            groups=dict(list(groups.items())[:50]),
            entropy_bits=entropy,
            effective_groups=None if entropy is None else 2**entropy,
            distinct_words=self._grams[1].num_distinct,
            distinct_pairs=self._grams[2].num_distinct,
            distinct_triples=triples,
            distinct_triples_share=_ratio(triples, self._totals["triples"]),
            exact=exact,
        )

    def _quality(self, source: Source, *, is_examples: bool) -> Quality:
        totals = self._totals

        def share(what: str) -> float | None:
            return totals[what] / totals["examples"] if is_examples else None

        right, wrong = share("right"), share("wrong")
        unchecked = None if right is None or wrong is None else max(0.0, 1 - right - wrong)
        return Quality(
            right=right,
            wrong=wrong,
            unchecked=unchecked,
            with_gold=share("with_gold"),
            unparsed=share("unparsed"),
            exact_duplicates=max(0.0, 1 - self._items.num_distinct / totals["items"]),
            near_duplicates=self._near.share,
            near_duplicates_of_first=self._near.num_items,
            drops=dict(source.drops.most_common()),
        )


def _steps(trace: str) -> list[str]:
    lines = trace.strip().split("\n")
    parts = trace.split(";") if len(lines) == 1 else lines
    return [part for part in (part.strip() for part in parts) if part]


def _whole_text(item: Item) -> str:
    return item.text if isinstance(item, Document) else f"{item.prompt}\n{item.response}"


def _lengths(texts: list[Any]) -> Ints:
    return np.array([len(text) for text in texts], np.int64)


def _digests(texts: list[bytes]) -> Hashes:
    hashed = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(hashed, np.uint64)


def _ratio(part: int, whole: int) -> float | None:
    return min(1.0, part / whole) if whole else None


def _definitions(is_examples: bool) -> dict[str, str]:
    about_examples = ("prompt openings", "unparsed", "trace", "answer", "steps", "self-checks")
    return {
        name: rule
        for name, rule in DEFINITIONS.items()
        if is_examples or name not in about_examples
    }
