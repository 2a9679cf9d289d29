"""What `frontload kv bench` does: every codec on one model, printed and written as JSON and SVG.

Guarantees: both files appear whole; what is printed is in the JSON. Gives up: speed, which
`benchmarks/kv_speed.py` measures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from frontload.atomic import replacing
from frontload.kvcache.bench import run as bench_run
from frontload.kvcache.bench.rates import Point
from frontload.kvcache.bench.report import (
    ablation_table,
    as_json,
    bits_table,
    chunk_table,
    delta_table,
    lossless_table,
    overheads_table,
    phenomena_table,
    plot,
    points_table,
    rounds_table,
    short,
)
from frontload.kvcache.bench.rivals import RIVALS
from frontload.kvcache.bench.suite import Plan
from frontload.kvcache.calibrate import CalibrationSettings
from frontload.kvcache.codec.layered import Layered
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.profile import Profile


def bench_verb(
    model: str,
    text: Path | None,
    other: Path | None,
    out: Path,
    *,
    name: str,
    rivals: Sequence[str] = (),
    plan: Plan,
    extras: bool,
    search: bool,
) -> None:
    """Compare all codecs on one model; `out` gets NAME.json and NAME.svg.

    Args:
        rivals: names out of `rivals.RIVALS`; all of them unless given.
        plan: how much is measured.
        extras: also chunk sizes, rounds of encoding, deltas, and an ablation of our codec.
        search: also search for the best CacheGen.
    """
    rivals = rivals or list(RIVALS)
    bench_run.check_names(rivals)  # before the minutes of calibration
    console = Console(width=120)
    disable_progress_bar()
    with console.status("prefilling"):
        bench = bench_run.prepare(model, text, other, plan)
    found = bench.phenomena()
    console.print(phenomena_table(found))
    settings = CalibrationSettings()

    def report(line: str) -> None:
        if not line.startswith("context "):
            console.print(line, style="dim", highlight=False)

    profile = bench_run.ours(bench, settings, report)
    searched = bench_run.best_cachegen(bench, report) if search else []
    points, codecs = bench_run.compare(bench, profile, rivals, searched, report)
    for domain in bench.targets:
        console.print(points_table(points, domain))
    console.print(bits_table(points, bench.targets, ours="frontload"))
    console.print(lossless_table(points))
    results: dict[str, Any] = {
        "model": profile.model_name,
        "plan": asdict(plan),
        "targets": bench.targets,
        "phenomena": asdict(found),
        "calibration": settings.model_dump(),
        "points": as_json(points),
    }
    if extras:
        results |= _extras(bench, settings, profile, points, codecs, console, report)
    _write(out, name, results, plot(points, bench.targets, title=profile.model_name))
    console.print(f"wrote {out / name}.json and .svg", highlight=False)


def _extras(
    bench: bench_run.Bench,
    settings: CalibrationSettings,
    profile: Profile,
    points: list[Point],
    codecs: dict[str, Codec],
    console: Console,
    report: bench_run.Report,
) -> dict[str, Any]:
    """What is printed after the comparison."""
    few: dict[str, Codec] = {"frontload": Layered(profile=profile, exact=False)}
    few |= {name: codecs[name] for name in ("cachegen", "lmcache") if name in codecs}
    costs = bench_run.format_costs(bench, profile)
    console.print(overheads_table(costs))
    sizes = bench_run.by_chunk(bench, few)
    console.print(chunk_table(sizes))
    drifted = bench_run.again(bench, codecs, points)
    console.print(rounds_table(drifted))
    compared = bench_run.deltas(bench, profile)
    console.print(delta_table(compared))
    whole = [replace(p, codec="whole") for p in points if p.codec == "frontload"]
    ablated = whole + bench_run.ablate(bench, settings, report)
    console.print(ablation_table(ablated, bench.targets))
    return {
        "overheads": asdict(costs),
        "bits_by_chunk_tokens": sizes,
        "kl_by_round": {n: [level, [q.kl for q in qs]] for n, (level, qs) in drifted.items()},
        "deltas": [asdict(each) for each in compared],
        "ablation": as_json(ablated),
    }


def _write(out: Path, name: str, results: dict[str, Any], drawn: str) -> None:
    for suffix, content in ((".json", json.dumps(short(results), indent=1)), (".svg", drawn)):
        with replacing(out / f"{name}{suffix}") as unfinished:
            unfinished.write_text(content)
