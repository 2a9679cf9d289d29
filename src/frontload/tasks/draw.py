"""Problems by number: item *i* of a family, the same whoever asks and in whatever order.

`draw_problem` depends on its arguments only. Training and held-out problems are told apart by a
hash of their core, the question without its wording (`corpus.example.held_out`), so the two sides
are disjoint by prompt whatever the seeds, and stay so when a family gains templates. The price: a
problem on the wrong side is thrown away and drawn again, five draws a held-out problem on average,
so a family needs a space of prompts that is not tiny.
"""

from __future__ import annotations

import random
from hashlib import blake2b

from frontload.corpus.example import held_out
from frontload.tasks.families import Family, Problem, Split

HELDOUT_SHARE = 0.2
"""Share of all prompts that no training source may contain."""

_MAX_DRAWS = 400
"""A held-out share of 0.2 is missed that often in a row with probability 1e-39."""


def draw_problem(
    family: Family,
    *,
    seed: int,
    index: int,
    difficulty: tuple[int, int] | None = None,
    templates: int | None = None,
    split: Split = "train",
) -> Problem:
    """Problem number `index` of `family` on one side of the split.

    `difficulty` is a range, both ends included, cut to the family's own; `templates` allows only
    the first so many wordings. Both are drawn evenly.

    Raises:
        ValueError: the difficulty range misses the family's, or its space of prompts is too small.
    """
    low, high = difficulty_range(family, difficulty)
    num_templates = min(templates or family.num_templates, family.num_templates)
    rng = item_rng(family.name, seed, index)
    wants_held_out = split == "heldout"
    for _ in range(_MAX_DRAWS):
        level = low + int(rng.random() * (high - low + 1))
        problem = family.make(rng, level, int(rng.random() * num_templates))
        if held_out(problem.core or problem.question, HELDOUT_SHARE) == wants_held_out:
            return problem
    raise ValueError(
        f"family {family.name!r} has too few prompts at difficulty {low}-{high}: none of "
        f"{_MAX_DRAWS} draws fell on the {split} side; widen `difficulty`"
    )


def difficulty_range(family: Family, asked: tuple[int, int] | None) -> tuple[int, int]:
    """`asked` cut to what the family offers (all it offers when None)."""
    low, high = family.min_difficulty, family.max_difficulty
    if asked is None:
        return low, high
    if asked[0] > asked[1] or asked[1] < low or asked[0] > high:
        raise ValueError(
            f"difficulty: {list(asked)} does not meet the range [{low}, {high}] of {family.name!r}"
        )
    return max(low, asked[0]), min(high, asked[1])


def item_rng(label: str, seed: int, index: int) -> random.Random:
    """The generator of one item. Neighbouring indices are unrelated, unlike with `seed + index`."""
    digest = blake2b(f"{label}/{seed}/{index}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
