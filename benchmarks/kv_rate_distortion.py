"""Bytes against loss: our KV codec beside CacheGen and every other rival, on the same caches.

    python benchmarks/kv_model.py train --text novels.parquet --out runs/kv-model
    python benchmarks/kv_rate_distortion.py runs/kv-model --text novels.parquet --other peps.parquet

runs on any local transformers model. It prints what the model shows (a model that does not read its
cache tells nothing), bits per value at equal KL with all bytes of the files counted, and what ours
saves with 95 % intervals over contexts; then chunk sizes, eight rounds of encoding, an ablation,
and whether token deltas would pay. All points go to `results/NAME.json`, the curves to
`results/NAME.svg`. A fifth of the texts is held out, the same as in training the bench model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from frontload.atomic import replacing
from frontload.kvcache import bench_run
from frontload.kvcache.bench import Plan
from frontload.kvcache.bench_report import (
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
from frontload.kvcache.calibrate import CalibrationSettings
from frontload.kvcache.codec.layered import Layered
from frontload.kvcache.codec.protocol import Codec
from frontload.kvcache.profile import Profile
from frontload.kvcache.rates import Point
from frontload.kvcache.rivals import RIVALS

RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a transformers model.")],
    text: Annotated[Path | None, typer.Option(help="Parquet (id, text), file or folder.")] = None,
    other: Annotated[Path | None, typer.Option(help="Text of another domain.")] = None,
    name: Annotated[str, typer.Option(help="Of the files in results/.")] = "kv_rate_distortion",
    only: Annotated[str, typer.Option(help="Rivals, separated by commas; all unless given.")] = "",
    prefix: Annotated[int, typer.Option(help="Tokens whose cache is compressed.")] = 512,
    contexts: Annotated[int, typer.Option(help="Of text; recall and other follow.")] = 24,
    recall: Annotated[bool, typer.Option(help="Ask for facts, too.")] = True,
    ablation: Annotated[bool, typer.Option(help="Also what only ours answers (slow).")] = True,
    search: Annotated[bool, typer.Option(help="Search for the best CacheGen (slow).")] = True,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Compare all codecs on one model."""
    torch.set_num_threads(threads)
    console = Console(width=120)
    plan = Plan(
        prefix_tokens=prefix,
        text=contexts,
        recall_a_kind=contexts // 3 if recall else 0,
        other=contexts * 2 // 3,
    )
    with console.status("prefilling"):
        bench = bench_run.prepare(model, text, other, plan)
    found = bench.phenomena()
    console.print(phenomena_table(found))
    names = only.split(",") if only else list(RIVALS)
    settings = CalibrationSettings()
    report = lambda line: console.print(line, style="dim", highlight=False)  # noqa: E731
    profile = bench_run.ours(bench, settings, report)
    searched = bench_run.best_cachegen(bench, report) if search else []
    points, codecs = bench_run.compare(bench, profile, names, searched, report)
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
    if ablation:
        results |= extras(bench, settings, profile, points, codecs, console)
    write(name, results, plot(points, bench.targets, title=profile.model_name))


def extras(
    bench: bench_run.Bench,
    settings: CalibrationSettings,
    profile: Profile,
    points: list[Point],
    codecs: dict[str, Codec],
    console: Console,
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
    report = lambda line: console.print(line, style="dim", highlight=False)  # noqa: E731
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


def write(name: str, results: dict[str, Any], drawn: str) -> None:
    """Both files of `results/`."""
    for suffix, content in ((".json", json.dumps(short(results), indent=1)), (".svg", drawn)):
        with replacing(RESULTS / f"{name}{suffix}") as unfinished:
            unfinished.write_text(content)


if __name__ == "__main__":
    typer.run(main)
