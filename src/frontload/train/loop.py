"""The training loop: one for pretraining, mid-training and SFT, on a CPU, a GPU or under torchrun.

    result = train(model, order, packs, config, seed=0, directory=stage_directory, device="cpu")
    save_model(model, tokenizer, stage_directory / "model", state=result.weights)
    write_ledger(result.ledger.table(), stage_directory / "ledger.parquet")
    discard_checkpoint(stage_directory)

Guarantees: what a step reads and how far it moves depends on the order, the seed and the config
alone; killed at any moment and called again with the same arguments, it ends in the same weights
and ledger, bit for bit on a CPU. Losses are summed over supervised targets and divided by their
number in the whole batch, so accumulation and ranks change nothing but rounding. Logits are
computed at supervised positions only. Ctrl-C (and SIGTERM) finishes the step, writes a checkpoint
and raises KeyboardInterrupt. Gives up: bit-exactness on GPUs, and across numbers of ranks.

It leaves metrics.jsonl, the last checkpoint, and `optimizer/` when a child stage carries it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from frontload.corpus.batches import assemble_batch
from frontload.corpus.ledger import StageLedger
from frontload.corpus.mixture import Order
from frontload.corpus.rows import PackedRows
from frontload.model.hybrid import DocumentwiseBlock
from frontload.model.memory import keep_freed_memory
from frontload.train.checkpoint import read_tensors, write_tensors
from frontload.train.config import StageConfig
from frontload.train.distributed import Ranks, decoder_layers, full_weights, join, shard, whole
from frontload.train.metrics import Metrics, MetricsLog
from frontload.train.objective import accumulate_gradients, supervised_loss
from frontload.train.optimizer import Optimizer
from frontload.train.progress import Progress, stage_identity
from frontload.train.schedule import learning_rate_factor, share_at_middle
from frontload.train.stopping import stop_requests

OPTIMIZER_FILE = "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a stage came to.

    `weights` holds the full weights when ranks sharded the model, else None: the model has them.
    `resumed_at` is the step this call began at, 0 for a fresh start; `last` the last metrics line.
    """

    steps: int
    resumed_at: int
    last: Metrics
    ledger: StageLedger
    weights: dict[str, Tensor] | None
    is_main: bool


def train(
    model: PreTrainedModel,
    order: Order,
    packs: Mapping[str, PackedRows],
    config: StageConfig,
    *,
    seed: int,
    directory: Path,
    device: str = "cpu",
    stage: str | None = None,
    on_step: Callable[[Metrics], None] | None = None,
    optimizer_state: Path | None = None,
    keep_optimizer: bool = False,
) -> TrainResult:
    """Train `model` in place over the whole order, from the checkpoint in `directory` if any.

    `stage` names it in the ledger (default: the directory's name). `optimizer_state` is the
    folder of the parent stage whose optimizer is carried on, and `keep_optimizer` leaves this
    stage's own there for a child. Under torchrun every rank calls this with the same arguments.

    Raises:
        ValueError: loss or gradient is not finite; the checkpoint or the packs are another
            stage's. The message says what to change.
        OSError: the directory cannot be written; the previous checkpoint is intact.
        KeyboardInterrupt: stopped, after a checkpoint; calling again goes on.
    """
    order.require_packs(packs)
    assert order.budget == config.budget.amount, "the order was planned for another budget"
    with ExitStack() as stack:
        ranks = stack.enter_context(join(device))
        if ranks.device.type == "cpu":
            keep_freed_memory()
        model.to(ranks.device).train()
        shard(model, config, ranks)
        _compile(model, config)
        loss_of = stack.enter_context(supervised_loss(model, config, ranks))
        optimizer = Optimizer(model, config.optimizer)
        ledger = StageLedger(
            stage=stage or directory.name, kind=config.kind, order=order, packs=packs
        )
        identity = stage_identity(config, order, seed)
        progress = Progress(directory, model, optimizer, ledger, identity)
        if not progress.resume() and optimizer_state is not None:
            optimizer.load_state(read_tensors(optimizer_state / OPTIMIZER_FILE).tensors)
        resumed_at, steps = progress.step, order.steps(config.batch_rows)
        tokens = int(order.take[: resumed_at * config.batch_rows].sum(dtype=np.int64))
        stop = stack.enter_context(stop_requests())
        log = stack.enter_context(
            MetricsLog(
                directory,
                first_step=resumed_at,
                tokens=tokens,
                seconds=progress.seconds,
                on_step=on_step if ranks.is_main else None,
                write=ranks.is_main,
            )
        )
        for step in range(resumed_at, steps):
            start = step * config.batch_rows
            batch = assemble_batch(order, packs, start, start + config.batch_rows)
            rate = _learning_rate(config, order, start, len(batch["row"]))
            _seed_dropout(seed, step, ranks)

            loss = accumulate_gradients(loss_of, batch, config, ranks)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step(rate)

            ledger.add(batch, step=step, learning_rate=rate)
            tokens += int(batch["num_tokens"].sum())
            log.add(
                torch.stack([loss, whole(norm)]),
                {
                    "step": step,
                    "learning_rate": rate,
                    "tokens": tokens,
                    "share": order.share(start + len(batch["row"])),
                },
            )
            progress.step = step + 1
            stopping, due = ranks.any(stop.requested, progress.due(config))
            if stopping or due:
                log.flush()
                progress.save(log.seconds, ranks)
            if stopping:
                raise KeyboardInterrupt(f"stopped after step {step}; run again to go on")
        log.flush()
        if keep_optimizer:
            _save_optimizer(directory, optimizer, ranks)
        return TrainResult(
            steps=steps,
            resumed_at=resumed_at,
            last=log.last,
            ledger=ledger,
            weights=full_weights(model) if ranks.world > 1 else None,
            is_main=ranks.is_main,
        )


def _learning_rate(config: StageConfig, order: Order, start: int, num_rows: int) -> float:
    before, after = int(order.consumed[start]), int(order.consumed[start + num_rows])
    share = share_at_middle(before, after - before, order.budget)
    return config.optimizer.learning_rate * learning_rate_factor(config.schedule, share)


def _seed_dropout(seed: int, step: int, ranks: Ranks) -> None:
    """Draws of a step depend on the step, so a resume needs no random state.

    `torch.manual_seed` would do the same and spend 0.4 ms on a record for a GPU nobody uses.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{ranks.rank}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "big") >> 1
    torch.default_generator.manual_seed(value)
    if ranks.device.type == "cuda":
        torch.cuda.manual_seed(value)


def _save_optimizer(directory: Path, optimizer: Optimizer, ranks: Ranks) -> None:
    tensors = {key: whole(tensor).cpu() for key, tensor in optimizer.state().items()}
    if ranks.is_main:
        write_tensors(directory / "optimizer" / OPTIMIZER_FILE, tensors, {})


def _compile(model: PreTrainedModel, config: StageConfig) -> None:
    """Compile each decoder layer; layers of a shape share the code, so this stays short.

    Not the blocks that take documents apart: their shapes follow the data, so that every batch
    would be compiled anew.
    """
    if config.compile:
        for layer in decoder_layers(model):
            if not isinstance(layer, DocumentwiseBlock):
                layer.compile()
