"""Answers taken out of outputs, and mathematical answers compared without trusting the comparer.

`parse_answer` finds the answer in what a model wrote, and tells apart outputs that were truncated,
outputs without an answer, and answers. `MathVerifier` compares answers as mathematics with
math-verify, in worker processes that are killed when they overrun: a power tower hangs math-verify
for good in spite of its own timer (Math-Verify#65), and that timer raises off the main thread
(#42). So a timeout is a verdict of its own here, apart from "wrong"; an evaluation lists the answer
as unparsed, which scores 0 as a wrong one does. `frontload.tasks.math_worker` guards against the
comparer's other traps. It is still no judge to trust alone: audit what it refuses.
"""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Self

from frontload.corpus.example import split_reasoning

Outcome = Literal["answered", "truncated", "unparsed"]
Verdict = Literal["right", "wrong", "timeout"]

_START_LIMIT_S = 120.0
"""A worker imports sympy first; that is not held against its first pair."""

_MARKED = (
    re.compile(r"<answer>(.*?)</answer>", re.DOTALL),
    re.compile(r"^####[ \t]*(.+)$", re.MULTILINE),
    re.compile(r"\b(?:final )?answer(?: is)?[ \t]*[:=][ \t]*(.+)$", re.MULTILINE | re.IGNORECASE),
    re.compile(r"\banswer is[ \t]+(.+)$", re.MULTILINE | re.IGNORECASE),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """What an output says: `answer` is empty unless the outcome is "answered"."""

    outcome: Outcome
    answer: str


def parse_answer(output: str, *, finished: bool) -> Parsed:
    r"""The answer in an output: what follows the thinking, or the part of it that is marked.

    `finished` says whether the model ended the output itself; an output stopped by the limit on
    new tokens is truncated, whatever it holds. Marks, in order: the last `\boxed{}`, `<answer>`
    block, `#### x` line, and `Answer: x` or `the answer is x`. Without a mark the whole text after
    the thinking is the answer. An unfinished thought or an empty text is unparsed.
    """
    if not finished:
        return Parsed(outcome="truncated", answer="")
    response = split_reasoning(output)
    answer = _marked_answer(response.answer).strip() if response.closed else ""
    return Parsed(outcome="answered" if answer else "unparsed", answer=answer)


def _marked_answer(text: str) -> str:
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    for mark in _MARKED:
        found = mark.findall(text)
        if found:
            return found[-1].strip().strip("*").rstrip(".").rstrip()
    return text


def _last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, braces balanced; None without a complete one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


class MathVerifier:
    """A pool of killable math-verify workers; use it as a context manager.

    `counts` holds how often each verdict was given. Safe to call from any thread, one call at a
    time.

    Args:
        workers: processes.
        limit_s: seconds a pair may take before its worker is killed and replaced.
    """

    def __init__(self, *, workers: int = 1, limit_s: float = 5.0) -> None:
        if workers < 1 or limit_s <= 0:
            raise ValueError("workers and limit_s: both must be above 0")
        self.counts: Counter[Verdict] = Counter()
        self._limit_s = limit_s
        self._workers = [_Worker() for _ in range(workers)]
        self._lock = threading.Lock()

    def verify(self, gold: str, answer: str) -> Verdict:
        """Whether `answer` says the same as `gold`."""
        return self.verify_many([(gold, answer)])[0]

    def verify_many(self, pairs: Iterable[tuple[str, str]]) -> list[Verdict]:
        """A verdict per (gold, answer), in order; the workers share the pairs."""
        waiting = list(enumerate(pairs))[::-1]
        verdicts: dict[int, Verdict] = {}
        with self._lock:
            busy: dict[_Worker, tuple[int, float]] = {}
            while waiting or busy:
                for worker in self._workers:
                    if waiting and worker not in busy:
                        index, pair = waiting.pop()
                        busy[worker] = (index, worker.send(pair) + self._limit_s)
                for worker, verdict in self._collect(busy):
                    verdicts[busy.pop(worker)[0]] = verdict
        self.counts.update(verdicts.values())
        return [verdicts[index] for index in range(len(verdicts))]

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _collect(self, busy: dict[_Worker, tuple[int, float]]) -> list[tuple[_Worker, Verdict]]:
        """Wait for the next reply or the next deadline; a worker past its own is replaced."""
        deadline = min(limit for _, limit in busy.values())
        ready = _readable(list(busy), deadline - time.monotonic())
        collected: list[tuple[_Worker, Verdict]] = []
        for worker, (_, limit) in busy.items():
            if worker in ready:
                collected.append((worker, worker.receive()))
            elif time.monotonic() >= limit:
                worker.kill()
                collected.append((worker, "timeout"))
        return collected


class _Worker:
    """One process of `frontload.tasks.math_worker`, spoken to in lines of JSON."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, pair: tuple[str, str]) -> float:
        """Hand over a (gold, answer), starting the process if there is none; when that was."""
        if self._process is None:
            self._process = _start()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(pair).encode() + b"\n")
        self._process.stdin.flush()
        return time.monotonic()

    def receive(self) -> Verdict:
        """The reply; a process that died over the pair counts as timed out."""
        line = self.stdout.readline()
        if not line:
            self.kill()
            return "timeout"
        return "right" if json.loads(line) else "wrong"

    def kill(self) -> None:
        """End the process, whatever it is doing; the next pair gets a fresh one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe replies come through."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout


def _start() -> subprocess.Popen[bytes]:
    """Start a worker and wait until it has imported what it needs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "frontload.tasks.math_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(_START_LIMIT_S) and process.stdout.readline():
            return process
    process.kill()
    process.communicate()
    raise RuntimeError("the math-verify worker did not start; is math-verify installed?")


def _readable(workers: Sequence[_Worker], seconds: float) -> set[_Worker]:
    """The workers that have something to say within `seconds`."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return {key.data for key, _ in selector.select(max(0.0, seconds))}
