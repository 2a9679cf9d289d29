"""What the bench prints and stores: bits at equal loss, savings, a plot, and every point as JSON.

Guarantees: a table fits a screen, names the loss at which bits are compared, and leaves a dash
where a codec's levels do not reach it. Gives up: choosing what to conclude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from frontload.kvcache.bench.overheads import Overheads
from frontload.kvcache.bench.phenomena import Phenomena
from frontload.kvcache.bench.rates import Point, Saving, bits_at, saving
from frontload.kvcache.calibration.deltas import DeltaGain
from frontload.kvcache.quality import Quality, summarize

DASH = "–"
OURS, OURS_COLOR = "frontload", "black"
_LEAST_KL = 1e-5  # of the plot: bf16's own rounding is below


def group(points: Sequence[Point]) -> dict[str, dict[str, list[Point]]]:
    """Codec -> domain -> its points, both in order of appearance."""
    grouped: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        grouped.setdefault(point.codec, {}).setdefault(point.domain, []).append(point)
    return grouped


def bits_table(
    points: Sequence[Point], targets: Mapping[str, float], *, ours: str | None = None
) -> Table:
    """Codec by domain: bits per value at the domain's KL, and what `ours` saves in brackets."""
    grouped = group(points)
    table = Table(title="Bits per value at equal loss, all bytes counted")
    table.add_column("codec")
    for domain, kl in targets.items():
        table.add_column(f"{domain}, KL {kl:g}", justify="right")
    for name, domains in grouped.items():
        cells = []
        if all(point.quality.kl == 0 for found in domains.values() for point in found):
            continue  # `lossless_table` has those
        for domain, kl in targets.items():
            found = domains.get(domain, [])
            cell = _bits(found, kl)
            rival = grouped.get(ours, {}).get(domain) if ours and name != ours else None
            if rival and found:
                cell += _bracket(saving(rival, found, kl))
            cells.append(cell)
        table.add_row(name, *cells)
    return table


def _bits(points: Sequence[Point], kl: float) -> str:
    """Bits at that loss, or on which side of all lossy levels they lie."""
    bits = bits_at(points, kl) if points else None
    if bits is not None or not points:
        return _number(bits)
    lossy = [point for point in points if point.quality.kl > 0]
    rates = [point.bits_per_value for point in lossy]
    too_lossy = all(point.quality.kl > kl for point in lossy)
    return f"> {max(rates):.2f}" if too_lossy else f"< {min(rates):.2f}"


def _number(bits: float | None) -> str:
    return DASH if bits is None else f"{bits:.2f}"


def _bracket(found: Saving | None) -> str:
    if found is None:
        return ""
    return f"  ({-found.share:+.0%}; {-found.high:+.0%} to {-found.low:+.0%})"


def points_table(points: Sequence[Point], domain: str) -> Table:
    """Every level of every codec on one domain."""
    table = Table(title=f"All levels: {domain}")
    columns = ("codec", "level", "bits", "KL", "worst tenth", "ΔNLL", "flips", "worst", "right")
    for column in columns:
        table.add_column(column, justify="left" if column in ("codec", "level") else "right")
    for point in points:
        if point.domain != domain:
            continue
        quality = point.quality
        table.add_row(
            point.codec,
            point.level,
            f"{point.bits_per_value:.3f}",
            f"{quality.kl:.2g}",
            f"{quality.kl_worst_decile:.2g}",
            f"{quality.nll_change:+.4f}",
            f"{quality.flips:.1%}",
            f"{quality.flips_worst_decile:.1%}",
            f"{quality.accuracy:.1%}",
        )
    return table


def lossless_table(points: Sequence[Point]) -> Table:
    """Levels without any loss: bits per value, and how many times smaller than bf16."""
    table = Table(title="Lossless: bits per value, and bf16 over that")
    table.add_column("codec")
    exact = [p for p in points if p.quality.kl == 0 and p.level in ("exact", "bf16")]
    domains = list(dict.fromkeys(p.domain for p in exact))
    for domain in domains:
        table.add_column(domain, justify="right")
    for name in dict.fromkeys(p.codec for p in exact):
        bits = {p.domain: p.bits_per_value for p in exact if p.codec == name}
        cells = (f"{bits[d]:.2f}  ({16 / bits[d]:.2f}x)" if d in bits else DASH for d in domains)
        table.add_row(name, *cells)
    return table


def as_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Points without their contexts; retrieval's accuracy also by kind."""
    rows = []
    for point in points:
        kinds = dict.fromkeys(loss.domain for loss in point.losses)
        of_kind = {
            kind: summarize([x for x in point.losses if x.domain == kind]).accuracy
            for kind in kinds
        }
        rows.append(
            {
                "codec": point.codec,
                "level": point.level,
                "domain": point.domain,
                "bits_per_value": round(point.bits_per_value, 4),
                **{k: short(v) for k, v in asdict(point.quality).items()},
                **(
                    {"accuracy_by_kind": {k: short(v) for k, v in of_kind.items()}}
                    if len(kinds) > 1
                    else {}
                ),
            }
        )
    return rows


def short(value: Any) -> Any:
    """Floats with five significant digits, wherever they are: equal results give equal files."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [short(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def phenomena_table(found: Phenomena) -> Table:
    """By layer, and in the title what is of the whole model."""
    right = ", ".join(f"{kind} {share:.1%}" for kind, share in found.accuracy.items())
    worth = ", ".join(f"{domain} {kl:.2g}" for domain, kl in found.prefix_worth.items())
    table = Table(
        title=f"Loss {found.loss:.2f} nats a token (unigram at least {found.unigram_loss:.2f}). "
        f"Right: {right or DASH}. KL without the prefix: {worth}",
    )
    rows = {
        "layer": [str(i) for i in range(len(found.outlier_keys))],
        "attention to token 0": [f"{share:.1%}" for share in found.sink],
        "largest / median variance of K": [f"{x:.0f}" for x in found.outlier_keys],
        "of V": [f"{x:.0f}" for x in found.outlier_values],
        "energy of K in its mean": [f"{x:.0%}" for x in found.mean_keys],
        "of V in its": [f"{x:.0%}" for x in found.mean_values],
    }
    for column in rows:
        table.add_column(column, justify="right")
    for row in zip(*rows.values(), strict=True):
        table.add_row(*row)
    return table


def chunk_table(sizes: Mapping[str, Mapping[int, float | None]]) -> Table:
    """Bits per value at the text target, by tokens of a chunk."""
    table = Table(title="Bits per value at equal loss (text), by tokens of a chunk")
    table.add_column("codec")
    for size in next(iter(sizes.values())):
        table.add_column(str(size), justify="right")
    for name, row in sizes.items():
        table.add_row(name, *(_number(bits) for bits in row.values()))
    return table


def overheads_table(costs: Overheads) -> Table:
    """Our format, in shares."""
    table = Table(title="Our format beyond its cross-entropy (text, 256-token chunks)")
    rows = {
        "files over cross-entropy": costs.coder,
        "nested levels over the finest alone": costs.levels,
        "files of all levels over the finest alone": costs.levels_in_files,
        "another domain over tables of its own": costs.shift,
    }
    for name in rows:
        table.add_column(name, justify="right")
    table.add_row(*(DASH if share is None else f"{share:+.1%}" for share in rows.values()))
    return table


def rounds_table(drifted: Mapping[str, tuple[str, Sequence[Quality]]]) -> Table:
    """KL after rounds of encoding what was decoded."""
    table = Table(title="KL (text) after rounds of encoding what was decoded before")
    for column in ("codec", "level", "1", "2", "4", "8"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for name, (level, found) in drifted.items():
        cells = (f"{found[i - 1].kl:.2g}" if i <= len(found) else DASH for i in (1, 2, 4, 8))
        table.add_row(name, level, *cells)
    return table


def delta_table(compared: Sequence[DeltaGain]) -> Table:
    """Bits of the same integers, coded directly and as differences."""
    table = Table(title="Would deltas pay? Bits per value of the same integers (text)")
    for column in ("depth", "direct", "from the group's anchor", "from the previous token"):
        table.add_column(column, justify="right")
    for each in compared:
        rates = (each.direct, each.anchor, each.previous)
        table.add_row(str(each.depth), *(f"{bits:.3f}" for bits in rates))
    return table


def ablation_table(points: Sequence[Point], targets: Mapping[str, float]) -> Table:
    """Bits at equal loss with one idea taken out; in brackets what that costs."""
    grouped = group(points)
    table = Table(title="Without one idea: bits per value at equal loss, and the change")
    table.add_column("variant")
    for domain, kl in targets.items():
        table.add_column(f"{domain}, KL {kl:g}", justify="right")
    whole = next(iter(grouped.values()))
    for name, domains in grouped.items():
        cells = []
        for domain, kl in targets.items():
            bits, base = bits_at(domains[domain], kl), bits_at(whole[domain], kl)
            change = f"  ({bits / base - 1:+.0%})" if bits and base and domains != whole else ""
            cells.append(_number(bits) + change)
        table.add_row(name, *cells)
    return table


def plot(points: Sequence[Point], targets: Mapping[str, float], *, title: str) -> str:
    """SVG: one panel a domain, bits per value against KL, one line a codec."""
    grouped = group(points)
    figure = Figure(figsize=(4.2 * len(targets), 4.6), layout="constrained")
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for panel, (domain, kl) in zip(panels, targets.items(), strict=True):
        for i, (name, domains) in enumerate(grouped.items()):
            _line(panel, domains.get(domain, []), name, i)
        panel.axhline(kl, color="0.6", linewidth=0.8, linestyle=":")
        panel.set(xscale="log", yscale="log", title=domain, xlabel="bits per value, all bytes")
        panel.set_xticks(ticks := [0.25, 0.5, 1, 2, 4, 8, 16], labels=[f"{x:g}" for x in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.2)
    panels[0].set_ylabel("KL to the untouched cache, nats a token")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(title)
    sink = StringIO()
    with rc_context({"svg.hashsalt": title}):  # the same points give the same file
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _line(panel: Any, points: Sequence[Point], name: str, index: int) -> None:
    if not points:
        return
    color = OURS_COLOR if name == OURS else f"C{index % 10}"
    marker = "osD^vP*X"[index // 10 % 8]
    for lossy in (True, False):  # lossless levels stand alone on the axis below
        chosen = [point for point in points if (point.quality.kl > 0) == lossy]
        chosen.sort(key=lambda point: point.bits_per_value)
        bits = [point.bits_per_value for point in chosen]
        losses = np.maximum([point.quality.kl for point in chosen], _LEAST_KL)
        panel.plot(
            bits,
            losses,
            marker=marker,
            markersize=3,
            linewidth=2.2 if name == OURS else 1.0,
            zorder=3 if name == OURS else 2,
            label=name if lossy == bool(points[0].quality.kl) else None,
            color=color,
        )
