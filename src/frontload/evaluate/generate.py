"""Batched generation with a key-value cache.

Guarantees: every prompt gets the answer it would get alone. Prompts are sorted by length and padded
on the left, padding is masked and positions start at the first real token. A model with a recurrent
state is batched by equal length instead, unless it is known to keep padding out of its state.
Random numbers belong to a row (seed, sample, step), never to a batch: sampled answers do not change
with the batch size or the order of prompts. Finished rows leave the batch, cache included.

Gives up: beam search, top-p and stop strings. "The same answer" holds up to floating point: two
tokens whose logits tie within rounding may swap between batch shapes. That is rare in fp32 and
common enough in bf16 to see.

    answers = generate(model, prompts, end_ids={2}, pad_id=0, max_new_tokens=48, context=64)
    answers[i][sample].tokens
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from frontload.evaluate.cache import roomy_cache

Precision = Literal["bf16", "fp32"]

# Shrinking the batch copies the cache, so it waits until this share of its rows has finished.
_SHARE_DONE_TO_SHRINK = 0.125


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer: token ids without the end token, and whether the model ended it itself."""

    tokens: tuple[int, ...]
    finished: bool


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    context: int,
    batch_size: int = 256,
    temperature: float = 0.0,
    samples: int = 1,
    seeds: Sequence[int] | None = None,
    precision: Precision = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Generation]]:
    """`samples` answers to each prompt (token ids), in the order of the prompts.

    An answer stops at one of `end_ids`, after `max_new_tokens`, or where prompt and answer fill
    `context`; only the first counts as finished. `temperature` 0 is greedy. `seeds` (one per
    prompt, needed above temperature 0) fix the random numbers. `on_progress(done, total)` is
    called with numbers of answers.
    """
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError("seeds: sampling needs one seed per prompt")
    answers = [[_UNANSWERED] * samples for _ in prompts]
    room = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    rows = [(p, s) for p in range(len(prompts)) if room[p] > 0 for s in range(samples)]
    rows.sort(key=lambda row: len(prompts[row[0]]))
    equal_length = must_not_pad(model)
    num_done = 0
    with inference(model, precision):
        for batch in _batches(rows, prompts, batch_size, equal_length=equal_length):
            noise = [_noise(seeds[p], s, room[p]) for p, s in batch] if seeds else []
            decoded = _decode(
                model,
                [prompts[p] for p, _ in batch],
                room=[room[p] for p, _ in batch],
                end_ids=sorted(end_ids),
                pad_id=pad_id,
                temperature=temperature,
                noise=noise if temperature else [],
            )
            for (p, s), answer in zip(batch, decoded, strict=True):
                answers[p][s] = answer
            num_done += len(batch)
            if on_progress:
                on_progress(num_done, len(rows))
    return answers


def must_not_pad(model: PreTrainedModel) -> bool:
    """Whether a layer folds the past into a state that padding might enter.

    Nemotron-H sets padded positions to zero before and after its convolution, and a zero input
    leaves a zero state zero: padding on its left is exact (tested). Others are not trusted.
    """
    stateful = bool(getattr(model, "_is_stateful", False))
    return stateful and model.config.model_type != "nemotron_h"


@contextmanager
def inference(model: PreTrainedModel, precision: Precision) -> Iterator[None]:
    """No gradients, evaluation mode (restored after), and bf16 autocast where asked for.

    Autocast keeps the weights in fp32 and computes as training did; a bf16 copy of the model would
    round its residual stream as well.
    """
    was_training = model.training
    model.eval()
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16")
    try:
        with torch.inference_mode(), autocast:
            yield
    finally:
        model.train(was_training)


_UNANSWERED = Generation(tokens=(), finished=False)
_Row = tuple[int, int]


def _batches(
    rows: list[_Row], prompts: Sequence[Sequence[int]], batch_size: int, *, equal_length: bool
) -> Iterator[list[_Row]]:
    """Consecutive runs of at most `batch_size` rows, of one prompt length when asked for."""
    batch: list[_Row] = []
    for row in rows:
        other = batch and equal_length and len(prompts[batch[0][0]]) != len(prompts[row[0]])
        if len(batch) == batch_size or other:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _noise(seed: int, sample: int, steps: int) -> np.ndarray:
    """Uniform numbers in [0, 1) of one row, one per step; a prefix of any longer draw."""
    key = np.array([seed & (2**64 - 1), sample], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(steps)


def _decode(
    model: PreTrainedModel,
    prompts: list[Sequence[int]],
    *,
    room: list[int],
    end_ids: list[int],
    pad_id: int,
    temperature: float,
    noise: list[np.ndarray],
) -> list[Generation]:
    """Answer one batch of rows. `live` lists the rows still in the batch; the rest have left."""
    device = model.device
    most = max(room)
    limit = torch.tensor(room, device=device)
    ends = torch.tensor(end_ids, device=device)
    uniform = _stack_noise(noise, most, device)
    written = torch.full((len(prompts), most), pad_id, device=device)
    length = torch.zeros(len(prompts), dtype=torch.long, device=device)  # 0 while running
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    live = torch.arange(len(prompts), device=device)
    cache, mask, positions, logits = _prefill(model, prompts, most, pad_id)
    width = mask.shape[1] - most
    padded = not bool(mask.all())
    for step in range(most):
        chosen = _choose(logits, temperature, uniform[live, step] if temperature else None)
        written[live, step] = chosen
        at_end = torch.isin(chosen, ends)
        stops = (at_end | (limit[live] <= step + 1)) & (length[live] == 0)
        ended[live] |= at_end & stops
        length[live[stops]] = step + 1
        running = length[live] == 0
        num_running = int(running.sum())
        if num_running == 0:
            break
        if num_running <= (1 - _SHARE_DONE_TO_SHRINK) * len(live):
            keep = running.nonzero().squeeze(1)
            cache.reorder_cache(keep)
            live, chosen, positions, mask = live[keep], chosen[keep], positions[keep], mask[keep]
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=positions[:, None] + step,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return [
        Generation(tokens=tuple(tokens[: size - over]), finished=over)
        for tokens, size, over in zip(
            written.tolist(), length.tolist(), ended.tolist(), strict=True
        )
    ]


def _stack_noise(noise: list[np.ndarray], most: int, device: torch.device) -> torch.Tensor:
    """(rows, most) float64; rows with less room are filled with zeros that nobody reads."""
    table = np.zeros((len(noise), most))
    for row, numbers in enumerate(noise):
        table[row, : len(numbers)] = numbers
    return torch.from_numpy(table).to(device)


def _prefill(
    model: PreTrainedModel, prompts: list[Sequence[int]], most: int, pad_id: int
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read the prompts once each (samples share them), then give every row its copy.

    Returns the cache, the mask over prompt and answer (rows, width + most), the position of each
    row's first new token, and the logits after the prompt.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    width = max(map(len, distinct))
    ids = torch.full((len(distinct), width), pad_id)
    mask = torch.ones((len(distinct), width + most), dtype=torch.long)
    for row, prompt in enumerate(distinct):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, : width - len(prompt)] = 0
    ids, mask = ids.to(model.device), mask.to(model.device)
    seen = mask[:, :width]
    cache = roomy_cache(model)
    logits = model(
        input_ids=ids,
        attention_mask=None if bool(seen.all()) else seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    positions = seen.sum(1)
    if len(distinct) == len(prompts):
        return cache, mask, positions, logits
    number = {prompt: row for row, prompt in enumerate(distinct)}
    copies = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=model.device)
    cache.reorder_cache(copies)
    return cache, mask[copies], positions[copies], logits[copies]


def _choose(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> torch.Tensor:
    """Token ids (rows,): the likeliest, or the inverse of the distribution at `uniform`."""
    if uniform is None:
        return logits.float().argmax(-1)
    likelihood = (logits.float() / temperature).softmax(-1).double().cumsum(-1)
    total = likelihood[:, -1]
    chosen = torch.searchsorted(likelihood, (uniform * total)[:, None], right=True).squeeze(1)
    return chosen.clamp(max=logits.shape[-1] - 1)
