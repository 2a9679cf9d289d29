"""A stage small enough to train in a second, for tests; also a program that trains it.

    python small_stage.py DIRECTORY [field=value ...]      # fields of stage_config, as JSON

It prints a line per optimizer step, and at the end leaves final.safetensors and ledger.parquet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from frontload.corpus.ledger import write_ledger
from frontload.corpus.mixture import Order, plan_order
from frontload.corpus.rows import MARKER, PackedRows, RowWriter
from frontload.model.config import ModelConfig
from frontload.model.presets import build_model
from frontload.train.checkpoint import discard_checkpoint, write_tensors
from frontload.train.config import StageConfig
from frontload.train.distributed import full_weights
from frontload.train.loop import TrainResult, train
from frontload.train.metrics import Metrics

CONTEXT, VOCAB = 16, 64


def stage_config(**changes: Any) -> StageConfig:
    """About 30 steps over two sources, the last batch short and its last row cut."""
    fields: dict[str, Any] = {
        "kind": "pretrain",
        "budget": 3_535,
        "mixture": {"text": 0.6, "problems": 0.4},
        "batch_rows": 8,
        "optimizer": {"learning_rate": 0.01},
        "precision": "fp32",
        "checkpoint_every_seconds": 1e9,
    }
    if "phases" in changes:
        del fields["mixture"]
    return StageConfig.model_validate(fields | changes)


def small_packs(directory: Path) -> dict[str, PackedRows]:
    """Full rows of `text`, and rows of `problems` with three supervised answers and padding."""
    rng = np.random.default_rng(0)
    segments = np.repeat([1, 2, 3, 0], [5, 5, 4, 2])[None]
    problems = segments.repeat(40, 0)
    answers = np.isin(np.arange(CONTEXT), [3, 4, 8, 9, 12, 13])[None].repeat(40, 0)
    text = np.ones((60, CONTEXT), int)
    return {
        "text": _pack(directory / "text", rng, text, text == 1, examples=1, reasoning=False),
        "problems": _pack(directory / "problems", rng, problems, answers, 3, reasoning=True),
    }


def _pack(
    directory: Path,
    rng: np.random.Generator,
    segments: np.ndarray,
    supervised: np.ndarray,
    examples: int,
    reasoning: bool,
) -> PackedRows:
    if (directory / MARKER).is_file():
        return PackedRows.open(directory)
    # Counting modulo the vocabulary: something a model can learn in a few steps.
    start = rng.integers(0, VOCAB, (len(segments), 1))
    tokens = (start + 3 * np.arange(CONTEXT)) % VOCAB
    begun = np.full(len(segments), examples)
    hashes = rng.integers(1, 50, begun.sum() if reasoning else 0).astype(np.uint64)
    with RowWriter(directory, context=CONTEXT, vocab_size=VOCAB, pad_id=0) as writer:
        writer.append(tokens, segments, supervised, begun, hashes)
        return writer.finish(source=directory.name, reasoning=reasoning, identity={}, counters={})


def small_model(seed: int = 0) -> PreTrainedModel:
    """The tiny preset with a small vocabulary."""
    return build_model(ModelConfig(preset="tiny", context=CONTEXT), VOCAB, seed=seed)


def run(
    directory: Path, config: StageConfig, model: PreTrainedModel | None = None, **arguments: Any
) -> TrainResult:
    """Train the stage in `directory / "stage"`, its packs beside it."""
    packs = small_packs(directory)
    order: Order = arguments.pop("order", None) or plan_order(config, packs, seed=0)
    stage = directory / "stage"
    stage.mkdir(exist_ok=True)
    model = small_model() if model is None else model
    return train(model, order, packs, config, seed=0, directory=stage, **arguments)


def run_and_leave_files(directory: Path, config: StageConfig, **arguments: Any) -> None:
    """Train, then store weights and ledger as a worker would."""
    model = small_model()
    result = run(directory, config, model, **arguments)
    if result.is_main:
        weights = result.weights or full_weights(model)
        write_tensors(directory / "stage" / "final.safetensors", weights, {})
        write_ledger(result.ledger.table(), directory / "stage" / "ledger.parquet")
        discard_checkpoint(directory / "stage")


def losses(directory: Path) -> list[float]:
    """Losses in metrics.jsonl, checked to be one per step in order."""
    lines = (directory / "stage" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics] == list(range(len(metrics)))
    return [line["loss"] for line in metrics]


def interrupt_at(step: int = 0) -> Callable[[Metrics], None]:
    """Ask to stop, once, when that step or a later one is told (twice would stop at once)."""
    asked: list[int] = []

    def on_step(line: Metrics) -> None:
        if line["step"] >= step and not asked:
            asked.append(os.getpid())
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def main(arguments: list[str]) -> None:
    """Train as the command line says."""
    torch.set_num_threads(1)
    pairs = (argument.split("=", 1) for argument in arguments[1:])
    config = stage_config(**{name: json.loads(value) for name, value in pairs})
    run_and_leave_files(
        Path(arguments[0]), config, on_step=lambda line: print(line["step"], flush=True)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
