"""The loss of a batch: over supervised targets only, in as many passes as memory asks for.

Guarantees: each target weighs the same, wherever it lies: losses are summed and divided by the
number of targets in the whole batch, so micro-batches and ranks change nothing but rounding. Logits
are computed at supervised positions alone, which for response-only training saves most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from frontload.corpus.batches import IGNORE, Batch
from frontload.train.config import StageConfig
from frontload.train.distributed import Ranks

LossOf = Callable[[dict[str, Tensor]], Tensor]


@contextmanager
def supervised_loss(model: PreTrainedModel, config: StageConfig, ranks: Ranks) -> Iterator[LossOf]:
    """A function from a micro-batch to the sum of its losses, in nats.

    The head sees the supervised positions only: they are picked from its input on the way in, so
    whatever the model's own forward does to logits (scaling, soft caps) still happens.
    """
    picked: list[Tensor] = []

    def pick(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, picked[0]),)

    def loss_of(micro: dict[str, Tensor]) -> Tensor:
        picked[:] = [micro["supervised"]]
        with _precision(config, ranks):
            output = model(
                input_ids=micro["input_ids"], position_ids=micro["position_ids"], use_cache=False
            )
        return F.cross_entropy(output.logits.float(), micro["targets"], reduction="sum")

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield loss_of
    finally:
        handle.remove()


def accumulate_gradients(
    loss_of: LossOf, batch: Batch, config: StageConfig, ranks: Ranks
) -> Tensor:
    """Gradients of the mean loss over the batch's supervised targets; returns that loss."""
    num_rows = len(batch["row"])
    num_targets = max(int(batch["num_supervised"].sum()), 1)
    mine = ranks.rows(num_rows)
    each = -(-num_rows // ranks.world)  # the same number of passes on every rank
    size = config.micro_rows or each
    total = torch.zeros((), device=ranks.device)
    for first in range(mine.start, mine.start + each, size):
        rows = slice(first, min(first + size, mine.stop))
        # FSDP averages gradients over ranks, and this is a sum.
        loss = loss_of(_on_device(batch, rows, ranks.device)) * (ranks.world / num_targets)
        loss.backward()
        total += loss.detach()
    return ranks.sum(total) / ranks.world


def _on_device(batch: Batch, rows: slice, device: torch.device) -> dict[str, Tensor]:
    """Some rows as tensors, with the flat positions and ids of their supervised targets.

    Without rows (a rank with nothing left in a short batch) it is one row with no target.
    """
    empty = rows.stop <= rows.start
    rows = slice(0, 1) if empty else rows
    labels = batch["labels"][rows].reshape(-1)
    supervised = np.flatnonzero(labels != IGNORE)[: 0 if empty else None]
    arrays = {
        "input_ids": batch["input_ids"][rows],
        "position_ids": batch["position_ids"][rows],
        "supervised": supervised,
        "targets": labels[supervised],
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type == "cpu":
        return tensors
    return {name: t.pin_memory().to(device, non_blocking=True) for name, t in tensors.items()}


def _precision(config: StageConfig, ranks: Ranks) -> AbstractContextManager[Any]:
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(ranks.device.type, torch.bfloat16)
