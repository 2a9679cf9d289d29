"""Two dials on a problem's response: how deep the trace is, and what is wrong with it.

Depth: `direct` is the answer alone, `short` the steps and the answer, `long` the steps, then the
checks, then the answer. Flaws: `wrong_step` alters one step and answers wrong, `wrong_answer`
keeps the steps and answers wrong, `cut_short` stops in the middle of the thought.

Guarantee, tested over every family: a response without a flaw passes the family's scorer, one with
a flaw fails it. A flaw needs something to spoil, hence at depth `direct` a cut-short response is
the opening of the short trace.
"""

from __future__ import annotations

import random
import re
from typing import Literal

from frontload.corpus.config import Depth
from frontload.corpus.example import THINK_OPEN, join_reasoning
from frontload.tasks.families import Family, Problem

Flaw = Literal["wrong_step", "wrong_answer", "cut_short"]

_SPOILABLE = re.compile(r"[0-9]|\b(?:True|False|true|false|yes|no|Yes|No)\b")
_OPPOSITE = {"true": "false", "yes": "no", "True": "False", "Yes": "No"}
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}


def write_response(
    problem: Problem, depth: Depth, flaw: Flaw | None, rng: random.Random | None, family: Family
) -> str:
    """The text of a response. `rng` decides where a flaw goes; without a flaw it is not used."""
    lines = trace_lines(problem, depth)
    if flaw is None:
        return join_reasoning(family.separator.join(lines), problem.answer)
    assert rng is not None, "a flaw needs a generator"
    if flaw == "cut_short":
        return THINK_OPEN + _cut(family.separator.join(lines or problem.steps), rng)
    if flaw == "wrong_step" and lines:
        lines = _alter_one(problem.steps, rng) + lines[len(problem.steps) :]
    return join_reasoning(family.separator.join(lines), family.wrong_answer(rng, problem))


def trace_lines(problem: Problem, depth: Depth) -> tuple[str, ...]:
    """The lines of a right trace at that depth."""
    if depth == "direct":
        return ()
    return problem.steps if depth == "short" else problem.steps + problem.checks


def _cut(trace: str, rng: random.Random) -> str:
    """A true beginning of `trace`: something is there, something is missing."""
    return trace[: rng.randint(1, max(1, len(trace) - 1))]


def _alter_one(lines: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """Change one digit or truth word of one line; without any, drop a line."""
    places = [(row, found) for row, line in enumerate(lines) for found in _SPOILABLE.finditer(line)]
    if not places:
        row = rng.randrange(len(lines))
        return lines[:row] + lines[row + 1 :]
    row, found = rng.choice(places)
    line = lines[row]
    altered = line[: found.start()] + _other(found[0], rng) + line[found.end() :]
    return (*lines[:row], altered, *lines[row + 1 :])


def _other(written: str, rng: random.Random) -> str:
    if written in _OPPOSITE:
        return _OPPOSITE[written]
    return str((int(written) + rng.randint(1, 9)) % 10)
