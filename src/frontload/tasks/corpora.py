"""A corpus of problems with traces, as a spec describes it.

Item *i* depends only on the config and *i*: families take turns, so any prefix is balanced; the
problem comes from `draw_problem`, its depth and its flaw from a hash of (seed, i). The prompts do
not depend on `depth` or `quality`: two sources that differ in those dials alone hold the same
prompts in the same order, which is what makes quality a factor one can vary by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from frontload.corpus.config import Depth, Problems, Quality
from frontload.corpus.example import Example
from frontload.tasks.dials import Flaw, write_response
from frontload.tasks.draw import difficulty_range, draw_problem, item_rng
from frontload.tasks.families import Family
from frontload.tasks.registry import get_family, resolve_families


def iterate_problems(config: Problems, source_name: str) -> Iterator[Example]:
    """Every item of a `problems` source, in order.

    Raises:
        ValueError: an unknown family, or a difficulty range outside a family's (before any item).
    """
    families = [get_family(name) for name in resolve_families(config.families)]
    for family in families:
        difficulty_range(family, config.difficulty)
    return (
        make_example(config, families[index % len(families)], index, source_name)
        for index in range(config.size)
    )


def make_example(config: Problems, family: Family, index: int, source_name: str) -> Example:
    """Item `index`, given the family whose turn it is."""
    problem = draw_problem(
        family,
        seed=config.seed,
        index=index,
        difficulty=config.difficulty,
        templates=config.templates,
    )
    digest = blake2b(f"{config.seed}/{index}".encode(), digest_size=8, person=b"dials").digest()
    depth = _depth_at(int.from_bytes(digest[:4], "big") / 2**32, config.depth)
    flaw = _flaw_at(int.from_bytes(digest[4:], "big") / 2**32, config.quality)
    rng = item_rng("flaw", config.seed, index) if flaw else None
    return Example.of(
        id=f"{source_name}/{index}",
        prompt=problem.question,
        response=write_response(problem, depth, flaw, rng, family),
        source=source_name,
        family=family.name,
        gold=problem.answer,
        verified=flaw is None,
    )


def _depth_at(point: float, shares: dict[Depth, float]) -> Depth:
    """The depth whose stretch of [0, 1) holds `point`."""
    depths = [depth for depth, share in shares.items() if share > 0]
    for depth in depths[:-1]:
        point -= shares[depth]
        if point < 0:
            return depth
    return depths[-1]


def _flaw_at(point: float, quality: Quality) -> Flaw | None:
    """The flaw whose stretch of [0, 1) holds `point`; what the shares leave over is right."""
    flaws: tuple[Flaw, ...] = ("wrong_step", "wrong_answer", "cut_short")
    for flaw in flaws:
        point -= getattr(quality, flaw)
        if point < 0:
            return flaw
    return None
