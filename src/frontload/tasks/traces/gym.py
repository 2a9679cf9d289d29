"""What the English families share: draw from reasoning-gym, work the problem ourselves, score.

A subclass names a reasoning-gym dataset, its settings at each difficulty (`levels`) and writes the
solution (`work`). Guarantees, tested as laws over every family:

- a problem depends on the given generator alone: not on today's date or PYTHONHASHSEED, which
  leak into some reasoning-gym datasets (we keep out of those, or of what leaks);
- the steps arrive at the answer on their own. `work` recomputes it, and where reasoning-gym is
  wrong or ambiguous it returns None and another problem is drawn;
- `score` is 1.0 for a full mark of reasoning-gym's scorer and 0.0 for anything less: the partial
  credit it gives (0.01 for trying, 1 - relative error, length ratios) is not counted.

What it gives up: wordings are reasoning-gym's own with four short frames around them, so prompts
are less varied than people's.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple

from frontload.tasks.families import Family, Problem

Entry = Mapping[str, Any]
"""A reasoning-gym item: question, answer, metadata."""

_FRAMES = (
    "{}",
    "Problem: {}",
    "{}\nWhat is the answer?",
    "Here is a task.\n{}",
)
_MAX_REDRAWS = 200
_INDEX_BITS = 40


class Work(NamedTuple):
    """A solution: `steps` end in the answer, `checks` test it another way."""

    steps: list[str]
    checks: list[str]


class GymFamily(Family):
    """A family on top of the reasoning-gym dataset of the same name."""

    compact: ClassVar[bool] = False
    min_difficulty: ClassVar[int] = 1
    num_templates: ClassVar[int] = len(_FRAMES)
    levels: ClassVar[tuple[Mapping[str, Any], ...]]
    """Settings of the dataset at difficulty 1, 2, ..."""
    scored_by: ClassVar[tuple[str, ...]] = ()
    """Metadata that the scorer reads; the rest does not travel with the problem."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.max_difficulty = len(cls.levels)

    @abstractmethod
    def work(self, entry: Entry) -> Work | None:
        """Solve `entry`; None when its answer is wrong, ambiguous or empty."""

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        """An answer of the right form, nearly always wrong; `wrong_answer` asks until it is."""
        return another_number(rng, problem.answer)

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        if not self.min_difficulty <= difficulty <= self.max_difficulty:
            raise ValueError(
                f"difficulty: {self.name!r} has levels {self.min_difficulty} to "
                f"{self.max_difficulty}, got {difficulty}"
            )
        entry, work = self._draw_sound(rng, difficulty)
        answer = entry["answer"]
        assert work.steps[-1].endswith(answer), f"{self.name}: {work.steps[-1]!r} is not {answer!r}"
        known = {key: entry["metadata"][key] for key in self.scored_by}
        return Problem(
            family=self.name,
            question=_FRAMES[template].format(entry["question"].strip()),
            answer=answer,
            steps=tuple(work.steps),
            checks=tuple(f"Check: {line}" for line in work.checks),
            difficulty=difficulty,
            core=self.core(entry),
            payload={"answer": answer, "metadata": known},
        )

    def _draw_sound(self, rng: random.Random, difficulty: int) -> tuple[Entry, Work]:
        dataset = open_dataset(type(self), difficulty)
        for _ in range(_MAX_REDRAWS):
            entry = self.read(dataset[rng.getrandbits(_INDEX_BITS)])
            work = self.work(entry)
            if work is not None:
                return entry, work
        raise AssertionError(f"{self.name}: no sound problem at difficulty {difficulty}")

    def core(self, entry: Entry) -> str:
        """What is asked, without reasoning-gym's wording where it has several: see `Problem`."""
        return entry["question"].strip()

    def read(self, entry: Entry) -> Entry:
        """A hook for entries that lack something, such as an answer."""
        return entry

    def score(self, problem: Problem, answer: str) -> float:
        """1.0 for reasoning-gym's full mark, else 0.0: partial credit is not counted.

        Its scorers raise on some texts, such as a duration of 400 digits. No right answer does
        (tested), so an answer that a scorer raises on is wrong.
        """
        dataset = open_dataset(type(self), problem.difficulty)
        try:
            mark = dataset.score_answer(answer.strip(), problem.payload)
        except Exception:  # of any kind, of code that is not ours: a stage must not end for it
            return 0.0
        return float(mark >= 1.0)

    def wrong_answer(self, rng: random.Random, problem: Problem) -> str:
        for _ in range(_MAX_REDRAWS):
            candidate = self.mistake(rng, problem)
            if candidate and not self.score(problem, candidate):
                return candidate
        raise AssertionError(f"{self.name}: no wrong answer found for {problem.answer!r}")


@cache
def open_dataset(family: type[GymFamily], difficulty: int) -> Any:
    """The reasoning-gym dataset behind a level.

    It seeds item `i` with `seed + i`, so with seed 0 an index is all that an item depends on.
    """
    from reasoning_gym.factory import create_dataset

    return create_dataset(family.name, seed=0, size=1, **family.levels[difficulty - 1])


def another_number(rng: random.Random, text: str) -> str:
    """An integer near the one in `text`, of the same sign where possible."""
    value = int(text)
    reach = max(3, abs(value) // 10)
    shifted = value + rng.choice((-1, 1)) * rng.randint(1, reach)
    return str(shifted if shifted * value >= 0 else value + rng.randint(1, reach))


def swapped(rng: random.Random, items: list[str]) -> list[str]:
    """The list with two places exchanged, or without its last item when there is but one."""
    if len(items) < 2:
        return items[:-1]
    first, second = sorted(rng.sample(range(len(items)), 2))
    mixed = list(items)
    mixed[first], mixed[second] = mixed[second], mixed[first]
    return mixed
