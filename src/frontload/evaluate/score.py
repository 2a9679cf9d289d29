"""Log-likelihoods: of gold responses, and of held-out text in bits per byte.

The logits of a position cost as much as a layer or more, so hidden states are gathered first and
the output head runs over scored positions only. Sequences are sorted by length and padded on the
right, where causal attention and recurrent states cannot see the padding; no mask is needed.

Bits per byte of a text = nats of its tokens, summed / ln 2 / UTF-8 bytes of the text scored. It
compares models with different tokenizers, as loss per token does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from frontload.evaluate.generate import Precision, inference

_TOKENS_PER_BATCH = 8192
"""Padded tokens of one forward pass: large enough for the matrix units, small enough for caches."""

_LOGITS_PER_BATCH = 2**27
"""Half a gigabyte in fp32; with a vocabulary of 150,000 this, not the tokens, is what binds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A sequence of token ids; those from `start` on are scored, given all before them."""

    ids: tuple[int, ...]
    start: int


def negative_log_likelihood(
    model: PreTrainedModel,
    sequences: Sequence[Scored],
    *,
    precision: Precision = "fp32",
    tokens_per_batch: int = _TOKENS_PER_BATCH,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Nats of the scored tokens of each sequence, summed: -sum of log p(token | all before it).

    Scoring starts at 1 or later: nothing predicts the first token. `on_progress(done, total)`.
    """
    assert all(0 < sequence.start <= len(sequence.ids) for sequence in sequences)
    nats = np.zeros(len(sequences))
    num_done = 0
    vocab_size = model.get_output_embeddings().weight.shape[0]
    tokens_per_batch = min(tokens_per_batch, _LOGITS_PER_BATCH // vocab_size)
    with inference(model, precision):
        for batch in _batches(sequences, tokens_per_batch):
            nats[batch] = _score(model, [sequences[row] for row in batch])
            num_done += len(batch)
            if on_progress:
                on_progress(num_done, len(sequences))
    return nats


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Nats over a text of `num_bytes` UTF-8 bytes, in bits per byte; NaN for no text."""
    return nats / math.log(2) / num_bytes if num_bytes else math.nan


def _batches(sequences: Sequence[Scored], tokens_per_batch: int) -> Iterator[list[int]]:
    """Row numbers, shortest first, as many as fit into the tokens once padded."""
    batch: list[int] = []
    for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row].ids)):
        if batch and (len(batch) + 1) * len(sequences[row].ids) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score(model: PreTrainedModel, batch: Sequence[Scored]) -> NDArray[np.float64]:
    width = max(len(sequence.ids) for sequence in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    scored = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        scored[row, sequence.start : len(sequence.ids)] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    with _head_over(model, scored[:, 1:]):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    nats = torch.nn.functional.cross_entropy(logits.float(), ids[scored], reduction="none")
    sums = torch.zeros(len(batch), dtype=torch.float64, device=model.device)
    sums.index_add_(0, scored.nonzero()[:, 0], nats.double())
    result: NDArray[np.float64] = sums.cpu().numpy()
    return result


@contextmanager
def _head_over(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[None]:
    """Within, `model(...).logits` is (positions, vocabulary): those marked in (rows, width).

    The gathering hooks into the output head, so that whatever a model does to its logits after it
    (soft caps, scales) still happens.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions],))
    try:
        yield
    finally:
        hook.remove()
