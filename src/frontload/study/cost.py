"""What a plan costs before it is paid: operations, time on this machine, disk.

Operations follow the usual count (Kaplan et al. 2020, section 2.1): a forward pass multiplies and
adds once per token and weight, the backward pass twice, so 6 N per token, with N the weights that
multiply (an untied input embedding only looks up). Attention adds 12 · width · context / 2 per
token and layer of causal rows. State-space layers are counted by their weights alone.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from frontload.corpus.mixture import plan_order
from frontload.corpus.rows import PackedRows, RowWriter
from frontload.model.config import ModelConfig
from frontload.model.memory import keep_freed_memory
from frontload.model.presets import build_model, count_parameters
from frontload.model.tokenizer import load_tokenizer
from frontload.study.artifacts import local_or_hub, placed_model
from frontload.study.plan import Plan, StageNode
from frontload.study.spec import StudySpec
from frontload.train.config import Budget, ScheduleConfig
from frontload.train.loop import train

_BYTES_PER_WEIGHT = 4
_GUESSED_FLOPS_PER_SECOND = 1e11
_MEASURE_SECONDS = 3.0
_MEASURE_STEPS = (3, 60)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of one plan. Seconds cover training alone, all stages one after another."""

    parameters: int
    flops_per_token: float
    tokens: int
    """Trained once the stages that arms share are done once."""
    tokens_unshared: int
    """Trained if every arm paid for all of its stages."""
    tokens_per_second: float
    """Of one worker, measured just now."""
    disk_bytes: int

    @property
    def flops(self) -> float:
        """Training operations of the whole plan."""
        return self.flops_per_token * self.tokens

    @property
    def seconds(self) -> float:
        """Training time of the whole plan on one worker."""
        return self.tokens / self.tokens_per_second


def flops_per_token(config: ModelConfig, vocab_size: int) -> float:
    """Forward and backward operations per trained token."""
    count = count_parameters(config, vocab_size)
    return 6 * count.multiplying + 6 * count.attention_width * config.context


def estimate(spec: StudySpec, plan: Plan, root: Path) -> Cost:
    """The cost of a plan, with this machine's speed measured for a few seconds.

    `root` is the spec's folder, to which its paths are relative.
    """
    spec = spec.model_copy(update={"model": placed_model(spec.model, root)})
    vocab_size = _vocab_size(spec, root)
    parameters = count_parameters(spec.model, vocab_size).total
    each = flops_per_token(spec.model, vocab_size)
    kept = sum(1 + 2 * node.keep_optimizer for node in plan.nodes.values())
    return Cost(
        parameters=parameters,
        flops_per_token=each,
        tokens=sum(node.config.budget.amount for node in plan.nodes.values()),
        tokens_unshared=sum(
            plan.nodes[name].config.budget.amount for names in plan.paths.values() for name in names
        ),
        tokens_per_second=_measure(spec, next(iter(plan.nodes.values())), each, vocab_size),
        disk_bytes=kept * parameters * _BYTES_PER_WEIGHT,
    )


def _vocab_size(spec: StudySpec, root: Path) -> int:
    config = spec.tokenizer
    if config.load is None:
        return config.vocab_size
    return len(load_tokenizer(local_or_hub(root, config.load), config.revision))


def _measure(spec: StudySpec, node: StageNode, flops: float, vocab_size: int) -> float:
    """Tokens a second of the real loop on random tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed_memory()
    torch.set_num_threads(spec.engine.threads)
    context, rows = spec.model.context, node.config.batch_rows
    guess = _MEASURE_SECONDS * _GUESSED_FLOPS_PER_SECOND / (flops * context * rows)
    steps = int(np.clip(guess, *_MEASURE_STEPS))
    config = node.config.model_copy(
        update={
            "budget": Budget(amount=steps * rows * context),
            "mixture": {"random": 1.0},
            "phases": (),
            "schedule": ScheduleConfig(kind="constant"),
            "optimizer": node.config.optimizer.model_copy(update={"carry": False}),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        packs = {"random": _random_rows(Path(folder) / "rows", steps * rows, context)}
        order = plan_order(config, packs, seed=0)
        model = build_model(spec.model, vocab_size, seed=0)
        result = train(model, order, packs, config, seed=0, directory=Path(folder), device=device)
    return config.budget.amount / result.last["seconds"]


def _random_rows(directory: Path, rows: int, context: int) -> PackedRows:
    tokens = np.random.default_rng(0).integers(0, 256, (rows, context))
    ones = np.ones((rows, context), np.uint16)
    with RowWriter(directory, context=context, vocab_size=256, pad_id=0) as writer:
        writer.append(tokens, ones, ones, np.ones(rows), np.arange(rows, dtype=np.uint64))
        return writer.finish()
