"""One stage of one seed: order the data, train, evaluate, and write DONE last.

    python -m frontload.study.stage runs/NAME/stages/STAGE

does what the engine does. Stopped at any moment, it goes on from the last checkpoint; training
that had finished is not repeated when only the evaluation was cut short.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from frontload.corpus.ledger import write_ledger
from frontload.corpus.mixture import Order, plan_order
from frontload.corpus.rows import PackedRows
from frontload.evaluate.harness import evaluate
from frontload.evaluate.items import EvaluationItems
from frontload.model.checkpoint import load_model, save_model
from frontload.model.contract import contract_of, require_same_contract
from frontload.model.memory import keep_freed_memory
from frontload.model.presets import build_model
from frontload.model.tokenizer import load_tokenizer
from frontload.study.engine import ERROR, errors_kept
from frontload.study.identity import read_json, write_json
from frontload.study.prepare import Record, finish
from frontload.study.ranks import launch, stop_with_parent
from frontload.train.checkpoint import discard_checkpoint
from frontload.train.config import StageConfig
from frontload.train.loop import train

TRAINED = "TRAINED"


def run_stage(directory: Path) -> None:
    """Train and evaluate the stage described by `directory / stage.json`.

    Raises:
        ValueError: the parent or a pack does not fit this stage; the message says how.
    """
    record = Record.read(directory, "stage.json")
    if _rank() is not None:
        stop_with_parent()
        with errors_kept(directory):
            _work(directory, record)
        return
    processes = record["engine"]["processes_per_stage"]
    with _only_worker(directory) as lock:
        (directory / ERROR).unlink(missing_ok=True)
        if processes > 1:
            # Its written-out name, since __name__ is "__main__" when run by hand.
            launch("frontload.study.stage", directory, processes=processes, lock=lock)
        else:
            _work(directory, record)


def _work(directory: Path, record: Record) -> None:
    keep_freed_memory()
    torch.set_num_threads(record["engine"]["threads"])
    if not (directory / TRAINED).is_file():
        _train(directory, record)
    if not _rank():
        _evaluate(directory, record)


def _train(directory: Path, record: Record) -> None:
    began = time.monotonic()
    config = StageConfig.model_validate(
        {key: value for key, value in record["stage"].items() if key != "name"}
    )
    parent = record.run / "stages" / record["parent"] if record["parent"] else None
    tokenizer = load_tokenizer(record.tokenizer_directory)
    contract = contract_of(tokenizer)
    origin = parent / "model" if parent else record.model.start
    if origin is not None:
        theirs = contract_of(load_tokenizer(origin, record.model.revision))
        require_same_contract(theirs, contract, expected_in=str(origin), found_in="this study")
    packs = {
        source: PackedRows.open(record.run / "data" / name / "rows")
        for source, name in record["packs"].items()
    }
    cursors = read_json(parent / "cursors.json") if parent else {}
    order = _order(directory, config, packs, record, cursors)
    if parent is not None:
        model = load_model(parent / "model")
    else:
        model = build_model(record.model, len(tokenizer), seed=record["seed"])
    result = train(
        model,
        order,
        packs,
        config,
        seed=record["seed"],
        directory=directory,
        device=_device(record),
        stage=record["stage"]["name"],
        optimizer_state=parent / "optimizer" if parent and config.optimizer.carry else None,
        keep_optimizer=record["keep_optimizer"],
    )
    if result.is_main:
        save_model(model, tokenizer, directory / "model", state=result.weights)
        write_ledger(result.ledger.table(), directory / "ledger.parquet")
        write_json(directory / "cursors.json", {**cursors, **_cursors(record, order)})
        write_json(
            directory / TRAINED,
            {
                "seconds": round(time.monotonic() - began, 3),
                "train_seconds": result.last["seconds"],
                "steps": result.steps,
            },
        )
        discard_checkpoint(directory)


def _order(
    directory: Path,
    config: StageConfig,
    packs: dict[str, PackedRows],
    record: Record,
    cursors: dict[str, int],
) -> Order:
    """The stage's order; a cursor belongs to a pack, not to a source."""
    known = {source: cursors[name] for source, name in record["packs"].items() if name in cursors}
    order = plan_order(config, packs, seed=record["seed"], cursors=known)
    if not _rank():
        order.save(directory / "order.npz")
    return order


def _cursors(record: Record, order: Order) -> dict[str, int]:
    return {name: order.cursors[source] for source, name in record["packs"].items()}


def _evaluate(directory: Path, record: Record) -> None:
    began = time.monotonic()
    model = load_model(directory / "model", device=_device(record))
    tokenizer = load_tokenizer(directory / "model")
    items = EvaluationItems.load(record.items_directory)
    evaluate(
        model,
        tokenizer,
        items,
        record.evaluation,
        context=record.model.context,
        device=_device(record),
        directory=directory,
    )
    trained: dict[str, Any] = read_json(directory / TRAINED)
    finish(
        directory,
        began - trained["seconds"],
        train_seconds=trained["train_seconds"],
        evaluate_seconds=round(time.monotonic() - began, 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _rank() -> int | None:
    """Rank under torchrun; None when this process works alone."""
    rank = os.environ.get("RANK")
    return None if rank is None else int(rank)


def _device(record: Record) -> str:
    asked: str = record["engine"]["device"]
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _only_worker(directory: Path) -> Iterator[int]:
    """One worker at a time, even while an older run's is saving; yields the lock's descriptor."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


if __name__ == "__main__":
    run_stage(Path(sys.argv[1]))
