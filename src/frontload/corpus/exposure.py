"""What was read of one source, counted exactly from assembled batches; `ledger` sums these up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontload.corpus.batches import IGNORE, Batch
from frontload.corpus.rows import PackedRows

COUNTS = (
    "tokens",
    "unique_tokens",
    "supervised_tokens",
    "unique_supervised_tokens",
    "examples",
)
STATE = ("counts", "learning_rate", "rows_seen", "cut", "prompts_seen")


class SourceCounts:
    """The counts of one source; `self._reach[r]` is the most tokens of row r read at once.

    Rows are always read from the left, so the distinct positions read of a row are a prefix.
    """

    def __init__(self, pack: PackedRows) -> None:
        self._pack = pack
        self._counts = dict.fromkeys(COUNTS, 0)
        self._first_step = self._last_step = -1
        self._rate_times_tokens = 0.0
        self._reach = np.zeros(pack.rows, np.min_scalar_type(pack.context))
        self._prompts_seen = np.zeros(pack.num_prompts, bool)
        # Index in `pack.prompts` of the first example of each row.
        examples = pack.num_examples.astype(np.int64) if pack.reasoning else np.zeros(1, np.int64)
        self._first_prompt = np.cumsum(examples) - examples

    def add(self, batch: Batch, at: NDArray[np.intp], step: int, learning_rate: float) -> None:
        row, taken = batch["row"][at], batch["num_tokens"][at]
        tokens = int(taken.sum())
        self._counts["tokens"] += tokens
        self._counts["supervised_tokens"] += int(batch["num_supervised"][at].sum())
        self._counts["examples"] += int(batch["num_examples"][at].sum())
        self._rate_times_tokens += learning_rate * tokens
        self._first_step = step if self._first_step < 0 else self._first_step
        self._last_step = step
        self._count_new_positions(batch, at, row, taken)
        if self._pack.reasoning:
            self._see_prompts(row, batch["num_examples"][at])

    def _count_new_positions(
        self, batch: Batch, at: NDArray[np.intp], row: NDArray[np.uint32], taken: NDArray[Any]
    ) -> None:
        # A row may occur twice in one batch; then only its longest reading is new.
        longest = np.lexsort((-taken, row))
        row, first = np.unique(row[longest], return_index=True)
        chosen = longest[first]
        before, taken = self._reach[row].astype(np.int64), taken[chosen]
        more = taken > before
        row, before, taken, chosen = row[more], before[more], taken[more], chosen[more]
        self._counts["unique_tokens"] += int((taken - before).sum())
        labels = batch["labels"][at[chosen]]
        # labels[:, t] is the token at t + 1.
        new = np.arange(1, labels.shape[1] + 1) >= before[:, None]
        self._counts["unique_supervised_tokens"] += int(((labels != IGNORE) & new).sum())
        self._reach[row] = taken

    def _see_prompts(self, row: NDArray[np.uint32], examples: NDArray[np.int64]) -> None:
        ends = np.cumsum(examples)
        starts = np.repeat(self._first_prompt[row] - (ends - examples), examples)
        self._prompts_seen[self._pack.prompts[starts + np.arange(ends[-1])]] = True

    def row(self) -> dict[str, Any]:
        tokens = self._counts["tokens"]
        return {
            **self._counts,
            "source": self._pack.source,
            "reasoning": self._pack.reasoning,
            "unique_prompts": int(self._prompts_seen.sum()),
            "passes": tokens / self._pack.total_tokens,
            "first_step": self._first_step,
            "last_step": self._last_step,
            "mean_learning_rate": self._rate_times_tokens / tokens if tokens else 0.0,
            "prompt_set": self._pack.prompt_set,
            "prompts_seen": np.packbits(self._prompts_seen).tobytes(),
        }

    def state(self) -> dict[str, NDArray[Any]]:
        whole = self._reach == self._pack.num_tokens
        cut = np.flatnonzero((self._reach > 0) & ~whole)
        steps = [self._first_step, self._last_step]
        return {
            "counts": np.array([*(self._counts[key] for key in COUNTS), *steps], np.int64),
            "learning_rate": np.array([self._rate_times_tokens], np.float64),
            "rows_seen": np.packbits(whole),
            "cut": np.stack([cut, self._reach[cut]], axis=1).astype(np.int64),
            "prompts_seen": np.packbits(self._prompts_seen),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        *counts, self._first_step, self._last_step = state["counts"].tolist()
        self._counts = dict(zip(COUNTS, counts, strict=True))
        self._rate_times_tokens = float(state["learning_rate"][0])
        whole = np.unpackbits(state["rows_seen"], count=self._pack.rows).astype(bool)
        self._reach = np.where(whole, self._pack.num_tokens, 0).astype(self._reach.dtype)
        self._reach[state["cut"][:, 0]] = state["cut"][:, 1]
        seen = np.unpackbits(state["prompts_seen"], count=self._pack.num_prompts)
        self._prompts_seen = seen.astype(bool)
