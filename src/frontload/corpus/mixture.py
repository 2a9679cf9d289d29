"""The order of a stage's data, known row by row before training starts.

Guarantees: every source of every phase meets its share of the budget exactly, in the budget's
unit (its last row of the phase is cut); sources are interleaved evenly, at no prefix further from
their share than a row per source; each pass over a source is a fresh permutation that reads every
row once; the order depends on the seed, the packs and the config only, so neither batch size nor
ranks nor a resume can change it. Gives up: streaming of endless sources, and the tail of a row
that a cut leaves out (read again in the next pass at the earliest).

    order = plan_order(config, packs, seed=0)
    for start in range(0, len(order), config.batch_rows):
        batch = assemble_batch(order, packs, start, start + config.batch_rows)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frontload.atomic import replacing
from frontload.corpus.batches import assemble_batch
from frontload.corpus.rows import PackedRows
from frontload.train.config import Mixture, StageConfig, Unit

__all__ = ["Order", "assemble_batch", "permutation", "phase_quotas", "plan_order", "require_passes"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Which row to read when, and how much of it.

    Row `i` of the order is row `row[i]` of the pack of `sources[source[i]]`, its leading `take[i]`
    tokens only. `consumed[i]` (length + 1 entries) is the budget spent before it, in `unit`.
    `cursors` are, per source, the rows read since the source's first pass began, ancestors
    included: what a child stage passes on to `plan_order`.
    """

    sources: tuple[str, ...]
    fingerprints: tuple[str, ...]
    """Of the packs planned on, in the order of `sources`."""
    context: int
    budget: int
    unit: Unit
    source: NDArray[np.uint8]
    row: NDArray[np.uint32]
    take: NDArray[Any]
    consumed: NDArray[np.int64]
    cursors: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.row)

    def share(self, index: int) -> float:
        """Share of the budget spent before row `index`, in [0, 1]."""
        return float(self.consumed[min(index, len(self))]) / self.budget

    def steps(self, batch_rows: int) -> int:
        """Optimizer steps at that many rows a step; the last one may be smaller."""
        return math.ceil(len(self) / batch_rows)

    def require_packs(self, packs: Mapping[str, PackedRows]) -> None:
        """Refuse packs other than those planned on (ValueError naming the source)."""
        for name, fingerprint in zip(self.sources, self.fingerprints, strict=True):
            if name not in packs or packs[name].fingerprint != fingerprint:
                raise ValueError(f"the order was planned on another pack of {name}; plan again")

    def save(self, path: Path) -> None:
        """Write the order to one file (about 9 bytes a row), replacing it at once."""
        header = {
            "sources": self.sources,
            "fingerprints": self.fingerprints,
            "context": self.context,
            "budget": self.budget,
            "unit": self.unit,
            "cursors": dict(self.cursors),
        }
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                header=np.array(json.dumps(header)),
                source=self.source,
                row=self.row,
                take=self.take,
                units=_narrow(np.diff(self.consumed), self.context),
            )

    @classmethod
    def load(cls, path: Path) -> Order:
        """Read an order written by `save`; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            return cls(
                sources=tuple(header["sources"]),
                fingerprints=tuple(header["fingerprints"]),
                context=header["context"],
                budget=header["budget"],
                unit=header["unit"],
                source=stored["source"],
                row=stored["row"],
                take=stored["take"],
                consumed=_running_total(stored["units"]),
                cursors=header["cursors"],
            )


def plan_order(
    config: StageConfig,
    packs: Mapping[str, PackedRows],
    *,
    seed: int,
    cursors: Mapping[str, int] | None = None,
) -> Order:
    """Plan a stage's whole order.

    `seed` should be the same for all stages of an arm: `cursors` (an ancestor's `Order.cursors`)
    go on in the permutation it draws for a source. Sources absent from `cursors` start anew.

    Raises:
        ValueError: a source would be read more than `max_passes` times, or gets no token at all.
    """
    names = config.sources
    assert len(names) <= 256, "sources are indexed by 8 bits"
    assert len({packs[name].context for name in names}) == 1, "one context per stage"
    unit = config.budget.unit
    require_passes(config, packs)
    quotas = phase_quotas(config)
    position = {name: (cursors or {}).get(name, 0) for name in names}
    phases = []
    for quota in quotas:
        parts = []
        for name, need in quota.items():
            part, position[name] = _read_on(packs[name], unit, seed, position[name], need)
            parts.append((names.index(name), need, part))
        phases.append(_interleave(parts))
    source, row, take, units = (np.concatenate(column) for column in zip(*phases, strict=True))
    context = packs[names[0]].context
    consumed = _running_total(units)
    assert consumed[-1] == config.budget.amount
    return Order(
        sources=names,
        fingerprints=tuple(packs[name].fingerprint for name in names),
        context=context,
        budget=config.budget.amount,
        unit=unit,
        source=source,
        row=row,
        take=_narrow(take, context),
        consumed=consumed,
        cursors=position,
    )


def phase_quotas(config: StageConfig) -> list[dict[str, int]]:
    """Each phase's budget split over its sources, in the budget's unit.

    Phases end at the rounded share of the budget; within one, whole units go to the largest
    remainders (Hamilton's rule), so the parts sum to the whole without exception.
    """
    amount = config.budget.amount
    ends = [round(Fraction(str(phase.until)) * amount) for phase in config.resolved_phases]
    sizes = np.diff([0, *ends]).tolist()
    quotas = []
    for number, (phase, size) in enumerate(zip(config.resolved_phases, sizes, strict=True), 1):
        quota = _largest_remainder(size, phase.mixture)
        for name, units in quota.items():
            if units == 0:
                raise ValueError(
                    f"budget: phase {number} is {size} {config.budget.unit} long and leaves "
                    f"none for {name}; raise the budget or leave the source out"
                )
        quotas.append(quota)
    return quotas


def permutation(seed: int, source: str, number: int, rows: int) -> NDArray[np.uint32]:
    """Order of a source's rows in its pass `number` (0, 1, ...).

    Sorts raw PCG64 words instead of calling `Generator.permutation`: NumPy keeps the stream of a
    bit generator fixed between versions, not that of its methods (NEP 19).
    """
    digest = hashlib.blake2b(f"{seed}/{number}/{source}".encode(), digest_size=16).digest()
    keys = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(rows)
    return np.argsort(keys, kind="stable").astype(np.uint32)


Part = tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]
"""Rows of one source, with their tokens taken and units contributed."""


def _read_on(pack: PackedRows, unit: Unit, seed: int, cursor: int, need: int) -> tuple[Part, int]:
    """Rows from `cursor` on that contribute exactly `need` units, and the cursor after them."""
    column = 1 if unit == "supervised_tokens" else 0
    tokens = np.asarray(pack.counts[:, 0])
    values = np.asarray(pack.counts[:, column])
    rows_read = []
    left = need
    while left > 0:
        number, offset = divmod(cursor, pack.rows)
        rows = permutation(seed, pack.source, number, pack.rows)[offset:]
        total = np.cumsum(values[rows], dtype=np.int64)
        count = min(int(np.searchsorted(total, left)) + 1, len(rows))
        rows_read.append(rows[:count])
        cursor += count
        left -= int(total[count - 1])
    row = np.concatenate(rows_read)
    take = tokens[row].astype(np.int64)
    units = values[row].astype(np.int64)
    if left < 0:
        units[-1] += left
        take[-1] = _prefix_worth(pack, int(row[-1]), int(units[-1]), unit)
    return (row, take, units), cursor


def _prefix_worth(pack: PackedRows, row: int, units: int, unit: Unit) -> int:
    """The fewest leading tokens of a row that contain that many units."""
    if unit == "tokens":
        return units
    return int(np.searchsorted(np.cumsum(pack.supervised[row], dtype=np.int64), units)) + 1


def _interleave(parts: Sequence[tuple[int, int, Part]]) -> tuple[NDArray[Any], ...]:
    """Merge the sources of a phase so that all of them advance together.

    A row is placed at the share of its source's quota that its middle reaches; sorting by that
    is error diffusion without a loop (ties keep the sources' order).
    """
    places = [(np.cumsum(units) - units / 2) / quota for _, quota, (_, _, units) in parts]
    order = np.argsort(np.concatenate(places), kind="stable")
    source = [np.full(len(part[0]), index, np.uint8) for index, _, part in parts]
    columns: list[list[NDArray[Any]]] = [source]  # then row, take, units
    columns += [[part[k] for _, _, part in parts] for k in range(3)]
    return tuple(np.concatenate(column)[order] for column in columns)


def _largest_remainder(size: int, mixture: Mixture) -> dict[str, int]:
    parts = {name: Fraction(str(share)) for name, share in mixture.items()}
    exact = {name: size * part / sum(parts.values()) for name, part in parts.items()}
    whole = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(mixture, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: size - sum(whole.values())]:
        whole[name] += 1
    return whole


def require_passes(config: StageConfig, packs: Mapping[str, PackedRows]) -> None:
    """Refuse a stage that would read a source more than `max_passes` times.

    Raises:
        ValueError: names the source, what it has, what is needed and the remedy.
    """
    unit, quotas = config.budget.unit, phase_quotas(config)
    for name in config.sources:
        available = packs[name].available(unit)
        needed = sum(quota.get(name, 0) for quota in quotas)
        if needed > config.max_passes * available:
            words = unit.replace("_", " ")
            raise ValueError(
                f"budget: {name} has {available:,} {words} and this stage needs {needed:,}: "
                f"more than max_passes = {config.max_passes:g}. Give the source more data, lower "
                "the budget or its share, or raise max_passes"
            )


def _running_total(units: NDArray[Any]) -> NDArray[np.int64]:
    consumed = np.zeros(len(units) + 1, np.int64)
    np.cumsum(units, dtype=np.int64, out=consumed[1:])
    return consumed


def _narrow(values: NDArray[Any], context: int) -> NDArray[Any]:
    return values.astype(np.uint16 if context < 1 << 16 else np.uint32)
