"""Our batched generation against one-by-one `generate` of transformers: same model, same answers.

Both sides hold the same random weights and read the same held-out prompts; transformers runs the
model as `from_pretrained` would give it (its own attention). Random weights never end an answer, so
every 24th token counts as an end: answers then differ in length, as those of a trained model do,
and rows leave our batch at different steps. The answers must be equal, token by token, or the
benchmark fails. Runs alternate between the two sides; the table shows medians, and in brackets the
spread (largest over smallest) of the runs.

    python benchmarks/generation.py                    # prints a table, writes results/
    python benchmarks/generation.py --presets tiny --prompts 128 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from frontload.evaluate.config import BenchmarkConfig
from frontload.evaluate.generate import Generation, generate
from frontload.evaluate.questions import draw_problems
from frontload.model.config import ModelConfig, TokenizerConfig
from frontload.model.memory import keep_freed_memory
from frontload.model.presets import build_model
from frontload.model.tokenizer import train_tokenizer
from frontload.tasks.draw import draw_problem
from frontload.tasks.registry import get_family, resolve_families

RESULTS = Path(__file__).parent / "results" / "generation.json"
NEEDED = 8.0
"""Times faster than one by one, on `tiny`, or the benchmark fails."""

VOCAB, CONTEXT, NEW_TOKENS = 512, 64, 48


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way of generating: seconds of each run, and what it makes of them."""

    seconds: tuple[float, ...]
    tokens_per_second: float
    spread: float

    @classmethod
    def of(cls, seconds: list[float], num_tokens: int) -> Side:
        """Median speed over runs."""
        return cls(
            seconds=tuple(round(value, 4) for value in seconds),
            tokens_per_second=round(num_tokens / statistics.median(seconds), 1),
            spread=round(max(seconds) / min(seconds), 2),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both sides on one preset."""

    preset: str
    parameters: int
    prompts: int
    tokens: int
    ours: Side
    one_by_one: Side
    times_faster: float
    same_answers: bool


def made_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer trained on problems, so that the benchmark needs no data."""
    families = [get_family(name) for name in resolve_families(["compact"])]
    texts = [draw_problem(f, seed=1, index=i).question for f in families for i in range(64)]
    return train_tokenizer(texts, TokenizerConfig(train_on=("problems",), vocab_size=VOCAB))


def held_out_prompts(tokenizer: PreTrainedTokenizerFast, count: int) -> list[tuple[int, ...]]:
    """Prompts of the compact families, as an evaluation asks them."""
    families = resolve_families(["compact"])
    config = BenchmarkConfig(families=families, items=-(-count // len(families)))
    items = draw_problems("compact", config, tokenizer, seed=0, context=CONTEXT, notes=[])
    return [item.prompt_ids for item in items][:: max(1, len(items) // count)][:count]


def random_model(preset: str, vocab_size: int) -> PreTrainedModel:
    """A preset with random weights everywhere (fresh ones start with idle layers)."""
    model = build_model(
        ModelConfig.model_validate({"preset": preset, "context": CONTEXT}), vocab_size, seed=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)
    return model.eval()


def one_by_one(
    model: PreTrainedModel, prompts: list[tuple[int, ...]], ends: list[int]
) -> list[Generation]:
    """What a loop over `model.generate` answers."""
    answers = []
    for prompt in prompts:
        with torch.inference_mode():
            ids = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=min(NEW_TOKENS, CONTEXT - len(prompt)),
                eos_token_id=ends,
                pad_token_id=0,
                do_sample=False,
            )[0, len(prompt) :].tolist()
        finished = ids[-1] in ends
        answers.append(Generation(tokens=tuple(ids[:-1] if finished else ids), finished=finished))
    return answers


def compare(preset: str, num_prompts: int, repeats: int) -> Comparison:
    """Run both sides in turn, after one run of each to warm up."""
    tokenizer = made_tokenizer()
    prompts = held_out_prompts(tokenizer, num_prompts)
    ends = list(range(1, VOCAB, 24))
    ours_model = random_model(preset, VOCAB)
    peer_model = random_model(preset, VOCAB)
    peer_model.set_attn_implementation("sdpa")

    def ours() -> list[Generation]:
        answers = generate(
            ours_model,
            prompts,
            end_ids=ends,
            pad_id=0,
            max_new_tokens=NEW_TOKENS,
            context=CONTEXT,
        )
        return [answer for (answer,) in answers]

    def peer() -> list[Generation]:
        return one_by_one(peer_model, prompts, ends)

    our_answers, peer_answers = ours(), peer()
    seconds = [(_timed(ours), _timed(peer)) for _ in range(repeats)]
    num_tokens = sum(len(answer.tokens) + answer.finished for answer in our_answers)
    our_side = Side.of([a for a, _ in seconds], num_tokens)
    peer_side = Side.of([b for _, b in seconds], num_tokens)
    return Comparison(
        preset=preset,
        parameters=ours_model.num_parameters(),
        prompts=len(prompts),
        tokens=num_tokens,
        ours=our_side,
        one_by_one=peer_side,
        times_faster=round(our_side.tokens_per_second / peer_side.tokens_per_second, 1),
        same_answers=our_answers == peer_answers,
    )


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def machine() -> dict[str, object]:
    """What this was measured on."""
    return {
        "cpu": next(_cpu_names(), platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": "fp32",
    }


def _cpu_names() -> Iterator[str]:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            yield line.partition(":")[2].strip()


def show(comparisons: list[Comparison], where: dict[str, object]) -> None:
    """The table, with what it compares and where."""
    table = Table(title="Generation, tokens a second: batched (ours) against one by one", box=None)
    for heading in ("model", "parameters", "prompts", "tokens", "one by one", "ours", "faster"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in comparisons:
        table.add_row(
            row.preset,
            f"{row.parameters / 1e6:.2f}M",
            f"{row.prompts:,}",
            f"{row.tokens:,}",
            f"{row.one_by_one.tokens_per_second:,.0f} (x{row.one_by_one.spread:.2f})",
            f"{row.ours.tokens_per_second:,.0f} (x{row.ours.spread:.2f})",
            f"{row.times_faster:.1f}x",
        )
    console = Console(width=100)
    console.print(table)
    console.print("\n".join(f"{name}: {value}" for name, value in where.items()), highlight=False)


def main() -> int:
    """Compare, print, write; 1 if answers differ or `tiny` is not fast enough."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "hybrid"])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    where = machine()
    # Larger presets take minutes one by one; a quarter of the prompts has to do.
    counts = {p: options.prompts if p == "tiny" else options.prompts // 4 for p in options.presets}
    comparisons = [compare(p, counts[p], options.repeats) for p in options.presets]
    show(comparisons, where)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = {"machine": where, "comparisons": [asdict(row) for row in comparisons]}
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    failures = [f"{row.preset}: answers differ" for row in comparisons if not row.same_answers]
    failures += [
        f"{row.preset}: {row.times_faster}x is less than {NEEDED}x"
        for row in comparisons
        if row.preset == "tiny" and row.times_faster < NEEDED
    ]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
