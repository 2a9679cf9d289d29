"""The card of a dataset: what `profile` measured, and how a person reads it.

One JSON file holds every figure with the rule it was derived by (`definitions`); a table for the
terminal and a page with small plots are drawn from the same card (`card_page`). A file that exists
is never overwritten.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table

from frontload.atomic import replacing
from frontload.corpus.distribution import Distribution
from frontload.corpus.stream import Holds

_BARS = " ▁▂▃▄▅▆▇█"
_MOST_GROUPS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How much there is. `unique_tokens` counts the tokens of first copies of items."""

    items: int
    characters: int
    bytes: int
    tokens: int
    unique_tokens: int
    unique_items: int
    unique_prompts: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diversity:
    """How spread it is: `groups` are families, domains or prompt openings (`grouped_by`)."""

    grouped_by: str | None
    num_groups: int
    groups: Mapping[str, int]
    entropy_bits: float | None
    effective_groups: float | None
    distinct_words: int
    distinct_pairs: int
    distinct_triples: int
    distinct_triples_share: float | None
    exact: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How clean it is; shares are of all examples (verdicts, unparsed) or items (the rest)."""

    right: float | None
    wrong: float | None
    unchecked: float | None
    with_gold: float | None
    unparsed: float | None
    exact_duplicates: float
    near_duplicates: float | None
    near_duplicates_of_first: int
    drops: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """Everything measured about one dataset."""

    name: str
    fingerprint: str
    holds: Holds
    tokens_are: str
    scale: Scale
    diversity: Diversity
    quality: Quality
    depth: Mapping[str, Distribution]
    self_checks_share: float | None
    definitions: Mapping[str, str]

    def to_json(self) -> str:
        """The whole card; floats are finite, None means not applicable."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False, allow_nan=False)


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet, all of it or nothing.

    Raises:
        ValueError: it exists.
    """
    refuse_existing(path)
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def refuse_existing(path: Path) -> None:
    """Raise a ValueError when `path` exists."""
    if path.exists():
        raise ValueError(f"--out: {path} exists; choose another folder or remove it")


def figures(card: Card) -> list[tuple[str, str, str]]:
    """(aspect, measure, value) in the order a person reads them; what does not apply is absent."""
    scale, diversity, quality = card.scale, card.diversity, card.quality
    about = "" if diversity.exact else "about "
    rows = [
        ("scale", card.holds, f"{scale.items:,}"),
        ("", "characters, bytes", f"{scale.characters:,}, {scale.bytes:,}"),
        ("", card.tokens_are.partition(":")[0], f"{scale.tokens:,}"),
        ("", "of them in first copies", f"{scale.unique_tokens:,}"),
        ("", "unique prompts", _count(scale.unique_prompts)),
        ("diversity", diversity.grouped_by or "groups", _count(diversity.num_groups)),
        ("", "entropy", _entropy(diversity)),
        ("", "distinct words, pairs, triples", _distinct(diversity, about)),
        ("", "distinct share of triples", _share(diversity.distinct_triples_share)),
        ("quality", "right, wrong, unchecked", _verdicts(quality)),
        ("", "with a gold answer", _share(quality.with_gold)),
        ("", "unparsed", _share(quality.unparsed)),
        ("", "exact duplicates", _share(quality.exact_duplicates)),
        ("", "near duplicates", _near(quality)),
        ("", "left out", ", ".join(f"{why} {n:,}" for why, n in quality.drops.items())),
        ("depth", "responses with a self-check", _share(card.self_checks_share)),
    ]
    return [row for row in rows if row[2]]


def draw(card: Card) -> RenderableType:
    """The card for a terminal: figures, lengths with sparklines, largest groups with bars."""
    parts: list[RenderableType] = [_figures_table(card), _depth_table(card)]
    if card.diversity.num_groups > 1:
        parts.append(_groups_table(card))
    return Group(*parts)


def print_cards(cards: list[Card], console: Console) -> None:
    """Cards one below the other, then the rules behind their figures, once."""
    definitions: dict[str, str] = {}
    for card in cards:
        console.print(draw(card))
        definitions |= card.definitions
    for name, rule in definitions.items():
        console.print(f"[dim]{name}: {rule}[/dim]", highlight=False)


def sparkline(distribution: Distribution) -> str:
    """One character a bar; any count above zero shows."""
    top = max(distribution.counts)
    return "".join(_BARS[-(-count * 8 // top)] for count in distribution.counts)


def _figures_table(card: Card) -> Table:
    table = Table(title=card.name, title_justify="left", show_header=False, box=None)
    for aspect, measure, value in figures(card):
        table.add_row(f"[bold]{aspect}[/bold]", measure, value)
    return table


def _depth_table(card: Card) -> Table:
    table = Table(box=None, title_justify="left")
    for heading in ("lengths", "median", "10 % to 90 %", "greatest", "mean"):
        table.add_column(heading, justify="left" if heading == "lengths" else "right")
    table.add_column("distribution (logarithmic)")
    for name, values in card.depth.items():
        span = f"{values.p10:,} to {values.p90:,}"
        row = (name, f"{values.median:,}", span, f"{values.greatest:,}", f"{values.mean:,.1f}")
        table.add_row(*row, sparkline(values))
    return table


def _groups_table(card: Card) -> Table:
    table = Table(box=None, show_header=False)
    top = next(iter(card.diversity.groups.values()))
    for name, count in list(card.diversity.groups.items())[:_MOST_GROUPS]:
        bar = "█" * max(1, round(20 * count / top))
        table.add_row(name, f"{count:,}", f"{count / card.scale.items:.1%}", bar)
    return table


def _count(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _entropy(diversity: Diversity) -> str:
    if diversity.entropy_bits is None:
        return ""
    return f"{diversity.entropy_bits:.2f} bits, as {diversity.effective_groups:.1f} equal groups"


def _distinct(diversity: Diversity, about: str) -> str:
    counts = (diversity.distinct_words, diversity.distinct_pairs, diversity.distinct_triples)
    return about + ", ".join(f"{count:,}" for count in counts)


def _verdicts(quality: Quality) -> str:
    if quality.right is None:
        return ""
    return ", ".join(_share(share) for share in (quality.right, quality.wrong, quality.unchecked))


def _near(quality: Quality) -> str:
    if quality.near_duplicates is None:
        return ""
    return f"{quality.near_duplicates:.1%} of the first {quality.near_duplicates_of_first:,}"
