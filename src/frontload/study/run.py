"""Run a study: make what is missing, keep what is finished, say what failed.

`run_study` may be stopped at any moment and called again: finished artifacts whose identity
matches the plan are kept, stages go on from their last checkpoint, and an artifact that was made
from something else stops the run with the difference printed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from frontload.study.analysis import analyze
from frontload.study.artifacts import Artifact, Layout
from frontload.study.checks import refuse_leaks, refuse_too_many_passes
from frontload.study.claims import note_claims, written_late
from frontload.study.engine import LocalEngine, Progress
from frontload.study.identity import digest, read_json, write_json
from frontload.study.live import LiveDisplay
from frontload.study.plan import make_plan, planned_budget
from frontload.study.results import Results, write_results
from frontload.study.spec import EngineConfig, StudySpec

_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left: `failures` maps an artifact to why it is not there."""

    layout: Layout
    failures: dict[str, str]
    reused: int
    made: int


def run_study(
    spec: StudySpec,
    *,
    root: Path,
    out: Path,
    console: Console,
    set_stale_aside: bool = False,
) -> Outcome:
    """Make every artifact of the study under `out / spec.study`.

    Raises:
        ValueError: something on disk was made from other settings, data or code.
        KeyboardInterrupt: stopped; calling again goes on.
    """
    plan = make_plan(spec)
    run = out / spec.study
    run.mkdir(parents=True, exist_ok=True)
    with _only_run(run):
        layout = Layout(spec, plan, root=root, run=run)
        if set_stale_aside:
            for artifact in _stale(layout).values():
                console.print(f"set aside: {_set_aside(artifact, layout.run)}", highlight=False)
        refuse_stale(layout)
        note_claims(layout)
        write_plan(layout)
        artifacts = layout.artifacts.values()
        finished = [artifact.name for artifact in artifacts if artifact.done]
        missing = [artifact for artifact in artifacts if not artifact.done]
        for artifact in missing:
            artifact.write_record()
        work = {name: node.config.budget.amount for name, node in plan.nodes.items()}
        display = LiveDisplay(
            console,
            work={artifact.name: work.get(artifact.name, 0) for artifact in missing},
            directories={artifact.name: artifact.directory for artifact in missing},
            already=sum(work.get(name, 0) for name in finished),
        )
        engine = _engine(spec.engine)
        data = [artifact.job for artifact in missing if artifact.name not in plan.nodes]
        stages = [artifact.job for artifact in missing if artifact.name in plan.nodes]
        with display:
            prepared = engine.run(data, finished=finished, on_poll=display)
            refuse_too_many_passes(layout)
            refuse_leaks(layout)
            progress = engine.run(
                stages,
                finished=[*finished, *prepared.named("done")],
                before=prepared,
                on_poll=display,
            )
    failures = _failures(layout, progress)
    made = len(progress.named("done"))
    return Outcome(layout=layout, failures=failures, reused=len(finished), made=made)


def write_plan(layout: Layout) -> None:
    """plan.json: the graph and the planned budgets, before anything ran."""
    spec, plan = layout.spec, layout.plan
    write_json(
        layout.run / "plan.json",
        {
            "study": spec.study,
            "spec": spec.model_dump(mode="json"),
            "stages": {
                name: {
                    "parent": node.parent,
                    "arms": node.arms,
                    "seed": node.seed,
                    "kind": node.config.kind,
                    "budget": node.config.budget.model_dump(mode="json"),
                    "sources": node.config.sources,
                    "identity": digest(layout.artifacts[name].identity),
                }
                for name, node in plan.nodes.items()
            },
            "arms": {
                arm: {
                    "budget": planned_budget(arm, spec),
                    "stages": {seed: plan.paths[arm, seed] for seed in spec.seeds},
                }
                for arm in spec.arms
            },
        },
    )


@contextmanager
def _only_run(run: Path) -> Iterator[None]:
    """Hold the run's lock; the kernel lets go of it however this process ends."""
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work in {run}; wait for it or stop it") from None
        yield


def refuse_stale(layout: Layout) -> None:
    """Stop when something on disk was made from other settings, data or code.

    Raises:
        ValueError: with the difference, field by field, and the remedies.
    """
    stale = _stale(layout)
    if not stale:
        return
    # Children of a stale artifact differ by their parent's digest alone: show the roots.
    roots = [a for a in stale.values() if not any(need in stale for need in a.needs)]
    lines = [f"{len(stale)} results in {layout.run} were made from something else than planned:"]
    for artifact in (roots or list(stale.values()))[:_SHOWN]:
        lines += [f"  {artifact.name}:"] + [f"    {line}" for line in artifact.stale()[:_SHOWN]]
    lines.append(
        "Nothing was changed. Undo the change, give another --out, or run with --set-stale-aside "
        "to move them to `stale/` and make them anew."
    )
    raise ValueError("\n".join(lines))


def _stale(layout: Layout) -> dict[str, Artifact]:
    return {a.name: a for a in layout.artifacts.values() if a.stale()}


def _set_aside(artifact: Artifact, run: Path) -> Path:
    number = 0
    while (target := run / "stale" / f"{artifact.name}.{number}").exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(artifact.directory, target)
    return target


def _engine(config: EngineConfig) -> LocalEngine:
    import torch

    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if on_gpu:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = device_groups(torch.cuda.device_count(), config.processes_per_stage, visible)
        return LocalEngine(
            workers=config.workers or len(devices), threads=config.threads, devices=devices
        )
    cores = len(os.sched_getaffinity(0)) // (config.threads * config.processes_per_stage)
    return LocalEngine(workers=config.workers or max(1, cores), threads=config.threads)


def device_groups(count: int, each: int, visible: str | None) -> tuple[str, ...]:
    """The GPUs of every worker, `each` of them, as values of CUDA_VISIBLE_DEVICES.

    `visible` is that variable as this process got it, whose first `count` entries are the GPUs
    it may use; without it they are numbered from 0.
    """
    names = visible.split(",") if visible else list(map(str, range(count)))
    if count < each:
        raise ValueError(f"engine.processes_per_stage: {each}, but there are {count} GPUs")
    return tuple(",".join(names[i : i + each]) for i in range(0, count - each + 1, each))


def _failures(layout: Layout, progress: Progress) -> dict[str, str]:
    failures = {}
    for name in progress.named("failed"):
        failures[name] = layout.artifacts[name].job.failure
    for name in progress.named("left out"):
        lost = [need for need in layout.artifacts[name].needs if need in failures]
        failures[name] = f"left out: needs {', '.join(lost)}"
    return failures


def make_report(outcome: Outcome) -> Results:
    """results.json and report.html from whatever is finished."""
    from frontload.study.report import write_report

    layout = outcome.layout
    runs = {
        key: tuple(layout.artifacts[name].directory for name in names)
        for key, names in layout.plan.paths.items()
    }
    plan = read_json(layout.run / "plan.json") if (layout.run / "plan.json").is_file() else {}
    results = analyze(layout.spec, runs, failures=outcome.failures, plan=plan)
    late = written_late(layout)
    contrasts = tuple(
        contrast.model_copy(update={"written_late": contrast.name in late})
        for contrast in results.contrasts
    )
    results = results.model_copy(update={"contrasts": contrasts})
    write_results(results, layout.run / "results.json")
    write_report(results, layout.run / "report.html")
    return results
