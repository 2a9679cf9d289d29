"""Verifiable problems behind one interface.

A *family* makes problems of one kind, scores answers and knows the steps of a correct solution.
What surrounds the steps (how deep the trace is, whether it is right) is decided by the dials in
`frontload.tasks.dials`, the same for all families. Item *i* of a family depends only on
(seed, i, difficulty range, split): never on the items before it, on how many are made or by whom.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Domain = Literal["arithmetic", "algebra", "logic", "code", "sequence", "language"]
Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with its answer and the steps that lead there.

    `steps` are the lines of a correct short trace, in order; `checks` are extra lines that verify
    it (used at depth "long" only). `core` is the question without its wording: however a core is
    put, it stays on one side of the split ("": the question itself). `payload` is whatever
    `Family.score` needs beyond the answer.
    """

    family: str
    question: str
    answer: str
    steps: tuple[str, ...]
    checks: tuple[str, ...] = ()
    difficulty: int
    core: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)


class Family(ABC):
    """One kind of problem.

    `compact` families use single-digit operands and a few symbols, so that a 0.4M-parameter model
    can learn them; the others speak English. `chance` is the accuracy of the best blind guess.
    """

    name: ClassVar[str]
    domain: ClassVar[Domain]
    compact: ClassVar[bool]
    min_difficulty: ClassVar[int]
    max_difficulty: ClassVar[int]
    num_templates: ClassVar[int] = 1
    chance: ClassVar[float] = 0.0
    separator: ClassVar[str] = "\n"
    """Stands between the lines of a trace."""

    @abstractmethod
    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        """A problem drawn with `rng` alone; `template` in [0, num_templates) picks the wording."""

    def score(self, problem: Problem, answer: str) -> float:
        """1.0 for a right answer, else 0.0; exact match after stripping unless overridden."""
        return float(answer.strip() == problem.answer)

    @abstractmethod
    def wrong_answer(self, rng: random.Random, problem: Problem) -> str:
        """A plausible answer of the right form that `score` refuses."""
