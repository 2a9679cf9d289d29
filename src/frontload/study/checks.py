"""What is held against the data before anything is trained: budgets, and leaks.

Both need the packed rows, so they run between preparing the data and the first stage; a study that
cannot be right costs seconds, not hours.
"""

from __future__ import annotations

import numpy as np

from frontload.corpus.filling import prompt_hash
from frontload.corpus.mixture import require_passes
from frontload.corpus.rows import PackedRows
from frontload.evaluate.items import EvaluationItems
from frontload.study.artifacts import ITEMS, Layout, pack_name


def refuse_too_many_passes(layout: Layout) -> None:
    """Hold every stage's budget against what its packs contain.

    Raises:
        ValueError: names the arm, the stage, the source and the remedy.
    """
    for node in layout.plan.nodes.values():
        packs = {s: _rows(layout, s, node.config.supervise) for s in node.config.sources}
        found = {source: rows for source, rows in packs.items() if rows is not None}
        if len(found) < len(packs):
            continue  # the pack failed, which is told by itself
        try:
            require_passes(node.config, found)
        except ValueError as error:
            raise ValueError(f"arms.{node.arms[0]}.{node.config.name}: {error}") from None


def refuse_leaks(layout: Layout) -> None:
    """Hold the prompt of every evaluation item against the prompts of every training source.

    Exact prompts only: rewordings are not found. Texts are kept apart by their source's `holdout`.

    Raises:
        ValueError: names the benchmark, the source, how many prompts they share and the remedy.
    """
    items = layout.artifacts[ITEMS]
    if not items.done:
        return
    by_benchmark: dict[str, list[int]] = {}
    for item in EvaluationItems.load(items.directory).problems:
        by_benchmark.setdefault(item.benchmark, []).append(prompt_hash(item.prompt))
    for source, supervise in layout.plan.packs:
        rows = _rows(layout, source, supervise)
        if rows is None:
            continue
        for benchmark, hashes in by_benchmark.items():
            shared = np.isin(np.array(hashes, np.uint64), rows.prompt_hashes).sum()
            if shared:
                raise ValueError(
                    f"evaluation.benchmarks.{benchmark}: {shared} of {len(hashes)} prompts are "
                    f"also in sources.{source}, which is trained on. Give every source that holds "
                    "these prompts the same `holdout` as the one they are evaluated from"
                )


def _rows(layout: Layout, source: str, supervise: str) -> PackedRows | None:
    pack = layout.artifacts[pack_name(source, supervise)]
    return PackedRows.open(pack.directory / "rows") if pack.done else None
