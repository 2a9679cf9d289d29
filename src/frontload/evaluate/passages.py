"""Held-out text, cut into windows that together score every token once.

The token budget is shared evenly by the domains found (documents without one make up a domain that
is named after the text setting), and within a domain by at least eight documents where it has them:
those that hash lowest, each read from a place its hash decides (the start of a file is often a
licence). A passage is entered after the end token, as training enters a document; its windows
overlap by one token, which is given and not scored.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from frontload.corpus.example import Document
from frontload.evaluate.config import TextConfig
from frontload.evaluate.items import TextWindow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from frontload.corpus.stream import Source

_MIN_DOCUMENTS = 8
_MAX_DOCUMENTS = 64
"""Documents of a domain held in memory while the source is read."""
_MAX_READ = 1_000_000
_CHARACTERS_PER_TOKEN = 16
"""More text than this per token is never needed; what is over is cut after encoding."""


def read_windows(
    name: str,
    config: TextConfig,
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    *,
    context: int,
) -> list[TextWindow]:
    """At most `config.max_tokens` scored tokens of `source`, the held-out side of `config.source`.

    Raises:
        ValueError: the source holds examples, or its held-out side is empty.
    """
    where = f"evaluation.text.{name}.source"
    if source.holds != "documents":
        raise ValueError(f"{where}: {source.name} holds examples; measure it under `benchmarks`")
    domains = _choose_documents(cast("Iterable[Document]", islice(source, _MAX_READ)))
    if not domains:
        raise ValueError(
            f"{where}: the held-out side of {source.name} is empty; raise its `holdout`"
        )
    windows: list[TextWindow] = []
    for domain, documents in sorted(domains.items()):
        left = config.max_tokens // len(domains)
        share = -(-left // min(_MIN_DOCUMENTS, len(documents)))
        for document in documents:
            passage = _passage(document, min(share, left) * _CHARACTERS_PER_TOKEN)
            ids, ends = _encode(tokenizer, passage)
            scored = min(share, left, len(ids))
            stream = [tokenizer.eos_token_id, *ids[:scored]]
            for start, window, num_bytes in cut_windows(stream, ends, context):
                windows.append(
                    TextWindow(
                        benchmark=name,
                        domain=domain or name,
                        id=f"{document.id}@{start}",
                        ids=tuple(window),
                        num_bytes=num_bytes,
                    )
                )
            left -= scored
            if left <= 0:
                break
    return windows


def cut_windows(
    stream: list[int], ends: NDArray[np.int64], context: int
) -> Iterator[tuple[int, list[int], int]]:
    """Windows over `stream` (a given token, then the scored ones) with their scored bytes.

    `ends[i]` is the number of bytes of text up to and with scored token i. Yields (number of scored
    tokens before, ids, bytes); the bytes add up to `ends` of the last token.
    """
    for start in range(0, len(stream) - 1, context - 1):
        ids = stream[start : start + context]
        before = int(ends[start - 1]) if start else 0
        yield start, ids, int(ends[start + len(ids) - 2]) - before


def _choose_documents(documents: Iterable[Document]) -> dict[str, list[Document]]:
    """Domain -> its lowest-hashing documents, in order of hash."""
    kept: dict[str, list[tuple[int, Document]]] = defaultdict(list)
    for document in documents:
        domain = kept[document.domain]
        domain.append((_rank(document), document))
        if len(domain) >= 2 * _MAX_DOCUMENTS:
            domain.sort(key=lambda pair: pair[0])
            del domain[_MAX_DOCUMENTS:]
    return {
        domain: [document for _, document in sorted(found, key=lambda pair: pair[0])]
        for domain, found in kept.items()
    }


def _rank(document: Document) -> int:
    digest = hashlib.blake2b(document.text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _passage(document: Document, num_characters: int) -> str:
    """A stretch of the document from the line after a place that its hash decides."""
    text = document.text
    if len(text) <= num_characters:
        return text
    start = _rank(document) % (len(text) - num_characters)
    line = text.find("\n", start, start + 1000) + 1
    return text[line or start :][:num_characters]


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], NDArray[np.int64]]:
    """Token ids, and for each the number of UTF-8 bytes of text up to its end.

    A character split over tokens belongs to the first of them, so bytes add up exactly.
    """
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True  # control tokens written in a text are characters
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(sizes)])
    last = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    return encoding.ids, bytes_before[last]
