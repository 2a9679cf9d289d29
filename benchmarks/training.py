"""Our training loop against the transformers `Trainer`: same model, rows, precision and optimizer.

Every run is a process of its own (memory settings last as long as the process), one thread on a
CPU, and the sides take turns. Both train the same weights on the same packed rows in the same
order: half plain documents, half rows of three short examples with loss on the responses. The
Trainer gets its rows ready-made in memory, ours assembles them. Sides:

    trainer          Trainer, AdamW (fused), the attention that `from_pretrained` gives (sdpa)
    trainer, tuned   the same with our attention and memory settings: what the loop alone is worth
    ours, adamw      our loop, AdamW (fused): compared with `trainer`
    ours, muon       our loop, Muon: what a study runs

The mean losses of the AdamW sides must agree, or the benchmark fails. The table shows medians of
tokens per second, and in brackets the spread (largest over smallest) of the runs; a second figure
counts CPU seconds, which other work on the machine disturbs less.

    python benchmarks/training.py                      # prints a table, writes results/
    python benchmarks/training.py --sizes tiny --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from frontload.corpus.batches import IGNORE, assemble_batch
from frontload.corpus.mixture import Order, plan_order
from frontload.corpus.rows import PackedRows, RowWriter
from frontload.model.config import ModelConfig
from frontload.model.memory import keep_freed_memory
from frontload.model.presets import build_model
from frontload.train.config import StageConfig
from frontload.train.loop import train

RESULTS = Path(__file__).parent / "results" / "training.json"
SIDES = ("trainer", "trainer, tuned", "ours, adamw", "ours, muon")
NEEDED = {"tiny": 1.3, "small": 1.0}
"""Times faster than `trainer` that `ours, adamw` has to be."""
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s by a part of the card's name (vendors' data sheets)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one comparison trains."""

    vocab: int
    context: int
    rows: int
    warmup: int
    steps: int
    rounds: int


SIZES = {
    ("tiny", "cpu"): Size(vocab=512, context=64, rows=32, warmup=20, steps=120, rounds=5),
    ("small", "cpu"): Size(vocab=8192, context=256, rows=8, warmup=2, steps=8, rounds=3),
    ("tiny", "cuda"): Size(vocab=512, context=64, rows=1024, warmup=20, steps=200, rounds=5),
    ("small", "cuda"): Size(vocab=32768, context=1024, rows=64, warmup=10, steps=60, rounds=5),
    ("base", "cuda"): Size(vocab=32768, context=2048, rows=32, warmup=10, steps=40, rounds=3),
}


def made_packs(size: Size, directory: Path) -> dict[str, PackedRows]:
    """Random rows: full documents, and three examples of which the later half is supervised."""
    columns, third = np.arange(size.context), size.context // 3
    segments = np.where(columns < 3 * third, columns // third + 1, 0)
    answers = (segments > 0) & (columns % third >= third // 2)
    ones = np.ones(size.context, int)
    kinds = {"documents": (ones, ones > 0, 1), "examples": (segments, answers, 3)}
    rng = np.random.default_rng(0)
    num_rows = (size.warmup + size.steps) * size.rows + 1
    packs = {}
    for name, (segment, supervised, begun) in kinds.items():
        shape = (num_rows, size.context)
        folder = directory / name
        with RowWriter(folder, context=size.context, vocab_size=size.vocab, pad_id=0) as writer:
            tokens = rng.integers(0, size.vocab, shape)
            hashes = np.arange(num_rows * begun if begun > 1 else 0, dtype=np.uint64)
            parts = np.broadcast_to(segment, shape), np.broadcast_to(supervised, shape)
            writer.append(tokens, *parts, np.full(num_rows, begun), hashes)
            reasoning = name == "examples"
            packs[name] = writer.finish(source=name, reasoning=reasoning, identity={}, counters={})
    return packs


def stage(size: Size, packs: dict[str, PackedRows], optimizer: str) -> StageConfig:
    """Half and half, as many rows as the steps need."""
    per_pair = sum(int(pack.num_tokens[0]) for pack in packs.values())
    pairs = (size.warmup + size.steps) * size.rows // 2
    whole = {name: float(pack.num_tokens[0]) / per_pair for name, pack in packs.items()}
    # The shares are those of tokens, so that rows come in equal numbers.
    return StageConfig.model_validate(
        {
            "kind": "pretrain",
            "budget": pairs * per_pair,
            "mixture": whole,
            "batch_rows": size.rows,
            "optimizer": {"name": optimizer, "learning_rate": 1e-3},
            "schedule": {"kind": "constant"},
            "checkpoint_every_seconds": 1e9,
        }
    )


def fresh_model(preset: str, size: Size) -> PreTrainedModel:
    """The same weights for every side."""
    config = ModelConfig.model_validate({"preset": preset, "context": size.context})
    return build_model(config, size.vocab, seed=0)


class Clock:
    """Wall and CPU time at the end of every step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def tick(self) -> None:
        """A step is over."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))


def run_ours(preset: str, device: str, optimizer: str, directory: Path) -> dict[str, Any]:
    """Train with our loop; times of its steps and their mean loss."""
    size = SIZES[preset, device]
    packs = made_packs(size, directory)
    config = stage(size, packs, optimizer)
    order = plan_order(config, packs, seed=0)
    clock = Clock(device)
    model = fresh_model(preset, size)

    def on_step(line: dict[str, float]) -> None:
        clock.tick()
        clock.losses.append(line["loss"])

    train(model, order, packs, config, seed=0, directory=directory, device=device, on_step=on_step)
    return figures(clock, size, order, model, statistics.fmean(clock.losses))


class _InOrder(Trainer):
    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class _Ticks(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def run_trainer(preset: str, device: str, tuned: bool, directory: Path) -> dict[str, Any]:
    """Train with the Trainer on the rows of the same order."""
    size = SIZES[preset, device]
    packs = made_packs(size, directory)
    config = stage(size, packs, "adamw")
    order = plan_order(config, packs, seed=0)
    model = fresh_model(preset, size)
    if tuned and device == "cpu":
        keep_freed_memory()
    if not tuned:
        model.set_attn_implementation("sdpa")
    clock = Clock(device)
    adamw = config.optimizer
    arguments = TrainingArguments(
        output_dir=str(directory / "trainer"),
        per_device_train_batch_size=size.rows,
        num_train_epochs=1,
        bf16=True,
        use_cpu=device == "cpu",
        optim="adamw_torch_fused",
        learning_rate=adamw.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=adamw.weight_decay,
        adam_beta1=adamw.betas[0],
        adam_beta2=adamw.betas[1],
        max_grad_norm=adamw.clip,
        logging_steps=10_000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = _InOrder(
        model=model,
        args=arguments,
        train_dataset=trainer_rows(order, packs),
        data_collator=transformers.default_data_collator,
        callbacks=[_Ticks(clock)],
    )
    return figures(clock, size, order, model, trainer.train().training_loss)


def trainer_rows(order: Order, packs: dict[str, PackedRows]) -> list[dict[str, torch.Tensor]]:
    """The rows of an order as the Trainer takes them: labels where their tokens are."""
    batch = assemble_batch(order, packs, 0, len(order))
    labels = np.full_like(batch["labels"], IGNORE)
    labels[:, 1:] = batch["labels"][:, :-1]
    columns = {
        "input_ids": torch.from_numpy(batch["input_ids"]),
        "position_ids": torch.from_numpy(batch["position_ids"]),
        "labels": torch.from_numpy(labels),
    }
    return [{name: column[i] for name, column in columns.items()} for i in range(len(order))]


def figures(
    clock: Clock, size: Size, order: Order, model: PreTrainedModel, loss: float
) -> dict[str, Any]:
    """Tokens per second after the warm-up."""
    (wall_from, cpu_from), (wall, cpu) = clock.times[size.warmup - 1], clock.times[-1]
    tokens = int(order.take[size.warmup * size.rows :].sum(dtype=np.int64))
    parameters = model.num_parameters()
    rates = {"tokens_per_second": tokens / (wall - wall_from), "loss": loss}
    rates["tokens_per_cpu_second"] = tokens / (cpu - cpu_from)
    return {**rates, "parameters": parameters, "rows": size.rows, "context": size.context}


def run_one(preset: str, device: str, side: str) -> None:
    """One run, in this process; prints its figures as JSON."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        if side.startswith("trainer"):
            result = run_trainer(preset, device, side.endswith("tuned"), Path(folder))
        else:
            result = run_ours(preset, device, side.removeprefix("ours, "), Path(folder))
    print(json.dumps(result))


def run_apart(preset: str, device: str, side: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", preset, device, side]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{side} on {preset} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(preset: str, device: str, rounds: int) -> dict[str, Any]:
    """All sides in turn, `rounds` times."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES:
            runs[side].append(run_apart(preset, device, side))
            rate = runs[side][-1]["tokens_per_second"]
            print(f"{preset} round {number + 1}: {side}: {rate:,.0f} tokens/s", file=sys.stderr)
    sides = {side: summary(of_side) for side, of_side in runs.items()}
    first, peer, ours = runs["trainer"][0], sides["trainer"], sides["ours, adamw"]
    size = {key: first[key] for key in ("parameters", "rows", "context")}
    faster = {
        key: round(ours[key] / peer[key], 2)
        for key in ("tokens_per_second", "tokens_per_cpu_second")
    }
    return {"preset": preset, "device": device, **size, "sides": sides, "times_faster": faster}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs, with what each run gave."""
    rates = [round(run["tokens_per_second"], 1) for run in runs]
    median = {key: statistics.median(run[key] for run in runs) for key in _RATES}
    rounded = {key: round(value, 1) for key, value in median.items()}
    spread = round(max(rates) / min(rates), 2)
    return {**rounded, "spread": spread, "runs": rates, "loss": runs[0]["loss"]}


_RATES = ("tokens_per_second", "tokens_per_cpu_second")


def utilisation(row: dict[str, Any], side: str) -> float | None:
    """MFU: 6 FLOPs a parameter and token over the card's dense bf16 peak; None on a CPU."""
    if row["device"] != "cuda":
        return None
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_BF16.items() if key in name), None)
    rate = row["sides"][side]["tokens_per_second"]
    return None if peak is None else 6 * row["parameters"] * rate / peak


def machine() -> dict[str, Any]:
    """What this was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "precision": "bf16 autocast",
    }


def show(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    """The table, with what it compares and where."""
    table = Table(title="Training, tokens a second", box=None)
    for heading in ("model", "side", "tokens/s", "per CPU second", "over trainer", "MFU"):
        table.add_column(heading, justify="left" if heading in ("model", "side") else "right")
    for row in rows:
        shape = f"{row['parameters'] / 1e6:.1f}M, {row['rows']}x{row['context']}, {row['device']}"
        for side, found in row["sides"].items():
            rate, mfu = found["tokens_per_second"], utilisation(row, side)
            table.add_row(
                f"{row['preset']} ({shape})" if side == SIDES[0] else "",
                side,
                f"{rate:,.0f} (x{found['spread']:.2f})",
                f"{found['tokens_per_cpu_second']:,.0f}",
                f"{rate / row['sides']['trainer']['tokens_per_second']:.2f}x",
                "" if mfu is None else f"{100 * mfu:.1f} %",
            )
    console = Console(width=110)
    console.print(table)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), highlight=False)


def failures(row: dict[str, Any]) -> list[str]:
    """What falls short."""
    losses = [row["sides"][side]["loss"] for side in SIDES if side != "ours, muon"]
    found = []
    if max(losses) - min(losses) > 0.005 * min(losses):
        found.append(f"{row['preset']}: mean losses differ: {losses}; the work is not the same")
    needed, faster = NEEDED.get(row["preset"], 1.0), row["times_faster"]["tokens_per_second"]
    if faster < needed:
        found.append(f"{row['preset']} on {row['device']}: {faster}x is less than {needed}x")
    return found


def main() -> int:
    """Compare, print, write; 1 if something falls short."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", help="presets (default: all of the device)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: all there are")
    parser.add_argument("--rounds", type=int, help="runs of each side (default: by size)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("PRESET", "DEVICE", "SIDE"))
    options = parser.parse_args()
    if options.one:
        run_one(*options.one)
        return 0
    where = machine()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if options.device not in (None, *devices):
        parser.error("--device cuda: torch finds no CUDA device here")
    chosen = [
        (preset, device)
        for preset, device in SIZES
        if device in devices
        and device == (options.device or device)
        and preset in (options.sizes or [preset])
    ]
    rows = [
        compare(preset, device, options.rounds or SIZES[preset, device].rounds)
        for preset, device in chosen
    ]
    show(rows, where)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": where, "comparisons": rows}, indent=2) + "\n")
    short = [failure for row in rows for failure in failures(row)]
    for failure in short:
        print(failure, file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
