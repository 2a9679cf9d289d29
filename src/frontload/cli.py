"""The verbs. Nothing heavy is imported before the command line has been understood."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Place reasoning data where it pays, and prove that it paid.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
study = typer.Typer(help="Plan, run and report a study.", no_args_is_help=True)
data = typer.Typer(help="Look at datasets.", no_args_is_help=True)
app.add_typer(study, name="study")
app.add_typer(data, name="data")

Spec = Annotated[Path, typer.Argument(help="The study's YAML file.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Where runs are kept; the study gets a folder in it.")]
Workers = Annotated[
    int | None, typer.Option(help="Stages at once; one per GPU or core unless given.", min=1)
]


@study.command("plan")
def study_plan(spec: Spec, out: Out = Path("runs")) -> None:
    """Print the stage graph, budgets, cost on this machine and what sharing saves."""
    from frontload.study.spec import load_spec

    checked = load_spec(spec)  # before the heavy imports: mistakes show at once
    from frontload.study.verbs import plan_verb

    plan_verb(checked, spec.parent, out)


@study.command("run")
def study_run(
    spec: Spec,
    out: Out = Path("runs"),
    workers: Workers = None,
    set_stale_aside: Annotated[
        bool, typer.Option(help="Move results made from other settings to `stale/`, make anew.")
    ] = False,
) -> None:
    """Run what is missing, then write the report. Stop and repeat as you like."""
    from frontload.study.spec import load_spec

    checked = load_spec(spec)  # before the heavy imports: mistakes show at once
    from frontload.study.verbs import run_verb

    run_verb(checked, spec.parent, out, workers, set_stale_aside)


@study.command("report")
def study_report(spec: Spec, out: Out = Path("runs")) -> None:
    """Rebuild results.json and report.html from what is on disk."""
    from frontload.study.spec import load_spec

    checked = load_spec(spec)  # before the heavy imports: mistakes show at once
    from frontload.study.verbs import report_verb

    report_verb(checked, spec.parent, out)


@data.command("profile")
def data_profile(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A path, folder, glob, installed-text, SPEC.yaml or SPEC.yaml#source.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for NAME.json and NAME.html; print only if absent.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens with this tokenizer; words unless given.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Our field = their column, as in prompt=question; may be repeated."),
    ] = None,
) -> None:
    """Scale, diversity, quality and depth of datasets: a card for each."""
    columns = dict(pair.partition("=")[::2] for pair in column or [])
    if not all(columns.values()):
        raise ValueError("--column: write FIELD=COLUMN, for example prompt=question")
    from rich.console import Console

    from frontload.corpus.profile import profile_command

    profile_command(sources, out=out, tokenizer=tokenizer, columns=columns, console=Console())


def main() -> None:
    """Entry point: a ValueError is for the user, anything else is ours and keeps its trace."""
    try:
        app()
    except ValueError as error:
        print(f"frontload: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == 130:  # what Typer makes of KeyboardInterrupt, without a word
            print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise
    except OSError as error:
        print(f"frontload: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
