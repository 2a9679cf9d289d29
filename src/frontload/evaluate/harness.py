"""One evaluation of one model: every item measured, one row per item and sample.

Guarantees: the same model and items give the same table, whatever the batch size (up to rounding,
see `generate`); `evaluation.parquet` appears whole or not at all. Truncated answers (the model ran
out of room) and unparsed ones (no answer can be read) are kept apart from wrong ones; all three
count as not correct. An evaluation that is killed starts again.

    table = evaluate(model, tokenizer, items, config, context=64, directory=stage)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

from frontload.evaluate.config import EvaluationConfig
from frontload.evaluate.generate import Generation, Precision, generate
from frontload.evaluate.grade import grade
from frontload.evaluate.items import EvaluationItems, ProblemItem, TextWindow, write_table
from frontload.evaluate.score import Scored, negative_log_likelihood
from frontload.tasks.verify import Parsed, parse_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Outcome = Literal["correct", "wrong", "truncated", "unparsed", "not_generated"]
OnProgress = Callable[[str, int, int], None]
"""Called with what is measured ("answers", "likelihoods"), how many are done, and of how many."""

FILE = "evaluation.parquet"

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # problem | text
        ("benchmark", pa.string()),  # name in evaluation.benchmarks or evaluation.text
        ("family", pa.string()),  # of text: its domain
        ("item", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("gold_response", pa.string()),
        ("output", pa.string()),
        ("answer", pa.string()),
        ("outcome", pa.string()),
        ("correct", pa.float64()),  # null when nothing was generated
        ("gold_nll", pa.float64()),  # nats, summed; on sample 0 only
        ("gold_tokens", pa.int32()),  # tokens in gold_nll, the end token of a response included
        ("gold_bytes", pa.int32()),  # UTF-8 bytes of the response or text
        ("num_generated", pa.int32()),  # tokens, without the end token
        ("chance", pa.float64()),
    ]
)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: EvaluationItems,
    config: EvaluationConfig,
    *,
    context: int,
    device: str | None = None,
    directory: Path | None = None,
    precision: Precision = "fp32",
    on_progress: OnProgress | None = None,
) -> pa.Table:
    """Measure `items` and return the table (columns: `SCHEMA`).

    Args:
        context: tokens of prompt and answer together; a prompt that fills it is truncated unread.
        device: where to run; the model is moved there (and stays). Its own, unless given.
        directory: where to write evaluation.parquet, if anywhere.
    """
    if device is not None:
        model.to(device)
    samples = _samples(model, tokenizer, items, config, context, precision, on_progress)
    likelihoods = _likelihoods(model, items, precision, on_progress)
    rows: list[dict[str, Any]] = []
    for subject, generated, likelihood in zip(_subjects(items), samples, likelihoods, strict=True):
        for number, sample in enumerate(generated):
            row = _identity(subject) | sample | {"sample": number}
            rows.append(row if number else row | likelihood)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    if directory is not None:
        write_table(table, directory / FILE)
    return table


_Columns = dict[str, Any]
_Subject = ProblemItem | TextWindow
_NOT_GENERATED: _Columns = {"outcome": "not_generated", "num_generated": 0}


def _subjects(items: EvaluationItems) -> list[_Subject]:
    return [*items.problems, *items.windows]


def _samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: EvaluationItems,
    config: EvaluationConfig,
    context: int,
    precision: Precision,
    on_progress: OnProgress | None,
) -> list[list[_Columns]]:
    """The generated columns of each sample of each problem, then of each window (none)."""
    columns = [[_NOT_GENERATED] for _ in range(len(items))]
    asked = [number for number, item in enumerate(items.problems) if item.generate]
    problems = [items.problems[number] for number in asked]
    # A prompt that several benchmarks share is answered once, unless its samples are to differ.
    asks = [_ask(item, config) for item in problems]
    distinct = list(dict.fromkeys(asks))
    answers = generate(
        model,
        [prompt for prompt, _ in distinct],
        end_ids={tokenizer.eos_token_id},
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=config.max_new_tokens,
        context=context,
        batch_size=config.batch_size,
        temperature=config.temperature,
        samples=config.samples,
        seeds=[seed for _, seed in distinct],
        precision=precision,
        on_progress=_part(on_progress, "answers"),
    )
    answer_to = dict(zip(distinct, answers, strict=True))
    judged = _judge(tokenizer, problems, [answer_to[ask] for ask in asks])
    for number, samples in zip(asked, judged, strict=True):
        columns[number] = samples
    return columns


def _ask(item: ProblemItem, config: EvaluationConfig) -> tuple[tuple[int, ...], int]:
    """The prompt and the seed of its samples, which depends on the item, never on its place."""
    if config.temperature == 0:
        return item.prompt_ids, 0
    name = f"{config.seed}/{item.benchmark}/{item.family}/{item.id}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return item.prompt_ids, int.from_bytes(digest, "big")


def _judge(
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[ProblemItem],
    answers: Sequence[Sequence[Generation]],
) -> list[list[_Columns]]:
    """Read and grade all samples of all items at once."""
    owners = [item for item, samples in zip(items, answers, strict=True) for _ in samples]
    flat = [generation for samples in answers for generation in samples]
    outputs = [tokenizer.decode(generation.tokens) for generation in flat]
    parsed = [
        parse_answer(output, finished=generation.finished)
        for output, generation in zip(outputs, flat, strict=True)
    ]
    readable = [row for row, part in enumerate(parsed) if part.outcome == "answered"]
    grades = grade([owners[row] for row in readable], [parsed[row].answer for row in readable])
    graded = dict(zip(readable, grades, strict=True))
    rows = iter(range(len(flat)))
    return [
        [
            {
                "output": outputs[row],
                "answer": parsed[row].answer,
                "outcome": _outcome(parsed[row], graded.get(row)),
                "correct": graded.get(row) or 0.0,
                "num_generated": len(flat[row].tokens),
            }
            for row in islice(rows, len(samples))
        ]
        for samples in answers
    ]


def _outcome(parsed: Parsed, grade: float | None) -> Outcome:
    """An answer that cannot be graded (its comparison had to be killed) counts as unparsed."""
    if parsed.outcome != "answered":
        return parsed.outcome
    if grade is None:
        return "unparsed"
    return "correct" if grade >= 1 else "wrong"


def _likelihoods(
    model: PreTrainedModel,
    items: EvaluationItems,
    precision: Precision,
    on_progress: OnProgress | None,
) -> list[_Columns]:
    """gold_nll, gold_tokens and gold_bytes of each problem and window; empty where not asked.

    A sequence that several benchmarks share is scored once.
    """
    asked = [_gold(subject) for subject in _subjects(items)]
    distinct = list(dict.fromkeys(gold.sequence for gold in asked if gold))
    nats = negative_log_likelihood(
        model, distinct, precision=precision, on_progress=_part(on_progress, "likelihoods")
    )
    nats_of = dict(zip(distinct, nats.tolist(), strict=True))
    return [gold.columns(nats_of[gold.sequence]) if gold else {} for gold in asked]


class _Gold(NamedTuple):
    sequence: Scored
    num_bytes: int

    def columns(self, nats: float) -> _Columns:
        num_tokens = len(self.sequence.ids) - self.sequence.start
        return {"gold_nll": nats, "gold_tokens": num_tokens, "gold_bytes": self.num_bytes}


def _gold(subject: _Subject) -> _Gold | None:
    if isinstance(subject, TextWindow):
        return _Gold(Scored(ids=subject.ids, start=1), subject.num_bytes)
    if subject.response_ids is None:
        return None
    ids = subject.prompt_ids + subject.response_ids
    num_bytes = len(subject.gold_response.encode())
    return _Gold(Scored(ids=ids, start=len(subject.prompt_ids)), num_bytes)


def _identity(subject: _Subject) -> _Columns:
    if isinstance(subject, TextWindow):
        text = {"kind": "text", "benchmark": subject.benchmark, "family": subject.domain}
        return text | {"item": subject.id}
    return {
        "kind": "problem",
        "benchmark": subject.benchmark,
        "family": subject.family,
        "item": subject.id,
        "prompt": subject.prompt,
        "gold": subject.gold,
        "gold_response": subject.gold_response,
        "chance": subject.chance,
    }


def _part(on_progress: OnProgress | None, part: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(part, done, total)
