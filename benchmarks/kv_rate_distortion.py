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

from pathlib import Path
from typing import Annotated

import torch
import typer

from frontload.kvcache.bench.suite import Plan
from frontload.kvcache.bench.verb import bench_verb

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
    bench_verb(
        model,
        text,
        other,
        RESULTS,
        name=name,
        rivals=only.split(",") if only else (),
        plan=Plan.of(contexts, prefix_tokens=prefix, recall=recall),
        extras=ablation,
        search=search,
    )


if __name__ == "__main__":
    typer.run(main)
