"""Held-out problems: drawn from families, or read from the held-out side of a source.

Problems of a benchmark have distinct prompts. Those read from a source are the ones whose prompts
hash lowest, a sample that does not depend on the order of rows; where a prompt has several
responses, one that is known to be right is preferred, and one known to be wrong never serves as
gold. Whatever is left out is counted in the notes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np

from frontload.corpus.example import Example
from frontload.evaluate.config import BenchmarkConfig
from frontload.evaluate.items import Draw, ProblemItem
from frontload.model.tokenizer import EncodedExample, encode_examples
from frontload.tasks.dials import write_response
from frontload.tasks.draw import draw_problem
from frontload.tasks.families import Family, Problem
from frontload.tasks.registry import get_family, resolve_families
from frontload.tasks.verify import parse_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from frontload.corpus.stream import Source

_DRAWS_PER_ITEM = 8
"""Draws spent on finding another prompt before a family counts as exhausted."""

_MAX_READ = 1_000_000
"""Held-out examples looked at, at most: a sample of a web-sized source must end some day."""


def draw_problems(
    name: str,
    config: BenchmarkConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    context: int,
    notes: list[str],
) -> list[ProblemItem]:
    """`config.items` problems of every family, fewer where a family has no more prompts."""
    drawn: list[tuple[int, Problem]] = []
    families = [get_family(family) for family in resolve_families(config.families)]
    for family in families:
        found = list(islice(_distinct(family, config, seed), config.items))
        if len(found) < config.items:
            notes.append(
                f"evaluation.benchmarks.{name}: {family.name} has {len(found)} distinct held-out "
                f"prompts, not {config.items}"
            )
        drawn += found
    examples = [_solved(config, name, index, problem) for index, problem in drawn]
    items = []
    for (index, problem), example, encoded in zip(
        drawn, examples, encode_examples(tokenizer, examples), strict=True
    ):
        draw = Draw(seed=seed, index=index, difficulty=config.difficulty)
        chance = get_family(problem.family).chance
        items.append(_item(name, config, example, encoded, context, chance=chance, draw=draw))
    num_long = sum(item.response_ids is None for item in items) if _likely(config) else 0
    if num_long:
        notes.append(
            f"evaluation.benchmarks.{name}: {num_long} gold responses exceed the context of "
            f"{context} tokens; no likelihood is taken for them"
        )
    return items


def _distinct(family: Family, config: BenchmarkConfig, seed: int) -> Iterator[tuple[int, Problem]]:
    seen: set[str] = set()
    for index in range(config.items * _DRAWS_PER_ITEM):
        problem = draw_problem(
            family, seed=seed, index=index, difficulty=config.difficulty, split="heldout"
        )
        if problem.question not in seen:
            seen.add(problem.question)
            yield index, problem


def _solved(config: BenchmarkConfig, name: str, index: int, problem: Problem) -> Example:
    response = write_response(problem, config.depth, None, None, get_family(problem.family))
    return Example.of(
        id=f"{problem.family}-{index}",
        prompt=problem.question,
        response=response,
        source=name,
        family=problem.family,
        gold=problem.answer,
        verified=True,
    )


def read_problems(
    name: str,
    config: BenchmarkConfig,
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    *,
    context: int,
    notes: list[str],
) -> list[ProblemItem]:
    """At most `config.items` problems from `source`, the held-out side of `config.source`.

    Raises:
        ValueError: it holds documents, or nothing that fits into the context.
    """
    where = f"evaluation.benchmarks.{name}.source"
    if source.holds != "examples":
        raise ValueError(f"{where}: {source.name} holds documents; measure it under `text`")
    drops: Counter[str] = Counter()
    examples = cast("Iterable[Example]", islice(source, _MAX_READ))
    chosen = _lowest_ranked(examples, tokenizer, config.items, context=context, drops=drops)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
    if not chosen:
        raise ValueError(
            f"{where}: nothing to evaluate in the held-out side of {source.name} "
            f"({dropped or 'it is empty'}); raise its `holdout` or model.context ({context} tokens)"
        )
    if len(chosen) < config.items or dropped:
        found = f"{len(chosen)} of {config.items} problems found"
        notes.append(f"evaluation.benchmarks.{name}: {found}; left out: {dropped or 'none'}")
    return [_item(name, config, example, encoded, context) for example, encoded in chosen]


_Candidate = tuple[Example, EncodedExample]


def _lowest_ranked(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerFast,
    num_items: int,
    *,
    context: int,
    drops: Counter[str],
) -> list[_Candidate]:
    """The `num_items` fitting examples with the lowest-hashing prompts, one a prompt."""
    kept: dict[int, _Candidate] = {}
    stream = iter(examples)
    while chunk := list(islice(stream, 2048)):
        worst = max(kept) if len(kept) >= num_items else 2**64
        ranked = [(_rank(example), example) for example in chunk]
        eligible = [pair for pair in ranked if pair[0] <= worst and _may_serve(pair[1], drops)]
        encodings = encode_examples(tokenizer, [example for _, example in eligible])
        for (rank, example), encoded in zip(eligible, encodings, strict=True):
            if len(encoded.ids) > context:
                drops["longer than the context"] += 1
            elif rank not in kept or _preference(example) < _preference(kept[rank][0]):
                kept[rank] = (example, encoded)
        kept = {rank: kept[rank] for rank in sorted(kept)[:num_items]}
    return list(kept.values())


def _rank(example: Example) -> int:
    digest = hashlib.blake2b(example.prompt.encode(), digest_size=8, person=b"evaluation").digest()
    return int.from_bytes(digest, "big")


def _may_serve(example: Example, drops: Counter[str]) -> bool:
    if example.verified is False:
        drops["known to be wrong"] += 1
    return example.verified is not False


def _preference(example: Example) -> tuple[bool, bytes]:
    """Known to be right first; then any fixed order."""
    response = hashlib.blake2b(example.response.encode(), digest_size=8).digest()
    return example.verified is not True, response


def _item(
    name: str,
    config: BenchmarkConfig,
    example: Example,
    encoded: EncodedExample,
    context: int,
    *,
    chance: float = 0.0,
    draw: Draw | None = None,
) -> ProblemItem:
    start = _response_start(encoded)
    ids = encoded.ids.tolist()
    gold = example.gold if example.gold is not None else _answer_of(example.response)
    fits = _likely(config) and len(ids) <= context
    return ProblemItem(
        benchmark=name,
        family=example.family or name,
        id=example.id,
        prompt=example.prompt,
        gold=gold,
        gold_response=example.response,
        chance=chance,
        prompt_ids=tuple(ids[:start]),
        response_ids=tuple(ids[start:]) if fits else None,
        generate="generation" in config.measures and bool(gold),
        draw=draw,
    )


def _likely(config: BenchmarkConfig) -> bool:
    return "likelihood" in config.measures


def _response_start(encoded: EncodedExample) -> int:
    """Where the last response begins; earlier turns of the assistant belong to the prompt."""
    given = np.flatnonzero(~encoded.supervised)
    return int(given[-1]) + 1 if len(given) else 0


def _answer_of(response: str) -> str:
    """The answer that a gold response marks as such, "" where it is only text."""
    parsed = parse_answer(response, finished=True)
    return "" if parsed.answer == response.strip() else parsed.answer
