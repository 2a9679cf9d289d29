"""Retrieval episodes in tokens of any vocabulary: facts first, questions later.

Guarantees: an episode depends on the generator alone; every scored token is determined by the
facts above it (lines never contradict each other); every word is one token. Gives up: wording: a
fact is a line of single-token words, a form that a trained model follows by induction and that a
small model can learn from nothing (`benchmarks/kv_model.py`).

- `key_values`: lines `key value value`; questions repeat lines in any order and the values are
  scored (lost in the middle, arXiv 2307.03172, without JSON around it).
- `multi_key`: lines `first second value`; the value depends on both words, and each word occurs
  in several keys (RULER, arXiv 2404.06654: multi-key needles).
- `variable_chains`: lines `name name`, links of chains in any order; questions spell a chain out,
  each step scored (RULER: variable tracking, one hop a token).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]
CHAIN_NAMES = 4


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What episodes are written with: single-token words, the line end, and a first token."""

    words: Ids
    newline: int
    first: int | None  # what the model expects at position 0, if anything

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Words of a tokenizer: pieces of a space and at least two lower-case ASCII letters.

        Raises:
            ValueError: fewer than 64 of them, or no token for a line end.
        """
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        words = [i for i, piece in enumerate(pieces) if re.fullmatch(r" ?[a-z]{2,}", piece)]
        marked = [i for i in words if pieces[i].startswith(" ")]
        words = marked if len(marked) >= 64 else words
        newlines = [i for i, piece in enumerate(pieces) if piece == "\n"]
        if len(words) < 64 or not newlines:
            raise ValueError(
                f"tokenizer: {len(words)} single-token words and {len(newlines)} line ends; "
                "retrieval needs at least 64 and 1: leave retrieval out for this model"
            )
        first = tokenizer.bos_token_id
        return Vocabulary(words=np.array(words), newline=newlines[0], first=first)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Facts and questions as lines of ids; `scored` marks what the facts determine."""

    facts: Ids  # [lines, width]
    questions: Ids  # [lines, width of a question]
    scored: NDArray[np.bool_]  # like questions


MakeEpisode = Callable[[Generator, Vocabulary, int], Episode]


def key_values(rng: Generator, vocabulary: Vocabulary, num_lines: int) -> Episode:
    """Keys are distinct; each value is two words drawn freely."""
    keys = rng.choice(vocabulary.words, num_lines, replace=False)
    values = rng.choice(vocabulary.words, (num_lines, 2))
    facts = _lines(vocabulary, keys[:, None], values)
    return Episode(facts=facts, questions=facts, scored=_mark(facts, [1, 2]))


def multi_key(rng: Generator, vocabulary: Vocabulary, num_lines: int) -> Episode:
    """Keys are distinct pairs out of a grid about as large as the facts."""
    side = int(np.ceil(np.sqrt(num_lines)))
    words = rng.choice(vocabulary.words, 2 * side, replace=False)
    cell = rng.permutation(side * side)[:num_lines]
    values = rng.choice(vocabulary.words, (num_lines, 1))
    first, second = words[:side][cell // side], words[side:][cell % side]
    facts = _lines(vocabulary, first[:, None], second[:, None], values)
    return Episode(facts=facts, questions=facts, scored=_mark(facts, [2]))


def variable_chains(rng: Generator, vocabulary: Vocabulary, num_lines: int) -> Episode:
    """Chains of `CHAIN_NAMES` names; their links are `num_lines` facts, rounded down to chains."""
    chains = max(1, num_lines // (CHAIN_NAMES - 1))
    names = rng.choice(vocabulary.words, (chains, CHAIN_NAMES), replace=False)
    links = np.stack((names[:, :-1], names[:, 1:]), axis=-1).reshape(-1, 2)
    questions = _lines(vocabulary, names)
    return Episode(
        facts=_lines(vocabulary, rng.permutation(links)),
        questions=questions,
        scored=_mark(questions, range(1, CHAIN_NAMES)),
    )


KINDS: dict[str, MakeEpisode] = {
    "key-values": key_values,
    "multi-key": multi_key,
    "variable-chains": variable_chains,
}


def _lines(vocabulary: Vocabulary, *columns: Ids) -> Ids:
    body = np.concatenate(columns, axis=1)
    return np.concatenate((body, np.full((len(body), 1), vocabulary.newline)), axis=1)


def _mark(lines: Ids, columns: list[int] | range) -> NDArray[np.bool_]:
    scored = np.zeros(lines.shape, np.bool_)
    scored[:, list(columns)] = True
    return scored
