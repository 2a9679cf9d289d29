"""Right or wrong: one answer against the reference.

Problems of a family are graded by the family's own scorer. Problems read from a source are graded
by three rules, the first that speaks decides: the same text (case, spaces and closing stop aside);
the same number (1,000 = 1000.0 = $1000, 1/2 = 0.5, and 50% = 50: a unit is not asked for);
mathematical equality by math-verify, in a process that can be killed, where both sides look like
mathematics. Any text has a grade: a number too long to be read is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from frontload.evaluate.items import ProblemItem
from frontload.tasks.draw import draw_problem
from frontload.tasks.families import Family
from frontload.tasks.registry import get_family
from frontload.tasks.verify import MathVerifier

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(/\d+)?")
_MATHEMATICAL = re.compile(r"[\\^_=]|\d")


def grade(
    items: Sequence[ProblemItem], answers: Sequence[str], *, limit_s: float = 5.0
) -> list[float | None]:
    """1.0 for each right answer, else 0.0 (families may give a share); None if nobody can tell.

    Nobody can tell when a comparison took longer than `limit_s` seconds and was killed. The harness
    lists such an answer as unparsed, apart from wrong ones, and scores it 0 like them.
    """
    grades: list[float | None] = []
    undecided: list[int] = []
    for row, (item, answer) in enumerate(zip(items, answers, strict=True)):
        value = _graded_by_family(item, answer) if item.draw else _graded_by_text(item.gold, answer)
        grades.append(value)
        if value is None:
            undecided.append(row)
    if undecided:
        with MathVerifier(limit_s=limit_s) as verifier:
            pairs = [(items[row].gold, answers[row]) for row in undecided]
            for row, verdict in zip(undecided, verifier.verify_many(pairs), strict=True):
                grades[row] = None if verdict == "timeout" else float(verdict == "right")
    return grades


def _graded_by_family(item: ProblemItem, answer: str) -> float:
    """The family's score, without drawing the problem again where its text decides."""
    assert item.draw is not None
    family = get_family(item.family)
    if answer.strip() == item.gold.strip():
        return 1.0
    if type(family).score is Family.score:
        return 0.0
    problem = draw_problem(
        family,
        seed=item.draw.seed,
        index=item.draw.index,
        difficulty=item.draw.difficulty,
        split="heldout",
    )
    return family.score(problem, answer)


def _graded_by_text(gold: str, answer: str) -> float | None:
    """By text or number; None where only mathematics can tell."""
    if _plain(gold) == _plain(answer):
        return 1.0
    try:
        numbers = _number(gold), _number(answer)
    except ValueError:  # more digits than Python reads (4,300): a model that could not stop
        return 0.0
    if None not in numbers:
        return float(numbers[0] == numbers[1])
    looks = all(_MATHEMATICAL.search(side) for side in (gold, answer))
    return None if looks else 0.0


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _number(text: str) -> Fraction | None:
    """The number that the text is, its unit and thousands' commas aside; None for other text."""
    bare = re.sub(r"(?<=\d),(?=\d{3})|[$%]", "", text).strip().rstrip(".")
    if not _NUMBER.fullmatch(bare):
        return None
    top, _, bottom = bare.partition("/")
    denominator = int(bottom or 1)
    return Fraction(top) / denominator if denominator else None
