"""What `frontload study plan | run | report` do, in print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from frontload.study.artifacts import DONE, ITEMS, Layout, pack_name
from frontload.study.cost import Cost, estimate
from frontload.study.identity import read_json
from frontload.study.live import clock
from frontload.study.plan import Plan, make_plan, planned_budget
from frontload.study.results import Results
from frontload.study.run import Outcome, make_report, refuse_stale, run_study
from frontload.study.spec import StudySpec

_WORTH_A_NOTE = 0.01
"""Share of a source's items that may be dropped without a word."""


def plan_verb(spec: StudySpec, root: Path, out: Path) -> None:
    """Print the graph, the budgets and the cost; nothing is left on disk."""
    console = Console()
    plan = make_plan(spec)
    console.print(_graph(spec, plan))
    console.print(_budgets(spec))
    with console.status("measuring this machine for a few seconds"):
        cost = estimate(spec, plan, root)
    _print_cost(console, spec, plan, cost, out)


def _graph(spec: StudySpec, plan: Plan) -> Tree:
    """The stages of one seed; the other seeds have the same."""
    seed = spec.seeds[0]
    title = f"stages of seed {seed}, the same for each of {len(spec.seeds)} seeds"
    tree = Tree(f"{spec.study}: {title}")
    branches: dict[str | None, Tree] = {None: tree}
    for name, node in plan.nodes.items():
        if node.seed == seed:
            mixtures = " then ".join(
                " + ".join(f"{share:.0%} {source}" for source, share in phase.mixture.items())
                for phase in node.config.resolved_phases
            )
            budget = f"{node.config.budget.amount:,} {node.config.budget.unit}"
            label = f"{name.removesuffix(f'-seed{seed}')}  [dim]{node.config.kind}, {budget}, "
            branches[name] = branches[node.parent].add(f"{label}{mixtures}[/dim]")
    return tree


def _budgets(spec: StudySpec) -> Table:
    table = Table(title="Planned budget of each arm", title_justify="left")
    table.add_column("arm")
    columns = ("tokens", "pretrain_tokens", "sft_tokens", "reasoning_tokens")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for arm in spec.arms:
        budget = planned_budget(arm, spec)
        cells = ("after the run" if budget[c] is None else f"{budget[c]:,.0f}" for c in columns)
        table.add_row(arm, *cells)
    return table


def _print_cost(console: Console, spec: StudySpec, plan: Plan, cost: Cost, out: Path) -> None:
    saved = 1 - cost.tokens / cost.tokens_unshared
    lines = (
        f"model      {cost.parameters:,} parameters, context {spec.model.context}",
        f"stages     {len(plan.nodes)} for {len(spec.arms)} arms and {len(spec.seeds)} seeds",
        f"training   {cost.tokens:,} tokens, {cost.flops:.2e} FLOPs "
        f"({cost.flops_per_token:.2e} a token)",
        f"sharing    saves {saved:.0%} of {cost.tokens_unshared:,} tokens",
        f"time       {clock(cost.seconds)} of training on one worker at "
        f"{cost.tokens_per_second:,.0f} tokens/s (measured now), divided by the workers; "
        "evaluation and data come on top",
        f"disk       {cost.disk_bytes / 1e6:,.0f} MB of models and the data, in {out / spec.study}",
        f"contrasts  {len(spec.contrasts)}; none is known to compare unequal budgets",
    )
    console.print("\n".join(lines), highlight=False)


def run_verb(
    spec: StudySpec, root: Path, out: Path, workers: int | None, set_stale_aside: bool
) -> None:
    """Run, report, and print the verdicts; exits with 1 when something failed."""
    console = Console()
    if workers is not None:
        engine = spec.engine.model_copy(update={"workers": workers})
        spec = spec.model_copy(update={"engine": engine})
    outcome = run_study(spec, root=root, out=out, console=console, set_stale_aside=set_stale_aside)
    console.print(f"{outcome.made} results made, {outcome.reused} reused", highlight=False)
    _finish(console, outcome)


def report_verb(spec: StudySpec, root: Path, out: Path) -> None:
    """Rebuild the report from what is on disk."""
    run = out / spec.study
    if not (run / "plan.json").is_file():
        raise ValueError(f"no run in {run}; run the study first, or name its place with --out")
    layout = Layout(spec, make_plan(spec), root=root, run=run)
    refuse_stale(layout)
    missing = {a.name: "not finished" for a in layout.artifacts.values() if not a.done}
    _finish(Console(), Outcome(layout=layout, failures=missing, reused=0, made=0))


def _finish(console: Console, outcome: Outcome) -> None:
    results = make_report(outcome)
    console.print(verdict_table(results))
    for note in read_notes(outcome.layout):
        console.print(f"note: {note}", highlight=False, markup=False)
    for name, why in outcome.failures.items():
        console.print(f"failed: {name}: {why}", highlight=False, markup=False)
    console.print(f"report: {outcome.layout.run / 'report.html'}", highlight=False)
    if outcome.failures:
        raise SystemExit(1)


def read_notes(layout: Layout) -> list[str]:
    """What was left out of the data and of the evaluation, and why."""
    notes = []
    for source, supervise in layout.plan.packs:
        done = layout.artifacts[pack_name(source, supervise)].directory / DONE
        if done.is_file():
            facts = read_json(done)
            notes += [
                f"sources.{source}: {count:,} of {facts['items']:,} items dropped: {why}"
                for why, count in facts["unpacked"].items()
                if count > _WORTH_A_NOTE * facts["items"]
            ]
    done = layout.artifacts[ITEMS].directory / DONE
    return notes + (list(read_json(done)["notes"]) if done.is_file() else [])


def verdict_table(results: Results) -> Table:
    """One line per contrast, under the question that it answers."""
    table = Table(title="Verdicts", title_justify="left")
    for column in ("claim", "effect", "interval", "verdict"):
        table.add_column(column, justify="right" if column == "effect" else "left")
    question = ""
    for contrast in results.contrasts:
        if contrast.question != question:
            question = contrast.question
            table.add_section()
            table.add_row(f"[bold]{question}[/bold]")
        measured = contrast.measured
        effect = "" if measured is None else f"{measured.effect:+.2f}"
        interval = "" if measured is None else f"{measured.low:+.2f} to {measured.high:+.2f}"
        table.add_row(contrast.name, effect, interval, contrast.verdict.replace("_", " "))
    return table
