"""A run folder made of known effects, without training: for tests of the analysis and report.

Answers follow a logistic model: an arm's skill on a benchmark, the seed's and the item's own
difficulty, and noise; the skill of each arm is given in points. Budgets and losses are made up to
be consistent with the spec.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from frontload.corpus import ledger
from frontload.study.plan import make_plan, planned_budget
from frontload.study.spec import StudySpec

Skill = Callable[[str, str], float]
"""(arm or inner stage, benchmark) -> accuracy in points."""
NUM_PARAMETERS = 390_000
GOLD_TOKENS, WINDOW_BYTES = 20, 256

# Points on (own, breadth) after prototype runs of the quickstart's arms.
LIKE_THE_PROTOTYPE: dict[str, tuple[float, float]] = {
    "trunk": (0, 0),
    "M_base": (0, 0),
    "M_SHQ": (70, 0),
    "M_LDQ": (16, 58),
    "M_LMQ": (13, 57),
    "M_base + SFT": (13, 0),
    "M_SHQ + SFT": (83, 0),
    "M_LDQ + SFT": (30, 16),
    "M_LMQ + SFT": (36, 22),
    "M_base + 2x SFT": (41, 0),
    "M_base + 3x SFT": (84, 0),
    "M_SHQ + 2x SFT": (88, 0),
    "M_LDQ + 2x SFT": (72, 6),
    "M_LMQ + 2x SFT": (74, 8),
}


def prototype_skill(stage: str, benchmark: str) -> float:
    """Skill of `quickstart_like` arms; the learning rate in the name is not looked at."""
    name = stage.split(" @")[0]
    own, breadth = LIKE_THE_PROTOTYPE[name]
    return {"own": own, "breadth": breadth, "all": (own + 2 * breadth) / 3}[benchmark]


def make_run(
    spec: StudySpec, root: Path, skill: Skill = prototype_skill, *, spread: float = 0.25
) -> tuple[dict[tuple[str, int], tuple[Path, ...]], dict[str, Any]]:
    """Write every stage folder of a spec; returns (runs, plan) as `analyze` takes them.

    `spread`: standard deviation over seeds of the skill, in logits.
    """
    spec_without = spec.model_copy(update={"contrasts": ()})
    plan = make_plan(spec_without)
    for node in plan.nodes.values():
        label = node.name.removesuffix(f"-seed{node.seed}")
        ends = [arm for arm in node.arms if plan.paths[arm, node.seed][-1] == node.name]
        directory = root / "stages" / node.name
        directory.mkdir(parents=True)
        stage = ends[0] if ends else label
        rng = np.random.default_rng(abs(hash_of(stage, node.seed)))
        write_evaluation(spec, directory, stage, skill, rng, spread)
        write_ledger(directory, node.config)
        write_metrics(directory, node.config, rng)
        write_model(directory)
        done = {"train_seconds": 7.3, "evaluate_seconds": 2.5, "peak_memory_bytes": 9e8}
        (directory / "DONE").write_text(json.dumps(done))
    runs = {
        key: tuple(root / "stages" / name for name in names) for key, names in plan.paths.items()
    }
    return runs, {"arms": {arm: {"budget": planned_budget(arm, spec)} for arm in spec.arms}}


def hash_of(*parts: Any) -> int:
    """A seed from names, the same in every process."""
    return int.from_bytes(repr(parts).encode()[-32:], "big") % 2**63 + len(repr(parts))


def write_evaluation(
    spec: StudySpec,
    directory: Path,
    stage: str,
    skill: Skill,
    rng: np.random.Generator,
    spread: float,
) -> None:
    rows: list[dict[str, Any]] = []
    for benchmark, config in spec.evaluation.benchmarks.items():
        points = skill(stage, benchmark)
        for family in config.families:
            difficulty = np.random.default_rng(hash_of(family)).normal(0, 1, config.items)
            ability = logit(points / 100) + rng.normal(0, spread)
            chance = 1 / (1 + np.exp(-(ability - difficulty * (0 < points < 100))))
            correct = rng.random(config.items) < chance
            rows += [
                problem(benchmark, family, i, bool(right), points, rng)
                for i, right in enumerate(correct)
            ]
    for text in spec.evaluation.text:
        level = 2.5 + 0.5 * ("SFT" in stage) + 0.4 * ("M_base + " in stage)
        windows = np.random.default_rng(7).normal(0, 0.2, 60) + rng.normal(0, 0.02)
        rows += [window(text, i, level + w + rng.normal(0, 0.05)) for i, w in enumerate(windows)]
    pq.write_table(pa.Table.from_pylist(rows), directory / "evaluation.parquet")


def logit(share: float) -> float:
    """Log-odds, far out at 0 and 1."""
    return float(np.clip(np.log(max(share, 1e-9) / max(1 - share, 1e-9)), -20, 20))


def problem(
    benchmark: str, family: str, item: int, right: bool, points: float, rng: np.random.Generator
) -> dict[str, Any]:
    gold = str(rng.integers(0, 10))
    outcome = (
        "correct"
        if right
        else str(rng.choice(["wrong", "truncated", "unparsed"], p=[0.7, 0.2, 0.1]))
    )
    return {
        "kind": "problem",
        "benchmark": benchmark,
        "family": family,
        "item": f"{benchmark}/{family}/{item}",
        "sample": 0,
        "prompt": f"{family}: a=3;b=a+4;c=b+{item % 5};c=?",
        "gold": gold,
        "gold_response": f"<think>3+4=7;7+{item % 5}</think>{gold}",
        "output": f"<think>3+4=7;7+{item % 5}</think>{gold if right else '?<b>&'}",
        "answer": gold if right else "?",
        "outcome": outcome,
        "correct": float(right),
        "gold_nll": GOLD_TOKENS * (2.0 - points / 100 + 0.2 * rng.normal()),
        "gold_tokens": GOLD_TOKENS,
        "gold_bytes": 30,
        "num_generated": 12,
        "chance": 0.1 if benchmark == "own" else 0.0,
    }


def window(text: str, item: int, bits: float) -> dict[str, Any]:
    return {
        "kind": "text",
        "benchmark": text,
        "family": "",
        "item": f"{text}/{item}",
        "sample": 0,
        "prompt": "",
        "gold": "",
        "gold_response": "",
        "output": "",
        "answer": "",
        "outcome": "not_generated",
        "correct": None,
        "gold_nll": bits * np.log(2) * WINDOW_BYTES,
        "gold_tokens": 64,
        "gold_bytes": WINDOW_BYTES,
        "num_generated": 0,
        "chance": 0.0,
    }


def write_ledger(directory: Path, config: Any) -> None:
    rows = []
    for source, share in config.resolved_phases[0].mixture.items():
        tokens = int(config.budget.amount * share)
        seen = np.arange(8000) < min(tokens // 40, 8000)
        rows.append(
            {
                "stage": config.name,
                "kind": config.kind,
                "source": source,
                "reasoning": source != "base",
                "tokens": tokens,
                "unique_tokens": tokens // 2,
                "supervised_tokens": tokens // 2 if source != "base" else tokens,
                "unique_supervised_tokens": tokens // 4,
                "examples": tokens // 20,
                "unique_prompts": int(seen.sum()),
                "passes": 2.0,
                "first_step": 0,
                "last_step": 99,
                "mean_learning_rate": config.optimizer.learning_rate * 0.8,
                "prompt_set": source,
                "prompts_seen": np.packbits(seen).tobytes(),
            }
        )
    ledger.write_ledger(
        pa.Table.from_pylist(rows, schema=ledger.SCHEMA), directory / "ledger.parquet"
    )


def write_metrics(directory: Path, config: Any, rng: np.random.Generator) -> None:
    steps = config.budget.amount // 2048
    lines = []
    for step in range(steps):
        share = (step + 1) / steps
        loss = 2.2 + 3 * np.exp(-6 * share) + 0.03 * rng.normal()
        lines.append(
            json.dumps(
                {
                    "step": step,
                    "loss": loss,
                    "learning_rate": 0.01,
                    "tokens": (step + 1) * 2048,
                    "tokens_per_second": 40_000,
                    "seconds": (step + 1) * 0.05,
                    "share": share,
                }
            )
        )
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_model(directory: Path) -> None:
    """A safetensors header without its tensors: enough to count parameters."""
    (directory / "model").mkdir()
    header = {"weight": {"dtype": "F32", "shape": [NUM_PARAMETERS], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    (directory / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
