"""What codecs are measured on: text to continue, another domain, and facts to retrieve.

Guarantees: contexts depend on the texts, the tokenizer and the seed alone; all contexts of a kind
have the same length; where a fact lies in the prefix is spread evenly, first to last. Gives up:
tasks that need an instruction-tuned model (`frontload.kvcache.episodes` says what retrieval is).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from frontload.kvcache.episodes import KINDS, Vocabulary
from frontload.kvcache.quality import Context
from frontload.kvcache.texts import Text


def text_contexts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    *,
    domain: str,
    count: int,
    prefix_tokens: int,
    suffix_tokens: int,
    seed: int,
) -> list[Context]:
    """`count` windows, taken from the texts in turn, at random places; every suffix token scored.

    A tokenizer's first token (BOS) stands at position 0 of each, within `prefix_tokens`.

    Raises:
        ValueError: no text is long enough.
    """
    rng = np.random.default_rng(seed)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    needed = prefix_tokens + suffix_tokens - len(first)
    windows: list[np.ndarray] = []
    for text in _long_enough(texts, needed) * count:
        if len(windows) == count:
            break
        ids = _excerpt(tokenizer, text, needed, rng)
        if len(ids) == needed:
            windows.append(np.array([*first, *ids], np.int64))
    if len(windows) < count:
        raise ValueError(f"{domain}: no text has {needed} tokens; give longer ones or fewer tokens")
    scored = np.arange(prefix_tokens + suffix_tokens) > prefix_tokens
    return [
        Context(ids=ids, prefix_tokens=prefix_tokens, scored=scored, domain=domain)
        for ids in windows
    ]


def _long_enough(texts: Sequence[Text], num_tokens: int) -> list[Text]:
    """Texts that may have that many tokens: at least one character a token."""
    return [text for text in texts if len(text.text) >= num_tokens]


def _excerpt(
    tokenizer: PreTrainedTokenizerBase, text: Text, num_tokens: int, rng: np.random.Generator
) -> list[int]:
    """Tokens from a random place on, at a line's start where there is one."""
    width = 16 * num_tokens  # characters: more than enough for any tokenizer of prose
    start = int(rng.integers(max(1, len(text.text) - width)))
    start = start and (text.text.find("\n", start, start + 2000) + 1 or start)
    ids = tokenizer(text.text[start : start + width], add_special_tokens=False).input_ids
    return ids[:num_tokens]


def retrieval_contexts(
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    *,
    count: int,
    prefix_tokens: int,
    suffix_tokens: int,
    seed: int,
) -> list[Context]:
    """Facts that fill the prefix (to within a line), and questions about evenly spread ones.

    Raises:
        ValueError: the vocabulary has too few single-token words, or the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(KINDS)}")
    vocabulary = Vocabulary.of(tokenizer)
    rng = np.random.default_rng((seed, *kind.encode()))
    return [_retrieval(rng, vocabulary, kind, prefix_tokens, suffix_tokens) for _ in range(count)]


def _retrieval(
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    kind: str,
    prefix_tokens: int,
    suffix_tokens: int,
) -> Context:
    first = [] if vocabulary.first is None else [vocabulary.first]
    width = 3 if kind == "variable-chains" else 4
    num_lines = min((prefix_tokens - len(first)) // width, len(vocabulary.words) // 2)
    episode = KINDS[kind](rng, vocabulary, num_lines)
    asked = min(len(episode.questions), suffix_tokens // episode.questions.shape[1])
    places = np.linspace(0, len(episode.questions) - 1, asked).round().astype(int)
    order = rng.permutation(places)
    prefix = np.concatenate((first, episode.facts.reshape(-1)))
    body = episode.questions[order].reshape(-1)
    scored = np.concatenate((np.zeros(len(prefix), np.bool_), episode.scored[order].reshape(-1)))
    return Context(
        ids=np.concatenate((prefix, body)).astype(np.int64),
        prefix_tokens=len(prefix),
        scored=scored,
        domain=kind,
    )
