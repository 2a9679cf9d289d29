"""How documents and examples fill rows; `packing.pack` feeds these in batches.

Guarantees: documents fill every row but the last to the brim; an example is never split, and is
one segment of one row; what is not packed is counted under a reason. Gives up: optimal packing of
examples (best fit over a bounded number of open rows, longest first within a batch).
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frontload.corpus.example import Document, Example
from frontload.corpus.rows import RowWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from frontload.model.tokenizer import EncodedExample

OPEN_ROWS = 256
"""Rows kept open for later examples."""


class Filler(Protocol):
    """Turns batches of items of one type into rows."""

    dropped: Counter[str]
    longest: int
    num_tokens: int

    def add(self, items: Sequence[Any]) -> None: ...
    def close(self) -> None: ...


class DocumentFiller:
    """One endless row of documents, each with its end token, cut into rows of `context`."""

    def __init__(
        self, writer: RowWriter, tokenizer: PreTrainedTokenizerFast, supervise_all: bool
    ) -> None:
        assert supervise_all
        self._writer, self._tokenizer = writer, tokenizer
        self._ids = np.empty(0, np.int32)
        self._begins = np.empty(0, bool)
        self.dropped: Counter[str] = Counter()
        self.longest = self.num_tokens = 0

    def add(self, items: Sequence[Document]) -> None:
        from frontload.model.tokenizer import encode_texts

        end = np.array([self._tokenizer.eos_token_id], np.int32)
        texts = [item.text for item in items if item.text]
        encoded = [ids for ids in encode_texts(self._tokenizer, texts) if len(ids)]
        self.dropped["empty"] += len(items) - len(encoded)
        if not encoded:
            return
        lengths = np.array([len(ids) + 1 for ids in encoded])
        begins = np.zeros(lengths.sum(), bool)
        begins[np.cumsum(lengths) - lengths] = True
        self.longest = max(self.longest, int(lengths.max()))
        self.num_tokens += len(begins)
        self._ids = np.concatenate([self._ids, *chain.from_iterable((ids, end) for ids in encoded)])
        self._begins = np.concatenate([self._begins, begins])
        self._write(len(self._ids) // self._writer.context)

    def close(self) -> None:
        """Write what is left as a last row, padded."""
        if missing := -len(self._ids) % self._writer.context:
            used = len(self._ids)
            self._ids = np.pad(self._ids, (0, missing))
            self._begins = np.pad(self._begins, (0, missing))
            self._write(1, used)

    def _write(self, rows: int, used: int | None = None) -> None:
        shape = (rows, self._writer.context)
        count = rows * self._writer.context
        ids, begins = self._ids[:count].reshape(shape), self._begins[:count].reshape(shape)
        self._ids, self._begins = self._ids[count:], self._begins[count:]
        # The first segment of a row may be the rest of a document begun in an earlier one.
        segments = np.cumsum(begins, axis=1) + ~begins[:, :1]
        if used is not None:
            segments[-1, used:] = 0
        nothing = np.empty(0, np.uint64)
        self._writer.append(ids, segments, np.ones(shape, bool), begins.sum(axis=1), nothing)


class ExampleFiller:
    """Best fit, longest first within a batch, over a bounded number of open rows.

    `self._open` lists (free tokens, row) ascending. Rows are numbered within the current block:
    the open rows carried over come first, then those begun in this batch.
    """

    def __init__(
        self, writer: RowWriter, tokenizer: PreTrainedTokenizerFast, supervise_all: bool
    ) -> None:
        self._writer, self._tokenizer, self._all = writer, tokenizer, supervise_all
        self._open: list[tuple[int, int]] = []
        self._rows = 0
        self._block: dict[str, NDArray[Any]] = {
            "tokens": np.empty((0, writer.context), np.int32),
            "segments": np.empty((0, writer.context), np.uint16),
            "supervised": np.empty((0, writer.context), bool),
        }
        self._examples = np.empty(0, np.int64)
        self._prompts = np.empty((0, 2), np.int64), np.empty(0, np.uint64)  # (row, segment), hash
        self.dropped: Counter[str] = Counter()
        self.longest = self.num_tokens = 0

    def add(self, items: Sequence[Example]) -> None:
        from frontload.model.tokenizer import encode_examples

        encoded = list(encode_examples(self._tokenizer, items))
        hashes = np.array([prompt_hash(item.prompt) for item in items], np.uint64)
        lengths = np.array([len(example.ids) for example in encoded])
        self.longest = max(self.longest, int(lengths.max()))
        fits = lengths <= self._writer.context
        taught = np.array([bool(example.supervised[1:].any()) for example in encoded])
        self.dropped["longer_than_context"] += int((~fits).sum())
        self.dropped["nothing_supervised"] += int((fits & ~taught).sum())
        self._writer.note_prompts(hashes[~(fits & taught)])
        kept = np.flatnonzero(fits & taught)
        kept = kept[np.argsort(-lengths[kept], kind="stable")]
        if len(kept):
            self._fill([encoded[i] for i in kept], lengths[kept], hashes[kept])
            self._flush([row for _, row in self._open])

    def close(self) -> None:
        """Write the rows that are still open."""
        self._open = []
        self._flush([])

    def _fill(
        self,
        encoded: Sequence[EncodedExample],
        lengths: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> None:
        places = np.array([self._place(length) for length in lengths.tolist()])
        row, offset = places[:, 0], places[:, 1]
        self._grow()
        # Examples of a row were placed from left to right, so their rank is their segment.
        order = np.argsort(row, kind="stable")
        begins = np.flatnonzero(np.diff(row[order], prepend=-1))
        rank = np.empty(len(row), np.int64)
        sizes = np.diff(begins, append=len(row))
        rank[order] = np.arange(len(row)) - np.repeat(begins, sizes)
        segment = self._examples[row] + rank + 1
        self._examples[row[order[begins]]] += sizes
        ends = np.cumsum(lengths)
        column = np.arange(ends[-1]) - np.repeat(ends - lengths - offset, lengths)
        at = np.repeat(row, lengths), column
        self._block["tokens"][at] = np.concatenate([example.ids for example in encoded])
        self._block["segments"][at] = np.repeat(segment, lengths)
        mask = True if self._all else np.concatenate([e.supervised for e in encoded])
        self._block["supervised"][at] = mask
        where, known = self._prompts
        where = np.concatenate([where, np.stack([row, segment], axis=1)])
        self._prompts = where, np.concatenate([known, hashes])
        self.num_tokens += int(ends[-1])

    def _place(self, length: int) -> tuple[int, int]:
        """The row with the least room that suffices, and the column to begin at."""
        index = bisect.bisect_left(self._open, (length, -1))
        if index < len(self._open):
            free, row = self._open.pop(index)
        else:
            free, row = self._writer.context, self._rows
            self._rows += 1
            if len(self._open) == OPEN_ROWS:
                self._open.pop(0)
        if free > length:
            bisect.insort(self._open, (free - length, row))
        return row, self._writer.context - free

    def _grow(self) -> None:
        """Room in the block for the rows begun by `_place`."""
        more = self._rows - len(self._examples)
        for name, block in self._block.items():
            self._block[name] = np.pad(block, ((0, more), (0, 0)))
        self._examples = np.pad(self._examples, (0, more))

    def _flush(self, keep: list[int]) -> None:
        """Write all rows of the block but those to keep, which become its first rows."""
        stays = np.zeros(len(self._examples), bool)
        stays[keep] = True
        where, hashes = self._prompts
        held = stays[where[:, 0]]
        order = np.lexsort(where[~held].T[::-1])
        done = {name: block[~stays] for name, block in self._block.items()}
        self._writer.append(
            **done, examples=self._examples[~stays], prompt_hashes=hashes[~held][order]
        )
        number = np.cumsum(stays) - 1
        where = where[held]
        where[:, 0] = number[where[:, 0]]
        self._prompts = where, hashes[held]
        self._open = [(free, int(number[row])) for free, row in self._open]
        self._block = {name: block[stays] for name, block in self._block.items()}
        self._examples = self._examples[stays]
        self._rows = len(self._examples)


FILLERS: dict[type, Callable[[RowWriter, Any, bool], Filler]] = {
    Document: DocumentFiller,
    Example: ExampleFiller,
}


def prompt_hash(prompt: str) -> int:
    digest = hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
