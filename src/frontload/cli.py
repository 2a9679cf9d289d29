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
kv = typer.Typer(help="Compress the KV cache of a context.", no_args_is_help=True)
app.add_typer(study, name="study")
app.add_typer(data, name="data")
app.add_typer(kv, name="kv")

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


Model = Annotated[str, typer.Argument(help="A model's folder or hub name.", show_default=False)]
Stored = Annotated[Path, typer.Argument(help="A file that `kv encode` wrote.", show_default=False)]
Text = Annotated[
    Path, typer.Option(help="A text file, a folder of them, or Parquet with a column `text`.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Write over the file that is there.")]
ProfilePath = Annotated[
    Path | None,
    typer.Option("--profile", help="What `kv calibrate` wrote; MODEL/kv-profile.safetensors."),
]


@kv.command("calibrate")
def kv_calibrate(
    model: Model,
    text: Text,
    out: Annotated[
        Path | None, typer.Option(help="The profile; MODEL/kv-profile.safetensors unless given.")
    ] = None,
    prefix_tokens: Annotated[
        int | None, typer.Option(help="Tokens whose cache is measured, of each context.", min=64)
    ] = None,
    contexts: Annotated[int, typer.Option(help="How many contexts to measure.", min=8)] = 96,
    chunk_tokens: Annotated[int, typer.Option(help="Tokens coded together.", min=1)] = 256,
    seed: int = 0,
    replace: Replace = False,
) -> None:
    """Measure a model once: transform, tables and levels, into a profile."""
    from frontload.kvcache.verbs import calibrate_verb

    calibrate_verb(model, text, out, prefix_tokens, contexts, chunk_tokens, seed, replace)


@kv.command("encode")
def kv_encode(
    model: Model,
    text: Text,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    profile: ProfilePath = None,
    exact: Annotated[bool, typer.Option(help="Store the bit-exact level, too.")] = True,
    tokens: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
    replace: Replace = False,
) -> None:
    """Prefill a text and store its KV cache, all levels in one file."""
    from frontload.kvcache.verbs import encode_verb

    encode_verb(model, text, out, profile, exact, tokens, replace)


@kv.command("decode")
def kv_decode(
    stored: Stored,
    profile: Annotated[Path, typer.Option(help="The profile that encoded it.")],
    out: Annotated[Path, typer.Option(help="A safetensors file: keys, values and state.")],
    level: Annotated[
        int | None, typer.Option(help="0 is the coarsest; the best there is unless given.", min=0)
    ] = None,
    replace: Replace = False,
) -> None:
    """Decode a stored cache to tensors."""
    from frontload.kvcache.verbs import decode_verb

    decode_verb(stored, profile, out, level, replace)


@kv.command("inspect")
def kv_inspect(
    stored: Stored,
    profile: Annotated[
        Path | None, typer.Option(help="The profile that encoded it, for bits and levels.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw bits by layer, K and V, to this SVG; needs --profile.")
    ] = None,
) -> None:
    """Parts, levels, bytes and bits per value of a stored cache; where the bits go."""
    from frontload.kvcache.verbs import inspect_verb

    inspect_verb(stored, profile, plot)


@kv.command("bench")
def kv_bench(
    model: Model,
    text: Text,
    other: Annotated[Path | None, typer.Option(help="Text of another domain.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and NAME.svg.")] = Path(
        "kv-bench"
    ),
    name: Annotated[str, typer.Option(help="Of the two files.")] = "rate-distortion",
    rivals: Annotated[str, typer.Option(help="Separated by commas; all unless given.")] = "",
    prefix_tokens: Annotated[
        int, typer.Option(help="Tokens whose cache is compressed.", min=2)
    ] = 512,
    contexts: Annotated[int, typer.Option(help="Of text; others follow.", min=4)] = 24,
    recall: Annotated[bool, typer.Option(help="Ask for facts, too.")] = True,
    ablation: Annotated[bool, typer.Option(help="Also chunk sizes, rounds, ablation.")] = False,
    search: Annotated[bool, typer.Option(help="Search for the best CacheGen (slow).")] = False,
) -> None:
    """Bytes against loss on your model: ours, CacheGen and the other rivals."""
    from frontload.kvcache.bench.suite import Plan
    from frontload.kvcache.bench.verb import bench_verb

    bench_verb(
        model,
        text,
        other,
        out,
        name=name,
        rivals=rivals.split(",") if rivals else (),
        plan=Plan.of(contexts, prefix_tokens=prefix_tokens, recall=recall),
        extras=ablation,
        search=search,
    )


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
